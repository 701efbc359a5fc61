package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"
	"gopkg.in/yaml.v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"kubarium.dev/api"
	"kubarium.dev/dns"
	"kubarium.dev/node"
)

const (
	hostResolvConf = "/etc/resolv.conf"
	// hostLooks is how often the host's resolv.conf is looked at: a laptop changes it with the network it is in.
	hostLooks = 2 * time.Second
	// keptQuestions is how many questions DNS remembers for those who look afterwards.
	keptQuestions = 2000
)

// DNSConfig says how names of the cluster are answered, and who answers for others.
type DNSConfig struct {
	// TTL is how long clients may remember a name of the cluster, or that it is missing: whole seconds up to 1h. Left out: 5s,
	// as in Kubernetes.
	TTL *Duration `yaml:"ttl" json:"ttl,omitempty"`
	// Upstream is the servers asked, in order, as "address" or "address:port". Left out: those of the host's /etc/resolv.conf,
	// asked from the host. "none" (in Go an empty list): nobody, such names are answered SERVFAIL.
	Upstream Servers `yaml:"upstream" json:"upstream"`
	// StubDomains is the servers of further domains: the longest domain that a name lies in decides.
	StubDomains map[string]Servers `yaml:"stubDomains" json:"stubDomains,omitempty"`
	// Hosts is the addresses of fixed names outside the cluster.
	Hosts map[string][]netip.Addr `yaml:"hosts" json:"hosts,omitempty"`
	// Pods says which names such as 10-244-1-7.default.pod.cluster.local are answered: "verified" (the default), those of living
	// pods; "insecure", all that spell an address, as kubeadm sets CoreDNS up; "off", none.
	Pods string `yaml:"pods" json:"pods,omitempty"`
	// Autopath makes DNS go through the search path in the pods' stead: one question for each address family finds a name, where
	// it would be up to four and more. Off by default, as in Kubernetes: a pod's own walk is what there is to learn.
	Autopath bool `yaml:"autopath" json:"autopath,omitempty"`
}

// Servers is a list of DNS servers; nil is not the same as none.
type Servers []string

// UnmarshalYAML reads a list, or the word none.
func (s *Servers) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Value == "none" {
		*s = Servers{}
		return nil
	}
	return n.Decode((*[]string)(s))
}

var podRecords = map[string]dns.PodRecords{
	"": dns.PodsVerified, "verified": dns.PodsVerified, "insecure": dns.PodsInsecure, "off": dns.PodsOff,
}

func (d *DNSConfig) check(domain string) error {
	if _, known := podRecords[d.Pods]; !known {
		return fmt.Errorf("configuration: dns.pods %q must be verified, insecure or off", d.Pods)
	}
	if err := d.checkTTL(); err != nil {
		return err
	}
	lists := map[string]Servers{"upstream": d.Upstream}
	for name, servers := range d.StubDomains {
		field := fmt.Sprintf("stubDomains[%s]", name)
		if err := foreignName(name, domain); err != nil {
			return fmt.Errorf("configuration: dns.%s: %w", field, err)
		}
		if len(servers) == 0 {
			return fmt.Errorf("configuration: dns.%s: it has no server", field)
		}
		lists[field] = servers
	}
	for field, servers := range lists {
		for i, s := range servers {
			if !isServer(s) {
				return fmt.Errorf("configuration: dns.%s[%d] %q must be an address or address:port", field, i, s)
			}
		}
	}
	for name, addresses := range d.Hosts {
		if err := foreignName(name, domain); err != nil {
			return fmt.Errorf("configuration: dns.hosts[%s]: %w", name, err)
		}
		if slices.Contains(addresses, netip.Addr{}) || len(addresses) == 0 {
			return fmt.Errorf("configuration: dns.hosts[%s]: it needs at least one address", name)
		}
	}
	return nil
}

func (d *DNSConfig) checkTTL() error {
	if d.TTL == nil {
		return nil
	}
	if t := time.Duration(*d.TTL); t < 0 || t > time.Hour || t%time.Second != 0 {
		return fmt.Errorf("configuration: dns.ttl %v must be whole seconds from 0s to 1h", t)
	}
	return nil
}

