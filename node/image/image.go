// Package image keeps the images that were loaded from archives, unpacked in a folder, and the rules that stand for images which
// were not: there is no registry.
//
//	s, err := image.Open(dir)
//	loaded, err := s.Load(ctx, "shop.tar") // what docker save wrote, or an OCI layout, packed or not
//	img, ok := s.Find("shop:1.0")
//	rule, ok := s.Match("nginx:1.27")
//
// It runs nothing and pulls nothing.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// Image is one that was loaded.
type Image struct {
	ID         string    `json:"id"`    // of its configuration: "sha256:..."
	Names      []string  `json:"names"` // in full, such as index.docker.io/library/shop:1.0
	Entrypoint []string  `json:"entrypoint,omitempty"`
	Command    []string  `json:"command,omitempty"`
	Env        []string  `json:"env,omitempty"`
	Dir        string    `json:"dir,omitempty"`
	User       string    `json:"user,omitempty"` // as the image says it
	UID        uint32    `json:"uid,omitempty"`
	GID        uint32    `json:"gid,omitempty"`
	Home       string    `json:"home,omitempty"` // of the user, if the image knows him
	StopSignal string    `json:"stopSignal,omitempty"`
	Size       int64     `json:"size"` // of its files, in bytes
	Loaded     time.Time `json:"loaded"`
	Root       string    `json:"-"` // the folder of its files
}

// Rule lets images stand for a program of the host, or, without one, for the built-in application.
type Rule struct {
	Image   string   // with * for anything and ? for one character; without a tag it is true of every tag
	Command []string // the program and its first words
}

// Set is the images of a cluster. Its methods may be called from any goroutine.
type Set struct {
	dir string

	mu     sync.RWMutex // guards all below
	byName map[string]*Image
	byID   map[string]*Image
	rules  []Rule
}

const (
	describedBy = "image.json"
	filesIn     = "files"
)

// ErrNotFound is returned for an image that was not loaded.
var ErrNotFound = errors.New("no such image")

// Open reads what was loaded into a folder before. The folder is made when something is loaded.
func Open(dir string) (*Set, error) {
	s := &Set{dir: dir, byName: map[string]*Image{}, byID: map[string]*Image{}}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the images: %w", err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), describedBy))
		if err != nil { // what a power cut left half loaded
			os.RemoveAll(filepath.Join(dir, e.Name()))
			continue
		}
		var img Image
		if err := json.Unmarshal(raw, &img); err != nil {
			return nil, fmt.Errorf("read image %s: %w", e.Name(), err)
		}
		img.Root = filepath.Join(dir, e.Name(), filesIn)
		s.file(&img)
	}
	return s, nil
}

// file puts an image where it is found. A name belongs to the image that was loaded last.
func (s *Set) file(img *Image) {
	s.byID[img.ID] = img
	for _, n := range img.Names {
		if old := s.byName[n]; old == nil || !img.Loaded.Before(old.Loaded) {
			s.byName[n] = img
		}
	}
}

// List returns the images, by name.
func (s *Set) List() []Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []Image
	for _, img := range s.byID {
		all = append(all, *img)
	}
	slices.SortFunc(all, func(a, b Image) int {
		return strings.Compare(strings.Join(a.Names, " ")+a.ID, strings.Join(b.Names, " ")+b.ID)
	})
	return all
}

// Find returns the image of a name, as a pod's manifest says it.
func (s *Set) Find(ref string) (Image, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.byID) == 0 {
		return Image{}, false
	}
	if img := s.byID[ref]; img != nil {
		return *img, true
	}
	if img := s.byName[fullName(ref)]; img != nil {
		return *img, true
	}
	return Image{}, false
}

// Remove forgets a name, and the image with its last one. Errors: ErrNotFound.
func (s *Set) Remove(ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, full := s.byID[ref], ""
	if img == nil {
		full = fullName(ref)
		img = s.byName[full]
	}
	if img == nil {
		return fmt.Errorf("image %s: %w", ref, ErrNotFound)
	}
	left := *img
	left.Names = slices.DeleteFunc(slices.Clone(img.Names), func(n string) bool { return full == "" || n == full })
	for _, n := range img.Names {
		if s.byName[n] == img {
			delete(s.byName, n)
		}
	}
	if len(left.Names) > 0 {
		s.file(&left)
		return left.describe()
	}
	delete(s.byID, img.ID)
	return os.RemoveAll(filepath.Dir(img.Root))
}

// describe writes down what Open reads.
func (i *Image) describe() error {
	raw, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(filepath.Dir(i.Root), describedBy)
	return errors.Join(os.WriteFile(path+".new", raw, 0o644), os.Rename(path+".new", path))
}

// fullName is a reference with all that may be left out; one that is none stays what it is.
func fullName(ref string) string {
	r, err := name.ParseReference(ref)
	if err != nil {
		return ref
	}
	return r.Name()
}

// Repository is an image's name without registry, tag and digest, and without the "library/" of Docker's own; "" for what is no name.
func Repository(ref string) string {
	r, err := name.ParseReference(ref)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(r.Context().RepositoryStr(), "library/")
}

// SetRules replaces the rules. The first that is true of an image counts.
func (s *Set) SetRules(rules []Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = slices.Clone(rules)
}

// Rules returns the rules.
func (s *Set) Rules() []Rule {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.rules)
}

// Match returns the rule that is true of an image.
func (s *Set) Match(ref string) (Rule, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.rules {
		if r.matches(ref) {
			return r, true
		}
	}
	return Rule{}, false
}

// defaultPrefixes may be left out of a name.
var defaultPrefixes = []string{"docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/"}

func (r Rule) matches(ref string) bool {
	pattern := short(r.Image)
	ref, _, _ = strings.Cut(short(ref), "@")
	if glob(pattern, ref) {
		return true
	}
	repository, tag, tagged := cutTag(ref)
	if _, _, wantsTag := cutTag(pattern); !wantsTag {
		return glob(pattern, repository)
	}
	return !tagged && tag == "" && glob(pattern, repository+":latest")
}

func short(ref string) string {
	for _, p := range defaultPrefixes {
		if rest, ok := strings.CutPrefix(ref, p); ok {
			return rest
		}
	}
	return ref
}

// cutTag splits at the colon that begins a tag, which is not a port's.
func cutTag(ref string) (repository, tag string, ok bool) {
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || strings.Contains(ref[i:], "/") {
		return ref, "", false
	}
	return ref[:i], ref[i+1:], true
}

// glob matches * with any text and ? with one character.
func glob(pattern, s string) bool {
	star, at := -1, 0
	p := 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]) && pattern[p] != '*':
			p++
			i++
		case p < len(pattern) && pattern[p] == '*':
			star, at = p, i
			p++
		case star >= 0: // the last * takes one more
			at++
			p, i = star+1, at
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
