package cloudformation_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/cloudformation"
	"github.com/lanyard-id/lanyard/internal/gateway"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	region  = awstest.Region
)

// world is a store, the objects of S3, and the clock of the replicas over them.
type world struct {
	store   kv.Store
	objects http.Handler // nil for replicas without S3
	trail   io.Writer    // gets the records of calls; nil for nobody
	offset  atomic.Int64 // of the clock, in nanoseconds
}

// newWorld is a world with all that a server can have.
func newWorld(t testing.TB) *world {
	t.Helper()
	objects, err := gateway.OpenDirectory(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &world{store: kv.NewMemory(), objects: objects}
}

func (w *world) time() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

func (w *world) sleep(d time.Duration) { w.offset.Add(int64(d)) }

// replica is one server: the services over a store, and real clients of them with one caller's key.
type replica struct {
	awstest.Client
	w        *world
	services *awstest.Services
	stacks   *cloudformation.Service
}

// start starts a replica over a store, which is the world's or one in front of it.
func (w *world) start(t testing.TB, store kv.Store) *replica {
	t.Helper()
	s := awstest.New(t, awstest.Config{Store: store, Now: w.time})
	edge := gateway.Config{Authenticator: s.Authenticator(), Authorize: s.IAM.Authorize, Store: w.objects, Log: s.Log}
	raw := map[string]http.Handler{}
	if w.objects != nil {
		raw["s3"] = gateway.NewS3(edge)
	}
	var handler *awsapi.Handler
	stacks := cloudformation.New(cloudformation.Config{
		DB: s.DB, Keyring: s.Keyring, Partition: "aws", Now: w.time, Log: s.Log,
		Invoke: func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error) {
			return handler.Invoke(ctx, c, service, operation, in)
		},
		Buckets: gateway.NewBuckets(edge, func(
			ctx context.Context, c *awsapi.Caller, service, operation string, do func(context.Context, *awsapi.Caller) error,
		) error {
			return handler.InvokeRaw(ctx, c, service, operation, do)
		}),
	})
	config := awsapi.HandlerConfig{Services: []awsapi.Service{stacks.API()}, Raw: raw}
	if w.trail != nil {
		config.Audit = audit.NewWriter(w.trail)
	}
	handler = s.Handler(t, config)
	return &replica{Client: s.Serve(t, handler), w: w, services: s, stacks: stacks}
}

// newReplica is a world with one replica, as root of the account uses it.
func newReplica(t testing.TB) *replica {
	t.Helper()
	return newWorld(t).root(t)
}

// root is a first replica of the world, as root of the account uses it.
func (w *world) root(t testing.TB) *replica {
	t.Helper()
	r := w.start(t, w.store)
	return r.as(r.services.Root(t, account))
}

// as is the replica as somebody else uses it.
func (r *replica) as(key sigv4.Credentials) *replica {
	copied := *r
	copied.Key = key
	return &copied
}

func (r *replica) cfn() *awscfn.Client {
	return awscfn.New(awscfn.Options{
		Region: region, BaseEndpoint: &r.URL, Credentials: r.Credentials(), HTTPClient: awstest.HTTPClient(), Retryer: aws.NopRetryer{},
	})
}

func (r *replica) s3Client() *awss3.Client {
	return awss3.New(awss3.Options{
		Region: region, BaseEndpoint: &r.URL, Credentials: r.Credentials(), HTTPClient: awstest.HTTPClient(),
		Retryer: aws.NopRetryer{}, UsePathStyle: true,
	})
}

// user makes a user with these statements, and returns the replica as that user uses it.
func (r *replica) user(t testing.TB, name, statements string) *replica {
	t.Helper()
	return r.as(r.User(t, name, statements))
}

// parameters writes a stack's parameters: key, value, key, value.
func parameters(pairs ...string) []cfntypes.Parameter {
	var list []cfntypes.Parameter
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, cfntypes.Parameter{ParameterKey: &pairs[i], ParameterValue: &pairs[i+1]})
	}
	return list
}

func tags(pairs ...string) []cfntypes.Tag {
	var list []cfntypes.Tag
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, cfntypes.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return list
}

var namedIAM = []cfntypes.Capability{cfntypes.CapabilityCapabilityNamedIam}

// create creates a stack and returns it as it is then.
func (r *replica) create(t testing.TB, name, template string, params ...string) cfntypes.Stack {
	t.Helper()
	_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{
		StackName: &name, TemplateBody: &template, Capabilities: namedIAM, Parameters: parameters(params...),
	})
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return r.stack(t, name)
}

// update updates a stack and returns it as it is then.
func (r *replica) update(t testing.TB, name, template string, params ...string) cfntypes.Stack {
	t.Helper()
	_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
		StackName: &name, TemplateBody: &template, Capabilities: namedIAM, Parameters: parameters(params...),
	})
	if err != nil {
		t.Fatalf("update %s: %v", name, err)
	}
	return r.stack(t, name)
}

