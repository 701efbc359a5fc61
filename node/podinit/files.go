package podinit

import (
	"errors"
	"syscall"
)

// The container's files are put together below base, which lies on a folder that every system has; nothing is written there:
// it is this process's own mount.
const (
	base  = "/tmp"
	root  = base + "/root"
	upper = base + "/upper"
	work  = base + "/work"
	// tmpfsSize bounds what a container may write into its files and so into the machine's memory.
	tmpfsSize = "size=512m,mode=755"
)

// hidden folders are empty in every container: users' files, the sockets and pid files of the host's services, and the machine's keys.
var hidden = []string{"/root", "/home", "/run", "/tmp", "/mnt", "/media", "/boot", "/lost+found", "/var/run", "/var/tmp",
	"/etc/ssl/private", "/etc/ssh", "/etc/wireguard", "/etc/NetworkManager/system-connections"}

// fault says which step failed.
func fault(what string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(what + ": " + err.Error())
}

// build makes the container's view and gives up the privileges that took.
func (s *Setup) build() error {
	if err := syscall.Sethostname([]byte(s.Hostname)); err != nil {
		return fault("set the host name", err)
	}
	mounts, err := readMounts()
	if err != nil {
		return fault("read the mounts", err)
	}
	// What lies where base will be has to be taken before.
	trees, err := take(s.Mounts)
	if err != nil {
		return err
	}
	lower := -1
	if s.Root != "" {
		if lower, err = syscall.Open(s.Root, oPath|syscall.O_CLOEXEC, 0); err != nil {
			return fault("open the image "+s.Root, err)
		}
	}
	if err := s.clearDesk(); err != nil {
		return err
	}
	v := &view{mounts: mounts, hide: append(append([]string(nil), hidden...), s.Hide...)}
	files := v.host
	if lower >= 0 {
		files = func() error { return image(lower) }
	}
	for _, step := range []func() error{
		files, makeProc, makeDev, s.makeSys, enter, s.prepare,
		func() error { return s.furnish(trees) },
		func() error { return giveUp(s.Drop) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// clearDesk makes base the place where the container is put together, with the files that replace others.
func (s *Setup) clearDesk() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""); err != nil {
		return fault("make the mounts private", err)
	}
	if err := syscall.Mount("tmpfs", base, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, tmpfsSize); err != nil {
		return fault("mount a tmpfs on "+base, err)
	}
	for _, d := range []string{root, upper, work} {
		if err := syscall.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount(root, root, "", syscall.MS_BIND, ""); err != nil {
		return fault("bind the root", err)
	}
	for _, f := range s.Files {
		if err := writeFile(upper+f.Path, f.Content); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the file for the container's last words, now that its root is the only one.
func (s *Setup) prepare() error {
	if s.Message == "" || s.Message[0] != '/' {
		s.Message = ""
		return nil
	}
	if err := mkdirAll(s.Message[:lastByte(s.Message, '/')]); err != nil {
		return err
	}
	fd, err := syscall.Open(s.Message, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o666)
	if err != nil {
		return fault("make "+s.Message, err)
	}
	syscall.Fchmod(fd, 0o666)
	return syscall.Close(fd)
}

// furnish puts the mounts into the container, over a root that may be read-only.
func (s *Setup) furnish(trees []tree) error {
	if s.Frozen {
		if err := makeTargets(trees); err != nil {
			return err
		}
		if err := freeze(); err != nil {
			return err
		}
	}
	return attach(trees)
}

func writeFile(path, content string) error {
	dir := path[:lastByte(path, '/')]
	if err := mkdirAll(dir); err != nil {
		return err
	}
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return fault("make "+path, err)
	}
	defer syscall.Close(fd)
	for len(content) > 0 {
		n, err := syscall.Write(fd, []byte(content))
		if err != nil {
			return fault("write "+path, err)
		}
		content = content[n:]
	}
	return nil
}

// readFile is os.ReadFile without what the runtime does so that a file can be waited for, which here costs more than the reading.
func readFile(path string) ([]byte, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	all := make([]byte, 0, 16<<10)
	for {
		if len(all) == cap(all) {
			all = append(all, 0)[:len(all)]
		}
		n, err := syscall.Read(fd, all[len(all):cap(all)])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return all, err
		}
		all = all[:len(all)+n]
	}
}

// touch makes an empty file for something to be mounted on.
func touch(path string) error {
	return fault("make "+path, syscall.Mknod(path, syscall.S_IFREG|0o644, 0))
}

// mkdirAll is os.MkdirAll in fewer system calls: nearly always the folder above is there.
func mkdirAll(path string) error {
	err := syscall.Mkdir(path, 0o755)
	if err == syscall.ENOENT {
		if err = mkdirAll(path[:lastByte(path, '/')]); err == nil {
			err = syscall.Mkdir(path, 0o755)
		}
	}
	if err == syscall.EEXIST {
		return nil
	}
	return fault("make "+path, err)
}

// mount is one line of /proc/self/mountinfo.
type mount struct{ path, kind string }

func readMounts() ([]mount, error) {
	raw, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mount
	for _, line := range split(string(raw), '\n') {
		words := split(line, ' ')
		if len(words) < 9 {
			continue
		}
		for i := 6; i+1 < len(words); i++ {
			if words[i] == "-" {
				all = append(all, mount{path: unescape(words[4]), kind: words[i+1]})
				break
			}
		}
	}
	return all, nil
}

// unescape undoes the kernel's \040.
func unescape(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// view copies the shape of the host's root. The kernel refuses an overlay over a folder that has mounts below it which are not
// this user namespace's own: such a folder, "/" for a start, is made anew and its entries are taken one by one.
type view struct {
	mounts []mount
	hide   []string
}

// host shows the host's files.
func (v *view) host() error {
	if err := v.mirror(""); err != nil {
		return err
	}
	return v.cover()
}

// mirror fills the container's folder dir ("" for the root), which exists, with the host's entries.
func (v *view) mirror(dir string) error {
	names, err := entries(dir + "/")
	if err != nil {
		return nil // a folder that may not be read is empty
	}
	for _, name := range names {
		if err := v.entry(dir + "/" + name); err != nil {
			return err
		}
	}
	return nil
}

func entries(dir string) ([]string, error) {
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := syscall.ReadDirent(fd, buf)
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = syscall.ParseDirent(buf[:n], -1, names)
	}
}

func (v *view) entry(path string) error {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return nil
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		to := make([]byte, syscall.PathMax)
		n, err := syscall.Readlink(path, to)
		if err != nil {
			return nil
		}
		return fault("link "+path, syscall.Symlink(string(to[:n]), root+path))
	case syscall.S_IFREG:
		if isPasswords(path) {
			return withoutPasswords(path, root)
		}
		return bindFile(path)
	case syscall.S_IFDIR:
		return v.folder(path)
	}
	return nil
}

func (v *view) folder(path string) error {
	if err := mkdirAll(root + path); err != nil {
		return err
	}
	kind, below := v.mountsAt(path)
	switch {
	case path == "/proc" || path == "/sys" || path == "/dev" || v.hides(path):
		return nil
	case !onDisk(kind):
		return nil
	case below:
		return v.mirror(path)
	}
	return overlay(path)
}

// hides tells whether a folder is left empty.
func (v *view) hides(path string) bool {
	for _, h := range v.hide {
		if h == path {
			return true
		}
	}
	return false
}

// mountsAt returns the kind of file system mounted at path ("" if none is) and whether others are mounted below it.
func (v *view) mountsAt(path string) (kind string, below bool) {
	for _, m := range v.mounts {
		if m.path == path {
			kind = m.kind
		}
		below = below || len(m.path) > len(path) && m.path[:len(path)] == path && m.path[len(path)] == '/'
	}
	return kind, below
}

// onDisk tells whether a mount holds files, and not a part of the kernel's state or of another program's memory.
func onDisk(kind string) bool {
	switch kind {
	case "", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay", "squashfs", "erofs", "virtiofs", "9p", "nfs", "nfs4":
		return true
	}
	return false
}

// overlay puts a private, writable layer over a folder of the host; where the kernel does not let a user namespace do that, the
// folder is read-only.
func overlay(path string) error {
	up, wk := upper+path, work+path
	if err := mkdirAll(up); err != nil {
		return err
	}
	if err := mkdirAll(wk); err != nil {
		return err
	}
	var st syscall.Stat_t
	if syscall.Stat(path, &st) == nil {
		syscall.Chmod(up, st.Mode&0o7777)
	}
	for _, file := range passwords {
		if file[:lastByte(file, '/')] == path {
			if err := withoutPasswords(file, upper); err != nil {
				return err
			}
		}
	}
	options := "lowerdir=" + escape(path) + ",upperdir=" + escape(up) + ",workdir=" + escape(wk) + ",userxattr"
	if syscall.Mount("overlay", root+path, "overlay", syscall.MS_NODEV, options) == nil {
		return nil
	}
	if err := syscall.Mount(path, root+path, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fault("mount "+path, err)
	}
	return fault("make "+path+" read-only", protect(root+path))
}

// escape keeps an option's separators out of a path.
func escape(path string) string {
	var out []byte
	for i := range len(path) {
		if c := path[i]; c == ',' || c == ':' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}

// bindFile shows one file of the host, read-only.
func bindFile(path string) error {
	if err := touch(root + path); err != nil {
		return err
	}
	if err := syscall.Mount(path, root+path, "", syscall.MS_BIND, ""); err != nil {
		return syscall.Unlink(root + path)
	}
	return fault("make "+path+" read-only", protect(root+path))
}

// passwords are the files that only root reads, whose number a container of root's cluster has.
var passwords = []string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-"}

func isPasswords(path string) bool {
	for _, p := range passwords {
		if p == path {
			return true
		}
	}
	return false
}

// withoutPasswords makes the file below another root with the names alone: programs such as su need those. Whoever may not read
// the host's gets no copy.
func withoutPasswords(path, below string) error {
	raw, err := readFile(path)
	if err != nil {
		return nil
	}
	var out []byte
	for _, line := range split(string(raw), '\n') {
		fields := split(line, ':')
		for i, field := range fields {
			switch {
			case i == 1:
				field = ":*"
			case i > 0:
				field = ":" + field
			}
			out = append(out, field...)
		}
		if line != "" {
			out = append(out, '\n')
		}
	}
	if err := writeFile(below+path, string(out)); err != nil {
		return err
	}
	return fault("close "+path, syscall.Chmod(below+path, 0o600))
}

// cover empties the hidden folders that lie inside an overlay, and opens the folders everyone may write to.
func (v *view) cover() error {
	for _, h := range v.hide {
		var st syscall.Stat_t
		if hasByte(h[1:], '/') && syscall.Lstat(root+h, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			if err := syscall.Mount("tmpfs", root+h, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, tmpfsSize); err != nil {
				return fault("hide "+h, err)
			}
		}
	}
	for _, d := range []struct {
		path string
		mode uint32
	}{{"/tmp", 0o1777}, {"/var/tmp", 0o1777}, {"/root", 0o700}, {"/run", 0o755}} {
		mkdirAll(root + d.path)
		if err := syscall.Chmod(root+d.path, d.mode); err != nil && err != syscall.ENOENT {
			return fault("open "+d.path, err)
		}
	}
	return nil
}
