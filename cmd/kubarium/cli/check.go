package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
)

// manifestCheck looks at a set of manifests before any of it is sent: unknown fields and wrong types from the file itself, all
// else by the server's dry run, whose answers it traces back to file and line.
type manifestCheck struct {
	client    *client
	namespace string // -n; "" for default
	server    string // the query of a server-side apply; "" for kubectl's own
	force     bool   // what cannot be changed is deleted and made anew
	set       manifestSet
}

// all lists every mistake, one line each.
func (c manifestCheck) all(ctx context.Context) []string {
	var problems []string
	for _, m := range c.set.manifests {
		if found := c.fields(m); len(found) > 0 {
			problems = append(problems, found...)
			continue
		}
		problems = append(problems, c.dryRun(ctx, m)...)
	}
	return problems
}

func (c manifestCheck) fields(m api.Manifest) []string {
	if hint := api.Hint(m); hint != "" {
		return []string{fmt.Sprintf("%s: %s: no matches for kind %q in version %q; %s", m.Where("kind"), "kind", m.GVK.Kind, m.GVK.GroupVersion(), hint)}
	}
	var problems []string
	for _, f := range m.UnknownFields() {
		problems = append(problems, f.Error())
	}
	return problems
}

// dryRun asks the server to create or change the object without keeping it.
func (c manifestCheck) dryRun(ctx context.Context, m api.Manifest) []string {
	kind, ok := api.KindFor(m.GVK)
	if !ok {
		return []string{fmt.Sprintf("%s: kind: no matches for kind %q in version %q", m.Where("kind"), m.GVK.Kind, m.GVK.GroupVersion())}
	}
	if kind.Namespaced && c.makes(c.namespaceOf(m)) {
		return nil
	}
	if c.server != "" && m.Name != "" {
		return c.ask(ctx, m, http.MethodPatch, c.path(kind, m)+"/"+m.Name+c.server, types.ApplyYAMLPatchType, m.JSON)
	}
	if m.Name != "" {
		if problems, known := c.change(ctx, kind, m); known {
			return problems
		}
	}
	return c.ask(ctx, m, http.MethodPost, c.path(kind, m)+dryRunQuery, "application/json", m.JSON)
}

// dryRunQuery makes a write one that is not kept.
const dryRunQuery = "?dryRun=All&fieldValidation=Strict"

// ask sends a write and throws its answer away.
func (c manifestCheck) ask(ctx context.Context, m api.Manifest, method, path string, media types.PatchType, body []byte) []string {
	answer, err := c.client.send(ctx, method, path, string(media), bytes.NewReader(body))
	if err != nil {
		return located(m, err)
	}
	answer.Close()
	return nil
}

// serverSide is the query of a server-side apply with these words; "" if they do not ask for one.
func serverSide(words []string) string {
	if !given(words, "--server-side") {
		return ""
	}
	manager := flagValue(words, "--field-manager", "--field-manager")
	if manager == "" {
		manager = "kubectl"
	}
	query := dryRunQuery + "&fieldManager=" + url.QueryEscape(manager)
	if given(words, "--force-conflicts") {
		query += "&force=true"
	}
	return query
}

// located puts file and line before each cause of a refused object.
func located(m api.Manifest, err error) []string {
	var s *apierrors.StatusError
	if !errors.As(err, &s) {
		return []string{fmt.Sprintf("%s: %v", m.Where(""), err)}
	}
	d := s.ErrStatus.Details
	if apierrors.IsNotFound(err) && d != nil && d.Kind == "namespaces" {
		return []string{fmt.Sprintf("%s: metadata.namespace: %s; create it first: kubarium create namespace %s", m.Where("metadata.namespace"), s.ErrStatus.Message, d.Name)}
	}
	if apierrors.IsConflict(err) && (d == nil || len(d.Causes) == 0) {
		return []string{fmt.Sprintf("%s: metadata.resourceVersion: %s", m.Where("metadata.resourceVersion"), s.ErrStatus.Message)}
	}
	if d == nil || len(d.Causes) == 0 {
		return []string{fmt.Sprintf("%s: %s", m.Where(""), s.ErrStatus.Message)}
	}
	var lines []string
	for _, cause := range d.Causes {
		line := fmt.Sprintf("%s: %s: %s", m.Where(cause.Field), cause.Field, cause.Message)
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			line += "; --force-conflicts takes the field over, or leave it out of the manifest"
		}
		lines = append(lines, line)
	}
	return lines
}

