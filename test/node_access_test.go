//go:build e2e && linux

package test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// visitor is a user of IAM who comes to the node's cluster with kubectl and the AWS CLI.
type visitor struct {
	in   *installation
	name string
	dir  string // their home
	env  []string
}

// visitor makes a user, who may ask where the cluster is, and has the AWS CLI write their kubeconfig.
func (in *installation) visitor(name string) *visitor {
	in.Helper()
	users := iam.NewFromConfig(in.aws)
	if _, err := users.CreateUser(in.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
		in.Fatal(err)
	}
	if _, err := users.PutUserPolicy(in.Context(), &iam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("kubeconfig"), PolicyDocument: aws.String(
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "eks:DescribeCluster", "Resource": "*"}]}`,
	)}); err != nil {
		in.Fatal(err)
	}
	made, err := users.CreateAccessKey(in.Context(), &iam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		in.Fatal(err)
	}
	v := &visitor{in: in, name: name, dir: in.TempDir()}
	v.env = []string{
		"HOME=" + v.dir, "KUBECONFIG=" + filepath.Join(v.dir, "kubeconfig"), "AWS_DEFAULT_REGION=us-east-1", "AWS_CA_BUNDLE=" + filepath.Join(in.dir, "ca.pem"),
		"AWS_ACCESS_KEY_ID=" + *made.AccessKey.AccessKeyId, "AWS_SECRET_ACCESS_KEY=" + *made.AccessKey.SecretAccessKey,
	}
	in.atForwarded(func() {
		if out, err := v.command(awsProgram(in.T), "--endpoint-url", forwarded, "eks", "update-kubeconfig", "--name", "one").CombinedOutput(); err != nil {
			in.Fatalf("update-kubeconfig: %v\n%s", err, out)
		}
	})
	return v
}

// command is one of the visitor's, on the node.
func (v *visitor) command(name string, args ...string) *exec.Cmd {
	cmd := v.in.node.Command(v.in.Context(), name, args...)
	path := ""
	cmd.Env = slices.DeleteFunc(cmd.Env, func(variable string) bool {
		value, isPath := strings.CutPrefix(variable, "PATH=")
		if isPath {
			path = value
		}
		return isPath || strings.HasPrefix(variable, "AWS_")
	})
	cmd.Env = append(append(cmd.Env, "PATH="+path+string(os.PathListSeparator)+filepath.Dir(awsProgram(v.in.T))), v.env...)
	return cmd
}

// tries runs kubectl as the visitor, whose token `aws eks get-token` makes.
func (v *visitor) tries(args ...string) error {
	if out, err := v.command("kubectl", args...).CombinedOutput(); err != nil {
		return errors.New(v.name + ": kubectl " + strings.Join(args, " ") + ": " + err.Error() + "\n" + string(out))
	}
	return nil
}

func (v *visitor) may(args ...string) {
	v.in.Helper()
	if err := v.tries(args...); err != nil {
		v.in.Error(err)
	}
}

func (v *visitor) mayNot(reason string, args ...string) {
	v.in.Helper()
	if err := v.tries(args...); err == nil || !strings.Contains(err.Error(), reason) {
		v.in.Errorf("got %v, want %q", err, reason)
	}
}

// people has the API server ask the control plane in the cluster, as docs/access.md says, and the webhook keep the bindings.
func (in *installation) people() {
	in.ownNode("the API server cannot be restarted with other flags")
	in.upgrade("access: {enabled: true}")
	service, err := in.api.CoreV1().Services(release).Get(in.Context(), "lanyard-server", metav1.GetOptions{})
	if err != nil {
		in.Fatal(err)
	}
	text := in.mustLanyard("cluster", "token-webhook", "one", "--server", "https://"+service.Spec.ClusterIP,
		"--tls-server-name", "lanyard-server."+release+".svc", "--certificate-authority", filepath.Join(in.dir, "ca.pem"))
	file := filepath.Join(in.dir, "token-webhook")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		in.Fatal(err)
	}
	if err := in.node.RestartAPIServer(in.Context(), "--authentication-token-webhook-config-file="+file, "--authentication-token-webhook-version=v1",
		"--authentication-token-webhook-cache-ttl=1s"); err != nil {
		in.Fatal(err)
	}

	entries := eks.NewFromConfig(in.aws)
	give := func(v *visitor, policy string, scope ekstypes.AccessScope) {
		in.Helper()
		principal := "arn:aws:iam::" + account + ":user/" + v.name
		_, err := entries.CreateAccessEntry(in.Context(), &eks.CreateAccessEntryInput{ClusterName: aws.String("one"), PrincipalArn: &principal})
		if err == nil {
			_, err = entries.AssociateAccessPolicy(in.Context(), &eks.AssociateAccessPolicyInput{ClusterName: aws.String("one"), PrincipalArn: &principal,
				PolicyArn: aws.String("arn:aws:eks::aws:cluster-access-policy/" + policy), AccessScope: &scope})
		}
		if err != nil {
			in.Fatal(err)
		}
	}
	admin, editor, stranger := in.visitor("admin"), in.visitor("editor"), in.visitor("stranger")
	give(admin, "AmazonEKSClusterAdminPolicy", ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeCluster})
	give(editor, "AmazonEKSEditPolicy", ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeNamespace, Namespaces: []string{web}})

	admin.may("get", "secrets", "-A")
	admin.may("create", "configmap", "admins", "-n", release)
	admin.may("delete", "configmap", "admins", "-n", release)
	in.eventually("the editor's right", func(context.Context) error { return editor.tries("create", "configmap", "editors", "-n", web) })
	editor.may("delete", "configmap", "editors", "-n", web)
	editor.mayNot(forbidden, "create", "configmap", "editors", "-n", release)
	editor.mayNot(forbidden, "get", "secrets", "-A")
	stranger.mayNot(unauthorized, "get", "pods", "-n", web)
}
