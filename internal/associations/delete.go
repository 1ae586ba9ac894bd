package associations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// deleteEvery is how often DeleteAll looks what is left.
const deleteEvery = time.Second

// deletePage is how many resources are read at a time.
const deletePage = 500

// DeleteAll deletes all PodIdentityAssociations, of all namespaces, and waits until a Controller, which must be running, has released
// them. Without a definition of the resources there are none. Its error says what holds up the first that is left when ctx ends.
func DeleteAll(ctx context.Context, resources dynamic.Interface, log *slog.Logger) error {
	tick := time.NewTicker(deleteEvery)
	defer tick.Stop()
	var left []unstructured.Unstructured
	for {
		list, err := listAll(ctx, resources)
		switch {
		case ctx.Err() != nil && len(left) > 0: // says less than what is left
		case err != nil:
			return err
		case len(list) == 0:
			return nil
		default:
			left = list
			err = deleteEach(ctx, resources, list, log)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d PodIdentityAssociations are left, the first of them is %s: %w", len(left), describe(&left[0]), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func listAll(ctx context.Context, resources dynamic.Interface) (all []unstructured.Unstructured, err error) {
	options := metav1.ListOptions{Limit: deletePage}
	for {
		page, err := resources.Resource(Resource()).List(ctx, options)
		if apierrors.IsNotFound(err) {
			return nil, nil // there is no definition
		}
		if err != nil {
			return nil, fmt.Errorf("list PodIdentityAssociations: %w", err)
		}
		all = append(all, page.Items...)
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

// deleteEach deletes those that are not being deleted yet.
func deleteEach(ctx context.Context, resources dynamic.Interface, list []unstructured.Unstructured, log *slog.Logger) error {
	var failed error
	for _, o := range list {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		err := resources.Resource(Resource()).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = errors.Join(failed, fmt.Errorf("delete PodIdentityAssociation %s/%s: %w", o.GetNamespace(), o.GetName(), err))
			continue
		}
		log.Info("PodIdentityAssociation deleted", "namespace", o.GetNamespace(), "name", o.GetName())
	}
	return failed
}

// describe names a resource, and says why it is not ready if it is not.
func describe(o *unstructured.Unstructured) string {
	text := o.GetNamespace() + "/" + o.GetName()
	a, err := decode(o)
	if err != nil {
		return text
	}
	if ready := meta.FindStatusCondition(a.Status.Conditions, Ready); ready != nil && ready.Status != metav1.ConditionTrue {
		return fmt.Sprintf("%s (%s: %s)", text, ready.Reason, ready.Message)
	}
	return text
}
