package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
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
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	answered := make(chan struct{}, 1) // so that a request has ended between any two changes
	tr := &http.Transport{MaxIdleConnsPerHost: 8}
	defer tr.CloseIdleConnections()
	post := func() error {
		req, err := http.NewRequest("POST", "http://"+r.plain+"/x", strings.NewReader("body"))
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && string(text) != "web" {
			err = fmt.Errorf("got %q", text)
		}
		return err
	}
	for range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := post(); err != nil {
					t.Error(err)
				}
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	for i := range 100 {
		<-answered
		secret, _ := secretFor(t, "cert", "web.example")
		r.apply(annotate(ingress("web", 0, "- Prefix / web", fmt.Sprintf("h%d Prefix / web", i)), "proxy-body-size", fmt.Sprint(i+1, "m")),
			slice("web", i%3, at[i%3], i%2 == 0), slice("web", (i+1)%3, at[(i+1)%3], true), secret)
	}
	cancel()
	clients.Wait()
}
