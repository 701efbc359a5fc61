package apiserver

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"kubarium.dev/api"
)

// text makes a text column out of a reader of one Go type.
func text[T api.Object](name string, read func(T) string) column {
	return column{name: name, kind: "string", cell: func(obj api.Object, _ time.Time) any { return read(obj.(T)) }}
}

// wide is text shown with -o wide only.
func wide[T api.Object](name string, read func(T) string) column {
	c := text(name, read)
	c.wide = true
	return c
}

// number makes a column of integers.
func number[T api.Object](name string, read func(T) int64) column {
	return column{name: name, kind: "integer", cell: func(obj api.Object, _ time.Time) any { return read(obj.(T)) }}
}

// orNone is s, or "<none>" for nothing.
func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

var namespaceColumns = []column{
	text("Status", func(n *corev1.Namespace) string { return string(n.Status.Phase) }),
	ageColumn,
}

var nodeColumns = []column{
	text("Status", nodeStatus),
	text("Roles", nodeRoles),
	ageColumn,
	text("Version", func(n *corev1.Node) string { return n.Status.NodeInfo.KubeletVersion }),
	wide("Internal-IP", func(n *corev1.Node) string { return nodeAddress(n, corev1.NodeInternalIP) }),
	wide("External-IP", func(n *corev1.Node) string { return nodeAddress(n, corev1.NodeExternalIP) }),
	wide("OS-Image", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.OSImage) }),
	wide("Kernel-Version", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.KernelVersion) }),
	wide("Container-Runtime", func(n *corev1.Node) string { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }),
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) string {
	const prefix = "node-role.kubernetes.io/"
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, prefix); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	sort.Strings(roles)
	return orNone(strings.Join(roles, ","))
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}

var serviceColumns = []column{
	text("Type", func(s *corev1.Service) string { return string(s.Spec.Type) }),
	text("Cluster-IP", func(s *corev1.Service) string { return orNone(firstOf(s.Spec.ClusterIPs)) }),
	text("External-IP", serviceExternal),
	text("Port(s)", servicePorts),
	ageColumn,
	wide("Selector", func(s *corev1.Service) string { return labels.FormatLabels(s.Spec.Selector) }),
}

func serviceExternal(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all = append(all, in.IP)
			} else if in.Hostname != "" {
				all = append(all, in.Hostname)
			}
		}
		all = append(all, s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	}
	return orNone(strings.Join(s.Spec.ExternalIPs, ","))
}

func servicePorts(s *corev1.Service) string {
	var all []string
	for _, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.NodePort != 0 {
			port += ":" + strconv.Itoa(int(p.NodePort))
		}
		all = append(all, port+"/"+string(p.Protocol))
	}
	return orNone(strings.Join(all, ","))
}

var endpointsColumns = []column{text("Endpoints", endpointsText), ageColumn}

// maxShown is how many endpoints a cell names; as in Kubernetes.
const maxShown = 3

func endpointsText(e *corev1.Endpoints) string {
	var all []string
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 {
			for _, a := range subset.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range subset.Ports {
			for _, a := range subset.Addresses {
				all = append(all, fmt.Sprintf("%s:%d", a.IP, p.Port))
			}
		}
	}
	if more := len(all) - maxShown; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:maxShown], ","), more)
	}
	return orNone(strings.Join(all, ","))
}

var configMapColumns = []column{
	number("Data", func(c *corev1.ConfigMap) int64 { return int64(len(c.Data) + len(c.BinaryData)) }),
	ageColumn,
}

var eventColumns = []column{
	{name: "Last Seen", kind: "string", cell: func(obj api.Object, now time.Time) any { return eventLast(obj.(*corev1.Event), now) }},
	text("Type", func(e *corev1.Event) string { return e.Type }),
	text("Reason", func(e *corev1.Event) string { return e.Reason }),
	text("Object", eventObject),
	wide("Subobject", func(e *corev1.Event) string { return e.InvolvedObject.FieldPath }),
	wide("Source", eventSource),
	text("Message", func(e *corev1.Event) string { return strings.TrimSpace(e.Message) }),
	{name: "First Seen", kind: "string", wide: true,
		cell: func(obj api.Object, now time.Time) any { return eventFirst(obj.(*corev1.Event), now) }},
	{name: "Count", kind: "string", wide: true, cell: func(obj api.Object, _ time.Time) any { return eventCount(obj.(*corev1.Event)) }},
	{name: "Name", kind: "string", format: "name", wide: true, cell: nameColumn.cell},
}

func eventFirst(e *corev1.Event, now time.Time) string {
	if e.FirstTimestamp.IsZero() {
		return since(metav1.NewTime(e.EventTime.Time), now)
	}
	return since(e.FirstTimestamp, now)
}

func eventLast(e *corev1.Event, now time.Time) string {
	if e.Series != nil {
		return since(metav1.NewTime(e.Series.LastObservedTime.Time), now)
	}
	if e.LastTimestamp.IsZero() {
		return eventFirst(e, now)
	}
	return since(e.LastTimestamp, now)
}

func eventObject(e *corev1.Event) string {
	kind := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name == "" {
		return kind
	}
	return kind + "/" + e.InvolvedObject.Name
}

func eventSource(e *corev1.Event) string {
	component := e.Source.Component
	if component == "" {
		component = e.ReportingController
	}
	if e.Source.Host != "" {
		return component + ", " + e.Source.Host
	}
	return component
}

func eventCount(e *corev1.Event) int64 {
	switch {
	case e.Series != nil:
		return int64(e.Series.Count)
	case e.Count > 1:
		return int64(e.Count)
	}
	return 1
}
