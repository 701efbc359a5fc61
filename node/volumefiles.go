package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// volumeFile is one file of a volume that kubelet writes.
type volumeFile struct {
	content []byte
	mode    os.FileMode
}

// files is the content of a volume, by path.
type files map[string]volumeFile

// TokenRequest asks for a token that says who a pod is.
type TokenRequest struct {
	Pod      *corev1.Pod
	Audience string        // "" for the API server's own
	Lifetime time.Duration // at most so long
}

// render works out what a volume holds. Errors name what is missing.
func (p *podVolumes) render(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (files, error) {
	find := p.w.n.lookup()
	find.capacity = p.w.n.resources
	out := files{}
	switch {
	case v.ConfigMap != nil:
		return out, out.configMap(pod, *v.ConfigMap, mode(v.ConfigMap.DefaultMode), find)
	case v.Secret != nil:
		s := corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName},
			Items: v.Secret.Items, Optional: v.Secret.Optional}
		return out, out.secret(pod, s, mode(v.Secret.DefaultMode), find)
	case v.DownwardAPI != nil:
		return out, out.downward(pod, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode), find)
	}
	usual := mode(v.Projected.DefaultMode)
	var errs []error
	for _, s := range v.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			errs = append(errs, out.configMap(pod, corev1.ConfigMapVolumeSource{LocalObjectReference: s.ConfigMap.LocalObjectReference,
				Items: s.ConfigMap.Items, Optional: s.ConfigMap.Optional}, usual, find))
		case s.Secret != nil:
			errs = append(errs, out.secret(pod, *s.Secret, usual, find))
		case s.DownwardAPI != nil:
			errs = append(errs, out.downward(pod, s.DownwardAPI.Items, usual, find))
		case s.ServiceAccountToken != nil:
			errs = append(errs, p.token(ctx, pod, *s.ServiceAccountToken, out))
		default:
			errs = append(errs, errors.New("this kind of source is not supported"))
		}
	}
	return out, errors.Join(errs...)
}

func hasToken(v *corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil
	})
}

// mode is a volume's file mode, with Kubernetes' default.
func mode(m *int32) os.FileMode {
	if m == nil {
		return os.FileMode(corev1.ConfigMapVolumeSourceDefaultMode)
	}
	return os.FileMode(*m)
}

func (f files) configMap(pod *corev1.Pod, v corev1.ConfigMapVolumeSource, usual os.FileMode, find lookup) error {
	cm, err := find.configMap(pod.Namespace, v.Name)
	if err != nil {
		return missing(optional(v.Optional), "configmap", v.Name)
	}
	data := maps.Clone(cm.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for k, text := range cm.Data {
		data[k] = []byte(text)
	}
	return f.keys(data, keyed{v.Items, usual, optional(v.Optional), "configmap"})
}

func (f files) secret(pod *corev1.Pod, v corev1.SecretProjection, usual os.FileMode, find lookup) error {
	secret, err := find.secret(pod.Namespace, v.Name)
	if err != nil {
		return missing(optional(v.Optional), "secret", v.Name)
	}
	return f.keys(secret.Data, keyed{v.Items, usual, optional(v.Optional), "secret"})
}

// keyed is which keys of an object a volume shows, and how.
type keyed struct {
	items    []corev1.KeyToPath // none for all
	usual    os.FileMode
	optional bool
	kind     string // of the object, in words
}

// keys files every key, or those that are named at the paths they are named for.
func (f files) keys(data map[string][]byte, k keyed) error {
	if len(k.items) == 0 {
		for key, content := range data {
			f[key] = volumeFile{content, k.usual}
		}
		return nil
	}
	for _, item := range k.items {
		content, ok := data[item.Key]
		if !ok {
			if k.optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", k.kind, k.kind, item.Key)
		}
		m := k.usual
		if item.Mode != nil {
			m = os.FileMode(*item.Mode)
		}
		f[item.Path] = volumeFile{content, m}
	}
	return nil
}

func (f files) downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, usual os.FileMode, find lookup) error {
	for _, item := range items {
		var text string
		var err error
		if item.FieldRef != nil {
			text, err = fieldOf(pod, item.FieldRef.FieldPath)
		} else if item.ResourceFieldRef != nil {
			text, err = resourceOf(pod, nil, item.ResourceFieldRef, find.capacity)
		}
		if err != nil {
			return err
		}
		m := usual
		if item.Mode != nil {
			m = os.FileMode(*item.Mode)
		}
		f[item.Path] = volumeFile{[]byte(text), m}
	}
	return nil
}

