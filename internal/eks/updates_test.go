package eks_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/google/go-cmp/cmp"
)

// created makes a cluster as AWS's users do, which has settings.
func (r *replica) created(t testing.TB, name string) {
	t.Helper()
	must(r.client().CreateCluster(t.Context(), &awseks.CreateClusterInput{
		Name: &name, RoleArn: aws.String(r.role(t, "cluster-"+name, trustEKS)), ResourcesVpcConfig: &types.VpcConfigRequest{SubnetIds: []string{"subnet-1"}},
	}))(t)
}

// update updates the agent's add-on of the cluster demo.
func (r *replica) update(t testing.TB, version string) *types.Update {
	t.Helper()
	return must(r.client().UpdateAddon(t.Context(), &awseks.UpdateAddonInput{
		ClusterName: aws.String("demo"), AddonName: aws.String("eks-pod-identity-agent"), AddonVersion: &version, ResolveConflicts: types.ResolveConflictsOverwrite,
	}))(t).Update
}

// updates is the IDs of the updates of an add-on of the cluster demo, or of the cluster if addon is nil, by pages of a size.
func (r *replica) updates(t testing.TB, addon *string, page int32) (ids []string, pages int) {
	t.Helper()
	in := &awseks.ListUpdatesInput{Name: aws.String("demo"), AddonName: addon, MaxResults: &page}
	for p := awseks.NewListUpdatesPaginator(r.client(), in); p.HasMorePages(); pages++ {
		ids = append(ids, must(p.NextPage(t.Context()))(t).UpdateIds...)
	}
	return ids, pages
}

func TestUpdatesOfAddonsAreKept(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.created(t, "demo")
	c := r.client()
	agent := aws.String("eks-pod-identity-agent")
	r.createAddon(t, &awseks.CreateAddonInput{AddonName: agent})

	update := r.update(t, "v1.2.0-eksbuild.1")
	find := func(id, addon *string) (*types.Update, error) {
		out, err := c.DescribeUpdate(t.Context(), &awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: id, AddonName: addon})
		if err != nil {
			return nil, err
		}
		return out.Update, nil
	}
	got := must(find(update.Id, agent))(t)
	if !got.CreatedAt.Equal(aws.ToTime(update.CreatedAt).Truncate(time.Millisecond)) {
		t.Errorf("made at %s, and said to be at %s", update.CreatedAt, got.CreatedAt)
	}
	seen := []string{string(got.Status), string(got.Type)}
	for _, p := range got.Params {
		seen = append(seen, string(p.Type)+"="+*p.Value)
	}
	want := []string{"Successful", "AddonUpdate", "AddonVersion=v1.2.0-eksbuild.1", "ResolveConflicts=OVERWRITE"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("the update (-want +got):\n%s", diff)
	}

	t.Run("it is the add-on's, not the cluster's", func(t *testing.T) {
		_, err := find(update.Id, nil)
		wantRefused(t, err, "ResourceNotFoundException", "No update found for ID: "+*update.Id)
		if ids, _ := r.updates(t, nil, 100); len(ids) > 0 {
			t.Errorf("the cluster has the updates %q", ids)
		}
	})
	t.Run("pages end", func(t *testing.T) {
		want := []string{*update.Id, *r.update(t, "v1.3.4-eksbuild.1").Id, *r.update(t, "v1.2.0-eksbuild.1").Id}
		slices.Sort(want)
		ids, pages := r.updates(t, agent, 2)
		if diff := cmp.Diff(want, ids); diff != "" || pages != 2 {
			t.Errorf("%d pages (-want +got):\n%s", pages, diff)
		}
	})
	for _, c := range []struct {
		name string
		in   awseks.DescribeUpdateInput
		text string
	}{
		{"an update that there is not", awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: aws.String("none"), AddonName: agent}, "No update found for ID: none"},
		{"an add-on that there is not", awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: update.Id, AddonName: aws.String("vpc-cni")},
			"No addon: vpc-cni found in cluster: demo"},
		{"a cluster that there is not", awseks.DescribeUpdateInput{Name: aws.String("none"), UpdateId: update.Id, AddonName: agent}, "No cluster found for name: none."},
		{"a node group", awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: update.Id, NodegroupName: aws.String("ng")}, "No node group found for name: ng."},
		{"a capability", awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: update.Id, CapabilityName: aws.String("ack")}, "No capability found for name: ack."},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.client().DescribeUpdate(t.Context(), &c.in)
			wantRefused(t, err, "ResourceNotFoundException", c.text)
			_, err = r.client().ListUpdates(t.Context(), &awseks.ListUpdatesInput{Name: c.in.Name, AddonName: c.in.AddonName, NodegroupName: c.in.NodegroupName, CapabilityName: c.in.CapabilityName})
			if c.name != "an update that there is not" {
				wantRefused(t, err, "ResourceNotFoundException", c.text)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("an update that is refused is none", func(t *testing.T) {
		before, _ := r.updates(t, agent, 100)
		_, err := c.UpdateAddon(t.Context(), &awseks.UpdateAddonInput{ClusterName: aws.String("demo"), AddonName: agent, AddonVersion: aws.String("v0")})
		wantRefused(t, err, "InvalidParameterException", "")
		if after, _ := r.updates(t, agent, 100); !slices.Equal(before, after) {
			t.Errorf("there were %q, and are %q", before, after)
		}
	})
	t.Run("only the latest are kept", func(t *testing.T) {
		var latest []string
		for i := range 101 {
			r.w.sleep(time.Second)
			id := *r.update(t, fmt.Sprintf("v1.%s-eksbuild.1", []string{"2.0", "3.4"}[i%2])).Id
			if i > 0 {
				latest = append(latest, id)
			}
		}
		slices.Sort(latest)
		if ids, _ := r.updates(t, agent, 100); !slices.Equal(ids, latest) {
			t.Errorf("%d updates are kept, which are not the latest 100", len(ids))
		}
	})
	t.Run("an add-on that is made again has none", func(t *testing.T) {
		must(c.DeleteAddon(t.Context(), &awseks.DeleteAddonInput{ClusterName: aws.String("demo"), AddonName: agent}))(t)
		r.createAddon(t, &awseks.CreateAddonInput{AddonName: agent})
		if ids, _ := r.updates(t, agent, 100); len(ids) > 0 {
			t.Errorf("it has %q", ids)
		}
	})
}