// ttl is TTL as dns.Config has it: 0 for its default, less for none.
func (d *DNSConfig) ttl() time.Duration {
	switch {
	case d.TTL == nil:
		return 0
	case *d.TTL == 0:
		return -1
	}
	return time.Duration(*d.TTL)
}

// foreignName: the cluster answers its own names by its objects alone.
func foreignName(name, domain string) error {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if msgs := validation.IsDNS1123Subdomain(name); len(msgs) > 0 {
		return errors.New(msgs[0])
	}
	if name == domain || strings.HasSuffix(name, "."+domain) {
		return errors.New("names of the cluster come from its objects")
	}
	return nil
}

func isServer(s string) bool {
	if _, err := netip.ParseAddrPort(s); err == nil {
		return true
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}

// serveNames begins DNS, which machines serve on their addresses. Names outside the cluster are asked of others from the host:
// also a resolver on its loopback, such as systemd's 127.0.0.53, is in reach.
func (c *Cluster) serveNames(run context.Context) {
	nets, conf := c.o.Config.Networks, c.o.Config.DNS
	d := dns.Config{
		Reader: c.store.Ahead(), Domain: c.o.Config.ClusterDomain, Reverse: []netip.Prefix{nets.Services, nets.Pods}, Log: c.o.Log,
		Hosts: conf.Hosts, Stub: map[string][]string{}, Upstream: conf.Upstream,
		Pods: podRecords[conf.Pods], TTL: conf.ttl(),
	}
	for domain, servers := range conf.StubDomains {
		d.Stub[domain] = servers
	}
	host := ""
	if conf.Upstream == nil {
		host, d.Upstream = hostServers(hostResolvConf, c.o.Log.Warn)
	}
	if conf.Autopath {
		d.Autopath = c.searchPath
	}
	c.dns = dns.New(d)
	c.dns.KeepQuestions(keptQuestions)
	c.consumers = append(c.consumers, consumer{"DNS", c.dns.Progress()})
	c.group.Go(func() error { return c.dns.Run(run) })
	if conf.Upstream == nil {
		c.group.Go(func() error { c.followHost(run, host, d); return nil })
	}
}

// searchPath is what a pod's C library searches with the cluster's DNS, or nil when the pod asks others first.
func (c *Cluster) searchPath(pod *corev1.Pod) []string {
	text := c.resolvConf(pod)
	if servers := resolvWords(text, "nameserver"); len(servers) == 0 || servers[0] != c.o.Config.Networks.DNS.String() {
		return nil
	}
	return resolvWords(text, "search")
}

// resolvConf is a pod's.
func (c *Cluster) resolvConf(pod *corev1.Pod) string {
	host, _ := hostServers(hostResolvConf, c.o.Log.Debug)
	text, _ := node.ResolvConf(pod, node.Resolver{DNS: c.o.Config.Networks.DNS, Domain: c.o.Config.ClusterDomain, Host: host})
	return text
}

// hostServers is the content of the host's resolv.conf and the servers that it names.
func hostServers(path string, warn func(string, ...any)) (content string, servers []string) {
	raw, err := os.ReadFile(path)
	if err != nil {
		warn("names outside the cluster cannot be answered", "error", err)
		return "", nil
	}
	return string(raw), slices.DeleteFunc(resolvWords(string(raw), "nameserver"), func(s string) bool { return !isServer(s) })
}

// followHost takes over what the host's resolv.conf says from now on.
func (c *Cluster) followHost(ctx context.Context, known string, d dns.Config) {
	tick := time.NewTicker(hostLooks)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, servers := hostServers(hostResolvConf, c.o.Log.Debug)
		if now == known {
			continue
		}
		known, d.Upstream = now, servers
		c.dns.Reload(d)
		c.o.Log.Info("names outside the cluster are asked of other servers from now on", "servers", servers)
	}
}

// resolvWords is the words after a keyword of a resolv.conf; of several lines with search the last counts.
func resolvWords(text, keyword string) []string {
	var all []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != keyword {
			continue
		}
		if keyword == "search" {
			all = nil
		}
		all = append(all, words[1:]...)
	}
	return all
}

