package apiserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

const (
	// bookmarkEvery is how often a watch that wants bookmarks hears of the revision while nothing happens.
	bookmarkEvery = time.Minute
	// watchTime is the least a watch lasts when the client names no timeout; up to twice that, as in Kubernetes, so that
	// clients do not all come back at once.
	watchTime = 30 * time.Minute
	// stallTime is how long one write to a watcher's connection may hang before the watch is cut off.
	stallTime = 30 * time.Second
)

// watch answers GET with watch=true: first what exists, if asked for, then every change.
func (s *Server) watch(c *call) error {
	sel, err := readSelection(c)
	if err != nil {
		return err
	}
	plan, err := readWatchPlan(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), plan.timeout)
	defer cancel()
	var initial store.List
	from := plan.from
	if plan.list {
		if now := s.store.Revision(); from > now {
			return errFuture(from, now)
		}
		if initial, err = s.store.List(ctx, c.kind, sel.query); err != nil {
			return err
		}
		from = initial.Revision
	} else if plan.latest {
		from = s.store.Revision()
	}
	watcher, err := s.store.Watch(ctx, from, c.kind)
	if err != nil {
		return err
	}
	defer watcher.Close()
	out := newStream(s, c)
	if err := out.begin(); err != nil {
		return nil // the client has gone
	}
	f := &follower{sel: sel, out: out, plan: plan, kind: c.form, seen: from}
	if err := f.initial(initial); err == nil {
		f.follow(ctx, watcher)
	}
	return nil
}

// watchPlan is what a client asked of a watch.
type watchPlan struct {
	from      uint64
	list      bool // begin with ADDED for everything that exists
	latest    bool // begin with whatever comes next
	endMark   bool // end the beginning with the bookmark that WatchList clients wait for
	bookmarks bool
	timeout   time.Duration
}

