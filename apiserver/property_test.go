package apiserver_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"kubarium.dev/api"
	"kubarium.dev/apiserver"
	"kubarium.dev/store"
)

var seedFlag = flag.Uint64("seed", 0, "what TestEveryWatchersPictureIsTheStoresHistory draws its choices from; 0 for a new one")

// A-11 over HTTPS, with client-go: many writers; many watchers, of all objects or of one colour, in JSON and protobuf, that
// disconnect, resume at any revision, list anew, begin with a WatchList, or fall asleep until they are cut off. What each of
// them saw is exactly what the store went through: nothing lost, repeated or reordered. A failure is tried again with fewer
// writers, watchers and writes, and the smallest run that fails is printed.
func TestEveryWatchersPictureIsTheStoresHistory(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	for _, history := range []int{0, 48} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) {
			t.Parallel()
			whole := scenario{seed: seed, history: history, writers: 8, watchers: 12, writes: 120}
			if failed, err := whole.smallest(t); err != nil {
				t.Errorf("-seed %d, smallest failing run %+v: %v", seed, failed, err)
			}
		})
	}
}

// scenario is one run: its size, and what its choices are drawn from.
type scenario struct {
	seed                      uint64
	history                   int
	writers, watchers, writes int
}

// smallest runs a scenario; if it fails, it is halved in each respect for as long as one of three runs fails.
func (sc scenario) smallest(t *testing.T) (scenario, error) {
	err := sc.run(t)
	if err == nil {
		return sc, nil
	}
	for _, size := range []func(*scenario) *int{
		func(s *scenario) *int { return &s.writers }, func(s *scenario) *int { return &s.watchers }, func(s *scenario) *int { return &s.writes },
	} {
		for *size(&sc) > 1 {
			less := sc
			*size(&less) /= 2
			again := errors.Join(less.run(t), less.run(t), less.run(t))
			if again == nil {
				break
			}
			sc, err = less, again
		}
	}
	return sc, err
}

// happening is one event, in short.
type happening struct {
	revision uint64
	kind     watch.EventType
	name     string
	colour   string // of the object after it; for a deletion, before
}

// truth is what the store went through, told by itself.
type truth struct {
	progress store.Progress
	events   []happening
}

// record follows the store itself. Writers wait for it, so that it never falls behind.
func (tr *truth) record(ctx context.Context, w store.Watcher) error {
	for {
		b, err := w.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range b.Events {
			tr.events = append(tr.events, happening{e.Revision, watch.EventType(e.Type), e.Object.GetName(), e.Object.GetLabels()["colour"]})
		}
		tr.progress.Reach(b.Revision)
	}
}

// seenBy is what a watcher of one colour ("" for all) must have seen between two revisions, and the picture at the end.
func (tr *truth) seenBy(colour string, from, to uint64) (events []happening, picture map[string]uint64) {
	picture = map[string]uint64{}
	for _, e := range tr.events {
		if e.revision > to {
			break
		}
		_, was := picture[e.name]
		is := e.kind != watch.Deleted && (colour == "" || e.colour == colour)
		switch {
		case is && was:
			e.kind = watch.Modified
		case is:
			e.kind = watch.Added
		case was:
			e.kind = watch.Deleted
		default:
			continue
		}
		if picture[e.name] = e.revision; !is {
			delete(picture, e.name)
		}
		if e.colour = ""; e.revision > from {
			events = append(events, e)
		}
	}
	return events, picture
}