func (r *replica) delete(t testing.TB, name string) {
	t.Helper()
	if _, err := r.cfn().DeleteStack(t.Context(), &awscfn.DeleteStackInput{StackName: &name}); err != nil {
		t.Fatalf("delete %s: %v", name, err)
	}
}

func (r *replica) stack(t testing.TB, nameOrID string) cfntypes.Stack {
	t.Helper()
	out, err := r.cfn().DescribeStacks(t.Context(), &awscfn.DescribeStacksInput{StackName: &nameOrID})
	if err != nil {
		t.Fatalf("describe %s: %v", nameOrID, err)
	}
	if len(out.Stacks) != 1 {
		t.Fatalf("describe %s: got %d stacks", nameOrID, len(out.Stacks))
	}
	return out.Stacks[0]
}

func wantStatus(t testing.TB, st cfntypes.Stack, want cfntypes.StackStatus) {
	t.Helper()
	if st.StackStatus != want {
		t.Fatalf("stack %s is %s (%s), want %s", aws.ToString(st.StackName), st.StackStatus, aws.ToString(st.StackStatusReason), want)
	}
}

// output is a stack's output.
func output(t testing.TB, st cfntypes.Stack, key string) string {
	t.Helper()
	i := slices.IndexFunc(st.Outputs, func(o cfntypes.Output) bool { return *o.OutputKey == key })
	if i < 0 {
		t.Fatalf("stack %s has no output %s", *st.StackName, key)
	}
	return *st.Outputs[i].OutputValue
}

// physical is the physical ID of a resource.
func (r *replica) physical(t testing.TB, stack, logical string) string {
	t.Helper()
	out, err := r.cfn().DescribeStackResource(t.Context(), &awscfn.DescribeStackResourceInput{StackName: &stack, LogicalResourceId: &logical})
	if err != nil {
		t.Fatalf("describe resource %s of %s: %v", logical, stack, err)
	}
	return aws.ToString(out.StackResourceDetail.PhysicalResourceId)
}

// reasons are the reasons of a stack's events about a resource with a status.
func (r *replica) reasons(t testing.TB, stack, logical, status string) []string {
	t.Helper()
	var reasons []string
	pages := awscfn.NewDescribeStackEventsPaginator(r.cfn(), &awscfn.DescribeStackEventsInput{StackName: &stack})
	for pages.HasMorePages() {
		out, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range out.StackEvents {
			if aws.ToString(e.LogicalResourceId) == logical && string(e.ResourceStatus) == status {
				reasons = append(reasons, aws.ToString(e.ResourceStatusReason))
			}
		}
	}
	return reasons
}

// lines tells what there is, one line each.
type lines []string

func (l *lines) add(t testing.TB, kind, name string, rest ...any) {
	t.Helper()
	text, err := json.Marshal(rest)
	if err != nil {
		t.Fatal(err)
	}
	*l = append(*l, kind+" "+name+" "+string(text))
}

// inventory is everything that IAM, S3, and the cluster "demo", if there is one, have: one line each.
func (r *replica) inventory(t testing.TB) []string {
	t.Helper()
	all := new(lines)
	r.listRoles(t, all)
	r.listUsers(t, all)
	r.listRestOfIAM(t, all)
	r.listCluster(t, all)
	if r.w.objects != nil {
		buckets, err := r.s3Client().ListBuckets(t.Context(), &awss3.ListBucketsInput{})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range buckets.Buckets {
			all.add(t, "bucket", *b.Name)
		}
	}
	slices.Sort(*all)
	return *all
}

