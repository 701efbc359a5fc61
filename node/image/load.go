package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// found is an image in an archive, before it is unpacked.
type found struct {
	image v1.Image
	names []string
}

// Load unpacks every image of an archive that docker save (or podman, or skopeo) wrote, compressed by gzip or not, or of an OCI
// layout, as a folder or as an archive of one. Errors say what the file is not.
func (s *Set) Load(ctx context.Context, path string) ([]Image, error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	desk, err := os.MkdirTemp(s.dir, ".load-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(desk)
	all, err := open(path, desk)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	var out []Image
	for _, f := range all {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		img, err := s.unpack(ctx, f, desk)
		if err != nil {
			return out, fmt.Errorf("load %s from %s: %w", strings.Join(f.names, ", "), path, err)
		}
		out = append(out, *img)
	}
	return out, nil
}

// LoadFrom is Load of an archive that comes as a stream.
func (s *Set) LoadFrom(ctx context.Context, r io.Reader) ([]Image, error) {
	f, err := os.CreateTemp("", "image-*.tar")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return s.Load(ctx, f.Name())
}

// open finds the images of a file or folder. desk is room for what has to be written out.
func open(path, desk string) ([]found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openLayout(path)
	}
	plain, err := decompressed(path, desk)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return os.Open(plain) }
	if manifest, err := tarball.LoadManifest(opener); err == nil {
		return openSaved(opener, manifest)
	}
	dir := filepath.Join(desk, "layout")
	f, err := os.Open(plain)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := untar(f, dir); err != nil {
		return nil, errors.New("it is neither an archive of docker save nor an OCI layout")
	}
	return openLayout(dir)
}

// decompressed is the path of the archive without its compression.
func decompressed(path, desk string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	if magic, _ := r.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return path, nil
	}
	unzip, err := gzip.NewReader(r)
	if err != nil {
		return "", err
	}
	out, err := os.Create(filepath.Join(desk, "archive.tar"))
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, unzip)
	return out.Name(), errors.Join(err, out.Close())
}

func openSaved(opener tarball.Opener, manifest tarball.Manifest) ([]found, error) {
	var all []found
	for _, d := range manifest {
		var tag *name.Tag
		if len(d.RepoTags) > 0 {
			t, err := name.NewTag(d.RepoTags[0])
			if err != nil {
				return nil, err
			}
			tag = &t
		}
		img, err := tarball.Image(opener, tag)
		if err != nil {
			return nil, err
		}
		all = append(all, found{img, d.RepoTags})
	}
	return all, nil
}

// Annotations that name the images of a layout; the second one is containerd's and in full.
var nameAnnotations = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

func openLayout(dir string) ([]found, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, errors.New("it is neither an archive of docker save nor an OCI layout")
	}
	return openIndex(index, nil)
}

func openIndex(index v1.ImageIndex, names []string) ([]found, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var all []found
	for _, d := range m.Manifests {
		called := names
		for _, a := range nameAnnotations {
			if n := d.Annotations[a]; n != "" && len(called) == 0 {
				called = []string{n}
			}
		}
		switch {
		case d.MediaType.IsIndex():
			child, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			more, err := openIndex(child, called)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		case d.MediaType.IsImage() && runsHere(d.Platform):
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			all = append(all, found{img, called})
		}
	}
	return all, nil
}

// runsHere tells whether an image is for this machine; one that says nothing is.
func runsHere(p *v1.Platform) bool {
	return p == nil || p.OS == "" || p.OS == runtime.GOOS && (p.Architecture == "" || p.Architecture == runtime.GOARCH)
}

// unpack writes an image's files and files the image. What is there already gets the names alone.
func (s *Set) unpack(ctx context.Context, f found, desk string) (*Image, error) {
	id, err := f.image.ConfigName()
	if err != nil {
		return nil, err
	}
	config, err := f.image.ConfigFile()
	if err != nil {
		return nil, err
	}
	if !runsHere(&v1.Platform{OS: config.OS, Architecture: config.Architecture}) {
		return nil, fmt.Errorf("it is for %s/%s, and this is %s/%s", config.OS, config.Architecture, runtime.GOOS, runtime.GOARCH)
	}
	c := config.Config
	img := &Image{
		ID: id.String(), Entrypoint: c.Entrypoint, Command: c.Cmd, Env: c.Env, Dir: c.WorkingDir, User: c.User,
		StopSignal: c.StopSignal, Loaded: time.Now(), Root: filepath.Join(s.dir, id.Hex, filesIn),
	}
	for _, n := range f.names {
		img.Names = append(img.Names, fullName(n))
	}
	s.mu.RLock()
	old := s.byID[img.ID]
	s.mu.RUnlock()
	if old == nil {
		if err := s.write(ctx, f.image, img, filepath.Join(desk, id.Hex)); err != nil {
			return nil, err
		}
	} else {
		img.UID, img.GID, img.Home, img.Size = old.UID, old.GID, old.Home, old.Size
		img.Names = append(img.Names, old.Names...)
	}
	slices.Sort(img.Names)
	img.Names = slices.Compact(img.Names)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := img.describe(); err != nil {
		return nil, err
	}
	s.file(img)
	return img, nil
}

// write unpacks the files beside and puts them in place at once.
func (s *Set) write(ctx context.Context, from v1.Image, img *Image, beside string) error {
	layers := mutate.Extract(from)
	defer layers.Close()
	defer context.AfterFunc(ctx, func() { layers.Close() })()
	size, err := untar(layers, filepath.Join(beside, filesIn))
	if err != nil {
		return err
	}
	img.Size = size
	if err := img.findUser(filepath.Join(beside, filesIn)); err != nil {
		return err
	}
	final := filepath.Dir(img.Root)
	return errors.Join(os.RemoveAll(final), os.Rename(beside, final))
}
