package associations

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
)

// resources are a cluster's, each of which is released by itself a while after it is deleted; zero is never.
func resources(t *testing.T, release time.Duration, names ...string) *dynamicfake.FakeDynamicClient {
	t.Helper()
	kinds := map[schema.GroupVersionResource]string{Resource(): "PodIdentityAssociationList"}
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)
	tracker := client.Tracker()
	for _, name := range names {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "lanyard.dev/v1alpha1", "kind": "PodIdentityAssociation", "spec": map[string]any{}}}
		o.SetNamespace("web")
		o.SetName(name)
		refused := metav1.Condition{Type: Ready, Status: metav1.ConditionFalse, Reason: string(AccessDenied), Message: "Not you."}
		o, err := withStatus(o, Status{Conditions: []metav1.Condition{refused}})
		if err != nil {
			t.Fatal(err)
		}
		if err := tracker.Create(Resource(), o, "web"); err != nil {
			t.Fatal(err)
		}
	}
	client.PrependReactor("delete", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		name := action.(clienttesting.DeleteAction).GetName()
		o, err := tracker.Get(Resource(), "web", name)
		if err != nil {
			return true, nil, err
		}
		deleted := o.(*unstructured.Unstructured).DeepCopy()
		now := metav1.Now()
		deleted.SetDeletionTimestamp(&now)
		if release > 0 {
			time.AfterFunc(release, func() {
				if err := tracker.Delete(Resource(), "web", name); err != nil {
					t.Error(err)
				}
			})
		}
		return true, nil, tracker.Update(Resource(), deleted, "web")
	})
	return client
}

func TestDeletingAllWaitsUntilTheyAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := resources(t, 10*time.Second, "a", "b", "c")
		start := time.Now()
		if err := DeleteAll(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
		deletes := 0
		for _, a := range client.Actions() {
			if a.GetVerb() == "delete" {
				deletes++
			}
		}
		if deletes != 3 {
			t.Errorf("three resources were deleted %d times", deletes)
		}
		if err := DeleteAll(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
}

func TestDeletingAllSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := DeleteAll(ctx, resources(t, 0, "a", "b"), slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "2 PodIdentityAssociations are left, the first of them is web/a (AccessDenied: Not you.)") {
			t.Errorf("got %v", err)
		}
	})
}

func TestWithoutTheDefinitionThereIsNothingToDelete(t *testing.T) {
	t.Parallel()
	client := resources(t, 0)
	answer := error(apierrors.NewNotFound(Resource().GroupResource(), ""))
	client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
	if err := DeleteAll(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("got %v", err)
	}
	answer = apierrors.NewForbidden(Resource().GroupResource(), "", nil)
	if err := DeleteAll(t.Context(), client, slog.New(slog.DiscardHandler)); !apierrors.IsForbidden(err) {
		t.Errorf("of what must not be listed: got %v", err)
	}
}
