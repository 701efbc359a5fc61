package ingress

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// I-1, I-36: what a client sends arrives as it was sent, by every method.
func TestMethodPathQueryHeadersAndBodyPassUnchanged(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("echo", backend(t, func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		w.Header().Set("X-Answer", "yes")
		w.Header().Add("Set-Cookie", "a=1; Path=/x")
		w.Header().Add("Set-Cookie", "a=2; Path=/y")
		fmt.Fprintf(w, "%s %s %s %q %s %v", q.Method, q.RequestURI, q.Host, text, q.Header.Get("X-Custom"), q.Header["Te"])
	}))
	r.apply(ingress("web", 0, "- Prefix / echo"))
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"} {
		for _, body := range []string{"", "some body"} {
			got := r.do(method, "shop.example", "/a//b/%2e%2e/%2Fc;x?q=1&&r=%20", body, "X-Custom", "kept")
			want := fmt.Sprintf("%s /a//b/%%2e%%2e/%%2Fc;x?q=1&&r=%%20 shop.example %q kept []", method, body)
			if got.StatusCode != 200 || got.body != want || got.Header.Get("X-Answer") != "yes" || len(got.Header.Values("Set-Cookie")) != 2 {
				t.Errorf("%s: got %d %s %v, want %s", method, got.StatusCode, got.body, got.Header, want)
			}
		}
	}
	if head := r.do("HEAD", "shop.example", "/", ""); head.StatusCode != 200 || head.ContentLength <= 0 || head.body != "" {
		t.Errorf("HEAD: got %d, length %d", head.StatusCode, head.ContentLength)
	}
}
