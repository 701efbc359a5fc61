package podinit

import (
	"os"
	"runtime"
	"syscall"
)

// SpawnWord is the name under which the program is a spawner: a process that does nothing but start the first processes of
// containers for the one that started it, whose children they become. The kernel copies the page tables of whoever starts a process
// in a user namespace of its own, and so what a daemon would spend on that grows with its memory: 7 ms at 100 MiB, where a spawner
// spends one. It takes Spawn messages over its ControlFD and answers each with Started or Failed, until the socket ends.
const SpawnWord = "kubarium-spawn"

// runSpawner runs on the main thread, whose network namespace /proc/self/ns/net is.
func runSpawner() int {
	home, err := syscall.Open("/proc/self/ns/net", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 1
	}
	for {
		m, err := receive(ControlFD)
		if err != nil {
			return 0 // whoever asked is gone
		}
		answer := Event{Kind: Started}
		pid, err := spawn(m)
		if answer.Code = uint32(pid); err != nil {
			answer = Event{Kind: Failed, Text: err.Error()}
		}
		m.close()
		if err := setns(home); err != nil { // else this process would hold a pod's namespace
			return 1
		}
		if send(ControlFD, answer.Pack()) != nil {
			return 0
		}
	}
}

func spawn(m message) (pid int, err error) {
	var s Spawn
	if err := s.unpack(m.body); err != nil {
		return 0, err
	}
	if len(m.fds) != 2 {
		return 0, errMalformed
	}
	if err := setns(m.fds[0]); err != nil {
		return 0, fault("enter the network namespace", err)
	}
	sys := &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: cloneParent | syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS |
			syscall.CLONE_NEWIPC,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: int(s.User), Size: int(s.Size)}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: int(s.Group), Size: int(s.Size)}},
		GidMappingsEnableSetgroups: s.Size > 1,
	}
	for c := range uintptr(s.Keep) {
		sys.AmbientCaps = append(sys.AmbientCaps, c)
	}
	// This very program, also when its file has been replaced by another version, which would not understand the caller.
	return syscall.ForkExec("/proc/self/exe", []string{Word}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2, uintptr(m.fds[1])}, Sys: sys,
	})
}

// cloneParent makes the new process a child of this one's parent (CLONE_PARENT).
const cloneParent = 0x8000

func setns(fd int) error {
	number := uintptr(308)
	if runtime.GOARCH == "arm64" {
		number = 268
	}
	_, _, errno := syscall.RawSyscall(number, uintptr(fd), syscall.CLONE_NEWNET, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
