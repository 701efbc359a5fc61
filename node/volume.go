package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"kubarium.dev/node/podinit"
)

// volumes keeps the pods' volumes of a node in a tmpfs that is mounted in this process's own mount namespace: nothing of them
// outlives the process, kill -9 included.
type volumes struct {
	dir string // where the tmpfs is mounted when it is first wanted; "" for nowhere

	mu      sync.Mutex // guards mounted
	mounted bool
}

var errNoState = errors.New("this node has no folder for volumes")

// mount makes the tmpfs, unless it is there.
func (v *volumes) mount() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dir == "" {
		return errNoState
	}
	if v.mounted {
		return nil
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(v.dir) // containers refuse what has a link in its path
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount the volumes' folder: %w", err)
	}
	v.dir, v.mounted = dir, true
	// A container's first process may be there before its pod's volumes: what is mounted in here later comes to it.
	return os.NewSyscallError("share the volumes' folder", unix.Mount("", dir, "", unix.MS_SHARED, ""))
}

// pod is the folder of a pod's volumes.
func (v *volumes) pod(uid types.UID) (string, error) {
	if err := v.mount(); err != nil {
		return "", err
	}
	dir := filepath.Join(v.dir, string(uid))
	return dir, os.MkdirAll(dir, 0o755)
}

// remove takes a pod's volumes away.
func (v *volumes) remove(uid types.UID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.mounted {
		return nil
	}
	dir := filepath.Join(v.dir, string(uid))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries { // volumes with a size are mounts of their own
		unix.Unmount(filepath.Join(dir, e.Name()), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// close takes everything away.
func (v *volumes) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.mounted {
		return nil
	}
	v.mounted = false
	return errors.Join(unix.Unmount(v.dir, unix.MNT_DETACH), os.Remove(v.dir))
}

// podVolumes is the volumes of one pod.
type podVolumes struct {
	w *worker

	mu     sync.Mutex // guards all below; exec makes containers from other goroutines
	dir    string     // "" until the first is made
	made   map[string]string
	sums   map[string]string // of what was written last
	tokens map[string]token  // by their path and audience
	until  time.Time         // when something in them has to be renewed; zero for never
}

// mountError is a volume that cannot be had yet.
type mountError struct {
	volume string
	err    error
}

// Error says it in kubelet's words.
func (e *mountError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.volume, e.err)
}

// Unwrap returns the cause.
func (e *mountError) Unwrap() error { return e.err }

// check finds out whether every volume could be made; make makes them too. Volumes of pods that are the built-in application
// alone are made when somebody runs a command there: nobody else looks at them.
func (p *podVolumes) check(ctx context.Context, pod *corev1.Pod, make bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if err := p.one(ctx, pod, v, make); err != nil {
			return &mountError{v.Name, err}
		}
	}
	return nil
}

func (p *podVolumes) one(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, make bool) error {
	switch {
	case v.HostPath != nil:
		path, err := p.w.n.hostPathVolume(v.HostPath)
		if err == nil {
			p.set(v.Name, path)
		}
		return err
	case v.EmptyDir != nil:
		if !make || p.made[v.Name] != "" {
			return nil
		}
		return p.empty(pod, v)
	case v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil:
		return errors.New("this kind of volume is not supported")
	}
	if !make && hasToken(v) {
		return nil // nobody is to sign a thousand tokens that nobody reads
	}
	files, err := p.render(ctx, pod, v)
	if err != nil || !make {
		return err
	}
	return p.write(pod, v, files)
}

func (p *podVolumes) set(name, path string) {
	if p.made == nil {
		p.made = map[string]string{}
	}
	p.made[name] = path
}

// folder makes the folder of a volume.
func (p *podVolumes) folder(name string, mode os.FileMode) (string, error) {
	if p.dir == "" {
		dir, err := p.w.n.volumes.pod(p.w.uid)
		if err != nil {
			return "", err
		}
		p.dir = dir
	}
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, os.Chmod(dir, mode)
}

// empty makes an emptyDir, with a bound if it has one.
func (p *podVolumes) empty(pod *corev1.Pod, v *corev1.Volume) error {
	dir, err := p.folder(v.Name, 0o777)
	if err != nil {
		return err
	}
	if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Value() > 0 {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=777,size=%d", limit.Value())); err != nil {
			return err
		}
	}
	if g, ok := fsGroup(pod); ok {
		if err := errors.Join(os.Chown(dir, -1, g), os.Chmod(dir, os.ModeSetgid|0o777)); err != nil {
			return err
		}
	}
	p.set(v.Name, dir)
	return nil
}