func (c manifestCheck) namespaceOf(m api.Manifest) string {
	switch {
	case m.Namespace != "":
		return m.Namespace
	case c.namespace != "":
		return c.namespace
	}
	return metav1.NamespaceDefault
}

// makes tells whether the set itself creates a namespace.
func (c manifestCheck) makes(namespace string) bool {
	return slices.ContainsFunc(c.set.manifests, func(m api.Manifest) bool {
		return m.GVK == api.Namespaces.GroupVersionKind() && m.Name == namespace
	})
}

func (c manifestCheck) path(kind *api.Kind, m api.Manifest) string {
	ns := ""
	if kind.Namespaced {
		ns = c.namespaceOf(m)
	}
	return resourcePath(kind, ns)
}

// resourcePath is the URL path of a kind's collection.
func resourcePath(kind *api.Kind, namespace string) string {
	path := "/api/v1/"
	if kind.Group != "" {
		path = "/apis/" + kind.Group + "/" + kind.Version + "/"
	}
	if kind.Namespaced && namespace != "" {
		path += "namespaces/" + namespace + "/"
	}
	return path + kind.Plural
}

// warnings says what was accepted but is odd: a Service whose selector matches no pod and no pod template.
func (c manifestCheck) warnings(ctx context.Context) []string {
	var odd []string
	for _, m := range c.set.manifests {
		if m.GVK != api.Services.GroupVersionKind() {
			continue
		}
		ns := c.namespaceOf(m)
		var svc corev1.Service
		if c.client.get(ctx, resourcePath(api.Services, ns)+"/"+m.Name, &svc) != nil || len(svc.Spec.Selector) == 0 {
			continue
		}
		if w := c.unmatched(ctx, ns, svc.Spec.Selector); w != "" {
			odd = append(odd, fmt.Sprintf("%s: spec.selector: %s", m.Where("spec.selector"), w))
		}
	}
	return odd
}

// unmatched is empty when something carries the selector's labels; else it names what is nearest.
func (c manifestCheck) unmatched(ctx context.Context, ns string, selector map[string]string) string {
	sets, err := c.labelSets(ctx, ns)
	if err != nil {
		return ""
	}
	want := labels.SelectorFromSet(selector)
	nearest, best := "", 0
	for name, set := range sets {
		if want.Matches(set) {
			return ""
		}
		if n := closeness(selector, set); n > best || n == best && n > 0 && name < nearest {
			nearest, best = name, n
		}
	}
	msg := fmt.Sprintf("%s matches no pod in namespace %s, so the Service has no endpoint", labels.FormatLabels(selector), ns)
	if nearest != "" {
		msg += fmt.Sprintf("; nearest: %s has %s", nearest, labels.FormatLabels(sets[nearest]))
	}
	return msg
}

// closeness counts the selector's keys that a label set has, an equal value twice.
func closeness(selector map[string]string, set labels.Set) int {
	n := 0
	for k, v := range selector {
		got, ok := set[k]
		switch {
		case ok && got == v:
			n += 2
		case ok:
			n++
		}
	}
	return n
}

// labelSets are the labels of a namespace's pods and of the templates that will make pods.
func (c manifestCheck) labelSets(ctx context.Context, ns string) (map[string]labels.Set, error) {
	sets := map[string]labels.Set{}
	var pods corev1.PodList
	if err := c.client.get(ctx, resourcePath(api.Pods, ns), &pods); err != nil {
		return nil, err
	}
	for _, p := range pods.Items {
		sets["pod "+p.Name] = p.Labels
	}
	var deps appsv1.DeploymentList
	if err := c.client.get(ctx, resourcePath(api.Deployments, ns), &deps); err != nil {
		return nil, err
	}
	for _, d := range deps.Items {
		// The Deployment's name says more than its pods': leave those out.
		maps.DeleteFunc(sets, func(name string, _ labels.Set) bool { return strings.HasPrefix(name, "pod "+d.Name+"-") })
		sets["Deployment "+d.Name] = d.Spec.Template.Labels
	}
	return sets, nil
}