func TestUpdatesOfClusters(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.created(t, "demo")
	c := r.client()
	ask := func(in awseks.UpdateClusterConfigInput) (*types.Update, error) {
		in.Name = aws.String("demo")
		out, err := c.UpdateClusterConfig(t.Context(), &in)
		if err != nil {
			return nil, err
		}
		return out.Update, nil
	}
	logs := func(enabled bool, kinds ...types.LogType) *types.Logging {
		return &types.Logging{ClusterLogging: []types.LogSetup{{Enabled: &enabled, Types: kinds}}}
	}
	mode := func(m types.AuthenticationMode) *types.UpdateAccessConfigRequest {
		return &types.UpdateAccessConfigRequest{AuthenticationMode: m}
	}
	done := 0
	for _, step := range []struct {
		name    string
		in      awseks.UpdateClusterConfigInput
		kind    types.UpdateType // empty: it is refused
		params  []string
		refusal string
	}{
		{"nothing", awseks.UpdateClusterConfigInput{}, "", nil, "The request names nothing to update."},
		{"two things", awseks.UpdateClusterConfigInput{Logging: logs(true, "api"), AccessConfig: mode("API")}, "", nil, "Only one type of update can be allowed."},
		{"logs", awseks.UpdateClusterConfigInput{Logging: logs(true, "api", "audit")}, "LoggingUpdate",
			[]string{`ClusterLogging={"clusterLogging":[{"types":["api","audit"],"enabled":true}]}`}, ""},
		{"the same logs", awseks.UpdateClusterConfigInput{Logging: logs(true, "audit")}, "", nil, "No changes needed for the logging config provided"},
		{"fewer logs", awseks.UpdateClusterConfigInput{Logging: logs(false, "api")}, "LoggingUpdate",
			[]string{`ClusterLogging={"clusterLogging":[{"types":["api"],"enabled":false}]}`}, ""},
		{"the endpoint", awseks.UpdateClusterConfigInput{ResourcesVpcConfig: &types.VpcConfigRequest{EndpointPrivateAccess: aws.Bool(true)}}, "EndpointAccessUpdate",
			[]string{"EndpointPublicAccess=true", "EndpointPrivateAccess=true", `PublicAccessCidrs=["0.0.0.0/0"]`}, ""},
		{"the same endpoint", awseks.UpdateClusterConfigInput{ResourcesVpcConfig: &types.VpcConfigRequest{EndpointPrivateAccess: aws.Bool(true)}}, "", nil,
			"Cluster is already at the desired configuration with endpointPrivateAccess: true , endpointPublicAccess: true, and Public Endpoint Restrictions: [0.0.0.0/0]"},
		{"no endpoint", awseks.UpdateClusterConfigInput{ResourcesVpcConfig: &types.VpcConfigRequest{EndpointPrivateAccess: aws.Bool(false), EndpointPublicAccess: aws.Bool(false)}},
			"", nil, "Private and public endpoint access cannot be false"},
		{"subnets", awseks.UpdateClusterConfigInput{ResourcesVpcConfig: &types.VpcConfigRequest{SubnetIds: []string{"subnet-2"}}}, "VpcConfigUpdate",
			[]string{`Subnets=["subnet-2"]`, "SecurityGroups=[]"}, ""},
		{"the same subnets", awseks.UpdateClusterConfigInput{ResourcesVpcConfig: &types.VpcConfigRequest{SubnetIds: []string{"subnet-2"}}}, "", nil,
			"No changes needed for the VPC config provided"},
		{"access", awseks.UpdateClusterConfigInput{AccessConfig: mode("API")}, "AccessConfigUpdate", []string{"AuthenticationMode=API"}, ""},
		{"access as before", awseks.UpdateClusterConfigInput{AccessConfig: mode("CONFIG_MAP")}, "", nil, "Unsupported authentication mode update from API to CONFIG_MAP"},
		{"support", awseks.UpdateClusterConfigInput{UpgradePolicy: &types.UpgradePolicyRequest{SupportType: "STANDARD"}}, "UpgradePolicyUpdate",
			[]string{`UpgradePolicy={"supportType":"STANDARD"}`}, ""},
		{"the same support", awseks.UpdateClusterConfigInput{UpgradePolicy: &types.UpgradePolicyRequest{SupportType: "STANDARD"}}, "", nil,
			"No changes needed for the upgrade policy provided"},
		{"what no cluster keeps", awseks.UpdateClusterConfigInput{DeletionProtection: aws.Bool(true)}, "", nil, ""},
	} {
		update, err := ask(step.in)
		if step.kind == "" {
			wantRefused(t, err, "InvalidParameterException", step.refusal)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		done++
		got := must(c.DescribeUpdate(t.Context(), &awseks.DescribeUpdateInput{Name: aws.String("demo"), UpdateId: update.Id}))(t).Update
		var params []string
		for _, p := range got.Params {
			params = append(params, string(p.Type)+"="+*p.Value)
		}
		if diff := cmp.Diff(step.params, params); diff != "" || got.Type != step.kind || got.Status != types.UpdateStatusSuccessful || *got.Id != *update.Id {
			t.Errorf("%s: %s of type %s, params (-want +got):\n%s", step.name, got.Status, got.Type, diff)
		}
	}
	if ids, _ := r.updates(t, nil, 100); len(ids) != done {
		t.Errorf("%d updates are listed, want %d", len(ids), done)
	}
	cluster := must(c.DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: aws.String("demo")}))(t).Cluster
	on, off := cluster.Logging.ClusterLogging[0], cluster.Logging.ClusterLogging[1]
	if diff := cmp.Diff([]any{[]types.LogType{"audit"}, true, 4, false, true, []string{"subnet-2"}, types.AuthenticationModeApi, types.SupportTypeStandard},
		[]any{on.Types, *on.Enabled, len(off.Types), *off.Enabled, cluster.ResourcesVpcConfig.EndpointPrivateAccess, cluster.ResourcesVpcConfig.SubnetIds,
			cluster.AccessConfig.AuthenticationMode, cluster.UpgradePolicy.SupportType}); diff != "" {
		t.Errorf("the cluster (-want +got):\n%s", diff)
	}

	must(c.DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("demo")}))(t)
	r.hosted(t, "demo")
	if ids, _ := r.updates(t, nil, 100); len(ids) > 0 {
		t.Errorf("a cluster of the same name has the updates %q", ids)
	}
	_, err := ask(awseks.UpdateClusterConfigInput{Logging: logs(true, "api")})
	wantRefused(t, err, "InvalidRequestException", "The cluster demo was registered: its configuration is not Lanyard's to change.")
}

