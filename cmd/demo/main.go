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
	s := &story{out: os.Stdout, bin: bin, data: data, dir: dir, began: time.Now(), env: append(os.Environ(),
		"XDG_STATE_HOME="+dir, "KUBARIUM_NAME=demo", "CI=true", "NO_COLOR=1")}
	before := hostState()
	s.boot()
	if !s.fatal {
		s.tell()
	}
	s.end(before)
	return s.verdict()
}

// tell tells the chapters in order. Those that have nothing to do with the others are lived beside them, one after the other.
func (s *story) tell() {
	lived := make([]chan *story, len(chapters))
	beside := func() {
		for i, c := range chapters {
			if c.beside {
				part := s.apart()
				c.tell(part)
				lived[i] <- part
			}
		}
	}
	for i := range lived {
		lived[i] = make(chan *story, 1)
	}
	for i, c := range chapters {
		s.title(fmt.Sprintf("%d. %s", i+1, c.title))
		if c.beside {
			s.rejoin(<-lived[i])
		} else {
			c.tell(s)
		}
		if i == 0 {
			go beside()
		}
	}
}

// chapters is the story, in order.
var chapters = []struct {
	title  string
	tell   func(*story)
	beside bool // in a namespace or a cluster of its own
}{
	{"Namespaces, and what an API server refuses", namespaces, false},
	{"A Service has a fixed address, name and port", clusterIP, false},
	{"Pods come and go, the Service stays", replacement, false},
	{"NodePort: in from outside", nodePort, false},
	{"A load balancer's address, the client's address, one pod for one client", loadBalancer, false},
	{"Headless: the pods' own names", headless, false},
	{"Variables or names: what depends on the order", variables, true},
	{"A node dies", powerOff, true},
	{"Namespaces do not isolate traffic", isolation, false},
	{"A NetworkPolicy does", policy, false},
	{"Canary: labels and selectors move traffic", canary, false},
	{"A rolling update, and its undo", rolling, false},
	{"The node's pods have moved", moved, true},
	{"Ingress: hosts and paths", ingress, false},
	{"A client of one's own, and a user who may not do everything", ownClient, true},
	{"A quota", quota, true},
	{"Broken manifests change nothing", brokenManifests, false},
}
