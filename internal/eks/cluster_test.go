package eks_test

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/kv"
)

func createCluster(name, role string) *awseks.CreateClusterInput {
	return &awseks.CreateClusterInput{
		Name: &name, RoleArn: &role,
		ResourcesVpcConfig: &types.VpcConfigRequest{SubnetIds: []string{"subnet-1", "subnet-2"}, SecurityGroupIds: []string{"sg-1"}},
	}
}

func TestClusterIsMadeDescribedAndDeleted(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	c := r.client()
	role := r.role(t, "cluster", trustEKS)
	in := createCluster("demo", role)
	in.Version = aws.String("1.34")
	in.Tags = map[string]string{"team": "a"}
	in.KubernetesNetworkConfig = &types.KubernetesNetworkConfigRequest{ServiceIpv4Cidr: aws.String("10.2.0.0/16")}
	made := must(c.CreateCluster(t.Context(), in))(t).Cluster
	got := must(c.DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: in.Name}))(t).Cluster

	for _, e := range []struct{ name, got, want string }{
		{"name", *got.Name, "demo"},
		{"arn", *got.Arn, "arn:aws:eks:us-east-1:111122223333:cluster/demo"},
		{"status", string(got.Status), "ACTIVE"},
		{"role", *got.RoleArn, role},
		{"version", *got.Version, "1.34"},
		{"platform version", *got.PlatformVersion, "eks.1"},
		{"services", *got.KubernetesNetworkConfig.ServiceIpv4Cidr, "10.2.0.0/16"},
		{"subnets", strings.Join(got.ResourcesVpcConfig.SubnetIds, " "), "subnet-1 subnet-2"},
		{"security groups", strings.Join(got.ResourcesVpcConfig.SecurityGroupIds, " "), "sg-1"},
		{"issuer as made", *made.Identity.Oidc.Issuer, *got.Identity.Oidc.Issuer},
		{"tags", fmt.Sprint(got.Tags), "map[team:a]"},
		{"created", got.CreatedAt.UTC().Format(time.RFC3339), r.w.time().UTC().Format(time.RFC3339)},
	} {
		if e.got != e.want {
			t.Errorf("%s = %q, want %q", e.name, e.got, e.want)
		}
	}
	if got.Id != nil || got.ConnectorConfig != nil {
		t.Errorf("id = %v, connectorConfig = %v; eksctl takes both amiss", got.Id, got.ConnectorConfig)
	}
	if u, err := url.Parse(*got.Endpoint); err != nil || u.Scheme != "https" || !strings.HasSuffix(u.Host, ".invalid") {
		t.Errorf("endpoint = %q", *got.Endpoint)
	}
	ca, err := base64.StdEncoding.DecodeString(*got.CertificateAuthority.Data)
	if block, _ := pem.Decode(ca); err != nil || block == nil || block.Type != "CERTIFICATE" {
		t.Errorf("certificate authority = %q, %v", ca, err)
	}
	if !strings.HasPrefix(*got.Identity.Oidc.Issuer, "https://oidc.example.com/id/") {
		t.Errorf("issuer = %q", *got.Identity.Oidc.Issuer)
	}
	if _, ok := r.eks.Cluster(account, region, "demo"); !ok {
		t.Error("the cluster is not found")
	}
	if _, ok := r.eks.Cluster(account, "eu-west-1", "demo"); ok {
		t.Error("the cluster is found in another region")
	}
	if _, ok := r.eks.Cluster(other, region, "demo"); ok {
		t.Error("the cluster is found in another account")
	}

	must(c.DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: in.Name}))(t)
	_, err = c.DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: in.Name})
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: demo.")
	_, err = c.DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: in.Name})
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: demo.")
}

func TestCreateClusterDefaults(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	got := must(r.client().CreateCluster(t.Context(), createCluster("demo", r.role(t, "cluster", trustEKS))))(t).Cluster
	if *got.Version == "" || *got.KubernetesNetworkConfig.ServiceIpv4Cidr != "10.100.0.0/16" || got.AccessConfig.AuthenticationMode != "CONFIG_MAP" ||
		!got.ResourcesVpcConfig.EndpointPublicAccess || got.ResourcesVpcConfig.EndpointPrivateAccess {
		t.Errorf("cluster = %+v", got)
	}
	versions := must(r.client().DescribeClusterVersions(t.Context(), &awseks.DescribeClusterVersionsInput{DefaultOnly: aws.Bool(true)}))(t)
	if len(versions.ClusterVersions) != 1 || *versions.ClusterVersions[0].ClusterVersion != *got.Version {
		t.Errorf("default versions = %+v, but the cluster's is %s", versions.ClusterVersions, *got.Version)
	}
}

