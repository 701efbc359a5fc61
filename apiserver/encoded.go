package apiserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"kubarium.dev/api"
)

// encodedBytes bounds what the cache of encoded objects holds. At half a KiB an object it covers lists of 4,000 objects; what
// does not fit is encoded each time.
const encodedBytes = 2 << 20

// encodings keeps objects of the store in the form in which clients see them, so that a written object is encoded once for the
// answer to its writer, for every watcher and for the lists that follow. What the store holds never changes, so an object's
// address is its key; the oldest go first.
type encodings struct {
	encoders map[string]runtime.Encoder

	mu    sync.Mutex // guards below
	all   map[encodedKey]*encoded
	order []encodedKey
	bytes int
}

type encodedKey struct {
	obj   api.Object
	media string
}

type encoded struct {
	once sync.Once
	body []byte
	err  error
	size int // what it counts towards encodedBytes; guarded by encodings.mu
}

func newEncodings(encoders map[string]runtime.Encoder) *encodings {
	return &encodings{encoders: encoders, all: map[encodedKey]*encoded{}}
}

// of returns obj, of the given kind and of the store, in a media type, kind and apiVersion filled in. The bytes are shared.
func (e *encodings) of(kind *api.Kind, obj api.Object, media string) ([]byte, error) {
	key := encodedKey{obj, media}
	e.mu.Lock()
	one, ok := e.all[key]
	if !ok {
		one = &encoded{}
		e.all[key] = one
		e.order = append(e.order, key)
	}
	e.mu.Unlock()
	one.once.Do(func() {
		var body bytes.Buffer
		one.err = e.encoders[media].Encode(typed(kind, obj), &body)
		one.body = bytes.Clone(body.Bytes())
		e.weigh(key, one)
	})
	return one.body, one.err
}

// encodeEarly encodes what a call is about to answer, if all goes well; an error will show again with the answer.
func (s *Server) encodeEarly(c *call, obj api.Object) {
	if c.accept.as == "" && c.form == c.kind {
		s.encoded.of(c.kind, obj, c.accept.media)
	}
}

// weigh counts a new encoding, and forgets the oldest ones while there are too many.
func (e *encodings) weigh(key encodedKey, one *encoded) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all[key] != one {
		return // forgotten already
	}
	one.size = len(one.body)
	e.bytes += one.size
	for e.bytes > encodedBytes {
		oldest := e.order[0]
		e.bytes -= e.all[oldest].size
		delete(e.all, oldest)
		e.order[0] = encodedKey{}
		e.order = e.order[1:]
	}
}

// writeList answers with a JSON list put together from what is encoded already.
func (e *encodings) writeList(c *call, items []api.Object, meta metav1.ListMeta) error {
	about, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	version := c.form.GroupVersion().String()
	begin := fmt.Sprintf(`{"kind":"%sList","apiVersion":"%s","metadata":%s,"items":[`, c.form.Kind, version, about)
	const end = "]}\n"
	// Within a list, items do not say what they are.
	typeOf := fmt.Appendf(nil, `{"kind":"%s","apiVersion":"%s",`, c.form.Kind, version)
	bodies, size := make([][]byte, len(items)), len(begin)+len(end)
	for i, obj := range items {
		body, err := e.of(c.form, obj, mediaJSON)
		if err != nil {
			return err
		}
		bodies[i] = bytes.TrimSuffix(bytes.TrimPrefix(body, typeOf), []byte("\n"))
		size += len(bodies[i]) + len(",{")
	}
	if len(items) > 0 {
		size-- // no comma before the first
	}
	c.w.Header().Set("Content-Type", c.accept.contentType())
	c.w.Header().Set("Content-Length", strconv.Itoa(size))
	c.w.WriteHeader(http.StatusOK)
	out := bufio.NewWriterSize(c.w, min(size, spillSize))
	out.WriteString(begin)
	for i, body := range bodies {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('{')
		out.Write(body)
	}
	out.WriteString(end)
	out.Flush() // a client that has gone cannot be told
	return nil
}
