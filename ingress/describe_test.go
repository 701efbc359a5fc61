package ingress

import (
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (r *rig) describe(name string) Description {
	r.t.Helper()
	d, ok := r.c.Describe(types.NamespacedName{Namespace: "dev", Name: name})
	if !ok {
		r.t.Fatalf("the ingress does not know %s", name)
	}
	return d
}

// Issue 6: an Ingress's paths are told in the order in which they are compared, with the endpoints that each leads to.
func TestDescribeListsPathsInMatchingOrderWithTheirEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", "127.0.0.1:1001", "127.0.0.1:1002")
	secret, _ := secretFor(t, "cert", "a.example")
	ing := annotate(ingress("web", 0, "a.example Prefix / web", "a.example Prefix /long/path web:http", "a.example Exact /long/path web", "- Prefix / web"),
		"proxy-body-size", "8m", "canary-color", "red")
	ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example"}, SecretName: "cert"}}
	r.apply(ing, secret)
	canary := annotate(ingress("try", 1, "a.example Prefix / canary"), "canary", "true", "canary-weight", "25")
	r.apply(canary)
	d := r.describe("web")
	var got []string
	for _, p := range d.Rules {
		got = append(got, p.Host+" "+p.Kind+" "+p.Path+" "+p.To[0].Backend)
	}
	want := []string{
		"* PathPrefix / dev/web:80", "a.example Exact /long/path dev/web:80", "a.example PathPrefix /long/path dev/web:http", "a.example PathPrefix / dev/web:80",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if at := d.Rules[1].To[0].Endpoints; !slices.Equal(at, []string{"127.0.0.1:1001 dev/web-0", "127.0.0.1:1002 dev/web-1"}) {
		t.Errorf("endpoints: %q", at)
	}
	split := d.Rules[3].To
	if len(split) != 2 || split[0].Share != 0.75 || split[1].Backend != "dev/canary:80" || split[1].Problem != "the Service does not exist" {
		t.Errorf("the share of a canary: %+v", split)
	}
	if len(d.TLS) != 1 || !strings.HasPrefix(d.TLS[0].State, "valid until ") {
		t.Errorf("TLS: %+v", d.TLS)
	}
	if !slices.Equal(d.Annotations, [][2]string{{"proxy-body-size", "8m"}}) {
		t.Errorf("annotations in force: %q", d.Annotations)
	}
	if share := r.describe("try").Rules; len(share) != 1 || !strings.HasSuffix(share[0].Field, " of dev/web") || share[0].To[1].Share != 0.25 {
		t.Errorf("the canary's own way: %+v", share)
	}
}

// Issue 6, I-5, I-27, I-28, I-29, I-47: what is wrong comes with what to do.
func TestDescribeTellsWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", "127.0.0.1:1001")
	r.expose("idle")
	other, _ := secretFor(t, "other", "b.example")
	older := ingress("aged", 0, "a.example Exact /same web")
	older.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"b.example"}, SecretName: "other"}}
	r.apply(older, other)
	mine, _ := secretFor(t, "mine", "b.example")
	bad := annotate(ingress("bad", 1, "a.example Exact /same web", "a.example Prefix /gone wbe", "a.example Prefix /port web:grpc", "a.example Prefix /idle idle"),
		"no-such", "x", "proxy-body-size", "much")
	bad.Spec.TLS = []networkingv1.IngressTLS{
		{Hosts: []string{"a.example"}, SecretName: "missing"}, {Hosts: []string{"b.example"}, SecretName: "mine"}, {Hosts: []string{"c.example"}, SecretName: "mine"},
	}
	foreign := ingress("foreign", 2, "d.example Prefix / web")
	foreign.Spec.IngressClassName = new("unheard")
	r.apply(bad, mine, foreign)
	for name, wanted := range map[string][][2]string{
		"aged": nil,
		"bad": {
			{"Exact /same of host a.example takes no request: spec.rules[0].http.paths[0] of Ingress dev/aged", "another path"},
			{"dev/wbe:80: the Service does not exist", "namespace dev: idle, web"},
			{"dev/web:grpc: the Service has no TCP port grpc", "one of its ports: 80 http"},
			{"dev/idle:80: the Service has no ready endpoint", "kubarium why svc/idle -n dev"},
			{"no-such is not an annotation", "correct its name"},
			{"proxy-body-size: ", "correct its value"},
			{"Secret dev/missing does not exist", "kubectl create secret tls missing -n dev"},
			{"an older Ingress has a certificate for b.example", "alone"},
			{"the certificate for c.example is made for b.example", "for the host"},
		},
		"foreign": {{"there is no IngressClass unheard", "spec.controller " + ControllerName}},
	} {
		d := r.describe(name)
		if len(d.Wrong) != len(wanted) {
			t.Errorf("%s: %d things are wrong, want %d: %q", name, len(d.Wrong), len(wanted), d.Wrong)
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(d.Wrong, func(a Advice) bool { return strings.Contains(a.What, w[0]) && strings.Contains(a.Next, w[1]) }) {
				t.Errorf("%s: nothing says %q\nin %q", name, w, d.Wrong)
			}
		}
	}
}
