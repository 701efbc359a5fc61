package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

func (b *bench) put(obj api.Object) {
	b.t.Helper()
	_, err := b.store.Update(b.t.Context(), func(tx *store.Tx) error {
		old, err := tx.Get(api.KindOf(obj), obj.GetNamespace(), obj.GetName())
		if err != nil {
			return tx.Create(obj)
		}
		obj.SetResourceVersion(old.GetResourceVersion())
		return tx.Update(obj)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}, Data: data}
}

func fromConfigMap(name string) corev1.VolumeSource {
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
}

// expect runs a script in a container of the pod and compares what it says.
func (b *bench) expect(pod *corev1.Pod, container, script, want string) {
	b.t.Helper()
	out, err := b.execIn(pod, container, "sh", "-c", script)
	if got := strings.TrimSpace(out); got != want {
		b.t.Errorf("%s: %s: got %q %v, want %q", container, script, got, err, want)
	}
}

// N-7
func TestContainersOfAPodShareAnEmptyDirThatEndsWithThePod(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("two", "sh", "-c", stay)
	pod.Spec.Containers = append(pod.Spec.Containers, shell("other", stay))
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "share", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "small", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("64Ki"))}}},
	}
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = []corev1.VolumeMount{
			{Name: "share", MountPath: "/srv/data", ReadOnly: i == 1}, {Name: "small", MountPath: "/small"},
			{Name: "share", MountPath: "/sub", SubPathExpr: "a/$(HOSTNAME)"},
		}
	}
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "echo hello >/srv/data/x && cat /srv/data/x", "hello")
	b.expect(pod, "other", "cat /srv/data/x; (echo no >/srv/data/y) 2>/dev/null || echo read-only", "hello\nread-only")
	b.expect(pod, "main", "echo deep >/sub/x; cat /srv/data/a/two/x", "deep")
	b.expect(pod, "main", "head -c 1000000 /dev/zero >/small/x 2>/dev/null || echo full", "full")
	dir := filepath.Join(b.cfg.StateDir, "volumes-n1", string(pod.UID))
	if _, err := os.Stat(filepath.Join(dir, "share", "x")); err != nil {
		t.Error(err)
	}
	b.execIn(pod, "main", "kill", "1")
	b.await(pod, "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	b.expect(pod, "main", "cat /srv/data/x", "hello")
	b.remove(pod, 1)
	b.awaitGone(pod)
	b.awaitNoWorker()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volumes are still there: %v", err)
	}
}

// N-7: a container's first process is started while the pod's network is made, before the volumes are: it sees them all the same, at
// the first attempt.
func TestTheFirstPodOfANodeFindsItsVolumes(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, name := range []string{"first", "second"} {
		pod := commandPod(name, "sh", "-c", "echo $(df --output=size /small) >/data/new; mv /data/new /data/size; "+stay)
		pod.Spec.Volumes = []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "small", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("64Ki"))}}},
		}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "small", MountPath: "/small"}}
		b.create(pod)
		b.awaitReady(pod)
		b.until("the first words of "+name, func() bool { _, err := b.execIn(pod, "main", "cat", "/data/size"); return err == nil })
		b.expect(pod, "main", "cat /data/size", "1K-blocks 64")
		if n := b.reasons(pod)["Failed"]; n > 0 {
			t.Errorf("%s: %d attempts failed: %s", name, n, b.message(pod, "Failed"))
		}
	}
}

// N-7: what is made for a subPath is as open as its volume, also to who is not root.
func TestASubPathIsAsOpenAsItsVolume(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("writer", "sh", "-c", stay)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000)), RunAsGroup: ptr(int64(3000)), FSGroup: ptr(int64(2000))}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/sub", SubPath: "a/b"}, {Name: "data", MountPath: "/expanded", SubPathExpr: "$(NAME)"},
	}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "NAME", Value: "c"}}
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "echo x >/sub/file && echo y >/expanded/file && cat /data/a/b/file /data/c/file; umask", "x\ny\n0022")
	b.expect(pod, "main", `test "$(stat -c '%a %g' /data)" = "$(stat -c '%a %g' /sub)" && echo alike`, "alike")
}

