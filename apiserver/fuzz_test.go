package apiserver

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/store"
)

// whatever method, path, body and media type: an answer that is no 500, and no panic.
func FuzzRequests(f *testing.F) {
	db, err := store.Open(filepath.Join(f.TempDir(), "store.db"), store.Options{NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	authority, err := NewAuthority()
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Store: db, Authority: authority})
	if err != nil {
		f.Fatal(err)
	}
	ns := &corev1.Namespace{}
	ns.Name, ns.Spec.Finalizers = "dev", []corev1.FinalizerName{corev1.FinalizerKubernetes}
	if _, err := db.Update(f.Context(), func(tx *store.Tx) error { return tx.Create(ns) }); err != nil {
		f.Fatal(err)
	}
	services := "/api/v1/namespaces/dev/services"
	for _, seed := range [][4]string{
		{"POST", services, `{"metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}`, "application/json"},
		{"PATCH", services + "/a?fieldManager=x&force=1", "apiVersion: v1\nkind: Service\nspec: {ports: [{port: 81}]}", "application/apply-patch+yaml"},
		{"PATCH", services + "/a", `{"spec":{"ports":[{"$patch":"delete","port":80}]}}`, "application/strategic-merge-patch+json"},
		{"PATCH", services + "/a", `[{"op":"add","path":"/spec/ports/-","value":{"port":1}}]`, "application/json-patch+json"},
		{"GET", "/api/v1/services?labelSelector=a%20in%20(b)&fieldSelector=spec.type!=x&limit=1", "", ""},
		{"GET", "/api/v1/pods?watch=1&timeoutSeconds=-1&resourceVersion=x", "", ""},
		{"DELETE", services + "?propagationPolicy=Orphan", `{"dryRun":["All"]}`, "application/json"},
		{"GET", "/apis//v1//", "", ""}, {"GET", "/api", "", ""}, {"GET", "//", "", ""},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "k8s\x00\x0a", "application/vnd.kubernetes.protobuf"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, method, target, body, media string) {
		if !strings.HasPrefix(target, "/") || strings.Contains(target, "watch") {
			return // no request for this handler, or one that lasts
		}
		r, err := http.NewRequest(method, "https://127.0.0.1"+target, strings.NewReader(body))
		if err != nil {
			return // no request at all
		}
		r.Header.Set("Authorization", "Bearer "+authority.Token)
		r.Header.Set("Content-Type", media)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s %q: %s", method, target, body, w.Body)
		}
	})
}
