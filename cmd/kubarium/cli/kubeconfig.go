package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func (a *app) kubeconfigCommand() *cobra.Command {
	var export, user, role, namespace string
	c := &cobra.Command{
		Use: "kubeconfig", Args: args(0, "kubarium kubeconfig [--user NAME [--role ROLE] [-n NAMESPACE]] [--export FILE]"),
		Short: "Print the administrator's kubeconfig, or one for a user of one namespace, or write it to a file",
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := newState(a.name)
			if err != nil {
				return err
			}
			if _, err := st.mustRun(); err != nil {
				return err
			}
			raw, err := os.ReadFile(st.file("kubeconfig"))
			if user != "" {
				raw, err = a.kubeconfigFor(cmd.Context(), namespace, url.Values{"user": {user}, "role": {role}})
			}
			if err != nil {
				return err
			}
			if export != "" {
				return os.WriteFile(export, raw, 0o600)
			}
			_, err = a.out.Write(raw)
			return err
		},
	}
	fl := c.Flags()
	fl.StringVar(&export, "export", "", "write it to this file (mode 0600) instead of stdout")
	fl.StringVar(&user, "user", "", "for this user, who may only act in one namespace")
	fl.StringVar(&role, "role", "edit", "the user's ClusterRole in the namespace: view, edit, admin or one of your own")
	fl.StringVarP(&namespace, "namespace", "n", "default", "the user's namespace")
	return c
}

func (a *app) kubeconfigFor(ctx context.Context, namespace string, q url.Values) ([]byte, error) {
	cl, err := a.client()
	if err != nil {
		return nil, err
	}
	body, err := cl.do(ctx, http.MethodPost, "/kubarium/v1/namespaces/"+url.PathEscape(namespace)+"/kubeconfig?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// mergeKubeconfig puts the cluster's context into the user's kubeconfig and makes it current, by kubectl's rules and under its
// lock. In CI (CI=true) and with --kubeconfig FILE only that file is written.
func (a *app) mergeKubeconfig(st state) (told string, err error) {
	if a.kubeconfigFile != "" {
		raw, err := os.ReadFile(st.file("kubeconfig"))
		if err != nil {
			return "", err
		}
		return a.kubeconfigFile, os.WriteFile(a.kubeconfigFile, raw, 0o600)
	}
	if ciMode() {
		return st.file("kubeconfig"), nil
	}
	ours, err := clientcmd.LoadFromFile(st.file("kubeconfig"))
	if err != nil {
		return "", err
	}
	access := clientcmd.NewDefaultPathOptions()
	theirs, err := access.GetStartingConfig()
	if err != nil {
		return "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	name := st.context()
	theirs.Clusters[name] = ours.Clusters[name]
	theirs.AuthInfos[name] = ours.AuthInfos[name]
	theirs.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	theirs.CurrentContext = name
	return access.GetDefaultFilename(), clientcmd.ModifyConfig(access, *theirs, true)
}

// unmergeKubeconfig takes the cluster's context out again.
func (a *app) unmergeKubeconfig(st state) error {
	if a.kubeconfigFile != "" {
		err := os.Remove(a.kubeconfigFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if ciMode() {
		return nil
	}
	access := clientcmd.NewDefaultPathOptions()
	theirs, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	name := st.context()
	if theirs.Contexts[name] == nil && theirs.Clusters[name] == nil {
		return nil
	}
	delete(theirs.Clusters, name)
	delete(theirs.AuthInfos, name)
	delete(theirs.Contexts, name)
	if theirs.CurrentContext == name {
		theirs.CurrentContext = ""
	}
	return clientcmd.ModifyConfig(access, *theirs, true)
}

func ciMode() bool { return os.Getenv("CI") == "true" }
