package node

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// N-18, N-21: a pod's /sys shows its own interfaces and the machine's size, whoever it is that looks, and nothing else of the machine.
// None of it can be written.
func TestSysShowsThePodsOwnInterfaces(t *testing.T) {
	t.Parallel()
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, nil)
	command, web, frozen, onNode := commandPod("jump", "sh", "-c", stay), webPod("web"), commandPod("frozen", "sh", "-c", stay), webPod("on-node")
	frozen.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}
	onNode.Spec.HostNetwork = true
	for _, pod := range []*corev1.Pod{command, web, frozen, onNode} {
		b.create(pod)
		b.awaitReady(pod)
	}
	for _, pod := range []*corev1.Pod{command, web, frozen} {
		b.expect(pod, "", "ls /sys/class/net /sys/devices/virtual/net | xargs", "/sys/class/net: eth0 lo /sys/devices/virtual/net: eth0 lo")
		b.expect(pod, "", "ip -br link show eth0 | grep -o $(cat /sys/class/net/eth0/address) | wc -l; cat /sys/class/net/eth0/operstate", "1\nup")
		b.expect(pod, "", "cat /sys/devices/system/cpu/online", strings.TrimSpace(string(online)))
		b.expect(pod, "", "ls /sys /sys/kernel /sys/devices /sys/devices/system /sys/fs/cgroup | xargs",
			"/sys: class devices fs kernel /sys/devices: system virtual /sys/devices/system: cpu node /sys/fs/cgroup: /sys/kernel: mm")
		b.expect(pod, "", `for f in /sys/x /sys/fs/cgroup/x /sys/class/x $(find /sys -type f -perm -200); do
			(: >>$f) 2>/dev/null && echo wrote $f; done; mkdir /sys/x 2>&1 | grep -o 'Read-only file system'`, "Read-only file system")
	}
	b.expect(onNode, "", `test "$(ls /sys/class/net | sort)" = "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort)" && echo the same`, "the same")
}