// Clients such as eksctl ask for nothing of access entries where the cluster does not say that it has some.
func TestAuthenticationMode(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	c := r.client()
	role := r.role(t, "cluster", trustEKS)
	r.hosted(t, "registered")
	must(c.CreateCluster(t.Context(), createCluster("made", role)))(t)
	unsaid := createCluster("unsaid", role)
	unsaid.AccessConfig = &types.CreateAccessConfigRequest{BootstrapClusterCreatorAdminPermissions: aws.Bool(true)}
	must(c.CreateCluster(t.Context(), unsaid))(t)

	for name, want := range map[string]types.AuthenticationMode{"registered": "API", "made": "CONFIG_MAP", "unsaid": "CONFIG_MAP"} {
		got := must(c.DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: &name}))(t).Cluster.AccessConfig
		if got == nil || got.AuthenticationMode != want {
			t.Errorf("cluster %s: access configuration = %+v, want the mode %s", name, got, want)
		}
	}

	const refusal = "The cluster's authentication mode must be set to one of [API, API_AND_CONFIG_MAP] to perform this operation."
	made := aws.String("made")
	_, err := c.ListAccessEntries(t.Context(), &awseks.ListAccessEntriesInput{ClusterName: made})
	wantRefused(t, err, "InvalidRequestException", refusal)
	_, err = c.CreateAccessEntry(t.Context(), &awseks.CreateAccessEntryInput{ClusterName: made, PrincipalArn: &role})
	wantRefused(t, err, "InvalidRequestException", refusal)
	_, err = c.DescribeAccessEntry(t.Context(), &awseks.DescribeAccessEntryInput{ClusterName: made, PrincipalArn: aws.String(rootARN)})
	wantRefused(t, err, "InvalidRequestException", refusal)

	must(c.UpdateClusterConfig(t.Context(), &awseks.UpdateClusterConfigInput{
		Name: made, AccessConfig: &types.UpdateAccessConfigRequest{AuthenticationMode: types.AuthenticationModeApiAndConfigMap},
	}))(t)
	got := must(c.ListAccessEntries(t.Context(), &awseks.ListAccessEntriesInput{ClusterName: made}))(t).AccessEntries
	if diff := cmp.Diff([]string{rootARN}, got); diff != "" {
		t.Errorf("with the mode the creator's entry comes to light: %s", diff)
	}
}

func TestCreateClusterRefusals(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	role := r.role(t, "cluster", trustEKS)
	must(r.client().CreateCluster(t.Context(), createCluster("taken", role)))(t)
	for _, e := range []struct {
		name          string
		change        func(*awseks.CreateClusterInput)
		code, message string
	}{
		{"a name that is taken", func(in *awseks.CreateClusterInput) { in.Name = aws.String("taken") },
			"ResourceInUseException", "Cluster already exists with name: taken"},
		{"a name with a slash", func(in *awseks.CreateClusterInput) { in.Name = aws.String("a/b") }, "InvalidParameterException", ""},
		{"a name with a wildcard", func(in *awseks.CreateClusterInput) { in.Name = aws.String("a*") }, "InvalidParameterException", ""},
		{"a role that does not exist", func(in *awseks.CreateClusterInput) { in.RoleArn = aws.String(role + "x") }, "InvalidParameterException",
			"Role with arn: " + role + "x, could not be assumed because it does not exist or the trusted entity is not correct"},
		{"what is no ARN", func(in *awseks.CreateClusterInput) { in.RoleArn = aws.String("cluster") }, "InvalidParameterException",
			`The roleArn "cluster" is not the ARN of an IAM role.`},
		{"a user's ARN", func(in *awseks.CreateClusterInput) { in.RoleArn = aws.String("arn:aws:iam::" + account + ":user/u") },
			"InvalidParameterException", ""},
		{"a role of another partition", func(in *awseks.CreateClusterInput) {
			in.RoleArn = aws.String("arn:aws-cn:iam::" + account + ":role/cluster")
		},
			"InvalidParameterException", ""},
		{"a role of another account", func(in *awseks.CreateClusterInput) {
			in.RoleArn = aws.String("arn:aws:iam::" + other + ":role/cluster")
		},
			"AccessDeniedException", "Cross-account pass role is not allowed."},
		{"an old version", func(in *awseks.CreateClusterInput) { in.Version = aws.String("1.11") }, "InvalidParameterException",
			"unsupported Kubernetes version 1.11"},
		{"a reserved tag", func(in *awseks.CreateClusterInput) { in.Tags = map[string]string{"AWS:x": "y"} }, "InvalidParameterException", ""},
		{"deletion protection", func(in *awseks.CreateClusterInput) { in.DeletionProtection = aws.Bool(true) }, "InvalidParameterException",
			"deletionProtection is not supported: Lanyard runs no control plane."},
		{"auto mode", func(in *awseks.CreateClusterInput) {
			in.ComputeConfig = &types.ComputeConfigRequest{Enabled: aws.Bool(true)}
		},
			"InvalidParameterException", "computeConfig is not supported: Lanyard runs no control plane."},
		{"encryption", func(in *awseks.CreateClusterInput) {
			in.EncryptionConfig = []types.EncryptionConfig{{Resources: []string{"secrets"}}}
		}, "InvalidParameterException", "encryptionConfig is not supported: Lanyard runs no control plane."},
		{"an outpost", func(in *awseks.CreateClusterInput) {
			in.OutpostConfig = &types.OutpostConfigRequest{ControlPlaneInstanceType: aws.String("m5.large"), OutpostArns: []string{"o"}}
		}, "InvalidParameterException", "outpostConfig is not supported: Lanyard runs no control plane."},
		{"hybrid nodes", func(in *awseks.CreateClusterInput) {
			in.RemoteNetworkConfig = &types.RemoteNetworkConfigRequest{RemoteNodeNetworks: []types.RemoteNodeNetwork{{Cidrs: []string{"10.0.0.0/8"}}}}
		}, "InvalidParameterException", "remoteNetworkConfig is not supported: Lanyard runs no control plane."},
		{"block storage", func(in *awseks.CreateClusterInput) {
			in.StorageConfig = &types.StorageConfigRequest{BlockStorage: &types.BlockStorage{Enabled: aws.Bool(true)}}
		}, "InvalidParameterException", "storageConfig is not supported: Lanyard runs no control plane."},
		{"zonal shift", func(in *awseks.CreateClusterInput) {
			in.ZonalShiftConfig = &types.ZonalShiftConfigRequest{Enabled: aws.Bool(true)}
		}, "InvalidParameterException", "zonalShiftConfig is not supported: Lanyard runs no control plane."},
	} {
		t.Run(e.name, func(t *testing.T) {
			in := createCluster("demo", role)
			e.change(in)
			_, err := r.client().CreateCluster(t.Context(), in)
			wantRefused(t, err, e.code, e.message)
		})
	}
}