// N-7: whole at once, and only what was asked for.
func TestAConfigMapVolumeFollowsItsConfigMap(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put(configMap("cfg", map[string]string{"a": "1", "b": "2"}))
	pod := commandPod("reader", "sh", "-c", stay)
	items := fromConfigMap("cfg")
	items.ConfigMap.Items = []corev1.KeyToPath{{Key: "a", Path: "deep/er", Mode: ptr[int32](0o600)}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "all", VolumeSource: fromConfigMap("cfg")}, {Name: "items", VolumeSource: items}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "all", MountPath: "/all"}, {Name: "items", MountPath: "/items"}, {Name: "all", MountPath: "/etc/one", SubPath: "a"},
	}
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "ls /all; cat /all/a /all/b /etc/one", "a\nb\n121")
	b.expect(pod, "main", "cat /items/deep/er; stat -Lc %a /items/deep/er; ls /items", "1600\ndeep")
	b.expect(pod, "main", "(echo x >/all/a) 2>/dev/null || echo read-only", "read-only")
	b.put(configMap("cfg", map[string]string{"a": "new", "c": "3"}))
	b.until("the new content", func() bool {
		out, err := b.execIn(pod, "main", "sh", "-c", "ls /all; cat /all/a /all/c /items/deep/er")
		return err == nil && out == "a\nc\nnew3new"
	})
	b.expect(pod, "main", "cat /etc/one", "1") // a subPath does not follow: so it is in Kubernetes
}

// N-7
func TestAVolumeThatIsMissingIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := webPod("web-1") // of built-in pods too
	pod.Spec.Volumes = []corev1.Volume{{Name: "cfg", VolumeSource: fromConfigMap("late")}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "cfg", MountPath: "/cfg"}}
	b.create(pod)
	b.awaitEvent(pod, "FailedMount")
	want := `MountVolume.SetUp failed for volume "cfg" : configmap "late" not found`
	if m := b.message(pod, "FailedMount"); m != want {
		t.Errorf("got %q, want %q", m, want)
	}
	b.put(configMap("late", map[string]string{"k": "v"}))
	b.awaitReady(pod)
	b.expect(pod, "web", "cat /cfg/k", "v")
}

// N-7, N-20: the token is asked for once, and when it gets old.
func TestAProjectedVolumeHoldsTokensFieldsAndResources(t *testing.T) {
	t.Parallel()
	asked := make(chan TokenRequest, 10)
	b := newBench(t, func(c *NodeConfig) {
		c.Token = func(_ context.Context, r TokenRequest) (string, error) { asked <- r; return "secret", nil }
	})
	b.put(configMap("ca", map[string]string{"ca.crt": "CA"}))
	pod := commandPod("api", "sh", "-c", stay)
	pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi")}
	pod.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "me", ExpirationSeconds: ptr[int64](3600)}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "memory", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
			}}},
		}}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/secrets/token"}}
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "cd /var/run/secrets/token; cat token ca.crt memory; echo; cat labels", "secretCA64\napp=\"web\"\nversion=\"v1\"")
	if r := <-asked; r.Audience != "me" || r.Pod.Name != "api" || r.Lifetime.Seconds() != 3600 || len(asked) != 0 {
		t.Errorf("got %+v, and %d more", r, len(asked))
	}
	b.change(pod, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "new"} })
	b.until("the new label", func() bool {
		out, _ := b.execIn(pod, "main", "cat", "/var/run/secrets/token/labels")
		return out == `app="new"`
	})
}

// N-18
func TestAHostPathIsRefusedUnlessTheConfigurationNamesIt(t *testing.T) {
	t.Parallel()
	shared, private := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "f"), []byte("shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(private, filepath.Join(shared, "out")); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *NodeConfig) { c.HostPaths = []string{shared} })
	for path, fine := range map[string]bool{shared: true, private: false, "/": false, shared + "/../": false, shared + "/out": false, shared + "x": false} {
		_, err := b.hostPathVolume(&corev1.HostPathVolumeSource{Path: path})
		if (err == nil) != fine {
			t.Errorf("%s: got %v", path, err)
		}
	}
	pod := commandPod("host", "sh", "-c", stay)
	pod.Spec.Volumes = []corev1.Volume{{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: shared}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "h", MountPath: "/host"}}
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "cat /host/f; echo x >/host/new && cat /host/new", "sharedx")
	b.expect(pod, "main", "ls /host/out/ 2>/dev/null || echo nothing", "nothing") // the link leads nowhere in here
}

