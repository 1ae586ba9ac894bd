//go:build e2e

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/internal/associations"
)

// leadingRules are what the webhook is given besides, for --push-keys and --reconcile-associations: in the cluster, and in its own
// namespace.
func leadingRules() (everywhere, own []rbacv1.PolicyRule) {
	everywhere = []rbacv1.PolicyRule{
		{NonResourceURLs: []string{"/.well-known/openid-configuration", "/openid/v1/jwks"}, Verbs: []string{"get"}},
		{APIGroups: []string{"lanyard.dev"}, Resources: []string{"podidentityassociations"}, Verbs: []string{"get", "list", "watch", "update"}},
		{APIGroups: []string{"lanyard.dev"}, Resources: []string{"podidentityassociations/status"}, Verbs: []string{"update"}},
	}
	own = []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{"lanyard-webhook"}, Verbs: []string{"get", "update"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"lanyard-webhook-keys"}, Verbs: []string{"get", "update"}},
	}
	return everywhere, own
}

// cleanupRules are what the service account of `lanyard-webhook cleanup` is given.
func cleanupRules() (everywhere, own []rbacv1.PolicyRule) {
	everywhere = []rbacv1.PolicyRule{
		{APIGroups: []string{"lanyard.dev"}, Resources: []string{"podidentityassociations"}, Verbs: []string{"list", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"lanyard-ca"}, Verbs: []string{"list", "delete"}},
	}
	own = []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"pod-identity-webhook", "lanyard-webhook-keys"}, Verbs: []string{"delete"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{"lanyard-webhook"}, Verbs: []string{"delete"}},
	}
	return everywhere, own
}

// webhookPolicy is what the webhook's role may do in the cluster one.
const webhookPolicy = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Resource": "arn:aws:eks:us-east-1:` + account + `:cluster/one",
	 "Action": ["eks:ListPodIdentityAssociations", "eks:DescribeCluster", "lanyard:UpdateClusterKeys", "eks:CreatePodIdentityAssociation"]},
	{"Effect": "Allow", "Resource": "arn:aws:eks:us-east-1:` + account + `:podidentityassociation/one/*",
	 "Action": ["eks:DescribePodIdentityAssociation", "eks:UpdatePodIdentityAssociation", "eks:DeletePodIdentityAssociation", "eks:TagResource", "eks:UntagResource"]},
	{"Effect": "Allow", "Resource": "arn:aws:iam::` + account + `:role/pods/*", "Action": ["iam:PassRole", "iam:GetRole"],
	 "Condition": {"StringEqualsIfExists": {"iam:PassedToService": "pods.eks.amazonaws.com"}}}
]}`

const podTrust = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
]}`

