package test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

const account = "111122223333"

// webIdentity asks STS for a role with a token of the service account.
func (s *server) webIdentity(role, cluster, namespace, serviceAccount string) (*sts.AssumeRoleWithWebIdentityOutput, error) {
	s.t.Helper()
	token := strings.TrimSpace(s.must("token", cluster, "-n", namespace, "-s", serviceAccount, "--audience", "sts.amazonaws.com"))
	return sts.NewFromConfig(s.as(aws.Credentials{})).AssumeRoleWithWebIdentity(s.t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          aws.String("arn:aws:iam::" + account + ":role/" + role),
		RoleSessionName:  aws.String("test"),
		WebIdentityToken: &token,
	})
}

func TestARoleIsForItsServiceAccountOnly(t *testing.T) {
	s := startDev(t, dataDir(t))
	s.must("cluster", "register", "twin")
	s.must("irsa", "create", "--cluster", "twin", "-n", "default", "-s", "my-sa", "--role-name", "twin-my-sa")
	for _, c := range []struct {
		name, role, cluster, namespace, serviceAccount string
		allowed                                        bool
	}{
		{"default/my-sa takes its role", "dev-my-sa", "dev", "default", "my-sa", true},
		{"default/other does not", "dev-my-sa", "dev", "default", "other", false},
		{"my-sa of another namespace does not", "dev-my-sa", "dev", "kube-system", "my-sa", false},
		{"default/my-sa of another cluster does not", "dev-my-sa", "twin", "default", "my-sa", false},
		{"default/my-sa of the other cluster takes that one's role", "twin-my-sa", "twin", "default", "my-sa", true},
		{"and the first cluster's does not", "twin-my-sa", "dev", "default", "my-sa", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := s.webIdentity(c.role, c.cluster, c.namespace, c.serviceAccount)
			if c.allowed {
				if err != nil {
					t.Fatal(err)
				}
				if want := "arn:aws:sts::" + account + ":assumed-role/" + c.role + "/test"; aws.ToString(out.AssumedRoleUser.Arn) != want {
					t.Errorf("assumed %s, want %s", aws.ToString(out.AssumedRoleUser.Arn), want)
				}
				return
			}
			wantError(t, err, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
		})
	}
}

func wantError(t *testing.T, err error, code, message string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code || api.ErrorMessage() != message {
		t.Errorf("got error %v, want %s: %s", err, code, message)
	}
}

// One role, one policy with a session tag in it: each namespace has its own prefix, and no other.
func TestSessionTagsReachPolicies(t *testing.T) {
	s := startDev(t, dataDir(t))
	role := "arn:aws:iam::" + account + ":role/dev-s3-sa"
	for _, namespace := range []string{"team-a", "team-b"} {
		s.must("association", "create", "-n", namespace, "-s", "app", "--role-arn", role)
	}
	for _, namespace := range []string{"team-a", "team-b"} {
		for _, prefix := range []string{"team-a", "team-b"} {
			out := s.must("run", "-n", namespace, "-s", "app", "--", binary("lanyard"), "demo", "pod", "s3://team-data/"+prefix+"/file")
			written := strings.Contains(out, `"s3://team-data/`+prefix+`/file":"ok"`)
			refused := strings.Contains(out, "is not authorized to perform: s3:PutObject") &&
				strings.Contains(out, "because no identity-based policy allows the s3:PutObject action")
			if own := namespace == prefix; written != own || refused == own {
				t.Errorf("namespace %s on prefix %s: written %v, refused %v\n%s", namespace, prefix, written, refused, out)
			}
		}
	}
	list, err := s3.NewFromConfig(s.aws()).ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("team-data")})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Contents) != 2 {
		t.Errorf("%d objects were written, want 2", len(list.Contents))
	}
}
