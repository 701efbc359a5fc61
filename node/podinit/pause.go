package podinit

import (
	"os"
	"strconv"
	"syscall"
)

// keep makes this process the pause process of a pod whose containers share their processes: it holds the namespaces that they
// have in common, and what is left of a container that ends comes to it. It sees the host's files, as every container's first
// process does until it has built the container, and has more capabilities than they: so nobody inside can look at them through it.
func (s *Setup) keep() error {
	if err := syscall.Sethostname([]byte(s.Hostname)); err != nil {
		return fault("set the host name", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""); err != nil {
		return fault("make the mounts private", err)
	}
	// The host's would show it its own children by numbers that it cannot use.
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fault("mount /proc", err)
	}
	return renounce()
}

// startContainer starts the first process of a container beside those of the pod's other ones.
func (k *keeper) startContainer(id uint32, control int) {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{Word}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2, uintptr(control)},
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS},
	})
	if err != nil {
		send(ControlFD, Event{Kind: Exited, ID: id, Code: StartFailed, Text: err.Error()}.Pack())
		return
	}
	c := child{id: id, pid: pid, container: true}
	k.byPID[pid], k.byID[id] = c, c
	send(ControlFD, Event{Kind: Started, ID: id, Code: uint32(pid)}.Pack())
}

// sweep ends what a container has left behind. While its first process lived, all that lost their parents went to that one: so
// whoever is here and was not started here is left over.
func (k *keeper) sweep() {
	for {
		left := k.strays()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, pid := range left {
			for {
				if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
					break
				}
			}
		}
	}
}

// strays are the children of this process that it did not start.
func (k *keeper) strays() (all []int) {
	names, err := entries("/proc")
	if err != nil {
		return nil
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if _, known := k.byPID[pid]; !known && parent(name) == os.Getpid() {
			all = append(all, pid)
		}
	}
	return all
}

// parent is a process's parent, 0 for a process that has gone: "42 (any name) S 1 ...".
func parent(pid string) int {
	raw, err := readFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	line := string(raw)
	words := split(line[lastByte(line, ')')+1:], ' ')
	if len(words) < 3 {
		return 0
	}
	n, err := strconv.Atoi(words[2])
	if err != nil {
		return 0
	}
	return n
}
