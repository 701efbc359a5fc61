// Command demo tells kubarium's story: it types the commands a newcomer would type, shows what they really print, and checks
// each claim. It exits 0 only if every claim held.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	bin := flag.String("bin", "bin/kubarium", "the program")
	data := flag.String("testdata", "testdata", "the folder of manifests")
	flag.Parse()
	if err := run(*bin, *data); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run tells the whole story in a state folder of its own, and takes the cluster down whatever happened.
func run(bin, data string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kubarium-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &story{bin: bin, data: data, dir: dir, began: time.Now(), env: append(os.Environ(),
		"XDG_STATE_HOME="+dir, "KUBARIUM_NAME=demo", "CI=true", "NO_COLOR=1")}
	before := hostState()
	s.boot()
	for i, c := range chapters {
		if s.broken() {
			break
		}
		s.title(fmt.Sprintf("%d. %s", i+1, c.title))
		c.tell(s)
	}
	s.end(before)
	return s.verdict()
}

// chapters is the story, in order.
var chapters = []struct {
	title string
	tell  func(*story)
}{
	{"Namespaces, and what an API server refuses", namespaces},
	{"A Service has a fixed address, name and port", clusterIP},
	{"Pods come and go, the Service stays", replacement},
	{"NodePort: in from outside", nodePort},
	{"A load balancer's address, the client's address, one pod for one client", loadBalancer},
	{"Headless: the pods' own names", headless},
	{"Variables or names: what depends on the order", variables},
	{"A node dies", powerOff},
	{"Namespaces do not isolate traffic", isolation},
	{"A NetworkPolicy does", policy},
	{"Canary: labels and selectors move traffic", canary},
	{"A rolling update, and its undo", rolling},
	{"The node's pods have moved", moved},
	{"Ingress: hosts and paths", ingress},
	{"A client of one's own, and a user who may not do everything", ownClient},
	{"A quota", quota},
	{"Broken manifests change nothing", brokenManifests},
}
