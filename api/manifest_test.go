package api

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

func read(t *testing.T, text string) []Manifest {
	t.Helper()
	ms, err := ReadManifests(strings.NewReader(text), "x.yaml")
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return ms
}

// seedNodePort is the seed's NodePort Service byte for byte: tabs before comments, kind before apiVersion, three spaces.
const seedNodePort = `kind: Service
apiVersion: v1
metadata:
   name: ngx-sr-nodeport
spec:
   type: NodePort   	# 仍会为其分配一个ClusterIP
   selector:
     app: ngx
   ports:
     - protocol: TCP
       port: 80    		# 集群内部使用 CluserIP+port 访问服务
       targetPort: 80  	 # Pod 上的服务端口
       nodePort: 30080   # 集群外部使用 IP+nodeport 访问服务
`

func TestTheSeedsServiceIsReadByteForByte(t *testing.T) {
	t.Parallel()
	m := read(t, seedNodePort)[0]
	want := `{"kind":"Service","apiVersion":"v1","metadata":{"name":"ngx-sr-nodeport"},"spec":{"type":"NodePort",` +
		`"selector":{"app":"ngx"},"ports":[{"protocol":"TCP","port":80,"targetPort":80,"nodePort":30080}]}}`
	if d := cmp.Diff(want, string(m.JSON)); d != "" {
		t.Errorf("JSON (-want +got):\n%s", d)
	}
	for path, line := range map[string]int{
		"": 1, "kind": 1, "spec": 5, "spec.type": 6, "spec.selector": 7, "spec.selector[app]": 8, "spec.ports": 9,
		"spec.ports[0]": 10, "spec.ports[0].nodePort": 13, "spec.ports[0].name": 10, "spec.ports[1].port": 9,
		"spec.clusterIP": 5, "status.loadBalancer": 1, "metadata.labels[a.b/c]": 3, "Spec.Type": 6,
	} {
		if got := m.Line(path); got != line {
			t.Errorf("Line(%q) = %d, want %d", path, got, line)
		}
	}
	if errs := m.UnknownFields(); len(errs) != 0 {
		t.Errorf("unknown fields: %v", errs)
	}
	if got := m.Where("spec.type"); got != "x.yaml:6" {
		t.Errorf("Where: %s", got)
	}
	obj, err := m.Object()
	if err != nil || obj.(*corev1.Service).Spec.Ports[0].NodePort != 30080 {
		t.Errorf("Object: %v, %v", obj, err)
	}
}

// Every YAML of the seed's text is read; the Deployment in v1 is answered as Kubernetes answers it, with one line of help.
func TestTheSeedsDeploymentIsRefusedWithHelp(t *testing.T) {
	t.Parallel()
	m := read(t, "apiVersion: v1\nkind: Deployment\nmetadata:\n  name: enterprise\n  labels:\n    app: enterprise\n  namespace: prod\nspec:\n")[0]
	if got := Hint(m); got != "Deployment lives in apps/v1" {
		t.Errorf("Hint: %q", got)
	}
	_, err := m.Object()
	if !meta.IsNoMatchError(err) || err.Error() != `no matches for kind "Deployment" in version "v1"` {
		t.Errorf("Object: %v", err)
	}
	if m.Namespace != "prod" || m.Name != "enterprise" || m.Start != 1 {
		t.Errorf("manifest: %+v", m)
	}
}