// NameWalk says how a pod comes from a name to an address, or why it does not: the questions that its C library asks, and DNS' own
// answers to them.
type NameWalk struct {
	Name        string     `json:"name"`
	From        string     `json:"from"`       // "pod/dev/jump", or "any pod of dev"
	ResolvConf  string     `json:"resolvConf"` // the pod's
	Steps       []dns.Step `json:"steps"`
	Addresses   []string   `json:"addresses"` // what it ends with
	Explanation string     `json:"explanation"`
}

// WhyName walks a name as a pod does: from is "pod/NAME" or "pod/NAMESPACE/NAME", or "" for any pod of the namespace that names
// no DNS settings of its own.
func (c *Cluster) WhyName(ctx context.Context, name, from, namespace string) (NameWalk, error) {
	w := NameWalk{Name: name, From: "any pod of " + namespace, Steps: []dns.Step{}, Addresses: []string{}}
	if err := askable(name); err != nil {
		return w, err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}
	if from != "" {
		var err error
		if pod, err = c.podAt(from, namespace); err != nil {
			return w, err
		}
		w.From = "pod/" + api.Name(pod)
	}
	w.ResolvConf = c.resolvConf(pod)
	if a, err := netip.ParseAddr(name); err == nil {
		w.fromAddress(ctx, c.dns, a)
		return w, nil
	}
	if servers := resolvWords(w.ResolvConf, "nameserver"); !slices.Contains(servers, c.o.Config.Networks.DNS.String()) {
		w.Explanation = fmt.Sprintf("by its dnsPolicy the pod asks %s and not the cluster's DNS: names of the cluster are unknown there",
			strings.Join(servers, " "))
		return w, nil
	}
	search := dns.Search{Path: resolvWords(w.ResolvConf, "search"), Ndots: ndots(w.ResolvConf)}
	search.Client, _ = netip.ParseAddr(pod.Status.PodIP)
	w.Steps = c.dns.Walk(ctx, name, search)
	w.conclude()
	return w, nil
}

// fromAddress says what an address needs no question for, and the name that it has.
func (w *NameWalk) fromAddress(ctx context.Context, s *dns.Server, a netip.Addr) {
	step := s.Ask(ctx, dns.ReverseName(a), "PTR")
	w.Steps, w.Addresses = append(w.Steps, step), append(w.Addresses, a.String())
	w.Explanation = fmt.Sprintf("%s is an address: a pod's C library asks nobody for it; the way back finds ", a)
	if !step.Found() {
		w.Explanation += "no name"
		return
	}
	var names []string
	for _, record := range step.Answers {
		words := strings.Fields(record)
		names = append(names, words[len(words)-1])
	}
	w.Explanation += strings.Join(names, ", ")
}

func ndots(resolv string) int {
	n := 1 // glibc's own
	for _, o := range resolvWords(resolv, "options") {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			if given, err := strconv.Atoi(v); err == nil {
				n = given
			}
		}
	}
	return n
}

