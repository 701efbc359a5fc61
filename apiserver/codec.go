package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"kubarium.dev/api"
)

// Media types of bodies and answers.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

// accept is the form in which a client wants its answer.
type accept struct {
	media   string
	as      string // "Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList"; "" for the object
	version string // with as: "v1"
}

// contentType is the Content-Type header of an answer in this form.
func (a accept) contentType() string {
	if a.as == "APIGroupDiscoveryList" {
		return a.media + ";g=apidiscovery.k8s.io;v=" + a.version + ";as=" + a.as
	}
	return a.media
}

// wire turns objects into bytes and back, in each media type.
type wire struct {
	scheme   *runtime.Scheme
	encoders map[string]runtime.Encoder
	decoders map[string]runtime.Decoder // strict: they return the object and a strict decoding error
}

func newWire() *wire {
	scheme := runtime.NewScheme()
	for gvk, t := range api.Scheme.AllKnownTypes() {
		if gvk.Version != runtime.APIVersionInternal {
			scheme.AddKnownTypeWithName(gvk, reflect.New(t).Interface().(runtime.Object))
		}
	}
	for _, add := range []func(*runtime.Scheme) error{
		eventsv1.AddToScheme, autoscalingv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, policyv1.AddToScheme, metav1.AddMetaToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	newJSON := func(o json.SerializerOptions) *json.Serializer {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, o)
	}
	pb := protobuf.NewSerializer(scheme, scheme)
	return &wire{
		scheme: scheme,
		encoders: map[string]runtime.Encoder{
			mediaJSON: newJSON(json.SerializerOptions{}), mediaYAML: newJSON(json.SerializerOptions{Yaml: true}), mediaProtobuf: pb,
		},
		decoders: map[string]runtime.Decoder{
			mediaJSON: newJSON(json.SerializerOptions{Strict: true}), mediaYAML: newJSON(json.SerializerOptions{Yaml: true, Strict: true}),
			mediaProtobuf: pb,
		},
	}
}

// parseAccept reads an Accept header: the first form in it that we have. An unknown header falls back to JSON with an error.
func parseAccept(header string, w *wire) (accept, error) {
	if header == "" {
		return accept{media: mediaJSON}, nil
	}
	for clause := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(clause)
		if err != nil {
			continue
		}
		switch media {
		case "*/*", "application/*":
			media = mediaJSON
		case "application/x-yaml", "text/yaml":
			media = mediaYAML
		}
		if _, ok := w.encoders[media]; !ok || params["stream"] != "" && params["stream"] != "watch" {
			continue
		}
		if !servesForm(media, params) {
			continue
		}
		return accept{media: media, as: params["as"], version: params["v"]}, nil
	}
	return accept{media: mediaJSON}, errOther(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+strings.Join([]string{mediaJSON, mediaYAML, mediaProtobuf}, ", "))
}

// servesForm tells whether an answer can be turned into what the clause's parameters ask for.
func servesForm(media string, params map[string]string) bool {
	switch params["as"] {
	case "":
		return true
	case "Table":
		return params["g"] == metav1.GroupName && params["v"] == "v1" && media != mediaProtobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return params["g"] == metav1.GroupName && params["v"] == "v1"
	case "APIGroupDiscoveryList":
		return params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" && params["profile"] == "" && media == mediaJSON
	}
	return false
}

// write answers with obj in the media type of a.
func (w *wire) write(rw http.ResponseWriter, code int, a accept, obj runtime.Object) {
	var body bytes.Buffer
	if err := w.encoders[a.media].Encode(obj, &body); err != nil {
		http.Error(rw, "encode the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(rw, code, a, body.Bytes())
}

// writeBody answers with what is encoded already.
func writeBody(rw http.ResponseWriter, code int, a accept, body []byte) {
	rw.Header().Set("Content-Type", a.contentType())
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)))
	rw.WriteHeader(code)
	rw.Write(body)
}

// readBody returns the request's body, at most maxBody bytes of it, and its media type.
func (c *call) readBody() ([]byte, string, error) {
	body, err := c.allOfBody()
	if err != nil {
		return nil, "", err
	}
	header := c.r.Header.Get("Content-Type")
	if header == "" {
		return body, mediaJSON, nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err != nil {
		return nil, "", errMedia(header)
	}
	return body, media, nil
}

// allOfBody reads the body as long as the client does not try the server's patience.
func (c *call) allOfBody() ([]byte, error) {
	if c.r.Body == nil || c.r.Body == http.NoBody {
		return nil, nil
	}
	control := http.NewResponseController(c.w)
	bounded := control.SetReadDeadline(time.Now().Add(c.patience)) == nil
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err != nil {
		c.w.Header().Set("Connection", "close") // and the deadline stays, or net/http would wait for the rest
		return nil, err
	}
	if bounded {
		err = control.SetReadDeadline(time.Time{})
	}
	return body, err
}

// admitSize refuses an object that is too large to be stored.
func admitSize(obj api.Object) error {
	if o, ok := obj.(interface{ Size() int }); ok && o.Size() > maxObject {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("object is too large: limit is %d", maxObject))
	}
	return nil
}

