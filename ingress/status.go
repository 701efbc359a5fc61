package ingress

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// component is the name under which events are written.
const component = "kubarium-ingress"

// report is what is to be written about one Ingress: its addresses, and what is wrong with it.
type report struct {
	name      types.NamespacedName
	addresses []networkingv1.IngressLoadBalancerIngress // none: it is served no longer
	problems  []Problem
}

// tell hands the reports that changed to the background: writing must not hold up the routes.
func (m *model) tell() {
	if m.c.cfg.Store == nil {
		return
	}
	addresses := m.addresses()
	var reports []report
	for name := range m.retell {
		ing, before := m.ingresses[name], m.told[name]
		switch {
		case ing == nil:
			delete(m.told, name)
		case m.compiled[name] != nil:
			problems := m.problems(name)
			m.told[name] = said(ing, problems)
			if m.told[name] != before || !slices.EqualFunc(ing.Status.LoadBalancer.Ingress, addresses, sameAddress) {
				reports = append(reports, report{name: nameOf(ing), addresses: addresses, problems: problems})
			}
		case before != "" || ours(ing, addresses):
			delete(m.told, name)
			reports = append(reports, report{name: nameOf(ing)})
		}
	}
	m.c.queue(reports)
}

// said is all that a report's events tell.
func said(ing *networkingv1.Ingress, problems []Problem) string {
	text := "told " + string(ing.UID)
	for _, p := range problems {
		text += "\n" + p.Reason + " " + p.Message
	}
	return text
}

// problems is what is wrong with an Ingress that is served: by itself, and where it meets others. Each is told once, in whatever
// many of its hosts it shows.
func (m *model) problems(name string) []Problem {
	c := m.compiled[name]
	all := slices.Clone(c.problems)
	for _, key := range c.keys() {
		for _, p := range m.built[key].problems {
			same := func(other Problem) bool { return other.Message == p.Message }
			if api.Name(p.Ingress) == name && !slices.ContainsFunc(all, same) {
				all = append(all, p)
			}
		}
	}
	return all
}

func nameOf(ing *networkingv1.Ingress) types.NamespacedName {
	return types.NamespacedName{Namespace: ing.Namespace, Name: ing.Name}
}

// ours tells of an Ingress that is not served whether its status is from when it was, perhaps before a restart.
func ours(ing *networkingv1.Ingress, addresses []networkingv1.IngressLoadBalancerIngress) bool {
	return slices.ContainsFunc(ing.Status.LoadBalancer.Ingress, func(a networkingv1.IngressLoadBalancerIngress) bool {
		return slices.ContainsFunc(addresses, func(b networkingv1.IngressLoadBalancerIngress) bool { return sameAddress(a, b) })
	})
}

// queue adds to what the background has yet to write.
func (c *Controller) queue(reports []report) {
	for len(reports) > 0 {
		old := c.pending.Load()
		all := reports
		if old != nil {
			all = append(slices.Clone(*old), reports...)
		}
		if c.pending.CompareAndSwap(old, &all) {
			break
		}
	}
	select {
	case c.reports <- struct{}{}:
	default:
	}
}

// report writes what is pending, in one transaction.
func (c *Controller) report(ctx context.Context) {
	all := c.pending.Swap(nil)
	if all == nil || c.cfg.Store == nil {
		return
	}
	_, err := c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, r := range *all {
			if err := c.write(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Warn("ingress: statuses and events are not written", "error", err)
	}
}

func (c *Controller) write(tx *store.Tx, r report) error {
	ing, err := store.Get[*networkingv1.Ingress](tx, api.Ingresses, r.name.Namespace, r.name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.EqualFunc(ing.Status.LoadBalancer.Ingress, r.addresses, sameAddress) {
		changed := api.Copy(ing)
		changed.Status.LoadBalancer.Ingress = r.addresses
		if err := tx.Update(changed); err != nil {
			return err
		}
	}
	for _, p := range r.problems {
		if err := c.event(tx, ing, p); err != nil {
			return err
		}
	}
	return nil
}

func sameAddress(a, b networkingv1.IngressLoadBalancerIngress) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname
}

// addresses is where clients find this ingress.
func (m *model) addresses() []networkingv1.IngressLoadBalancerIngress {
	var all []networkingv1.IngressLoadBalancerIngress
	if svc := m.services[m.c.cfg.Service]; svc != nil {
		for _, a := range svc.Status.LoadBalancer.Ingress {
			all = append(all, networkingv1.IngressLoadBalancerIngress{IP: a.IP, Hostname: a.Hostname})
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, a := range m.c.cfg.Addresses {
		all = append(all, networkingv1.IngressLoadBalancerIngress{IP: a.String()})
	}
	return all
}

// event writes a warning, or counts one up that says the same.
func (c *Controller) event(tx *store.Tx, ing *networkingv1.Ingress, p Problem) error {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s\x00%s\x00%s", ing.UID, p.Reason, p.Message)
	name := fmt.Sprintf("%s.%016x", strings.TrimRight(ing.Name[:min(len(ing.Name), 200)], ".-"), sum.Sum64())
	now := metav1.NewTime(c.cfg.Now())
	old, err := store.Get[*corev1.Event](tx, api.Events, ing.Namespace, name)
	if err == nil {
		again := api.Copy(old)
		again.Count++
		again.LastTimestamp = now
		return tx.Update(again)
	}
	if !apierrors.IsNotFound(err) {
		return errors.Join(err)
	}
	return tx.Create(&corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ing.Namespace, Name: name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: api.Ingresses.GroupVersion().String(), Kind: api.Ingresses.Kind, Namespace: ing.Namespace, Name: ing.Name, UID: ing.UID,
			ResourceVersion: ing.ResourceVersion,
		},
		Reason: p.Reason, Message: p.Message, Type: corev1.EventTypeWarning, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: component}, ReportingController: component,
	})
}
