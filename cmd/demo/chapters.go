package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

func namespaces(s *story) {
	r := s.kubarium("get", "namespaces")
	all := true
	for _, ns := range []string{"default", "kube-node-lease", "kube-public", "kube-system"} {
		all = all && strings.Contains(r.out, ns)
	}
	s.claim(all, "four namespaces are there from the start", r.out)
	s.done(s.kubarium("apply", "-f", s.file("seed", "namespace-dev.yaml"), "-f", s.file("manifests", "01-namespaces.yaml")), "dev and prod are made")

	s.say("The text's own fragments: Kubernetes refuses them, and so does kubarium.")
	r = s.kubarium("apply", "-f", s.file("seed", "deployment-fragment.yaml"))
	s.claim(r.code != 0 && strings.Contains(r.out, `no matches for kind "Deployment" in version "v1"`) && strings.Contains(r.out, "Deployment lives in apps/v1"),
		"a Deployment in v1 is refused, with one line of help", r.out)
	r = s.kubarium("apply", "-f", s.file("seed", "pod-fragment.yaml"))
	s.claim(r.code != 0 && strings.Contains(r.out, "spec.containers: Required value"), "a Pod without containers is refused", r.out)

	s.say("Completed, they are accepted.")
	s.done(s.kubarium("apply", "--programmed", "-f", s.file("manifests"), "-f", s.file("seed", "service.yaml"), "-f", s.file("seed", "service-nodeport.yaml")), "all manifests are accepted")
	spaces := []string{"dev", "prod", "default"}
	ready := make([]result, len(spaces))
	var waits sync.WaitGroup // kubectl waits for one object after the other
	for i, ns := range spaces {
		waits.Go(func() {
			ready[i] = s.quiet("wait", "--for=condition=Available", "deployment", "--all", "-n", ns, "--timeout=10s")
		})
	}
	waits.Wait()
	for i, ns := range spaces {
		s.done(ready[i], "every Deployment in "+ns+" is Available")
	}
	s.done(s.quiet("wait", "--for=condition=Ready", "pod/jump", "-n", "dev", "--timeout=10s"), "the pod jump is Ready")
	s.kubarium("get", "pods,services", "-n", "dev", "-o", "wide")
}

// inJump runs a command in the pod jump.
func (s *story) inJump(words ...string) result {
	return s.kubarium(append([]string{"exec", "-n", "dev", "jump", "--"}, words...)...)
}

func clusterIP(s *story) {
	r := s.inJump("cat", "/etc/resolv.conf")
	s.claim(strings.Contains(r.out, "nameserver 10.96.0.10") && strings.Contains(r.out, "search dev.svc.cluster.local svc.cluster.local cluster.local"),
		"the search path and the fixed DNS address stand in resolv.conf", r.out)
	r = s.inJump("curl", "-s", "http://ent")
	s.claim(strings.Contains(r.out, "namespace: dev"), "http://ent reaches dev's", r.out)
	r = s.inJump("curl", "-s", "http://ent.prod.svc.cluster.local")
	s.claim(strings.Contains(r.out, "namespace: prod"), "http://ent.prod.svc.cluster.local reaches prod's", r.out)

	r = s.inJump("getent", "hosts", "ent")
	s.claim(strings.Contains(r.out, s.value("get", "service", "ent", "-n", "dev", "-o", "jsonpath={.spec.clusterIP}")), "the name leads to the Service's own address", r.out)

	s.say("Connections spread over all ready pods.")
	l := s.startLoad("svc/ent", "-n", "dev", "--from", "pod/jump", "--rate", "1000", "--for", "200ms", "--by", "pod")
	even(s, l.finish(), 3)

	r = s.inJump("bash", "-c", "exec 3<>/dev/udp/ent/5353 && echo hello >&3 && head -n 1 <&3") // dash has no /dev/udp
	s.claim(strings.Contains(r.out, "hello"), "UDP works through the same Service", r.out)
	s.kubarium("why", "svc/ent", "-n", "dev")
}

// even claims that a load reached n pods about evenly.
func even(s *story, all []sample, n int) {
	counts := map[string]int{}
	total := 0
	for _, one := range all {
		for _, g := range one.Shares {
			counts[g.Group] += g.Requests
			total += g.Requests
		}
	}
	ok := len(counts) == n
	for pod, c := range counts {
		s.printf("   %-32s %d of %d\n", pod, c, total)
		ok = ok && c > total/n/2 && c < total*2/n
	}
	s.claim(ok, fmt.Sprintf("requests spread over all %d pods", n), counts)
}

