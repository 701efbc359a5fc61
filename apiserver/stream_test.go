package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/store"
)

// a watch in which nothing happens lasts, however short the time that one write may take.
func TestIdleWatchOutlivesTheWriteDeadline(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			db, err := store.Open(filepath.Join(t.TempDir(), "store.db"), store.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			authority, err := NewAuthority()
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(Config{Store: db, Authority: authority})
			if err != nil {
				t.Fatal(err)
			}
			s.stall = 20 * time.Millisecond
			server := httptest.NewUnstartedServer(s.Handler())
			server.EnableHTTP2 = proto == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			m := &corev1.ConfigMap{}
			m.Namespace, m.Name = "dev", "a"
			if _, err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.Create(m) }); err != nil {
				t.Fatal(err)
			}
			url := server.URL + "/api/v1/configmaps?watch=true&allowWatchBookmarks=true&timeoutSeconds=1"
			for range 2 { // the second on the same connection
				req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+authority.Token)
				res, err := server.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.Proto != proto || !strings.Contains(string(body), "ADDED") || !strings.Contains(string(body), "BOOKMARK") {
					t.Errorf("%s got %q (%v), want an addition and a bookmark at the end", res.Proto, body, err)
				}
			}
		})
	}
}