func TestCreateClusterCanBeRepeated(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	in := createCluster("demo", r.role(t, "cluster", trustEKS))
	in.ClientRequestToken = aws.String("token")
	first := must(r.client().CreateCluster(t.Context(), in))(t).Cluster
	again := must(r.client().CreateCluster(t.Context(), in))(t).Cluster
	if *first.Identity.Oidc.Issuer != *again.Identity.Oidc.Issuer {
		t.Errorf("issuers %s and %s differ", *first.Identity.Oidc.Issuer, *again.Identity.Oidc.Issuer)
	}
	in.Tags = map[string]string{"a": "b"}
	_, err := r.client().CreateCluster(t.Context(), in)
	wantRefused(t, err, "ResourceInUseException", "")
}

func TestClustersAreListedByPage(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	want := []string{}
	for i := range 5 {
		name := fmt.Sprintf("cluster-%d", i)
		r.hosted(t, name)
		want = append(want, name)
	}
	got := []string{}
	pages := awseks.NewListClustersPaginator(r.client(), &awseks.ListClustersInput{MaxResults: aws.Int32(2)})
	n := 0
	for pages.HasMorePages() {
		page := must(pages.NextPage(t.Context()))(t)
		if len(page.Clusters) > 2 {
			t.Errorf("a page of %d", len(page.Clusters))
		}
		got = append(got, page.Clusters...)
		n++
	}
	if diff := cmp.Diff(want, got); diff != "" || n != 3 {
		t.Errorf("%d pages: %s", n, diff)
	}
	elsewhere := awseks.New(awseks.Options{Region: "eu-west-1", BaseEndpoint: &r.url, Credentials: r.credentials()})
	if out := must(elsewhere.ListClusters(t.Context(), &awseks.ListClustersInput{}))(t); len(out.Clusters) != 0 {
		t.Errorf("another region has %v", out.Clusters)
	}
	_, err := r.client().ListClusters(t.Context(), &awseks.ListClustersInput{NextToken: aws.String("***")})
	wantRefused(t, err, "InvalidParameterException", "")
	_, err = r.client().ListClusters(t.Context(), &awseks.ListClustersInput{Include: []string{"some"}})
	wantRefused(t, err, "InvalidParameterException", "")
}

