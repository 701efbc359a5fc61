package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
	"kubarium.dev/node/image"
)

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Load images from archives, without a registry", "kubarium image load FILE | list | map",
		&cobra.Command{
			Use: "load FILE", Short: "Load what docker save wrote, or an archive of an OCI layout; - is standard input",
			Args: args(1, "kubarium image load FILE"),
			RunE: func(cmd *cobra.Command, words []string) error { return a.loadImage(cmd, words[0]) },
		},
		&cobra.Command{
			Use: "list", Short: "List the loaded images", Args: args(0, "kubarium image list"),
			RunE: func(cmd *cobra.Command, _ []string) error { return a.listImages(cmd) },
		},
		a.imageMap(),
	)
}

func (a *app) imageMap() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "map", Short: "List the rules that let images stand for programs of the host (images: in the configuration)",
		Args: args(0, "kubarium image map [-o table|json|yaml|name]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			rules := []cluster.ImageRule{}
			if err := cl.get(cmd.Context(), "/kubarium/v1/images/rules", &rules); err != nil {
				return err
			}
			s := shown{value: rules, table: func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "IMAGE\tSTANDS FOR")
				for _, r := range rules {
					what := "the built-in application"
					if len(r.Command) > 0 {
						what = strings.Join(r.Command, " ")
					}
					fmt.Fprintf(w, "%s\t%s\n", r.Image, what)
				}
			}}
			for _, r := range rules {
				s.names = append(s.names, r.Image)
			}
			return a.show(output, s)
		},
	}
	outputFlag(c.Flags(), &output)
	return c
}

func (a *app) loadImage(cmd *cobra.Command, path string) error {
	from := a.in
	if path != "-" {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return failf(exitNotFound, "give an archive that docker save wrote, or an OCI layout's", "the file %q does not exist", path)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	body, err := c.do(cmd.Context(), http.MethodPost, "/kubarium/v1/images", from)
	if err != nil {
		return err
	}
	defer body.Close()
	var loaded []image.Image
	if err := json.NewDecoder(body).Decode(&loaded); err != nil {
		return err
	}
	for _, i := range loaded {
		fmt.Fprintf(a.out, "loaded %s (%d KiB)\n", strings.Join(i.Names, ", "), i.Size/1024)
	}
	return nil
}

func (a *app) listImages(cmd *cobra.Command) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	var all []image.Image
	if err := c.get(cmd.Context(), "/kubarium/v1/images", &all); err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tSIZE\tLOADED")
	for _, i := range all {
		fmt.Fprintf(w, "%s\t%.19s\t%d KiB\t%s\n", strings.Join(i.Names, ","), i.ID, i.Size/1024, i.Loaded.Format("2006-01-02 15:04"))
	}
	return w.Flush()
}
