package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// fileKiB is how much of files is mapped into this process now.
func fileKiB(t *testing.T) (n int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "RssFile:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatOnlyTheStartReadIsGivenBack(t *testing.T) {
	before := fileKiB(t)
	if err := settle(); err != nil {
		t.Fatal(err)
	}
	if after := fileKiB(t); after >= before*3/4 {
		t.Errorf("%d KiB of files are mapped, %d KiB before", after, before)
	}
}
