package apiserver_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/apiserver"
)

// a certificate that one makes oneself, in the administrators' name, is worth nothing.
func TestAForgedCertificateIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject:     pkix.Name{CommonName: "kubarium-admin", Organization: []string{"system:masters"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Issuer: pkix.Name{CommonName: "kubarium"}}
	der, err := x509.CreateCertificate(rand.Reader, forged, forged, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}}}
	t.Cleanup(tr.CloseIdleConnections)
	res, err := (&http.Client{Transport: tr}).Get(c.url + "/api/v1/nodes")
	if err == nil {
		res.Body.Close()
		t.Fatalf("got %d, want a failed handshake", res.StatusCode)
	}
}

// no trick with a path leads from what one may see to what one may not.
func TestPathTricksLeadNowhere(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.bindEdit(t)
	c.put(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "crown"}, Data: map[string][]byte{"k": []byte("jewels")}})
	cert, key, err := c.authority.IssueClient("jane")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool(), Certificates: []tls.Certificate{pair}}}
	t.Cleanup(tr.CloseIdleConnections)
	for _, path := range []string{
		"/api/v1/namespaces/dev/../default/secrets/crown", "/api/v1/namespaces/dev/%2e%2e/default/secrets/crown",
		"/api/v1/namespaces/dev%2F..%2Fdefault/secrets/crown", "/api/v1//namespaces/default/secrets/crown",
		"/api/v1/namespaces//secrets/crown", "/api/v1/namespaces/default/secrets/crown/", "//api/v1/namespaces/default/secrets/crown",
		"/healthz/../api/v1/namespaces/default/secrets/crown", "/version/../api/v1/secrets", "/openapi/../api/v1/secrets",
		"/api/v1/namespaces/dev/secrets/..%2F..%2Fdefault%2Fsecrets%2Fcrown", "/api/v1/namespaces/dev/pods/x/proxy/../../../../default/secrets/crown",
		"/api/v1/namespaces/DEFAULT/secrets/crown", "/API/v1/namespaces/default/secrets/crown", "/api/v1/namespaces/default/secrets/crown?namespace=dev",
		"/api/v1/secrets?fieldSelector=metadata.namespace%3Ddev", "/api/v1/watch/secrets", "/apis//v1/secrets", "/api/v1/namespaces/default;/secrets/crown",
		"/api/v1/namespaces/default/secrets/crown%00", "/metrics", "/kubarium/exec", "/debug/pprof/",
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut(path, "?")
		u.Opaque, u.RawQuery = "//"+u.Host+path, query
		req := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"X-Http-Method-Override": {"GET"}, "X-Remote-User": {"kubarium-admin"},
			"X-Remote-Group": {"system:masters"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Original-Url": {"/api/v1/namespaces/default/secrets/crown"}}}
		res, err := (&http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req.WithContext(t.Context()))
		if err != nil {
			continue // not even a request
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode < 400 || strings.Contains(string(body), "amV3ZWxz") {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
}

// who may write roles in a namespace gives nobody more than he has, in Kubernetes' words; with the verbs escalate and bind he does.
func TestNobodyGrantsMoreThanHeHas(t *testing.T) {
	t.Parallel()
	c := start(t)
	admin := c.client(t).RbacV1()
	bind := func(name, user string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		if _, err := admin.Roles("dev").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.RoleBindings("dev").Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{Kind: "Role", Name: name}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	all := []string{"*"}
	rules := func(verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{rbacv1.GroupName}, Resources: all}
	}
	pods := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	secrets := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	bind("writer", "jane", rules("get", "create", "update", "patch", "delete"), pods)
	bind("keeper", "kim", rules("get", "create", "update", "patch", "escalate", "bind"))
	bind("reader", "nobody", secrets)
	role := func(name string, r ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: r}
	}
	to := func(name, role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: role},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}
	}
	jane, kim := c.as(t, "jane").RbacV1(), c.as(t, "kim").RbacV1()
	if _, err := jane.Roles("dev").Create(t.Context(), role("same", pods), metav1.CreateOptions{}); err != nil {
		t.Errorf("a role with what she has: %v", err)
	}
	_, err := jane.Roles("dev").Create(t.Context(), role("more", pods, secrets), metav1.CreateOptions{})
	const want = `roles.rbac.authorization.k8s.io "more" is forbidden: user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:` +
		"\n" + `{APIGroups:[""], Resources:["secrets"], Verbs:["get", "list"]}`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("a role with more: got\n%v\nwant\n%s", err, want)
	}
	if _, err := jane.RoleBindings("dev").Create(t.Context(), to("up", "reader"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a binding to more: %v", err)
	}
	patch := []byte(`{"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}`)
	if _, err := jane.Roles("dev").Patch(t.Context(), "same", types.MergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a patch to more: %v", err)
	}
	if _, err := jane.RoleBindings("dev").Create(t.Context(), to("ghost", "none"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a binding to a role that is not there: %v, want 404", err)
	}
	if _, err := kim.Roles("dev").Create(t.Context(), role("more", secrets), metav1.CreateOptions{}); err != nil {
		t.Errorf("with escalate: %v", err)
	}
	if _, err := kim.RoleBindings("dev").Create(t.Context(), to("up", "reader"), metav1.CreateOptions{}); err != nil {
		t.Errorf("with bind: %v", err)
	}
}

// a client that dribbles its header is hung up on, and one that says nothing, too; others are served meanwhile.
func TestSlowClientsAreHungUpOn(t *testing.T) {
	t.Parallel()
	c := start(t, func(conf *apiserver.Config) { conf.HeaderTimeout = 2 * time.Second })
	address := strings.TrimPrefix(c.url, "https://")
	conf := &tls.Config{RootCAs: c.authority.Pool(), NextProtos: []string{"http/1.1"}}
	var slow []net.Conn
	for i := range 50 {
		conn, err := tls.Dial("tcp", address, conf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if i%2 == 0 {
			fmt.Fprintf(conn, "GET /version HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		}
		slow = append(slow, conn)
	}
	if res, _ := c.ask(t, "GET", "/version", ""); res.StatusCode != http.StatusOK {
		t.Errorf("meanwhile others got %d", res.StatusCode)
	}
	for _, conn := range slow {
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatalf("still connected: %v", err)
		}
	}
}

// a body that comes too slowly does not hold its connection for ever.
func TestASlowBodyIsCutOff(t *testing.T) {
	t.Parallel()
	c := start(t, func(conf *apiserver.Config) { conf.BodyTimeout = 300 * time.Millisecond })
	conn, err := tls.Dial("tcp", strings.TrimPrefix(c.url, "https://"), &tls.Config{RootCAs: c.authority.Pool(), NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/v1/namespaces/dev/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{", c.authority.Token)
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 400 {
		t.Errorf("got %d", res.StatusCode)
	}
}

// bodies beyond 3 MiB and objects beyond 1.5 MiB are refused as Kubernetes refuses them.
func TestWhatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	const path = "/api/v1/namespaces/dev/configmaps"
	body := func(size int) string {
		return `{"metadata": {"name": "a", "annotations": {}}, "data": {"k": "` + strings.Repeat("x", size) + `"}}`
	}
	for _, test := range []struct {
		size, code int
		want       string
	}{
		{4 << 20, http.StatusRequestEntityTooLarge, "Request entity too large: limit is 3145728"},
		{2 << 20, http.StatusUnprocessableEntity, "Too long: may not be more than 1048576 bytes"},
		{1 << 19, http.StatusCreated, `"name":"a"`},
	} {
		res, text := c.ask(t, "POST", path, body(test.size))
		if res.StatusCode != test.code {
			t.Errorf("%d bytes: got %d, want %d", test.size, res.StatusCode, test.code)
		}
		if !strings.Contains(text, test.want) {
			t.Errorf("%d bytes: %.300s", test.size, text)
		}
	}
	// An Endpoints object has no limit of its own: the store's holds.
	addresses := make([]string, 0, 60000)
	for i := range cap(addresses) {
		addresses = append(addresses, fmt.Sprintf(`{"ip":"10.%d.%d.%d","nodeName":"abcdefghij"}`, i>>16, i>>8&255, i&255))
	}
	res, text := c.ask(t, "POST", "/api/v1/namespaces/dev/endpoints", `{"metadata": {"name": "a"}, "subsets": [{"addresses": [`+
		strings.Join(addresses, ",")+`], "ports": [{"port": 80}]}]}`)
	if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, "object is too large: limit is 1572864") {
		t.Errorf("an object beyond the limit: %d %.300s", res.StatusCode, text)
	}
}