// run is one run of a scenario.
func (sc scenario) run(t *testing.T) error {
	c := startOn(t, store.Options{NoSync: true, History: sc.history}, func(*apiserver.Config) {})
	var clients []typed.ConfigMapInterface
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		conf := rest.CopyConfig(c.config)
		conf.ContentType, conf.AcceptContentTypes = media, media
		client, err := kubernetes.NewForConfig(conf)
		if err != nil {
			return err
		}
		clients = append(clients, client.CoreV1().ConfigMaps("dev"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	from := c.store.Revision()
	w, err := c.store.Watch(ctx, from, api.ConfigMaps)
	if err != nil {
		return err
	}
	defer w.Close()
	tr, failures := &truth{}, make(chan error, sc.writers+sc.watchers+1)
	tr.progress.Reach(from) // the first step of every writer may find nothing to change
	var recording, writing, watching sync.WaitGroup
	recording.Go(func() {
		err := tr.record(ctx, w)
		if err != nil {
			cancel() // nobody may wait for it any more
		}
		failures <- err
	})
	watchers := make([]*witness, sc.watchers)
	for i := range watchers {
		watchers[i] = &witness{
			maps: clients[i%2], colour: []string{"", "red"}[i/2%2], store: c.store, from: from, rand: rand.New(rand.NewPCG(sc.seed, uint64(i))),
		}
		watching.Go(func() { failures <- watchers[i].live(ctx) })
	}
	for i := range sc.writers {
		r := rand.New(rand.NewPCG(sc.seed, uint64(1000+i)))
		writing.Go(func() {
			failures <- scribble(ctx, clients[i%2], r, sc.writes, func() { tr.progress.Wait(ctx, c.store.Revision()) })
		})
	}
	writing.Wait()
	_, err = clients[0].Create(ctx, configMap("end", map[string]string{"colour": "red"}), metav1.CreateOptions{})
	watching.Wait()
	err = errors.Join(err, tr.progress.Wait(ctx, c.store.Revision()))
	cancel()
	recording.Wait()
	close(failures)
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	var counts witness
	for i, w := range watchers {
		if e := w.check(tr); e != nil {
			err = errors.Join(err, fmt.Errorf("watcher %d: %w", i, e))
		}
		counts.resumed, counts.lists, counts.expired = counts.resumed+w.resumed, counts.lists+w.lists, counts.expired+w.expired
	}
	t.Logf("%d events; %d watches resumed, %d lists, %d times too old", len(tr.events), counts.resumed, counts.lists, counts.expired)
	return err
}

// scribble creates, changes, recolours and deletes; that another writer was there first is part of the game.
func scribble(ctx context.Context, maps typed.ConfigMapInterface, r *rand.Rand, writes int, wait func()) error {
	for range writes {
		obj := configMap(fmt.Sprintf("c%d", r.IntN(25)), map[string]string{"colour": []string{"red", "blue"}[r.IntN(2)]})
		obj.Data["v"] = strings.Repeat("x", r.IntN(16<<10))
		var err error
		switch r.IntN(4) {
		case 0:
			err = maps.Delete(ctx, obj.Name, metav1.DeleteOptions{})
		case 1:
			_, err = maps.Create(ctx, obj, metav1.CreateOptions{})
		default:
			_, err = maps.Update(ctx, obj, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
			return err
		}
		wait()
	}
	return nil
}

// witness is one watcher, and everything it saw.
type witness struct {
	maps   typed.ConfigMapInterface
	colour string
	store  *store.Store
	rand   *rand.Rand
	from   uint64 // the revision at which everything begins

	seen     []segment
	pictures []snapshot
	ended    bool
	resumed  int
	lists    int
	expired  int
}

// segment is what one watch showed: everything after the revision it began at.
type segment struct {
	from   uint64
	events []happening
}

// snapshot is what a list showed.
type snapshot struct {
	revision uint64
	objects  map[string]uint64
}

func (w *witness) options() metav1.ListOptions {
	if w.colour == "" {
		return metav1.ListOptions{}
	}
	return metav1.ListOptions{LabelSelector: "colour=" + w.colour}
}

// live watches again and again until it has seen the end.
func (w *witness) live(ctx context.Context) error {
	at := w.from
	for !w.ended {
		var err error
		switch w.rand.IntN(5) {
		case 0: // any revision it has heard of, or before
			at = w.from + w.rand.Uint64N(at-w.from+1)
		case 1:
			at, err = w.list(ctx)
		case 2:
			at, err = w.watchList(ctx)
		}
		if err == nil && !w.ended {
			at, err = w.resume(ctx, at)
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			w.expired++
			at, err = w.list(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *witness) list(ctx context.Context) (uint64, error) {
	w.lists++
	list, err := w.maps.List(ctx, w.options())
	if err != nil {
		return 0, err
	}
	s := snapshot{objects: map[string]uint64{}}
	s.revision, err = strconv.ParseUint(list.ResourceVersion, 10, 64)
	for _, obj := range list.Items {
		s.objects[obj.Name], _ = strconv.ParseUint(obj.ResourceVersion, 10, 64)
	}
	w.pictures = append(w.pictures, s)
	_, w.ended = s.objects["end"]
	return s.revision, err
}

// watchList is the list that comes as a watch.
func (w *witness) watchList(ctx context.Context) (uint64, error) {
	o, yes := w.options(), true
	o.SendInitialEvents, o.AllowWatchBookmarks, o.ResourceVersionMatch = &yes, true, metav1.ResourceVersionMatchNotOlderThan
	stream, err := w.maps.Watch(ctx, o)
	if err != nil {
		return 0, err
	}
	defer stream.Stop()
	s := snapshot{objects: map[string]uint64{}}
	for e := range stream.ResultChan() {
		h, err := brief(e)
		if err != nil {
			return 0, err
		}
		if h.kind == watch.Bookmark {
			s.revision = h.revision
			w.pictures = append(w.pictures, s)
			_, w.ended = s.objects["end"]
			return s.revision, nil
		}
		s.objects[h.name] = h.revision
	}
	return 0, fmt.Errorf("the watch ended before its beginning was over: %w", ctx.Err())
}

func brief(e watch.Event) (happening, error) {
	if e.Type == watch.Error {
		return happening{}, apierrors.FromObject(e.Object)
	}
	obj := e.Object.(metav1.Object)
	revision, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	return happening{revision: revision, kind: e.Type, name: obj.GetName()}, err
}

// resume watches from a revision for a while, and now and then stops reading until the store is far ahead.
func (w *witness) resume(ctx context.Context, at uint64) (uint64, error) {
	o := w.options()
	o.ResourceVersion = strconv.FormatUint(at, 10)
	stream, err := w.maps.Watch(ctx, o)
	if err != nil {
		return at, err
	}
	defer stream.Stop()
	w.resumed++
	seg := segment{from: at}
	defer func() { w.seen = append(w.seen, seg) }()
	asleep := w.rand.IntN(4) == 0
	for n := 1 + w.rand.IntN(60); n > 0 && !w.ended; n-- {
		e, open := <-stream.ResultChan()
		if !open {
			return at, ctx.Err()
		}
		h, err := brief(e)
		if err != nil {
			return at, err
		}
		seg.events = append(seg.events, h)
		at, w.ended = h.revision, h.name == "end"
		if asleep && !w.ended {
			asleep = false
			w.sleep(ctx, at+200)
		}
	}
	return at, nil
}

// sleep returns when the store has come to a revision, or to its end.
func (w *witness) sleep(ctx context.Context, revision uint64) {
	for now := w.store.Revision(); now < revision && ctx.Err() == nil; {
		if _, err := w.store.Get(api.ConfigMaps, "dev", "end"); err == nil {
			return
		}
		s, err := w.store.Watch(ctx, now)
		if err != nil { // the store has moved on meanwhile
			now = w.store.Revision()
			continue
		}
		b, err := s.Next(ctx)
		s.Close()
		if now = w.store.Revision(); err == nil {
			now = b.Revision
		}
	}
}

// check compares everything with the truth.
func (w *witness) check(tr *truth) error {
	short := cmp.AllowUnexported(happening{})
	for _, s := range w.pictures {
		if _, want := tr.seenBy(w.colour, 0, s.revision); !maps.Equal(want, s.objects) {
			return fmt.Errorf("the list at revision %d (-want +got):\n%s", s.revision, cmp.Diff(want, s.objects))
		}
	}
	for _, s := range w.seen {
		to := s.from
		if n := len(s.events); n > 0 {
			to = max(to, s.events[n-1].revision)
		}
		if want, _ := tr.seenBy(w.colour, s.from, to); !cmp.Equal(want, s.events, short) {
			return fmt.Errorf("the watch from %d to %d (-want +got):\n%s", s.from, to, cmp.Diff(want, s.events, short))
		}
	}
	return nil
}