func readWatchPlan(c *call) (watchPlan, error) {
	q := c.query
	p := watchPlan{bookmarks: isTrue(q.Get("allowWatchBookmarks")), timeout: watchTime + rand.N(watchTime)}
	if v := q.Get("timeoutSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return p, apierrors.NewBadRequest("timeoutSeconds: " + err.Error())
		}
		if n > 0 {
			p.timeout = time.Duration(n) * time.Second
		}
	}
	rv := q.Get("resourceVersion")
	var err error
	if p.from, err = revisionOf(rv); err != nil {
		return p, err
	}
	match := q.Get("resourceVersionMatch")
	path := field.NewPath("resourceVersionMatch")
	switch {
	case !q.Has("sendInitialEvents") && match != "":
		return p, errOption("ListOptions", field.Forbidden(path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
	case q.Has("sendInitialEvents") && match != string(metav1.ResourceVersionMatchNotOlderThan):
		return p, errOption("ListOptions", field.Forbidden(path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
	}
	switch {
	case !q.Has("sendInitialEvents"):
		p.list = p.from == 0
	case isTrue(q.Get("sendInitialEvents")):
		p.list, p.endMark = true, p.bookmarks
	default:
		p.latest = p.from == 0
	}
	return p, nil
}

// follower turns the store's events into a client's.
type follower struct {
	sel  *selection
	out  *stream
	plan watchPlan
	kind *api.Kind
	seen uint64 // revision up to which the client knows everything
}

// initial sends what exists.
func (f *follower) initial(list store.List) error {
	for _, obj := range list.Items {
		if !f.sel.matches(obj) {
			continue
		}
		if err := f.out.send(store.Added, obj); err != nil {
			return err
		}
	}
	if f.plan.endMark {
		if err := f.out.bookmark(f.kind, f.seen, true); err != nil {
			return err
		}
	}
	return f.out.flush()
}

// follow sends changes until the watch's time is up, the client goes, or it falls too far behind.
func (f *follower) follow(ctx context.Context, watcher store.Watcher) {
	for {
		wait, cancel := context.WithTimeout(ctx, bookmarkEvery)
		batch, err := watcher.Next(wait)
		idle := errors.Is(wait.Err(), context.DeadlineExceeded)
		cancel()
		switch {
		case err == nil:
			err = f.pass(batch)
		case ctx.Err() != nil:
			if f.plan.bookmarks && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				f.mark() // so that the next watch can go on from here
			}
			return
		case idle:
			err = f.mark()
		default:
			f.out.sendError(statusOf(err))
			return
		}
		if err != nil {
			return
		}
	}
}

// mark tells a client that wants to know how far the revision has come.
func (f *follower) mark() error {
	if !f.plan.bookmarks {
		return nil
	}
	if err := f.out.bookmark(f.kind, f.seen, false); err != nil {
		return err
	}
	return f.out.flush()
}

// pass sends those events of a batch that the selection means.
func (f *follower) pass(batch store.Batch) error {
	sent := false
	for _, e := range batch.Events {
		kind, obj, ok := f.translate(e)
		if !ok {
			continue
		}
		if err := f.out.send(kind, obj); err != nil {
			return err
		}
		sent = true
	}
	f.seen = batch.Revision
	if !sent {
		return nil
	}
	return f.out.flush()
}

// translate says what an event is to this client: an object that comes to match is added, one that no longer does is deleted
// (its last matching state, with the event's revision).
func (f *follower) translate(e store.Event) (store.EventType, api.Object, bool) {
	is := f.sel.matches(e.Object)
	was := e.Old != nil && f.sel.matches(e.Old)
	switch {
	case e.Type == store.Deleted:
		return store.Deleted, e.Object, is || was
	case is && was:
		return store.Modified, e.Object, true
	case is:
		return store.Added, e.Object, true
	case was:
		last := shallow(e.Old).(api.Object)
		last.SetResourceVersion(e.Object.GetResourceVersion())
		return store.Deleted, last, true
	}
	return "", nil, false
}

// stream writes watch events in the framing a client asked for.
type stream struct {
	s       *Server
	c       *call
	control *http.ResponseController
	buf     bytes.Buffer
	columns bool // the table's columns have been sent
}

func newStream(s *Server, c *call) *stream {
	return &stream{s: s, c: c, control: http.NewResponseController(c.w)}
}

func (o *stream) begin() error {
	media := o.c.accept.media
	if media == mediaProtobuf {
		media += ";stream=watch"
	} else {
		o.c.accept.media, media = mediaJSON, mediaJSON
	}
	o.c.w.Header().Set("Content-Type", media)
	o.c.w.WriteHeader(http.StatusOK)
	return o.control.Flush()
}

// send writes one event; flush sends what was written.
func (o *stream) send(kind store.EventType, obj api.Object) error {
	switch o.c.accept.as {
	case "Table":
		table := o.s.tableOf(o.c, []api.Object{obj}, !o.columns)
		o.columns = true
		return o.encode(string(kind), table)
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return o.encode(string(kind), partialOf(obj))
	}
	raw, err := o.s.encoded.of(o.c.form, o.c.shown(obj), o.c.accept.media)
	if err != nil {
		return err
	}
	return o.frame(string(kind), raw)
}

func (o *stream) sendError(status *metav1.Status) {
	if o.encode("ERROR", status) == nil {
		o.flush()
	}
}

// bookmark tells the client a revision; end marks the one that ends the initial events.
func (o *stream) bookmark(kind *api.Kind, revision uint64, end bool) error {
	obj := kind.New()
	obj.SetResourceVersion(strconv.FormatUint(revision, 10))
	if end {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	var body runtime.Object
	switch o.c.accept.as {
	case "Table":
		table := o.s.tableOf(o.c, nil, !o.columns)
		table.ListMeta.ResourceVersion = obj.GetResourceVersion()
		table.Rows = []metav1.TableRow{{Object: runtime.RawExtension{Object: partialOf(obj)}}}
		body, o.columns = table, true
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		body = partialOf(obj)
	default:
		body = typed(kind, obj)
	}
	return o.encode("BOOKMARK", body)
}

// encode writes an event of an object that no other watcher shares.
func (o *stream) encode(kind string, body runtime.Object) error {
	var raw bytes.Buffer
	if err := o.s.wire.encoders[o.c.accept.media].Encode(body, &raw); err != nil {
		return err
	}
	return o.frame(kind, raw.Bytes())
}

// frame writes an event with an encoded object: JSON lines, or protobuf messages each behind its length.
func (o *stream) frame(kind string, raw []byte) error {
	if o.c.accept.media == mediaProtobuf {
		event := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw}}
		message, err := event.Marshal()
		if err != nil {
			return err
		}
		o.buf.Write(binary.BigEndian.AppendUint32(nil, uint32(len(message))))
		o.buf.Write(message)
		return o.spill()
	}
	fmt.Fprintf(&o.buf, `{"type":%q,"object":%s}`+"\n", kind, bytes.TrimSuffix(raw, []byte("\n")))
	return o.spill()
}

// spillSize is how many bytes of events are gathered before they are written though more may follow.
const spillSize = 64 << 10

func (o *stream) spill() error {
	if o.buf.Len() < spillSize {
		return nil
	}
	return o.drain()
}

func (o *stream) drain() error {
	if err := o.control.SetWriteDeadline(time.Now().Add(o.s.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err := o.c.w.Write(o.buf.Bytes())
	o.buf.Reset()
	return err
}

// flush sends everything written so far to the client.
func (o *stream) flush() error {
	if err := o.drain(); err != nil {
		return err
	}
	if err := o.control.Flush(); err != nil {
		return err
	}
	o.disarm()
	return nil
}

// disarm takes the write deadline back: left alone it would end an idle HTTP/2 stream, or the connection's next request.
func (o *stream) disarm() {
	if err := o.control.SetWriteDeadline(time.Time{}); err != nil {
		o.s.log.Debug("write deadline not taken back", "err", err)
	}
}
