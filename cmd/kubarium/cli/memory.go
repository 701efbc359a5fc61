package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// gcPercent is how much garbage the daemon lets lie beside what it holds, in percent of that. Go's own 100 makes a cluster of 20,000
// Services half as large again; less makes writes slower. GOGC in the environment wins.
const gcPercent = 50

// thrifty sets the daemon's measure of garbage.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// settle gives back what only the start needed: the garbage, and the pages of files that were read once. A failure costs nothing but
// memory.
func settle() error {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	return forgetFiles(maps)
}

// forgetFiles unmaps, for now, the pages of files that this process can only read, its own program's and the store's: the kernel
// maps each again when it is used.
func forgetFiles(maps io.Reader) error {
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uintptr
		var may string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &may); n != 3 || strings.Contains(may, "w") || !strings.Contains(lines.Text(), " /") {
			continue
		}
		if _, _, err := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); err != 0 {
			return fmt.Errorf("give back the pages of %s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}
