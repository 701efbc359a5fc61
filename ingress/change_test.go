package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// I-45: a stopping ingress finishes what is under way and takes nothing new.
func TestStoppingLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	began, finish := make(chan struct{}, 2), make(chan struct{})
	r.expose("web", backend(t, func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-finish
		fmt.Fprint(w, "finished")
	}))
	r.apply(ingress("web", 0, "- Prefix / web"))
	got := make(chan string, 1)
	go func() { got <- r.get("a", "/").body }()
	<-began
	r.stop()
	r.until("nobody is let in", func() bool {
		c, err := net.Dial("tcp", r.plain)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(finish)
	if text := <-got; text != "finished" {
		t.Errorf("got %q", text)
	}
	<-r.served
}

// I-46, I-35: no request is lost while Ingresses, endpoints and Secrets change under load.
func TestNoRequestIsLostWhileEverythingChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	at := []string{named(t, "web"), named(t, "web"), named(t, "web")}
	r.expose("web", at...)
	r.apply(ingress("web", 0, "- Prefix / web"))
	var failed, done atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	tr := &http.Transport{MaxIdleConnsPerHost: 8}
	defer tr.CloseIdleConnections()
	for range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				req, _ := http.NewRequest("POST", "http://"+r.plain+"/x", strings.NewReader("body"))
				resp, err := tr.RoundTrip(req)
				if err != nil {
					failed.Add(1)
					continue
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(text) != "web" {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	for i := range 100 {
		secret, _ := secretFor(t, "cert", "web.example")
		r.apply(annotate(ingress("web", 0, "- Prefix / web", fmt.Sprintf("h%d Prefix / web", i)), "proxy-body-size", fmt.Sprint(i+1, "m")),
			slice("web", i%3, at[i%3], i%2 == 0), slice("web", (i+1)%3, at[(i+1)%3], true), secret)
	}
	cancel()
	clients.Wait()
	if failed.Load() != 0 || done.Load() < 100 {
		t.Errorf("%d of %d requests were lost", failed.Load(), done.Load())
	}
}