// grant gives a service account rules, in the cluster and in its own namespace.
func (k *apiServer) grant(namespace, account, name string, everywhere, own []rbacv1.PolicyRule) {
	k.t.Helper()
	who := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: account}}
	kind := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	k.create(&rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: own})
	k.create(&rbacv1.RoleBinding{
		TypeMeta: kind("RoleBinding"), ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Subjects: who,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	})
	if everywhere == nil {
		return
	}
	k.create(&rbacv1.ClusterRole{TypeMeta: kind("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: everywhere})
	k.create(&rbacv1.ClusterRoleBinding{
		TypeMeta: kind("ClusterRoleBinding"), ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: who,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	})
}

// token returns a token of a service account; the audience is the API server's own when empty.
func (k *apiServer) token(namespace, account, audience string) string {
	k.t.Helper()
	spec := "{}"
	if audience != "" {
		spec = fmt.Sprintf(`{"audiences": [%q]}`, audience)
	}
	var reply struct{ Status struct{ Token string } }
	read(k.t, k.must(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", `{"spec": `+spec+`}`), &reply)
	return reply.Status.Token
}

// kubeconfigOf returns a kubeconfig of a service account.
func (k *apiServer) kubeconfigOf(namespace, account string) string {
	k.t.Helper()
	text, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		k.t.Fatal(err)
	}
	file := filepath.Join(k.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, bytes.Replace(text, []byte(kubernetesToken), []byte(k.token(namespace, account, "")), 1), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return file
}

// request makes a request as somebody, and returns the answer's status and body.
func (k *apiServer) request(token, method, path, body string, header map[string]string) (int, []byte) {
	k.t.Helper()
	r, err := http.NewRequestWithContext(k.t.Context(), method, k.url+path, strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	reply, err := k.client.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return reply.StatusCode, text
}

// patch changes an object by a JSON merge patch.
func (k *apiServer) patch(path, patch string) {
	k.t.Helper()
	code, text := k.request(kubernetesToken, http.MethodPatch, path, patch, map[string]string{"Content-Type": "application/merge-patch+json"})
	if code != http.StatusOK {
		k.t.Fatalf("patch %s: %s", path, text)
	}
}

// leadingWebhook returns the environment of a webhook with its own web identity, whose token is of the API server's present key.
func (k *apiServer) leadingWebhook(s *server) *server {
	k.t.Helper()
	file := filepath.Join(k.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(k.token("lanyard", "lanyard-webhook", "sts.amazonaws.com")), 0o600); err != nil {
		k.t.Fatal(err)
	}
	env := maps.Clone(s.env)
	delete(env, "AWS_ACCESS_KEY_ID")
	delete(env, "AWS_SECRET_ACCESS_KEY")
	env["AWS_ROLE_ARN"] = "arn:aws:iam::" + account + ":role/webhook"
	env["AWS_WEB_IDENTITY_TOKEN_FILE"] = file
	return &server{env: env}
}

// joinForWebhook registers the cluster one, and makes the webhook's service account and its role.
func (k *apiServer) joinForWebhook(s *server) {
	k.t.Helper()
	s.must("cluster", "register", "one", "--kubeconfig", k.kubeconfig)
	policy := filepath.Join(k.t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(webhookPolicy), 0o600); err != nil {
		k.t.Fatal(err)
	}
	s.must("irsa", "create", "--cluster", "one", "-n", "lanyard", "-s", "lanyard-webhook", "--role-name", "webhook", "--policy", policy)
	k.webhookKubeconfig()
	everywhere, own := leadingRules()
	k.grant("lanyard", "lanyard-webhook", "leading", everywhere, own)
}

// define gives the API server the definition of PodIdentityAssociations, and waits until it serves them.
func (k *apiServer) define() {
	k.t.Helper()
	text, err := os.ReadFile("../deploy/chart/files/podidentityassociations.yaml")
	if err != nil {
		k.t.Fatal(err)
	}
	body, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		k.t.Fatal(err)
	}
	k.must(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?fieldValidation=Strict", string(body))
	k.waitFor("the definition", func() bool {
		_, err := k.do(http.MethodGet, associationsPath("web", ""), "")
		return err == nil
	})
}

func associationsPath(namespace, name string) string {
	path := "/apis/lanyard.dev/v1alpha1/namespaces/" + namespace + "/podidentityassociations"
	if name != "" {
		path += "/" + name
	}
	return path
}

// resource returns a PodIdentityAssociation in JSON, of the default spec with the members of another over it.
func resource(t *testing.T, name, spec string) string {
	t.Helper()
	members := map[string]any{"serviceAccountName": "reader", "roleARN": podRole("reader")}
	read(t, []byte(spec), &members)
	for key, value := range members {
		if value == nil {
			delete(members, key)
		}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "lanyard.dev/v1alpha1", "kind": "PodIdentityAssociation", "metadata": map[string]any{"name": name}, "spec": members,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func podRole(name string) string { return "arn:aws:iam::" + account + ":role/pods/" + name }

// association reads a PodIdentityAssociation of the namespace web; nil for one that is not there.
func (k *apiServer) association(name string) *associations.PodIdentityAssociation {
	k.t.Helper()
	code, text := k.request(kubernetesToken, http.MethodGet, associationsPath("web", name), "", nil)
	if code == http.StatusNotFound {
		return nil
	}
	var a associations.PodIdentityAssociation
	read(k.t, text, &a)
	return &a
}

// waitForReason waits until a PodIdentityAssociation's condition is of its present spec and has a reason.
func (k *apiServer) waitForReason(name string, reason associations.Reason) *associations.PodIdentityAssociation {
	k.t.Helper()
	var a *associations.PodIdentityAssociation
	defer func() {
		if k.t.Failed() {
			k.t.Logf("%s is %+v", name, a)
		}
	}()
	k.waitFor(fmt.Sprintf("%s with the reason %s", name, reason), func() bool {
		if a = k.association(name); a == nil {
			return false
		}
		ready := meta.FindStatusCondition(a.Status.Conditions, associations.Ready)
		return ready != nil && ready.Reason == string(reason) && ready.ObservedGeneration == a.Generation && a.Status.ObservedGeneration == a.Generation
	})
	return a
}

// rulesOfAssociations are the rules of the definition, each with a spec that it refuses and one that it does not.
func rulesOfAssociations() []struct{ rule, refused, says, taken string } {
	tags := func(n int) string {
		all := map[string]string{}
		for i := range n {
			all[fmt.Sprintf("tag-%d", i)] = "x"
		}
		text, _ := json.Marshal(all)
		return `{"tags": ` + string(text) + `}`
	}
	return []struct{ rule, refused, says, taken string }{
		{"there is a service account", `{"serviceAccountName": null}`, "spec.serviceAccountName: Required value", `{}`},
		{"it has a name", `{"serviceAccountName": ""}`, "spec.serviceAccountName", `{"serviceAccountName": "r"}`},
		{"of a service account", `{"serviceAccountName": "Reader"}`, "must be the name of a service account", `{"serviceAccountName": "reader.v1"}`},
		{"no pattern", `{"serviceAccountName": "reader-*"}`, "must be the name of a service account", `{"serviceAccountName": "reader-1"}`},
		{"not too long", `{"serviceAccountName": "` + strings.Repeat("a", 254) + `"}`, "Too long", `{"serviceAccountName": "` + strings.Repeat("a", 253) + `"}`},
		{"there is a role", `{"roleARN": null}`, "spec.roleARN: Required value", `{}`},
		{"by its ARN", `{"roleARN": "reader-of-many-objects"}`, "roleARN must be the ARN of an IAM role", `{"roleARN": "arn:aws-cn:iam::111122223333:role/reader"}`},
		{"of a role", `{"roleARN": "arn:aws:iam::111122223333:user/reader"}`, "roleARN must be the ARN of an IAM role", `{"roleARN": "arn:aws:iam::111122223333:role/a/b/reader"}`},
		{"of one role", `{"roleARN": "arn:aws:iam::111122223333:role/*"}`, "roleARN must be the ARN of an IAM role", `{"roleARN": "arn:aws:iam::111122223333:role/a+=,.@-_"}`},
		{"of an account", `{"roleARN": "arn:aws:iam::1111:role/reader"}`, "roleARN must be the ARN of an IAM role", `{"roleARN": "arn:aws-us-gov:iam::111122223333:role/reader"}`},
		{"whose name is not too long", `{"roleARN": "arn:aws:iam::111122223333:role/` + strings.Repeat("a", 65) + `"}`, "roleARN must be the ARN of an IAM role",
			`{"roleARN": "arn:aws:iam::111122223333:role/` + strings.Repeat("a", 64) + `"}`},
		{"a target role by its ARN", `{"targetRoleARN": "writer-of-many-objects"}`, "targetRoleARN must be the ARN of an IAM role",
			`{"targetRoleARN": "arn:aws:iam::444455556666:role/writer"}`},
		{"which is another", `{"targetRoleARN": "` + podRole("reader") + `"}`, "targetRoleARN must be another role than roleARN", `{"targetRoleARN": "` + podRole("writer") + `"}`},
		{"a policy without session tags", `{"policy": "{}"}`, "policy requires that disableSessionTags is true", `{"policy": "{}", "disableSessionTags": true}`},
		{"which are disabled", `{"policy": "{}", "disableSessionTags": false}`, "policy requires that disableSessionTags is true", `{"disableSessionTags": true}`},
		{"a policy that is not too long", `{"disableSessionTags": true, "policy": "` + strings.Repeat("x", 2049) + `"}`, "Too long",
			`{"disableSessionTags": true, "policy": "` + strings.Repeat("x", 2048) + `"}`},
		{"not too many tags", tags(49), "must have at most 48 items", tags(48)},
		{"tags with keys", `{"tags": {"": "x"}}`, "must have 1 to 128 characters", `{"tags": {"x": ""}}`},
		{"that are not too long", `{"tags": {"` + strings.Repeat("k", 129) + `": "x"}}`, "must have 1 to 128 characters", `{"tags": {"` + strings.Repeat("k", 128) + `": "x"}}`},
		{"tags whose values are not too long", `{"tags": {"x": "` + strings.Repeat("v", 257) + `"}}`, "Too long", `{"tags": {"x": "` + strings.Repeat("v", 256) + `"}}`},
		{"none of AWS's tags", `{"tags": {"AWS:x": "y"}}`, `tags whose keys begin with "aws:" are reserved`, `{"tags": {"awsome": "y"}}`},
		{"nor of the webhook's", `{"tags": {"lanyard.dev/uid": "y"}}`, "say whose the association is", `{"tags": {"lanyard": "y"}}`},
		{"a deletion policy", `{"deletionPolicy": "Keep"}`, "Unsupported value", `{"deletionPolicy": "Retain"}`},
		{"no other members", `{"cluster": "two"}`, "unknown field", `{}`},
	}
}

// PodIdentityAssociations are kept as associations by a webhook that has exactly the rights that it is to be given: of Kubernetes, and of IAM
// by its own web identity.
func TestPodIdentityAssociations(t *testing.T) {
	k := startKubernetes(t)
	dir := dataDir(t)
	s := startDev(t, dir)
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	k.joinForWebhook(s)
	k.define()
	own, kubeconfig := k.leadingWebhook(s), k.kubeconfigOf("lanyard", "lanyard-webhook")
	flags := []string{"--reconcile-associations", "--reconcile-period", "1s", "--association-sync-period", "1h"}
	first, reviews, admin := startWebhook(t, own, kubeconfig, flags...)
	second, _, secondAdmin := startWebhook(t, own, kubeconfig, flags...)
	k.register("Fail", reviews)
	waitReady(t, admin)
	waitReady(t, secondAdmin)
	k.waitUntilTrusted()

	client, roles := eks.NewFromConfig(s.aws()), iam.NewFromConfig(s.aws())
	makeRole := func(path, name, trust string) {
		if _, err := roles.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: &name, Path: &path, AssumeRolePolicyDocument: &trust}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"reader", "writer", "guest"} {
		makeRole("/pods/", name, podTrust)
	}
	makeRole("/", "forbidden", podTrust)
	// what an association is, or nil
	find := func(namespace, account string) *ekstypes.PodIdentityAssociation {
		t.Helper()
		list, err := client.ListPodIdentityAssociations(t.Context(), &eks.ListPodIdentityAssociationsInput{
			ClusterName: aws.String("one"), Namespace: &namespace, ServiceAccount: &account,
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Associations) == 0 {
			return nil
		}
		out, err := client.DescribePodIdentityAssociation(t.Context(), &eks.DescribePodIdentityAssociationInput{
			ClusterName: aws.String("one"), AssociationId: list.Associations[0].AssociationId,
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.Association
	}
	apply := func(name, spec string) {
		t.Helper()
		k.must(http.MethodPost, associationsPath("web", ""), resource(t, name, spec))
	}
	remove := func(name string) {
		t.Helper()
		k.must(http.MethodDelete, associationsPath("web", name), "")
	}
	gone := func(name string) {
		t.Helper()
		k.waitFor("no "+name, func() bool { return k.association(name) == nil })
	}

	t.Run("rules", func(t *testing.T) {
		for _, r := range rulesOfAssociations() {
			for spec, want := range map[string]string{r.refused: r.says, r.taken: ""} {
				code, text := k.request(kubernetesToken, http.MethodPost, associationsPath("web", "")+"?dryRun=All&fieldValidation=Strict", resource(t, "x", spec), nil)
				switch {
				case want == "" && code != http.StatusCreated:
					t.Errorf("%s: %.300s is refused: %s", r.rule, spec, text)
				case want != "" && (code == http.StatusCreated || !strings.Contains(strings.ReplaceAll(string(text), `\"`, `"`), want)):
					t.Errorf("%s: %.300s: got %d %s, want %q", r.rule, spec, code, text, want)
				}
			}
		}
	})

	t.Run("a pod in the same moment as the resource is ready", func(t *testing.T) {
		for i := range 20 {
			name := fmt.Sprintf("worker-%d", i)
			k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(`{"metadata": {"name": %q}}`, name))
			apply(name, fmt.Sprintf(`{"serviceAccountName": %q}`, name))
			k.waitForReason(name, associations.Created)
			pod, warnings, err := k.createPod(name, name)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}
			if diff := cmp.Diff(want, variables(pod.Spec.Containers[0].Env)); diff != "" || len(warnings) > 0 {
				t.Errorf("%s has the wrong variables (-want +got):\n%s\nwarnings: %q", name, diff, warnings)
			}
		}
	})

	t.Run("what it says is what there is", func(t *testing.T) {
		apply("reader", `{"targetRoleARN": "arn:aws:iam::444455556666:role/x", "disableSessionTags": true, "tags": {"team": "web"},
			"policy": "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"s3:GetObject\", \"Resource\": \"*\"}]}"}`)
		a := k.waitForReason("reader", associations.Created)
		have := find("web", "reader")
		if have == nil {
			t.Fatal("there is no association")
		}
		for what, same := range map[string]bool{
			"ID":          a.Status.AssociationID == aws.ToString(have.AssociationId) && a.Status.AssociationID != "",
			"ARN":         a.Status.AssociationARN == aws.ToString(have.AssociationArn),
			"role":        a.Status.RoleARN == podRole("reader") && aws.ToString(have.RoleArn) == podRole("reader"),
			"target":      aws.ToString(have.TargetRoleArn) == "arn:aws:iam::444455556666:role/x",
			"external ID": a.Status.ExternalID == aws.ToString(have.ExternalId) && a.Status.ExternalID != "",
			"tags off":    aws.ToBool(have.DisableSessionTags),
			"policy":      aws.ToString(have.Policy) == a.Spec.Policy,
			"finalizer":   slices.Equal(a.Finalizers, []string{associations.Finalizer}),
		} {
			if !same {
				t.Errorf("the %s is wrong: %+v, %+v", what, a, have)
			}
		}
		want := map[string]string{"team": "web", associations.UIDTag: string(a.UID), associations.NameTag: "reader"}
		if diff := cmp.Diff(want, have.Tags); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
		k.waitFor("an event", func() bool { return k.saysOf("reader", "AssociationCreated", aws.ToString(have.AssociationId)) })

		_, text := k.request(kubernetesToken, http.MethodGet, associationsPath("web", "reader"), "",
			map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
		var table metav1.Table
		read(t, text, &table)
		shown := map[string]string{}
		for i, c := range table.ColumnDefinitions {
			if c.Priority == 0 {
				shown[c.Name] = fmt.Sprint(table.Rows[0].Cells[i])
			}
		}
		delete(shown, "Age") // seconds
		if diff := cmp.Diff(map[string]string{
			"Name": "reader", "Service Account": "reader", "Role": podRole("reader"), "ARN": a.Status.AssociationARN, "Ready": "True",
		}, shown); diff != "" {
			t.Errorf("kubectl shows (-want +got):\n%s", diff)
		}

		k.patch(associationsPath("web", "reader"), `{"spec": {"roleARN": "`+podRole("writer")+`", "targetRoleARN": null, "policy": null,
			"disableSessionTags": null, "tags": {"team": null, "cost": "1"}}}`)
		k.waitForReason("reader", associations.Created)
		have = find("web", "reader")
		if aws.ToString(have.RoleArn) != podRole("writer") || have.TargetRoleArn != nil || have.Policy != nil || aws.ToBool(have.DisableSessionTags) ||
			have.Tags["team"] != "" || have.Tags["cost"] != "1" {
			t.Errorf("after a change it is %+v", have)
		}
		if aws.ToString(have.AssociationId) != a.Status.AssociationID {
			t.Error("it was made anew")
		}
		code, text := k.request(kubernetesToken, http.MethodPatch, associationsPath("web", "reader"), `{"spec": {"serviceAccountName": "other"}}`,
			map[string]string{"Content-Type": "application/merge-patch+json"})
		if code != http.StatusUnprocessableEntity || !strings.Contains(string(text), "serviceAccountName cannot be changed") {
			t.Errorf("another service account: %d %s", code, text)
		}
	})

	t.Run("what others change is put back", func(t *testing.T) {
		id := k.association("reader").Status.AssociationID
		if _, err := client.UpdatePodIdentityAssociation(t.Context(), &eks.UpdatePodIdentityAssociationInput{
			ClusterName: aws.String("one"), AssociationId: &id, RoleArn: aws.String(podRole("guest")),
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.TagResource(t.Context(), &eks.TagResourceInput{
			ResourceArn: aws.String(k.association("reader").Status.AssociationARN), Tags: map[string]string{"cost": "2", "stray": "x"},
		}); err != nil {
			t.Fatal(err)
		}
		k.waitFor("the role and the tags again", func() bool {
			have := find("web", "reader")
			return aws.ToString(have.RoleArn) == podRole("writer") && have.Tags["cost"] == "1" && have.Tags["stray"] == ""
		})
		if _, err := client.DeletePodIdentityAssociation(t.Context(), &eks.DeletePodIdentityAssociationInput{
			ClusterName: aws.String("one"), AssociationId: &id,
		}); err != nil {
			t.Fatal(err)
		}
		k.waitFor("the association again", func() bool { return find("web", "reader") != nil })
		k.waitFor("its ID", func() bool {
			return k.association("reader").Status.AssociationID == aws.ToString(find("web", "reader").AssociationId)
		})
	})

	t.Run("deleted together", func(t *testing.T) {
		remove("reader")
		gone("reader")
		if have := find("web", "reader"); have != nil {
			t.Errorf("there is still %+v", have)
		}
	})

	t.Run("retained", func(t *testing.T) {
		apply("retained", `{"serviceAccountName": "retained", "deletionPolicy": "Retain"}`)
		k.waitForReason("retained", associations.Created)
		remove("retained")
		gone("retained")
		if find("web", "retained") == nil {
			t.Error("it was deleted")
		}
	})

	t.Run("somebody else's is left alone", func(t *testing.T) {
		out, err := client.CreatePodIdentityAssociation(t.Context(), &eks.CreatePodIdentityAssociationInput{
			ClusterName: aws.String("one"), Namespace: aws.String("web"), ServiceAccount: aws.String("taken"), RoleArn: aws.String(podRole("guest")),
		})
		if err != nil {
			t.Fatal(err)
		}
		theirs := out.Association
		apply("taken", `{"serviceAccountName": "taken"}`)
		apply("taken-too", `{"serviceAccountName": "taken"}`)
		a := k.waitForReason("taken", associations.Conflict)
		k.waitForReason("taken-too", associations.Conflict)
		if ready := a.Status.Conditions[0]; ready.Status != metav1.ConditionFalse || !strings.Contains(ready.Message, aws.ToString(theirs.AssociationId)) {
			t.Errorf("it says %+v", ready)
		}
		k.waitFor("a warning", func() bool { return k.saysOf("taken", "Conflict", aws.ToString(theirs.AssociationId)) })
		remove("taken-too")
		gone("taken-too")
		if have := find("web", "taken"); have == nil || aws.ToString(have.RoleArn) != podRole("guest") || len(have.Tags) > 0 {
			t.Errorf("it was touched: %+v", have)
		}
		// Its owner hands it over.
		if _, err := client.TagResource(t.Context(), &eks.TagResourceInput{
			ResourceArn: theirs.AssociationArn, Tags: map[string]string{associations.UIDTag: string(a.UID)},
		}); err != nil {
			t.Fatal(err)
		}
		k.waitForReason("taken", associations.Created)
		if have := find("web", "taken"); aws.ToString(have.AssociationId) != aws.ToString(theirs.AssociationId) || aws.ToString(have.RoleArn) != podRole("reader") {
			t.Errorf("it is %+v", have)
		}
		remove("taken")
		gone("taken")
	})

	t.Run("what the EKS API refuses", func(t *testing.T) {
		for name, c := range map[string]struct {
			role   string
			reason associations.Reason
			says   string
		}{
			"later":     {podRole("later"), associations.RoleNotFound, "Role provided in the request does not exist."},
			"wary":      {podRole("wary"), associations.InvalidTrustPolicy, "Trust policy of the role provided is invalid."},
			"forbidden": {"arn:aws:iam::" + account + ":role/forbidden", associations.AccessDenied, "is not authorized to perform: iam:PassRole"},
		} {
			if name == "wary" {
				makeRole("/pods/", "wary", strings.ReplaceAll(podTrust, "pods.eks", "ec2"))
			}
			apply(name, fmt.Sprintf(`{"serviceAccountName": %q, "roleARN": %q}`, name, c.role))
			a := k.waitForReason(name, c.reason)
			if ready := a.Status.Conditions[0]; ready.Status != metav1.ConditionFalse || !strings.Contains(ready.Message, c.says) {
				t.Errorf("%s: it says %+v", name, ready)
			}
			if find("web", name) != nil {
				t.Errorf("%s: there is an association", name)
			}
		}
		makeRole("/pods/", "later", podTrust)
		k.waitForReason("later", associations.Created)
		for _, name := range []string{"later", "wary", "forbidden"} {
			remove(name)
			gone(name)
		}
	})

	t.Run("a team has its own namespace only", func(t *testing.T) {
		for _, namespace := range []string{"team-a", "team-b"} {
			k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "`+namespace+`"}}`)
		}
		k.must(http.MethodPost, "/api/v1/namespaces/team-a/serviceaccounts", `{"metadata": {"name": "ci"}}`)
		k.grant("team-a", "ci", "associations", nil, []rbacv1.PolicyRule{
			{APIGroups: []string{"lanyard.dev"}, Resources: []string{"podidentityassociations"}, Verbs: []string{"create", "get", "list", "delete"}},
		})
		team := k.token("team-a", "ci", "")
		if code, text := k.request(team, http.MethodPost, associationsPath("team-b", ""), resource(t, "reader", `{}`), nil); code != http.StatusForbidden {
			t.Errorf("in another's namespace: %d %s", code, text)
		}
		status := strings.Replace(resource(t, "reader", `{}`), `"spec"`, `"status": {"associationID": "a-1"}, "spec"`, 1)
		if code, text := k.request(team, http.MethodPost, associationsPath("team-a", ""), status, nil); code != http.StatusCreated {
			t.Fatalf("in its own: %d %s", code, text)
		}
		k.waitFor("an association", func() bool { return find("team-a", "reader") != nil })
		if find("team-b", "reader") != nil {
			t.Error("the other namespace has one, too")
		}
		if code, text := k.request(team, http.MethodPut, associationsPath("team-a", "reader")+"/status", status, nil); code != http.StatusForbidden {
			t.Errorf("it writes the status: %d %s", code, text)
		}
		// A namespace that is being deleted takes no objects, and its controller deletes those that are there.
		k.must(http.MethodDelete, "/api/v1/namespaces/team-a", "")
		k.must(http.MethodDelete, associationsPath("team-a", ""), "")
		k.waitFor("no association", func() bool { return find("team-a", "reader") == nil })
		k.waitFor("no resource", func() bool {
			code, _ := k.request(kubernetesToken, http.MethodGet, associationsPath("team-a", "reader"), "", nil)
			return code == http.StatusNotFound
		})
	})

	t.Run("the control plane is gone, and comes back", func(t *testing.T) {
		apply("before", `{"serviceAccountName": "before"}`)
		k.waitForReason("before", associations.Created)
		s.kill()
		apply("meanwhile", `{"serviceAccountName": "meanwhile"}`)
		for _, name := range []string{"before", "meanwhile"} {
			if ready := k.waitForReason(name, associations.ControlPlaneUnreachable).Status.Conditions[0]; ready.Status != metav1.ConditionUnknown {
				t.Errorf("%s is %+v", name, ready)
			}
		}
		remove("before")
		s = startDev(k.t, dir, "--listen", strings.TrimPrefix(s.env["AWS_ENDPOINT_URL"], "http://"))
		gone("before")
		k.waitForReason("meanwhile", associations.Created)
		if find("web", "before") != nil || find("web", "meanwhile") == nil {
			t.Error("the associations are not as the resources say")
		}
	})

	t.Run("a replica takes over from one that is killed", func(t *testing.T) {
		leads := func(admin string) bool { return counts(t, admin)["lanyard_webhook_leading"] == 1 }
		if leads(admin) == leads(secondAdmin) {
			t.Fatal("it is not one that leads")
		}
		leading := second
		if leads(admin) {
			leading = first
		}
		if err := leading.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		apply("after", `{"serviceAccountName": "after"}`)
		k.waitForReason("after", associations.Created)
	})

	t.Run("cleaned up", func(t *testing.T) {
		k.must(http.MethodPost, "/api/v1/namespaces/web/configmaps",
			`{"metadata": {"name": "lanyard-ca", "labels": {"app.kubernetes.io/managed-by": "lanyard-webhook"}}}`)
		k.must(http.MethodPost, "/api/v1/namespaces/default/configmaps", `{"metadata": {"name": "lanyard-ca"}}`)
		k.must(http.MethodPost, "/api/v1/namespaces/lanyard/serviceaccounts", `{"metadata": {"name": "cleanup"}}`)
		everywhere, own := cleanupRules()
		k.grant("lanyard", "cleanup", "cleanup", everywhere, own)
		cleanup := func() string {
			t.Helper()
			out, err := exec.Command(binary("lanyard-webhook"), "cleanup", "--kubeconfig", k.kubeconfigOf("lanyard", "cleanup"),
				"--namespace", "lanyard", "--timeout", "1m").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return string(out)
		}
		if out := cleanup(); !strings.Contains(out, `"name":"worker-0"`) || !strings.Contains(out, "ConfigMap deleted") {
			t.Errorf("it says\n%s", out)
		}
		list, err := client.ListPodIdentityAssociations(t.Context(), &eks.ListPodIdentityAssociationsInput{
			ClusterName: aws.String("one"), Namespace: aws.String("web"),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list.Associations {
			if aws.ToString(a.ServiceAccount) != "retained" {
				t.Errorf("there is still an association of %s", aws.ToString(a.ServiceAccount))
			}
		}
		for path, there := range map[string]bool{
			"/api/v1/namespaces/web/configmaps/lanyard-ca": false, "/api/v1/namespaces/default/configmaps/lanyard-ca": true,
		} {
			if code, text := k.request(kubernetesToken, http.MethodGet, path, "", nil); (code == http.StatusOK) != there {
				t.Errorf("%s: %d %s", path, code, text)
			}
		}
		k.must(http.MethodDelete, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/podidentityassociations.lanyard.dev", "")
		k.waitFor("no definition", func() bool {
			_, err := k.do(http.MethodGet, associationsPath("web", ""), "")
			return err != nil
		})
		cleanup()
	})
}

// saysOf reports whether there is an event of a PodIdentityAssociation of the namespace web with a reason and a text.
func (k *apiServer) saysOf(name, reason, text string) bool {
	k.t.Helper()
	var events corev1.EventList
	read(k.t, k.must(http.MethodGet, "/api/v1/namespaces/web/events", ""), &events)
	return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
		return e.InvolvedObject.Kind == "PodIdentityAssociation" && e.InvolvedObject.Name == name && e.Reason == reason && strings.Contains(e.Message, text)
	})
}
