package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"kubarium.dev/api"
)

// change asks the server, without keeping the answer, for what kubectl apply would do to an object that exists: the merge of
// what was last applied, what is there now, and the manifest. known is false if there is no such object.
func (c manifestCheck) change(ctx context.Context, kind *api.Kind, m api.Manifest) (problems []string, known bool) {
	path := c.path(kind, m) + "/" + m.Name
	body, err := c.client.do(ctx, http.MethodGet, path, nil)
	if apierrors.IsNotFound(err) {
		return nil, false
	}
	if err != nil {
		return located(m, err), true
	}
	defer body.Close()
	if c.force {
		return nil, true
	}
	current, err := io.ReadAll(body)
	if err != nil {
		return located(m, err), true
	}
	patch, err := applyPatch(kind, current, m.JSON)
	if err != nil {
		return located(m, err), true
	}
	return c.ask(ctx, m, http.MethodPatch, path+dryRunQuery, types.StrategicMergePatchType, patch), true
}

// applyPatch is the strategic merge patch that kubectl apply sends. What was last applied stands in an annotation of the object.
func applyPatch(kind *api.Kind, current, manifest []byte) ([]byte, error) {
	var live, wanted unstructured.Unstructured
	if err := json.Unmarshal(current, &live.Object); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(manifest, &wanted.Object); err != nil {
		return nil, err
	}
	last := live.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	if last == "" {
		last = "{}"
	}
	annotations := wanted.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = last // apply keeps the annotation; it is not the manifest's to take away
	wanted.SetAnnotations(annotations)
	modified, err := json.Marshal(wanted.Object)
	if err != nil {
		return nil, err
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(kind.New())
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateThreeWayMergePatch([]byte(last), modified, current, meta, true)
}
