package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ownClient works past kubarium's own command line: with an installed kubectl if there is one, and with curl, which the demo needs
// anyway, so that it is another program in any case.
func ownClient(s *story) {
	file := filepath.Join(s.dir, "admin.kubeconfig")
	s.done(s.kubarium("kubeconfig", "--export", file), "the kubeconfig is written")
	if path, err := exec.LookPath("kubectl"); err == nil {
		s.printf("$ kubectl --kubeconfig admin.kubeconfig get services -n dev\n")
		r := s.command(path, "--kubeconfig", file, "get", "services", "-n", "dev")
		s.show(r.out)
		s.claim(r.code == 0 && strings.Contains(r.out, "ent "), "an installed kubectl works with it", r.out)
	} else {
		s.say("No kubectl is installed here; curl shows the same API.")
	}
	server, words := s.credentials(file)
	s.printf("$ curl --cacert ca --cert admin.crt --key admin.key %s/api/v1/namespaces/dev/services/ent\n", server)
	r := s.command("curl", append(words, server+"/api/v1/namespaces/dev/services/ent")...)
	s.show(r.out)
	s.claim(strings.Contains(r.out, `"kind":"Service"`), "any client with the kubeconfig's certificate reaches the API", r.out)

	mia := filepath.Join(s.dir, "mia.kubeconfig")
	s.done(s.kubarium("kubeconfig", "--user", "mia", "-n", "dev", "--role", "view", "--export", mia), "mia may look at dev, and nothing else")
	r = s.kubarium("kubectl", "--kubeconfig", mia, "get", "services", "-n", "dev")
	s.claim(r.code == 0, "she sees dev", r.out)
	r = s.kubarium("kubectl", "--kubeconfig", mia, "get", "services", "-n", "prod")
	s.claim(r.code != 0 && strings.Contains(r.out, `services is forbidden: User "mia" cannot list resource "services" in API group "" in the namespace "prod"`),
		"and not prod", r.out)
}

// credentials unpacks a kubeconfig into the server's URL and curl's flags.
func (s *story) credentials(file string) (server string, curl []string) {
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     string `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Cert string `json:"client-certificate-data"`
				Key  string `json:"client-key-data"`
			}
		}
	}
	out := s.quiet("kubectl", "--kubeconfig", file, "config", "view", "--raw", "-o", "json").out
	if err := json.Unmarshal([]byte(out), &config); err != nil || len(config.Clusters) == 0 || len(config.Users) == 0 {
		s.claim(false, "the kubeconfig can be read", out)
		return "", nil
	}
	curl = []string{"-s", "--max-time", "5"}
	for _, one := range []struct{ flag, data string }{
		{"--cacert", config.Clusters[0].Cluster.CA}, {"--cert", config.Users[0].User.Cert}, {"--key", config.Users[0].User.Key},
	} {
		path := filepath.Join(s.dir, strings.TrimPrefix(one.flag, "--")+".pem")
		raw, err := base64.StdEncoding.DecodeString(one.data)
		if err == nil {
			err = os.WriteFile(path, raw, 0o600)
		}
		if err != nil {
			s.claim(false, "the kubeconfig holds certificates", err)
		}
		curl = append(curl, one.flag, path)
	}
	return config.Clusters[0].Cluster.Server, curl
}

func quota(s *story) {
	s.kubarium("create", "namespace", "lab")
	s.kubarium("create", "quota", "two-pods", "--hard=pods=2", "-n", "lab")
	for _, name := range []string{"first", "second"} {
		s.quiet("run", name, "-n", "lab", "--image=box:1.0")
	}
	r := s.kubarium("run", "third", "-n", "lab", "--image=box:1.0")
	s.claim(r.code != 0 && strings.Contains(r.out, "exceeded quota: two-pods, requested: pods=1, used: pods=2, limited: pods=2"), "the pod over the limit is refused", r.out)
	s.quiet("delete", "quota", "two-pods", "-n", "lab")
}

func brokenManifests(s *story) {
	revision := func() string {
		return s.value("get", "services,configmaps,deployments", "-A", "-o", "jsonpath={.items[*].metadata.resourceVersion}")
	}
	before := revision()
	mistakes := []struct{ file, want, sentence string }{
		{"typo.yaml", "typo.yaml:6", "a typo in a field is told with file and line"},
		{"unknown-namespace.yaml", "unknown-namespace.yaml:5", "an unknown namespace"},
		{"wrong-type.yaml", "wrong-type.yaml:9: spec.ports[0].port: expected an integer", "a word where a number is due"},
		{"missing-field.yaml", "missing-field.yaml:5: spec.selector: Required value", "a missing field"},
		{"nodeport-range.yaml", "nodeport-range.yaml:11", "a NodePort out of range"},
		{"nodeport-taken.yaml", "nodeport-taken.yaml:11", "a NodePort that is taken"},
		{"immutable.yaml", "may not change once set", "a field that never changes"},
		{"stale.yaml", "stale.yaml:6: metadata.resourceVersion: Operation cannot be fulfilled", "a write that is based on an old version"},
	}
	words := []string{"apply"}
	for _, m := range mistakes {
		words = append(words, "-f", s.file("broken", m.file))
	}
	r := s.kubarium(words...)
	for _, m := range mistakes {
		s.claim(r.code != 0 && strings.Contains(r.out, m.want), m.sentence, r.out)
	}
	s.claim(revision() == before, "nothing was changed by them")
	r = s.kubarium("apply", "-f", s.file("broken", "no-match.yaml"))
	s.claim(r.code == 0 && strings.Contains(r.out, "no-match.yaml:7") && strings.Contains(r.out, "matches no pod"), "a selector that matches nothing is accepted, with a warning that says what is odd", r.out)
}
