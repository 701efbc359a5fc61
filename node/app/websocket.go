package app

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
)

// A WebSocket echo (RFC 6455) by hand: what it takes is a handshake and frames.
const (
	webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // the RFC's
	maxFrame      = 1 << 20                                // bytes of one frame that are taken
	finBit        = 0x80
	maskBit       = 0x80
	opcodes       = 0x0f
	opClose       = 8
	opPing        = 9
	opPong        = 10
)

var errFrame = errors.New("a frame that no client may send")

func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") &&
		r.Header.Get("Sec-WebSocket-Key") != ""
}

// webSocket switches the connection over and sends every message back until the client closes or the application ends.
func (a *App) webSocket(w http.ResponseWriter, r *http.Request) int {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return text(w, http.StatusBadRequest, "WebSockets need HTTP/1.1\n")
	}
	defer conn.Close()
	a.keep(conn)
	defer a.forget(conn)
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + webSocketGUID))
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nServer: "+server+
		"\r\nSec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	for echoFrame(conn, rw.Reader) == nil {
		a.touch()
	}
	return http.StatusSwitchingProtocols
}

// keep counts a connection that was taken from the HTTP server among the open ones; the application's end closes it.
func (a *App) keep(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sockets == nil {
		a.sockets = map[net.Conn]struct{}{}
	}
	a.sockets[c] = struct{}{}
	select {
	case <-a.end:
		c.Close() // the end went by before this one was counted
	default:
	}
}

func (a *App) forget(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sockets, c)
}

// echoFrame reads one frame and answers it.
func echoFrame(w io.Writer, r *bufio.Reader) error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	length := uint64(head[1] &^ maskBit)
	switch length {
	case 126:
		var n uint16
		if err := binary.Read(r, binary.BigEndian, &n); err != nil {
			return err
		}
		length = uint64(n)
	case 127:
		if err := binary.Read(r, binary.BigEndian, &length); err != nil {
			return err
		}
	}
	if length > maxFrame || head[1]&maskBit == 0 {
		return errFrame
	}
	body := make([]byte, 4+length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	key, data := body[:4], body[4:]
	for i := range data {
		data[i] ^= key[i%4]
	}
	first := head[0]
	switch first & opcodes {
	case opPing:
		first = finBit | opPong
	case opPong:
		return nil
	}
	if err := writeFrame(w, first, data); err != nil {
		return err
	}
	if first&opcodes == opClose {
		return io.EOF
	}
	return nil
}

func writeFrame(w io.Writer, first byte, data []byte) error {
	frame := []byte{first}
	switch n := len(data); {
	case n < 126:
		frame = append(frame, byte(n))
	case n <= 0xffff:
		frame = binary.BigEndian.AppendUint16(append(frame, 126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 127), uint64(n))
	}
	_, err := w.Write(append(frame, data...))
	return err
}
