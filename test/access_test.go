//go:build e2e

package test

import (
	"fmt"
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
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/lanyard-id/lanyard/deploy"
)

// person is somebody in IAM, with the kubeconfig that the AWS CLI has written.
type person struct {
	k          *apiServer
	env        []string
	kubeconfig string
}

// newPerson has the AWS CLI write the kubeconfig of the cluster one for somebody.
func newPerson(k *apiServer, s *server, key aws.Credentials) *person {
	k.t.Helper()
	env := maps.Clone(s.env)
	env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = key.AccessKeyID, key.SecretAccessKey
	p := &person{k: k, kubeconfig: filepath.Join(k.t.TempDir(), "kubeconfig")}
	if key.SessionToken != "" {
		env["AWS_SESSION_TOKEN"] = key.SessionToken
	}
	for _, v := range cleanEnvironment() {
		if name, value, _ := strings.Cut(v, "="); name == "PATH" {
			v = "PATH=" + filepath.Dir(awsProgram(k.t)) + ":" + value
		} else if name == "HOME" || name == "KUBECONFIG" { // kubectl keeps a cache there
			continue
		}
		p.env = append(p.env, v)
	}
	p.env = append(p.env, "HOME="+k.t.TempDir(), "KUBECONFIG="+p.kubeconfig)
	for name, value := range env {
		p.env = append(p.env, name+"="+value)
	}
	if out, err := p.run(awsProgram(k.t), "eks", "update-kubeconfig", "--name", "one"); err != nil {
		k.t.Fatalf("update-kubeconfig: %v\n%s", err, out)
	}
	return p
}