func (r *replica) listRoles(t testing.TB, all *lines) {
	t.Helper()
	ctx, c := t.Context(), r.IAM()
	roles, err := c.ListRoles(ctx, &awsiam.ListRolesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles.Roles {
		full, err := c.GetRole(ctx, &awsiam.GetRoleInput{RoleName: role.RoleName})
		if err != nil {
			t.Fatal(err)
		}
		attached, err := c.ListAttachedRolePolicies(ctx, &awsiam.ListAttachedRolePoliciesInput{RoleName: role.RoleName})
		if err != nil {
			t.Fatal(err)
		}
		inline, err := c.ListRolePolicies(ctx, &awsiam.ListRolePoliciesInput{RoleName: role.RoleName})
		if err != nil {
			t.Fatal(err)
		}
		var documents []string
		for _, name := range inline.PolicyNames {
			p, err := c.GetRolePolicy(ctx, &awsiam.GetRolePolicyInput{RoleName: role.RoleName, PolicyName: &name})
			if err != nil {
				t.Fatal(err)
			}
			documents = append(documents, name+"="+*p.PolicyDocument)
		}
		all.add(t, "role", *role.RoleName, full.Role.Path, full.Role.AssumeRolePolicyDocument, full.Role.Description, full.Role.MaxSessionDuration,
			full.Role.Tags, full.Role.PermissionsBoundary, attached.AttachedPolicies, documents)
	}
}

func (r *replica) listUsers(t testing.TB, all *lines) {
	t.Helper()
	ctx, c := t.Context(), r.IAM()
	users, err := c.ListUsers(ctx, &awsiam.ListUsersInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range users.Users {
		attached, err := c.ListAttachedUserPolicies(ctx, &awsiam.ListAttachedUserPoliciesInput{UserName: user.UserName})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := c.ListAccessKeys(ctx, &awsiam.ListAccessKeysInput{UserName: user.UserName})
		if err != nil {
			t.Fatal(err)
		}
		inline, err := c.ListUserPolicies(ctx, &awsiam.ListUserPoliciesInput{UserName: user.UserName})
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, "user", *user.UserName, attached.AttachedPolicies, len(keys.AccessKeyMetadata), inline.PolicyNames)
	}
}

func (r *replica) listRestOfIAM(t testing.TB, all *lines) {
	t.Helper()
	ctx, c := t.Context(), r.IAM()
	policies, err := c.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: "Local"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range policies.Policies {
		v, err := c.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: p.Arn, VersionId: p.DefaultVersionId})
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, "policy", *p.PolicyName, p.Path, v.PolicyVersion.Document, p.AttachmentCount)
	}
	profiles, err := c.ListInstanceProfiles(ctx, &awsiam.ListInstanceProfilesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range profiles.InstanceProfiles {
		var inside []string
		for _, role := range p.Roles {
			inside = append(inside, *role.RoleName)
		}
		all.add(t, "profile", *p.InstanceProfileName, inside)
	}
	providers, err := c.ListOpenIDConnectProviders(ctx, &awsiam.ListOpenIDConnectProvidersInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range providers.OpenIDConnectProviderList {
		full, err := c.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: p.Arn})
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, "provider", *p.Arn, full.ClientIDList, full.ThumbprintList, full.Tags)
	}
}

// listCluster lists what the cluster "demo" has, but for the access entry of root, who made it.
func (r *replica) listCluster(t testing.TB, all *lines) {
	t.Helper()
	ctx, c, demo := t.Context(), r.EKS(), aws.String("demo")
	associations, err := c.ListPodIdentityAssociations(ctx, &awseks.ListPodIdentityAssociationsInput{ClusterName: demo})
	if _, missing := errors.AsType[*ekstypes.ResourceNotFoundException](err); missing {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range associations.Associations {
		full, err := c.DescribePodIdentityAssociation(ctx, &awseks.DescribePodIdentityAssociationInput{ClusterName: demo, AssociationId: a.AssociationId})
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, "association", *a.Namespace+"/"+*a.ServiceAccount, full.Association.RoleArn, full.Association.Tags, full.Association.OwnerArn != nil)
	}
	addons, err := c.ListAddons(ctx, &awseks.ListAddonsInput{ClusterName: demo})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range addons.Addons {
		full, err := c.DescribeAddon(ctx, &awseks.DescribeAddonInput{ClusterName: demo, AddonName: &name})
		if err != nil {
			t.Fatal(err)
		}
		a := full.Addon
		all.add(t, "addon", name, a.AddonVersion, aws.ToString(a.ConfigurationValues), a.ServiceAccountRoleArn, a.Tags, len(a.PodIdentityAssociations))
	}
	entries, err := c.ListAccessEntries(ctx, &awseks.ListAccessEntriesInput{ClusterName: demo})
	if err != nil {
		t.Fatal(err)
	}
	for _, principal := range entries.AccessEntries {
		if strings.HasSuffix(principal, ":root") {
			continue
		}
		full, err := c.DescribeAccessEntry(ctx, &awseks.DescribeAccessEntryInput{ClusterName: demo, PrincipalArn: &principal})
		if err != nil {
			t.Fatal(err)
		}
		policies, err := c.ListAssociatedAccessPolicies(ctx, &awseks.ListAssociatedAccessPoliciesInput{ClusterName: demo, PrincipalArn: &principal})
		if err != nil {
			t.Fatal(err)
		}
		var scopes []any
		for _, p := range policies.AssociatedAccessPolicies {
			scopes = append(scopes, p.PolicyArn, p.AccessScope.Type, p.AccessScope.Namespaces)
		}
		e := full.AccessEntry
		all.add(t, "entry", principal, e.KubernetesGroups, e.Username, e.Tags, scopes)
	}
}

func wantRefused(t testing.TB, err error, code, message string) {
	t.Helper()
	awstest.WantRefused(t, err, code, message)
}
