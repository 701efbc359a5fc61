package apiserver

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"kubarium.dev/api"
)

// column is one column of kubectl get: its definition and how a cell is read.
type column struct {
	name, kind, format string // kind is "string" or "integer"
	wide               bool   // shown with -o wide only
	text               string // what the column tells
	cell               func(obj api.Object, now time.Time) any
}

// columns are the columns of each kind, as Kubernetes prints them, behind the name, which all have.
var columns = map[*api.Kind][]column{
	api.Namespaces:     namespaceColumns,
	api.Nodes:          nodeColumns,
	api.Pods:           podColumns,
	api.Services:       serviceColumns,
	api.Endpoints:      endpointsColumns,
	api.ConfigMaps:     configMapColumns,
	api.Events:         eventColumns,
	api.Deployments:    deploymentColumns,
	api.ReplicaSets:    replicaSetColumns,
	api.EndpointSlices: sliceColumns,

	api.Secrets:              secretColumns,
	api.ResourceQuotas:       quotaColumns,
	api.LimitRanges:          {createdColumn},
	api.DaemonSets:           daemonSetColumns,
	api.StatefulSets:         statefulSetColumns,
	api.ControllerRevisions:  revisionColumns,
	api.Jobs:                 jobColumns,
	api.Ingresses:            ingressColumns,
	api.IngressClasses:       ingressClassColumns,
	api.NetworkPolicies:      policyColumns,
	api.ServiceCIDRs:         serviceCIDRColumns,
	api.IPAddresses:          ipAddressColumns,
	api.PodDisruptionBudgets: budgetColumns,
	api.Roles:                {createdColumn},
	api.ClusterRoles:         {createdColumn},
	api.RoleBindings:         roleBindingColumns,
	api.ClusterRoleBindings:  clusterRoleBindingColumns,
	api.Leases:               leaseColumns,
	api.PriorityClasses:      priorityClassColumns,
}

var nameColumn = column{
	name: "Name", kind: "string", format: "name",
	text: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	cell: func(obj api.Object, _ time.Time) any { return obj.GetName() },
}

var ageColumn = column{
	name: "Age", kind: "string",
	text: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
	cell: func(obj api.Object, now time.Time) any { return since(obj.GetCreationTimestamp(), now) },
}

// since is how long ago t was, in kubectl's short form.
func since(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// columnsOf are the columns of a kind, in order.
func columnsOf(kind *api.Kind) []column {
	if kind == api.Events {
		return eventColumns // the one kind whose name does not come first
	}
	own, ok := columns[kind]
	if !ok {
		own = []column{ageColumn}
	}
	return append([]column{nameColumn}, own...)
}

// tableOf makes a table of items; head says whether the columns are described, which a watch does once.
func (s *Server) tableOf(c *call, items []api.Object, head bool) *metav1.Table {
	cols := columnsOf(c.kind)
	table := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, Rows: []metav1.TableRow{}}
	if head {
		for _, col := range cols {
			def := metav1.TableColumnDefinition{Name: col.name, Type: col.kind, Format: col.format, Description: col.text}
			if col.wide {
				def.Priority = 1
			}
			table.ColumnDefinitions = append(table.ColumnDefinitions, def)
		}
	}
	include := metav1.IncludeObjectPolicy(c.query.Get("includeObject"))
	now := s.cfg.Now()
	for _, obj := range items {
		row := metav1.TableRow{Cells: make([]any, 0, len(cols))}
		for _, col := range cols {
			row.Cells = append(row.Cells, col.cell(obj, now))
		}
		switch include {
		case metav1.IncludeObject:
			row.Object.Object = typed(c.kind, obj)
		case metav1.IncludeNone:
		default:
			row.Object = runtime.RawExtension{Object: partialOf(obj)}
		}
		table.Rows = append(table.Rows, row)
	}
	if len(items) == 1 {
		table.ResourceVersion = items[0].GetResourceVersion()
	}
	return table
}
