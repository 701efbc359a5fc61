package podinit

import (
	"os"
	"syscall"
)

// EnterWord is the name under which the program shows a command of the host the place it is run in, and becomes that command.
// Its arguments are the content of resolv.conf ("" leaves the host's), the program's path, and the command's words. It has to
// be started in a mount namespace of its own.
const EnterWord = "kubarium-enter"

// beside is a folder that a tmpfs lies over for a moment.
const beside = "/tmp"

// runEntered prepares the place and becomes the command.
func runEntered(words []string) int {
	if len(words) < 3 {
		return StartFailed
	}
	resolv, path, command := words[0], words[1], words[2:]
	err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, "")
	if err == nil && resolv != "" {
		err = replaceResolvConf(resolv)
	}
	if err == nil {
		// The devices in /sys/class/net are those of the place; where the kernel does not let us, they stay the host's.
		syscall.Mount("sysfs", "/sys", "sysfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, "")
		err = syscall.Exec(path, command, os.Environ())
	}
	syscall.Write(2, []byte("exec: \""+command[0]+"\": "+err.Error()+"\n"))
	return int(startCode(err))
}

func replaceResolvConf(content string) error {
	if err := syscall.Mount("tmpfs", beside, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64k,mode=755"); err != nil {
		return err
	}
	if err := writeFile(beside+"/resolv.conf", content); err != nil {
		return err
	}
	if err := syscall.Mount(beside+"/resolv.conf", "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	return syscall.Unmount(beside, syscall.MNT_DETACH)
}
