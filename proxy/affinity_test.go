package proxy

import (
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// P-34, P-36, P-37: ClientIP affinity holds a client on one endpoint, moves it when that one goes, and goes with the setting.
func TestAffinityHoldsAClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pods := []*rigPod{r.pod(1), r.pod(2), r.pod(1), r.pod(2)}
	client := r.pod(1)
	svc := service("web", "10.96.0.20", nodePort(30080), sticky(10800))
	all := []discoveryv1.Endpoint{}
	for _, p := range pods {
		all = append(all, ready(p))
	}
	r.put(svc, slice("web", all...))
	for _, to := range []string{"10.96.0.20:80", "172.30.0.12:30080"} {
		if got := r.spread(client.ns, "tcp", to, 150); len(got) != 1 {
			t.Errorf("%s: a sticky client reached %v, want one pod", to, got)
		}
	}
	for range 3 { // the endpoint it sticks to goes: it moves once, and stays there
		first, _ := r.ask(client.ns, "tcp", "10.96.0.20:80")
		var rest []discoveryv1.Endpoint
		for _, e := range all {
			if e.TargetRef.Name+":8080" != first {
				rest = append(rest, e)
			}
		}
		r.put(slice("web", rest...))
		got := r.spread(client.ns, "tcp", "10.96.0.20:80", 20)
		if len(got) != 1 || got[first] != 0 {
			t.Errorf("after %s went, the client reached %v, want one other pod", first, got)
		}
		all = rest
		if len(all) == 1 {
			break
		}
	}
	all = all[:0]
	for _, p := range pods {
		all = append(all, ready(p))
	}
	r.put(service("web", "10.96.0.20", nodePort(30080)), slice("web", all...))
	if got := r.spread(client.ns, "tcp", "10.96.0.20:80", 60); len(got) != 4 {
		t.Errorf("without affinity 60 connections reached %v, want all four", got)
	}
	r.put(svc)
	if got := r.spread(client.ns, "tcp", "10.96.0.20:80", 20); len(got) != 1 {
		t.Errorf("with affinity again the client reached %v, want one pod", got)
	}
}

// P-35: each connection begins the timeout anew; after a pause longer than it, a new choice is made.
func TestAffinityEndsAfterItsTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	r.put(service("web", "10.96.0.20", sticky(1)), slice("web", ready(a), ready(b)))
	first, _ := r.ask(client.ns, "tcp", "10.96.0.20:80")
	for range 6 { // 2.4 s of pauses shorter than the timeout
		<-time.After(400 * time.Millisecond) // the kernel's clock is what is tested
		if pod, _ := r.ask(client.ns, "tcp", "10.96.0.20:80"); pod != first {
			t.Fatalf("a client that calls on moved from %s to %s", first, pod)
		}
	}
	for range 12 {
		<-time.After(1100 * time.Millisecond)
		if pod, _ := r.ask(client.ns, "tcp", "10.96.0.20:80"); pod != first {
			return
		}
	}
	t.Errorf("after twelve pauses longer than the timeout the client is still on %s", first)
}

// P-38: a client keeps its endpoint whichever address of the Service it calls; another client draws for itself.
func TestAffinityIsOfThePortNotOfTheAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	client := r.pod(1)
	var all []discoveryv1.Endpoint
	for i := range 8 {
		all = append(all, ready(r.pod(1+i%2)))
	}
	r.put(service("web", "10.96.0.20", nodePort(30080), externalIP("203.0.113.7"), loadBalancer("203.0.113.8"), sticky(10800)), slice("web", all...))
	first, _ := r.ask(client.ns, "tcp", "10.96.0.20:80")
	for _, to := range []string{"172.30.0.11:30080", "203.0.113.7:80", "203.0.113.8:80", "10.96.0.20:80"} {
		only(t, to, r.spread(client.ns, "tcp", to, 10), first)
	}
	others := map[string]bool{}
	for range 12 { // all of them on one of eight would be no chance
		pod, _ := r.ask(r.pod(1).ns, "tcp", "203.0.113.8:80")
		others[pod] = true
	}
	if len(others) < 2 {
		t.Errorf("twelve clients all reached %v", others)
	}
}

// P-18, P-36: a remembered endpoint that one traffic policy does not use any more is forgotten there, also while the other one still
// falls back to it.
func TestAffinityIsOfOneTrafficPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b, client := r.pod(1), r.pod(2), r.pod(1)
	svc := service("web", "10.96.0.20", nodePort(30080), externalLocal, sticky(10800))
	r.put(svc, slice("web", ready(a)))
	only(t, "the first choice", r.spread(client.ns, "tcp", "10.96.0.20:80", 5), "pod-1-1:8080")
	only(t, "the first choice, Local", r.spread(r.outside, "tcp", "172.30.0.11:30080", 5), "pod-1-1:8080")
	r.put(slice("web", terminating(a), ready(b)))
	only(t, "Local falls back to what ends", r.spread(r.outside, "tcp", "172.30.0.11:30080", 5), "pod-1-1:8080")
	only(t, "Cluster goes to what is ready", r.spread(client.ns, "tcp", "10.96.0.20:80", 5), "pod-2-1:8080")
	r.put(slice("web", ready(a), ready(b)))
	counts, err := r.nodes[0].proxy.Counts(t.Context(), nn("web"))
	if must(t, err); len(counts) != 2 || counts[0].Connections != 10 || counts[1].Connections != 5 {
		t.Errorf("got %+v, want both policies' connections in one count: 10 and 5", counts)
	}
}