// N-18: a link in a volume does not lead a subPath or a mount out of it.
func TestLinksDoNotLeadOutOfAVolume(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("sly", "sh", "-c", stay)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	volume := corev1.VolumeMount{Name: "v", MountPath: "/v"}
	link := shell("link", "ln -s /etc /v/etc; ln -s ../../../../../../../../etc /v/up; mkdir /v/in; ln -s in /v/fine; echo ok >/v/in/x")
	link.VolumeMounts = []corev1.VolumeMount{volume}
	pod.Spec.InitContainers = []corev1.Container{link}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	for name, sub := range map[string]string{"absolute": "etc", "up": "up", "fine": "fine"} {
		c := shell(name, "cat /w/x; ls /w; "+stay)
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/w", SubPath: sub}}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	pod.Spec.Containers = pod.Spec.Containers[1:]
	b.create(pod)
	got := b.await(pod, "partly running", func(p *corev1.Pod) bool {
		n := 0
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil || waitingReason(s) == "RunContainerError" {
				n++
			}
		}
		return n == 3
	})
	for _, s := range got.Status.ContainerStatuses {
		if running := s.State.Running != nil; running != (s.Name == "fine") {
			t.Errorf("%s: got %+v", s.Name, s.State)
		}
	}
	b.expect(pod, "fine", "cat /w/x", "ok")
}

// N-7
func TestSecretsFillVariablesAndVolumes(t *testing.T) {
	t.Parallel()
	pod := webPod("web-1")
	find := lookup{secret: func(_, name string) (*corev1.Secret, error) {
		if name != "s" {
			return nil, errors.New("not found")
		}
		return &corev1.Secret{Data: map[string][]byte{"user": []byte("me"), "pass": []byte("x")}}, nil
	}}
	ref := corev1.LocalObjectReference{Name: "s"}
	e, err := newEnvironment(pod, &corev1.Container{
		EnvFrom: []corev1.EnvFromSource{{Prefix: "S_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref}}},
		Env:     []corev1.EnvVar{{Name: "U", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: "user"}}}},
	}, find, []string{"PATH=/x"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PATH=/x", "HOSTNAME=web-1", "HOME=/root", "S_pass=x", "S_user=me", "U=me"}, e.list()); diff != "" {
		t.Error(diff)
	}
	got := files{}
	if err := got.secret(pod, corev1.SecretProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "user", Path: "u"}}}, 0o400, find); err != nil {
		t.Fatal(err)
	}
	if f := got["u"]; len(got) != 1 || string(f.content) != "me" || f.mode != 0o400 {
		t.Errorf("got %v", got)
	}
	err = files{}.secret(pod, corev1.SecretProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "no", Path: "u"}}}, 0o400, find)
	if err == nil || err.Error() != "secret references non-existent secret key: no" {
		t.Errorf("got %v", err)
	}
}

// N-7: a Secret that comes late is waited for, and a volume follows it.
func TestASecretVolumeFollowsItsSecret(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	secret := func(value string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "s"}, Data: map[string][]byte{"pass": []byte(value)}}
	}
	pod := commandPod("reader", "sh", "-c", stay)
	pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr[int32](0o400)}}}}
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	c.Env = []corev1.EnvVar{{Name: "PASS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "pass"}}}}
	b.create(pod)
	b.awaitEvent(pod, "FailedMount")
	b.put(secret("one"))
	b.awaitReady(pod)
	b.expect(pod, "main", "cat /s/pass; stat -Lc %a /s/pass; echo $PASS", "one400\none")
	b.put(secret("two"))
	b.until("the new content", func() bool {
		out, _ := b.execIn(pod, "main", "sh", "-c", "cat /s/pass; echo $PASS")
		return out == "twoone\n"
	})
}

// N-8: the lesson.
func TestAContainerKnowsTheServicesThatWereThereBeforeIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	service := func(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	b.put(service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}))
	b.put(service("dev", "my-shop", "10.96.0.7", corev1.ServicePort{Name: "web", Port: 80, Protocol: "TCP"}, corev1.ServicePort{Name: "dns-udp", Port: 53, Protocol: "UDP"}))
	b.put(service("dev", "headless", "None", corev1.ServicePort{Port: 80}))
	b.put(service("test", "elsewhere", "10.96.0.8", corev1.ServicePort{Port: 80}))
	before, without := commandPod("before", "sh", "-c", stay), commandPod("without", "sh", "-c", "echo $0; "+stay, "$(MY_SHOP_SERVICE_HOST)")
	before.Spec.Containers[0].Args = []string{"$(MY_SHOP_SERVICE_HOST)"}
	before.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "URL", Value: "http://$(MY_SHOP_SERVICE_HOST)"}}
	without.Spec.EnableServiceLinks = ptr(false)
	b.create(before)
	b.create(without)
	b.awaitReady(before)
	b.awaitReady(without)
	b.put(service("dev", "late", "10.96.0.9", corev1.ServicePort{Port: 80}))
	after := commandPod("after", "sh", "-c", stay)
	b.create(after)
	b.awaitReady(after)
	const list = "env | grep -E '^(MY_SHOP|HEADLESS|ELSEWHERE|LATE|KUBERNETES_SERVICE|URL)' | sort"
	shop := `KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443`
	links := `
MY_SHOP_PORT=tcp://10.96.0.7:80
MY_SHOP_PORT_53_UDP=udp://10.96.0.7:53
MY_SHOP_PORT_53_UDP_ADDR=10.96.0.7
MY_SHOP_PORT_53_UDP_PORT=53
MY_SHOP_PORT_53_UDP_PROTO=udp
MY_SHOP_PORT_80_TCP=tcp://10.96.0.7:80
MY_SHOP_PORT_80_TCP_ADDR=10.96.0.7
MY_SHOP_PORT_80_TCP_PORT=80
MY_SHOP_PORT_80_TCP_PROTO=tcp
MY_SHOP_SERVICE_HOST=10.96.0.7
MY_SHOP_SERVICE_PORT=80
MY_SHOP_SERVICE_PORT_DNS_UDP=53
MY_SHOP_SERVICE_PORT_WEB=80`
	b.expect(before, "main", list, shop+links+"\nURL=http://10.96.0.7")
	b.expect(without, "main", list, shop)
	late := "\nLATE_PORT=tcp://10.96.0.9:80\nLATE_PORT_80_TCP=tcp://10.96.0.9:80\nLATE_PORT_80_TCP_ADDR=10.96.0.9\n" +
		"LATE_PORT_80_TCP_PORT=80\nLATE_PORT_80_TCP_PROTO=tcp\nLATE_SERVICE_HOST=10.96.0.9\nLATE_SERVICE_PORT=80"
	b.expect(after, "main", list, shop+late+links)
	if log := b.logs(without, LogRequest{}); log != "$(MY_SHOP_SERVICE_HOST)\n" {
		t.Errorf("got %q", log)
	}
}

