package ingress

import (
	"net/http"
	"testing"
)

// I-42: the cookie of affinity carries every option that was asked for.
func TestTheAffinityCookieCarriesItsOptions(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.expose("web", named(t, "1"), named(t, "2"))
	ing := ingress("web", 0, "a Prefix / web")
	for key, value := range map[string]string{"affinity": "cookie", "session-cookie-name": "s", "session-cookie-path": "/p",
		"session-cookie-max-age": "9", "session-cookie-samesite": "Lax", "session-cookie-secure": "true"} {
		annotate(ing, key, value)
	}
	r.apply(ing)
	got := r.get("a", "/")
	cookies := got.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("got %q, want one cookie", got.Header["Set-Cookie"])
	}
	c := cookies[0]
	if c.Name != "s" || c.Value == "" || c.Path != "/p" || c.MaxAge != 9 || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
		t.Errorf("got %q, want s of /p for 9 s, Secure, HttpOnly, SameSite=Lax", c.Raw)
	}
}
