package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// adminName and adminGroup are what the administrator's certificate and the token stand for; Kubernetes lets the group do
	// everything.
	adminName  = "kubarium-admin"
	adminGroup = "system:masters"
	// certLife is how long certificates last. A cluster on one machine outlives any renewal nobody would think of.
	certLife = 10 * 365 * 24 * time.Hour
	// clockSlack starts certificates in the past, for clients whose clock is behind.
	clockSlack = time.Hour
)

// Authority is the cluster's certificate authority with what it issued: the server's certificate, the administrator's client
// certificate and a bearer token of the same power. It is read only.
type Authority struct {
	CA        []byte // PEM, the certificate everybody trusts
	AdminCert []byte // PEM
	AdminKey  []byte // PEM
	Token     string

	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	server tls.Certificate
}

// NewAuthority makes a fresh authority in memory. hosts are the names and addresses of the server's certificate, beside
// 127.0.0.1, ::1, localhost and the names of Service default/kubernetes.
func NewAuthority(hosts ...string) (*Authority, error) {
	files, err := issue(hosts)
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return parseAuthority(files)
}

// LoadOrCreateAuthority reads the authority kept in dir, or makes one and keeps it there: the folder with mode 0700, each file
// 0600. hosts are as for NewAuthority; when they change, the server gets a new certificate and all else stays.
func LoadOrCreateAuthority(dir string, hosts ...string) (*Authority, error) {
	files, err := readFiles(dir)
	if err == nil {
		return loadAuthority(dir, files, hosts)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	if files, err = issue(hosts); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if err := writeFiles(dir, files); err != nil {
		return nil, fmt.Errorf("keep certificates: %w", err)
	}
	return parseAuthority(files)
}

// loadAuthority gives the server a new certificate if the kept one does not name all hosts: a cluster may come back at other
// addresses.
func loadAuthority(dir string, files map[string][]byte, hosts []string) (*Authority, error) {
	a, err := parseAuthority(files)
	if err != nil {
		return nil, err
	}
	named := func(host string) bool { return a.server.Leaf.VerifyHostname(host) == nil }
	if !slices.ContainsFunc(hosts, func(host string) bool { return !named(host) }) {
		return a, nil
	}
	if files["server.crt"], files["server.key"], err = issueServer(a.ca, a.caKey, hosts); err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	if err := writeFiles(dir, map[string][]byte{"server.crt": files["server.crt"], "server.key": files["server.key"]}); err != nil {
		return nil, fmt.Errorf("keep certificates: %w", err)
	}
	return parseAuthority(files)
}

// ServerTLS is what Server.Serve wants: the server's certificate, and client certificates verified when given.
func (a *Authority) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{a.server},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    a.Pool(),
		NextProtos:   []string{"h2", "http/1.1"},
	}
}

// Pool holds the authority's certificate, for clients.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca)
	return pool
}

// IssueClient makes a client certificate for a user and its groups: PEM of the certificate and of its key.
func (a *Authority) IssueClient(user string, groups ...string) (cert, key []byte, err error) {
	template := leaf(pkix.Name{CommonName: user, Organization: groups}, x509.ExtKeyUsageClientAuth)
	return sign(template, a.ca, a.caKey)
}

// Kubeconfig is a kubeconfig file whose one context, cluster and user are called name, for the administrator at server
// ("https://127.0.0.1:6443"). It is JSON, which every reader of kubeconfig files accepts as YAML.
func (a *Authority) Kubeconfig(name, server string) []byte {
	return a.kubeconfig(name, server, "default", a.AdminCert, a.AdminKey)
}

// KubeconfigFor is a kubeconfig like Kubeconfig's for a user with a certificate of its own, whose commands mean namespace. What
// the user may do roles and bindings say; without any it may do nothing.
func (a *Authority) KubeconfigFor(name, server, namespace, user string) ([]byte, error) {
	cert, key, err := a.IssueClient(user)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s: %w", user, err)
	}
	return a.kubeconfig(name, server, namespace, cert, key), nil
}

