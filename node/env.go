package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// defaultPath is the PATH of a container that sets none, as container engines have it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookup is where variables and volumes find what they refer to. A missing object is Kubernetes' NotFound.
type lookup struct {
	configMap func(namespace, name string) (*corev1.ConfigMap, error)
	secret    func(namespace, name string) (*corev1.Secret, error)
	services  map[string]string // the variables of the Services, shared and not to be changed
	capacity  corev1.ResourceList
	user      *identity // who the container is
}

func (n *Node) configMap(namespace, name string) (*corev1.ConfigMap, error) {
	return store.Get[*corev1.ConfigMap](n.cfg.Store, api.ConfigMaps, namespace, name)
}

func (n *Node) secret(namespace, name string) (*corev1.Secret, error) {
	return store.Get[*corev1.Secret](n.cfg.Store, api.Secrets, namespace, name)
}

// environment is an ordered list of variables, the last of a name counts. The Services' come after it, and do not count where
// it has the name itself.
type environment struct {
	names    []string
	values   map[string]string
	services map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// get is the value of a variable.
func (e *environment) get(name string) (string, bool) {
	if v, ok := e.values[name]; ok {
		return v, true
	}
	v, ok := e.services[name]
	return v, ok
}

func (e *environment) list() []string {
	var out []string
	for _, k := range e.names {
		out = append(out, k+"="+e.values[k])
	}
	for _, k := range slices.Sorted(maps.Keys(e.services)) {
		if _, ok := e.values[k]; !ok {
			out = append(out, k+"="+e.services[k])
		}
	}
	return out
}

// newEnvironment works out a container's variables; image are those of its image. Errors say what is missing, as kubelet words
// it.
func newEnvironment(pod *corev1.Pod, c *corev1.Container, find lookup, image []string) (*environment, error) {
	e := &environment{values: map[string]string{}, services: find.services}
	e.set("PATH", defaultPath)
	e.set("HOSTNAME", hostname(pod))
	e.set("HOME", find.user.home())
	for _, v := range image {
		name, value, _ := strings.Cut(v, "=")
		e.set(name, value)
	}
	for _, from := range c.EnvFrom {
		if err := e.from(pod, from, find); err != nil {
			return nil, err
		}
	}
	for _, v := range c.Env {
		value, ok, err := valueOf(pod, c, v, find)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if v.ValueFrom == nil { // only what is written in the manifest is expanded
			value = expand(value, e.get)
		}
		e.set(v.Name, value)
	}
	return e, nil
}

// from sets a variable for every key of a ConfigMap or a Secret.
func (e *environment) from(pod *corev1.Pod, from corev1.EnvFromSource, find lookup) error {
	all := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := find.configMap(pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return missing(optional(from.ConfigMapRef.Optional), "configmap", from.ConfigMapRef.Name)
		}
		all = cm.Data
	case from.SecretRef != nil:
		secret, err := find.secret(pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return missing(optional(from.SecretRef.Optional), "secret", from.SecretRef.Name)
		}
		for k, v := range secret.Data {
			all[k] = string(v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		e.set(from.Prefix+k, all[k])
	}
	return nil
}

func optional(o *bool) bool { return o != nil && *o }

// missing is kubelet's word for an object that is not there, unless it need not be.
func missing(optional bool, kind, name string) error {
	if optional {
		return nil
	}
	return fmt.Errorf("%s %q not found", kind, name)
}

// valueOf is what a variable refers to; ok is false for what is missing and may be.
func valueOf(pod *corev1.Pod, c *corev1.Container, v corev1.EnvVar, find lookup) (value string, ok bool, err error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return v.Value, true, nil
	case from.FieldRef != nil:
		value, err := fieldOf(pod, from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err := resourceOf(pod, c, from.ResourceFieldRef, find.capacity)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := find.configMap(pod.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(optional(ref.Optional), "configmap", ref.Name)
		}
		value, ok := cm.Data[ref.Key]
		return value, ok, missingKey(ok || optional(ref.Optional), ref.Key, "ConfigMap", pod.Namespace+"/"+ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := find.secret(pod.Namespace, ref.Name)
		if err != nil {
			return "", false, missing(optional(ref.Optional), "secret", ref.Name)
		}
		value, ok := secret.Data[ref.Key]
		return string(value), ok, missingKey(ok || optional(ref.Optional), ref.Key, "Secret", pod.Namespace+"/"+ref.Name)
	}
	return "", false, fmt.Errorf("variable %s: this source is not supported", v.Name)
}

func missingKey(fine bool, key, kind, name string) error {
	if fine {
		return nil
	}
	return fmt.Errorf("couldn't find key %s in %s %s", key, kind, name)
}

// expand puts variables for $(NAME); an unknown one stays as it is, and $$(NAME) is a plain $(NAME).
func expand(s string, get func(string) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			name, _, ok := strings.Cut(s[i+2:], ")")
			if !ok {
				b.WriteByte('$')
				continue
			}
			if value, known := get(name); known {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += len(name) + 2
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

func expandAll(all []string, get func(string) (string, bool)) []string {
	var out []string
	for _, s := range all {
		out = append(out, expand(s, get))
	}
	return out
}
