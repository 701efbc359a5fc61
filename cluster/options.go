package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"kubarium.dev/proxy"
)

// Options says what cluster to start. The zero value of a field means its default.
type Options struct {
	Name     string       // "kubarium"; a DNS label
	StateDir string       // where the store and the certificates are kept; required, made with mode 0700
	Nodes    int          // how many nodes at least, when Config names none; 0 for those of the store, 2 in a new one
	Config   Config       // the configuration file's contents
	Log      *slog.Logger // discarded
	Progress func(Stage)  // told as each stage of the start ends; nil for nobody
	Version  string       // what `status` reports
	Program  string       // the executable that is run as a pod's first process; "" for this one, even when its file is replaced
	Now      func() time.Time
}

// Stage is one finished step of a start.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"` // nanoseconds
}

// Config is the configuration file: apiVersion kubarium.dev/v1alpha1, kind Cluster. Unknown fields are errors.
type Config struct {
	APIVersion    string       `yaml:"apiVersion" json:"apiVersion"`
	Kind          string       `yaml:"kind" json:"kind"`
	Nodes         []NodeConfig `yaml:"nodes" json:"nodes"`
	ClusterDomain string       `yaml:"clusterDomain" json:"clusterDomain"`
	Networks      Networks     `yaml:"networks" json:"networks"`
	Images        []ImageRule  `yaml:"images" json:"images"`
	DNS           DNSConfig    `yaml:"dns" json:"dns"`
	// TerminationOrder is "programmed" (default: a pod gets SIGTERM once no ruleset leads to it) or "kubernetes" (at once).
	TerminationOrder string `yaml:"terminationOrder" json:"terminationOrder"`
	// NodeGrace is after which silence a node is taken to be lost: 40s. Nodes tell that they live four times in it.
	NodeGrace Duration `yaml:"nodeGrace" json:"nodeGrace"`
	// NodePortAddresses restricts the addresses that answer on NodePorts, as kube-proxy's option does: "primary" (the default), or ranges.
	NodePortAddresses []string `yaml:"nodePortAddresses" json:"nodePortAddresses,omitempty"`
	// HostPaths are the folders of the host that hostPath volumes may show; without any, none.
	HostPaths []string `yaml:"hostPaths" json:"hostPaths,omitempty"`
}

// Duration is written as in "40s" or "1m30s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// NodeConfig is one node of the configuration file.
type NodeConfig struct {
	Name   string            `yaml:"name" json:"name"`
	Zone   string            `yaml:"zone" json:"zone,omitempty"`
	Labels map[string]string `yaml:"labels" json:"labels,omitempty"`
}

// ImageRule lets images stand for a program of the host; without a command, for the built-in application.
type ImageRule struct {
	Image   string   `yaml:"image" json:"image"`     // a glob: "nginx:*", "team/*"
	Command []string `yaml:"command" json:"command"` // the program and its first words
}

// Networks are the address ranges. They exist only inside the cluster's own network namespaces.
type Networks struct {
	Pods          netip.Prefix `yaml:"pods" json:"pods"`                   // 10.244.0.0/16; node N has the N-th /24 of it
	Services      netip.Prefix `yaml:"services" json:"services"`           // 10.96.0.0/16
	DNS           netip.Addr   `yaml:"dns" json:"dns"`                     // 10.96.0.10
	Nodes         netip.Prefix `yaml:"nodes" json:"nodes"`                 // 172.30.0.0/24; nodes from .11 on
	LoadBalancers netip.Prefix `yaml:"loadBalancers" json:"loadBalancers"` // 172.31.0.0/24
}

const (
	configAPIVersion = "kubarium.dev/v1alpha1"
	configKind       = "Cluster"

	firstNode = 11 // of the nodes' range, so that a node's number shows in its address

	defaultNodeGrace = Duration(40 * time.Second) // Kubernetes' own
	leastNodeGrace   = Duration(time.Second)      // Leases count in seconds

	orderProgrammed = "programmed"
	orderKubernetes = "kubernetes"
)

// ReadConfig reads a configuration file. Errors name file and line.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	var c Config
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("%s: %s", path, configError(err))
	}
	if c.APIVersion != configAPIVersion || c.Kind != configKind {
		return Config{}, fmt.Errorf("%s:1: this is not a cluster configuration: it must begin with apiVersion: %s and kind: %s", path, configAPIVersion, configKind)
	}
	return c, nil
}

