package node

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/image"
)

// bases are the images that people reach for when they want a shell or a tool: a container's args are the command there, as the
// images have no entrypoint of their own, or one that runs its args. Each has the program that takes args beginning with a dash or
// a URL; "" for none.
var bases = map[string]string{
	"alpine": "", "almalinux": "", "amazonlinux": "", "archlinux": "", "bash": "", "busybox": "", "centos": "", "debian": "", "fedora": "",
	"opensuse/leap": "", "rockylinux": "", "ubuntu": "", "nicolaka/netshoot": "", "e2e-test-images/busybox": "",
	"e2e-test-images/jessie-dnsutils": "", "curlimages/curl": "curl",
}

// fromArgs is the program of a container without a command whose args are one: because its image is a base, or because somebody wants
// to type into it (kubectl run -it --image=IMAGE -- sh), who gets a shell if he says nothing.
func fromArgs(c *corev1.Container) (program, bool) {
	tool, base := bases[image.Repository(c.Image)]
	typed := c.Stdin && c.TTY
	p := program{words: "command on the host's files"}
	switch {
	case len(c.Args) == 0:
		p = program{words: "shell of the host's files", args: []string{"sh"}}
		return p, base && typed
	case tool != "" && (strings.HasPrefix(c.Args[0], "-") || strings.Contains(c.Args[0], "://")):
		p.command = []string{tool}
	}
	return p, base || typed
}
