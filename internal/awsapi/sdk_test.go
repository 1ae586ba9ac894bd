//lint:file-ignore SA1019 The SDK calls PackedPolicySize deprecated; it is what the API model of these services has.

package awsapi_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
)

// clientConfig points the SDK's clients at a server.
func clientConfig(t *testing.T, url string) aws.Config {
	t.Helper()
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: &url, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: keyID, SecretAccessKey: string(secret)}, nil
		}),
	}
}

// The SDK's own clients are the other party: they sign with the real clock, and read the answers with their own code.
func TestSDKClients(t *testing.T) {
	t.Parallel()
	a := newAPI(t, realClock)
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	cfg := clientConfig(t, server.URL)
	stsClient, iamClient, eksClient := sts.NewFromConfig(cfg), iam.NewFromConfig(cfg), eks.NewFromConfig(cfg)
	ctx := t.Context()

	t.Run("GetCallerIdentity", func(t *testing.T) {
		out, err := stsClient.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil || *out.Arn != userARN || *out.Account != account || *out.UserId != "AIDAEXAMPLE" {
			t.Errorf("got %+v, %v", out, err)
		}
	})
	t.Run("AssumeRole", func(t *testing.T) {
		out, err := stsClient.AssumeRole(ctx, &sts.AssumeRoleInput{
			RoleArn: aws.String("arn:aws:iam::111122223333:role/r"), RoleSessionName: aws.String("me"), DurationSeconds: aws.Int32(900),
			Tags:              []ststypes.Tag{{Key: aws.String("a b"), Value: aws.String("c+d/é")}},
			TransitiveTagKeys: []string{"a b"}, PolicyArns: []ststypes.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::aws:policy/ReadOnlyAccess")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		const in = `{"RoleArn":"arn:aws:iam::111122223333:role/r","RoleSessionName":"me","Policy":null,` +
			`"PolicyArns":[{"Arn":"arn:aws:iam::aws:policy/ReadOnlyAccess"}],"DurationSeconds":900,"Tags":[{"Key":"a b","Value":"c+d/é"}],` +
			`"TransitiveTagKeys":["a b"],"ExternalId":""}`
		if diff := cmp.Diff(in, *out.AssumedRoleUser.AssumedRoleId); diff != "" {
			t.Errorf("input (-want +got):\n%s", diff)
		}
		if !out.Credentials.Expiration.Equal(now.Add(time.Hour)) || *out.Credentials.SecretAccessKey != "s3cr3t/+=" || out.PackedPolicySize != nil {
			t.Errorf("output is %+v", out)
		}
	})
	t.Run("AssumeRole that is refused", func(t *testing.T) {
		_, err := stsClient.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String("short"), RoleSessionName: aws.String("me")})
		wantAPIError(t, err, "ValidationError", "at 'roleArn'")
	})
	t.Run("AssumeRoleWithWebIdentity", func(t *testing.T) {
		in := &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String("arn:aws:iam::111122223333:role/r"), RoleSessionName: aws.String("me"),
			WebIdentityToken: aws.String("good")}
		if out, err := stsClient.AssumeRoleWithWebIdentity(ctx, in); err != nil || *out.SubjectFromWebIdentityToken != "sub" {
			t.Errorf("got %+v, %v", out, err)
		}
		in.WebIdentityToken = aws.String("reject")
		_, err := stsClient.AssumeRoleWithWebIdentity(ctx, in)
		if bad := new(ststypes.InvalidIdentityTokenException); !errors.As(err, &bad) || bad.ErrorMessage() != "Incorrect token audience" {
			t.Errorf("got %v, want InvalidIdentityTokenException", err)
		}
	})
	t.Run("presigned GetCallerIdentity", func(t *testing.T) {
		p, err := sts.NewPresignClient(stsClient).PresignGetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := server.Client().Get(p.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if body := text(t, r); r.StatusCode != 200 || !strings.Contains(body, userARN) {
			t.Errorf("status %d: %s", r.StatusCode, body)
		}
	})
	t.Run("GetRole", func(t *testing.T) {
		out, err := iamClient.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("r")})
		if err != nil {
			t.Fatal(err)
		}
		if got := *out.Role.Tags[0].Value; got != "<1>&\r\n\t\"'\uFFFDé" {
			t.Errorf("tag is %q", got)
		}
		if !out.Role.CreateDate.Equal(now) || *out.Role.MaxSessionDuration != 3600 {
			t.Errorf("role is %+v", out.Role)
		}
		_, err = iamClient.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("missing")})
		if missing := new(iamtypes.NoSuchEntityException); !errors.As(err, &missing) {
			t.Errorf("got %v, want NoSuchEntityException", err)
		}
		_, err = iamClient.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("forbidden")})
		wantAPIError(t, err, "AccessDenied", "is not authorized to perform: iam:GetRole on resource: arn:aws:iam::111122223333:role/forbidden")
		_, err = iamClient.ListUsers(ctx, &iam.ListUsersInput{})
		wantAPIError(t, err, "NotImplemented", "This server does not implement ListUsers.")
	})
	t.Run("DescribeCluster", func(t *testing.T) {
		out, err := eksClient.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("demo")})
		if err != nil || *out.Cluster.Name != "demo" || !out.Cluster.CreatedAt.Equal(now.Add(50*time.Millisecond)) ||
			*out.Cluster.Identity.Oidc.Issuer != "https://issuer.example/id/1" {
			t.Errorf("got %+v, %v", out, err)
		}
		_, err = eksClient.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("missing")})
		if missing := new(ekstypes.ResourceNotFoundException); !errors.As(err, &missing) || *missing.ClusterName != "missing" || missing.NodegroupName != nil {
			t.Errorf("got %v, want ResourceNotFoundException", err)
		}
		_, err = eksClient.DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("forbidden")})
		wantAPIError(t, err, "AccessDeniedException", "is not authorized to perform: eks:DescribeCluster")
	})
	t.Run("CreatePodIdentityAssociation", func(t *testing.T) {
		out, err := eksClient.CreatePodIdentityAssociation(ctx, &eks.CreatePodIdentityAssociationInput{
			ClusterName: aws.String("demo"), Namespace: aws.String("ns"), ServiceAccount: aws.String("sa"), RoleArn: aws.String("arn"),
			Tags: map[string]string{"k": "v", "ü": "\"\\\n\u2028"}, DisableSessionTags: aws.Bool(false),
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"k": "v", "ü": "\"\\\n\u2028"}, out.Association.Tags); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
		if out.Association.DisableSessionTags == nil || *out.Association.DisableSessionTags {
			t.Error("a pointer to false is not written as false")
		}
	})
	t.Run("TagResource and UntagResource", func(t *testing.T) {
		const arn = "arn:aws:eks:us-east-1:111122223333:cluster/demo"
		if _, err := eksClient.TagResource(ctx, &eks.TagResourceInput{ResourceArn: aws.String(arn), Tags: map[string]string{"a": "b"}}); err != nil {
			t.Error(err)
		}
		if _, err := eksClient.UntagResource(ctx, &eks.UntagResourceInput{ResourceArn: aws.String(arn), TagKeys: []string{"a", "b/c"}}); err != nil {
			t.Error(err)
		}
		want := []any{&tagResourceIn{arn, map[string]string{"a": "b"}}, &untagResourceIn{arn, []string{"a", "b/c"}}}
		if diff := cmp.Diff(want, a.seen.seen); diff != "" {
			t.Errorf("inputs (-want +got):\n%s", diff)
		}
	})
	t.Run("with a wrong secret", func(t *testing.T) {
		bad := cfg.Copy()
		bad.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: keyID, SecretAccessKey: "wrong"}, nil
		})
		_, err := sts.NewFromConfig(bad).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		wantAPIError(t, err, "SignatureDoesNotMatch", "does not match")
		_, err = eks.NewFromConfig(bad).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String("demo")})
		wantAPIError(t, err, "InvalidSignatureException", "does not match")
	})
}

func wantAPIError(t *testing.T, err error, code, message string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), message) {
		t.Errorf("got %v, want %s with %q", err, code, message)
	}
}
