// Package api holds the words of the cluster: the kinds it serves, how their YAML is read, what is filled in when a field is
// left out, what is refused and why. It is pure: no socket, no file, no clock.
//
// Types are Kubernetes' own (k8s.io/api); this package adds the table of kinds (Kinds), defaults (Default), validation
// (Validate, ValidateUpdate) and manifests whose errors name file, line and field (ReadManifests).
package api
