package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kubarium.dev/node/image"
)

func layer(t *testing.T, entries ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body, h.Linkname = h.Linkname, ""
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func file(path, content string) tar.Header {
	return tar.Header{Name: path, Typeflag: tar.TypeReg, Linkname: content}
}

func build(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, func() *v1.ConfigFile {
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c = c.DeepCopy()
		c.OS, c.Architecture = runtime.GOOS, runtime.GOARCH
		c.Config = v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{"A=1"}, User: "web:staff", WorkingDir: "/srv", StopSignal: "SIGINT"}
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func shop(t *testing.T) v1.Image {
	return build(t,
		layer(t, file("app", "old"), file("gone", "x"), file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/var/web:/bin/sh\n"),
			file("etc/group", "staff:x:50:\n")),
		layer(t, tar.Header{Name: "app", Typeflag: tar.TypeReg, Linkname: "new", Mode: 0o755}, file(".wh.gone", ""),
			tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "app"}))
}

func saved(t *testing.T, img v1.Image, tag string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.tar")
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

func laidOut(t *testing.T, img v1.Image, called string) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": called})); err != nil {
		t.Fatal(err)
	}
	return dir
}

func zipped(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	if err := os.WriteFile(path+".gz", b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path + ".gz"
}

func packed(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, dir string) *image.Set {
	t.Helper()
	s, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// N-13: every form an archive comes in, and again after a start.
func TestAnImageIsLoadedFromEveryKindOfArchive(t *testing.T) {
	t.Parallel()
	img := shop(t)
	for kind, path := range map[string]string{
		"docker save": saved(t, img, "shop:1.0"), "docker save and gzip": zipped(t, saved(t, img, "shop:1.0")),
		"OCI layout": laidOut(t, img, "shop:1.0"), "OCI layout in an archive": packed(t, laidOut(t, img, "shop:1.0")),
	} {
		dir := t.TempDir()
		loaded, err := open(t, dir).Load(t.Context(), path)
		if err != nil || len(loaded) != 1 {
			t.Errorf("%s: got %v %v", kind, loaded, err)
			continue
		}
		got, ok := open(t, dir).Find("docker.io/library/shop:1.0")
		if !ok {
			t.Errorf("%s: it is not found", kind)
			continue
		}
		want := image.Image{ID: got.ID, Names: []string{"index.docker.io/library/shop:1.0"}, Entrypoint: []string{"/app"}, Command: []string{"serve"},
			Env: []string{"A=1"}, Dir: "/srv", User: "web:staff", UID: 101, GID: 50, Home: "/var/web", StopSignal: "SIGINT",
			Size: got.Size, Loaded: got.Loaded, Root: got.Root}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", kind, diff)
		}
		if raw, err := os.ReadFile(filepath.Join(got.Root, "link")); err != nil || string(raw) != "new" {
			t.Errorf("%s: got %q %v", kind, raw, err)
		}
		if _, err := os.Lstat(filepath.Join(got.Root, "gone")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: what a layer took away is there: %v", kind, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".load-*")); len(left) > 0 {
			t.Errorf("%s: left %v", kind, left)
		}
	}
}

func TestANameMovesToTheImageLoadedLastAndCanBeRemoved(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	load := func(path string) image.Image {
		t.Helper()
		got, err := s.Load(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	load(saved(t, shop(t), "shop:1"))
	load(saved(t, shop(t), "shop:2"))
	other := load(saved(t, build(t, layer(t, file("app", "other"), file("etc/passwd", "web:x:1:1::/:"), file("etc/group", "staff:x:2:"))), "shop:1"))
	if got, _ := s.Find("shop:1"); got.ID != other.ID {
		t.Errorf("shop:1 is %s, want %s", got.ID, other.ID)
	}
	if len(s.List()) != 2 {
		t.Errorf("got %v", s.List())
	}
	if err := s.Remove("shop:1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Find("shop:1"); ok {
		t.Error("shop:1 is still there")
	}
	if _, err := os.Stat(other.Root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its files are still there: %v", err)
	}
	if err := s.Remove("shop:1"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoImageIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no archive ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, t.TempDir()} {
		if _, err := s.Load(t.Context(), path); err == nil || !strings.Contains(err.Error(), "neither an archive of docker save nor an OCI layout") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	stranger, err := mutate.ConfigFile(shop(t), &v1.ConfigFile{OS: "plan9", Architecture: "sparc"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), saved(t, stranger, "x:1")); err == nil || !strings.Contains(err.Error(), "it is for plan9/sparc") {
		t.Errorf("got %v", err)
	}
}

// N-18: an archive writes nothing outside of its folder.
func TestAnArchiveCannotReachOutOfItsFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	users := layer(t, file("etc/passwd", "web:x:1:1::/:"), file("etc/group", "staff:x:2:"))
	for what, entries := range map[string][]tar.Header{
		"a link":      {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, file("out/evil", "x")},
		"dots":        {file("../../../../../../../../"+outside+"/evil", "x")},
		"a hard link": {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../../../../../../etc/passwd"}},
	} {
		s := open(t, t.TempDir())
		s.Load(t.Context(), saved(t, build(t, users, layer(t, entries...)), "evil:1"))
		if got, _ := os.ReadDir(outside); len(got) > 0 {
			t.Errorf("%s: wrote %v", what, got)
		}
	}
}

// N-13
func TestRulesMatchByGlobs(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for pattern, images := range map[string]map[string]bool{
		"nginx":                {"nginx": true, "nginx:1.27": true, "docker.io/library/nginx:1": true, "nginx@sha256:abc": true, "nginx2": false, "x/nginx": false},
		"nginx:1.*":            {"nginx:1.27": true, "nginx:2": false, "nginx": false},
		"nginx:latest":         {"nginx": true, "nginx:latest": true, "nginx:1": false},
		"*/http-echo":          {"hashicorp/http-echo:0.2": true, "ghcr.io/a/http-echo": true, "http-echo": false},
		"reg.example:5000/*":   {"reg.example:5000/a/b:1": true, "reg.example/a": false},
		"py?hon*":              {"python": true, "python:3": true, "pyhon": false},
		"*":                    {"anything:at-all": true},
		"docker.io/team/web:*": {"team/web:1": true, "docker.io/team/web:2": true},
	} {
		s.SetRules([]image.Rule{{Image: pattern, Command: []string{"x"}}})
		for ref, want := range images {
			if _, got := s.Match(ref); got != want {
				t.Errorf("%s and %s: got %t", pattern, ref, got)
			}
		}
	}
}
