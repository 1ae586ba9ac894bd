//go:build e2e

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	rbacv1 "k8s.io/api/rbac/v1"
)

// movers is a cluster with service accounts that have roles by web identity, and what moves them.
type movers struct {
	*testing.T
	k     *apiServer
	s     *server
	roles []string // names
	users int      // that were made
}

// migrate runs the command and returns the steps, each as "step subject: state", the whole plan as text, and the exit status.
func (m *movers) migrate(args ...string) (steps []string, printed string, status int) {
	m.Helper()
	args = append([]string{"migrate", "--cluster", "one", "--kubeconfig", m.k.kubeconfig, "-o", "json"}, args...)
	out, errs, err := m.s.lanyard(args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		m.Fatal(err)
	}
	var plan struct {
		Steps []struct{ Do, State, ServiceAccount, RoleARN string }
	}
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		m.Fatalf("lanyard %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	for _, step := range plan.Steps {
		who := step.ServiceAccount
		if who == "" {
			who = step.RoleARN[strings.LastIndexByte(step.RoleARN, '/')+1:]
		}
		steps = append(steps, step.Do+" "+who+": "+step.State)
	}
	return steps, out + errs, status
}

// want runs the command and compares its steps and its status.
func (m *movers) want(status int, steps []string, args ...string) (printed string) {
	m.Helper()
	got, printed, ended := m.migrate(args...)
	if !slices.Equal(got, steps) || ended != status {
		m.Fatalf("lanyard migrate %s: status %d, want %d:\n%s\nwant\n%s\nit printed\n%s", strings.Join(args, " "), ended, status,
			strings.Join(got, "\n"), strings.Join(steps, "\n"), printed)
	}
	return printed
}

// state is all that the command may change.
func (m *movers) state() map[string]string {
	m.Helper()
	var accounts struct{ Items json.RawMessage } // without the version of the list, which any write to the API server's store changes
	read(m.T, m.k.must(http.MethodGet, "/api/v1/namespaces/web/serviceaccounts", ""), &accounts)
	all := map[string]string{"service accounts": string(accounts.Items)}
	for _, name := range m.roles {
		all["role "+name] = m.trust(name)
	}
	client := eks.NewFromConfig(m.s.aws())
	list, err := client.ListPodIdentityAssociations(m.Context(), &eks.ListPodIdentityAssociationsInput{ClusterName: aws.String("one")})
	if err != nil {
		m.Fatal(err)
	}
	for _, a := range list.Associations {
		out, err := client.DescribePodIdentityAssociation(m.Context(), &eks.DescribePodIdentityAssociationInput{ClusterName: aws.String("one"), AssociationId: a.AssociationId})
		if err != nil {
			m.Fatal(err)
		}
		all["association "+aws.ToString(a.ServiceAccount)] = fmt.Sprint(aws.ToString(out.Association.RoleArn), out.Association.Tags, out.Association.ModifiedAt)
	}
	return all
}

func (m *movers) trust(role string) string {
	m.Helper()
	out, err := iam.NewFromConfig(m.s.aws()).GetRole(m.Context(), &iam.GetRoleInput{RoleName: &role})
	if err != nil {
		m.Fatal(err)
	}
	text, err := url.PathUnescape(aws.ToString(out.Role.AssumeRolePolicyDocument))
	if err != nil {
		m.Fatal(err)
	}
	return text
}

// ways says which ways give the pod of a service account its role, with the token that the API server gives for each.
func (m *movers) ways(serviceAccount, role string) (ways []string) {
	m.Helper()
	arn := "arn:aws:iam::" + account + ":role/" + role
	for way, args := range map[string][]string{"irsa": {"--role-arn", arn}, "pod-identity": {"--pod", serviceAccount + "-0"}} {
		args = append([]string{"run", "--kubeconfig", m.k.kubeconfig, "--cluster", "one", "-n", "web", "-s", serviceAccount, "--via", way}, args...)
		out, errs, _ := m.s.lanyard(append(args, "--", binary("lanyard"), "demo", "pod")...)
		if strings.Contains(out, "arn:aws:sts::"+account+":assumed-role/"+role+"/") {
			ways = append(ways, way)
		} else if !strings.Contains(out+errs, "Not authorized to perform sts:AssumeRoleWithWebIdentity") && !strings.Contains(out+errs, "ResourceNotFoundException") {
			m.Errorf("%s is refused for another reason: %s%s", way, out, errs)
		}
	}
	slices.Sort(ways)
	return ways
}

func (m *movers) wantWays(serviceAccount, role string, want ...string) {
	m.Helper()
	if got := m.ways(serviceAccount, role); !slices.Equal(got, want) {
		m.Errorf("%s has its role by %q, want %q", serviceAccount, got, want)
	}
}