func errMedia(media string, served ...string) error {
	if len(served) == 0 {
		served = []string{mediaJSON, mediaYAML, mediaProtobuf}
	}
	return errOther(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, fmt.Sprintf(
		"the body of the request was in an unknown format - accepted media types include: %s (got %q)",
		strings.Join(served, ", "), media))
}

// decodeBody reads the request's body into an object of into's type. The body may leave kind and apiVersion out, but not
// contradict gvk. Unknown and duplicate fields are handled as the query's fieldValidation says.
func (s *Server) decodeBody(c *call, into runtime.Object, gvk schema.GroupVersionKind) error {
	body, media, err := c.readBody()
	if err != nil {
		return err
	}
	return s.decode(c, body, media, into, gvk)
}

func (s *Server) decode(c *call, body []byte, media string, into runtime.Object, gvk schema.GroupVersionKind) error {
	decoder, ok := s.wire.decoders[media]
	if !ok {
		return errMedia(media)
	}
	_, got, err := decoder.Decode(body, &gvk, into)
	if err != nil && runtime.IsStrictDecodingError(err) {
		err = c.unknownFields(err, gvk)
	} else if err != nil {
		err = errDecode(err, got, gvk.Kind)
	}
	if err != nil {
		return err
	}
	if got.GroupVersion() != gvk.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), gvk.GroupVersion()))
	}
	if got.Kind != gvk.Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s", got.Kind, got.Version, gvk.Kind))
	}
	return nil
}

// errDecode says that what was sent (nil when even its kind is unknown) is no object of kind.
func errDecode(err error, sent *schema.GroupVersionKind, kind string) error {
	if sent == nil || sent.Kind == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v", kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", sent.Kind, sent.Version, kind, err))
}

// unknownFields refuses, warns of or ignores a strict decoding error, as fieldValidation asks (default Warn).
func (c *call) unknownFields(err error, gvk schema.GroupVersionKind) error {
	switch c.query.Get("fieldValidation") {
	case metav1.FieldValidationStrict:
		return errDecode(err, &gvk, gvk.Kind)
	case metav1.FieldValidationIgnore:
		return nil
	}
	strict, _ := runtime.AsStrictDecodingError(err)
	for _, e := range strict.Errors() {
		c.warn(e.Error())
	}
	return nil
}

// warn adds a Warning header to the answer, each text once.
func (c *call) warn(text string) {
	if c.warned[text] {
		return
	}
	if c.warned == nil {
		c.warned = map[string]bool{}
	}
	c.warned[text] = true
	if header, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
		c.w.Header().Add("Warning", header)
	}
}

// warnOf tells a writer what is to be known of what he writes.
func (c *call) warnOf(obj api.Object) {
	for _, text := range api.Warnings(obj) {
		c.warn(text)
	}
}

// respond answers a call with obj, in the form the client asked for.
func (s *Server) respond(c *call, code int, obj api.Object) error {
	switch c.accept.as {
	case "Table":
		s.wire.write(c.w, code, c.accept, s.tableOf(c, []api.Object{obj}, true))
	case "PartialObjectMetadata":
		s.wire.write(c.w, code, c.accept, partialOf(obj))
	case "":
		body, err := s.encoded.of(c.form, c.shown(obj), c.accept.media)
		if err != nil {
			return err
		}
		writeBody(c.w, code, c.accept, body)
	default:
		return errOther(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "one object cannot be answered as "+c.accept.as)
	}
	return nil
}

// typed returns obj with its kind and apiVersion filled in. Objects of the store are shared, so it is a shallow copy.
func typed(kind *api.Kind, obj runtime.Object) runtime.Object {
	c := shallow(obj)
	c.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind())
	return c
}

// shallow copies the struct obj points to, not what hangs below it.
func shallow(obj runtime.Object) runtime.Object {
	v := reflect.New(reflect.TypeOf(obj).Elem())
	v.Elem().Set(reflect.ValueOf(obj).Elem())
	return v.Interface().(runtime.Object)
}

// listOf packs items into the list type of kind.
func listOf(kind *api.Kind, items []api.Object) (runtime.Object, error) {
	list := kind.NewList()
	list.GetObjectKind().SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	ptr, err := meta.GetItemsPtr(list)
	if err != nil {
		return nil, err
	}
	slice := reflect.ValueOf(ptr).Elem()
	values := reflect.MakeSlice(slice.Type(), len(items), len(items))
	for i, item := range items {
		values.Index(i).Set(reflect.ValueOf(item).Elem())
	}
	slice.Set(values)
	return list, nil
}

// partialOf is obj's metadata alone.
func partialOf(obj api.Object) *metav1.PartialObjectMetadata {
	p := meta.AsPartialObjectMetadata(obj)
	p.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
	return p
}
