package node

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// defaultPath is the PATH of a container that sets none, as container engines have it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookup finds a ConfigMap; a missing one is Kubernetes' NotFound.
type lookup func(namespace, name string) (*corev1.ConfigMap, error)

func (n *Node) configMap(namespace, name string) (*corev1.ConfigMap, error) {
	return store.Get[*corev1.ConfigMap](n.cfg.Store, api.ConfigMaps, namespace, name)
}

// environment is an ordered list of variables, the last of a name counts.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) list() []string {
	var out []string
	for _, k := range e.names {
		out = append(out, k+"="+e.values[k])
	}
	return out
}

// newEnvironment works out a container's variables. Errors say what is missing, as kubelet words it.
func newEnvironment(pod *corev1.Pod, c *corev1.Container, find lookup) (*environment, error) {
	e := &environment{values: map[string]string{}}
	e.set("PATH", defaultPath)
	e.set("HOSTNAME", hostname(pod))
	e.set("HOME", "/root")
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef == nil {
			continue
		}
		cm, err := find(pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			if optional(from.ConfigMapRef.Optional) {
				continue
			}
			return nil, fmt.Errorf("configmap %q not found", from.ConfigMapRef.Name)
		}
		for k, v := range cm.Data {
			e.set(from.Prefix+k, v)
		}
	}
	for _, v := range c.Env {
		value, ok, err := valueOf(pod, v, find)
		if err != nil {
			return nil, err
		}
		if ok {
			e.set(v.Name, expand(value, e.values))
		}
	}
	return e, nil
}

func optional(o *bool) bool { return o != nil && *o }

func valueOf(pod *corev1.Pod, v corev1.EnvVar, find lookup) (value string, ok bool, err error) {
	switch {
	case v.ValueFrom == nil:
		return v.Value, true, nil
	case v.ValueFrom.FieldRef != nil:
		value, err := fieldOf(pod, v.ValueFrom.FieldRef.FieldPath)
		return value, err == nil, err
	case v.ValueFrom.ConfigMapKeyRef != nil:
		ref := v.ValueFrom.ConfigMapKeyRef
		cm, err := find(pod.Namespace, ref.Name)
		if err != nil {
			if optional(ref.Optional) {
				return "", false, nil
			}
			return "", false, fmt.Errorf("configmap %q not found", ref.Name)
		}
		value, ok := cm.Data[ref.Key]
		if !ok && !optional(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", ref.Key, pod.Namespace, ref.Name)
		}
		return value, ok, nil
	}
	return "", false, fmt.Errorf("variable %s: this source is not supported", v.Name)
}

// fieldOf reads a field of the downward API.
func fieldOf(pod *corev1.Pod, path string) (string, error) {
	if head, rest, ok := strings.Cut(path, "['"); ok {
		key := strings.TrimSuffix(rest, "']")
		switch head {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return pod.Status.PodIP, nil
	case "status.hostIP", "status.hostIPs":
		return pod.Status.HostIP, nil
	}
	return "", fmt.Errorf("field %s is not supported", path)
}

// expand puts variables for $(NAME); an unknown one stays as it is, and $$(NAME) is a plain $(NAME).
func expand(s string, values map[string]string) string {
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
			if value, known := values[name]; known {
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

func expandAll(all []string, values map[string]string) []string {
	var out []string
	for _, s := range all {
		out = append(out, expand(s, values))
	}
	return out
}
