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
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/api"
)

// hostsCert is the certificate of an entry of spec.tls, and the hosts that it is for.
type hostsCert struct {
	hosts []string // as the table files them; one "" for an entry without hosts
	cert  *tls.Certificate
}

// certificates reads the Secrets that the Ingress names. A Secret that is missing or broken is told, and its hosts get the
// ingress's own certificate.
func (c *compiled) certificates(from Sources) {
	for i, entry := range c.ingress.Spec.TLS {
		if entry.SecretName == "" {
			continue
		}
		c.uses["Secret/"+c.ingress.Namespace+"/"+entry.SecretName] = true
		cert, err := from.keys.of(from.secret(c.ingress.Namespace, entry.SecretName))
		if err != nil {
			c.problem("TLSSecretUnusable", "spec.tls[%d].secretName: Secret %s/%s %v; its hosts get a self-signed certificate",
				i, c.ingress.Namespace, entry.SecretName, err)
		}
		held := hostsCert{cert: cert}
		for _, host := range entry.Hosts {
			held.hosts = append(held.hosts, hostKey(host))
		}
		if len(entry.Hosts) == 0 {
			held.hosts = []string{""}
		}
		c.certs = append(c.certs, held)
	}
}

// certificate is the first usable one that the Ingress has for a host; nil: none.
func (c *compiled) certificate(key string) *tls.Certificate {
	for _, held := range c.certs {
		if held.cert != nil && slices.Contains(held.hosts, key) {
			return held.cert
		}
	}
	return nil
}

// keyPairs remembers parsed Secrets: parsing a key costs more than all the rest of a change. A nil one remembers nothing.
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
	if k != nil {
		if old, ok := k.held[api.Name(s)]; ok && old.secret == s {
			return old.cert, old.err
		}
	}
	p := keyPair{secret: s}
	cert, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		p.err = fmt.Errorf("holds no usable key pair (%w)", err)
	} else {
		p.cert = &cert
	}
	if k != nil {
		k.held[api.Name(s)] = p
	}
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
			if t := c.table.Load(); t != nil {
				if cert := t.certificate(hello.ServerName); cert != nil {
					return cert, nil
				}
			}
			return c.own.get()
		},
	}
}
