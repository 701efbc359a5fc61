package apiserver

import (
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

// definitions are CustomResourceDefinitions. They are in discovery although there are none, so that kubectl does not advise to
// install what cannot be installed, but asks, and hears why not.
var definitions = &api.Kind{
	Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition", Plural: "customresourcedefinitions",
	Singular: "customresourcedefinition", Short: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
}

// serveDefinitions answers below /apis/apiextensions.k8s.io/v1: there are none, and none can be made.
func (s *Server) serveDefinitions(c *call, rest []string) error {
	if rest[0] != definitions.Plural || len(rest) > 2 {
		return errNoPath(c.r.Method)
	}
	c.kind, c.form = definitions, definitions
	if len(rest) == 2 {
		c.name = rest[1]
	}
	if err := s.authorize(c); err != nil {
		return err
	}
	if err := c.readOptions(s); err != nil {
		return err
	}
	switch {
	case c.r.Method != http.MethodGet && c.r.Method != http.MethodHead:
		return errOther(http.StatusNotImplemented, "NotImplemented",
			"kubarium has no CustomResourceDefinitions: it serves the kinds that `kubectl api-resources` lists")
	case c.name != "":
		return apierrors.NewNotFound(definitions.GroupResource(), c.name)
	case isTrue(c.query.Get("watch")):
		return s.watchNothing(c)
	}
	if c.accept.as == "Table" {
		table := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, Rows: []metav1.TableRow{}}
		table.ColumnDefinitions = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name"}, {Name: "Created At", Type: "date"}}
		s.wire.write(c.w, http.StatusOK, c.accept, table)
		return nil
	}
	writeJSON(c.w, mediaJSON, map[string]any{
		"kind": definitions.Kind + "List", "apiVersion": definitions.GroupVersion().String(),
		"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{},
	})
	return nil
}

// watchNothing keeps a watch open on which nothing ever happens.
func (s *Server) watchNothing(c *call) error {
	plan, err := readWatchPlan(c)
	if err != nil {
		return err
	}
	out := newStream(s, c)
	if err := out.begin(); err != nil {
		return nil // the client has gone
	}
	timeout := time.NewTimer(plan.timeout)
	defer timeout.Stop()
	select {
	case <-c.r.Context().Done():
	case <-timeout.C:
	}
	return nil
}