func TestHintsHelpWithKindsThatAreNotServed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"apiVersion: v1\nkind: Service":                        "",
		"apiVersion: apps/v1beta1\nkind: Deployment":           "Deployment lives in apps/v1",
		"apiVersion: apps/v1\nkind: Pod":                       "Pod lives in v1",
		"apiVersion: v1\nkind: Sevice":                         `did you mean kind "Service"?`,
		"apiVersion: v1\nkind: service":                        `did you mean kind "Service"?`,
		"apiVersion: v1\nkind: PersistentVolumeClaim":          "kubarium does not serve PersistentVolumeClaim yet",
		"apiVersion: example.com/v1\nkind: SomethingOfMyOwn":   "",
		"apiVersion: discovery.k8s.io/v1\nkind: Endpointslice": `did you mean kind "EndpointSlice"?`,
	} {
		if got := Hint(read(t, text)[0]); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestDocumentsAndListsAreTakenApart(t *testing.T) {
	t.Parallel()
	ms := read(t, `# only a comment
---
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
---
# nothing
--- # a list
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata:
    name: a
- {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: dev}}
---
apiVersion: v1
kind: ServiceList
items:
- metadata: {name: c}
- {}
...
---
null
`)
	var got []string
	for _, m := range ms {
		got = append(got, m.GVK.Kind+" "+m.Namespace+"/"+m.Name+" "+m.Where(""))
	}
	want := []string{
		"Namespace /dev x.yaml:3", "ConfigMap /a x.yaml:13", "Pod dev/b x.yaml:17", "Service /c x.yaml:22", "Service / x.yaml:23",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s := string(ms[3].JSON); s != `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"}}` {
		t.Errorf("an item of a ServiceList: %s", s)
	}
}

func TestFieldMistakesNameLineAndWhatWasMeant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"a typo": {"apiVersion: v1\nkind: Service\nspec:\n  selectr:\n    app: a\n",
			`x.yaml:4: unknown field "spec.selectr" (did you mean "selector"?)`},
		"swapped letters": {"apiVersion: v1\nkind: Service\nspec:\n  ports:\n  - prot: 80\n    tagretPort: 1\n",
			"x.yaml:5: unknown field \"spec.ports[0].prot\" (did you mean \"port\"?)\n" +
				`x.yaml:6: unknown field "spec.ports[0].tagretPort" (did you mean "targetPort"?)`},
		"wrong case": {"apiVersion: v1\nkind: Service\nspec:\n  clusterIp: None\n",
			`x.yaml:4: unknown field "spec.clusterIp" (did you mean "clusterIP"?)`},
		"wrong place": {"apiVersion: apps/v1\nkind: Deployment\nspec:\n  containers: []\n",
			`x.yaml:4: unknown field "spec.containers" (it belongs in spec.template.spec)`},
		"no idea": {"apiVersion: v1\nkind: Service\nspec: {zzzzzzzz: 1}\n", `x.yaml:3: unknown field "spec.zzzzzzzz"`},
		"twice": {"apiVersion: v1\nkind: Service\nspec:\n  type: ClusterIP\n  type: NodePort\n",
			`x.yaml:5: duplicate field "spec.type"`},
		"twice in labels": {"apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    a.b/c: d\n    a.b/c: d\n",
			`x.yaml:6: duplicate field "metadata.labels[a.b/c]"`},
		"a word for a number": {"apiVersion: v1\nkind: Service\nspec:\n  ports:\n  - port: eighty\n",
			`x.yaml:5: spec.ports[0].port: expected an integer, found the string "eighty"`},
		"quotes too many": {"apiVersion: v1\nkind: Service\nspec:\n  ports:\n  - port: \"80\"\n",
			`x.yaml:5: spec.ports[0].port: expected an integer, found the string "80" (without the quotes: 80)`},
		"quotes missing": {"apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    version: 2\n    on: yes\n",
			"x.yaml:5: metadata.labels[version]: expected a string, found the number 2 (quote it: \"2\")\n" +
				`x.yaml:6: metadata.labels[true]: expected a string, found the boolean yes (quote it: "yes")`},
		"an object for a list": {"apiVersion: v1\nkind: Service\nspec:\n  ports:\n    port: 80\n",
			`x.yaml:5: spec.ports: expected a list, found an object`},
		"a string for an object": {"apiVersion: v1\nkind: Service\nspec: none\n", `x.yaml:3: spec: expected an object, found the string "none"`},
		"too large": {"apiVersion: v1\nkind: Service\nspec: {ports: [{port: 4294967296}]}\n",
			`x.yaml:3: spec.ports[0].port: expected an integer, found the number 4294967296`},
		"a bad quantity": {"apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - resources: {limits: {cpu: lots}}\n",
			`x.yaml:5: spec.containers[0].resources.limits[cpu]: expected a quantity such as 100m or 64Mi, found the string "lots"`},
		"all in order": {"apiVersion: v1\nkind: Pod\nmetadata: {creationTimestamp: null, labels: {a: \"1\"}}\nspec:\n  containers:\n" +
			"  - {name: a, image: b, resources: {limits: {cpu: 1, memory: 64Mi}}, readinessProbe: {httpGet: {port: web}}}\n", ``},
	} {
		var got []string
		for _, e := range read(t, c.in)[0].UnknownFields() {
			got = append(got, e.Error())
		}
		if d := cmp.Diff(c.want, strings.Join(got, "\n")); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestBrokenFilesAreOneClearLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"apiVersion: v1\nkind: Pod\n\tspec: {}\n":                       "x.yaml:3: found a tab character that violates indentation (a tab indents this line; YAML takes spaces only)",
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n labels: b\n": "x.yaml:5: did not find expected key (check the indentation)",
		"apiVersion: v1\nkind: Pod: a\n":                                "x.yaml:2: mapping values are not allowed in this context (check the indentation, or quote a value with a colon in it)",
		"apiVersion: v1\nkind: Pod\n---\nb: \"open\nc: 2\n":             "x.yaml:4: found unexpected end of stream",
		"kind: Pod\n": "x.yaml:1: apiVersion not set",
		"\n\napiVersion: v1\nmetadata: {name: a}\n": "x.yaml:3: kind not set",
		"- a\n- b\n":                     "x.yaml:1: expected an object (apiVersion, kind, metadata), found a list",
		"hello\n":                        `x.yaml:1: expected an object (apiVersion, kind, metadata), found the string "hello"`,
		"apiVersion: a/b/c\nkind: Pod\n": "x.yaml:1: apiVersion: unexpected GroupVersion string: a/b/c",
		"apiVersion: v1\nkind: Pod\nspec: {? [a] : b}\n":                  "x.yaml:3: a field's name must be a word, not a list",
		"apiVersion: v1\nkind: Pod\nspec: .nan\n":                         "x.yaml:3: .nan is not a number JSON knows",
		"apiVersion: v1\nkind: List\nitems:\n- 3\n":                       "x.yaml:4: expected an object (apiVersion, kind, metadata), found the number 3",
		"apiVersion: v1\nkind: Pod\nmetadata: &a\n  labels: *a\n":         "x.yaml:3: too large or too deep (aliases?)",
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {{ .Values.x }}\n": "x.yaml:4: a field's name must be a word, not an object",
	} {
		ms, err := ReadManifests(strings.NewReader(in), "x.yaml")
		var e *ManifestError
		if !errors.As(err, &e) || err.Error() != want || ms != nil {
			t.Errorf("%q:\ngot  %v\nwant %s", in, err, want)
		}
	}
}

