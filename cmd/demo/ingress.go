package main

import (
	"strings"
)

// ingress asks through the ingress, from the host: the first published address of it.
func ingress(s *story) {
	at := s.published("the ingress:http", "")
	s.kubarium("get", "ingress", "-n", "prod")
	get := func(host, path string) string {
		words := []string{"-s", "--max-time", "5", "-H", "Host: " + host, "http://" + at + path}
		s.printf("$ curl %s\n", quote(words))
		out := s.command("curl", words...).out
		s.show(strings.SplitN(out, "\n", 2)[0])
		return out
	}
	for _, one := range []struct{ host, path, pod string }{
		{"www.example.com", "/", "shop-"}, {"www.example.com", "/voy/today", "voyager-"}, {"ent.example.com", "/", "enterprise-"},
	} {
		out := get(one.host, one.path)
		s.claim(strings.HasPrefix(out, "pod: "+one.pod), one.host+one.path+" leads to a pod of "+strings.TrimSuffix(one.pod, "-"), out)
	}
	s.kubarium("patch", "ingress", "site", "-n", "prod", "--type=json", "-p", `[{"op":"replace","path":"/spec/rules/0/http/paths/1/backend/service/name","value":"ent"}]`)
	s.done(s.quiet("wait", "--for=programmed", "--all"), "programmed")
	out := get("www.example.com", "/voy/today")
	s.claim(strings.HasPrefix(out, "pod: enterprise-"), "the change is in effect at once", out)

	s.say("A canary by weight: half of the requests for one host go to another Service.")
	s.kubarium("apply", "--programmed", "-f", s.file("chapters", "canary-ingress.yaml"))
	counts := map[string]int{}
	for range 40 {
		out := s.command("curl", "-s", "--max-time", "5", "-H", "Host: ent.example.com", "http://"+at+"/").out
		app, _, _ := strings.Cut(strings.TrimPrefix(out, "pod: "), "-")
		counts[app]++
	}
	s.printf("   of 40 requests: %v\n", counts)
	// Four standard deviations of 40 throws of a coin.
	s.claim(counts["shop"] > 7 && counts["shop"] < 33 && counts["shop"]+counts["enterprise"] == 40, "about half of them", counts)
}
