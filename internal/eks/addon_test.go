package eks_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/google/go-cmp/cmp"
)

const driver = "aws-ebs-csi-driver"

func (r *replica) createAddon(t testing.TB, in *awseks.CreateAddonInput) *types.Addon {
	t.Helper()
	in.ClusterName = aws.String("demo")
	return must(r.client().CreateAddon(t.Context(), in))(t).Addon
}

func (r *replica) addon(t testing.TB, name string) *types.Addon {
	t.Helper()
	return must(r.client().DescribeAddon(t.Context(), &awseks.DescribeAddonInput{ClusterName: aws.String("demo"), AddonName: &name}))(t).Addon
}

// owned is the associations of the cluster that an add-on owns, as service account → role.
func (r *replica) owned(t testing.TB, a *types.Addon) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, association := range a.PodIdentityAssociations {
		id := association[strings.LastIndexByte(association, '/')+1:]
		d := r.describe(t, "demo", id)
		if *d.AssociationArn != association || aws.ToString(d.OwnerArn) != *a.AddonArn {
			t.Errorf("association %s of %s has the owner %s", association, *a.AddonArn, aws.ToString(d.OwnerArn))
		}
		all[*d.Namespace+"/"+*d.ServiceAccount] = *d.RoleArn
	}
	return all
}

func gives(accounts ...string) (list []types.AddonPodIdentityAssociations) {
	for i := 0; i < len(accounts); i += 2 {
		list = append(list, types.AddonPodIdentityAssociations{ServiceAccount: &accounts[i], RoleArn: &accounts[i+1]})
	}
	return list
}

func TestTheAgentsAddon(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	c := r.client()

	_, err := c.DescribeAddon(t.Context(), &awseks.DescribeAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String("eks-pod-identity-agent")})
	wantRefused(t, err, "ResourceNotFoundException", "No addon: eks-pod-identity-agent found in cluster: demo")
	versions := must(c.DescribeAddonVersions(t.Context(), &awseks.DescribeAddonVersionsInput{
		AddonName: aws.String("eks-pod-identity-agent"), KubernetesVersion: aws.String("1.35"),
	}))(t).Addons
	if len(versions) != 1 || len(versions[0].AddonVersions) == 0 {
		t.Fatalf("versions: %+v", versions)
	}
	for i, v := range versions[0].AddonVersions {
		if len(v.Compatibilities) != 1 || v.Compatibilities[0].DefaultVersion != (i == 0) || v.RequiresIamPermissions {
			t.Errorf("version %s: %+v", *v.AddonVersion, v.Compatibilities)
		}
	}
	made := r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent"), Tags: map[string]string{"team": "web"}})
	if !regexp.MustCompile(`^arn:aws:eks:us-east-1:111122223333:addon/demo/eks-pod-identity-agent/[0-9a-f-]{36}$`).MatchString(*made.AddonArn) {
		t.Errorf("ARN = %s", *made.AddonArn)
	}
	got := r.addon(t, "eks-pod-identity-agent")
	if diff := cmp.Diff([]any{types.AddonStatusActive, *versions[0].AddonVersions[0].AddonVersion, "kube-system", map[string]string{"team": "web"}, 0},
		[]any{got.Status, *got.AddonVersion, *got.NamespaceConfig.Namespace, got.Tags, len(got.Health.Issues)}); diff != "" {
		t.Error(diff)
	}
	list := must(c.ListAddons(t.Context(), &awseks.ListAddonsInput{ClusterName: aws.String("demo")}))(t).Addons
	if !slices.Equal(list, []string{"eks-pod-identity-agent"}) {
		t.Errorf("add-ons: %q", list)
	}

	update := must(c.UpdateAddon(t.Context(), &awseks.UpdateAddonInput{
		ClusterName: aws.String("demo"), AddonName: aws.String("eks-pod-identity-agent"),
		AddonVersion: aws.String("v1.2.0-eksbuild.1"), ConfigurationValues: aws.String(`{"agent": {"additionalArgs": {"-b": "169.254.170.23"}}}`),
	}))(t).Update
	if update.Status != types.UpdateStatusSuccessful || update.Type != types.UpdateTypeAddonUpdate || len(update.Params) != 2 {
		t.Errorf("update: %+v", update)
	}
	if got := r.addon(t, "eks-pod-identity-agent"); *got.AddonVersion != "v1.2.0-eksbuild.1" || !strings.Contains(*got.ConfigurationValues, "additionalArgs") {
		t.Errorf("after the update: %+v", got)
	}

	must(c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: made.AddonArn, Tags: map[string]string{"stage": "test"}}))(t)
	must(c.UntagResource(t.Context(), &awseks.UntagResourceInput{ResourceArn: made.AddonArn, TagKeys: []string{"team"}}))(t)
	tags := must(c.ListTagsForResource(t.Context(), &awseks.ListTagsForResourceInput{ResourceArn: made.AddonArn}))(t).Tags
	if diff := cmp.Diff(map[string]string{"stage": "test"}, tags); diff != "" {
		t.Error(diff)
	}
	_, err = c.TagResource(t.Context(), &awseks.TagResourceInput{
		ResourceArn: aws.String("arn:aws:eks:us-east-1:111122223333:addon/demo/eks-pod-identity-agent/another"), Tags: map[string]string{"a": "b"},
	})
	wantRefused(t, err, "NotFoundException", "")

	deleted := must(c.DeleteAddon(t.Context(), &awseks.DeleteAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String("eks-pod-identity-agent")}))(t)
	if deleted.Addon.Status != types.AddonStatusDeleting {
		t.Errorf("status = %s", deleted.Addon.Status)
	}
	_, err = c.DeleteAddon(t.Context(), &awseks.DeleteAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String("eks-pod-identity-agent")})
	wantRefused(t, err, "ResourceNotFoundException", "")
}