func replacement(s *story) {
	ip := s.value("get", "service", "ent", "-n", "dev", "-o", "jsonpath={.spec.clusterIP}")
	before := s.fields("get", "pods", "-n", "dev", "-l", "app=enterprise", "-o", "jsonpath={.items[*].status.podIP}")
	fresh := s.startLoad("svc/ent", "-n", "dev", "--rate", "200", "--every", "100ms")
	kept := s.startLoad("svc/ent", "-n", "dev", "--rate", "200", "--every", "100ms", "--keep-alive")
	fresh.begun()
	kept.begun()
	for _, change := range [][]string{
		{"rollout", "restart", "deployment/enterprise", "-n", "dev"},
		{"scale", "deployment/enterprise", "-n", "dev", "--replicas=6"},
		{"scale", "deployment/enterprise", "-n", "dev", "--replicas=2"},
	} {
		s.kubarium(change...)
		s.quiet("rollout", "status", "deployment/enterprise", "-n", "dev", "--timeout=20s")
	}
	s.quiet("wait", "--for=programmed", "--all")
	s.lost(fresh, "no request was lost, each on a connection of its own")
	s.lost(kept, "no request was lost on kept-alive connections")
	after := s.fields("get", "pods", "-n", "dev", "-l", "app=enterprise", "-o", "jsonpath={.items[*].status.podIP}")
	s.printf("   pod addresses before: %v\n   pod addresses now:    %v\n", before, after)
	s.claim(!slices.ContainsFunc(after, func(ip string) bool { return slices.Contains(before, ip) }), "the pods' addresses changed")
	s.claim(s.value("get", "service", "ent", "-n", "dev", "-o", "jsonpath={.spec.clusterIP}") == ip, "the Service's address did not: "+ip)
	readiness(s)
}

func readiness(s *story) {
	s.say("A pod that is not ready gets nothing, and comes back when it is.")
	pod := s.fields("get", "pods", "-n", "dev", "-l", "app=enterprise", "-o", "jsonpath={.items[*].metadata.name}")[0]
	s.quiet("exec", "-n", "dev", pod, "--", "curl", "-s", "-X", "POST", "http://127.0.0.1/readyz?ready=false")
	s.done(s.kubarium("wait", "--for=condition=Ready=false", "pod/"+pod, "-n", "dev", "--timeout=10s"), "its probe fails")
	s.done(s.kubarium("wait", "--for=programmed", "svc/ent", "-n", "dev"), "every node's ruleset knows")
	r := s.kubarium("why", "svc/ent", "-n", "dev")
	s.claim(strings.Contains(r.out, "not ready"), "why says so", r.out)
	s.kubarium("get", "endpoints,endpointslices", "-n", "dev")
	slices := s.value("get", "endpointslices", "-n", "dev", "-l", "kubernetes.io/service-name=ent", "-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==false)].targetRef.name}")
	s.claim(slices == pod, "the EndpointSlice says ready: false", slices)
	l := s.startLoad("svc/ent", "-n", "dev", "--rate", "600", "--for", "150ms", "--by", "pod")
	got := 0
	for _, one := range l.finish() {
		for _, g := range one.Shares {
			if g.Group == pod {
				got += g.Requests
			}
		}
	}
	s.claim(got == 0, "it gets no request", got)
	s.quiet("exec", "-n", "dev", pod, "--", "curl", "-s", "-X", "POST", "http://127.0.0.1/readyz?ready=true")
	s.done(s.kubarium("wait", "--for=condition=Ready", "pod/"+pod, "-n", "dev", "--timeout=10s"), "it is ready again")
	s.done(s.quiet("wait", "--for=programmed", "svc/ent", "-n", "dev"), "and in every ruleset")
	even(s, s.startLoad("svc/ent", "-n", "dev", "--rate", "1000", "--for", "200ms", "--by", "pod").finish(), 2)
}

// statusNodes is the part of `kubarium status -o json` the story needs.
type statusNodes struct {
	Nodes []struct{ Name, Address, Loopback string }
}

func nodePort(s *story) {
	var st statusNodes
	if err := json.Unmarshal([]byte(s.quiet("status", "-o", "json").out), &st); err != nil {
		s.claim(false, "status -o json is JSON", err)
		return
	}
	r := s.kubarium("get", "pods", "-l", "app=ngx", "-n", "default", "-o", "wide")
	s.claim(strings.Contains(r.out, "ngx-"), "a Deployment without a namespace landed in default", r.out)
	for _, n := range st.Nodes {
		r := s.kubarium("shell", "outside", "--", "curl", "-s", "--max-time", "5", "http://"+n.Address+":30080/")
		s.claim(strings.Contains(r.out, "pod: ngx-"), "port 30080 answers on node "+n.Name+" from outside", r.out)
	}
	for _, n := range st.Nodes {
		s.printf("$ curl http://%s:30080/\n", n.Loopback)
		r := s.command("curl", "-s", "--max-time", "5", "http://"+n.Loopback+":30080/")
		s.show(strings.SplitN(r.out, "\n", 2)[0])
		s.claim(strings.Contains(r.out, "pod: ngx-"), "and from the host through "+n.Loopback, r.out)
	}
	s.kubarium("status")
}

