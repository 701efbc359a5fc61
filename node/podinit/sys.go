package podinit

import "syscall"

// desk is where the kernel's whole /sys lies for a moment, and none of the container's processes sees it.
const desk = base + "/sys"

// shown are the parts of the kernel's /sys that a container sees: its own interfaces, and what programs size themselves by. The rest
// is the machine's: the files of a device or of the firmware belong to root, whose number a container of root's cluster has.
var shown = []string{"/class/net", "/devices/virtual/net", "/devices/system/cpu", "/devices/system/node", "/kernel/mm/transparent_hugepage"}

// makeSys makes the container's /sys of the mount that came with the Setup; without one it is empty. Nothing of it can be written.
func (s *Setup) makeSys() error {
	const sys = root + "/sys"
	if s.sys < 0 {
		return nil
	}
	if err := syscall.Mkdir(desk, 0o755); err != nil {
		return fault("make "+desk, err)
	}
	if err := moveMount(s.sys, desk); err != nil {
		return fault("mount "+desk, err)
	}
	if err := syscall.Mount(sys, sys, "", syscall.MS_BIND, ""); err != nil {
		return fault("mount /sys", err)
	}
	for _, part := range append([]string{"/fs/cgroup"}, shown...) {
		if err := mkdirAll(sys + part); err != nil {
			return err
		}
	}
	for _, part := range shown {
		err := syscall.Mount(desk+part, sys+part, "", syscall.MS_BIND, "")
		if err != nil && err != syscall.ENOENT { // this kernel has none
			return fault("show /sys"+part, err)
		}
	}
	return fault("protect /sys", protect(sys))
}
