// Package dns answers names: Kubernetes DNS specification 1.1.0 for the Services, EndpointSlices and Namespaces of a
// store, over UDP and TCP.
//
// A Server has one index of names. Run fills it from a store.Reader and follows the store's events; each event renews the
// records of the Service it touches and no others. Serve answers on sockets handed in, as many as there are nodes; readers of
// the index take no lock. Plain questions are answered within the packet they came in, many packets a system call; the rest
// takes the long way through miekg/dns' messages, with the same bytes. Names outside the zone are looked up among the configured hosts,
// then in a cache, then asked of the servers of a stub domain or of the upstream servers; Reload changes all of these.
// Handler serves /health, /ready and /metrics; KeepQuestions remembers who asked what.
//
//	s := dns.New(dns.Config{Reader: st, Upstream: []string{"9.9.9.9"}})
//	go s.Run(ctx)                      // the caller waits for it
//	err := s.Serve(ctx, packets, listener)
//
// What users should know:
//   - Before the first complete list of the store, names of the cluster get SERVFAIL, never NXDOMAIN.
//   - Without upstream servers a foreign name gets SERVFAIL at once, and an ExternalName Service its CNAME alone.
//   - With upstream servers that do not answer, SERVFAIL comes within 4 seconds, before glibc's own 5 seconds are over.
//   - A headless Service without a ready endpoint has no name at all: NXDOMAIN, as Kubernetes has it.
//   - Each answer with several addresses comes in random order.
//   - With Autopath the answer to a pod's first question of a search is that of the first name that exists, so `dig` there shows
//     a CNAME that no object made.
//   - Questions over one TCP connection are answered as the answers are known (RFC 7766, 6.2.1.1): what the cluster knows does
//     not wait for what others are asked. Of more than 256 connections the one that was silent for the longest is closed.
//
// Not here: resolv.conf of pods (package node), zone transfers (refused), DNSSEC, DNS cookies (ignored), prefetching. A loop
// through another resolver that changes ids is not told as one: it ends in a time-out.
package dns
