package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// clientOf is the address that a built-in application saw its client at.
func clientOf(page string) string {
	for line := range strings.Lines(page) {
		if address, ok := strings.CutPrefix(line, "client: "); ok {
			return address[:max(0, strings.LastIndexByte(address, ':'))]
		}
	}
	return ""
}

// published is where a Service's port is found on the host; like is how the host's address begins.
func (s *story) published(service, like string) string {
	var st struct {
		Published []struct{ Service, Host string }
	}
	if err := json.Unmarshal([]byte(s.quiet("status", "-o", "json").out), &st); err != nil {
		s.claim(false, "status -o json is JSON", err)
		return ""
	}
	for _, p := range st.Published {
		if p.Service == service && strings.Contains(p.Host, like) {
			return p.Host
		}
	}
	return ""
}

func loadBalancer(s *story) {
	s.done(s.kubarium("apply", "--programmed", "-f", s.file("chapters", "load-balancer.yaml")), "a Service of type LoadBalancer")
	s.kubarium("get", "service", "gate", "-n", "prod")
	ip := s.value("get", "service", "gate", "-n", "prod", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	ask := func() string {
		return s.kubarium("shell", "outside", "--", "curl", "-s", "--max-time", "5", "http://"+ip+"/").out
	}
	page := ask()
	s.claim(strings.HasPrefix(page, "pod: enterprise-"), "its own address answers outside of the cluster", page)
	host := s.published("prod/gate:http", ".2.")
	s.printf("$ curl http://%s/\n", host)
	page = s.command("curl", "-s", "--max-time", "5", "http://"+host+"/").out
	s.claim(strings.HasPrefix(page, "pod: enterprise-"), "and on the host, at "+host, page)

	s.say("With externalTrafficPolicy Local only nodes with a pod of their own take part, and the pod sees who asks.")
	outside := strings.Fields(s.quiet("shell", "outside", "--", "ip", "-4", "-br", "address", "show", "eth0").out)
	s.kubarium("patch", "service", "gate", "-n", "prod", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	s.quiet("wait", "--for=programmed", "svc/gate", "-n", "prod")
	page = ask()
	s.claim(len(outside) == 3 && clientOf(page)+"/24" == outside[2], "the client's address is kept: "+clientOf(page), page, outside)

	s.say("With sessionAffinity ClientIP a client stays with one pod.")
	s.kubarium("patch", "service", "ent", "-n", "dev", "-p", `{"spec":{"sessionAffinity":"ClientIP"}}`)
	s.quiet("wait", "--for=programmed", "svc/ent", "-n", "dev")
	pods := map[string]int{}
	for _, one := range s.startLoad("svc/ent", "-n", "dev", "--from", "pod/jump", "--rate", "500", "--for", "200ms", "--by", "pod").finish() {
		for _, g := range one.Shares {
			if g.Requests > 0 {
				pods[g.Group] += g.Requests
			}
		}
	}
	s.claim(len(pods) == 1, fmt.Sprintf("all requests went to one pod: %v", pods))
	s.quiet("patch", "service", "ent", "-n", "dev", "-p", `{"spec":{"sessionAffinity":"None"}}`)
}

func policy(s *story) {
	ask := func() result { return s.inJump("curl", "-s", "-S", "--max-time", "0.5", "http://voy.prod/") }
	s.done(s.kubarium("apply", "--programmed", "-f", s.file("chapters", "policy.yaml")), "a NetworkPolicy: voyager is for pods of prod alone")
	r := ask()
	s.claim(r.code == 28, "a pod in dev waits in vain", r.code, r.out)
	pod := s.fields("get", "pods", "-n", "prod", "-l", "app=enterprise", "-o", "jsonpath={.items[*].metadata.name}")[0]
	r = s.kubarium("exec", "-n", "prod", pod, "--", "curl", "-s", "--max-time", "5", "http://voy/")
	s.claim(strings.HasPrefix(r.out, "pod: voyager-"), "a pod in prod gets its answer", r.out)
	s.kubarium("delete", "networkpolicy", "among-ourselves", "-n", "prod")
	s.quiet("wait", "--for=programmed", "--all")
	r = ask()
	s.claim(strings.HasPrefix(r.out, "pod: voyager-"), "without it, all are let in again", r.out)
}
