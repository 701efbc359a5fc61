package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
)

const (
	// DefaultServiceAccount is who a pod is when it does not say.
	DefaultServiceAccount = "default"
	// RootCA is the ConfigMap that tells every namespace, under the key ca.crt, which certificate to trust.
	RootCA = "kube-root-ca.crt"

	tokenPath        = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume      = "kube-api-access-"
	tokenSeconds     = 3607 // Kubernetes' own: an hour and the seconds by which it tells its tokens from others
	tokenVolumeMode  = 0o644
	tokenSuffixChars = 5
)

// UseServiceAccount gives a new pod what its ServiceAccount (nil for one that says nothing) brings: secrets for images and, with
// mount and unless the pod or the account forbids it, the volume with a token at Kubernetes' usual place.
func UseServiceAccount(pod *corev1.Pod, sa *corev1.ServiceAccount, mount bool) {
	if sa != nil && len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, sa.ImagePullSecrets...)
	}
	wanted := pod.Spec.AutomountServiceAccountToken
	if wanted == nil && sa != nil {
		wanted = sa.AutomountServiceAccountToken
	}
	if mount && (wanted == nil || *wanted) {
		mountToken(pod)
	}
}

// mountToken mounts the token into every container that has nothing there.
func mountToken(pod *corev1.Pod) {
	spec := &pod.Spec
	known := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, tokenVolume) })
	name := tokenVolume + utilrand.String(tokenSuffixChars)
	if known >= 0 {
		name = spec.Volumes[known].Name
	}
	needed := false
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
				continue
			}
			needed = true
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
		}
	}
	if needed && known < 0 {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSources()}})
	}
}

func tokenSources() *corev1.ProjectedVolumeSource {
	mode, seconds := int32(tokenVolumeMode), int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: RootCA},
			Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}}}}},
	}}
}
