package podinit

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers that package syscall does not have.
const (
	sysMountSetattr   = 442
	sysCloseRange     = 436
	closeRangeOnExec  = 4
	atRecursive       = 0x8000
	mountAttrReadOnly = 0x1
	mountAttrNoSUID   = 0x2
	mountAttrNoExec   = 0x8
	prSetNoNewPrivs   = 38
	prCapBSetDrop     = 24
	prSetDumpable     = 4
	prSetName         = 15
	prSetSubreaper    = 36
	prCapAmbient      = 47
	keyctlJoinSession = 1
	// prCapAmbientClearAll is an argument of prCapAmbient.
	prCapAmbientClearAll = 4
	capabilityV3         = 0x20080522
	lastCapability       = 63
)

// kept are the capabilities that container engines leave by default: over the container's own files and users.
const kept = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// protect makes a mount, and those below it, read-only without touching flags that are locked.
func protect(path string) error { return setAttr(path, mountAttrReadOnly) }

func setAttr(path string, set uint64) error {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	attr := [4]uint64{set}
	at := -100 // AT_FDCWD
	_, _, errno := syscall.Syscall6(sysMountSetattr, uintptr(at), uintptr(unsafe.Pointer(p)), atRecursive, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// makeProc mounts the container's own /proc. What in it speaks of the whole machine is read-only or empty: a container of
// root's cluster runs under root's number, and the kernel asks for no more than that in places. So nobody inside makes a user
// namespace either: its maker may mount the cgroups, whose files are root's number's. The limit is this user namespace's own.
func makeProc() error {
	const proc = root + "/proc"
	if err := syscall.Mount("proc", proc, "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fault("mount /proc", err)
	}
	if err := writeFile(proc+"/sys/user/max_user_namespaces", "0"); err != nil {
		return fault("forbid user namespaces", err)
	}
	for _, name := range []string{"/sys", "/sysrq-trigger", "/irq", "/bus", "/fs"} {
		if err := syscall.Mount(proc+name, proc+name, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			continue // this kernel has none
		}
		if err := protect(proc + name); err != nil {
			return fault("protect /proc"+name, err)
		}
	}
	for _, name := range []string{"/kcore", "/keys", "/timer_list", "/sched_debug", "/latency_stats", "/kallsyms", "/kmsg", "/acpi", "/scsi", "/asound"} {
		if err := mask(proc + name); err != nil {
			return fault("mask /proc"+name, err)
		}
	}
	return nil
}

func mask(path string) error {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return nil
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_RDONLY, "size=0")
	}
	if err := syscall.Mount("/dev/null", path, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	return protect(path)
}

// makeDev makes a /dev of harmless devices. They are the host's own nodes: read-only, so that nobody changes their modes.
func makeDev() error {
	const dev = root + "/dev"
	if err := syscall.Mount("tmpfs", dev, "tmpfs", syscall.MS_NOSUID|syscall.MS_NOEXEC, "size=64k,mode=755"); err != nil {
		return fault("mount /dev", err)
	}
	for _, name := range []string{"/null", "/zero", "/full", "/random", "/urandom", "/tty"} {
		if err := touch(dev + name); err != nil {
			return err
		}
		if err := syscall.Mount("/dev"+name, dev+name, "", syscall.MS_BIND, ""); err != nil {
			return fault("bind /dev"+name, err)
		}
		if err := setAttr(dev+name, mountAttrReadOnly|mountAttrNoSUID|mountAttrNoExec); err != nil {
			return fault("protect /dev"+name, err)
		}
	}
	for _, d := range []struct{ name, kind, options string }{
		{"/pts", "devpts", "newinstance,ptmxmode=0666,mode=620"}, {"/shm", "tmpfs", "mode=1777,size=64m"},
	} {
		if err := syscall.Mkdir(dev+d.name, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(d.kind, dev+d.name, d.kind, syscall.MS_NOSUID|syscall.MS_NOEXEC, d.options); err != nil {
			return fault("mount /dev"+d.name, err)
		}
	}
	for name, to := range map[string]string{
		"/ptmx": "pts/ptmx", "/fd": "/proc/self/fd", "/stdin": "/proc/self/fd/0", "/stdout": "/proc/self/fd/1", "/stderr": "/proc/self/fd/2",
	} {
		if err := syscall.Symlink(to, dev+name); err != nil {
			return err
		}
	}
	return nil
}

// enter makes the new root the only one.
func enter() error {
	if err := syscall.Chdir(root); err != nil {
		return fault("enter the root", err)
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fault("change the root", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fault("leave the host's root", err)
	}
	return fault("enter the root", syscall.Chdir("/"))
}

// giveUp drops what building took. Privileges belong to the thread: children are started by this one alone, the main thread,
// to which init is bound.
func giveUp(drop uint64) error {
	bound := uint64(kept) &^ drop // what commands can have; this process has to make them whom they should be
	syscall.Umask(0o022)
	if err := renounce(); err != nil {
		return err
	}
	for c := range uintptr(lastCapability + 1) {
		if bound&(1<<c) != 0 {
			continue
		}
		err := prctl(prCapBSetDrop, c)
		if err == syscall.EINVAL {
			break // this kernel knows no more
		}
		if err != nil {
			return fault("drop a capability", err)
		}
	}
	header := struct {
		version uint32
		pid     int32
	}{version: capabilityV3}
	var data [2]struct{ effective, permitted, inheritable uint32 }
	data[0].effective, data[0].permitted = kept, kept
	if err := prctl(prCapAmbient, prCapAmbientClearAll); err != nil && err != syscall.EINVAL {
		return fault("drop the inherited capabilities", err)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0); errno != 0 {
		return fault("drop the capabilities", errno)
	}
	return nil
}

// renounce drops what no process of a pod has, and keeps others from looking into this one.
func renounce() error {
	// Else it would have the keys of whoever started the daemon. A kernel without keys has none to show.
	if _, _, errno := syscall.RawSyscall(syscall.SYS_KEYCTL, keyctlJoinSession, 0, 0); errno != 0 && errno != syscall.ENOSYS {
		return fault("get a keyring of its own", errno)
	}
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return fault("renounce new privileges", err)
	}
	return fault("be undumpable", prctl(prSetDumpable, 0))
}

func prctl(option int, arg uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, uintptr(option), arg, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func ioctl(fd int, request uintptr, arg *uint32) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}

// rename shows name in ps: the kernel reads a process's words from where they lay when it started, and so does os.Args[0].
func rename(name string) {
	words := unsafe.Slice(unsafe.StringData(os.Args[0]), len(Word))
	for i := range words {
		words[i] = 0
	}
	copy(words[:len(words)-1], name)
	if p, err := syscall.BytePtrFromString(name); err == nil {
		prctl(prSetName, uintptr(unsafe.Pointer(p)))
	}
}

func hasByte(s string, b byte) bool { return lastByte(s, b) >= 0 }

func lastByte(s string, b byte) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == b {
			return i
		}
	}
	return -1
}

func split(s string, sep byte) []string {
	var all []string
	from := 0
	for i := range len(s) {
		if s[i] == sep {
			all = append(all, s[from:i])
			from = i + 1
		}
	}
	return append(all, s[from:])
}
