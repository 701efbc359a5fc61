package apiserver

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubarium.dev/api"
)

// page is a list, or a part of one: remaining counts what comes after it, under the token next.
type page struct {
	items     []api.Object
	revision  uint64
	next      string
	remaining int64
}

// list answers GET on a collection.
func (s *Server) list(c *call) error {
	if err := checkListVersion(c); err != nil {
		return err
	}
	limit := 0
	if v := c.query.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return apierrors.NewBadRequest("limit: " + err.Error())
		}
		limit = max(n, 0)
	}
	if token := c.query.Get("continue"); token != "" {
		p, err := s.pages.take(token, limit)
		if err != nil {
			return err
		}
		return s.respondList(c, p)
	}
	sel, err := readSelection(c)
	if err != nil {
		return err
	}
	p, err := s.selected(c, sel)
	if err != nil {
		return err
	}
	return s.respondList(c, s.pages.cut(p, limit))
}

// selected reads everything that sel means from one snapshot.
func (s *Server) selected(c *call, sel *selection) (page, error) {
	rev, err := revisionOf(c.query.Get("resourceVersion"))
	if err != nil {
		return page{}, err
	}
	if now := s.store.Revision(); rev > now {
		return page{}, errFuture(rev, now)
	}
	found, err := s.store.List(c.r.Context(), c.kind, sel.query)
	if err != nil {
		return page{}, err
	}
	if c.query.Get("resourceVersionMatch") == string(metav1.ResourceVersionMatchExact) && rev != found.Revision {
		return page{}, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	p := page{items: found.Items, revision: found.Revision}
	if !sel.fields.Empty() {
		p.items = nil
		for _, obj := range found.Items {
			if sel.matches(obj) {
				p.items = append(p.items, obj)
			}
		}
	}
	return p, nil
}

// checkListVersion refuses the combinations of resourceVersion and resourceVersionMatch that mean nothing.
func checkListVersion(c *call) error {
	rv, match := c.query.Get("resourceVersion"), c.query.Get("resourceVersionMatch")
	path := field.NewPath("resourceVersionMatch")
	if match == "" {
		return nil
	}
	switch {
	case c.query.Get("continue") != "":
		return errOption("ListOptions", field.Forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
	case rv == "":
		return errOption("ListOptions", field.Forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
	case match == string(metav1.ResourceVersionMatchExact) && rv == "0":
		return errOption("ListOptions", field.Forbidden(path,
			`resourceVersionMatch "exact" is forbidden for resourceVersion "0"`))
	case match != string(metav1.ResourceVersionMatchExact) && match != string(metav1.ResourceVersionMatchNotOlderThan):
		return errOption("ListOptions", field.NotSupported(path, match, []metav1.ResourceVersionMatch{
			metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan, ""}))
	}
	return nil
}

// respondList answers with p in the form the client asked for.
func (s *Server) respondList(c *call, p page) error {
	head := metav1.ListMeta{ResourceVersion: strconv.FormatUint(p.revision, 10), Continue: p.next}
	if p.next != "" && c.query.Get("labelSelector") == "" && c.query.Get("fieldSelector") == "" {
		head.RemainingItemCount = &p.remaining
	}
	switch c.accept.as {
	case "Table":
		table := s.tableOf(c, p.items, true)
		table.ListMeta = head
		s.wire.write(c.w, http.StatusOK, c.accept, table)
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		list := &metav1.PartialObjectMetadataList{ListMeta: head, Items: make([]metav1.PartialObjectMetadata, 0, len(p.items))}
		list.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadataList"))
		for _, obj := range p.items {
			list.Items = append(list.Items, *partialOf(obj))
		}
		s.wire.write(c.w, http.StatusOK, c.accept, list)
	default:
		if c.accept.media == mediaJSON {
			return s.encoded.writeList(c, c.allShown(p.items), head)
		}
		list, err := listOf(c.form, c.allShown(p.items))
		if err != nil {
			return err
		}
		m, err := meta.ListAccessor(list)
		if err != nil {
			return err
		}
		m.SetResourceVersion(head.ResourceVersion)
		m.SetContinue(head.Continue)
		m.SetRemainingItemCount(head.RemainingItemCount)
		s.wire.write(c.w, http.StatusOK, c.accept, list)
	}
	return nil
}

const (
	// maxPages is how many unfinished limited lists are remembered; the oldest is forgotten for a new one, and its client is
	// told to start again (410), as Kubernetes does when a list took too long.
	maxPages = 64
	// pageLife is how long an unfinished list is remembered.
	pageLife = 5 * time.Minute
)

// pageStore remembers the rest of limited lists, so that all pages of one list come from one snapshot.
type pageStore struct {
	now func() time.Time

	mu    sync.Mutex // guards below
	rests map[string]rest
	order []string // tokens, oldest first
}

type rest struct {
	page  page
	since time.Time
}

func newPageStore(now func() time.Time) *pageStore {
	return &pageStore{now: now, rests: map[string]rest{}}
}

// cut returns the first limit items of p and remembers the others; 0 is no limit.
func (s *pageStore) cut(p page, limit int) page {
	if limit == 0 || len(p.items) <= limit {
		return p
	}
	token := utilrand.String(24)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) >= maxPages {
		delete(s.rests, s.order[0])
		s.order = s.order[1:]
	}
	s.rests[token] = rest{page: page{items: p.items[limit:], revision: p.revision}, since: s.now()}
	s.order = append(s.order, token)
	return page{items: p.items[:limit], revision: p.revision, next: token, remaining: int64(len(p.items) - limit)}
}

// take returns the next limit items of the list that token continues. A token can be used again while it is remembered.
func (s *pageStore) take(token string, limit int) (page, error) {
	s.mu.Lock()
	r, ok := s.rests[token]
	s.mu.Unlock()
	if !ok || s.now().Sub(r.since) > pageLife {
		return page{}, apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
			"You can start a new list without the continue parameter.")
	}
	return s.cut(r.page, limit), nil
}