// askable refuses what no C library asks for, and says what was perhaps meant.
func askable(name string) error {
	refuse := func(format string, words ...any) error {
		return apierrors.NewBadRequest(fmt.Sprintf("name %q: ", name) + fmt.Sprintf(format, words...))
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	if u, err := url.Parse(name); err == nil && u.Hostname() != "" {
		return refuse("it is a URL, with the name %s in it", u.Hostname())
	}
	switch host, port, err := net.SplitHostPort(name); {
	case err == nil && host != "" && port != "":
		return refuse("it is a name and a port: the name is %s", host)
	case name == "":
		return apierrors.NewBadRequest("name is missing")
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return refuse("it has white space in it")
	case !dns.ValidName(name):
		return refuse("a label has 1 to 63 bytes, a name at most 253")
	}
	return nil
}

// conclude sums the walk up.
func (w *NameWalk) conclude() {
	var ending dns.Step
	var took time.Duration
	for _, s := range w.Steps {
		took += s.Took
		if s.Found() {
			ending = s
			w.Addresses = append(w.Addresses, addressesIn(s.Answers)...)
		}
	}
	asked := fmt.Sprintf("after %d questions in %v", len(w.Steps), took.Round(time.Microsecond))
	if len(w.Steps) == 1 {
		asked = strings.Replace(asked, "questions", "question", 1)
	}
	by := ""
	if len(ending.From) > 0 {
		by = ", by " + strings.Join(ending.From, ", ")
	}
	kind := w.Steps[0].Type
	forAddress := kind == "A" || kind == "AAAA"
	switch found := len(w.Addresses) > 0 || ending.Found() && !forAddress; {
	case found:
		w.Explanation = fmt.Sprintf("found as %s%s, %s", ending.Name, by, asked)
	case forAddress:
		w.Explanation = fmt.Sprintf("no address %s: the pod's C library says: %s", asked, w.verdict())
	default:
		w.Explanation = fmt.Sprintf("no %s record %s", kind, asked)
	}
	if ascii, err := idna.Lookup.ToASCII(w.Name); err == nil && ascii != strings.ToLower(w.Name) {
		w.Explanation += "; browsers and curl ask for " + ascii + " instead"
	}
}

// addressesIn is the addresses among records that are written as in a zone file.
func addressesIn(records []string) (all []string) {
	for _, record := range records {
		if words := strings.Fields(record); words[3] == "A" || words[3] == "AAAA" {
			all = append(all, words[4])
		}
	}
	return all
}

// verdict is what glibc says of a name without an address. What came of the name itself decides where it was asked for first, else
// whether any of the names was there.
func (w *NameWalk) verdict() string {
	var there, failed bool
	for _, s := range w.Steps {
		if itself := w.Steps[0].Name == w.Name+"."; itself && s.Name != w.Steps[0].Name {
			break
		}
		there = there || s.Rcode == "NOERROR"
		failed = failed || s.Rcode == "SERVFAIL"
	}
	switch {
	case there:
		return "No address associated with hostname"
	case failed:
		return "Temporary failure in name resolution"
	}
	return "Name or service not known"
}

// podAt finds the pod of "pod/NAME" or "pod/NAMESPACE/NAME".
func (c *Cluster) podAt(place, namespace string) (*corev1.Pod, error) {
	name, ok := strings.CutPrefix(place, "pod/")
	if !ok || name == "" {
		return nil, apierrors.NewBadRequest("place " + place + ": it must be pod/NAME or pod/NAMESPACE/NAME")
	}
	if ns, pod, both := strings.Cut(name, "/"); both {
		namespace, name = ns, pod
	}
	obj, err := c.store.Get(api.Pods, namespace, name)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// Questions is what was asked of the cluster's DNS lately, the oldest first: by one pod ("pod/NAMESPACE/NAME"), or by all for "".
func (c *Cluster) Questions(from, namespace string) ([]dns.Question, error) {
	if from == "" {
		return c.dns.Questions(netip.Addr{}), nil
	}
	pod, err := c.podAt(from, namespace)
	if err != nil {
		return nil, err
	}
	address, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return nil, apierrors.NewBadRequest(from + " has no address yet")
	}
	return c.dns.Questions(address), nil
}

// extraNames is what the API says of names: why dns, the questions asked, and DNS' own health, readiness and metrics.
func (c *Cluster) extraNames(mux *http.ServeMux) {
	const root = "/kubarium/v1/dns"
	mux.HandleFunc("GET "+root+"/why", answer(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		return c.WhyName(r.Context(), q.Get("name"), q.Get("from"), namespaceOf(q.Get("namespace")))
	}))
	mux.HandleFunc("GET "+root+"/questions", answer(func(r *http.Request) (any, error) {
		q := r.URL.Query()
		return c.Questions(q.Get("from"), namespaceOf(q.Get("namespace")))
	}))
	mux.HandleFunc("GET "+root+"/{what}", func(w http.ResponseWriter, r *http.Request) {
		http.StripPrefix(root, c.dns.Handler()).ServeHTTP(w, r)
	})
}

func namespaceOf(given string) string {
	if given == "" {
		return metav1.NamespaceDefault
	}
	return given
}