func TestJSONIsReadAsKubernetesReadsYAML(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\"\n}":         `{"apiVersion":"v1","kind":"Pod"}`,
		"apiVersion: v1\nkind: Pod\na: [1, 1.5, 0x10, 0644, ~, yes]":   `{"apiVersion":"v1","kind":"Pod","a":[1,1.5,16,420,null,true]}`,
		"apiVersion: v1\nkind: Pod\na: 2024-07-02\nb: 'yes'\n1: x":     `{"apiVersion":"v1","kind":"Pod","a":"2024-07-02","b":"yes","1":"x"}`,
		"apiVersion: v1\nkind: Pod\na: &x {b: 1}\nc: {<<: *x, d: 2}":   `{"apiVersion":"v1","kind":"Pod","a":{"b":1},"c":{"d":2,"b":1}}`,
		"apiVersion: v1\r\nkind: Pod\r\na: |\r\n  x\r\n":               `{"apiVersion":"v1","kind":"Pod","a":"x\n"}`,
		"\ufeffapiVersion: v1\nkind: Pod\na: \"\\ttab\"":               `{"apiVersion":"v1","kind":"Pod","a":"\ttab"}`,
		"apiVersion: v1\nkind: Pod\na: 18446744073709551615\nb: 1e3\n": `{"apiVersion":"v1","kind":"Pod","a":18446744073709551615,"b":1000}`,
	} {
		if got := string(read(t, in)[0].JSON); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", in, got, want)
		}
	}
}

// a small file that aliases blow up is refused, not obeyed.
func TestABillionLaughsAreRefused(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 9 {
		n, m := string(rune('0'+i)), string(rune('1'+i))
		b.WriteString("a" + m + ": &a" + m + " [" + strings.TrimSuffix(strings.Repeat("*a"+n+", ", 10), ", ") + "]\n")
	}
	if _, err := ReadManifests(strings.NewReader(b.String()), "x.yaml"); err == nil {
		t.Error("accepted")
	}
}

// Every manifest of the repository that is meant to be good is good.
func TestTheRepositorysManifestsAreInOrder(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/manifests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		ms, err := ReadManifests(f, name)
		f.Close()
		if err != nil {
			t.Error(err)
		}
		for _, m := range ms {
			for _, e := range m.UnknownFields() {
				t.Error(e)
			}
			obj, err := m.Object()
			if err != nil {
				t.Error(err)
				continue
			}
			if KindOf(obj).Namespaced && obj.GetNamespace() == "" {
				obj.SetNamespace("default")
			}
			Default(obj)
			PrepareForCreate(obj)
			for _, e := range Validate(obj) {
				t.Errorf("%s: %v", m.Where(e.Field), e)
			}
		}
	}
}

//
func FuzzReadManifests(f *testing.F) {
	for _, s := range []string{
		seedNodePort, "a: &a [*a]", "? {a: b}\n: c", "{}", "---\n---", "apiVersion: v1\nkind: List\nitems: [{}, ~]",
		"apiVersion: v1\nkind: Pod\n<<: [{a: b}, {c: !!binary aGk=}]\nspec: {containers: [{env: [{name: 1}]}]}", "a: !!int x", "a: *b",
		"apiVersion: v1\nkind: ServiceList\nitems: [{spec: {ports: [{port: 080, targetPort: []}]}}]", "\"\\x\"", "a: |\n\t", "%YAML 9",
	} {
		f.Add(s, "spec.ports[0].port")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		ms, err := ReadManifests(strings.NewReader(text), "x.yaml")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x.yaml") {
				t.Errorf("error without file: %v", err)
			}
			return
		}
		for _, m := range ms {
			if !json.Valid(m.JSON) {
				t.Errorf("%q: not JSON: %s", text, m.JSON)
			}
			if l := m.Line(path); l < 1 || l > strings.Count(text, "\n")+strings.Count(text, "\r")+2 {
				t.Errorf("Line(%q) = %d of %q", path, l, text)
			}
			m.UnknownFields()
			Hint(m)
			obj, err := m.Object()
			if err != nil {
				continue
			}
			Default(obj)
			Validate(obj)
		}
	})
}
