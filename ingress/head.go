package ingress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
)

// maxInterim is how many 1xx answers may come before the final one: a backend that never ends them must not hold a client.
const maxInterim = 16

// Why a backend's answer is refused with 502. Its connection is never used again.
var (
	errAnswerLine    = errors.New("the backend's answer has no status line")
	errAnswerLong    = errors.New("the backend's answer has too long a header")
	errAnswerHalf    = errors.New("the backend's answer ends within its header")
	errAnswerInterim = errors.New("the backend sends interim answers without end")
	errSwitched      = errors.New("the backend switched protocols unasked")
)

// head is a backend's answer up to its body. It lies in the buffer that it was peeked from, until that is read on.
type head struct {
	size    int // octets
	minor   byte
	status  int
	reason  []byte
	fields  rawFields
	length  int64 // of the body; -1: chunked; -2: until the connection ends
	told    bool  // the length is told, if only that of a body which does not come
	keep    bool  // the connection may be used again
	upgrade []byte
	named   []byte // what Connection names, joined by commas
}

// peekHead waits for an answer's header and reads it as strictly as a request's, but for its lines, which a line feed may end: there are
// backends of one line of shell. Whatever two readers could read in two ways is an error (RFC 9112, 5 and 6.3). io.EOF is a
// connection that ended before an octet came.
func peekHead(br *bufio.Reader, method string, fields rawFields) (head, error) {
	h := head{fields: fields[:0]}
	block, err := peekBlock(br)
	if err != nil {
		return h, err
	}
	h.size = len(block)
	line, block := cutLine(block)
	if err := h.statusLine(line); err != nil {
		return h, err
	}
	for {
		if line, block = cutLine(block); len(line) == 0 {
			return h, h.frame(method)
		}
		if h.fields, err = parseField(line, h.fields); err != nil {
			return h, err
		}
	}
}

// peekBlock is everything up to the first empty line, which it contains.
func peekBlock(br *bufio.Reader) ([]byte, error) {
	searched := 0
	for {
		b, _ := br.Peek(br.Buffered())
		if end := blockEnd(b, searched); end > 0 {
			return b[:end], nil
		}
		searched = max(0, len(b)-2) // an end may be half there
		switch _, err := br.Peek(len(b) + 1); {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errAnswerLong
		case errors.Is(err, io.EOF) && len(b) > 0:
			return nil, errAnswerHalf
		case err != nil:
			return nil, err
		}
	}
}

// blockEnd is where the first empty line behind an octet ends; 0: there is none.
func blockEnd(b []byte, from int) int {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// cutLine takes the first line, without its end.
func cutLine(block []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(block, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'}), rest
}

// statusLine reads "HTTP/1.1 200 OK", of which the reason may be missing.
func (h *head) statusLine(line []byte) error {
	const least = len("HTTP/1.1 200")
	if len(line) < least || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' || line[7] < '0' || line[7] > '9' {
		return errAnswerLine
	}
	status, ok := number(line[9:least])
	if !ok || status < 100 || (len(line) > least && line[least] != ' ') || !validValue(line) {
		return errAnswerLine
	}
	h.minor, h.status = line[7], int(status)
	if len(line) > least {
		h.reason = line[least+1:]
	}
	return nil
}

// framed is what an answer's fields say of its framing.
type framed struct {
	lengths, codings int // how many tell of it
	ends, stays      bool
}

// frame finds the body's length, and whether another answer can follow.
func (h *head) frame(method string) error {
	f := framed{stays: h.minor != '0'}
	for i := range h.fields {
		if err := h.note(&f, h.fields[i].name, h.fields[i].value); err != nil {
			return err
		}
	}
	switch {
	case f.lengths > 1, f.lengths > 0 && f.codings > 0:
		return errLengths
	case f.codings > 1, f.codings > 0 && h.minor == '0':
		return errEncoding
	}
	switch {
	case method == http.MethodHead || h.status < 200 || h.status == http.StatusNoContent || h.status == http.StatusNotModified:
		h.length = 0
	case f.codings > 0:
		h.length = -1
	case f.lengths == 0:
		h.length = -2
	}
	h.keep = f.stays && !f.ends && h.length != -2
	return nil
}

// note takes one field into account.
func (h *head) note(f *framed, name, value []byte) error {
	switch {
	case equalFold(name, "Content-Length"):
		n, ok := number(value)
		if !ok {
			return errLengths
		}
		f.lengths++
		h.length, h.told = n, true
	case equalFold(name, "Transfer-Encoding"):
		if !equalFold(value, "chunked") {
			return errEncoding
		}
		f.codings++
	case equalFold(name, "Connection"):
		f.ends = f.ends || hasToken(value, "close")
		f.stays = f.stays || hasToken(value, "keep-alive")
		h.named = append(append(h.named, ','), value...)
	case equalFold(name, "Upgrade"):
		h.upgrade = value
	}
	return nil
}

// answerHead waits for the final answer, or for 101. Interim ones are read, given to each (which may be nil) and dropped.
func answerHead(br *bufio.Reader, method string, fields rawFields, each func(head)) (head, error) {
	for range maxInterim {
		h, err := peekHead(br, method, fields)
		if err != nil || h.status >= 200 || h.status == http.StatusSwitchingProtocols {
			return h, err
		}
		if each != nil {
			each(h)
		}
		if _, err := br.Discard(h.size); err != nil {
			return h, err
		}
		fields = h.fields
	}
	return head{fields: fields}, errAnswerInterim
}

// broken tells of an answer that came and is none, unlike one that did not come.
func broken(err error) bool {
	for _, known := range []error{errAnswerLine, errAnswerLong, errAnswerHalf, errAnswerInterim, errSwitched, errName, errValue, errLengths, errEncoding} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// appendTo writes the header for a client: without what belongs to the connection to the backend and what the filters' own fields
// replace. The order of what stays is the backend's (RFC 9110, 5.3).
func (h *head) appendTo(b []byte, own []Field) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = append(append(strconv.AppendInt(b, int64(h.status), 10), ' '), h.reason...)
	b = append(b, "\r\n"...)
	for i := range h.fields {
		name := h.fields[i].name
		if h.dropped(name) || replaced(name, own) {
			continue
		}
		b = append(append(append(append(b, name...), ": "...), h.fields[i].value...), "\r\n"...)
	}
	return b
}

// dropped tells whether a field of an answer is of one connection only. Its length is one that the other connection may need.
func (h *head) dropped(name []byte) bool {
	return ofConnection(name) || len(h.named) > 0 && !equalFold(name, "Content-Length") && hasToken(h.named, string(name))
}

// ofConnection tells whether a field of an answer always is of one connection only.
func ofConnection(name []byte) bool {
	for _, known := range [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Transfer-Encoding"} {
		if equalFold(name, known) {
			return true
		}
	}
	return false
}

// replaced tells whether a field of the backend's gives way to one that the filters add: a browser takes two origins for none.
func replaced(name []byte, own []Field) bool {
	for i := range own {
		if !own[i].joins() && equalFold(name, own[i].Name) {
			return true
		}
	}
	return false
}

// joins tells whether a field stands beside others of its name.
func (f *Field) joins() bool {
	return equalFold([]byte(f.Name), "Set-Cookie") || equalFold([]byte(f.Name), "Vary")
}
