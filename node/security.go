package node

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/podinit"
)

// identity is who a container's processes are.
type identity struct {
	user, group uint32
	groups      []uint32 // supplementary
	folder      string   // "" for the usual one
}

// home is the folder HOME names when nothing else does.
func (i *identity) home() string {
	switch {
	case i == nil || i.folder == "" && i.user == 0:
		return "/root"
	case i.folder == "":
		return "/"
	}
	return i.folder
}

// usual tells that a container's first process is the same for it as for every other.
func (i *identity) usual() bool { return multiUser() || i == nil || i.user == 0 && i.group == 0 }

// errRoot is kubelet's word for a container that must not be root and is.
var errRoot = errors.New("container has runAsNonRoot and image will run as root")

// identify works out who a container's processes are, from the image's user, the pod's and the container's security context.
func identify(pod *corev1.Pod, c *corev1.Container, image *identity) (*identity, error) {
	id := &identity{}
	if image != nil {
		*id = *image
	}
	nonRoot := false
	set := func(user, group *int64, must *bool) {
		if user != nil {
			if uint32(*user) != id.user {
				id.folder = ""
			}
			id.user = uint32(*user)
		}
		if group != nil {
			id.group = uint32(*group)
		}
		if must != nil {
			nonRoot = *must
		}
	}
	if s := pod.Spec.SecurityContext; s != nil {
		set(s.RunAsUser, s.RunAsGroup, s.RunAsNonRoot)
		for _, g := range s.SupplementalGroups {
			id.groups = append(id.groups, uint32(g))
		}
		if s.FSGroup != nil {
			id.groups = append(id.groups, uint32(*s.FSGroup))
		}
	}
	if s := c.SecurityContext; s != nil {
		set(s.RunAsUser, s.RunAsGroup, s.RunAsNonRoot)
	}
	if nonRoot && id.user == 0 {
		return nil, configError{errRoot}
	}
	if multiUser() && (id.user >= idRange || id.group >= idRange) {
		return nil, configError{fmt.Errorf("user %d and group %d: numbers from %d on do not exist in a container here", id.user, id.group, idRange)}
	}
	return id, nil
}

// of makes a command one of this identity. An ordinary user's cluster has one user and one group only, whatever it is called.
func (i *identity) of(c podinit.Command) podinit.Command {
	c.User, c.Group = i.user, i.group
	if multiUser() && (i.user != 0 || i.group != 0 || len(i.groups) > 0) {
		c.Groups = append([]uint32{i.group}, i.groups...)
	}
	return c
}

// capabilities by their names, without CAP_; their order is their number.
var capabilities = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
	SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP`)

// dropped are the capabilities a container gives up. What it adds beyond the usual ones it does not get: nothing in here may gain
// a privilege (N-18).
func dropped(c *corev1.Container) uint64 {
	if c.SecurityContext == nil || c.SecurityContext.Capabilities == nil {
		return 0
	}
	bits := func(all []corev1.Capability) (set uint64) {
		for _, word := range all {
			for i, name := range capabilities {
				if w := strings.TrimPrefix(strings.ToUpper(string(word)), "CAP_"); w == name || w == "ALL" {
					set |= 1 << i
				}
			}
		}
		return set
	}
	return bits(c.SecurityContext.Capabilities.Drop) &^ bits(c.SecurityContext.Capabilities.Add)
}

func frozen(c *corev1.Container) bool {
	return c.SecurityContext != nil && optional(c.SecurityContext.ReadOnlyRootFilesystem)
}
