package node

import (
	"context"
	"errors"
	"runtime"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// register writes the Node object, or brings an old one up to date.
func (n *Node) register(ctx context.Context) error {
	_, err := n.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		obj, err := tx.Get(api.Nodes, "", n.cfg.Name)
		if apierrors.IsNotFound(err) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name}}
			n.describe(node)
			return tx.Create(node)
		}
		if err != nil {
			return err
		}
		node := api.Copy(obj.(*corev1.Node))
		n.describe(node)
		return errors.Join(tx.Update(node), n.disown(tx))
	})
	return err
}

// disown says of the pods that ran before the machine lost its power that they are not ready: before anybody hears that the machine has
// it again, and would send them requests.
func (n *Node) disown(tx *store.Tx) error {
	for _, obj := range tx.List(api.Pods, store.Query{Index: api.IndexNode, Value: n.cfg.Name}) {
		pod := obj.(*corev1.Pod)
		if !api.Ready(pod) {
			continue
		}
		pod = api.Copy(pod)
		var names []string
		for i := range pod.Status.ContainerStatuses {
			c := &pod.Status.ContainerStatuses[i]
			c.Ready, c.Started = false, new(false)
			names = append(names, c.Name)
		}
		for _, t := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
			setCondition(&pod.Status, containersNotReady(t, names), n.cfg.Now())
		}
		if err := tx.Update(pod); err != nil {
			return err
		}
	}
	return nil
}

// describe fills in what the machine knows of itself; labels, taints and cordons of others stay.
func (n *Node) describe(node *corev1.Node) {
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	for k, v := range map[string]string{
		corev1.LabelHostname: n.cfg.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
	} {
		node.Labels[k] = v
	}
	for k, v := range n.cfg.Labels {
		node.Labels[k] = v
	}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = n.cfg.PodCIDR.String(), []string{n.cfg.PodCIDR.String()}
	node.Spec.ProviderID = "kubarium://" + n.cfg.Name
	s := &node.Status
	s.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: n.cfg.Address.String()},
		{Type: corev1.NodeHostName, Address: n.cfg.Name},
	}
	s.Capacity = n.resources.DeepCopy()
	s.Allocatable = s.Capacity.DeepCopy()
	s.NodeInfo = nodeInfo()
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	} {
		setNodeCondition(s, c, metaTime(n.cfg.Now()))
	}
}

func setNodeCondition(s *corev1.NodeStatus, c corev1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	i := slices.IndexFunc(s.Conditions, func(old corev1.NodeCondition) bool { return old.Type == c.Type })
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if s.Conditions[i].Status == c.Status {
		c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	}
	s.Conditions[i] = c
}

// reservedAddresses are those of a pod range that no pod gets: the network's and the broadcast's.
const reservedAddresses = 2

func (n *Node) capacity() corev1.ResourceList {
	pods := int64(1)<<min(n.cfg.PodCIDR.Addr().BitLen()-n.cfg.PodCIDR.Bits(), 20) - reservedAddresses
	list := corev1.ResourceList{
		corev1.ResourceCPU:  *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourcePods: *resource.NewQuantity(max(pods, 1), resource.DecimalSI),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		list[corev1.ResourceMemory] = *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI)
	}
	return list
}

// kubeletVersion is the Kubernetes whose API this node keeps to.
const kubeletVersion = "v1.37.0"

func nodeInfo() corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		KubeletVersion: kubeletVersion, ContainerRuntimeVersion: "kubarium://1", OperatingSystem: runtime.GOOS,
		Architecture: runtime.GOARCH, OSImage: "kubarium",
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	return info
}