const (
	defaultTokenLife = time.Hour
	// renewAt is the part of a token's life after which it is replaced: kubelet's number.
	renewAt = 0.8
)

func (p *podVolumes) token(ctx context.Context, pod *corev1.Pod, s corev1.ServiceAccountTokenProjection, out files) error {
	if p.w.n.cfg.Token == nil {
		return errors.New("this node has nobody to ask for tokens")
	}
	life := defaultTokenLife
	if s.ExpirationSeconds != nil {
		life = time.Duration(*s.ExpirationSeconds) * time.Second
	}
	now, key := p.w.n.cfg.Now(), s.Path+"\x00"+s.Audience
	if have, ok := p.tokens[key]; ok && now.Before(have.renew) {
		out[s.Path] = volumeFile{[]byte(have.text), 0o644}
		return nil
	}
	text, err := p.w.n.cfg.Token(ctx, TokenRequest{Pod: pod, Audience: s.Audience, Lifetime: life})
	if err != nil {
		return fmt.Errorf("failed to fetch token: %w", err)
	}
	if p.tokens == nil {
		p.tokens = map[string]token{}
	}
	t := token{text: text, renew: now.Add(time.Duration(float64(life) * renewAt))}
	p.tokens[key] = t
	p.until = t.renew
	for _, other := range p.tokens {
		if other.renew.Before(p.until) {
			p.until = other.renew
		}
	}
	out[s.Path] = volumeFile{[]byte(text), 0o644}
	return nil
}

// token is one that was issued.
type token struct {
	text  string
	renew time.Time
}

// Names that kubelet uses: a reader of a volume sees all of an update or nothing of it, because ..data is switched over at once.
const dataLink, newDataLink = "..data", "..data_tmp"

// write brings a volume's files up to date.
func (p *podVolumes) write(pod *corev1.Pod, v *corev1.Volume, all files) error {
	group, owned := fsGroup(pod)
	sum := all.sum()
	if p.sums[v.Name] == sum {
		return nil
	}
	dir, err := p.folder(v.Name, 0o755)
	if err != nil {
		return err
	}
	if !owned {
		group = -1
	}
	if err := all.publish(dir, group); err != nil {
		return err
	}
	p.set(v.Name, dir)
	if p.sums == nil {
		p.sums = map[string]string{}
	}
	p.sums[v.Name] = sum
	return nil
}

func (f files) sum() string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(h, "%q %o %d\n", path, f[path].mode, len(f[path].content))
		h.Write(f[path].content)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// publish writes the files into a new folder below dir and switches over to it. group is -1 for none.
func (f files) publish(dir string, group int) error {
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fresh, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	tops := map[string]bool{}
	for path, file := range f {
		if err := file.write(filepath.Join(fresh, filepath.Clean("/"+path)), group); err != nil {
			return err
		}
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
	}
	next := filepath.Join(dir, newDataLink)
	if err := errors.Join(os.Symlink(filepath.Base(fresh), next), os.Rename(next, filepath.Join(dir, dataLink))); err != nil {
		return err
	}
	if err := relink(dir, tops); err != nil {
		return err
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

func (f volumeFile) write(path string, group int) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	m := f.mode
	if group >= 0 {
		m |= 0o440 // as kubelet: the group that owns the volume reads it
	}
	return errors.Join(os.WriteFile(path, f.content, m), os.Chmod(path, m), os.Lchown(path, -1, group))
}

// relink makes the names that readers use, and takes away those that have no file any more.
func relink(dir string, tops map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if e.Type()&os.ModeSymlink == 0 || name == dataLink {
			continue
		}
		have[name] = true
		if !tops[name] {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	for name := range tops {
		if !have[name] {
			err = errors.Join(err, os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)))
		}
	}
	return err
}