func (a *Authority) kubeconfig(name, server, namespace string, cert, key []byte) []byte {
	type object = map[string]any
	b, err := json.MarshalIndent(object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": name,
		"clusters":        []object{{"name": name, "cluster": object{"server": server, "certificate-authority-data": a.CA}}},
		"users":           []object{{"name": name, "user": object{"client-certificate-data": cert, "client-key-data": key}}},
		"contexts":        []object{{"name": name, "context": object{"cluster": name, "user": name, "namespace": namespace}}},
	}, "", "  ")
	if err != nil {
		panic(err) // maps of strings always encode
	}
	return append(b, '\n')
}

// authorityFiles are the names under which an authority is kept.
var authorityFiles = []string{"ca.crt", "ca.key", "server.crt", "server.key", "admin.crt", "admin.key", "token"}

func readFiles(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range authorityFiles {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files[name] = b
	}
	return files, nil
}

func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, raw := range files {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// issue makes everything an authority consists of.
func issue(hosts []string) (map[string][]byte, error) {
	template := leaf(pkix.Name{CommonName: "kubarium"}, x509.ExtKeyUsageAny)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature, nil
	caCert, caKey, err := sign(template, nil, nil)
	if err != nil {
		return nil, err
	}
	ca, key, err := parsePair(caCert, caKey)
	if err != nil {
		return nil, err
	}
	serverCert, serverKey, err := issueServer(ca, key, hosts)
	if err != nil {
		return nil, err
	}
	admin := leaf(pkix.Name{CommonName: adminName, Organization: []string{adminGroup}}, x509.ExtKeyUsageClientAuth)
	adminCert, adminKey, err := sign(admin, ca, key)
	if err != nil {
		return nil, err
	}
	token := make([]byte, 32)
	rand.Read(token)
	return map[string][]byte{
		"ca.crt": caCert, "ca.key": caKey, "server.crt": serverCert, "server.key": serverKey,
		"admin.crt": adminCert, "admin.key": adminKey, "token": []byte(hex.EncodeToString(token)),
	}, nil
}

// issueServer makes the server's certificate.
func issueServer(ca *x509.Certificate, key *ecdsa.PrivateKey, hosts []string) (cert, certKey []byte, err error) {
	server := leaf(pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth)
	addHosts(server, append([]string{"127.0.0.1", "::1", "localhost", "10.96.0.1", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}, hosts...))
	return sign(server, ca, key)
}

func leaf(subject pkix.Name, usage x509.ExtKeyUsage) *x509.Certificate {
	start := time.Now().Add(-clockSlack)
	return &x509.Certificate{
		Subject:     subject,
		NotBefore:   start,
		NotAfter:    start.Add(certLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

func addHosts(template *x509.Certificate, hosts []string) {
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if !slices.Contains(template.DNSNames, h) {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
}

// sign makes a key and a certificate for it, signed by ca, or by itself when ca is nil.
func sign(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if ca == nil {
		ca, caKey = template, private
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &private.PublicKey, caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

func parsePair(cert, key []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, err
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("key is a %T, not ECDSA", pair.PrivateKey)
	}
	return pair.Leaf, private, nil
}

func parseAuthority(files map[string][]byte) (*Authority, error) {
	ca, key, err := parsePair(files["ca.crt"], files["ca.key"])
	if err != nil {
		return nil, fmt.Errorf("ca.crt: %w", err)
	}
	server, err := tls.X509KeyPair(files["server.crt"], files["server.key"])
	if err != nil {
		return nil, fmt.Errorf("server.crt: %w", err)
	}
	if _, _, err := parsePair(files["admin.crt"], files["admin.key"]); err != nil {
		return nil, fmt.Errorf("admin.crt: %w", err)
	}
	return &Authority{
		CA: files["ca.crt"], AdminCert: files["admin.crt"], AdminKey: files["admin.key"], Token: string(files["token"]),
		ca: ca, caKey: key, server: server,
	}, nil
}

// podTLS is how pods are reached over https through the API: nobody signs their certificates, so none is checked, as in
// Kubernetes.
func podTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // G402: see above
