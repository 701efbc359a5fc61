// Package apiserver speaks Kubernetes' HTTP API over the objects of a store: discovery, create, read, update, patch, delete,
// watch, tables for kubectl, pod logs and exec. Stock kubectl and client-go cannot tell it from kube-apiserver for the kinds
// of api.Kinds.
//
// New makes a Server from a Config; Server.Serve answers on a listener until its context ends. LoadOrCreateAuthority keeps the
// certificate authority, the server's and the administrator's certificates and a bearer token in a folder.
//
// A write's way: decode (codec.go), default and validate (package api), admit and allocate addresses (admit.go, allocate.go)
// and write, all in one transaction of the store. Reads come from the store's snapshots; a watch follows the store's events by
// revision and never makes a writer wait.
//
// What it will not do: it runs no controller, and it keeps no state of its own beyond the pages of unfinished limited lists.
// managedFields are kept for every write that comes this way; what controllers write straight to the store belongs to nobody.
package apiserver
