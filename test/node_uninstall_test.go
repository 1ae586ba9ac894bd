//go:build e2e && linux

package test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// everything lists all objects of all kinds that can be listed, in all namespaces. Left out are Events, which end by themselves, the
// kubelet's sign of life, and what the test itself made.
func (in *installation) everything() []string {
	in.Helper()
	all, err := in.listEverything(in.Context())
	if err != nil {
		in.Fatal(err)
	}
	return all
}

func (in *installation) listEverything(ctx context.Context) (all []string, err error) {
	config := in.node.RESTConfig()
	config.WarningHandler = rest.NoWarnings{} // of kinds that are deprecated
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	lists, err := in.api.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || r.Name == "events" {
				continue
			}
			objects, err := client.Resource(group.WithResource(r.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", r.Name, err)
			}
			for _, o := range objects.Items {
				if o.GetLabels()["by"] != "test" && o.GetNamespace() != corev1.NamespaceNodeLease {
					all = append(all, strings.TrimPrefix(group.Group+"/"+r.Name, "/")+" "+strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"))
				}
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// uninstallAll wants nothing to be left but what docs/install.md names.
func (in *installation) uninstallAll(before []string) {
	in.apply(fmt.Sprintf(`
apiVersion: lanyard.dev/v1alpha1
kind: PodIdentityAssociation
metadata: {namespace: %s, name: last}
spec: {serviceAccountName: last, roleARN: "arn:aws:iam::%s:role/%s"}
`, web, account, podsRole))
	in.kubectl("wait", "-n", web, "podidentityassociation/last", "--for=condition=Ready", "--timeout="+patience.String())

	const claim = "data-lanyard-server-0"
	claimed, err := in.api.CoreV1().PersistentVolumeClaims(release).Get(in.Context(), claim, metav1.GetOptions{})
	if err != nil {
		in.Fatal(err)
	}
	in.uninstall()
	want := append(slices.Clone(before), "persistentvolumeclaims "+release+"/"+claim, "secrets "+release+"/lanyard-server")
	if volume := "persistentvolumes " + claimed.Spec.VolumeName; !slices.Contains(before, volume) { // the cluster made it for the claim
		want = append(want, volume)
	}
	slices.Sort(want)
	in.eventually("what is left", func(ctx context.Context) error { // garbage is collected in a while
		got, err := in.listEverything(ctx)
		if err == nil {
			if diff := cmp.Diff(want, got); diff != "" {
				err = fmt.Errorf("it is not what was there, the volume and the keys (-want +got):\n%s", diff)
			}
		}
		return err
	})
}
