package api

import (
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateVolumes returns the names of the volumes that are in order, and what is wrong with the others.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (map[string]bool, field.ErrorList) {
	var errs field.ErrorList
	good := map[string]bool{}
	for i := range volumes {
		v, p := &volumes[i], at.Index(i)
		e := validateVolumeSource(&v.VolumeSource, p)
		if v.Name == "" {
			e = append(e, field.Required(p.Child("name"), ""))
		} else {
			e = append(e, dnsLabel(p.Child("name"), v.Name)...)
		}
		if good[v.Name] {
			e = append(e, field.Duplicate(p.Child("name"), v.Name))
		}
		if len(e) == 0 {
			good[v.Name] = true
		}
		errs = append(errs, e...)
	}
	return good, errs
}

// validateVolumeSource: a volume is of one type, and has what that type needs.
func validateVolumeSource(source *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	types := volumeTypes(source)
	if len(types) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	for _, name := range types[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	return append(errs, volumeType(source, types[0], at)...)
}

// volumeTypes lists the JSON names of the types a source is of, emptyDir first as Kubernetes looks at them.
func volumeTypes(source *corev1.VolumeSource) []string {
	var types []string
	value := reflect.ValueOf(*source)
	for i := range value.NumField() {
		if value.Field(i).IsNil() {
			continue
		}
		name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		if name == "emptyDir" {
			types = slices.Insert(types, 0, name)
			continue
		}
		types = append(types, name)
	}
	return types
}

func volumeType(source *corev1.VolumeSource, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch name {
	case "secret":
		s := source.Secret
		errs = append(errs, sourceName(s.SecretName, at.Child("secret", "secretName"))...)
		errs = append(errs, volumeItems(s.DefaultMode, s.Items, at.Child("secret"))...)
	case "configMap":
		s := source.ConfigMap
		errs = append(errs, sourceName(s.Name, at.Child("configMap", "name"))...)
		errs = append(errs, volumeItems(s.DefaultMode, s.Items, at.Child("configMap"))...)
	case "hostPath":
		errs = validateHostPath(source.HostPath, at.Child("hostPath"))
	case "emptyDir":
		if limit := source.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case "persistentVolumeClaim":
		errs = sourceName(source.PersistentVolumeClaim.ClaimName, at.Child("persistentVolumeClaim", "claimName"))
	}
	return errs
}

func sourceName(name string, at *field.Path) field.ErrorList {
	if name != "" {
		return nil
	}
	return field.ErrorList{field.Required(at, "")}
}

func volumeItems(mode *int32, items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	errs := fileMode(mode, at.Child("defaultMode"))
	for i, item := range items {
		p := at.Child("items").Index(i)
		if item.Key == "" {
			errs = append(errs, field.Required(p.Child("key"), ""))
		}
		if item.Path == "" {
			errs = append(errs, field.Required(p.Child("path"), ""))
		}
		errs = append(errs, descending(item.Path, p.Child("path"))...)
		if strings.HasPrefix(item.Path, "..") && !strings.HasPrefix(item.Path, "../") {
			errs = append(errs, field.Invalid(p.Child("path"), item.Path, "must not start with '..'"))
		}
		errs = append(errs, fileMode(item.Mode, p.Child("mode"))...)
	}
	return errs
}

func fileMode(mode *int32, at *field.Path) field.ErrorList {
	if mode == nil || *mode >= 0 && *mode <= 0o777 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
}

// descending complains about paths that lead out of the folder they stand in.
func descending(name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(name) {
		errs = append(errs, field.Invalid(at, name, "must be a relative path"))
	}
	return append(errs, noBacksteps(name, at)...)
}

func noBacksteps(name string, at *field.Path) field.ErrorList {
	if !slices.Contains(strings.Split(name, "/"), "..") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "must not contain '..'")}
}

func validateHostPath(s *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if s.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := noBacksteps(s.Path, at.Child("path"))
	if s.Type != nil {
		errs = append(errs, supportedOr(at.Child("type"), *s.Type, corev1.HostPathUnset, corev1.HostPathBlockDev,
			corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
			corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

// mounts checks that a container mounts volumes its pod has, each place once.
func (v containerRules) mounts(mounts []corev1.VolumeMount, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	places := map[string]bool{}
	for i, m := range mounts {
		p := at.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		}
		if !v.volumes[m.Name] {
			errs = append(errs, field.NotFound(p.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(p.Child("mountPath"), ""))
		}
		if places[m.MountPath] {
			errs = append(errs, field.Invalid(p.Child("mountPath"), m.MountPath, "must be unique"))
		}
		places[m.MountPath] = true
		if m.SubPath != "" {
			errs = append(errs, descending(m.SubPath, at.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(p.Child("subPathExpr"), m.SubPathExpr,
					"subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, descending(m.SubPathExpr, at.Child("subPathExpr"))...)
		}
	}
	return errs
}
