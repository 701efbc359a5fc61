package apiserver

import (
	"bytes"
	"testing"
)

// a cluster that comes back at another address has a certificate for it, from the same authority.
func TestAServerThatMovedGetsANewCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := LoadOrCreateAuthority(dir, "127.88.0.1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateAuthority(dir, "127.88.0.1")
	if err != nil || !bytes.Equal(again.server.Leaf.Raw, first.server.Leaf.Raw) {
		t.Errorf("at the same address the certificate changed (%v)", err)
	}
	for range 2 { // the second time from the folder
		moved, err := LoadOrCreateAuthority(dir, "127.89.0.1", "172.30.0.11")
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"127.89.0.1", "172.30.0.11", "kubernetes.default.svc"} {
			if err := moved.server.Leaf.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(moved.CA, first.CA) || !bytes.Equal(moved.AdminCert, first.AdminCert) || moved.Token != first.Token {
			t.Error("more than the server's certificate changed")
		}
	}
}
