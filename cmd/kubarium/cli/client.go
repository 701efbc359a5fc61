package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// client speaks to a running cluster with the administrator's credentials.
type client struct {
	config *rest.Config
	http   *http.Client
}

// client speaks to the cluster that the command line names.
func (a *app) client() (*client, error) {
	st, err := newState(a.name)
	if err != nil {
		return nil, err
	}
	return st.client()
}

func (s state) client() (*client, error) {
	if _, err := s.mustRun(); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.file("kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return &client{config: config, http: h}, nil
}

// do sends a request, with JSON if it has a body, and returns the answer's body; an error answer comes back as Kubernetes' Status
// error.
func (c *client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	return c.send(ctx, method, path, "application/json", body)
}

// send is do with a body of any media type.
func (c *client) send(ctx context.Context, method, path, media string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.config.Host+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", media)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	return nil, answered(resp)
}

func answered(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var s metav1.Status
	if json.Unmarshal(raw, &s) == nil && s.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: s}
	}
	return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(raw)))
}

// get decodes a JSON answer.
func (c *client) get(ctx context.Context, path string, into any) error {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(into)
}
