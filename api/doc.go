// Package api holds the words of the cluster: the kinds it serves, how their YAML is read, what is filled in when a field is
// left out, what is refused and why. It is pure: no socket, no file, no clock.
//
// Types are Kubernetes' own (k8s.io/api); this package adds the table of kinds (Kinds), defaults (Default), validation
// (Validate, ValidateUpdate) and manifests whose errors name file, line and field (ReadManifests).
//
// A write goes through it in this order: Default, PrepareForCreate (or PrepareForUpdate, PrepareForStatusUpdate), Validate (or
// ValidateUpdate, ValidateStatusUpdate), and is refused with Invalid. What takes the rest of the cluster to judge (whether a
// namespace exists, which address and node port are free) is the API server's.
//
// Defaults and messages are those of Kubernetes 1.37; testdata/kubernetes-1.37.txt holds its answers. Not checked: what nothing
// here uses, such as the settings of network volumes, Windows containers and resource claims. Default answers for a cluster of
// one address family, IPv4.
package api
