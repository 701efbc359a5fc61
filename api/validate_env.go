package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// envFields are the fields of a pod its environment can tell.
var envFields = []string{
	"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
	"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
}

// envResources are the resources of a container its environment can tell.
var envResources = []string{
	"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory",
}

func validateEnv(e corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, invalid(path.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
	}
	from := e.ValueFrom
	if from == nil {
		return errs
	}
	path = path.Child("valueFrom")
	sources := 0
	if from.FieldRef != nil {
		sources++
		errs = append(errs, envField(from.FieldRef, path.Child("fieldRef"))...)
	}
	if from.ResourceFieldRef != nil {
		sources++
		errs = append(errs, envResource(from.ResourceFieldRef, path.Child("resourceFieldRef"))...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		errs = append(errs, keyRef(r.Name, r.Key, path.Child("configMapKeyRef"))...)
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		errs = append(errs, keyRef(r.Name, r.Key, path.Child("secretKeyRef"))...)
	}
	if from.FileKeyRef != nil {
		sources++
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "",
			"must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(name, key string, path *field.Path) field.ErrorList {
	errs := dnsSubdomain(path.Child("name"), name)
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, invalid(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

func envField(ref *corev1.ObjectFieldSelector, path *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	at := path.Child("fieldPath")
	if ref.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(at, ref.FieldPath,
			"error converting fieldPath: unsupported pod version: "+ref.APIVersion)}
	}
	if name, key, ok := subscript(ref.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			return qualifiedName(path, strings.ToLower(key))
		case "metadata.labels":
			return qualifiedName(path, key)
		}
		return field.ErrorList{field.Invalid(at, ref.FieldPath,
			"error converting fieldPath: field label does not support subscript: "+ref.FieldPath)}
	}
	known := []string{"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"}
	switch {
	case slices.Contains(envFields, ref.FieldPath) || ref.FieldPath == "spec.host":
		return nil
	case slices.Contains(known, ref.FieldPath):
		return field.ErrorList{field.NotSupported(at, ref.FieldPath, envFields)}
	}
	return field.ErrorList{field.Invalid(at, ref.FieldPath,
		"error converting fieldPath: field label not supported: "+ref.FieldPath)}
}

// subscript splits "metadata.labels['app']" into "metadata.labels" and "app".
func subscript(path string) (name, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "['")
}

func envResource(ref *corev1.ResourceFieldSelector, path *field.Path) field.ErrorList {
	at := path.Child("divisor")
	path = path.Child("resource")
	huge := strings.HasPrefix(ref.Resource, "limits.hugepages-") || strings.HasPrefix(ref.Resource, "requests.hugepages-")
	switch {
	case ref.Resource == "":
		return field.ErrorList{field.Required(path, "")}
	case !huge && !slices.Contains(envResources, ref.Resource):
		return field.ErrorList{field.NotSupported(path, ref.Resource, envResources)}
	case ref.Divisor.IsZero():
		return nil
	}
	const cpu, other = "1m and 1", "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
	units, what := other, "hugepages"
	switch _, name, _ := strings.Cut(ref.Resource, "."); name {
	case "cpu":
		units, what = cpu, "cpu"
	case "memory":
		what = "memory"
	case "ephemeral-storage":
		what = "local ephemeral storage"
	}
	if slices.Contains(strings.FieldsFunc(units, func(r rune) bool { return r == ',' || r == ' ' }), ref.Divisor.String()) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, ref.Resource, "only divisor's values "+units+" are supported with the "+what+" resource")}
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := func(name string, p *field.Path) {
		if name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
			return
		}
		errs = append(errs, dnsSubdomain(p.Child("name"), name)...)
	}
	for i, s := range sources {
		p := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(p.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			name(s.ConfigMapRef.Name, p.Child("configMapRef"))
		}
		if s.SecretRef != nil {
			name(s.SecretRef.Name, p.Child("secretRef"))
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
