package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"kubarium.dev/api"
)

// maxPatchOperations is how many operations one JSON patch may hold; as in Kubernetes.
const maxPatchOperations = 10000

// patch answers PATCH on one object or its status.
func (s *Server) patch(c *call) error {
	body, media, err := c.readBody()
	if err != nil {
		return err
	}
	kind := types.PatchType(media)
	if kind == types.ApplyYAMLPatchType && c.form != c.kind {
		return errMedia(media, string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType))
	}
	if kind == types.ApplyYAMLPatchType {
		return s.apply(c, body)
	}
	if err := checkPatch(kind, body); err != nil {
		return err
	}
	out, err := s.change(c, func(now api.Object) (api.Object, error) {
		return patched(s, c, typed(c.form, c.shown(now)), kind, body)
	})
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusOK, out)
}

// checkPatch refuses what is no patch before anything is looked up.
func checkPatch(kind types.PatchType, body []byte) error {
	switch kind {
	case types.JSONPatchType:
		ops, err := jsonpatch.DecodePatch(body)
		if err != nil {
			return apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		if len(ops) > maxPatchOperations {
			return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d",
				maxPatchOperations, len(ops)))
		}
	case types.MergePatchType, types.StrategicMergePatchType:
		var object map[string]any
		if err := json.Unmarshal(body, &object); err != nil {
			return apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
	default:
		return errMedia(string(kind), string(types.JSONPatchType), string(types.MergePatchType),
			string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType))
	}
	return nil
}

// patched returns a new object of c's kind: now (with kind and apiVersion) changed by a patch.
func patched(s *Server, c *call, now runtime.Object, kind types.PatchType, body []byte) (api.Object, error) {
	obj := c.form.New()
	if err := patchInto(s, c, now, obj, kind, body); err != nil {
		return nil, err
	}
	obj = c.meant(obj)
	if obj.GetName() != c.name {
		return nil, errMismatch(obj.GetName(), c.name)
	}
	return obj, c.place(obj)
}

// patchInto decodes what a patch makes of now into out, which has now's type.
func patchInto(s *Server, c *call, now, out runtime.Object, kind types.PatchType, body []byte) error {
	before, err := json.Marshal(now)
	if err != nil {
		return err
	}
	after, err := patchJSON(c, before, out, kind, body)
	if err != nil {
		return err
	}
	return s.decode(c, after, mediaJSON, out, now.GetObjectKind().GroupVersionKind())
}

func patchJSON(c *call, before []byte, shape runtime.Object, kind types.PatchType, body []byte) ([]byte, error) {
	switch kind {
	case types.JSONPatchType:
		ops, err := jsonpatch.DecodePatch(body)
		if err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		after, err := ops.Apply(before)
		if err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", c.kind.GroupResource(), c.name, err.Error(), 0, false)
		}
		return after, nil
	case types.MergePatchType:
		after, err := jsonpatch.MergePatch(before, body)
		if err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		return after, nil
	}
	after, err := strategicpatch.StrategicMergePatch(before, body, shape)
	switch {
	case err == nil:
		return after, nil
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return nil, errOther(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, err.Error())
}