// as runs a function as an IAM user who may do all but one action.
func (m *movers) as(denied string, run func()) {
	m.Helper()
	client := iam.NewFromConfig(m.s.aws())
	document := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}, {"Effect": "Deny", "Action": "` + denied + `", "Resource": "*"}]}`
	name := strings.NewReplacer(":", "-", "*", "").Replace(denied) + "-" + fmt.Sprint(m.users)
	m.users++
	if _, err := client.CreateUser(m.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
		m.Fatal(err)
	}
	if _, err := client.PutUserPolicy(m.Context(), &iam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("own"), PolicyDocument: &document}); err != nil {
		m.Fatal(err)
	}
	key, err := client.CreateAccessKey(m.Context(), &iam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		m.Fatal(err)
	}
	root := m.s.env
	m.s.env = maps.Clone(root)
	m.s.env["AWS_ACCESS_KEY_ID"], m.s.env["AWS_SECRET_ACCESS_KEY"] = aws.ToString(key.AccessKey.AccessKeyId), aws.ToString(key.AccessKey.SecretAccessKey)
	defer func() { m.s.env = root }()
	run()
}

// pod makes a pod as a Deployment's, by web identity or without credentials.
func (m *movers) pod(serviceAccount, role string) {
	m.Helper()
	env := ""
	if role != "" {
		env = fmt.Sprintf(`, "env": [{"name": "AWS_ROLE_ARN", "value": %q}, {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/token"}]`, role)
	}
	m.k.must(http.MethodPost, "/api/v1/namespaces/web/pods", fmt.Sprintf(`{"metadata": {"name": "%[1]s-0", "ownerReferences": [
{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "%[1]s-5d5", "uid": "1", "controller": true}]},
"spec": {"serviceAccountName": %[1]q, "containers": [{"name": "app", "image": "app"%[2]s}]}}`, serviceAccount, env))
}

