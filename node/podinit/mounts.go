package podinit

import (
	"strconv"
	"syscall"
	"unsafe"
)

// Numbers that package syscall does not have.
const (
	sysOpenTree    = 428
	sysMoveMount   = 429
	sysOpenat2     = 437
	openTreeClone  = 1
	atEmptyPath    = 0x1000
	moveFromFD     = 0x4  // MOVE_MOUNT_F_EMPTY_PATH
	moveToLink     = 0x10 // MOVE_MOUNT_T_SYMLINKS
	resolveNoLinks = 0x04 // RESOLVE_NO_SYMLINKS, and with it the links of /proc
	resolveBeneath = 0x08
	oPath          = 0x200000
	mountAttrNoDev = 0x4
	currentFolder  = -100 // AT_FDCWD
)

// Mount shows a folder or a file of the host in the container.
type Mount struct {
	Source   string // without a link in it: who may write above it could lead elsewhere after it was looked at
	SubPath  string // below Source, what is shown of it; made as folders as open as Source where it is missing. Links in it cannot lead out
	Target   string
	ReadOnly bool
}

// tree is a mount that has been taken and not yet been put anywhere.
type tree struct {
	fd     int
	folder bool
	target string
}

// take opens the sources while the host's files are still there to be seen. The mounts belong to nobody until they are attached.
func take(mounts []Mount) ([]tree, error) {
	defer syscall.Umask(syscall.Umask(0))
	var trees []tree
	for _, m := range mounts {
		t, err := m.take()
		if err != nil {
			return nil, fault("mount "+m.Source+" at "+m.Target, err)
		}
		trees = append(trees, t)
	}
	return trees, nil
}

func (m Mount) take() (tree, error) {
	fd, err := openat2(currentFolder, m.Source, resolveNoLinks)
	if err != nil {
		return tree{}, err
	}
	defer func() { syscall.Close(fd) }()
	if m.SubPath != "" {
		below, err := openBelow(fd, m.SubPath)
		if err != nil {
			return tree{}, err
		}
		syscall.Close(fd)
		fd = below
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return tree{}, err
	}
	copied, err := openTree(fd)
	if err != nil {
		return tree{}, err
	}
	attr := uint64(mountAttrNoSUID | mountAttrNoDev)
	if m.ReadOnly {
		attr |= mountAttrReadOnly
	}
	if err := setAttrFD(copied, attr); err != nil {
		syscall.Close(copied)
		return tree{}, err
	}
	return tree{fd: copied, folder: st.Mode&syscall.S_IFMT == syscall.S_IFDIR, target: m.Target}, nil
}

// openBelow opens a path below a folder, making folders where there is nothing; what would lead out of it is refused. Whoever may
// write to the volume may write to those, as kubelet has it.
func openBelow(dir int, path string) (int, error) {
	fd, err := openat2(dir, path, resolveBeneath)
	if err != syscall.ENOENT {
		return fd, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(dir, &st); err != nil {
		return -1, err
	}
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' || i == 0 {
			continue
		}
		parent, name := dir, path[:i]
		if j := lastByte(name, '/'); j >= 0 {
			if parent, err = openat2(dir, name[:j], resolveBeneath); err != nil {
				return -1, err
			}
			name = name[j+1:]
		}
		err := syscall.Mkdirat(parent, name, st.Mode&0o1777)
		if parent != dir {
			syscall.Close(parent)
		}
		if err != nil && err != syscall.EEXIST {
			return -1, err
		}
	}
	return openat2(dir, path, resolveBeneath)
}

func openat2(dir int, path string, resolve uint64) (int, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	how := [3]uint64{oPath | syscall.O_CLOEXEC, 0, resolve}
	fd, _, errno := syscall.Syscall6(sysOpenat2, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

var empty = [1]byte{}

func openTree(fd int) (int, error) {
	copied, _, errno := syscall.Syscall(sysOpenTree, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		openTreeClone|syscall.O_CLOEXEC|atEmptyPath|atRecursive)
	if errno != 0 {
		return -1, errno
	}
	return int(copied), nil
}

func setAttrFD(fd int, set uint64) error {
	attr := [4]uint64{set}
	_, _, errno := syscall.Syscall6(sysMountSetattr, uintptr(fd), uintptr(unsafe.Pointer(&empty)), atEmptyPath|atRecursive,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// makeTargets makes what the trees will lie on. The container's root is the only one by now: no link leads out of it.
func makeTargets(trees []tree) error {
	for _, t := range trees {
		var st syscall.Stat_t
		if syscall.Stat(t.target, &st) == nil {
			continue
		}
		if t.folder {
			if err := mkdirAll(t.target); err != nil {
				return err
			}
			continue
		}
		if err := mkdirAll(t.target[:lastByte(t.target, '/')]); err != nil {
			return err
		}
		if err := touch(t.target); err != nil {
			return err
		}
	}
	return nil
}

// attach puts the trees where they belong. A target may lie in another tree, so that those come first which were named first.
func attach(trees []tree) error {
	for i, t := range trees {
		if err := makeTargets(trees[i : i+1]); err != nil {
			return err
		}
		if err := moveMount(t.fd, t.target); err != nil {
			return fault("mount at "+t.target, err)
		}
	}
	return nil
}

// moveMount puts a mount that lies nowhere in its place, and closes its descriptor.
func moveMount(fd int, target string) error {
	defer syscall.Close(fd)
	p, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	at := currentFolder
	_, _, errno := syscall.Syscall6(sysMoveMount, uintptr(fd), uintptr(unsafe.Pointer(&empty)), uintptr(at), uintptr(unsafe.Pointer(p)),
		moveFromFD|moveToLink, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// freeze makes the container's root read-only, and every mount that is its part. /dev and /proc are not.
func freeze() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.path == "/proc" || m.path == "/dev" || hasPrefix(m.path, "/proc/") || hasPrefix(m.path, "/dev/") {
			continue
		}
		fd, err := syscall.Open(m.path, oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			continue // covered by another
		}
		attr := [4]uint64{mountAttrReadOnly}
		_, _, errno := syscall.Syscall6(sysMountSetattr, uintptr(fd), uintptr(unsafe.Pointer(&empty)), atEmptyPath,
			uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
		syscall.Close(fd)
		if errno != 0 && errno != syscall.EINVAL { // a file within a mount that is one already
			return fault("make "+m.path+" read-only", errno)
		}
	}
	return nil
}

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// image lays a private, writable layer over the files of an image, which are the container's root then.
func image(fd int) error {
	if err := syscall.Mount("overlay", root, "overlay", syscall.MS_NODEV,
		"lowerdir=/proc/self/fd/"+strconv.Itoa(fd)+",upperdir="+upper+",workdir="+work+",userxattr"); err != nil {
		return fault("lay a layer over the image", err)
	}
	for _, d := range []string{"/proc", "/dev", "/sys", "/tmp"} {
		if err := mkdirAll(root + d); err != nil {
			return err
		}
	}
	return nil
}
