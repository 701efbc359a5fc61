package node

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"

	"kubarium.dev/node/image"
)

// smallImage is an archive as docker save writes it, of the host's shell and what that needs.
func smallImage(t *testing.T, config v1.Config) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(path, from string, content []byte) {
		t.Helper()
		if from != "" {
			var err error
			if content, err = os.ReadFile(from); err != nil {
				t.Fatal(err)
			}
		}
		w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))})
		w.Write(content)
	}
	for _, program := range []string{"sh", "cat", "id", "sleep", "ls"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		put("bin/"+program, path, nil)
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") {
				put(word, word, nil)
			}
		}
	}
	put("etc/marker", "", []byte("image\n"))
	put("etc/passwd", "", []byte("root:x:0:0::/root:/bin/sh\nweb:x:101:102::/var/web:/bin/sh\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config = runtime.GOOS, runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "small.tar")
	ref, err := name.NewTag("team/small:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// N-13, N-15
func TestAnImageRunsFromItsOwnFiles(t *testing.T) {
	t.Parallel()
	set, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Load(t.Context(), smallImage(t, v1.Config{Entrypoint: []string{"sh", "-c"}, Cmd: []string{"echo default"}, Env: []string{"COLOR=red"},
		User: "web", WorkingDir: "/srv/app"})); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *NodeConfig) { c.Images = set })
	pod := webPod("own")
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "team/small:1.0", Args: []string{stay}}}
	b.create(pod)
	got := b.awaitReady(pod)
	if note := got.Annotations[AnnotationImage]; !strings.HasPrefix(note, "main: loaded image sha256:") {
		t.Errorf("got %q", note)
	}
	if m := b.message(pod, "Created"); !strings.Contains(m, "loaded image sha256:") {
		t.Errorf("got %q", m)
	}
	b.expect(pod, "main", "cat /etc/marker; id -u; id -g; echo $COLOR $HOME; cat /etc/hostname; ls /usr 2>/dev/null || echo no /usr; ls /srv",
		"image\n101\n102\nred /var/web\nown\nno /usr\napp")
	once := webPod("once")
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	once.Spec.Containers = []corev1.Container{{Name: "main", Image: "team/small:1.0", ImagePullPolicy: corev1.PullNever}}
	b.create(once)
	b.await(once, "Succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if log := b.logs(once, LogRequest{}); log != "default\n" {
		t.Errorf("got %q", log)
	}
}

// N-13, N-15
func TestARuleMapsAnImageToAProgramOfTheHost(t *testing.T) {
	t.Parallel()
	set, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set.SetRules([]image.Rule{{Image: "busy*", Command: []string{"sh", "-c"}}, {Image: "*/plain"}})
	b := newBench(t, func(c *NodeConfig) { c.Images = set })
	pod := webPod("mapped")
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "busybox:1.36", Args: []string{"echo from the rule; " + stay}}}
	b.create(pod)
	got := b.awaitReady(pod)
	if note := got.Annotations[AnnotationImage]; note != "main: host program sh by the rule busy*" {
		t.Errorf("got %q", note)
	}
	b.awaitLog(pod, "from the rule\n")
	never := webPod("never")
	never.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	b.create(never)
	got = b.await(never, "refused", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && waitingReason(p.Status.ContainerStatuses[0]) == "ErrImageNeverPull"
	})
	want := `Container image "shop:1.0" is not present with pull policy of Never`
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; m != want {
		t.Errorf("got %q, want %q", m, want)
	}
	if told, failed := b.message(never, "ErrImageNeverPull"), b.message(never, "Failed"); told != want || failed != "Error: ErrImageNeverPull" {
		t.Errorf("events: got %q and %q", told, failed)
	}
}

// N-13: kubectl run writes args and no command. Where the image is a base, or somebody wants to type, they are the command.
func TestArgsAreTheCommandWhereKubectlRunMeansThem(t *testing.T) {
	t.Parallel()
	const command, sh = "command on the host's files", "shell of the host's files"
	for _, tc := range []struct {
		image string
		args  []string
		typed bool
		words string // "" for the built-in application
		argv  []string
	}{
		{image: "busybox", args: []string{"echo", "$(X)"}, words: command, argv: []string{"echo", "x"}},
		{image: "docker.io/library/alpine@sha256:" + strings.Repeat("0", 64), args: []string{"sh"}, words: command, argv: []string{"sh"}},
		{image: "localhost:5000/nicolaka/netshoot:v1", typed: true, words: sh, argv: []string{"sh"}},
		{image: "curlimages/curl", args: []string{"-s", "http://web"}, words: command, argv: []string{"curl", "-s", "http://web"}},
		{image: "curlimages/curl", args: []string{"curl", "http://web"}, words: command, argv: []string{"curl", "http://web"}},
		{image: "team/tool", args: []string{"sh"}, typed: true, words: command, argv: []string{"sh"}},
		{image: "busybox"}, {image: "team/busybox", args: []string{"serve"}}, {image: "nginx", typed: true},
		{image: "hashicorp/http-echo", args: []string{"-text=hi"}},
	} {
		c := &corev1.Container{Image: tc.image, Args: tc.args, Stdin: tc.typed, TTY: tc.typed}
		p, err := (&Node{}).resolve(c)
		if err != nil || p.builtIn != (tc.words == "") || (!p.builtIn && p.words != tc.words) {
			t.Errorf("%s %q: got %+v, %v", tc.image, tc.args, p, err)
			continue
		}
		if p.builtIn {
			continue
		}
		if got := p.argv(c, &environment{names: []string{"X"}, values: map[string]string{"X": "x"}}); !slices.Equal(got, tc.argv) {
			t.Errorf("%s %q: runs %q, want %q", tc.image, tc.args, got, tc.argv)
		}
	}
	b := newBench(t, nil)
	pod := webPod("once")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers = []corev1.Container{{Name: "main", Image: "busybox:1.36", Args: []string{"echo", "from args"}}}
	b.create(pod)
	b.await(pod, "Succeeded", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if log := b.logs(pod, LogRequest{}); log != "from args\n" {
		t.Errorf("got %q", log)
	}
}
