package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
)

func ptr[T any](v T) *T { return &v }

// D-20, D-21
func TestResolvConfFollowsThePolicyAndTheConfig(t *testing.T) {
	t.Parallel()
	host := "# a host\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example.\noptions edns0\n"
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"ClusterFirst", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst},
			"nameserver 10.96.0.10\nsearch dev.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"},
		{"no policy means ClusterFirst", corev1.PodSpec{},
			"nameserver 10.96.0.10\nsearch dev.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"},
		{"Default is the host's", corev1.PodSpec{DNSPolicy: corev1.DNSDefault},
			"nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example\noptions edns0\n"},
		{"ClusterFirst on the host's network is Default", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true},
			"nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example\noptions edns0\n"},
		{"ClusterFirstWithHostNet", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true},
			"nameserver 10.96.0.10\nsearch dev.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"},
		{"None", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"192.0.2.9"}, Searches: []string{"_a.example", "."}, Options: []corev1.PodDNSConfigOption{{Name: "rotate"}}}},
			"nameserver 192.0.2.9\nsearch _a.example .\noptions rotate\n"},
		{"the config is merged", corev1.PodSpec{DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10", "192.0.2.9"}, Searches: []string{"cluster.local", "x.example"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "edns0"}}}},
			"nameserver 10.96.0.10\nnameserver 192.0.2.9\nsearch dev.svc.cluster.local svc.cluster.local cluster.local corp.example x.example\noptions ndots:2 edns0\n"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "web"}, Spec: c.spec}
		got, cut := ResolvConf(pod, Resolver{DNS: netip.MustParseAddr("10.96.0.10"), Domain: "cluster.local", Host: host})
		if diff := cmp.Diff(c.want, got); diff != "" || len(cut) > 0 {
			t.Errorf("%s: -want +got, cut %v:\n%s", c.name, cut, diff)
		}
	}
}

// D-21
func TestResolvConfKeepsToTheResolversLimits(t *testing.T) {
	t.Parallel()
	d := &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}}
	for i := range 40 {
		d.Searches = append(d.Searches, fmt.Sprintf("%s%d.example", strings.Repeat("a", 60), i))
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: d}}
	got, cut := ResolvConf(pod, Resolver{})
	if n := strings.Count(got, "nameserver"); n != 3 || len(cut) != 2 {
		t.Errorf("%d nameservers, cut %v", n, cut)
	}
	for line := range strings.Lines(got) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), "search "); ok && (len(words) > maxSearchChars || len(strings.Fields(words)) > maxSearches) {
			t.Errorf("search has %d characters", len(words))
		}
	}
}