func TestAssociationsFollowTheirAddon(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	c := r.client()
	first, second := r.role(t, "first", trustPods), r.role(t, "second", trustPods)

	made := r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("ebs-csi-controller-sa", first, "node", first)})
	same := func(want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, r.owned(t, r.addon(t, driver))); diff != "" {
			t.Error(diff)
		}
	}
	same(map[string]string{"kube-system/ebs-csi-controller-sa": first, "kube-system/node": first})

	t.Run("they are changed by way of the add-on alone", func(t *testing.T) {
		id := made.PodIdentityAssociations[0][strings.LastIndexByte(made.PodIdentityAssociations[0], '/')+1:]
		_, err := c.DeletePodIdentityAssociation(t.Context(), &awseks.DeletePodIdentityAssociationInput{ClusterName: aws.String("demo"), AssociationId: &id})
		wantRefused(t, err, "InvalidRequestException", "")
		_, err = c.UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
			ClusterName: aws.String("demo"), AssociationId: &id, RoleArn: &second,
		})
		wantRefused(t, err, "InvalidRequestException", "")
	})
	update := func(list []types.AddonPodIdentityAssociations) error {
		_, err := c.UpdateAddon(t.Context(), &awseks.UpdateAddonInput{
			ClusterName: aws.String("demo"), AddonName: aws.String(driver), PodIdentityAssociations: list,
		})
		return err
	}
	t.Run("an update without them leaves them", func(t *testing.T) {
		must(c.UpdateAddon(t.Context(), &awseks.UpdateAddonInput{
			ClusterName: aws.String("demo"), AddonName: aws.String(driver), ConfigurationValues: aws.String("controller:\n  replicas: 1\n"),
		}))(t)
		same(map[string]string{"kube-system/ebs-csi-controller-sa": first, "kube-system/node": first})
	})
	t.Run("an update with others adds, changes and removes", func(t *testing.T) {
		if err := update(gives("ebs-csi-controller-sa", second, "other", first)); err != nil {
			t.Fatal(err)
		}
		same(map[string]string{"kube-system/ebs-csi-controller-sa": second, "kube-system/other": first})
	})
	t.Run("somebody else's is a conflict, and nothing is changed", func(t *testing.T) {
		r.associate(t, "demo", "kube-system", "manual", first)
		wantRefused(t, update(gives("ebs-csi-controller-sa", first, "manual", first)), "ResourceInUseException", "")
		same(map[string]string{"kube-system/ebs-csi-controller-sa": second, "kube-system/other": first})
		_, err := c.CreateAddon(t.Context(), &awseks.CreateAddonInput{
			ClusterName: aws.String("demo"), AddonName: aws.String("vpc-cni"), PodIdentityAssociations: gives("manual", first),
		})
		wantRefused(t, err, "ResourceInUseException", "")
		_, err = c.DescribeAddon(t.Context(), &awseks.DescribeAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String("vpc-cni")})
		wantRefused(t, err, "ResourceNotFoundException", "")
	})
	t.Run("an update with none removes all", func(t *testing.T) {
		if err := update([]types.AddonPodIdentityAssociations{}); err != nil {
			t.Fatal(err)
		}
		same(map[string]string{})
	})
	associations := func() (list []string) {
		for _, a := range must(c.ListPodIdentityAssociations(t.Context(), &awseks.ListPodIdentityAssociationsInput{ClusterName: aws.String("demo")}))(t).Associations {
			list = append(list, *a.ServiceAccount+" of "+aws.ToString(a.OwnerArn))
		}
		return list
	}
	t.Run("they go with the add-on", func(t *testing.T) {
		if err := update(gives("ebs-csi-controller-sa", first)); err != nil {
			t.Fatal(err)
		}
		must(c.DeleteAddon(t.Context(), &awseks.DeleteAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String(driver)}))(t)
		if diff := cmp.Diff([]string{"manual of "}, associations()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("those of a preserved one stay, and are nobody's", func(t *testing.T) {
		r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("ebs-csi-controller-sa", first)})
		must(c.DeleteAddon(t.Context(), &awseks.DeleteAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String(driver), Preserve: true}))(t)
		if diff := cmp.Diff([]string{"ebs-csi-controller-sa of ", "manual of "}, associations()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAddonsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	pods, eks := r.role(t, "pods", trustPods), r.role(t, "eks", trustEKS)
	r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String("vpc-cni"), ClientRequestToken: aws.String("one")})
	again := r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String("vpc-cni"), ClientRequestToken: aws.String("one")})
	if *again.AddonArn != *r.addon(t, "vpc-cni").AddonArn {
		t.Error("the same request has made another add-on")
	}
	for _, c := range []struct {
		name, code, message string
		in                  awseks.CreateAddonInput
	}{
		{"one that is there", "ResourceInUseException", "Addon already exists.", awseks.CreateAddonInput{AddonName: aws.String("vpc-cni")}},
		{"one that is not in the catalogue", "InvalidParameterException", "Addon nothing specified is not supported", awseks.CreateAddonInput{AddonName: aws.String("nothing")}},
		{"a version that it does not have", "InvalidParameterException", "Addon version specified is not supported",
			awseks.CreateAddonInput{AddonName: aws.String(driver), AddonVersion: aws.String("v9.9.9-eksbuild.1")}},
		{"a cluster that is not there", "ResourceNotFoundException", "No cluster found for name: nowhere.",
			awseks.CreateAddonInput{ClusterName: aws.String("nowhere"), AddonName: aws.String(driver)}},
		{"a configuration that it does not take", "InvalidParameterException", "",
			awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent"), ConfigurationValues: aws.String(`{"replicas": 3}`)}},
		{"a configuration that is neither JSON nor YAML", "InvalidParameterException", "",
			awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent"), ConfigurationValues: aws.String(`{"agent": `)}},
		{"a configuration that is no object", "InvalidParameterException", "",
			awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent"), ConfigurationValues: aws.String(`[1]`)}},
		{"a role that is not there", "InvalidParameterException", "Role provided in the request does not exist.",
			awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("a", "arn:aws:iam::111122223333:role/none")}},
		{"a role for IRSA that is not there", "InvalidParameterException", "Role provided in the request does not exist.",
			awseks.CreateAddonInput{AddonName: aws.String(driver), ServiceAccountRoleArn: aws.String("arn:aws:iam::111122223333:role/none")}},
		{"a role that does not trust EKS Pod Identity", "InvalidParameterException", "Trust policy of the role provided is invalid.",
			awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("a", eks)}},
		{"a role of another account", "AccessDeniedException", "Cross-account pass role is not allowed.",
			awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("a", "arn:aws:iam::444455556666:role/r")}},
		{"a service account twice", "InvalidParameterException", "", awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("a", pods, "a", pods)}},
		{"a pattern of service accounts", "InvalidParameterException", "", awseks.CreateAddonInput{AddonName: aws.String(driver), PodIdentityAssociations: gives("a*", pods)}},
		{"a reserved tag", "InvalidParameterException", "", awseks.CreateAddonInput{AddonName: aws.String(driver), Tags: map[string]string{"aws:x": "y"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.in.ClusterName == nil {
				c.in.ClusterName = aws.String("demo")
			}
			_, err := r.client().CreateAddon(t.Context(), &c.in)
			wantRefused(t, err, c.code, c.message)
		})
	}
	list := must(r.client().ListAddons(t.Context(), &awseks.ListAddonsInput{ClusterName: aws.String("demo")}))(t).Addons
	if !slices.Equal(list, []string{"vpc-cni"}) {
		t.Errorf("what was refused has left add-ons: %q", list)
	}
}

