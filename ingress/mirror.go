package ingress

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	// mirrorTimeout ends a copy that nobody waits for.
	mirrorTimeout = 10 * time.Second
	// maxMirrors is how many copies may be under way: a slow mirror must not gather memory. Others are dropped.
	maxMirrors = 64
)

// mirror sends a copy of a request without body; what becomes of it concerns nobody. uri is what the client asked for.
func (f *front) mirror(to *Filters, method, uri string, header http.Header) {
	select {
	case f.mirrors <- struct{}{}:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, mirrorTimeout)
	r, err := http.NewRequestWithContext(ctx, method, strings.ReplaceAll(to.Mirror, requestURI, uri), nil)
	if err != nil {
		cancel()
		<-f.mirrors
		return
	}
	if r.Header = header.Clone(); to.Auth != nil {
		r.Header.Del("Authorization")
	}
	f.copies.Go(func() {
		defer cancel()
		defer func() { <-f.mirrors }()
		answer, err := f.c.full.mirrors.RoundTrip(r)
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, answer.Body, 1<<20)
		answer.Body.Close()
	})
}

// netip4 is the address of "address:port".
func netip4(text string) netip.Addr {
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return ap.Addr().Unmap()
}
