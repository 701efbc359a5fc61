package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const defaultWait = 30 * time.Second

// waitProgrammed answers `wait --for=programmed`; any other condition is kubectl's.
func (a *app) waitProgrammed(ctx context.Context, st state, words []string) (done bool, err error) {
	if !wantsProgrammed(words) {
		return false, nil
	}
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait", SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, targets []string) error {
			if err := a.mustExist(ctx, st, cmd, targets); err != nil {
				return err
			}
			if err := st.programmed(ctx, timeout); err != nil {
				return err
			}
			fmt.Fprintln(a.out, "programmed")
			return nil
		},
	}
	f := c.Flags()
	f.String("for", "", "")
	f.Bool("all", false, "")
	f.StringP("namespace", "n", "", "")
	f.StringSliceP("filename", "f", nil, "")
	f.DurationVar(&timeout, "timeout", defaultWait, "")
	c.SetArgs(words)
	err = c.ExecuteContext(ctx)
	var flt *fault
	if err != nil && strings.HasPrefix(err.Error(), "unknown") && !errors.As(err, &flt) {
		err = failf(exitUsage, "usage: kubarium wait --for=programmed [TYPE/NAME | -f FILE | --all] [-n NAMESPACE] [--timeout 30s]", "%v", err)
	}
	return true, err
}

func wantsProgrammed(words []string) bool {
	for i, w := range words {
		if w == "--for=programmed" || w == "--for" && i+1 < len(words) && words[i+1] == "programmed" {
			return true
		}
	}
	return false
}

// mustExist asks kubectl for what is waited for: the barrier covers everything written so far, but a name that does not exist
// is a mistake worth telling.
func (a *app) mustExist(_ context.Context, st state, cmd *cobra.Command, targets []string) error {
	words := append([]string{"get", "-o", "name"}, targets...)
	files, _ := cmd.Flags().GetStringSlice("filename")
	if len(targets) == 0 && len(files) == 0 {
		return nil
	}
	for _, f := range files {
		words = append(words, "-f", f)
	}
	if ns, _ := cmd.Flags().GetString("namespace"); ns != "" {
		words = append(words, "-n", ns)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	quiet := *a
	quiet.out = null
	if err := quiet.runKubectl(st, words); err != nil {
		return silent(exitNotFound)
	}
	return nil
}

// programmed returns when everything written up to now is in effect.
func (s state) programmed(ctx context.Context, timeout time.Duration) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	path := "/kubarium/v1/programmed?timeout=" + url.QueryEscape(timeout.String())
	body, err := c.do(ctx, http.MethodPost, path, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		return failf(exitTimeout, "see what is late: "+s.command("status"), "not programmed within %v", timeout)
	}
	if err != nil {
		return err
	}
	return body.Close()
}