func awsProgram(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LANYARD_CLIENTS")
	if dir == "" {
		dir = "../.cache/clients"
	}
	cli, err := filepath.Abs(filepath.Join(dir, "python", "bin", "aws"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cli); err != nil {
		leftOut(t, "the AWS CLI is not installed")
	}
	return cli
}

// nodeProgram is one of those that `make e2e` builds for nodes.
func nodeProgram(t testing.TB, name string) string {
	t.Helper()
	program, err := filepath.Abs("../.cache/kubenode/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		leftOut(t, name+" is not built: run make e2e")
	}
	return program
}

func (p *person) run(program string, args ...string) (string, error) {
	cmd := exec.CommandContext(p.k.t.Context(), program, args...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *person) kubectl(args ...string) (string, error) {
	p.k.t.Helper()
	return p.run(nodeProgram(p.k.t, "kubectl"), args...)
}

// may expects that kubectl does something.
func (p *person) may(args ...string) string {
	p.k.t.Helper()
	out, err := p.kubectl(args...)
	if err != nil {
		p.k.t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// mayNot expects that the API server refuses something, for a reason.
func (p *person) mayNot(reason string, args ...string) {
	p.k.t.Helper()
	if out, err := p.kubectl(args...); err == nil || !strings.Contains(out, reason) {
		p.k.t.Errorf("kubectl %s: %v, want %s\n%s", strings.Join(args, " "), err, reason, out)
	}
}

// The reasons of refusals: not allowed to, and nobody at all.
const (
	forbidden    = " is forbidden: "
	unauthorized = "You must be logged in to the server"
)

// who asks the API server who somebody is.
func (p *person) who() authenticationv1.UserInfo {
	p.k.t.Helper()
	var review authenticationv1.SelfSubjectReview
	read(p.k.t, []byte(p.may("auth", "whoami", "-o", "json")), &review)
	return review.Status.UserInfo
}

// aggregate runs the controller that fills Kubernetes' own roles admin, edit and view, until the test ends.
func (k *apiServer) aggregate() {
	k.t.Helper()
	cmd := exec.Command(nodeProgram(k.t, "kube-controller-manager"), "--kubeconfig="+k.kubeconfig, "--controllers=clusterrole-aggregation-controller",
		"--leader-elect=false", "--secure-port=0", "-v=0")
	if err := cmd.Start(); err != nil { // its log is long, and says nothing that the rules do not
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	k.waitFor("the rules of the role view", func() bool {
		var role rbacv1.ClusterRole
		read(k.t, k.must(http.MethodGet, "/apis/rbac.authorization.k8s.io/v1/clusterroles/view", ""), &role)
		return len(role.Rules) > 0
	})
}

// giveChartsRights makes the service accounts, roles and bindings of the chart, and nothing else of it.
func (k *apiServer) giveChartsRights(values map[string]any) {
	k.t.Helper()
	all, _, err := deploy.Render(deploy.Release{Values: values})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, d := range all {
		switch d.Object.(type) {
		case *corev1.ServiceAccount, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *rbacv1.Role, *rbacv1.RoleBinding:
			if !strings.HasSuffix(d.Template, "cleanup.yaml") {
				k.create(d.Object)
			}
		}
	}
}

// People come to a cluster as they are in IAM, with kubectl and the AWS CLI alone, and may do what their access entries say.
func TestPeopleComeAsTheyAreInIAM(t *testing.T) {
	t.Parallel()
	awsProgram(t)
	k := startKubernetes(t)
	s := startDev(t, dataDir(t))
	s.must("cluster", "register", "one", "--kubeconfig", k.kubeconfig)
	s.must("cluster", "register", "two")

	// The API server asks Lanyard, by the file that the CLI prints.
	file := filepath.Join(t.TempDir(), "token-webhook")
	text := s.must("cluster", "token-webhook", "one", "--server", *s.secure().BaseEndpoint, "--certificate-authority", filepath.Join(s.dir, "ca.pem"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k.stop()
	k.args = append(k.args, "--authentication-token-webhook-config-file="+file, "--authentication-token-webhook-version=v1", "--authentication-token-webhook-cache-ttl=1s")
	k.start(filepath.Join(k.dir, "sa.key"))
	k.aggregate()

	// The webhook has the chart's rights in Kubernetes, and those in IAM that `cluster register` has given it.
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "lanyard"}}`)
	k.giveChartsRights(map[string]any{
		"clusterName": "one", "endpoint": "https://lanyard.example.com", "server": map[string]any{"enabled": false}, "access": map[string]any{"enabled": true},
	})
	as := k.leadingWebhook(s)
	as.env["AWS_ROLE_ARN"] = "arn:aws:iam::" + account + ":role/one-lanyard-lanyard-webhook"
	startWebhook(t, as, k.kubeconfigOf("lanyard", "lanyard-webhook"), "--keep-access", "--access-period", "1s")

	users, entries := iam.NewFromConfig(s.aws()), eks.NewFromConfig(s.aws())
	user := func(name string) aws.Credentials {
		t.Helper()
		if _, err := users.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
			t.Fatal(err)
		}
		made, err := users.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: &name})
		if err != nil {
			t.Fatal(err)
		}
		// All of them may ask where the cluster is, which says nothing of what they may do there.
		if _, err := users.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("kubeconfig"), PolicyDocument: aws.String(
			`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["eks:DescribeCluster", "sts:AssumeRole"], "Resource": "*"}]}`,
		)}); err != nil {
			t.Fatal(err)
		}
		return aws.Credentials{AccessKeyID: *made.AccessKey.AccessKeyId, SecretAccessKey: *made.AccessKey.SecretAccessKey}
	}
	entry := func(principal string) {
		t.Helper()
		if _, err := entries.CreateAccessEntry(t.Context(), &eks.CreateAccessEntryInput{ClusterName: aws.String("one"), PrincipalArn: &principal}); err != nil {
			t.Fatal(err)
		}
	}
	policyARN := func(name string) *string { return aws.String("arn:aws:eks::aws:cluster-access-policy/" + name) }
	give := func(principal, policy string, namespaces ...string) {
		t.Helper()
		scope := &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeCluster}
		if len(namespaces) > 0 {
			scope = &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeNamespace, Namespaces: namespaces}
		}
		if _, err := entries.AssociateAccessPolicy(t.Context(), &eks.AssociateAccessPolicyInput{
			ClusterName: aws.String("one"), PrincipalArn: &principal, PolicyArn: policyARN(policy), AccessScope: scope,
		}); err != nil {
			t.Fatal(err)
		}
	}
	arnOf := func(name string) string { return "arn:aws:iam::" + account + ":" + name }
	adminKey, editorKey, strangerKey := user("admin"), user("editor"), user("stranger")
	entry(arnOf("user/admin"))
	give(arnOf("user/admin"), "AmazonEKSClusterAdminPolicy")
	entry(arnOf("user/editor"))
	give(arnOf("user/editor"), "AmazonEKSEditPolicy", "team-*")
	if _, err := users.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("audit"), AssumeRolePolicyDocument: aws.String(
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "sts:AssumeRole"}]}`,
	)}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{RoleName: aws.String("audit"), PolicyName: aws.String("kubeconfig"), PolicyDocument: aws.String(
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "eks:DescribeCluster", "Resource": "*"}]}`,
	)}); err != nil {
		t.Fatal(err)
	}
	entry(arnOf("role/audit"))
	give(arnOf("role/audit"), "AmazonEKSViewPolicy")
	session, err := sts.NewFromConfig(s.as(editorKey)).AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String(arnOf("role/audit")), RoleSessionName: aws.String("editor@example.com"),
	})
	if err != nil {
		t.Fatal(err)
	}
	admin, editor, stranger := newPerson(k, s, adminKey), newPerson(k, s, editorKey), newPerson(k, s, strangerKey)
	auditor := newPerson(k, s, aws.Credentials{
		AccessKeyID: *session.Credentials.AccessKeyId, SecretAccessKey: *session.Credentials.SecretAccessKey, SessionToken: *session.Credentials.SessionToken,
	})

	t.Run("an administrator", func(t *testing.T) {
		who := admin.who()
		if who.Username != arnOf("user/admin") || !slices.Contains(who.Groups, "lanyard:AmazonEKSClusterAdminPolicy") ||
			!strings.HasPrefix(who.UID, "aws-iam-authenticator:"+account+":AIDA") || !cmp.Equal(who.Extra["accessKeyId"], authenticationv1.ExtraValue{adminKey.AccessKeyID}) {
			t.Errorf("the administrator is %+v", who)
		}
		for _, namespace := range []string{"team-a", "web"} {
			admin.may("create", "namespace", namespace)
		}
		admin.may("get", "secrets", "-A")
		admin.may("create", "clusterrole", "x", "--verb=get", "--resource=pods")
	})
	t.Run("an editor of some namespaces", func(t *testing.T) {
		k.waitFor("the editor's right in team-a", func() bool {
			_, err := editor.kubectl("get", "configmaps", "-n", "team-a")
			return err == nil
		})
		editor.may("create", "configmap", "mine", "-n", "team-a")
		editor.mayNot(forbidden, "create", "configmap", "mine", "-n", "web")
		editor.mayNot(forbidden, "get", "pods", "-A")
		editor.mayNot(forbidden, "create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user=x", "-n", "team-a")
		admin.may("create", "namespace", "team-b")
		k.waitFor("the editor's right in team-b", func() bool {
			_, err := editor.kubectl("create", "configmap", "mine", "-n", "team-b")
			return err == nil
		})
	})
	t.Run("a role's session", func(t *testing.T) {
		who := auditor.who()
		if who.Username != "arn:aws:sts::"+account+":assumed-role/audit/editor-example.com" || !cmp.Equal(who.Extra["sessionName"], authenticationv1.ExtraValue{"editor@example.com"}) {
			t.Errorf("the session is %+v", who)
		}
		auditor.may("get", "configmaps", "-A")
		auditor.mayNot(forbidden, "get", "secrets", "-A")
		auditor.mayNot(forbidden, "create", "configmap", "mine", "-n", "team-a")
	})
	t.Run("a stranger, and then an entry", func(t *testing.T) {
		stranger.mayNot(unauthorized, "get", "pods", "-A")
		entry(arnOf("user/stranger"))
		stranger.mayNot(forbidden, "get", "pods", "-A") // somebody at once, who may do nothing
		give(arnOf("user/stranger"), "AmazonEKSAdminViewPolicy")
		k.waitFor("the right to see", func() bool {
			_, err := stranger.kubectl("get", "secrets", "-A")
			return err == nil
		})
		stranger.mayNot(forbidden, "create", "namespace", "x")
	})
	t.Run("a token for another cluster", func(t *testing.T) {
		for cluster, want := range map[string]int{"one": http.StatusOK, "two": http.StatusUnauthorized} {
			out, err := admin.run(awsProgram(t), "eks", "get-token", "--cluster-name", cluster)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var credential struct{ Status struct{ Token string } }
			read(t, []byte(out), &credential)
			if code, text := k.request(credential.Status.Token, http.MethodGet, "/api/v1/namespaces", "", nil); code != want {
				t.Errorf("for %s: got %d %s, want %d", cluster, code, text, want)
			}
		}
	})
	t.Run("what was taken away", func(t *testing.T) {
		if _, err := entries.DisassociateAccessPolicy(t.Context(), &eks.DisassociateAccessPolicyInput{
			ClusterName: aws.String("one"), PrincipalArn: aws.String(arnOf("user/editor")), PolicyArn: policyARN("AmazonEKSEditPolicy"),
		}); err != nil {
			t.Fatal(err)
		}
		k.waitFor("the editor's refusal", func() bool {
			out, err := editor.kubectl("get", "configmaps", "-n", "team-a")
			return err != nil && strings.Contains(out, forbidden)
		})
		k.waitFor("an end of the role bindings", func() bool {
			var list rbacv1.RoleBindingList
			read(t, k.must(http.MethodGet, "/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings", ""), &list)
			return len(list.Items) == 0
		})
		if _, err := users.UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{
			UserName: aws.String("admin"), AccessKeyId: &adminKey.AccessKeyID, Status: "Inactive",
		}); err != nil {
			t.Fatal(err)
		}
		k.waitFor("the administrator's refusal", func() bool {
			out, err := admin.kubectl("get", "namespaces")
			return err != nil && strings.Contains(out, unauthorized)
		})
	})
	t.Run("the webhook binds the policies' roles and no others", func(t *testing.T) {
		token := k.token("lanyard", "lanyard-webhook", "")
		bind := func(path, kind, role string) int {
			code, _ := k.request(token, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/"+path, fmt.Sprintf(`{"metadata": {"generateName": "x-"},
				"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": %q},
				"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": %q, "name": "x"}]}`, role, kind), nil)
			return code
		}
		for role, want := range map[string]int{
			"view": http.StatusCreated, "lanyard-admin-view": http.StatusCreated, "system:node": http.StatusForbidden, "system:aggregate-to-edit": http.StatusForbidden,
		} {
			if code := bind("namespaces/web/rolebindings", "Group", role); code != want {
				t.Errorf("%s in a namespace: got %d, want %d", role, code, want)
			}
		}
		if code := bind("clusterrolebindings", "Group", "view"); code != http.StatusForbidden {
			t.Errorf("view everywhere: got %d", code)
		}
	})
}
