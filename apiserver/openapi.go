package apiserver

import (
	"io"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
)

type object = map[string]any

// serveOpenAPI answers /openapi/v3, the list of documents, and /openapi/v3/api/v1 and the like, the documents. They are made
// for each request: clients keep them by the hash in their address, which changes with the version.
func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request, path string) error {
	rest := strings.TrimPrefix(path, "/openapi/v3")
	if rest == "" {
		paths := object{}
		for _, gv := range groupVersions() {
			name := strings.TrimPrefix(groupPath(gv), "/")
			paths[name] = object{"serverRelativeURL": "/openapi/v3/" + name + "?hash=" + s.documentHash()}
		}
		writeJSON(w, mediaJSON, object{"paths": paths})
		return nil
	}
	for _, gv := range groupVersions() {
		if groupPath(gv) == rest {
			w.Header().Set("Cache-Control", "public, immutable")
			writeJSON(w, mediaJSON, document(gv))
			return nil
		}
	}
	return errNoPath(r.Method)
}

// documentHash names the documents' contents.
func (s *Server) documentHash() string { return kubernetesVersion + "-" + s.cfg.Version }

// document is the OpenAPI v3 document of a group and version.
func document(gv schema.GroupVersion) object {
	b := newSchemaBuilder()
	paths := object{}
	for _, k := range servedKinds {
		if k.GroupVersion() == gv {
			if k.New != nil {
				b.addKind(k)
			}
			kindPaths(k, paths)
		}
	}
	return object{
		"openapi":    "3.0.0",
		"info":       object{"title": "Kubernetes", "version": kubernetesVersion},
		"paths":      paths,
		"components": object{"schemas": b.done},
	}
}

// kindPaths adds what can be asked of a kind.
func kindPaths(k *api.Kind, paths object) {
	base := groupPath(k.GroupVersion()) + "/"
	if k.Namespaced {
		paths[base+k.Plural] = object{"get": operation(k, "list")}
		base += "namespaces/{namespace}/"
	}
	paths[base+k.Plural] = object{
		"get": operation(k, "list"), "post": operation(k, "post", "dryRun", "fieldManager", "fieldValidation"),
		"delete": operation(k, "deletecollection", "dryRun"),
	}
	one := object{
		"get": operation(k, "get"), "put": operation(k, "put", "dryRun", "fieldManager", "fieldValidation"),
		"patch": operation(k, "patch", "dryRun", "fieldManager", "fieldValidation", "force"), "delete": operation(k, "delete", "dryRun"),
	}
	paths[base+k.Plural+"/{name}"] = one
	if k.HasStatus {
		paths[base+k.Plural+"/{name}/status"] = object{"get": one["get"], "put": one["put"], "patch": one["patch"]}
	}
}

// operation describes one verb of a kind and the query parameters it knows.
func operation(k *api.Kind, action string, params ...string) object {
	parameters := []object{}
	for _, p := range append(params, "pretty") {
		kind := "string"
		if p == "force" {
			kind = "boolean"
		}
		parameters = append(parameters, object{"name": p, "in": "query", "schema": object{"type": kind, "uniqueItems": true}})
	}
	op := object{
		"x-kubernetes-action":             action,
		"x-kubernetes-group-version-kind": object{"group": k.Group, "version": k.Version, "kind": k.Kind},
		"parameters":                      parameters,
		"responses":                       object{"200": object{"description": "OK"}},
	}
	if action == "patch" {
		content := object{}
		for _, t := range []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType} {
			content[string(t)] = object{"schema": object{"$ref": refPrefix + metaModel + "Patch"}}
		}
		op["requestBody"] = object{"required": true, "content": content}
	}
	return op
}

// oldProtobuf is what the protobuf form of /openapi/v2 is called; clients ask for it by a name that is no media type.
const oldProtobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

// serveOldOpenAPI answers /openapi/v2 with a document that describes nothing: kubectl falls back to it for kinds that
// /openapi/v3 does not know, and has to learn from it that nobody does.
func serveOldOpenAPI(w http.ResponseWriter, r *http.Request) error {
	if !strings.Contains(r.Header.Get("Accept"), "protobuf") {
		writeJSON(w, mediaJSON, object{"swagger": "2.0", "info": object{"title": "Kubernetes", "version": kubernetesVersion}, "paths": object{}})
		return nil
	}
	// Document{swagger: 1, info: 2 {title: 1, version: 2}, paths: 8 {}}, by field number; all lengths are below 128.
	field := func(number byte, value string) string { return string([]byte{number<<3 | 2, byte(len(value))}) + value }
	document := field(1, "2.0") + field(2, field(1, "Kubernetes")+field(2, kubernetesVersion)) + field(8, "")
	w.Header().Set("Content-Type", oldProtobuf)
	io.WriteString(w, document)
	return nil
}
