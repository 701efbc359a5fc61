package ingress

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

var errStopping = &refused{http.StatusServiceUnavailable, "the ingress is stopping"}

// tunnels are upgraded connections, and answers that end with theirs. They live until one side ends, or the listener's drain.
type tunnels struct {
	mu    sync.Mutex // guards the rest
	open  map[io.Closer]bool
	empty chan struct{} // of the open ones: closed when the last has gone
	over  bool
}

func (t *tunnels) add(c io.Closer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	if len(t.open) == 0 {
		t.open, t.empty = map[io.Closer]bool{}, make(chan struct{})
	}
	t.open[c] = true
	return true
}

func (t *tunnels) remove(c io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.open, c); len(t.open) == 0 {
		close(t.empty)
	}
}

// wait returns when there are none, or when ctx ends.
func (t *tunnels) wait(ctx context.Context) {
	for ctx.Err() == nil {
		t.mu.Lock()
		n, empty := len(t.open), t.empty
		t.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-empty:
		case <-ctx.Done():
		}
	}
}

// close ends every tunnel.
func (t *tunnels) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for c := range t.open {
		c.Close()
	}
}

// upgrade sends an upgrade to WebSocket on. When the backend agrees, both sides speak through it as they like.
func (x *exchange) upgrade(e *endpoint, c *conn) error {
	c.patience, c.watched = x.timeout(x.filters().Read, defaultRead), nil
	c.out = x.head(c.out[:0], true)
	if err := x.send(c); err != nil {
		return err
	}
	h, err := answerHead(c.br, x.entry.method, c.fields, nil)
	c.fields = h.fields
	if err != nil {
		return refuseBroken(err)
	}
	if h.status != http.StatusSwitchingProtocols {
		return x.receive(e, c, &h)
	}
	if !equalFold(h.upgrade, "websocket") {
		return refuseBroken(errSwitched)
	}
	head := append(h.appendTo(nil, nil), "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	if _, err := c.br.Discard(h.size); err != nil {
		return err
	}
	x.ctx.Response.SetStatusCode(h.status)
	c.patience = 0
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if !x.f.tunnels.add(c) {
		return errStopping
	}
	f, below := x.f, x.ctx.Conn()
	x.ctx.HijackSetNoResponse(true)
	x.ctx.Hijack(func(client net.Conn) {
		defer f.tunnels.remove(c)
		defer c.Close()
		if _, err := client.Write(head); err == nil {
			splice(client, below, c)
		}
	})
	return nil
}

// splice copies both ways until the backend has ended. below is the client's connection itself, which the hijacked one does not
// close.
func splice(client, below net.Conn, c *conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(c.Conn, client)
		half, ok := c.Conn.(interface{ CloseWrite() error })
		if !ok || err != nil || half.CloseWrite() != nil {
			c.Close()
		}
	}()
	_, _ = io.Copy(client, c.br)
	// The backend has said its last word; a client that waits for more would wait forever.
	below.Close()
	c.Close()
	<-done
}
