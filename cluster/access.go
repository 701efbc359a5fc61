package cluster

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubarium.dev/api"
	"kubarium.dev/store"
)

// KubeconfigFor is a kubeconfig for a user with a certificate of its own, who has a ClusterRole (view, edit, admin, or any other that is
// there) in one namespace, and nothing elsewhere. The RoleBinding kubarium:USER says so; asking again changes its role. Errors: a
// namespace or role that is not there, and a user without a name.
func (c *Cluster) KubeconfigFor(ctx context.Context, namespace, user, role string) ([]byte, error) {
	if user == "" {
		return nil, apierrors.NewBadRequest("a kubeconfig for one namespace needs a user's name")
	}
	name := "kubarium:" + user
	if wrong := path.IsValidPathSegmentName(name); len(wrong) > 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("user %q: its name %s", user, wrong[0]))
	}
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.Get(api.Namespaces, "", namespace); err != nil {
			return err
		}
		if _, err := tx.Get(api.ClusterRoles, "", role); err != nil {
			return err
		}
		binding := &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		}
		old, err := store.Get[*rbacv1.RoleBinding](tx, api.RoleBindings, namespace, binding.Name)
		switch {
		case apierrors.IsNotFound(err):
			return tx.Create(binding)
		case err != nil:
			return err
		}
		fresh := api.Copy(old)
		fresh.Subjects, fresh.RoleRef = binding.Subjects, binding.RoleRef
		return tx.Update(fresh)
	})
	if err != nil {
		return nil, err
	}
	return c.authority.KubeconfigFor("kubarium-"+c.o.Name, c.URL(), namespace, user)
}