// D-20, D-21: what cannot be read goes, and the event says so in kubelet's words; a search path too long for a resolver goes alone.
func TestWhatIsCutOfAResolvConfIsToldInKubeletsWords(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 127) + "a" // 255 characters, as a host's own file may have
	pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: corev1.DNSDefault, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.4"}}}}
	got, cut := ResolvConf(pod, Resolver{Host: "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch before.example " + long + " after.example\n"})
	if want := "search before.example after.example\n"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
	want := []string{
		"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3",
		"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: before.example after.example",
	}
	if diff := cmp.Diff(want, cut); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestVariablesAreExpandedAsKubernetesDoes(t *testing.T) {
	t.Parallel()
	values := map[string]string{"A": "1", "B": "two"}
	for in, want := range map[string]string{
		"$(A)$(B)": "1two", "$$(A)": "$(A)", "$(C)": "$(C)", "$(A": "$(A", "$": "$", "a$b": "a$b", "$$": "$", "x$(A)y": "x1y", "": "",
	} {
		get := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
		if got := expand(in, get); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// N-7
func TestTheEnvironmentComesFromFieldsAndConfigMaps(t *testing.T) {
	t.Parallel()
	pod := webPod("web-1")
	find := func(_, name string) (*corev1.ConfigMap, error) {
		if name != "cfg" {
			return nil, apierrors.NewNotFound(api.ConfigMaps.GroupResource(), name)
		}
		return &corev1.ConfigMap{Data: map[string]string{"COLOR": "red"}}, nil
	}
	ref := func(name, key string, optional bool) corev1.EnvVar {
		return corev1.EnvVar{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}}
	}
	e, err := newEnvironment(pod, &corev1.Container{
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}}},
		Env: []corev1.EnvVar{
			{Name: "PATH", Value: "/bin"},
			{Name: "V", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['version']"}}},
			{Name: "BOTH", Value: "$(P_COLOR)-$(V)"},
			ref("no", "k", true),
		},
	}, lookup{configMap: find}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PATH=/bin", "HOSTNAME=web-1", "HOME=/root", "P_COLOR=red", "V=v1", "BOTH=red-v1"}
	if diff := cmp.Diff(want, e.list()); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct {
		v    corev1.EnvVar
		want string
	}{{ref("no", "k", false), `configmap "no" not found`}, {ref("cfg", "k", false), "couldn't find key k in ConfigMap dev/cfg"}} {
		if _, err := newEnvironment(pod, &corev1.Container{Env: []corev1.EnvVar{c.v}}, lookup{configMap: find}, nil); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// clock is a clock that moves a second at each look.
func clock() func() time.Time {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { at = at.Add(time.Second); return at }
}

// N-11
func TestALogIsReadFromItsEndFromATimeAndWithTimestamps(t *testing.T) {
	t.Parallel()
	l := &runLog{now: clock()}
	io.WriteString(l, "one\ntwo\nth")
	io.WriteString(l, "ree\nfour")
	l.close()
	since := time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC)
	for _, c := range []struct {
		r    LogRequest
		want string
	}{
		{LogRequest{}, "one\ntwo\nthree\nfour"},
		{LogRequest{Tail: ptr[int64](2)}, "three\nfour"},
		{LogRequest{Tail: ptr[int64](0)}, ""},
		{LogRequest{Since: &since}, "three\nfour"},
		{LogRequest{Limit: ptr[int64](5)}, "one\nt"},
		{LogRequest{Tail: ptr[int64](2), Timestamps: true}, "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four"},
		{LogRequest{Follow: true}, "one\ntwo\nthree\nfour"},
	} {
		var out bytes.Buffer
		c.r.Out = &out
		if err := l.copyTo(t.Context(), c.r); err != nil || out.String() != c.want {
			t.Errorf("%+v: got %q %v, want %q", c.r, out.String(), err, c.want)
		}
	}
}

// N-11: rotated, bounded.
func TestALogIsBoundedAndAFollowerGoesOn(t *testing.T) {
	t.Parallel()
	l := &runLog{now: time.Now}
	r, w := io.Pipe()
	defer r.Close()
	go func() { w.CloseWithError(l.copyTo(context.Background(), LogRequest{Follow: true, Out: w})) }()
	io.WriteString(l, "begin\n")
	first := make([]byte, 6)
	if _, err := io.ReadFull(r, first); err != nil || string(first) != "begin\n" {
		t.Fatalf("got %q %v", first, err)
	}
	for i := range 20000 {
		fmt.Fprintf(l, "line %d of a container that never stops talking\n", i)
	}
	io.WriteString(l, strings.Repeat("x", maxLine+10))
	l.close()
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "xxx") {
		t.Errorf("the follower ended with %v", err)
	}
	if l.size > maxLog {
		t.Errorf("the log holds %d bytes, at most %d are wanted", l.size, maxLog)
	}
}