func headless(s *story) {
	crew := s.fields("get", "pods", "-n", "dev", "-l", "app=voyager", "-o", "jsonpath={.items[*].status.podIP} {.items[*].metadata.name}")
	if len(crew) != 4 {
		s.claim(false, "voyager has two pods with addresses", crew)
		return
	}
	want, pod := crew[:2], crew[2]
	r := s.inJump("getent", "ahostsv4", "crew")
	ok := true
	for _, ip := range want {
		ok = ok && strings.Contains(r.out, ip)
	}
	s.claim(ok, "a headless Service answers with the pods' addresses", r.out, want)
	r = s.inJump("getent", "ahostsv4", pod+".crew.dev.svc.cluster.local")
	s.claim(strings.Contains(r.out, want[0]) && !strings.Contains(r.out, want[1]), "podname.servicename.namespace.svc.cluster.local answers with one pod", r.out)
}

func isolation(s *story) {
	ip := s.fields("get", "pods", "-n", "prod", "-l", "app=enterprise", "-o", "jsonpath={.items[*].status.podIP}")[0]
	r := s.inJump("curl", "-s", "--max-time", "5", "http://"+ip+"/")
	s.claim(strings.Contains(r.out, "namespace: prod"), "a pod in dev reaches a pod in prod by its address", r.out)
	r = s.inJump("curl", "-s", "--max-time", "5", "http://voy.prod/")
	s.claim(strings.Contains(r.out, "namespace: prod"), "and a Service in prod by its name", r.out)
}

// split claims what share of the traffic a version gets, expected and observed.
func split(s *story, all []sample, version string, want float64) {
	requests, total, expected := 0, 0, 0.0
	for _, one := range all {
		for _, g := range one.Shares {
			total += g.Requests
			if g.Group == version {
				requests += g.Requests
				expected = g.Expected
			}
		}
	}
	observed := 0.0
	if total > 0 {
		observed = float64(requests) / float64(total)
	}
	// Four standard deviations of a binomial share.
	near := observed > want-0.14 && observed < want+0.14
	if want == 0 || want == 1 {
		near = observed == want
	}
	s.claim(total > 0 && near && expected > want-0.01 && expected < want+0.01,
		fmt.Sprintf("%s: expected %.0f %%, observed %.1f %% of %d requests", version, 100*expected, 100*observed, total), "wanted ", want)
}

func canary(s *story) {
	watch := func() []sample {
		s.done(s.quiet("wait", "--for=programmed", "svc/shop", "-n", "prod"), "programmed")
		return s.startLoad("svc/shop", "-n", "prod", "--rate", "1000", "--for", "200ms").finish()
	}
	s.kubarium("traffic", "svc/shop", "-n", "prod", "--rate", "200", "--for", "250ms")
	split(s, watch(), "v2", 0)
	l := s.startLoad("svc/shop", "-n", "prod", "--rate", "200", "--every", "100ms", "--from", "node/n2")
	l.begun()
	s.kubarium("label", "pods", "-n", "prod", "-l", "app=shop,version=v2", "track=stable")
	split(s, watch(), "v2", 0.25)
	s.kubarium("patch", "service", "shop", "-n", "prod", "--type=json", "-p", `[{"op":"replace","path":"/spec/selector","value":{"app":"shop","version":"v2"}}]`)
	split(s, watch(), "v2", 1)
	s.kubarium("patch", "service", "shop", "-n", "prod", "--type=json", "-p", `[{"op":"replace","path":"/spec/selector","value":{"app":"shop","version":"v1"}}]`)
	split(s, watch(), "v2", 0)
	all := l.stop()
	var marks []string
	for _, one := range all {
		marks = append(marks, one.Marks...)
	}
	for _, m := range marks {
		s.say("-- " + m)
	}
	if len(all) == 0 {
		s.claim(false, "the split was watched", l.err.String())
		return
	}
	last := all[len(all)-1]
	s.claim(last.Failed == 0 && last.Sent > 100, fmt.Sprintf("no request of %d failed while the traffic moved", last.Sent), last.Failed, " failed: ", last.Failure)
	s.claim(len(marks) >= 3, "each change is marked", marks)
}
