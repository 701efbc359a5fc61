package ingress

import (
	"io"
	"strconv"
	"sync"
	"time"
)

// accessFlush is how late a line may be. Less costs a write for few lines, more hides what just happened.
const accessFlush = 200 * time.Millisecond

// accessBuffer is written at once when it is full.
const accessBuffer = 64 << 10

// accessLog gathers lines and writes many at once.
type accessLog struct {
	to io.Writer

	mu   sync.Mutex // guards text
	text []byte
}

// entry is one request of the access log.
type entry struct {
	at           time.Time
	client       string
	method, host string
	target       string
	proto        string
	status       int
	sent         int64
	took         time.Duration
	ingress      string
	service      string
	endpoint     string
	request      string // its id
	tries        int
}

func newAccessLog(to io.Writer) *accessLog { return &accessLog{to: to} }

func (l *accessLog) write(e *entry) {
	if l.to == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.text
	b = e.at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(append(b, ' '), e.client...)
	b = append(append(b, ' '), e.method...)
	b = appendQuoted(append(b, ' '), e.host)
	b = appendQuoted(append(b, ' '), e.target)
	b = append(append(b, ' '), e.proto...)
	b = strconv.AppendInt(append(b, " status="...), int64(e.status), 10)
	b = strconv.AppendInt(append(b, " bytes="...), e.sent, 10)
	b = strconv.AppendInt(append(b, " us="...), e.took.Microseconds(), 10)
	b = append(append(b, " ingress="...), e.ingress...)
	b = append(append(b, " service="...), e.service...)
	b = append(append(b, " endpoint="...), e.endpoint...)
	b = strconv.AppendInt(append(b, " tries="...), int64(e.tries), 10)
	b = append(append(b, " id="...), e.request...)
	l.text = append(b, '\n')
	if len(l.text) >= accessBuffer {
		l.drain()
	}
}

// appendQuoted quotes only what could be taken for something else.
func appendQuoted(b []byte, text string) []byte {
	for i := 0; i < len(text); i++ {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return strconv.AppendQuote(b, text)
		}
	}
	if text == "" {
		return append(b, '-')
	}
	return append(b, text...)
}

func (l *accessLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drain()
}

// drain writes what is there. A log that cannot be written must not stop requests, so its error is dropped.
func (l *accessLog) drain() {
	if l.to != nil && len(l.text) > 0 {
		_, _ = l.to.Write(l.text)
	}
	l.text = l.text[:0]
}
