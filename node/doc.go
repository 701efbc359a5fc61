// Package node is the machines of the cluster: the wire between them, their network namespaces, and the pods that run on them.
//
// A Fabric is the wire and everything on it. Fabric.AddNode puts a machine on it; Node.Run registers the machine as a Node
// object, runs the pods the scheduler gave it, writes their status and ends them:
//
//	f, err := node.NewFabric(ctx, node.FabricConfig{...})
//	n, err := f.AddNode(ctx, node.NodeConfig{Name: "n1", Store: s, ...})
//	err = n.Run(ctx) // blocks
//	err = n.Stop()   // takes its power away; Start gives it back
//	err = f.Partition("n1"); err = f.Heal()
//
// A container with a command is a real process behind kubarium.dev/node/podinit; one without is the built-in application of
// kubarium.dev/node/app, served by this process on sockets of the pod's namespace. Whatever runs here ends with the process.
//
// Volumes lie in a tmpfs of this process's own mount namespace, so Run needs one that is private. Images are those of package
// node/image; it pulls none. Requests and limits are shown and not enforced: there are no cgroups. It
// makes no decision about where a pod goes.
package node
