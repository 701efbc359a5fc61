package apiserver

import (
	"strconv"
	"strings"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// readOptions reads what every verb understands: the Accept header, dryRun and fieldValidation.
func (c *call) readOptions(s *Server) error {
	switch c.sub {
	case "log", "exec", "attach", "portforward", "proxy": // they answer with streams
	default:
		a, err := parseAccept(c.r.Header.Get("Accept"), s.wire)
		if err != nil {
			return err
		}
		c.accept = a
	}
	kind := optionsKind(c.r.Method)
	for _, v := range c.query["dryRun"] {
		if v != metav1.DryRunAll {
			return errOption(kind, field.NotSupported(field.NewPath("dryRun"), v, []string{metav1.DryRunAll}))
		}
		c.dryRun = true
	}
	switch v := c.query.Get("fieldValidation"); v {
	case "", metav1.FieldValidationStrict, metav1.FieldValidationWarn, metav1.FieldValidationIgnore:
	default:
		return errOption(kind, field.NotSupported(field.NewPath("fieldValidation"), v,
			[]string{metav1.FieldValidationIgnore, metav1.FieldValidationStrict, metav1.FieldValidationWarn}))
	}
	return nil
}

// optionsKind is the options object that Kubernetes' messages name for a method.
func optionsKind(method string) string {
	switch method {
	case "POST":
		return "CreateOptions"
	case "PUT":
		return "UpdateOptions"
	case "PATCH":
		return "PatchOptions"
	}
	return "DeleteOptions"
}

// maxManager is the longest name of a field manager, in bytes; as in Kubernetes.
const maxManager = 128

// manager names who writes: the query's fieldManager, or the client program.
func (c *call) manager() string {
	if m := c.query.Get("fieldManager"); m != "" {
		return m
	}
	program, _, _ := strings.Cut(c.r.UserAgent(), "/")
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, program)
	return strings.ToValidUTF8(printable[:min(len(printable), maxManager)], "")
}

// isTrue reads a boolean parameter as Kubernetes does: present and neither "0" nor "false".
func isTrue(value string) bool {
	v, err := strconv.ParseBool(value)
	return value != "" && (err != nil || v)
}
