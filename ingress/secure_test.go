package ingress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secretFor is a TLS Secret of a fresh certificate for hosts, and the pool that verifies it.
func secretFor(t testing.TB, name string, hosts ...string) (*corev1.Secret, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: hosts, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey: text, corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
	}}, pool
}

// over asks by HTTPS with SNI, verifying against the pool (nil: not at all).
func (r *rig) over(pool *x509.CertPool, host string, h2 bool) (answer, error) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, InsecureSkipVerify: pool == nil}, Protocols: new(http.Protocols)} //nolint:gosec // a test
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.secure)
	}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(r.t.Context(), "GET", "https://"+host+"/", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, string(text)}, err
}

// I-2, I-27, I-39: the certificate of the name asked for; changed without a restart; broken ones harm nobody; HTTP/2 by ALPN.
func TestCertificatesFollowNamesAndSecrets(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", backend(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Host, q.Header.Get("X-Forwarded-Proto")) }))
	one, onePool := secretFor(t, "one", "one.example")
	wild, wildPool := secretFor(t, "wild", "*.wild.example")
	ing := ingress("web", 0, "- Prefix / web")
	ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"one.example"}, SecretName: "one"}, {Hosts: []string{"*.wild.example"}, SecretName: "wild"},
		{Hosts: []string{"broken.example"}, SecretName: "broken"}, {Hosts: []string{"missing.example"}, SecretName: "missing"}}
	broken := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dev", Name: "broken"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: []byte("x"), corev1.TLSPrivateKeyKey: []byte("y")}}
	r.apply(one, wild, broken, ing)
	for _, h2 := range []bool{false, true} {
		for host, pool := range map[string]*x509.CertPool{"one.example": onePool, "a.wild.example": wildPool, "broken.example": nil, "missing.example": nil, "other": nil} {
			got, err := r.over(pool, host, h2)
			if err != nil || got.body != host+"https" || (got.ProtoMajor == 2) != h2 {
				t.Errorf("%s, HTTP/2 %v: got %q, %v", host, h2, got.body, err)
			}
		}
	}
	if _, err := r.over(wildPool, "a.b.wild.example", false); err == nil {
		t.Error("a wildcard certificate stood for two labels")
	}
	if got := r.get("one.example", "/"); got.StatusCode != 200 {
		t.Errorf("plain http for a host with TLS: got %d, want 200", got.StatusCode)
	}
	next, nextPool := secretFor(t, "one", "one.example")
	r.apply(next)
	if _, err := r.over(onePool, "one.example", false); err == nil {
		t.Error("the old certificate is still served")
	}
	if _, err := r.over(nextPool, "one.example", false); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
}

// I-39: h2c from the client, h2c and HTTPS to the backend, gRPC's trailers and streams.
func TestHTTP2WithoutTLSBothWays(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		line, _ := bufio.NewReader(q.Body).ReadString('\n')
		fmt.Fprintf(w, "%s %s %s", q.Proto, q.Header.Get("Te"), line)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("Grpc-Status", "0")
	}))
	b.Config.Protocols = new(http.Protocols)
	b.Config.Protocols.SetUnencryptedHTTP2(true)
	b.Start()
	t.Cleanup(b.Close)
	r.expose("grpc", b.Listener.Addr().String())
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "secret ", q.TLS != nil) }))
	t.Cleanup(secure.Close)
	r.expose("tls", secure.Listener.Addr().String())
	r.expose("plain", backend(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, q.Proto, q.RequestURI) }))
	r.apply(annotate(ingress("grpc", 0, "grpc Prefix / grpc"), "backend-protocol", "GRPC"), annotate(ingress("tls", 0, "tls Prefix / tls"), "backend-protocol", "HTTPS"),
		ingress("plain", 0, "plain Prefix / plain"))
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	for _, by := range []http.RoundTripper{h2c, http.DefaultTransport} {
		ask := func(host, path string) answer {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.plain+path, strings.NewReader("hello\n"))
			req.Host = host
			req.Header.Set("Te", "trailers")
			return r.send(by, req)
		}
		got := ask("grpc", "/pkg.Svc/M")
		if got.body != "HTTP/2.0 trailers hello\n" || (by == http.RoundTripper(h2c) && got.Trailer.Get("Grpc-Status") != "0") {
			t.Errorf("gRPC: got %q, trailers %v", got.body, got.Trailer)
		}
		if got := ask("tls", "/"); got.body != "secret true" {
			t.Errorf("HTTPS to the backend: got %d %q", got.StatusCode, got.body)
		}
		if got := ask("plain", "/a//b/%2e%2e/%2Fc?q=%20"); got.body != "HTTP/1.1/a//b/%2e%2e/%2Fc?q=%20" {
			t.Errorf("HTTP/1.1 to the backend: got %d %q", got.StatusCode, got.body)
		}
	}
}
