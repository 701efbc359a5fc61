package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"kubarium.dev/api"
)

// certificates finds the certificate of a name. It never changes.
type certificates struct {
	byName map[string]*tls.Certificate // exact names and "*.example.com"
	any    *tls.Certificate            // of an Ingress that names no hosts
}

// find is the certificate for a name that a client asks for: exact before wildcard, which stands for one label; nil: none.
func (c *certificates) find(name string) *tls.Certificate {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if cert := c.byName[name]; cert != nil {
		return cert
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		if cert := c.byName["*."+rest]; cert != nil {
			return cert
		}
	}
	return c.any
}

// newCertificates reads the Secrets that Ingresses name, the oldest Ingress first. A Secret that is missing or broken is told, and
// its hosts get the ingress's own certificate.
func newCertificates(ingresses []*networkingv1.Ingress, secret func(namespace, name string) *corev1.Secret, parsed *keyPairs) (*certificates, []Problem) {
	c := &certificates{byName: map[string]*tls.Certificate{}}
	var problems []Problem
	for _, ing := range ingresses {
		for i, entry := range ing.Spec.TLS {
			if entry.SecretName == "" {
				continue
			}
			cert, err := parsed.of(secret(ing.Namespace, entry.SecretName))
			if err != nil {
				problems = append(problems, Problem{ing, "TLSSecretUnusable", fmt.Sprintf(
					"spec.tls[%d].secretName: Secret %s/%s %v; its hosts get a self-signed certificate", i, ing.Namespace, entry.SecretName, err)})
				continue
			}
			if len(entry.Hosts) == 0 && c.any == nil {
				c.any = cert
			}
			for _, host := range entry.Hosts {
				if host = strings.ToLower(host); c.byName[host] == nil {
					c.byName[host] = cert
				}
			}
		}
	}
	return c, problems
}

// keyPairs remembers parsed Secrets: parsing a key costs more than all the rest of a change.
type keyPairs struct {
	held map[string]keyPair // by the Secret's name
}

type keyPair struct {
	secret *corev1.Secret // what it was parsed from
	cert   *tls.Certificate
	err    error
}

func (k *keyPairs) of(s *corev1.Secret) (*tls.Certificate, error) {
	if s == nil {
		return nil, fmt.Errorf("does not exist")
	}
	if old, ok := k.held[api.Name(s)]; ok && old.secret == s {
		return old.cert, old.err
	}
	p := keyPair{secret: s}
	cert, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		p.err = fmt.Errorf("holds no usable key pair (%w)", err)
	} else {
		p.cert = &cert
	}
	if k.held == nil {
		k.held = map[string]keyPair{}
	}
	k.held[api.Name(s)] = p
	return p.cert, p.err
}

// selfSigned is the certificate for names without one. It is made when it is first asked for.
type selfSigned struct {
	now  func() time.Time
	once sync.Once
	cert *tls.Certificate
	err  error
}

func newSelfSigned(now func() time.Time) *selfSigned { return &selfSigned{now: now} }

func (s *selfSigned) get() (*tls.Certificate, error) {
	s.once.Do(func() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.err = err
			return
		}
		now := s.now()
		template := &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "kubarium ingress, self-signed"},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), DNSNames: []string{"ingress.local"},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		s.cert, s.err = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	})
	return s.cert, s.err
}

// tlsConfig asks the current certificates at each handshake.
func (c *Controller) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if certs := c.certs.Load(); certs != nil {
				if cert := certs.find(hello.ServerName); cert != nil {
					return cert, nil
				}
			}
			return c.own.get()
		},
	}
}
