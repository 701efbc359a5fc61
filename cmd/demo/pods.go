package main

import (
	"slices"
	"strings"
)

func variables(s *story) {
	const box = "--image=box:1.0"
	s.quiet("create", "namespace", "order")
	s.kubarium("run", "early", "-n", "order", box, "--command", "--", "sleep", "1000")
	s.quiet("wait", "--for=condition=Ready", "pod/early", "-n", "order", "--timeout=10s")
	s.kubarium("create", "service", "clusterip", "till", "-n", "order", "--tcp=80")
	s.kubarium("run", "late", "-n", "order", box, "--command", "--", "sleep", "1000")
	s.quiet("wait", "--for=condition=Ready", "pod/late", "-n", "order", "--timeout=10s")
	ip := s.value("get", "service", "till", "-n", "order", "-o", "jsonpath={.spec.clusterIP}")
	r := s.kubarium("exec", "-n", "order", "late", "--", "printenv", "TILL_SERVICE_HOST")
	s.claim(strings.TrimSpace(r.out) == ip, "a pod made after the Service has its address in a variable", r.out)
	r = s.kubarium("exec", "-n", "order", "early", "--", "printenv", "TILL_SERVICE_HOST")
	s.claim(r.code == 1, "one made before has not", r.out)
	r = s.kubarium("exec", "-n", "order", "early", "--", "getent", "hosts", "till")
	s.claim(strings.Contains(r.out, ip), "the name leads both there, in whatever order they were made: do not rely on the variables", r.out)
}

func rolling(s *story) {
	image := func() string {
		return s.value("get", "deployment", "voyager", "-n", "prod", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	}
	l := s.startLoad("svc/voy", "-n", "prod", "--rate", "200", "--every", "100ms")
	l.begun()
	s.kubarium("set", "image", "deployment/voyager", "web=voyager:2.0", "-n", "prod")
	s.kubarium("rollout", "status", "deployment/voyager", "-n", "prod", "--timeout=10s")
	s.claim(image() == "voyager:2.0", "version 2.0 runs", image())
	s.kubarium("rollout", "history", "deployment/voyager", "-n", "prod")
	s.kubarium("rollout", "undo", "deployment/voyager", "-n", "prod")
	s.quiet("rollout", "status", "deployment/voyager", "-n", "prod", "--timeout=10s")
	s.claim(image() == "voyager:1.0", "version 1.0 is back", image())
	s.quiet("wait", "--for=programmed", "svc/voy", "-n", "prod")
	s.lost(l, "no request was lost on either way")
}

// inSecond makes words that speak to a cluster beside the first one.
func inSecond(words ...string) []string { return append([]string{"--name", "second"}, words...) }

func powerOff(s *story) {
	s.say("A second cluster beside the first, in which two seconds of silence mean that a node is lost, instead of forty.")
	s.done(s.kubarium(inSecond("up", "--config", s.file("chapters", "quick.yaml"), "-f", s.file("chapters", "moving.yaml"))...), "it is up")
	s.done(s.quiet(inSecond("rollout", "status", "deployment/mover", "--timeout=10s")...), "two pods run")
	s.kubarium(inSecond("get", "pods", "-o", "wide")...)
	s.claim(slices.Equal(moverNodes(s), []string{"n1", "n2"}), "one on each node", moverNodes(s))
	s.done(s.kubarium(inSecond("node", "stop", "n2")...), "n2 has no power")
	s.say("Nobody has noticed yet. The story goes on, and comes back to it.")
}

// moverNodes are the nodes of the pods that the Service mover leads to, in order.
func moverNodes(s *story) []string {
	nodes := s.fields(inSecond("get", "endpointslices", "-l", "kubernetes.io/service-name=mover", "-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}")...)
	slices.Sort(nodes)
	return nodes
}

func moved(s *story) {
	s.done(s.kubarium(inSecond("wait", "--for=condition=Ready=Unknown", "node/n2", "--timeout=10s")...), "the control plane has noticed")
	s.done(s.quiet(inSecond("wait", "--for=jsonpath={.status.availableReplicas}=2", "deployment/mover", "--timeout=10s")...), "two pods are available again")
	s.kubarium(inSecond("get", "pods", "-o", "wide")...)
	s.claim(slices.Equal(moverNodes(s), []string{"n1", "n1"}), "both on n1", moverNodes(s))
	l := s.start(inSecond("traffic", "svc/mover", "--rate", "500", "--for", "200ms", "--by", "pod")...)
	even(s, l.finish(), 2)
	s.done(s.quiet(inSecond("down")...), "the second cluster is gone")
}
