package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/arn"
)

// The samples of a dev server.
const (
	sampleCluster  = "dev"
	sampleIRSARole = "dev-my-sa" // default/my-sa, by IRSA
	samplePodRole  = "dev-s3-sa" // default/s3-sa, by Pod Identity
)

var sampleBuckets = []string{"app-data", "logs", "team-data"}

const sampleReadPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "List", "Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
    {"Sid": "Read", "Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": ["arn:aws:s3:::app-data", "arn:aws:s3:::app-data/*"]}
  ]
}`

// samplePodPolicy gives each namespace its own prefix of one bucket.
const samplePodPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "List", "Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
    {"Sid": "OwnPrefix", "Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"],
     "Resource": "arn:aws:s3:::team-data/${aws:PrincipalTag/kubernetes-namespace}/*"}
  ]
}`

const podTrust = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
  ]
}`

// seedOnce makes the samples at the first start. A start that was cut off makes the rest at the next one; what a user
// deletes stays deleted.
func (s *devServer) seedOnce(ctx context.Context, region string) error {
	_, err := os.Stat(s.dir.Path("seeded"))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cfg := aws.Config{
		Region:       region,
		BaseEndpoint: &s.endpoint,
		Credentials:  credentials.NewStaticCredentialsProvider(s.root.AccessKeyID, string(s.root.SecretAccessKey), ""),
	}
	if err := seed(ctx, cfg); err != nil {
		return err
	}
	return s.dir.Write("seeded", []byte(time.Now().UTC().Format(time.RFC3339)+"\n"))
}

func seed(ctx context.Context, cfg aws.Config) error {
	err := lanyardAPI(ctx, cfg, http.MethodPost, "/lanyard/clusters", registration{Name: sampleCluster}, nil)
	if api := smithy.APIError(nil); err != nil && !(errors.As(err, &api) && api.ErrorCode() == "ResourceInUseException") {
		return fmt.Errorf("register cluster: %w", err)
	}
	own := subject{cluster: sampleCluster, namespace: "default", serviceAccount: "my-sa"}
	if _, err := createIRSA(ctx, cfg, rolePlan{subject: own, role: sampleIRSARole}); err != nil {
		return err
	}
	roles := iam.NewFromConfig(cfg)
	created, err := roles.CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String(samplePodRole), AssumeRolePolicyDocument: aws.String(podTrust)})
	if exists := (*iamtypes.EntityAlreadyExistsException)(nil); err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("create role %s: %w", samplePodRole, err)
	}
	partition, _ := arn.PartitionOfRegion(cfg.Region) // startDev has seen the region
	for role, policy := range map[string]string{sampleIRSARole: sampleReadPolicy, samplePodRole: samplePodPolicy} {
		policy = strings.ReplaceAll(policy, "arn:aws:", "arn:"+partition.Name+":")
		in := &iam.PutRolePolicyInput{RoleName: &role, PolicyName: aws.String("buckets"), PolicyDocument: &policy}
		if _, err := roles.PutRolePolicy(ctx, in); err != nil {
			return fmt.Errorf("put the policy of role %s: %w", role, err)
		}
	}
	if created == nil {
		got, err := roles.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String(samplePodRole)})
		if err != nil {
			return fmt.Errorf("look up role %s: %w", samplePodRole, err)
		}
		created = &iam.CreateRoleOutput{Role: got.Role}
	}
	_, err = eks.NewFromConfig(cfg).CreatePodIdentityAssociation(ctx, &eks.CreatePodIdentityAssociationInput{
		ClusterName: aws.String(sampleCluster), Namespace: aws.String("default"), ServiceAccount: aws.String("s3-sa"), RoleArn: created.Role.Arn,
	})
	if inUse := (*ekstypes.ResourceInUseException)(nil); err != nil && !errors.As(err, &inUse) {
		return fmt.Errorf("create association: %w", err)
	}
	objects := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	for _, b := range sampleBuckets {
		in := &s3.CreateBucketInput{Bucket: &b}
		if cfg.Region != "us-east-1" { // the one region that must not be named
			in.CreateBucketConfiguration = &s3types.CreateBucketConfiguration{LocationConstraint: s3types.BucketLocationConstraint(cfg.Region)}
		}
		_, err := objects.CreateBucket(ctx, in)
		if owned := (*s3types.BucketAlreadyOwnedByYou)(nil); err != nil && !errors.As(err, &owned) {
			return fmt.Errorf("create bucket %s: %w", b, err)
		}
	}
	return nil
}
