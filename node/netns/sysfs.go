package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sysfs is a read-only mount of the kernel's /sys as it looks from the namespace, that is, with the namespace's own interfaces. It
// lies nowhere yet; whoever gets the descriptor can move it to its place. A process in a user namespace that sees only a part of the
// host's /sys, such as one in a container engine's container, is refused.
func (n *NS) Sysfs() (*os.File, error) {
	fd := -1
	err := n.Do(func() error {
		config, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(config)
		if err := unix.FsconfigCreate(config); err != nil {
			return err
		}
		fd, err = unix.Fsmount(config, unix.FSMOUNT_CLOEXEC,
			unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mount /sys: %w", err)
	}
	return os.NewFile(uintptr(fd), "/sys"), nil
}