func TestClusterVersions(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.now.Store(time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	r := w.start(t, w.store).withAccount(t, account)
	status := func(in *awseks.DescribeClusterVersionsInput) (got []string) {
		t.Helper()
		pages := awseks.NewDescribeClusterVersionsPaginator(r.client(), in)
		for pages.HasMorePages() {
			for _, v := range must(pages.NextPage(t.Context()))(t).ClusterVersions {
				got = append(got, *v.ClusterVersion+" "+string(v.VersionStatus))
			}
		}
		return got
	}
	all := []string{"1.35 STANDARD_SUPPORT", "1.34 STANDARD_SUPPORT", "1.33 EXTENDED_SUPPORT", "1.32 EXTENDED_SUPPORT", "1.31 EXTENDED_SUPPORT"}
	if diff := cmp.Diff(all, status(&awseks.DescribeClusterVersionsInput{MaxResults: aws.Int32(2)})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(all[2:], status(&awseks.DescribeClusterVersionsInput{VersionStatus: "EXTENDED_SUPPORT"})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(all[1:2], status(&awseks.DescribeClusterVersionsInput{ClusterVersions: []string{"1.34"}})); diff != "" {
		t.Error(diff)
	}
	w.sleep(10 * 365 * 24 * time.Hour)
	if diff := cmp.Diff(all[:1], status(&awseks.DescribeClusterVersionsInput{})); diff != "" {
		t.Errorf("in ten years: %s", diff)
	}
	if got := status(&awseks.DescribeClusterVersionsInput{IncludeAll: aws.Bool(true)}); len(got) != len(all) {
		t.Errorf("with those without support: %v", got)
	}
}

// failing is a store that is cut off after so many commits.
type failing struct {
	kv.Store
	left atomic.Int64
}

func (s *failing) Commit(ctx context.Context, ops ...kv.Op) (int64, error) {
	if s.left.Add(-1) < 0 {
		return 0, fmt.Errorf("cut off: %w", kv.ErrUnavailable)
	}
	return s.Store.Commit(ctx, ops...)
}

func TestClusterWithManyAssociationsIsDeletedEvenAfterFailures(t *testing.T) {
	t.Parallel()
	w := newWorld()
	store := &failing{Store: w.store}
	store.left.Store(1 << 40)
	r := w.start(t, store).withAccount(t, account)
	role := r.role(t, "app", trustPods)
	for _, name := range []string{"demo", "demo2"} {
		r.hosted(t, name)
	}
	const n = 3*kv.MaxOps + 5
	for i := range n {
		r.associate(t, "demo", "ns", fmt.Sprintf("sa-%d", i), role)
	}
	kept := r.associate(t, "demo2", "ns", "app", role)
	cluster, _ := r.eks.Cluster(account, region, "demo")

	for _, commits := range []int64{0, 1, 1} {
		store.left.Store(commits)
		if _, err := r.client().DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("demo")}); err == nil {
			t.Fatalf("deleted with %d commits", commits)
		}
		if commits == 0 {
			continue
		}
		described := must(r.client().DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: aws.String("demo")}))(t).Cluster
		if described.Status != "DELETING" {
			t.Errorf("status = %s", described.Status)
		}
		if _, ok := r.eks.Cluster(account, region, "demo"); ok {
			t.Error("a cluster that is being deleted is found")
		}
		if keys, err := r.eks.Keys(cluster).Keys(t.Context(), ""); len(keys) > 0 {
			t.Errorf("a cluster that is being deleted has keys: %v, %v", keys, err)
		}
	}
	store.left.Store(1 << 40)
	_, err := r.create("demo", "ns", "late", role)
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: demo.")
	_, err = r.call(t, "POST", "/lanyard/clusters", `{"name":"demo"}`)
	wantRefused(t, err, "ResourceInUseException", "")

	must(r.client().DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("demo")}))(t)
	rows, _, err := w.store.List(t.Context(), "/lanyard/eks-")
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, e := range rows {
		got = append(got, e.Key)
	}
	want := []string{
		"/lanyard/eks-access-entries/111122223333/us-east-1/demo2/" + rootARN,
		"/lanyard/eks-associations/111122223333/us-east-1/demo2/ns/app",
		"/lanyard/eks-clusters/111122223333/us-east-1/demo2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r.hosted(t, "demo")
	out := must(r.client().ListPodIdentityAssociations(t.Context(), &awseks.ListPodIdentityAssociationsInput{ClusterName: aws.String("demo")}))(t)
	if len(out.Associations) > 0 {
		t.Errorf("the new cluster has associations of the old one: %v", out.Associations)
	}
	must(r.client().DescribePodIdentityAssociation(t.Context(), &awseks.DescribePodIdentityAssociationInput{
		ClusterName: aws.String("demo2"), AssociationId: kept.AssociationId,
	}))(t)
}