// N-7, N-18: user, group, read-only root, capabilities.
func TestTheSecurityContextIsAProcesssOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	pod := commandPod("secure", "sh", "-c", stay)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr[int64](1000), RunAsGroup: ptr[int64](2000), FSGroup: ptr[int64](3000),
		SupplementalGroups: []int64{4000}, RunAsNonRoot: ptr(true)}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &pod.Spec.Containers[0]
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}
	c.TerminationMessagePath = corev1.TerminationMessagePathDefault
	c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	root := shell("root", stay)
	root.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr[int64](0), RunAsGroup: ptr[int64](0), RunAsNonRoot: ptr(false),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "SYS_ADMIN"}}}
	pod.Spec.Containers = append(pod.Spec.Containers, root)
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "id -u; id -g; echo $HOME", "1000\n2000\n/")
	b.expect(pod, "main", "for d in / /etc /usr /tmp /root; do touch $d/x 2>/dev/null && echo wrote $d; done; touch /v/x && echo wrote /v", "wrote /v")
	b.expect(pod, "main", "grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:0000000000000000")
	b.expect(pod, "main", "echo words >/dev/termination-log && ls /dev/termination-log", "/dev/termination-log")
	b.expect(pod, "root", "id -u; grep CapEff /proc/self/status | tr -d '\\t'", "0\nCapEff:0000000000000001")
	if multiUser() {
		b.expect(pod, "main", "id -G; stat -c %g /v/x", "2000 3000 4000\n3000")
	}
	bad := commandPod("bad", "true")
	bad.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr(true)}
	b.create(bad)
	got := b.await(bad, "refused", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && waitingReason(p.Status.ContainerStatuses[0]) == "CreateContainerConfigError"
	})
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; m != "container has runAsNonRoot and image will run as root" {
		t.Errorf("got %q", m)
	}
}

// N-8: a thousand Services are seven thousand variables, which no message of a socket holds.
func TestAContainerStartsBesideAThousandServices(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	_, err := b.store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 1000 {
			err := tx.Create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: fmt.Sprint("a-service-with-a-name-", i)},
				Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, Name: "http"}}}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pod := commandPod("many", "sh", "-c", stay)
	b.create(pod)
	b.awaitReady(pod)
	b.expect(pod, "main", "env | grep -c ^A_SERVICE_WITH_A_NAME_.*_SERVICE_HOST=; echo $A_SERVICE_WITH_A_NAME_999_PORT", "1000\ntcp://10.96.0.9:80")
}
