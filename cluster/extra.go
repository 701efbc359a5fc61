package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/apiserver"
)

// extra is kubarium's own part of the API, below /kubarium/v1/, behind the API server's authentication.
func (c *Cluster) extra() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kubarium/v1/status", answer(func(r *http.Request) (any, error) { return c.Status(r.Context()) }))
	mux.HandleFunc("GET /kubarium/v1/config", answer(func(*http.Request) (any, error) { return c.Config(), nil }))
	mux.HandleFunc("POST /kubarium/v1/programmed", answer(c.handleProgrammed))
	mux.HandleFunc("GET /kubarium/v1/namespaces/{ns}/services/{name}/why", answer(func(r *http.Request) (any, error) {
		return c.Why(r.Context(), serviceOf(r))
	}))
	mux.HandleFunc("GET /kubarium/v1/namespaces/{ns}/ingresses/{name}/why", answer(func(r *http.Request) (any, error) {
		return c.WhyIngress(r.Context(), serviceOf(r))
	}))
	mux.HandleFunc("GET /kubarium/v1/namespaces/{ns}/pods/{name}/why", answer(func(r *http.Request) (any, error) {
		return c.WhyPod(r.Context(), serviceOf(r))
	}))
	mux.HandleFunc("GET /kubarium/v1/why", answer(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		return c.WhyPacket(q.Get("from"), q.Get("namespace"), q.Get("protocol"), q.Get("to"))
	}))
	mux.HandleFunc("POST /kubarium/v1/namespaces/{ns}/services/{name}/traffic", c.handleTraffic)
	c.extraNames(mux)
	mux.HandleFunc("GET /kubarium/v1/images", answer(func(*http.Request) (any, error) { return c.images.List(), nil }))
	mux.HandleFunc("POST /kubarium/v1/images", answer(func(r *http.Request) (any, error) {
		loaded, err := c.images.LoadFrom(r.Context(), r.Body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return loaded, nil
	}))
	mux.HandleFunc("POST /kubarium/v1/namespaces/{ns}/kubeconfig", answer(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		raw, err := c.KubeconfigFor(r.Context(), r.PathValue("ns"), q.Get("user"), q.Get("role"))
		return json.RawMessage(raw), err
	}))
	mux.HandleFunc("GET /kubarium/v1/images/rules", answer(func(*http.Request) (any, error) { return c.o.Config.Images, nil }))
	mux.HandleFunc("POST /kubarium/v1/nodes", answer(func(r *http.Request) (any, error) {
		var n NodeConfig
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return c.AddNode(r.Context(), n)
	}))
	mux.HandleFunc("GET /kubarium/v1/nodes/{name}/proxy/{what}", c.serveProxy)
	mux.HandleFunc("POST /kubarium/v1/nodes/{name}/{act}", answer(c.handleNode))
	mux.HandleFunc("/kubarium/v1/shell", c.handleShell)
	return mux
}

// serveProxy answers for a node's proxy: metrics, healthz and livez.
func (c *Cluster) serveProxy(w http.ResponseWriter, r *http.Request) {
	m, err := c.machine(r.PathValue("name"))
	if err != nil {
		answer(func(*http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	http.StripPrefix("/kubarium/v1/nodes/"+m.Name+"/proxy", m.proxy).ServeHTTP(w, r)
}

// handleNode does one thing to a node; partition and heal take the other node as "with".
func (c *Cluster) handleNode(r *http.Request) (any, error) {
	name, names := r.PathValue("name"), []string{r.PathValue("name")}
	if with := r.URL.Query().Get("with"); with != "" {
		names = append(names, with)
	}
	// What has begun is finished, also when the client goes.
	ctx := context.WithoutCancel(r.Context())
	switch act := r.PathValue("act"); act {
	case "stop":
		return struct{}{}, c.StopNode(ctx, name)
	case "start":
		return struct{}{}, c.StartNode(ctx, name)
	case "remove":
		return struct{}{}, c.RemoveNode(ctx, name)
	case "partition":
		return struct{}{}, c.Partition(ctx, names...)
	case "heal":
		return struct{}{}, c.Heal(ctx, names...)
	default:
		return nil, apierrors.NewBadRequest("a node knows stop, start, remove, partition and heal, not " + act)
	}
}

func serviceOf(r *http.Request) types.NamespacedName {
	return types.NamespacedName{Namespace: r.PathValue("ns"), Name: r.PathValue("name")}
}

// answer writes what f returns as JSON, or its error as Kubernetes' Status.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		code := http.StatusOK
		if err != nil {
			s := statusOf(err)
			v, code = s, int(s.Code)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v)
	}
}

func statusOf(err error) metav1.Status {
	var s apierrors.APIStatus
	switch {
	case errors.As(err, &s):
		st := s.Status()
		st.Kind, st.APIVersion = "Status", "v1"
		return st
	case errors.Is(err, context.DeadlineExceeded):
		return statusOf(apierrors.NewTimeoutError(err.Error(), 0))
	}
	return statusOf(apierrors.NewInternalError(err))
}

// programmed is the answer to a barrier: the revision that is in effect everywhere.
type programmed struct {
	Revision uint64 `json:"revision"`
}

func (c *Cluster) handleProgrammed(r *http.Request) (any, error) {
	ctx := r.Context()
	if t := r.URL.Query().Get("timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	rev := c.store.Revision()
	return programmed{Revision: rev}, c.Programmed(ctx, rev)
}

// handleTraffic streams samples, a JSON value each. They end, with a last one, when the request's body does: a client that has
// seen enough closes it. Without a body they end after "for".
func (c *Cluster) handleTraffic(w http.ResponseWriter, r *http.Request) {
	o, err := trafficOptions(r)
	if err == nil {
		_, err = c.service(o.Service)
	}
	if err != nil {
		answer(func(*http.Request) (any, error) { return nil, err })(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if r.ContentLength < 0 {
		flush.EnableFullDuplex() // HTTP/2 needs and has no such mode
		go func() {
			defer cancel()
			io.Copy(io.Discard, r.Body) // ends with the request at the latest
		}()
	}
	err = c.Traffic(ctx, o, func(s Sample) error {
		if err := enc.Encode(s); err != nil {
			return err
		}
		return flush.Flush()
	})
	if err != nil && r.Context().Err() == nil {
		enc.Encode(Sample{Error: err.Error()})
	}
}

func trafficOptions(r *http.Request) (TrafficOptions, error) {
	q := r.URL.Query()
	o := TrafficOptions{Service: serviceOf(r), From: q.Get("from"), By: q.Get("by"), Port: q.Get("port"), KeepAlive: q.Get("keepalive") == "true"}
	var errs []error
	duration := func(key string, into *time.Duration) {
		if v := q.Get(key); v != "" {
			d, err := time.ParseDuration(v)
			*into, errs = d, append(errs, err)
		}
	}
	duration("for", &o.For)
	duration("every", &o.Every)
	if v := q.Get("rate"); v != "" {
		f, err := strconv.ParseFloat(v, 64)
		o.Rate, errs = f, append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return o, apierrors.NewBadRequest(err.Error())
	}
	if o.Rate < 0 || o.Rate > maxRate {
		return o, apierrors.NewBadRequest(fmt.Sprintf("rate %v: it must be between 0 and %d requests a second", o.Rate, maxRate))
	}
	return o, nil
}

func (c *Cluster) handleShell(w http.ResponseWriter, r *http.Request) {
	apiserver.ServeExec(w, r, func(ctx context.Context, x apiserver.ExecRequest) error {
		return c.shell(ctx, r.URL.Query().Get("place"), x)
	})
}
