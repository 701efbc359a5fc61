package app

import (
	"io"
	"net/http"
	"strconv"
)

// The gRPC health service, by hand: one method with messages of one field is not worth a library of megabytes.
const (
	healthCheck = "/grpc.health.v1.Health/Check"
	// serving and notServing are the values of HealthCheckResponse.ServingStatus.
	serving, notServing       = 1, 2
	codeOK, codeUnimplemented = 0, 12
)

// grpc answers a gRPC request: the health check tells what /readyz would, any other method is not implemented.
func (a *App) grpc(w http.ResponseWriter, r *http.Request) int {
	io.Copy(io.Discard, io.LimitReader(r.Body, maxBody))
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Trailer", "Grpc-Status")
	status := codeUnimplemented
	if r.URL.Path == healthCheck {
		status = codeOK
		state := byte(serving)
		if !a.Ready() {
			state = notServing
		}
		w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, state}) // not compressed, two bytes: field 1, a varint
	}
	h.Set("Grpc-Status", strconv.Itoa(status))
	return http.StatusOK
}
