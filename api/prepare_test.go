package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

//
func TestGenerationRisesWithTheSpecOnly(t *testing.T) {
	t.Parallel()
	old := parse(t, `{"metadata":{"name":"d"},"spec":{"replicas":1}}`, &appsv1.Deployment{})
	for name, c := range map[string]struct {
		change func(*appsv1.Deployment)
		want   bool
	}{
		"status":      {func(d *appsv1.Deployment) { d.Status.Replicas = 3 }, false},
		"labels":      {func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }, false},
		"annotations": {func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }, true},
		"spec":        {func(d *appsv1.Deployment) { *d.Spec.Replicas = 2 }, true},
	} {
		d := Copy(old)
		c.change(d)
		if got := SpecChanged(d, old); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if SpecChanged(&corev1.ConfigMap{Data: map[string]string{"a": "b"}}, &corev1.ConfigMap{}) {
		t.Error("a ConfigMap has no spec")
	}
}

// status is not its writer's.
func TestAWriterOfTheObjectCannotWriteItsStatus(t *testing.T) {
	t.Parallel()
	pod := parse(t, `{"spec":{"containers":[{"name":"a"}]},"status":{"phase":"Running","podIP":"1.2.3.4"}}`, &corev1.Pod{})
	PrepareForCreate(pod)
	want := corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort}
	if d := cmp.Diff(want, pod.Status); d != "" {
		t.Errorf("status after create (-want +got):\n%s", d)
	}
	running, update := Copy(pod), Copy(pod)
	running.Status.Phase = corev1.PodRunning
	PrepareForUpdate(update, running)
	if update.Status.Phase != corev1.PodRunning {
		t.Errorf("status after update: %q", update.Status.Phase)
	}
	status := Copy(pod)
	status.Spec.NodeName, status.Status.Phase, status.Status.PodIP = "evil", corev1.PodFailed, "10.244.1.2"
	PrepareForStatusUpdate(status, running)
	if status.Spec.NodeName != "" || status.Status.Phase != corev1.PodFailed || len(status.Status.PodIPs) != 1 {
		t.Errorf("status write: node %q, phase %q, addresses %v", status.Spec.NodeName, status.Status.Phase, status.Status.PodIPs)
	}
}

// a manifest without the allocated values can be applied again.
func TestAllocatedValuesStayWhenTheyAreLeftOut(t *testing.T) {
	t.Parallel()
	old := parse(t, `{"spec":{"type":"NodePort","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"],"ports":[
		{"name":"a","port":80,"nodePort":30080},{"name":"b","port":81,"nodePort":30081}]}}`, &corev1.Service{})
	again := parse(t, `{"spec":{"type":"NodePort","ports":[{"name":"a","port":80},{"name":"b","port":81},{"name":"c","port":82}]}}`,
		&corev1.Service{})
	PrepareForUpdate(again, old)
	if again.Spec.ClusterIP != "10.96.0.7" || len(again.Spec.ClusterIPs) != 1 {
		t.Errorf("clusterIP: %q %v", again.Spec.ClusterIP, again.Spec.ClusterIPs)
	}
	for i, want := range []int32{30080, 30081, 0} {
		if got := again.Spec.Ports[i].NodePort; got != want {
			t.Errorf("port %d: nodePort %d, want %d", i, got, want)
		}
	}
	taken := parse(t, `{"spec":{"type":"NodePort","ports":[{"name":"x","port":80,"nodePort":30080},{"name":"a","port":81}]}}`,
		&corev1.Service{})
	PrepareForUpdate(taken, old)
	if got := taken.Spec.Ports[1].NodePort; got != 0 {
		t.Errorf("a node port that another port took over is kept: %d", got)
	}
}

func TestAServiceDropsWhatItsNewTypeHasNot(t *testing.T) {
	t.Parallel()
	old := parse(t, `{"spec":{"type":"NodePort","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7"],"ipFamilies":["IPv4"],
		"ipFamilyPolicy":"SingleStack","externalTrafficPolicy":"Cluster","ports":[{"port":80,"nodePort":30080}]}}`, &corev1.Service{})
	plain := Copy(old)
	plain.Spec.Type = corev1.ServiceTypeClusterIP
	PrepareForUpdate(plain, old)
	if plain.Spec.Ports[0].NodePort != 0 || plain.Spec.ExternalTrafficPolicy != "" || plain.Spec.ClusterIP == "" {
		t.Errorf("to ClusterIP: %+v", plain.Spec)
	}
	external := Copy(old)
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	PrepareForUpdate(external, old)
	if external.Spec.ClusterIP != "" || external.Spec.IPFamilies != nil || external.Spec.IPFamilyPolicy != nil {
		t.Errorf("to ExternalName: %+v", external.Spec)
	}
}

func TestQualityOfService(t *testing.T) {
	t.Parallel()
	for resources, want := range map[string]corev1.PodQOSClass{
		`{}`:                       corev1.PodQOSBestEffort,
		`{"requests":{"cpu":"1"}}`: corev1.PodQOSBurstable,
		`{"limits":{"cpu":"1"}}`:   corev1.PodQOSBurstable,
		`{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}`: corev1.PodQOSGuaranteed,
		`{"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"1","memory":"1Gi"}}`: corev1.PodQOSBurstable,
	} {
		pod := parse(t, `{"spec":{"containers":[{"resources":`+resources+`}]}}`, &corev1.Pod{})
		if got := qosClass(&pod.Spec); got != want {
			t.Errorf("%s: got %s, want %s", resources, got, want)
		}
	}
}

func TestReadyFollowsTheCondition(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{}
	if Ready(pod) || PodTerminal(pod) || !PodActive(pod) {
		t.Error("a new pod is not ready, not terminal, active")
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	pod.Status.Phase = corev1.PodFailed
	if !Ready(pod) || !PodTerminal(pod) || PodActive(pod) {
		t.Error("a failed pod is terminal and not active")
	}
}

// a binding leaves a pod's generation; another image does not.
func TestABindingIsNoChangeOfAPodsSpec(t *testing.T) {
	t.Parallel()
	old := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "web:1"}}}}
	bound := Copy(old)
	bound.Spec.NodeName = "n1"
	if SpecChanged(bound, old) {
		t.Error("a binding counts")
	}
	bound.Spec.Containers[0].Image = "web:2"
	if !SpecChanged(bound, old) {
		t.Error("another image does not count")
	}
}
