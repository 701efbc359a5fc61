package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// Dialer connects to an address of the cluster's own network.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// serveProxy answers anything below pods/NAME/proxy, services/NAME/proxy and nodes/NAME/proxy with what the pod, a ready endpoint
// of the Service, or the node answers. NAME may be "https:NAME:PORT".
func (s *Server) serveProxy(c *call) error {
	if s.cfg.Dial == nil {
		return errOther(http.StatusNotImplemented, "NotImplemented", "this server proxies nothing")
	}
	scheme, name, port, ok := splitTarget(c.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", c.kind.Singular, c.name))
	}
	address, err := s.proxyTarget(c, name, port)
	if err != nil {
		return err
	}
	base, rest := proxyPath(c.r.URL)
	if rest == "" && (c.r.Method == http.MethodGet || c.r.Method == http.MethodHead) {
		to := base + "/"
		if c.r.URL.RawQuery != "" {
			to += "?" + c.r.URL.RawQuery
		}
		http.Redirect(c.w, c.r, to, http.StatusMovedPermanently)
		return nil
	}
	target := &url.URL{Scheme: scheme, Host: address, RawQuery: c.r.URL.RawQuery}
	if target.Path, err = url.PathUnescape(rest); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	target.RawPath = rest
	s.throughProxy(c, target, base)
	return nil
}

func (s *Server) throughProxy(c *call, target *url.URL, base string) {
	transport := &http.Transport{DialContext: s.cfg.Dial, DisableKeepAlives: true, TLSClientConfig: podTLS()}
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // streams are passed on as they come
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = target, target.Host
			// What says who the caller is to this server is nobody else's business.
			for name := range r.Out.Header {
				if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
					r.Out.Header.Del(name)
				}
			}
			r.SetXForwarded()
			r.Out.Header.Set("X-Forwarded-Uri", r.In.URL.Path)
		},
		ModifyResponse: func(res *http.Response) error {
			if to, err := res.Location(); err == nil && to.Host == target.Host {
				res.Header.Set("Location", base+to.RequestURI())
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, apierrors.NewServiceUnavailable("error trying to reach service: "+err.Error()))
		},
	}
	proxy.ServeHTTP(c.w, c.r)
}

// splitTarget takes "name", "name:port" or "scheme:name:port" apart.
func splitTarget(text string) (scheme, name, port string, ok bool) {
	parts := strings.Split(text, ":")
	scheme = "http"
	switch len(parts) {
	case 1:
		name = parts[0]
	case 2:
		name, port = parts[0], parts[1]
	case 3:
		scheme, name, port = parts[0], parts[1], parts[2]
		if scheme == "" {
			scheme = "http"
		}
	default:
		return "", "", "", false
	}
	return scheme, name, port, name != "" && (scheme == "http" || scheme == "https")
}

// proxyPath splits a path behind ".../proxy".
func proxyPath(u *url.URL) (base, rest string) {
	path := u.EscapedPath()
	parts := strings.SplitAfter(path, "/")
	length := 0
	for i, p := range parts {
		length += len(p)
		if i >= 5 && strings.TrimSuffix(p, "/") == "proxy" {
			base = strings.TrimSuffix(path[:length], "/")
			return base, path[len(base):]
		}
	}
	return path, ""
}

// proxyTarget finds the address that a call means.
func (s *Server) proxyTarget(c *call, name, port string) (string, error) {
	obj, err := s.store.Get(c.kind, c.namespace, name)
	if err != nil {
		return "", err
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		if port == "" {
			port = firstPort(o)
		}
		return proxyAddress(o.Status.PodIP, port)
	case *corev1.Node:
		if port == "" {
			port = "10250" // a kubelet's, which is where Kubernetes leads; nobody listens there
		}
		for _, a := range o.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				return proxyAddress(a.Address, port)
			}
		}
		return "", apierrors.NewBadRequest("node " + name + " has no address")
	}
	return s.endpointOf(obj.(*corev1.Service), port)
}

func firstPort(pod *corev1.Pod) string {
	for _, container := range pod.Spec.Containers {
		if len(container.Ports) > 0 {
			return strconv.Itoa(int(container.Ports[0].ContainerPort))
		}
	}
	return "80"
}

// proxyAddress refuses addresses that lead out of the cluster's network: into this server itself, above all.
func proxyAddress(ip, port string) (string, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() || addr.IsUnspecified() {
		return "", apierrors.NewBadRequest("address not allowed")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", port))
	}
	return net.JoinHostPort(ip, port), nil
}

// endpointOf finds a ready endpoint of a Service: the first, for a port given by name, by number or, if it is the only one, not at all.
func (s *Server) endpointOf(svc *corev1.Service, port string) (string, error) {
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.Name == port || strconv.Itoa(int(p.Port)) == port
	})
	if port == "" && len(svc.Spec.Ports) == 1 {
		i = 0
	}
	if i < 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, svc.Name))
	}
	found, err := s.store.List(context.Background(), api.EndpointSlices, store.Query{
		Index: api.IndexService, Value: svc.Namespace + "/" + svc.Name})
	if err != nil {
		return "", err
	}
	for _, obj := range found.Items {
		slice := obj.(*discoveryv1.EndpointSlice)
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil || *p.Name != svc.Spec.Ports[i].Name {
				continue
			}
			for _, e := range slice.Endpoints {
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && len(e.Addresses) > 0 {
					return proxyAddress(e.Addresses[0], strconv.Itoa(int(*p.Port)))
				}
			}
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", svc.Name))
}