func TestAddonsAskForPermission(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "pods", trustPods)
	in := func() *awseks.CreateAddonInput {
		return &awseks.CreateAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String(driver), PodIdentityAssociations: gives("a", role)}
	}
	for i, c := range []struct{ statements, lacks string }{
		{`{"Effect":"Allow","Action":"iam:PassRole","Resource":"*"},{"Effect":"Allow","Action":"eks:CreatePodIdentityAssociation","Resource":"*"}`, "eks:CreateAddon"},
		{`{"Effect":"Allow","Action":"eks:Create*","Resource":"*"}`, "iam:PassRole"},
		{`{"Effect":"Allow","Action":["iam:PassRole","eks:CreateAddon"],"Resource":"*"}`, "eks:CreatePodIdentityAssociation"},
	} {
		_, err := r.user(t, fmt.Sprintf("user-%d", i), c.statements).client().CreateAddon(t.Context(), in())
		if err == nil || !strings.Contains(err.Error(), "is not authorized to perform: "+c.lacks) {
			t.Errorf("without %s: %v", c.lacks, err)
		}
	}
	allowed := r.user(t, "allowed", `{"Effect":"Allow","Action":["iam:PassRole","eks:Create*"],"Resource":"*"},`+
		`{"Effect":"Allow","Action":"eks:DescribeAddon","Resource":"arn:aws:eks:us-east-1:111122223333:addon/demo/`+driver+`/*"}`)
	must(allowed.client().CreateAddon(t.Context(), in()))(t)
	allowed.addon(t, driver)
	_, err := allowed.client().DescribeAddon(t.Context(), &awseks.DescribeAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String("vpc-cni")})
	wantRefused(t, err, "AccessDeniedException", "")

	// An update is nobody's way round the permissions on associations.
	other := r.role(t, "other", trustPods)
	const updates = `{"Effect":"Allow","Action":["iam:PassRole","eks:UpdateAddon"],"Resource":"*"},`
	for i, c := range []struct {
		gives []types.AddonPodIdentityAssociations
		needs string // empty for no more
	}{
		{gives("a", role), ""},
		{gives("a", role, "b", role), "eks:CreatePodIdentityAssociation"},
		{gives("a", other, "b", role), "eks:UpdatePodIdentityAssociation"},
		{gives("b", role), "eks:DeletePodIdentityAssociation"},
	} {
		in := &awseks.UpdateAddonInput{ClusterName: aws.String("demo"), AddonName: aws.String(driver), PodIdentityAssociations: c.gives}
		if c.needs != "" {
			_, err := r.user(t, fmt.Sprintf("updates-%d", i), updates+`{"Effect":"Deny","Action":"`+c.needs+`","Resource":"*"}`).client().UpdateAddon(t.Context(), in)
			if err == nil || !strings.Contains(err.Error(), "is not authorized to perform: "+c.needs) {
				t.Errorf("without %s: %v", c.needs, err)
			}
		}
		statements := strings.TrimSuffix(updates, ",")
		if c.needs != "" {
			statements = updates + `{"Effect":"Allow","Action":"` + c.needs + `","Resource":"*"}`
		}
		must(r.user(t, fmt.Sprintf("may-%d", i), statements).client().UpdateAddon(t.Context(), in))(t)
	}
}

