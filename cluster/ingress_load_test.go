package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/cluster"
	"kubarium.dev/cluster/clustertest"
)

// underChange is an Ingress with TLS over pods, which clients of every kind ask while it changes.
type underChange struct {
	t      *testing.T
	c      *clustertest.Cluster
	pairs  []map[string][]byte // that the Secret holds in turn
	asked  atomic.Int64
	failed atomic.Int64
}

// keyPair is a certificate for a host that proves itself, as a Secret's data.
func keyPair(t *testing.T, host string) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
	}
}

// client asks until ctx ends, with new connections or kept ones, plainly or by TLS, whose certificate has to be the host's.
func (u *underChange) client(ctx context.Context, scheme string, kept bool) {
	dial, err := u.c.Dialer("outside", "default")
	if err != nil {
		u.t.Error(err)
		return
	}
	verify := func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname("www.example.com") }
	tr := &http.Transport{DialContext: dial, DisableKeepAlives: !kept, TLSClientConfig: &tls.Config{
		ServerName: "www.example.com", InsecureSkipVerify: true, VerifyConnection: verify, //nolint:gosec // the Secret changes: verify looks at the name
	}}
	defer tr.CloseIdleConnections()
	pace := time.NewTicker(4 * time.Millisecond) // leaves the machine room for the changes
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		<-pace.C
		if err := u.ask(tr, scheme, n); err != nil && u.failed.Add(1) <= 5 {
			u.t.Errorf("%s, kept %v, request %d: %v", scheme, kept, n, err)
		}
		u.asked.Add(1)
	}
}

// ask sends a request to the end, also when the test is over: what is begun counts.
func (u *underChange) ask(tr http.RoundTripper, scheme string, n int) error {
	ctx, cancel := context.WithTimeout(u.t.Context(), 30*time.Second)
	defer cancel()
	method, body := http.MethodGet, ""
	if n%2 == 1 {
		method, body = http.MethodPost, "a body"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://172.30.0.1"+fmt.Sprint(1+n%2)+"/", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Host = "www.example.com"
	req.Header.Set("Accept", "application/json")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var a answer
	if err := json.Unmarshal(text, &a); resp.StatusCode != http.StatusOK || err != nil || !strings.HasPrefix(a.Pod, "shop-") {
		return fmt.Errorf("%s: %q %w", resp.Status, text, err)
	}
	return nil
}

// change makes the n-th change: in turn of the Ingress, of another one, of the Secret, of the Service, of the pods behind it.
func (u *underChange) change(ctx context.Context, n int) error {
	var err error
	var now metav1.PatchOptions
	core, merge := u.c.Client.CoreV1(), types.MergePatchType
	switch n % 5 {
	case 0:
		body := fmt.Sprintf(`{"metadata":{"annotations":{"nginx.ingress.kubernetes.io/proxy-body-size":"%dm"}}}`, 1+n)
		_, err = u.c.Client.NetworkingV1().Ingresses("default").Patch(ctx, "site", merge, []byte(body), now)
	case 1:
		body := fmt.Sprintf(`{"spec":{"rules":[{"host":"h%d.example.com","http":{"paths":[
			{"path":"/","pathType":"Prefix","backend":{"service":{"name":"shop","port":{"number":80}}}}]}}]}}`, n)
		_, err = u.c.Client.NetworkingV1().Ingresses("default").Patch(ctx, "other", merge, []byte(body), now)
	case 2:
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "site"}, Type: corev1.SecretTypeTLS, Data: u.pairs[n/5%len(u.pairs)]}
		_, err = core.Secrets("default").Update(ctx, secret, metav1.UpdateOptions{})
	case 3:
		body := fmt.Sprintf(`{"spec":{"ports":[{"name":"http","port":80,"nodePort":30080},{"name":"more","port":%d,"targetPort":80}]}}`, 1000+n)
		_, err = core.Services("default").Patch(ctx, "shop", merge, []byte(body), now)
	case 4:
		body := fmt.Sprintf(`{"spec":{"replicas":%d}}`, 2+n/5%3)
		_, err = u.c.Client.AppsV1().Deployments("default").Patch(ctx, "shop", merge, []byte(body), now)
	}
	return err
}

// changes makes n changes, one in ten milliseconds, several at once where one takes longer.
func (u *underChange) changes(n int) {
	ctx, cancel := context.WithTimeout(u.t.Context(), 2*time.Minute)
	defer cancel()
	due := make(chan int)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for i := range due {
				if err := u.change(ctx, i); err != nil {
					u.t.Errorf("change %d: %v", i, err)
				}
			}
		})
	}
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range n {
		<-pace.C
		due <- i
	}
	close(due)
	writers.Wait()
}

const secureSite = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site}
spec:
  tls: [{hosts: [www.example.com], secretName: site}]
  rules:
  - host: www.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {name: http}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: other}
spec:
  defaultBackend: {service: {name: shop, port: {number: 80}}}
`

// I-35, I-46, issue 6: no request is lost while Ingresses, Secrets, Services and pods behind them change a hundred times a second, on new
// and kept connections, plain and by TLS.
func TestNoRequestIsLostUnderAHundredChangesASecond(t *testing.T) {
	t.Parallel()
	u := &underChange{t: t, c: clustertest.Start(t, cluster.Options{})}
	for range 4 {
		u.pairs = append(u.pairs, keyPair(t, "www.example.com"))
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "site"}, Type: corev1.SecretTypeTLS, Data: u.pairs[0]}
	if _, err := u.c.Client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	u.c.Apply(web("shop", "v1", 2) + shop + secureSite)
	u.c.Ready("default", 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for _, scheme := range []string{"http", "https"} {
		for _, kept := range []bool{false, true} {
			clients.Go(func() { u.client(ctx, scheme, kept) })
		}
	}
	began := time.Now()
	const changes = 400
	u.changes(changes)
	took := time.Since(began)
	cancel()
	clients.Wait()
	if u.failed.Load() > 0 || u.asked.Load() < 100 {
		t.Errorf("%d of %d requests failed", u.failed.Load(), u.asked.Load())
	}
	t.Logf("%d requests beside %.0f changes a second", u.asked.Load(), changes/took.Seconds())
}
