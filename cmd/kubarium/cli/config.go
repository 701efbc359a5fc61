package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"kubarium.dev/cluster"
)

// configTemplate is what `config init` prints: every field, with its default or an example.
const configTemplate = `# The configuration of a kubarium cluster: kubarium up --config FILE. Unknown fields are errors; all are optional.
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
nodes:                          # by default two, n1 and n2
  - {name: n1, zone: east}
  - {name: n2, zone: west, labels: {disk: ssd}}
clusterDomain: cluster.local
networks:                       # they exist in the cluster's own network namespaces only
  pods: 10.244.0.0/16           # node N has the N-th /24 of it
  services: 10.96.0.0/16
  dns: 10.96.0.10
  nodes: 172.30.0.0/24
  loadBalancers: 172.31.0.0/24
dns:
  ttl: 5s                       # how long clients may remember a name, or that it is missing: 0s to 1h
  pods: verified                # names of pods, 10-244-1-7.default.pod.cluster.local; insecure: whatever spells an address; off
  autopath: false               # true: DNS goes through the search path in the pods' stead
  # upstream: [9.9.9.9]         # who is asked for names outside; by default the servers of the host's /etc/resolv.conf; none: nobody
  stubDomains: {}               # and for those of some domains, {corp.example: [10.0.0.53]}
  hosts: {}                     # fixed names, {printer.office: [192.0.2.9]}
images:                         # these stand for programs of the host; without a command for the built-in application
  - {image: "busybox:*", command: [sleep, infinity]}
terminationOrder: programmed    # kubernetes: SIGTERM at once, whether or not rulesets still lead to the pod
nodeGrace: 40s                  # a node that says nothing for so long is lost; 2s shows a failover without the wait
nodePortAddresses: []           # who answers on NodePorts: [primary], or ranges such as 172.30.0.0/24
hostPaths: []                   # folders of the host that hostPath volumes may show
`

func (a *app) configCommand() *cobra.Command {
	const usage = "kubarium config init | view | validate FILE"
	return group("config", "The cluster's configuration file", usage,
		&cobra.Command{
			Use: "init", Short: "Print a configuration with every field", Args: args(0, "kubarium config init > FILE"),
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprint(a.out, configTemplate)
				return err
			},
		},
		&cobra.Command{
			Use: "validate FILE", Short: "Check a configuration without starting anything", Args: args(1, "kubarium config validate FILE"),
			RunE: func(_ *cobra.Command, words []string) error { return a.validateConfig(words[0]) },
		},
		&cobra.Command{
			Use: "view", Short: "Print the running cluster's configuration, defaults filled in", Args: args(0, "kubarium config view"),
			RunE: func(cmd *cobra.Command, _ []string) error { return a.viewConfig(cmd) },
		},
	)
}

func (a *app) validateConfig(path string) error {
	c, err := cluster.ReadConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return failf(exitNotFound, "make one: kubarium config init > "+path, "the file %q does not exist", path)
	}
	if err == nil {
		_, err = cluster.Options{StateDir: os.TempDir(), Config: c}.WithDefaults()
	}
	if err != nil {
		return failf(exitFailed, "see: kubarium config init", "%v", err)
	}
	fmt.Fprintf(a.out, "%s is a good configuration\n", path)
	return nil
}

func (a *app) viewConfig(cmd *cobra.Command) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	var c cluster.Config
	if err := cl.get(cmd.Context(), "/kubarium/v1/config", &c); err != nil {
		return err
	}
	return a.show("yaml", shown{value: c})
}