func TestCatalogueIsPagedAndFiltered(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	names := func(in *awseks.DescribeAddonVersionsInput) (list []string) {
		for pages := awseks.NewDescribeAddonVersionsPaginator(r.client(), in); pages.HasMorePages(); {
			for _, a := range must(pages.NextPage(t.Context()))(t).Addons {
				list = append(list, *a.AddonName)
			}
		}
		return list
	}
	all := []string{"eks-pod-identity-agent", "vpc-cni", driver}
	for _, c := range []struct {
		in   awseks.DescribeAddonVersionsInput
		want []string
	}{
		{awseks.DescribeAddonVersionsInput{}, all},
		{awseks.DescribeAddonVersionsInput{MaxResults: aws.Int32(1)}, all},
		{awseks.DescribeAddonVersionsInput{Types: []string{"storage", "security"}}, []string{"eks-pod-identity-agent", driver}},
		{awseks.DescribeAddonVersionsInput{Publishers: []string{"somebody"}}, nil},
		{awseks.DescribeAddonVersionsInput{KubernetesVersion: aws.String("1.10")}, nil},
		{awseks.DescribeAddonVersionsInput{Owners: []string{"aws"}, AddonName: aws.String("vpc-cni")}, []string{"vpc-cni"}},
	} {
		if diff := cmp.Diff(c.want, names(&c.in)); diff != "" {
			t.Errorf("%+v: %s", c.in, diff)
		}
	}
	for _, a := range all {
		versions := must(r.client().DescribeAddonVersions(t.Context(), &awseks.DescribeAddonVersionsInput{AddonName: &a}))(t).Addons[0].AddonVersions
		for _, v := range versions {
			if !regexp.MustCompile(`^v\d+\.\d+\.\d+-eksbuild\.\d+$`).MatchString(*v.AddonVersion) {
				t.Errorf("%s has the version %s", a, *v.AddonVersion)
			}
			out := must(r.client().DescribeAddonConfiguration(t.Context(), &awseks.DescribeAddonConfigurationInput{AddonName: &a, AddonVersion: v.AddonVersion}))(t)
			if !json.Valid([]byte(*out.ConfigurationSchema)) {
				t.Errorf("%s: schema %s", a, *out.ConfigurationSchema)
			}
			if v.RequiresIamPermissions != (len(out.PodIdentityConfiguration) > 0) {
				t.Errorf("%s: %+v", a, out.PodIdentityConfiguration)
			}
			for _, id := range out.PodIdentityConfiguration {
				for _, p := range id.RecommendedManagedPolicies {
					if !strings.HasPrefix(p, "arn:aws:iam::aws:policy/") {
						t.Errorf("%s: policy %s", a, p)
					}
				}
			}
		}
	}
	_, err := r.client().DescribeAddonConfiguration(t.Context(), &awseks.DescribeAddonConfigurationInput{AddonName: aws.String("vpc-cni"), AddonVersion: aws.String("v0.0.1")})
	wantRefused(t, err, "InvalidParameterException", "Addon version specified is not supported")
}