// fsGroup is the group that owns the pod's volumes; an ordinary user's cluster has one group only.
func fsGroup(pod *corev1.Pod) (int, bool) {
	s := pod.Spec.SecurityContext
	if s == nil || s.FSGroup == nil || !multiUser() {
		return 0, false
	}
	return int(*s.FSGroup), true
}

// mounts is what a container sees of the volumes.
func (p *podVolumes) mounts(c *corev1.Container, env *environment) ([]podinit.Mount, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []podinit.Mount
	for _, m := range c.VolumeMounts {
		source := p.made[m.Name]
		if source == "" {
			return nil, configError{fmt.Errorf("volume %q does not exist", m.Name)}
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, env.get)
		}
		if filepath.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
			return nil, configError{fmt.Errorf("subPath %q must stay within the volume", sub)}
		}
		sub = strings.TrimPrefix(filepath.Clean("/"+sub), "/")
		readOnly := m.ReadOnly || p.sums[m.Name] != "" // what kubelet writes is read-only to everybody
		out = append(out, podinit.Mount{Source: source, SubPath: sub, Target: filepath.Clean("/" + m.MountPath), ReadOnly: readOnly})
	}
	return out, nil
}

// refresh writes what has changed in a volume's sources, and returns when to come again.
func (p *podVolumes) refresh(ctx context.Context, pod *corev1.Pod) error {
	p.mu.Lock()
	made := p.dir != ""
	p.mu.Unlock()
	if !made {
		return nil
	}
	return p.check(ctx, pod, true)
}

// renewal is how long the volumes may stay as they are.
func (p *podVolumes) renewal(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() {
		return forever
	}
	return max(p.until.Sub(now), 0)
}

// errHostPath names the way to allow it.
var errHostPath = errors.New("hostPath is refused: the cluster's configuration does not name the path (hostPaths)")

// hostPathVolume resolves a hostPath that the configuration allows, links in it followed first (N-18).
func (n *Node) hostPathVolume(v *corev1.HostPathVolumeSource) (string, error) {
	path, err := filepath.EvalSymlinks(v.Path)
	if errors.Is(err, os.ErrNotExist) && v.Type != nil && (*v.Type == corev1.HostPathDirectoryOrCreate || *v.Type == corev1.HostPathFileOrCreate) {
		return n.createHostPath(v)
	}
	if err != nil {
		return "", fmt.Errorf("hostPath type check failed: %s does not exist", v.Path)
	}
	for _, allowed := range n.cfg.HostPaths {
		allowed, err := filepath.EvalSymlinks(allowed)
		if err != nil {
			continue
		}
		if rel, err := filepath.Rel(allowed, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return path, checkHostPath(v, path)
		}
	}
	return "", errHostPath
}

// createHostPath makes the last word of a path, in a folder that may be shown.
func (n *Node) createHostPath(v *corev1.HostPathVolumeSource) (string, error) {
	parent, err := n.hostPathVolume(&corev1.HostPathVolumeSource{Path: filepath.Dir(v.Path)})
	if err != nil {
		return "", err
	}
	name := filepath.Base(v.Path)
	path := filepath.Join(parent, name)
	// A pod that may write above could put a link in the way meanwhile.
	dir, err := unix.Openat2(unix.AT_FDCWD, parent, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return "", &os.PathError{Op: "open", Path: parent, Err: err}
	}
	defer unix.Close(dir)
	if *v.Type == corev1.HostPathDirectoryOrCreate {
		return path, os.NewSyscallError("mkdir "+path, unix.Mkdirat(dir, name, 0o755))
	}
	f, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return "", &os.PathError{Op: "create", Path: path, Err: err}
	}
	return path, unix.Close(f)
}

func checkHostPath(v *corev1.HostPathVolumeSource, path string) error {
	if v.Type == nil || *v.Type == corev1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	switch *v.Type {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		if !info.IsDir() {
			return fmt.Errorf("hostPath type check failed: %s is not a directory", v.Path)
		}
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		if !info.Mode().IsRegular() {
			return fmt.Errorf("hostPath type check failed: %s is not a file", v.Path)
		}
	}
	return nil
}