// N-9
func TestAProbesVerdictNeedsItsThreshold(t *testing.T) {
	t.Parallel()
	tally := tally{good: 2, bad: 3}
	var got []string
	for _, ok := range []bool{true, true, true, false, false, true, false, false, false, false, true, true} {
		tally.add(ok)
		word := "."
		if tally.verdict() {
			word = fmt.Sprint(ok)
		}
		got = append(got, word)
	}
	want := strings.Fields(". true . . . . . . false . . true")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// N-6
func TestThePhaseSumsTheContainersUp(t *testing.T) {
	t.Parallel()
	end := func(code int32) *corev1.ContainerStateTerminated {
		return &corev1.ContainerStateTerminated{ExitCode: code}
	}
	for _, c := range []struct {
		policy corev1.RestartPolicy
		all    []containerView
		want   corev1.PodPhase
	}{
		{"Always", []containerView{{}}, corev1.PodPending},
		{"Always", []containerView{{running: true}, {}}, corev1.PodPending},
		{"Always", []containerView{{running: true}}, corev1.PodRunning},
		{"Always", []containerView{{ended: end(1)}}, corev1.PodRunning},
		{"Always", []containerView{{ended: end(0)}}, corev1.PodRunning},
		{"OnFailure", []containerView{{ended: end(1)}}, corev1.PodRunning},
		{"OnFailure", []containerView{{ended: end(0)}}, corev1.PodSucceeded},
		{"Never", []containerView{{ended: end(0)}, {ended: end(2)}}, corev1.PodFailed},
		{"Never", []containerView{{ended: end(0)}, {running: true}}, corev1.PodRunning},
		{"Never", []containerView{{ended: end(0)}, {ended: end(0)}}, corev1.PodSucceeded},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.policy}}
		for i := range c.all {
			v := &c.all[i]
			v.over = v.ended != nil && !again(pod, roleMain, &corev1.Container{}, v.ended.ExitCode)
		}
		if got := (podView{containers: c.all}).phase(pod); got != c.want {
			t.Errorf("%s %+v: got %s, want %s", c.policy, c.all, got, c.want)
		}
	}
}

// N-6
func TestConditionsKeepTheTimeOfTheirLastTransition(t *testing.T) {
	t.Parallel()
	pod := webPod("web-1")
	pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "x/y"}}
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	v := podView{hostIP: netip.MustParseAddr("172.30.0.11"), podIP: netip.MustParseAddr("10.244.1.2"), wired: true, start: at(0), now: at(1)}
	v.containers = []containerView{{spec: &pod.Spec.Containers[0], running: true, ready: true, started: true}}
	pod.Status = podStatus(pod, v)
	if isReady(pod) {
		t.Error("ready, though its gate is not met")
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: "x/y", Status: corev1.ConditionTrue})
	v.now = at(2)
	pod.Status = podStatus(pod, v)
	got := map[corev1.PodConditionType]string{}
	order := ""
	for _, c := range pod.Status.Conditions {
		order += string(c.Type) + " "
		got[c.Type] = string(c.Status) + " " + c.LastTransitionTime.UTC().Format("5")
	}
	want := map[corev1.PodConditionType]string{
		"PodReadyToStartContainers": "True 1", "Initialized": "True 1", "Ready": "True 2", "ContainersReady": "True 1", "PodScheduled": "True 1",
		"x/y": "True " + metav1.Time{}.UTC().Format("5"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if pod.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("QoS %s", pod.Status.QOSClass)
	}
	if want := "x/y PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled "; order != want {
		t.Errorf("listed as %s, want %s", order, want)
	}
}

func TestTheBackOffDoublesUpToFiveMinutes(t *testing.T) {
	t.Parallel()
	var got []string
	for i := range 9 {
		got = append(got, backOff(i).String())
	}
	want := []string{"0s", "0s", "10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// N-6: a run whose end was told and not taken up yet is followed by no other: the end would not count.
func TestAnEndIsTakenUpBeforeTheNextStart(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	close(over)
	c := &container{w: &worker{}, spec: &corev1.Container{}, running: true, run: &run{done: over}}
	if next := c.advance(t.Context()); next != forever || c.restarts != 0 {
		t.Errorf("comes again after %v, with %d restarts", next, c.restarts)
	}
}