// Of a cluster elsewhere nothing is known but that agents ask.
func TestHealthOfTheAgentsOfRegisteredClusters(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	if _, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"demo","issuer":"https://kubernetes.example.com"}`); err != nil {
		t.Fatal(err)
	}
	r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent")})
	want := func(status types.AddonStatus, issues ...types.AddonIssueCode) {
		t.Helper()
		a := r.addon(t, "eks-pod-identity-agent")
		var codes []types.AddonIssueCode
		for _, i := range a.Health.Issues {
			codes = append(codes, i.Code)
		}
		if a.Status != status || !slices.Equal(codes, issues) {
			t.Errorf("status %s, issues %v; want %s, %v", a.Status, codes, status, issues)
		}
	}
	heard := func(node string) {
		t.Helper()
		cluster, ok := r.eks.Cluster(account, region, "demo")
		if !ok {
			t.Fatal("there is no cluster")
		}
		r.eks.AgentAsked(cluster, node)
	}
	want(types.AddonStatusActive, types.AddonIssueCodeInsufficientNumberOfReplicas)
	r.w.sleep(20 * time.Minute)
	want(types.AddonStatusDegraded, types.AddonIssueCodeInsufficientNumberOfReplicas)
	heard("node-1")
	eventually(t, func() bool { return r.addon(t, "eks-pod-identity-agent").Status == types.AddonStatusActive })
	want(types.AddonStatusActive)
	r.w.sleep(4*time.Hour - time.Second)
	want(types.AddonStatusActive)
	r.w.sleep(time.Second)
	want(types.AddonStatusDegraded, types.AddonIssueCodeInsufficientNumberOfReplicas)
	heard("node-1")
	eventually(t, func() bool { return r.addon(t, "eks-pod-identity-agent").Status == types.AddonStatusActive })

	another := r.w.start(t, r.w.store).as(r.root)
	if a := another.addon(t, "eks-pod-identity-agent"); a.Status != types.AddonStatusActive {
		t.Errorf("another replica says %s", a.Status)
	}
	must(r.client().DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("demo")}))(t)
	if _, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"demo","issuer":"https://kubernetes.example.com"}`); err != nil {
		t.Fatal(err)
	}
	if list := must(r.client().ListAddons(t.Context(), &awseks.ListAddonsInput{ClusterName: aws.String("demo")}))(t).Addons; len(list) > 0 {
		t.Errorf("another cluster of the name has the add-ons %q", list)
	}
	r.createAddon(t, &awseks.CreateAddonInput{AddonName: aws.String("eks-pod-identity-agent")})
	want(types.AddonStatusActive, types.AddonIssueCodeInsufficientNumberOfReplicas)
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for tick := time.Tick(time.Millisecond); !done(); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal("it has not come to that")
		}
	}
}
