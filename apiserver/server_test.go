package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"kubarium.dev/api"
	"kubarium.dev/apiserver"
	"kubarium.dev/store"
)

// cluster is an API server on a loopback listener with TLS, over a store in a temporary folder.
type cluster struct {
	store      *store.Store
	authority  *apiserver.Authority
	url        string
	config     *rest.Config
	kubeconfig string
}

// start brings a cluster up with namespaces default and dev; it is gone when the test ends.
func start(t *testing.T, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	return startOn(t, store.Options{NoSync: true}, change...)
}

// startDurable is start with a disk that is synced.
func startDurable(t testing.TB) *cluster { return startOn(t, store.Options{}) }

func startOn(t testing.TB, o store.Options, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	authority, err := apiserver.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	conf := apiserver.Config{Store: db, Authority: authority}
	for _, f := range change {
		f(&conf)
	}
	server, err := apiserver.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l, authority.ServerTLS()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	c := &cluster{store: db, authority: authority, url: "https://" + l.Addr().String()}
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	write(t, c.kubeconfig, string(authority.Kubeconfig("test", c.url)))
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.config.QPS = -1
	for _, name := range []string{"default", "dev"} {
		ns := &corev1.Namespace{}
		ns.Name, ns.Status.Phase = name, corev1.NamespaceActive
		ns.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
		c.put(t, ns)
	}
	return c
}

// put writes an object into the store, past the API.
func (c *cluster) put(t testing.TB, obj api.Object) {
	t.Helper()
	if _, err := c.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(obj) }); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) client(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// ask makes a request with the bearer token and returns the answer and its body.
func (c *cluster) ask(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.authority.Token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.http(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// http is a client that trusts the cluster and has no certificate.
func (c *cluster) http(t *testing.T) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool()}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// oneKubectl keeps kubectl commands apart: the way they end is a global variable of kubectl's.
var oneKubectl sync.Mutex

type fatal struct {
	message string
	code    int
}

// kubectl runs kubectl's own code against the cluster.
func (c *cluster) kubectl(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	oneKubectl.Lock()
	defer oneKubectl.Unlock()
	var out, errOut bytes.Buffer
	defer func() {
		stdout, stderr = out.String(), errOut.String()
		switch p := recover().(type) {
		case nil:
		case fatal:
			stderr += p.message
			err = fmt.Errorf("exit code %d", p.code)
		default:
			panic(p)
		}
	}()
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(fatal{message, code}) })
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag()
	args = append([]string{"--kubeconfig", c.kubeconfig, "--cache-dir", filepath.Join(filepath.Dir(c.kubeconfig), "cache")}, args...)
	command := cmd.NewKubectlCommand(cmd.KubectlOptions{
		ConfigFlags: flags, Arguments: append([]string{"kubectl"}, args...),
		IOStreams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut},
	})
	command.SetArgs(args)
	command.SetOut(&out)
	command.SetErr(&errOut)
	return "", "", command.ExecuteContext(t.Context())
}

// must runs kubectl and fails the test when it fails.
func (c *cluster) must(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := c.kubectl(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout + stderr
}

// refused runs kubectl, which must fail, and returns what it said.
func (c *cluster) refused(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := c.kubectl(t, args...)
	if err == nil {
		t.Fatalf("kubectl %s succeeded:\n%s%s", strings.Join(args, " "), stdout, stderr)
	}
	return stdout + stderr
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// file puts a manifest into a file.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	write(t, path, content)
	return path
}

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("got:\n%s\nwant it to contain %q", got, w)
		}
	}
}

// anonymous sees /version and the health endpoints, and nothing else.
func TestAnonymousSeesOnlyVersionAndHealth(t *testing.T) {
	t.Parallel()
	c := start(t)
	for path, want := range map[string]int{
		"/version": 200, "/healthz": 200, "/livez": 200, "/readyz": 200, "/readyz?verbose": 200,
		"/api": 401, "/apis": 401, "/openapi/v3": 401, "/": 401, "/metrics": 401, "/kubarium/x": 401,
		"/api/v1/namespaces": 401, "/apis/apps/v1/deployments": 401, "/api/v1/namespaces/default/pods/x/exec?command=id": 401,
	} {
		res, err := c.http(t).Get(c.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: got %d, want %d", path, res.StatusCode, want)
		}
		if want == 401 {
			contains(t, string(body), `"reason":"Unauthorized"`, `"code":401`)
		}
	}
	if res, _ := c.ask(t, "GET", "/api/v1/namespaces", "", "Authorization", "Bearer wrong"); res.StatusCode != 401 {
		t.Errorf("a wrong token got %d", res.StatusCode)
	}
}

// a certificate of another authority does not get past the handshake.
func TestCertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t)
	other, err := apiserver.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(other.AdminCert, other.AdminKey)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.authority.Pool(), Certificates: []tls.Certificate{pair}}}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get(c.url + "/api/v1/namespaces")
	if err == nil {
		res.Body.Close()
		t.Fatalf("got %d, want a failed handshake", res.StatusCode)
	}
}

// what was made once is read back, and nobody else can read it.
func TestAuthorityIsKeptInFilesForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	first, err := apiserver.LoadOrCreateAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := apiserver.LoadOrCreateAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if first.Token != second.Token || !bytes.Equal(first.AdminKey, second.AdminKey) {
		t.Error("the second start has other credentials")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", e.Name(), info.Mode().Perm())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %o, want 700 (%v)", info.Mode().Perm(), err)
	}
	if _, err := apiserver.New(apiserver.Config{}); err == nil {
		t.Error("a server without a store was made")
	}
	if errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// what is not there gets 404, what cannot be done 405, in Status objects.
func TestUnknownPathsAndMethodsGetStatusObjects(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, test := range []struct {
		method, path string
		code         int
		reason       string
	}{
		{"GET", "/nowhere", 404, "NotFound"},
		{"GET", "/api/v2", 404, "NotFound"},
		{"GET", "/apis/nobody.example", 404, "NotFound"},
		{"GET", "/api/v1/widgets", 404, "NotFound"},
		{"GET", "/api/v1/namespaces/dev/pods/a/b/c", 404, "NotFound"},
		{"GET", "/api/v1/pods/a", 404, "NotFound"},
		{"GET", "/api/v1/namespaces/dev/configmaps/a/scale", 404, "NotFound"},
		{"PUT", "/api/v1/namespaces", 405, "MethodNotAllowed"},
		{"POST", "/api/v1/pods", 405, "MethodNotAllowed"},
		{"DELETE", "/api/v1/namespaces/dev/pods/a/status", 405, "MethodNotAllowed"},
	} {
		res, body := c.ask(t, test.method, test.path, "")
		if res.StatusCode != test.code {
			t.Errorf("%s %s: got %d, want %d", test.method, test.path, res.StatusCode, test.code)
		}
		contains(t, body, `"kind":"Status"`, `"reason":"`+test.reason+`"`)
	}
}
