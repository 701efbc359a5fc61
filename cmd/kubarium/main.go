// Command kubarium is a Kubernetes network in one binary; see kubarium help.
package main

import (
	"os"

	"kubarium.dev/cmd/kubarium/cli"
	_ "kubarium.dev/cmd/kubarium/cli/locale" // kubectl's translations are read by those who need them
	_ "kubarium.dev/node/podinit"            // a pod's first process is this program too: it begins, and ends, in that package
)

func main() { os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
