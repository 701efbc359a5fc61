package api

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// made is an object as a create request makes it: named, defaulted, prepared.
func made(t *testing.T, kind *Kind, text string) Object {
	t.Helper()
	obj := kind.New()
	if err := json.Unmarshal([]byte(text), obj); err != nil {
		t.Fatalf("test's own JSON %s: %v", text, err)
	}
	if obj.GetName() == "" && obj.GetGenerateName() == "" {
		obj.SetName("web")
	}
	if kind.Namespaced {
		obj.SetNamespace("default")
	}
	Default(obj)
	PrepareForCreate(obj)
	return obj
}

// lines is a list of errors, a line each.
func lines(errs field.ErrorList) string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Error())
	}
	return strings.Join(all, "\n")
}

const goodPod = `{"spec":{"containers":[{"name":"a","image":"nginx"}]}}`

func podWith(container string) string {
	return `{"spec":{"containers":[{"name":"a","image":"nginx",` + container + `}]}}`
}

func serviceWith(spec string) string { return `{"spec":{` + spec + `}}` }

func deploymentWith(spec string) string {
	return `{"spec":{` + spec + `,"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"a","image":"b"}]}}}}`
}

// each line is what kube-apiserver 1.37 answers.
func TestValidationSpeaksKubernetesWords(t *testing.T) {
	t.Parallel()
	cases := []struct {
		kind *Kind
		in   string
		want string // all errors, a line each; empty: accepted
	}{
		{Pods, goodPod, ``},
		{Pods, `{}`, `spec.containers: Required value`},
		{Pods, `{"spec":{"shareProcessNamespace":true,"hostPID":true,"containers":[{"name":"a","image":"nginx"}]}}`,
			`spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled`},
		{Pods, `{"metadata":{"name":"Web_1"},"spec":{"containers":[{"name":"a","image":"b"}]}}`,
			`metadata.name: Invalid value: "Web_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{Pods, `{"spec":{"containers":[{"name":"a"}]}}`, `spec.containers[0].image: Required value`},
		{Pods, `{"spec":{"containers":[{"image":"a"}]}}`, `spec.containers[0].name: Required value`},
		{Pods, `{"spec":{"containers":[{"name":"a","image":"b"},{"name":"a","image":"b"}]}}`,
			`spec.containers[1].name: Duplicate value: "a"`},
		{Pods, podWith(`"ports":[{"containerPort":70000}]`),
			`spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive`},
		{Pods, podWith(`"ports":[{"name":"x"}]`), `spec.containers[0].ports[0].containerPort: Required value`},
		{Pods, podWith(`"ports":[{"containerPort":1,"protocol":"HTTP"}]`),
			`spec.containers[0].ports[0].protocol: Unsupported value: "HTTP": supported values: "SCTP", "TCP", "UDP"`},
		{Pods, podWith(`"ports":[{"containerPort":1,"name":"a"},{"containerPort":2,"name":"a"}]`),
			`spec.containers[0].ports[1].name: Duplicate value: "a"`},
		{Pods, podWith(`"readinessProbe":{}`), `spec.containers[0].readinessProbe: Required value: must specify a handler type`},
		{Pods, podWith(`"livenessProbe":{"successThreshold":2,"tcpSocket":{"port":0}}`),
			`spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive
spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1`},
		{Pods, podWith(`"readinessProbe":{"periodSeconds":-1,"httpGet":{"port":"web"},"exec":{"command":["x"]}}`),
			`spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type
spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0`},
		{Pods, podWith(`"resources":{"requests":{"memory":"2Gi"},"limits":{"memory":"1Gi"}}`),
			`spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi`},
		{Pods, podWith(`"resources":{"limits":{"cpus":"1"}}`),
			`spec.containers[0].resources.limits[cpus]: Invalid value: "cpus": must be a standard resource type or fully qualified
spec.containers[0].resources.limits[cpus]: Invalid value: "cpus": must be a standard resource for containers
spec.containers[0].resources.requests[cpus]: Invalid value: "cpus": must be a standard resource type or fully qualified
spec.containers[0].resources.requests[cpus]: Invalid value: "cpus": must be a standard resource for containers`},
		{Pods, podWith(`"resources":{"requests":{"cpu":"-1"}}`),
			`spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{Pods, podWith(`"env":[{"name":"A=B"}]`),
			`spec.containers[0].env[0].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='`},
		{Pods, podWith(`"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"status.phase"}}}]`),
			`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`},
		{Pods, podWith(`"volumeMounts":[{"name":"v","mountPath":"/v"}]`), `spec.containers[0].volumeMounts[0].name: Not found: "v"`},
		{Pods, podWith(`"imagePullPolicy":"Sometimes"`),
			`spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`},
		{Pods, `{"spec":{"restartPolicy":"Maybe","dnsPolicy":"None","containers":[{"name":"a","image":"b"}]}}`,
			`spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"
spec.dnsConfig: Required value: must provide ` + "`dnsConfig` when `dnsPolicy` is None"},
		{Pods, `{"metadata":{"labels":{"a b":"c"}},"spec":{"containers":[{"name":"a","image":"b"}]}}`,
			`metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},

		{Services, serviceWith(`"ports":[{"port":80}]`), ``},
		{Services, serviceWith(`"clusterIP":"None"`), ``},
		{Services, `{}`, `spec.ports: Required value`},
		{Services, serviceWith(`"ports":[{"port":0}]`),
			`spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive`},
		{Services, serviceWith(`"ports":[{"port":80},{"port":80}]`),
			`spec.ports[0].name: Required value
spec.ports[1].name: Required value
spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}`},
		{Services, serviceWith(`"ports":[{"name":"a","port":80},{"name":"a","port":81}]`), `spec.ports[1].name: Duplicate value: "a"`},
		{Services, serviceWith(`"ports":[{"port":80,"protocol":"tcp"}]`),
			`spec.ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`},
		{Services, serviceWith(`"ports":[{"port":80,"nodePort":30080}]`),
			"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{Services, serviceWith(`"type":"NodePort","ports":[{"name":"a","port":80,"nodePort":30080},{"name":"b","port":81,"nodePort":30080}]`),
			`spec.ports[1].nodePort: Duplicate value: 30080`},
		{Services, serviceWith(`"type":"Nodeport","ports":[{"port":80}]`),
			`spec.type: Unsupported value: "Nodeport": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		{Services, serviceWith(`"type":"NodePort","clusterIP":"None","ports":[{"port":80}]`),
			`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`},
		{Services, serviceWith(`"type":"ExternalName"`), `spec.externalName: Required value`},
		{Services, serviceWith(`"clusterIP":"10.96.0.300","ports":[{"port":80}]`),
			`spec.clusterIPs[0]: Invalid value: "10.96.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{Services, serviceWith(`"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":90000}},"ports":[{"port":80}]`),
			`spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400`},
		{Services, serviceWith(`"externalIPs":["127.0.0.1"],"ports":[{"port":80}]`),
			`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`},
		{Services, serviceWith(`"selector":{"app":"a b"},"ports":[{"port":80}]`),
			`spec.selector: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		{Services, serviceWith(`"trafficDistribution":"Near","ports":[{"port":80}]`),
			`spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`},

		{Deployments, deploymentWith(`"selector":{"matchLabels":{"app":"web"}}`), ``},
		{Deployments, `{}`, "spec.selector: Required value\n" +
			"spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`\n" +
			"spec.template.spec.containers: Required value"},
		{Deployments, deploymentWith(`"selector":{"matchLabels":{"app":"other"}}`),
			"spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"},
		{Deployments, deploymentWith(`"selector":{}`), `spec.selector: Invalid value: {}: empty selector is invalid for deployment`},
		{Deployments, deploymentWith(`"replicas":-1,"selector":{"matchLabels":{"app":"web"}},"strategy":{"type":"Recreate","rollingUpdate":{}}`),
			`spec.replicas: Invalid value: -1: must be greater than or equal to 0
` + "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"},
		{Deployments, deploymentWith(`"selector":{"matchLabels":{"app":"web"}},"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":"0%"}}`),
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"},
		{ReplicaSets, `{}`, "spec.selector: Required value\n" +
			"spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`\n" +
			"spec.template.spec.containers: Required value"},

		{EndpointSlices, `{"addressType":"IPv4","endpoints":[{"addresses":["10.244.1.2"]}],"ports":[{"port":80}]}`, ``},
		{EndpointSlices, `{"endpoints":[{"addresses":[]}]}`, `addressType: Required value
endpoints[0].addresses: Required value: must contain at least 1 address`},
		{EndpointSlices, `{"addressType":"IPv4","endpoints":[{"addresses":["::1"]},{"addresses":["169.254.1.1"]}]}`,
			`endpoints[0].addresses: Invalid value: "::1": must be an IPv4 address
endpoints[0].addresses[0]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)
endpoints[1].addresses[0]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`},
		{Endpoints, `{"subsets":[{"ports":[{"port":80}]}]}`,
			"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		{Namespaces, `{"metadata":{"name":"dev.prod"}}`,
			`metadata.name: Invalid value: "dev.prod": must not contain dots`},
		{ConfigMaps, `{"data":{"a b":"c"}}`,
			`data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`},
		{Events, `{"involvedObject":{"namespace":"dev"}}`,
			`involvedObject.namespace: Invalid value: "dev": does not match event.namespace`},
		{Nodes, `{"spec":{"taints":[{"key":"a"}]}}`, `metadata.taints[0].effect: Required value`},
	}
	for _, c := range cases {
		if got := lines(Validate(made(t, c.kind, c.in))); got != c.want {
			t.Errorf("%s %s:\ngot  %s\nwant %s", c.kind, c.in, got, c.want)
		}
	}
}

// fields that may not change.
func TestUpdatesKeepWhatIsImmutable(t *testing.T) {
	t.Parallel()
	cases := []struct {
		kind     *Kind
		old, new string
		want     string // how the errors begin
	}{
		{Services, serviceWith(`"clusterIP":"10.96.0.7","ports":[{"port":80}]`), serviceWith(`"clusterIP":"10.96.0.8","ports":[{"port":80}]`),
			`spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set`},
		{Services, serviceWith(`"clusterIP":"10.96.0.7","ports":[{"port":80}]`), serviceWith(`"ports":[{"port":81}]`), ``},
		{Services, serviceWith(`"clusterIP":"10.96.0.7","ports":[{"port":80}]`), serviceWith(`"type":"ExternalName","externalName":"a.b"`), ``},
		{Deployments, deploymentWith(`"selector":{"matchLabels":{"app":"web"}}`),
			deploymentWith(`"selector":{"matchExpressions":[{"key":"app","operator":"Exists"}]}`),
			`spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Exists"}]}: field is immutable`},
		{Pods, goodPod, `{"spec":{"containers":[{"name":"a","image":"nginx:latest"}]}}`, ``},
		{Pods, goodPod, `{"spec":{"tolerations":[{"key":"a","operator":"Exists"}],"containers":[{"name":"a","image":"nginx"}]}}`, ``},
		{Pods, goodPod, `{"spec":{"containers":[{"name":"a","image":"b"},{"name":"c","image":"d"}]}}`,
			`spec.containers: Forbidden: pod updates may not add or remove containers`},
		{Pods, goodPod, `{"spec":{"nodeName":"n1","containers":[{"name":"a","image":"nginx","imagePullPolicy":"Always"}]}}`,
			"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
				"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
				"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"},
		{ConfigMaps, `{"immutable":true,"data":{"a":"b"}}`, `{"immutable":true,"data":{"a":"c"}}`,
			"data: Forbidden: field is immutable when `immutable` is set"},
		{EndpointSlices, `{"addressType":"IPv4"}`, `{"addressType":"IPv6"}`, `addressType: Invalid value: "IPv6": field is immutable`},
	}
	for _, c := range cases {
		old, obj := made(t, c.kind, c.old), made(t, c.kind, c.new)
		old.SetResourceVersion("7")
		PrepareForUpdate(obj, old)
		got := lines(ValidateUpdate(obj, old))
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s %s -> %s:\ngot  %s\nwant %s", c.kind, c.old, c.new, got, c.want)
		}
	}
}

