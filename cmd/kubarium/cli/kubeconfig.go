package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func (a *app) kubeconfigCommand() *cobra.Command {
	var export string
	c := &cobra.Command{
		Use: "kubeconfig", Short: "Print the cluster's kubeconfig, or write it to a file", Args: args(0, "kubarium kubeconfig [--export FILE]"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := newState(a.name)
			if err != nil {
				return err
			}
			if _, err := st.mustRun(); err != nil {
				return err
			}
			raw, err := os.ReadFile(st.file("kubeconfig"))
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
	c.Flags().StringVar(&export, "export", "", "write it to this file (mode 0600) instead of stdout")
	return c
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
