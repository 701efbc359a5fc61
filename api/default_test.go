package api

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// parse makes an object of one JSON text.
func parse[T Object](t *testing.T, text string, into T) T {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("test's own JSON: %v", err)
	}
	return into
}

// asMap is an object as JSON has it, for comparing.
func asMap(t *testing.T, obj any) map[string]any {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

//
func TestAServiceIsDefaultedAsKubernetesDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"the seed's ClusterIP Service": {
			`{"spec":{"selector":{"app":"ngx"},"ports":[{"port":80}]}}`,
			`{"selector":{"app":"ngx"},"ports":[{"port":80,"protocol":"TCP","targetPort":80}],"type":"ClusterIP",
			  "sessionAffinity":"None","internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"}`,
		},
		"a NodePort has an external policy": {
			`{"spec":{"type":"NodePort","ports":[{"port":80,"targetPort":"web","nodePort":30080}]}}`,
			`{"ports":[{"port":80,"protocol":"TCP","targetPort":"web","nodePort":30080}],"type":"NodePort","sessionAffinity":"None",
			  "internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"}`,
		},
		"a load balancer allocates node ports": {
			`{"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`,
			`{"ports":[{"port":80,"protocol":"TCP","targetPort":80}],"type":"LoadBalancer","sessionAffinity":"None",
			  "internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Cluster","allocateLoadBalancerNodePorts":true,
			  "ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"}`,
		},
		"affinity lasts three hours": {
			`{"spec":{"sessionAffinity":"ClientIP"}}`,
			`{"type":"ClusterIP","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":10800}},
			  "internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"}`,
		},
		"headless without selector may hold both families": {
			`{"spec":{"clusterIP":"None"}}`,
			`{"clusterIP":"None","type":"ClusterIP","sessionAffinity":"None","internalTrafficPolicy":"Cluster",
			  "ipFamilies":["IPv4","IPv6"],"ipFamilyPolicy":"RequireDualStack"}`,
		},
		"ExternalName has no addresses": {
			`{"spec":{"type":"ExternalName","externalName":"example.com"}}`,
			`{"type":"ExternalName","externalName":"example.com","sessionAffinity":"None"}`,
		},
	} {
		svc := parse(t, c.in, &corev1.Service{})
		Default(svc)
		var want map[string]any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, asMap(t, svc.Spec)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

//
func TestAPodIsDefaultedAsKubernetesDoes(t *testing.T) {
	t.Parallel()
	pod := parse(t, `{"spec":{"containers":[{"name":"web","image":"nginx","ports":[{"containerPort":80}],
		"env":[{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}],
		"resources":{"limits":{"cpu":"100m"}},
		"readinessProbe":{"httpGet":{"port":80}}}],"volumes":[{"name":"v"}]}}`, &corev1.Pod{})
	Default(pod)
	want := parse(t, `{"spec":{"restartPolicy":"Always","dnsPolicy":"ClusterFirst","schedulerName":"default-scheduler",
		"terminationGracePeriodSeconds":30,"securityContext":{},"enableServiceLinks":true,"volumes":[{"name":"v","emptyDir":{}}],
		"containers":[{"name":"web","image":"nginx","imagePullPolicy":"Always","ports":[{"containerPort":80,"protocol":"TCP"}],
		"env":[{"name":"IP","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIP"}}}],
		"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File",
		"resources":{"limits":{"cpu":"100m"},"requests":{"cpu":"100m"}},
		"readinessProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,
		"successThreshold":1,"failureThreshold":3}}]}}`, &corev1.Pod{})
	if d := cmp.Diff(asMap(t, want), asMap(t, pod)); d != "" {
		t.Errorf("pod (-want +got):\n%s", d)
	}
}

// the template of a Deployment has what pod templates have, not what only pods have.
func TestADeploymentAndItsTemplateAreDefaulted(t *testing.T) {
	t.Parallel()
	d := parse(t, `{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"x:1","resources":{"limits":{"cpu":"1"}}}]}}}}`,
		&appsv1.Deployment{})
	Default(d)
	want := parse(t, `{"spec":{"replicas":1,"revisionHistoryLimit":10,"progressDeadlineSeconds":600,
		"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"}},
		"template":{"spec":{"restartPolicy":"Always","dnsPolicy":"ClusterFirst","schedulerName":"default-scheduler",
		"terminationGracePeriodSeconds":30,"securityContext":{},"containers":[{"name":"a","image":"x:1",
		"imagePullPolicy":"IfNotPresent","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File",
		"resources":{"limits":{"cpu":"1"}}}]}}}}`, &appsv1.Deployment{})
	if d := cmp.Diff(asMap(t, want), asMap(t, d)); d != "" {
		t.Errorf("deployment (-want +got):\n%s", d)
	}
}

//
func TestOtherKindsAreDefaulted(t *testing.T) {
	t.Parallel()
	ns := parse(t, `{"metadata":{"name":"dev"}}`, &corev1.Namespace{})
	Default(ns)
	if got := ns.Labels[corev1.LabelMetadataName]; got != "dev" || ns.Status.Phase != corev1.NamespaceActive {
		t.Errorf("namespace: label %q, phase %q", got, ns.Status.Phase)
	}
	slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{}}}
	Default(slice)
	if p := slice.Ports[0]; p.Name == nil || *p.Protocol != corev1.ProtocolTCP {
		t.Errorf("slice port: %+v", p)
	}
	node := parse(t, `{"status":{"capacity":{"cpu":"4"}}}`, &corev1.Node{})
	Default(node)
	if got := node.Status.Allocatable.Cpu().Value(); got != 4 {
		t.Errorf("allocatable cpu: got %d, want the capacity's 4", got)
	}
}

func TestDefaultsAreStable(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds {
		once := k.New()
		Default(once)
		twice := Copy(once)
		Default(twice)
		if d := cmp.Diff(asMap(t, once), asMap(t, twice)); d != "" {
			t.Errorf("%s: a second Default changes it:\n%s", k, d)
		}
	}
}

func TestAnImageWithoutTagIsLatest(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"nginx": "latest", "nginx:1.27": "1.27", "reg:5000/nginx": "latest", "reg:5000/a/b:v1": "v1",
		"nginx@sha256:00": "", "nginx:1@sha256:00": "1", "": "",
	} {
		if got := imageTag(image); got != want {
			t.Errorf("imageTag(%q) = %q, want %q", image, got, want)
		}
	}
}
