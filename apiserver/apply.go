package apiserver

import (
	"fmt"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"kubarium.dev/api"
)

// apply answers a PATCH that is a server-side apply.
func (s *Server) apply(c *call, body []byte) error {
	c.applying = true
	wanted, force, err := readApply(c, body)
	if err != nil {
		return err
	}
	code := http.StatusOK
	out, err := s.change(c, func(now api.Object) (api.Object, error) {
		return s.applied(c, now, wanted.DeepCopy(), force)
	})
	if apierrors.IsNotFound(err) && c.sub == "" && wanted.GetUID() == "" {
		code = http.StatusCreated
		if err := s.authorizeAs(c, "create"); err != nil {
			return err
		}
		empty := c.kind.New()
		empty.SetName(c.name)
		empty.SetNamespace(c.namespace)
		var fresh api.Object
		if fresh, err = s.applied(c, empty, wanted, force); err == nil {
			out, err = s.createObject(c, fresh)
		}
	}
	if err != nil {
		return err
	}
	return s.respond(c, code, out)
}

// readApply reads the applied configuration and its parameters.
func readApply(c *call, body []byte) (*unstructured.Unstructured, bool, error) {
	if c.query.Get("fieldManager") == "" {
		return nil, false, errOption("PatchOptions", field.Required(field.NewPath("fieldManager"), "is required for apply patch"))
	}
	wanted := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.UnmarshalStrict(body, &wanted.Object); err != nil {
		if err := yaml.Unmarshal(body, &wanted.Object); err != nil {
			return nil, false, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
		}
	}
	if gvk := wanted.GroupVersionKind(); gvk != c.kind.GroupVersionKind() {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf(
			"the object provided (%s) does not match the expected kind (%s)", gvk, c.kind.GroupVersionKind()))
	}
	if wanted.GetManagedFields() != nil {
		return nil, false, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	if wanted.GetName() == "" {
		wanted.SetName(c.name)
	}
	if wanted.GetName() != c.name {
		return nil, false, errMismatch(wanted.GetName(), c.name)
	}
	if c.kind.Namespaced {
		switch wanted.GetNamespace() {
		case "", c.namespace:
			wanted.SetNamespace(c.namespace)
		default:
			return nil, false, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
	}
	return wanted, isTrue(c.query.Get("force")), nil
}

// applied merges an applied configuration into now.
func (s *Server) applied(c *call, now api.Object, wanted *unstructured.Unstructured, force bool) (api.Object, error) {
	if err := s.checkFields(c, wanted); err != nil {
		return nil, err
	}
	if rv := wanted.GetResourceVersion(); rv != "" && rv != now.GetResourceVersion() {
		return nil, errStale(c)
	}
	manager, err := s.fields.of(c.kind, c.sub)
	if err != nil {
		return nil, err
	}
	live := api.Copy(now)
	live.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind())
	merged, err := manager.Apply(live, wanted, c.query.Get("fieldManager"), force)
	if err != nil {
		return nil, err
	}
	obj, ok := merged.(api.Object)
	if !ok {
		return nil, fmt.Errorf("apply made a %T", merged)
	}
	obj = api.Copy(obj)
	if onlyTimesDiffer(now, obj) {
		obj.SetManagedFields(now.GetManagedFields())
	}
	return obj, nil
}

// checkFields handles unknown fields of an applied configuration as fieldValidation asks.
func (s *Server) checkFields(c *call, wanted *unstructured.Unstructured) error {
	body, err := wanted.MarshalJSON()
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return s.decode(c, body, mediaJSON, c.kind.New(), c.kind.GroupVersionKind())
}

// onlyTimesDiffer tells whether two states are the same but for the times in their managedFields: then nothing was applied
// that was not there, and the object must not change.
func onlyTimesDiffer(a, b api.Object) bool {
	if len(a.GetManagedFields()) != len(b.GetManagedFields()) {
		return false
	}
	return equality.Semantic.DeepEqual(timeless(a), timeless(b))
}

func timeless(obj api.Object) api.Object {
	c := api.Copy(obj)
	clearType(c)
	fields := c.GetManagedFields()
	for i := range fields {
		fields[i].Time = nil
	}
	c.SetManagedFields(fields)
	return c
}

// fieldManagers keep who owns which field. Each is made on first use: their schema takes milliseconds that a boot can spare.
type fieldManagers struct {
	scheme  *runtime.Scheme
	schemas *schemas
	shapes  ownedShapes

	mu       sync.Mutex // guards managers
	managers map[managerKey]*managedfields.FieldManager
}

type managerKey struct {
	kind *api.Kind
	sub  string
}

func newFieldManagers(scheme *runtime.Scheme, schemas *schemas) *fieldManagers {
	return &fieldManagers{scheme: scheme, schemas: schemas, managers: map[managerKey]*managedfields.FieldManager{}}
}

// of returns the field manager of a kind, or of a subresource of it.
func (f *fieldManagers) of(kind *api.Kind, sub string) (*managedfields.FieldManager, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := managerKey{kind, sub}
	if m, ok := f.managers[key]; ok {
		return m, nil
	}
	converter, err := f.schemas.converter()
	if err != nil {
		return nil, err
	}
	m, err := managedfields.NewDefaultFieldManager(converter, f.scheme, defaulter{}, f.scheme, kind.GroupVersionKind(),
		kind.GroupVersion(), sub, resetFields(kind, sub))
	if err != nil {
		return nil, err
	}
	f.managers[key] = m
	return m, nil
}

// resetFields are the fields that a write through sub cannot change, and so cannot own.
func resetFields(kind *api.Kind, sub string) map[fieldpath.APIVersion]fieldpath.Filter {
	version := fieldpath.APIVersion(kind.GroupVersion().String())
	if sub == "status" {
		return map[fieldpath.APIVersion]fieldpath.Filter{
			version: fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))),
		}
	}
	if !kind.HasStatus {
		return nil
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{
		version: fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("status"))),
	}
}

// defaulter fills in defaults on behalf of the field managers.
type defaulter struct{}

// Default fills in what was left out of obj.
func (defaulter) Default(obj runtime.Object) {
	if o, ok := obj.(api.Object); ok {
		api.Default(o)
	}
}
