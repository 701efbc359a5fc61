// Package cluster wires a whole cluster together in one process and is the Go API for embedding one:
//
//	c, err := cluster.Start(ctx, cluster.Options{StateDir: dir, Nodes: 2})
//	if err != nil { ... }
//	defer c.Close()
//	clientcmd.RESTConfigFromKubeConfig(c.Kubeconfig())
//
// It alone starts the roles (API server, controllers, nodes, proxies, DNS, loopback forwarders), cancels them and waits for
// them. Nothing is created in the host's network namespace but listeners on 127.0.0.0/8. The process needs CAP_SYS_ADMIN in
// its user namespace: run as root, or through Reexec (which kubarium up and clustertest do).
package cluster
