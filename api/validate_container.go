package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containerRules checks containers against the pod they stand in.
type containerRules struct {
	volumes map[string]bool // the pod's valid volumes
	grace   *int64          // the pod's terminationGracePeriodSeconds
}

func (v containerRules) containers(containers []corev1.Container, path *field.Path) field.ErrorList {
	if len(containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range containers {
		c, p := &containers[i], path.Index(i)
		errs = append(errs, v.container(c, p)...)
		if names[c.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		names[c.Name] = true
		errs = append(errs, v.handlers(c, p)...)
		if c.RestartPolicy != nil {
			errs = append(errs, supportedOr(p.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
				corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
		}
	}
	return append(errs, hostPortConflicts(containers, path)...)
}

func (v containerRules) initContainers(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for _, c := range spec.Containers {
		names[c.Name] = true
	}
	for i := range spec.InitContainers {
		c, p := &spec.InitContainers[i], path.Index(i)
		errs = append(errs, v.container(c, p)...)
		if names[c.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		names[c.Name] = c.Name != ""
		errs = append(errs, hostPortConflicts(spec.InitContainers[i:i+1], path)...)
		if c.RestartPolicy != nil {
			errs = append(errs, supportedOr(p.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
				corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
			if *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				errs = append(errs, v.handlers(c, p)...)
				continue
			}
		}
		const sidecarOnly = "may not be set for init containers without restartPolicy=Always"
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(p.Child(f.name), sidecarOnly))
			}
		}
	}
	return errs
}

// container checks what every kind of container has.
func (v containerRules) container(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, dnsLabel(path.Child("name"), c.Name)...)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(path.Child("image"), ""))
	}
	errs = append(errs, oneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, containerPorts(c.Ports, path.Child("ports"))...)
	for i, e := range c.Env {
		errs = append(errs, validateEnv(e, path.Child("env").Index(i))...)
	}
	errs = append(errs, validateEnvFrom(c.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, v.mounts(c.VolumeMounts, path.Child("volumeMounts"))...)
	errs = append(errs, oneOf(path.Child("imagePullPolicy"), c.ImagePullPolicy,
		corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateResources(&c.Resources, path.Child("resources"))...)
	return append(errs, validateSecurityContext(c.SecurityContext, path.Child("securityContext"))...)
}

func containerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i, port := range ports {
		p := path.Index(i)
		if port.Name != "" {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				errs = append(errs, invalid(p.Child("name"), port.Name, messages)...)
			} else if names[port.Name] {
				errs = append(errs, field.Duplicate(p.Child("name"), port.Name))
			}
			names[port.Name] = true
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(p.Child("containerPort"), ""))
		} else {
			errs = append(errs, portNumber(p.Child("containerPort"), port.ContainerPort)...)
		}
		if port.HostPort != 0 {
			errs = append(errs, portNumber(p.Child("hostPort"), port.HostPort)...)
		}
		errs = append(errs, protocol(p.Child("protocol"), port.Protocol)...)
	}
	return errs
}

func hostPortConflicts(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, c := range containers {
		for j, p := range c.Ports {
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if p.HostPort != 0 && seen[key] {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen[key] = true
		}
	}
	return errs
}

// validateResources checks names and quantities, and that no request is above its limit.
func validateResources(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		errs = append(errs, containerResource(name, r.Limits[name], path.Child("limits").Key(string(name)))...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		q := r.Requests[name]
		errs = append(errs, containerResource(name, q, path.Child("requests").Key(string(name)))...)
		limit, limited := r.Limits[name]
		overcommit := isNative(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
		switch {
		case !limited && !overcommit:
			errs = append(errs, field.Required(path.Child("limits"), "Limit must be set for non overcommitable resources"))
		case limited && !overcommit && q.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(),
				fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(),
				fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	return errs
}

// containerResources are the resources a container can have without a domain in the name.
var containerResources = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
}

func containerResource(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	errs := invalid(path, name, validation.IsQualifiedName(string(name)))
	switch {
	case strings.Contains(string(name), "/"):
		if !isNative(name) && !isExtended(name) {
			errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
		}
	case slices.Contains(containerResources, name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
	default:
		if len(errs) == 0 && !strings.Contains(standardResources, " "+string(name)+" ") {
			errs = append(errs, field.Invalid(path, name, "must be a standard resource type or fully qualified"))
		}
		errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
	}
	return append(errs, quantity(name, q, path)...)
}

// isNative: the resource is Kubernetes' own, not one that some device brings.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended: the resource is a device's, counted in whole numbers, and a quota can name it.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// countedResources are Kubernetes' own resources that come whole.
var countedResources = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// standardResources are known to Kubernetes, though not all of them are a container's.
const standardResources = " requests.cpu requests.memory requests.ephemeral-storage limits.cpu limits.memory " +
	"limits.ephemeral-storage pods resourcequotas services replicationcontrollers secrets configmaps " +
	"persistentvolumeclaims storage requests.storage services.nodeports services.loadbalancers "

// quantity complains about amounts below nothing, and about parts of what comes whole.
func quantity(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than or equal to 0")}
	}
	if whole := isExtended(name) || slices.Contains(countedResources, name); whole && q.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(path, q, "must be an integer")}
	}
	return nil
}

func validateSecurityContext(sc *corev1.SecurityContext, path *field.Path) field.ErrorList {
	if sc == nil {
		return nil
	}
	var errs field.ErrorList
	if sc.RunAsUser != nil {
		errs = append(errs, invalid(path.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))...)
	}
	if sc.RunAsGroup != nil {
		errs = append(errs, invalid(path.Child("runAsGroup"), *sc.RunAsGroup, validation.IsValidGroupID(*sc.RunAsGroup))...)
	}
	no := sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if no && sc.Privileged != nil && *sc.Privileged {
		errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
	}
	return errs
}