// configError puts yaml's errors, one a line, on one line.
func configError(err error) string {
	var te *yaml.TypeError
	if errors.As(err, &te) {
		return strings.Join(te.Errors, "; ")
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// WithDefaults fills in what is left out and checks the rest.
func (o Options) WithDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "kubarium"
	}
	if msgs := validation.IsDNS1123Label(o.Name); len(msgs) > 0 {
		return o, fmt.Errorf("cluster name %q: %s", o.Name, msgs[0])
	}
	if o.StateDir == "" {
		return o, errors.New("cluster options: StateDir is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Stage) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Nodes < 0 || o.Nodes > maxNodes {
		return o, fmt.Errorf("%d nodes: the number of nodes must be between 1 and %d", o.Nodes, maxNodes)
	}
	return o, o.Config.setDefaults()
}

func (c *Config) setDefaults() error {
	for i, r := range c.Images {
		if r.Image == "" {
			return fmt.Errorf("configuration: images[%d].image is missing", i)
		}
	}
	if err := c.checkNodes(); err != nil {
		return err
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	switch c.TerminationOrder {
	case "":
		c.TerminationOrder = orderProgrammed
	case orderProgrammed, orderKubernetes:
	default:
		return fmt.Errorf("configuration: terminationOrder %q must be %s or %s", c.TerminationOrder, orderProgrammed, orderKubernetes)
	}
	if c.NodeGrace == 0 {
		c.NodeGrace = defaultNodeGrace
	}
	if c.NodeGrace < leastNodeGrace {
		return fmt.Errorf("configuration: nodeGrace %v: it must be %v at least", time.Duration(c.NodeGrace), time.Duration(leastNodeGrace))
	}
	for i, path := range c.HostPaths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("configuration: hostPaths[%d] %q must be an absolute path", i, path)
		}
	}
	if err := proxy.CheckNodePortAddresses(c.NodePortAddresses); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := c.DNS.check(c.ClusterDomain); err != nil {
		return err
	}
	return c.Networks.setDefaults()
}

func (c *Config) checkNodes() error {
	if len(c.Nodes) > maxNodes {
		return fmt.Errorf("configuration: nodes: %d nodes are more than %d", len(c.Nodes), maxNodes)
	}
	seen := map[string]bool{}
	for i, n := range c.Nodes {
		if msgs := validation.IsDNS1123Label(n.Name); len(msgs) > 0 {
			return fmt.Errorf("configuration: nodes[%d].name %q: %s", i, n.Name, msgs[0])
		}
		if seen[n.Name] {
			return fmt.Errorf("configuration: nodes[%d].name %q is there twice", i, n.Name)
		}
		seen[n.Name] = true
	}
	return nil
}

func (n *Networks) setDefaults() error {
	for _, p := range []struct {
		field *netip.Prefix
		name  string
		value string
	}{
		{&n.Pods, "pods", "10.244.0.0/16"},
		{&n.Services, "services", "10.96.0.0/16"},
		{&n.Nodes, "nodes", "172.30.0.0/24"},
		{&n.LoadBalancers, "loadBalancers", "172.31.0.0/24"},
	} {
		if !p.field.IsValid() {
			*p.field = netip.MustParsePrefix(p.value)
		}
		if !p.field.Addr().Is4() {
			return fmt.Errorf("configuration: networks.%s %v must be an IPv4 range", p.name, *p.field)
		}
		*p.field = p.field.Masked()
	}
	if n.Pods.Bits() > 16 || n.Services.Bits() > 24 {
		return fmt.Errorf("configuration: networks.pods needs a /16 or larger and networks.services a /24 or larger")
	}
	if !n.DNS.IsValid() {
		n.DNS = nth(n.Services, 10)
	}
	if !n.Services.Contains(n.DNS) {
		return fmt.Errorf("configuration: networks.dns %v is not in networks.services %v", n.DNS, n.Services)
	}
	return nil
}

// nth is the i-th address of a range, counted from its base address.
func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b)
}

// number is an address' place in a range: the i of nth; false for one that is not in it.
func number(p netip.Prefix, a netip.Addr) (int, bool) {
	if !a.Is4() || !p.Contains(a) {
		return 0, false
	}
	base, at := p.Masked().Addr().As4(), a.As4()
	return int(binary.BigEndian.Uint32(at[:]) - binary.BigEndian.Uint32(base[:])), true
}

// nodeAddress is the address of node i (0 is the first): .11, .12, ...
func (n Networks) nodeAddress(i int) netip.Addr { return nth(n.Nodes, firstNode+i) }

// podRange is node i's /24 of the pods' range; the first is left to the range itself, as Kubernetes' own examples have it.
func (n Networks) podRange(i int) netip.Prefix {
	return netip.PrefixFrom(nth(n.Pods, (i+1)*256), 24)
}
