package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// The gRPC health check by hand, over the standard library's HTTP/2: a probe is one call with one field each way.
const (
	healthMethod = "/grpc.health.v1.Health/Check"
	// grpcFrame is the length of what precedes a message: a byte for compression and four for its length.
	grpcFrame     = 5
	healthServing = 1 // HealthCheckResponse.SERVING
	fieldOne      = 1<<3 | 2
	fieldStatus   = 1 << 3
)

var healthWords = map[byte]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

// newHealthProber is the HTTP/2 client of a node's gRPC probes, a connection each.
func newHealthProber(dial DialFunc) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, Protocols: p}}
}

func (c *container) askGRPC(ctx context.Context, p *corev1.GRPCAction) error {
	pod := c.w.net.Load()
	if pod == nil {
		return errSandboxEnded
	}
	message := []byte{}
	if p.Service != nil && *p.Service != "" {
		message = binary.AppendUvarint([]byte{fieldOne}, uint64(len(*p.Service)))
		message = append(message, *p.Service...)
	}
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	address := net.JoinHostPort(pod.IP.String(), strconv.Itoa(int(p.Port)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+healthMethod, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", probeAgent)
	resp, err := c.w.n.health.Do(req)
	if err != nil {
		return fmt.Errorf("timeout: failed to connect service %q: %w", address, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeReply))
	if err != nil {
		return fmt.Errorf("health rpc failed: %w", err)
	}
	return healthVerdict(resp, reply)
}

// healthVerdict reads an answer as kubelet words it.
func healthVerdict(resp *http.Response, reply []byte) error {
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // an answer of trailers alone
	}
	switch {
	case resp.StatusCode != http.StatusOK || status == "":
		return fmt.Errorf("health rpc failed: no gRPC answer, but HTTP status %s", resp.Status)
	case status == "12":
		return errors.New("this server does not implement the grpc health protocol (grpc.health.v1.Health)")
	case status != "0":
		return fmt.Errorf("health rpc failed: rpc error: code = %s desc = %s", status, resp.Trailer.Get("Grpc-Message"))
	}
	state := byte(0)
	if len(reply) >= grpcFrame+2 && reply[grpcFrame] == fieldStatus {
		state = reply[grpcFrame+1]
	}
	if state != healthServing {
		return fmt.Errorf("service unhealthy (responded with %q)", healthWords[state])
	}
	return nil
}
