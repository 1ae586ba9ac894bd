//go:build e2e && linux

package test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// granted are the rights that the chart's service accounts have besides everybody's: VERB RESOURCE[/NAME] anywhere, and those in the
// release's namespace alone.
var granted = map[string]struct{ anywhere, own []string }{
	"default":        {},
	"lanyard-agent":  {},
	"lanyard-server": {},
	"lanyard-webhook": {
		anywhere: []string{
			"get serviceaccounts", "list serviceaccounts", "watch serviceaccounts", "list pods", "create events", "patch events",
			"create configmaps", "get configmaps/lanyard-ca", "list configmaps/lanyard-ca", "update configmaps/lanyard-ca",
			"get mutatingwebhookconfigurations.admissionregistration.k8s.io/pod-identity-webhook",
			"update mutatingwebhookconfigurations.admissionregistration.k8s.io/pod-identity-webhook",
			"get podidentityassociations.lanyard.dev", "list podidentityassociations.lanyard.dev", "watch podidentityassociations.lanyard.dev",
			"update podidentityassociations.lanyard.dev", "update podidentityassociations/status.lanyard.dev",
		},
		own: []string{
			"create secrets", "get secrets/pod-identity-webhook", "update secrets/pod-identity-webhook",
			"get secrets/lanyard-webhook-keys", "update secrets/lanyard-webhook-keys",
			"create leases.coordination.k8s.io", "get leases.coordination.k8s.io/lanyard-webhook", "update leases.coordination.k8s.io/lanyard-webhook",
		},
	},
}

// everybodys are the rights of every user who is authenticated, by Kubernetes' own roles.
var everybodys = []string{
	"create selfsubjectaccessreviews.authorization.k8s.io", "create selfsubjectreviews.authentication.k8s.io",
	"create selfsubjectrulesreviews.authorization.k8s.io",
}

// right is a line of granted.
func right(verb, resource, group, name string) string {
	text := verb + " " + resource
	if group != "" {
		text += "." + group
	}
	if name != "" {
		text += "/" + name
	}
	return text
}

// rights asks the API server two ways what each of the chart's service accounts may: for its rules, and for every verb of every resource.
func (in *installation) rights() {
	for _, account := range slices.Sorted(maps.Keys(granted)) {
		user := "system:serviceaccount:" + release + ":" + account
		anywhere := slices.Concat(everybodys, granted[account].anywhere)
		own := slices.Concat(anywhere, granted[account].own)
		slices.Sort(anywhere)
		slices.Sort(own)
		for namespace, want := range map[string][]string{release: own, web: anywhere} {
			if diff := cmp.Diff(want, in.rules(user, namespace)); diff != "" {
				in.Errorf("the rules of %s in the namespace %s (-want +got):\n%s", account, namespace, diff)
			}
		}
		for namespace, want := range map[string][]string{release: own, "": anywhere} {
			if diff := cmp.Diff(withoutNames(want), in.allowed(user, namespace)); diff != "" {
				in.Errorf("%s may in the namespace %q (-want +got):\n%s", account, namespace, diff)
			}
		}
	}
}

// withoutNames leaves out the rights to objects by their names.
func withoutNames(rights []string) (kept []string) {
	for _, r := range rights {
		_, resource, _ := strings.Cut(r, " ")
		resource = strings.ReplaceAll(resource, "/status.", ".")
		if !strings.Contains(resource, "/") {
			kept = append(kept, r)
		}
	}
	return kept
}

// rules are those that the API server says a user has in a namespace.
func (in *installation) rules(user, namespace string) (rights []string) {
	in.Helper()
	config := in.node.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	client, err := kubeclient.NewForConfig(config)
	if err != nil {
		in.Fatal(err)
	}
	out, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(in.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
	if err != nil {
		in.Fatal(err)
	}
	if out.Status.Incomplete {
		in.Fatalf("the rules of %s are not all: %s", user, out.Status.EvaluationError)
	}
	seen := map[string]bool{}
	for _, rule := range out.Status.ResourceRules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, verb := range rule.Verbs {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						seen[right(verb, resource, group, name)] = true
					}
				}
			}
		}
	}
	for _, rule := range out.Status.NonResourceRules {
		for _, url := range rule.NonResourceURLs {
			if !slices.Contains(publicURLs, url) || !slices.Equal(rule.Verbs, []string{"get"}) {
				in.Errorf("%s may %v %s", user, rule.Verbs, url)
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// publicURLs are those that Kubernetes' own roles let everybody read. The webhook is let read the issuer's too, where they do not.
var publicURLs = []string{
	"/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/",
	"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/",
}

var groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + release, "system:authenticated"}

// verbs are those that authorizers know besides the ones that discovery names for a resource.
var verbs = []string{"*", "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "escalate", "bind", "approve", "sign", "use"}

// allowed asks for every verb of every resource that the API server knows whether a user may, in a namespace or, if that is empty, in all.
func (in *installation) allowed(user, namespace string) (rights []string) {
	in.Helper()
	_, lists, err := in.api.Discovery().ServerGroupsAndResources()
	if err != nil {
		in.Fatal(err)
	}
	every := map[authorizationv1.ResourceAttributes]bool{} // resources have several versions
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			in.Fatal(err)
		}
		for _, r := range list.APIResources {
			resource, subresource, _ := strings.Cut(r.Name, "/")
			for _, verb := range verbs {
				every[authorizationv1.ResourceAttributes{
					Namespace: namespace, Verb: verb, Group: group.Group, Resource: resource, Subresource: subresource,
				}] = true
			}
		}
	}
	questions := slices.Collect(maps.Keys(every))
	var mu sync.Mutex
	seen := map[string]bool{}
	inParallel(in.T, 16, len(questions), func(i int) error {
		q := questions[i]
		out, err := in.api.AuthorizationV1().SubjectAccessReviews().Create(in.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: groups, ResourceAttributes: &q},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("%v: %w", q, err)
		}
		if out.Status.Allowed {
			resource := strings.TrimSuffix(q.Resource+"/"+q.Subresource, "/")
			mu.Lock()
			seen[right(q.Verb, resource, q.Group, "")] = true
			mu.Unlock()
		}
		return nil
	})
	return slices.Sorted(maps.Keys(seen))
}
