package api

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	podresource "k8s.io/component-helpers/resource"
)

// limitsNote is the annotation that tells what a LimitRange gave to a pod.
const limitsNote = "kubernetes.io/limit-ranger"

// ApplyLimits fills in what a LimitRange gives to containers that state nothing, and notes it as Kubernetes does.
func ApplyLimits(l *corev1.LimitRange, pod *corev1.Pod) {
	var limits, requests corev1.ResourceList
	for _, item := range l.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			limits, requests = filled(limits, item.Default), filled(requests, item.DefaultRequest)
		}
	}
	var notes []string
	for _, list := range []struct {
		kind       string
		containers []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range list.containers {
			c := &list.containers[i]
			notes = append(notes, note(c.Resources.Requests, requests, "request for "+list.kind+" "+c.Name)...)
			notes = append(notes, note(c.Resources.Limits, limits, "limit for "+list.kind+" "+c.Name)...)
			c.Resources.Limits, c.Resources.Requests = filled(c.Resources.Limits, limits), filled(c.Resources.Requests, requests)
		}
	}
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitsNote] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// note names what list lacks of defaults.
func note(list, defaults corev1.ResourceList, what string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		if _, ok := list[name]; !ok {
			names = append(names, string(name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{strings.Join(names, ", ") + " " + what}
}

// filled is list with what it lacks of defaults.
func filled(list, defaults corev1.ResourceList) corev1.ResourceList {
	for name, q := range defaults {
		if _, ok := list[name]; ok {
			continue
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[name] = q.DeepCopy()
	}
	return list
}

// CheckLimits says in what a pod goes against a LimitRange: all of it, in Kubernetes' words. nil for nothing.
func CheckLimits(l *corev1.LimitRange, pod *corev1.Pod) error {
	var errs []error
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range containers {
					errs = append(errs, against(item, containers[j].Resources.Requests, containers[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			errs = append(errs, against(item, podresource.PodRequests(pod, podresource.PodResourcesOptions{}),
				podresource.PodLimits(pod, podresource.PodResourcesOptions{}))...)
		}
	}
	return utilerrors.NewAggregate(errs)
}

func against(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(item.Min)) {
		least := item.Min[name]
		request, asked := requests[name]
		limit, limited := limits[name]
		about := fmt.Sprintf("minimum %s usage per %s is %s", name, item.Type, least.String())
		switch {
		case !asked:
			say("%s.  No request is specified", about)
		case request.Cmp(least) < 0:
			say("%s, but request is %s", about, request.String())
		case limited && limit.Cmp(least) < 0:
			say("%s, but limit is %s", about, limit.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(item.Max)) {
		most := item.Max[name]
		request, asked := requests[name]
		limit, limited := limits[name]
		about := fmt.Sprintf("maximum %s usage per %s is %s", name, item.Type, most.String())
		switch {
		case !limited:
			say("%s.  No limit is specified", about)
		case limit.Cmp(most) > 0:
			say("%s, but limit is %s", about, limit.String())
		case asked && request.Cmp(most) > 0:
			say("%s, but request is %s", about, request.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		if err := ratio(name, item, requests[name], limits[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// ratio holds the limit of a resource against its request.
func ratio(name corev1.ResourceName, item *corev1.LimitRangeItem, request, limit resource.Quantity) error {
	most := item.MaxLimitRequestRatio[name]
	about := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, item.Type, most.String())
	switch {
	case request.IsZero():
		return errors.New(about + ", but no request is specified or request is 0")
	case limit.IsZero():
		return errors.New(about + ", but no limit is specified or limit is 0")
	}
	if is := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); is > most.AsApproximateFloat64() {
		return fmt.Errorf("%s, but provided ratio is %f", about, is)
	}
	return nil
}
