package app

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	server      = "kubarium-web"
	label       = "version" // the label told first
	probeAgent  = "kube-probe/"
	maxDelay    = 5 * time.Minute
	maxBody     = 1 << 20 // bytes of a request's body that are read, so that the connection can be kept
	defaultCode = 1       // of /crash
)

// serve answers one request.
func (a *App) serve(w http.ResponseWriter, r *http.Request) {
	probe := strings.HasPrefix(r.UserAgent(), probeAgent)
	if !probe {
		a.requests.Add(1)
	}
	w.Header().Set("Server", server)
	if a.draining.Load() && r.ProtoMajor == 1 { // HTTP/2 has no such word: its clients notice the end
		w.Header().Set("Connection", "close")
	}
	if r.ContentLength != 0 {
		io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	}
	code := a.route(w, r)
	if !probe && a.o.Out != nil {
		fmt.Fprintf(a.o.Out, "%s %q %d\n", r.RemoteAddr, r.Method+" "+r.URL.RequestURI()+" "+r.Proto, code)
	}
}

// route picks the answer by the path, and returns its code.
func (a *App) route(w http.ResponseWriter, r *http.Request) int {
	switch {
	case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		return a.grpc(w, r)
	case isWebSocket(r):
		return a.webSocket(w, r)
	}
	head, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch head {
	case "healthz":
		return text(w, http.StatusOK, "ok\n")
	case "readyz":
		return a.readyz(w, r)
	case "status":
		return status(w, rest)
	case "delay":
		return a.delay(w, r, rest)
	case "headers":
		return headers(w, r)
	case "crash":
		return a.crashNow(w, r)
	}
	return a.tell(w, r)
}

func text(w http.ResponseWriter, code int, body string) int {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	io.WriteString(w, body)
	return code
}

// readyz tells, or switches, whether the application is ready.
func (a *App) readyz(w http.ResponseWriter, r *http.Request) int {
	q := r.URL.Query()
	word := q.Get("set")
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		word = q.Get("ready")
	}
	if word != "" {
		ready, err := strconv.ParseBool(word)
		if err != nil {
			return text(w, http.StatusBadRequest, "ready must be true or false\n")
		}
		a.unready.Store(!ready)
		return text(w, http.StatusOK, fmt.Sprintf("ready: %t\n", ready))
	}
	if !a.Ready() {
		return text(w, http.StatusServiceUnavailable, "not ready\n")
	}
	return text(w, http.StatusOK, "ok\n")
}

func status(w http.ResponseWriter, word string) int {
	code, err := strconv.Atoi(word)
	if err != nil || code < 200 || code > 599 {
		return text(w, http.StatusBadRequest, "use: /status/CODE, from 200 to 599\n")
	}
	if code == http.StatusNoContent || code == http.StatusNotModified {
		w.WriteHeader(code)
		return code
	}
	return text(w, code, fmt.Sprintf("%d %s\n", code, http.StatusText(code)))
}

// delay answers late: /delay/300ms, /delay/2 (seconds).
func (a *App) delay(w http.ResponseWriter, r *http.Request, word string) int {
	d, err := time.ParseDuration(word)
	if s, serr := strconv.ParseFloat(word, 64); serr == nil {
		d, err = time.Duration(s*float64(time.Second)), nil
	}
	if err != nil || d < 0 || d > maxDelay {
		return text(w, http.StatusBadRequest, "use: /delay/DURATION, such as /delay/300ms, at most "+maxDelay.String()+"\n")
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	case <-a.end:
	}
	return a.tell(w, r)
}

func headers(w http.ResponseWriter, r *http.Request) int {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\nHost: %s\n", r.Method, r.URL.RequestURI(), r.Proto, r.Host)
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		for _, v := range r.Header[k] {
			fmt.Fprintf(&b, "%s: %s\n", k, v)
		}
	}
	return text(w, http.StatusOK, b.String())
}

// crashNow ends the application at once, as a program that dies: every connection is cut, this one too.
func (a *App) crashNow(w http.ResponseWriter, r *http.Request) int {
	code := defaultCode
	if word := r.URL.Query().Get("code"); word != "" {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 || n > 255 {
			return text(w, http.StatusBadRequest, "code must be from 0 to 255\n")
		}
		code = n
	}
	w.Header().Set("Connection", "close")
	text(w, http.StatusOK, fmt.Sprintf("crash with exit code %d\n", code))
	http.NewResponseController(w).Flush()
	a.crash.CompareAndSwap(0, int64(code)+1)
	a.stop()
	return http.StatusOK
}

// answer is what the application tells, in the order of the text form.
type answer struct {
	Pod       string            `json:"pod"`
	Namespace string            `json:"namespace"`
	Node      string            `json:"node"`
	IP        string            `json:"ip"`
	Image     string            `json:"image"`
	Version   string            `json:"version,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Client    string            `json:"client"`
	Request   string            `json:"request"`
	Host      string            `json:"host"`
}

// tell answers with what the application is and what it was asked, as text or as JSON.
func (a *App) tell(w http.ResponseWriter, r *http.Request) int {
	f := a.facts.Load()
	v := answer{
		Pod: f.Pod, Namespace: f.Namespace, Node: f.Node, IP: f.IP, Image: f.Image, Version: f.Labels[label], Labels: f.Labels,
		Client: r.RemoteAddr, Request: r.Method + " " + r.URL.RequestURI() + " " + r.Proto, Host: r.Host,
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		raw, err := json.Marshal(v)
		if err != nil {
			return text(w, http.StatusInternalServerError, err.Error())
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)+1))
		w.Write(append(raw, '\n'))
		return http.StatusOK
	}
	return text(w, http.StatusOK, v.text())
}

func (v answer) text() string {
	var b strings.Builder
	line := func(key, value string) {
		if value != "" {
			b.WriteString(key + ": " + value + "\n")
		}
	}
	line("pod", v.Pod)
	line("namespace", v.Namespace)
	line("node", v.Node)
	line("ip", v.IP)
	line("image", v.Image)
	line("version", v.Version)
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		if k != label {
			line("label "+k, v.Labels[k])
		}
	}
	line("client", v.Client)
	line("request", v.Request)
	line("host", v.Host)
	return b.String()
}
