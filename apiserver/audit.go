package apiserver

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// auditLog writes a line for each request. A nil one writes nothing.
type auditLog struct {
	mu sync.Mutex // one line at a time
	to io.Writer
}

// auditEvent is an Event of audit.k8s.io/v1 at level Metadata: who did what when with which result, and no contents.
type auditEvent struct {
	Kind             string                     `json:"kind"`
	APIVersion       string                     `json:"apiVersion"`
	Level            string                     `json:"level"`
	AuditID          string                     `json:"auditID"`
	Stage            string                     `json:"stage"`
	RequestURI       string                     `json:"requestURI"`
	Verb             string                     `json:"verb"`
	User             authenticationv1.UserInfo  `json:"user"`
	ImpersonatedUser *authenticationv1.UserInfo `json:"impersonatedUser,omitempty"`
	SourceIPs        []string                   `json:"sourceIPs,omitempty"`
	UserAgent        string                     `json:"userAgent,omitempty"`
	ObjectRef        *auditRef                  `json:"objectRef,omitempty"`
	ResponseStatus   auditStatus                `json:"responseStatus"`
	Received         metav1.MicroTime           `json:"requestReceivedTimestamp"`
	Finished         metav1.MicroTime           `json:"stageTimestamp"`
}

type auditRef struct {
	Resource    string `json:"resource"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	APIGroup    string `json:"apiGroup,omitempty"`
	APIVersion  string `json:"apiVersion"`
	Subresource string `json:"subresource,omitempty"`
}

type auditStatus struct {
	Metadata struct{} `json:"metadata"`
	Code     int      `json:"code"`
}

// write notes a finished request. What cannot be written is lost: the request has been answered already.
func (l *auditLog) write(a *answer, r *http.Request, now metav1.MicroTime) error {
	if l == nil || l.to == nil {
		return nil
	}
	e := auditEvent{
		Kind: "Event", APIVersion: "audit.k8s.io/v1", Level: "Metadata", AuditID: a.id, Stage: "ResponseComplete",
		RequestURI: r.URL.RequestURI(), Verb: a.verb(r), User: a.who.info(), UserAgent: r.UserAgent(),
		ResponseStatus: auditStatus{Code: a.code}, Received: metav1.NewMicroTime(a.began), Finished: now,
	}
	if a.as != nil {
		info := a.as.info()
		e.ImpersonatedUser = &info
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		e.SourceIPs = []string{host}
	}
	if c := a.call; c != nil && c.kind != nil {
		group := c.kind.Group
		if c.form != nil {
			group = c.form.Group
		}
		e.ObjectRef = &auditRef{Resource: c.kind.Plural, Namespace: c.namespace, Name: c.name, APIGroup: group,
			APIVersion: c.kind.Version, Subresource: strings.TrimSuffix(c.sub, "/")}
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.to.Write(append(line, '\n'))
	return err
}