func TestMigration(t *testing.T) {
	m := &movers{T: t, k: startKubernetes(t), s: startDev(t, dataDir(t)), roles: []string{"one-web-reader", "shared", "one-web-taken"}}
	k, s := m.k, m.s
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	roleOf := func(name string) string { return "arn:aws:iam::" + account + ":role/" + name }
	for _, name := range []string{"reader", "taken"} {
		s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", name)
	}
	provider := "oidc.kubernetes.test/clusters/one"
	shared := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::%s:oidc-provider/%s"},`+
		`"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringLike":{"%[2]s:sub":"system:serviceaccount:web:shared-*"}}}]}`, account, provider)
	if _, err := iam.NewFromConfig(s.aws()).CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("shared"), AssumeRolePolicyDocument: &shared}); err != nil {
		t.Fatal(err)
	}
	for name, role := range map[string]string{
		"reader": roleOf("one-web-reader"), "taken": roleOf("one-web-taken"), "shared-a": roleOf("shared"), "shared-b": roleOf("shared"),
		"abroad": "arn:aws:iam::444455556666:role/abroad", "ghost": roleOf("ghost"),
	} {
		k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", fmt.Sprintf(
			`{"metadata": {"name": %q, "labels": {"part": %[1]q}, "annotations": {"eks.amazonaws.com/role-arn": %q, "kept": "as it is"}}}`, name, role))
		k.must(http.MethodPost, "/apis/apps/v1/namespaces/web/replicasets", fmt.Sprintf(`{"metadata": {"name": "%[1]s-5d5", "ownerReferences": [
{"apiVersion": "apps/v1", "kind": "Deployment", "name": %[1]q, "uid": "1", "controller": true}]}, "spec": {"selector": {"matchLabels": {"app": %[1]q}},
"template": {"metadata": {"labels": {"app": %[1]q}}, "spec": {"containers": [{"name": "app", "image": "app"}]}}}}`, name))
		m.pod(name, role)
	}
	s.must("association", "create", "--cluster", "one", "-n", "web", "-s", "taken", "--role-arn", roleOf("dev-s3-sa"))
	k.must(http.MethodPost, "/apis/apps/v1/namespaces/web/deployments", `{"metadata": {"name": "stubborn"}, "spec": {"selector": {"matchLabels": {"app": "stubborn"}},
"template": {"metadata": {"labels": {"app": "stubborn"}}, "spec": {"serviceAccountName": "shared-a", "containers": [
{"name": "app", "image": "app", "env": [{"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/token"}]}]}}}}`)
	own := `{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "s3:*", "Resource": "*", "Condition": {"StringLike": {"` + provider + `:sub": "x"}}}]}`
	in := &iam.PutRolePolicyInput{RoleName: aws.String("shared"), PolicyName: aws.String("own"), PolicyDocument: &own}
	if _, err := iam.NewFromConfig(s.aws()).PutRolePolicy(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	m.wantWays("reader", "one-web-reader", "irsa")
	m.wantWays("shared-a", "shared", "irsa")

	// The plan alone changes nothing.
	before := m.state()
	printed := m.want(3, []string{
		"associate abroad: skipped", "associate ghost: skipped", "trust Pod Identity one-web-reader: to do", "associate reader: to do",
		"trust Pod Identity shared: to do", "associate shared-a: to do", "associate shared-b: to do", "associate taken: skipped",
	})
	for _, text := range []string{
		"the role is in account 444455556666", "--target-role-arn arn:aws:iam::444455556666:role/abroad", "the role does not exist", "gives it " + roleOf("dev-s3-sa"),
		"has :sub system:serviceaccount:web:shared-*: of those that it is for, web/shared-a, web/shared-b will have it", "no agent is seen in the cluster",
		"deployment web/stubborn sets AWS_WEB_IDENTITY_TOKEN_FILE in its template", "its policy own uses " + provider + ":sub, which sessions by Pod Identity do not have",
		`"kubectl rollout restart -n web deployment/reader"`, `+         \"Service\": \"pods.eks.amazonaws.com\"`,
	} {
		if !strings.Contains(printed, text) {
			t.Errorf("the plan does not say %q:\n%s", text, printed)
		}
	}
	m.want(3, []string{"remove annotation reader: skipped", "distrust web identity one-web-reader: skipped"}, "--finish", "-l", "part=reader")
	m.want(0, nil, "-n", "default")
	if after := m.state(); !maps.Equal(before, after) {
		t.Errorf("a plan changed something:\n%v\n%v", before, after)
	}

	// Steps that fail are reported, what depends on them is left, and the next run takes it up.
	m.as("iam:UpdateAssumeRolePolicy", func() {
		m.want(1, []string{"trust Pod Identity one-web-reader: failed", "associate reader: skipped"}, "-l", "part=reader", "--approve")
	})
	m.as("eks:CreatePodIdentityAssociation", func() {
		m.want(1, []string{"trust Pod Identity one-web-reader: done", "associate reader: failed"}, "-l", "part=reader", "--approve")
	})
	m.wantWays("reader", "one-web-reader", "irsa")
	associated := []string{
		"associate abroad: skipped", "associate ghost: skipped", "trust Pod Identity one-web-reader: done", "associate reader: done",
		"trust Pod Identity shared: done", "associate shared-a: done", "associate shared-b: done", "associate taken: skipped",
	}
	m.want(3, associated, "-n", "web", "--approve")
	m.wantWays("reader", "one-web-reader", "irsa", "pod-identity")
	m.wantWays("shared-a", "shared", "irsa", "pod-identity")
	if n := strings.Count(m.trust("shared"), `{"Effect":"Allow","Principal":{"Service":["pods.eks.amazonaws.com"]},"Action":["sts:AssumeRole","sts:TagSession"]}`); n != 1 {
		t.Errorf("the shared role trusts Pod Identity %d times: %s", n, m.trust("shared"))
	}
	once := m.state()
	if m.want(3, associated, "--approve"); !maps.Equal(once, m.state()) {
		t.Error("a second run changed something")
	}

	// The second phase waits for the pods, and then for each step.
	only := []string{"-l", "part=reader", "--finish", "--approve"}
	m.want(3, []string{"remove annotation reader: skipped", "distrust web identity one-web-reader: skipped"}, only...)
	if !maps.Equal(once, m.state()) {
		t.Error("the second phase changed something while pods still go the other way")
	}
	k.must(http.MethodDelete, "/api/v1/namespaces/web/pods/reader-0?gracePeriodSeconds=0", "")
	m.pod("reader", "")
	k.must(http.MethodPost, "/api/v1/namespaces/default/serviceaccounts", `{"metadata": {"name": "onlooker"}}`)
	look := []string{"get", "list"}
	k.grant("default", "onlooker", "onlooker", []rbacv1.PolicyRule{
		{APIGroups: []string{"", "apps", "batch"}, Resources: []string{"serviceaccounts", "pods", "deployments", "statefulsets", "daemonsets", "replicasets", "cronjobs"}, Verbs: look},
		{NonResourceURLs: []string{"/.well-known/openid-configuration", "/openid/v1/jwks"}, Verbs: []string{"get"}},
	}, nil)
	admin := k.kubeconfig
	k.kubeconfig = k.kubeconfigOf("default", "onlooker")
	m.want(1, []string{"remove annotation reader: failed", "distrust web identity one-web-reader: skipped"}, only...)
	k.kubeconfig = admin
	m.wantWays("reader", "one-web-reader", "irsa", "pod-identity")
	m.as("iam:UpdateAssumeRolePolicy", func() {
		m.want(1, []string{"remove annotation reader: done", "distrust web identity one-web-reader: failed"}, only...)
	})
	m.want(0, []string{"remove annotation reader: done", "distrust web identity one-web-reader: done"}, only...)
	m.wantWays("reader", "one-web-reader", "pod-identity")
	var reader struct {
		Metadata struct{ Annotations map[string]string }
	}
	read(t, k.must(http.MethodGet, "/api/v1/namespaces/web/serviceaccounts/reader", ""), &reader)
	if want := map[string]string{"kept": "as it is", "lanyard.dev/migrated-role-arn": roleOf("one-web-reader")}; !maps.Equal(reader.Metadata.Annotations, want) {
		t.Errorf("the service account has %v, want %v", reader.Metadata.Annotations, want)
	}

	// A shared role keeps its trust until the last of its service accounts goes.
	m.want(3, []string{"remove annotation shared-a: done", "distrust web identity shared: skipped"}, "-l", "part=shared-a", "--finish", "--force", "--approve")
	m.wantWays("shared-b", "shared", "irsa", "pod-identity")
	m.want(0, []string{"remove annotation shared-b: done", "distrust web identity shared: done"}, "-l", "part=shared-b", "--finish", "--force", "--approve")
	m.wantWays("shared-a", "shared", "pod-identity")
	m.wantWays("shared-b", "shared", "pod-identity")

	// The way back: after the second phase it waits for the trust, and then a pod has its role by web identity alone.
	k.must(http.MethodDelete, "/api/v1/namespaces/web/pods/reader-0?gracePeriodSeconds=0", "")
	k.must(http.MethodPost, "/api/v1/namespaces/web/pods", `{"metadata": {"name": "reader-0", "ownerReferences": [
{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reader-5d5", "uid": "1", "controller": true}]}, "spec": {"serviceAccountName": "reader", "containers": [
{"name": "app", "image": "app", "env": [{"name": "AWS_CONTAINER_CREDENTIALS_FULL_URI", "value": "http://169.254.170.23/v1/credentials"}]}]}}`)
	back := []string{"-l", "part=reader", "--undo", "--approve"}
	finished := m.state()
	printed = m.want(3, []string{"restore annotation reader: skipped", "delete association reader: skipped"}, back...)
	if !strings.Contains(printed, "add a statement such as") || !maps.Equal(finished, m.state()) {
		t.Errorf("without the trust it changed something, or does not say what is missing:\n%s", printed)
	}
	statement := fmt.Sprintf(`{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::%s:oidc-provider/%s"},"Action":"sts:AssumeRoleWithWebIdentity",`+
		`"Condition":{"StringEquals":{"%[2]s:aud":"sts.amazonaws.com","%[2]s:sub":"system:serviceaccount:web:reader"}}}`, account, provider)
	restored := strings.TrimSuffix(m.trust("one-web-reader"), "]}") + "," + statement + "]}"
	put := &iam.UpdateAssumeRolePolicyInput{RoleName: aws.String("one-web-reader"), PolicyDocument: &restored}
	if _, err := iam.NewFromConfig(s.aws()).UpdateAssumeRolePolicy(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if planned := m.want(3, []string{"restore annotation reader: to do", "delete association reader: to do"}, back[:3]...); !strings.Contains(planned,
		`"kubectl rollout restart -n web deployment/reader"`) {
		t.Errorf("the plan does not restart the pods:\n%s", planned)
	}
	k.kubeconfig = k.kubeconfigOf("default", "onlooker")
	m.want(1, []string{"restore annotation reader: failed", "delete association reader: skipped"}, back...)
	k.kubeconfig = admin
	m.as("eks:DeletePodIdentityAssociation", func() {
		m.want(1, []string{"restore annotation reader: done", "delete association reader: failed"}, back...)
	})
	m.wantWays("reader", "one-web-reader", "irsa", "pod-identity")
	m.want(0, []string{"delete association reader: done"}, back...)
	m.wantWays("reader", "one-web-reader", "irsa")
	m.want(3, []string{"trust Pod Identity one-web-reader: done", "associate reader: to do"}, "-l", "part=reader")
	m.want(3, []string{"delete association taken: skipped"}, "-l", "part=taken", "--undo", "--approve")

	// People get tables; a kubeconfig of another cluster is refused.
	out, _, err := s.lanyard("migrate", "--cluster", "one", "--kubeconfig", k.kubeconfig, "-l", "part=taken")
	wantStatus(t, err, 3)
	t.Log("\n" + out)
	if !strings.Contains(out, "STATE") || !strings.Contains(out, "associate") || !strings.Contains(out, "Warnings:") {
		t.Errorf("the table is\n%s", out)
	}
	_, errs, err := s.lanyard("migrate", "--cluster", "dev", "--kubeconfig", k.kubeconfig)
	wantStatus(t, err, 1)
	if !strings.Contains(errs, "the kubeconfig leads to the cluster with the issuer "+kubernetesIssuer) {
		t.Errorf("it says %s", errs)
	}
}