// the Status object names every cause.
func TestInvalidListsEveryCause(t *testing.T) {
	t.Parallel()
	errs := Validate(made(t, Services, serviceWith(`"type":"x","ports":[{"port":0}]`)))
	s := Invalid(Services, "web", errs).ErrStatus
	if s.Code != 422 || len(s.Details.Causes) != len(errs) || !strings.HasPrefix(s.Message, `Service "web" is invalid: [`) {
		t.Errorf("got %d, %d causes, %q", s.Code, len(s.Details.Causes), s.Message)
	}
	if s.Details.Kind != "Service" || s.Details.Causes[0].Field != "spec.ports[0].port" {
		t.Errorf("details: %+v", s.Details)
	}
}

// whatever JSON says, nothing panics, and a second Default changes nothing.
func FuzzDefaultAndValidate(f *testing.F) {
	for _, text := range []string{
		`{}`, goodPod, serviceWith(`"type":"NodePort","ports":[{"port":80,"targetPort":"x"}],"clusterIPs":["None","::1"]`),
		deploymentWith(`"selector":{"matchLabels":{"app":"web"}},"strategy":{"rollingUpdate":{"maxSurge":"x%"}}`),
		`{"addressType":"IPv4","endpoints":[{"addresses":["1.2.3.4"],"hints":{"forZones":[{"name":"a"}]}}],"ports":[{}]}`,
		`{"spec":{"containers":[{}],"volumes":[{"name":"a","secret":{}}],"affinity":{"nodeAffinity":{}}}}`,
	} {
		for k := range Kinds {
			f.Add(uint8(k), text, `{}`)
			f.Add(uint8(k), `{}`, text)
		}
	}
	f.Fuzz(func(t *testing.T, k uint8, text, before string) {
		kind := Kinds[int(k)%len(Kinds)]
		obj, old := kind.New(), kind.New()
		if json.Unmarshal([]byte(text), obj) != nil || json.Unmarshal([]byte(before), old) != nil {
			return
		}
		Default(old)
		PrepareForCreate(old)
		created, updated, status := Copy(obj), Copy(obj), Copy(obj)
		Default(created)
		PrepareForCreate(created)
		Invalid(kind, "x", Validate(created))
		Validate(obj) // not defaulted
		Default(updated)
		PrepareForUpdate(updated, old)
		Invalid(kind, "x", ValidateUpdate(updated, old))
		SpecChanged(updated, old)
		PrepareForStatusUpdate(status, old)
		ValidateStatusUpdate(status, old)
	})
}

func TestAPodMayOnlyBeGivenAwayByTheScheduler(t *testing.T) {
	t.Parallel()
	pod := made(t, Pods, `{"spec":{"nodeName":"n1","schedulingGates":[{"name":"a"}],"containers":[{"name":"a","image":"b"}]}}`)
	want := "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"
	if got := lines(Validate(pod)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if c := pod.(*corev1.Pod).Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("conditions: %+v", c)
	}
}
