package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// handlers checks a container's probes and what it runs when it starts and stops.
func (v containerRules) handlers(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			errs = append(errs, v.handler(lifecycleActions(l.PostStart), path.Child("lifecycle", "postStart"))...)
		}
		if l.PreStop != nil {
			errs = append(errs, v.handler(lifecycleActions(l.PreStop), path.Child("lifecycle", "preStop"))...)
		}
	}
	errs = append(errs, v.probe(c.LivenessProbe, path.Child("livenessProbe"))...)
	errs = append(errs, once(c.LivenessProbe, path.Child("livenessProbe"))...)
	errs = append(errs, v.probe(c.ReadinessProbe, path.Child("readinessProbe"))...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(path.Child("readinessProbe", "terminationGracePeriodSeconds"),
			*p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	errs = append(errs, v.probe(c.StartupProbe, path.Child("startupProbe"))...)
	return append(errs, once(c.StartupProbe, path.Child("startupProbe"))...)
}

// once: one success is enough for probes other than readiness.
func once(p *corev1.Probe, path *field.Path) field.ErrorList {
	if p == nil || p.SuccessThreshold == 1 {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1")}
}

func (v containerRules) probe(p *corev1.Probe, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := v.handler(actions{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, path)
	errs = append(errs, notNegative(path.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))...)
	errs = append(errs, notNegative(path.Child("timeoutSeconds"), int64(p.TimeoutSeconds))...)
	errs = append(errs, notNegative(path.Child("periodSeconds"), int64(p.PeriodSeconds))...)
	errs = append(errs, notNegative(path.Child("successThreshold"), int64(p.SuccessThreshold))...)
	errs = append(errs, notNegative(path.Child("failureThreshold"), int64(p.FailureThreshold))...)
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

// actions is what a probe or a lifecycle hook can do; exactly one of them must be set.
type actions struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func lifecycleActions(h *corev1.LifecycleHandler) actions {
	return actions{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}
}

func (v containerRules) handler(a actions, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	set := 0
	check := func(name string, isSet bool, validate func(*field.Path) field.ErrorList) {
		if !isSet {
			return
		}
		if set++; set > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, validate(path.Child(name))...)
	}
	check("exec", a.exec != nil, func(p *field.Path) field.ErrorList {
		if len(a.exec.Command) == 0 {
			return field.ErrorList{field.Required(p.Child("command"), "")}
		}
		return nil
	})
	check("httpGet", a.http != nil, func(p *field.Path) field.ErrorList { return validateHTTPGet(a.http, p) })
	check("tcpSocket", a.tcp != nil, func(p *field.Path) field.ErrorList { return portNumberOrName(p.Child("port"), a.tcp.Port) })
	check("grpc", a.grpc != nil, func(p *field.Path) field.ErrorList {
		return portNumberOrName(p.Child("port"), intstr.FromInt32(a.grpc.Port))
	})
	check("sleep", a.sleep != nil, func(p *field.Path) field.ErrorList {
		if v.grace != nil && (a.sleep.Seconds < 0 || a.sleep.Seconds > *v.grace) {
			return field.ErrorList{field.Invalid(p, a.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *v.grace))}
		}
		return nil
	})
	if set == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(get *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if get.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	}
	errs = append(errs, portNumberOrName(path.Child("port"), get.Port)...)
	errs = append(errs, supportedOr(path.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range get.HTTPHeaders {
		errs = append(errs, invalid(path.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	return errs
}