func TestWhoMaySeeUpdates(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.created(t, "demo")
	agent := aws.String("eks-pod-identity-agent")
	r.createAddon(t, &awseks.CreateAddonInput{AddonName: agent})
	update := r.update(t, "v1.2.0-eksbuild.1")
	cluster, addon := "arn:aws:eks:us-east-1:111122223333:cluster/demo", "arn:aws:eks:us-east-1:111122223333:addon/demo/eks-pod-identity-agent/*"
	for i, c := range []struct {
		resource string
		allowed  bool
	}{{`["` + cluster + `","` + addon + `"]`, true}, {`"` + cluster + `"`, false}, {`"` + addon + `"`, false}} {
		u := r.user(t, fmt.Sprintf("user-%d", i), `{"Effect":"Allow","Action":["eks:DescribeUpdate","eks:ListUpdates"],"Resource":`+c.resource+`}`).client()
		_, describe := u.DescribeUpdate(t.Context(), &awseks.DescribeUpdateInput{Name: aws.String("demo"), AddonName: agent, UpdateId: update.Id})
		_, list := u.ListUpdates(t.Context(), &awseks.ListUpdatesInput{Name: aws.String("demo"), AddonName: agent})
		for _, err := range []error{describe, list} {
			if c.allowed && err != nil {
				t.Errorf("on %s: %v", c.resource, err)
			} else if !c.allowed {
				wantRefused(t, err, "AccessDeniedException", "")
			}
		}
	}
	_, err := r.user(t, "none", `{"Effect":"Allow","Action":"eks:Describe*","Resource":"*"}`).client().UpdateClusterConfig(t.Context(), &awseks.UpdateClusterConfigInput{
		Name: aws.String("demo"), AccessConfig: &types.UpdateAccessConfigRequest{AuthenticationMode: "API"},
	})
	wantRefused(t, err, "AccessDeniedException", "")
}
