package cloudformation_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/cloudformation"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/oidc"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	region  = "us-east-1"
)

// world is a store, and the clock of the replicas over it.
type world struct {
	store  kv.Store
	offset atomic.Int64 // of the clock, in nanoseconds
}

func (w *world) time() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

func (w *world) sleep(d time.Duration) { w.offset.Add(int64(d)) }

// replica is one server: the services over a store, and real clients of them with one caller's key.
type replica struct {
	w      *world
	url    string
	iam    *iam.Service
	stacks *cloudformation.Service
	key    sigv4.Credentials
}

// start starts a replica over a store, which is the world's or one in front of it.
func (w *world) start(t testing.TB, store kv.Store) *replica {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1, 2, 3}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	issuers := oidc.New(oidc.Config{DB: db, Keyring: ring, BaseURL: "https://oidc.example.com", Now: w.time, Log: log})
	users := iam.New(iam.Config{DB: db, Keyring: ring, Partition: "aws", Now: w.time, Log: log})
	clusters := eks.New(eks.Config{
		DB: db, IAM: users, Issuers: issuers, Partition: "aws", Now: w.time, Log: log,
		KeyCache: idtoken.NewCache(idtoken.CacheConfig{Client: http.DefaultClient, Now: w.time}),
	})
	var handler *awsapi.Handler
	stacks := cloudformation.New(cloudformation.Config{
		DB: db, Keyring: ring, Partition: "aws", Now: w.time, Log: log,
		Invoke: func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error) {
			return handler.Invoke(ctx, c, service, operation, in)
		},
	})
	handler, err = awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{
			users.API(), clusters.API(), stacks.API(),
			{Model: awsapi.ModelNamed("lanyard"), Operations: append(users.Extension(), clusters.Extension()...)},
		},
		Authenticator: &awsapi.Authenticator{
			Region: region, // by the real clock, as the clients
			Credentials: func(_ context.Context, id, _ string) (awsapi.Credential, error) {
				c, ok := users.Credential(id)
				if !ok {
					return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey}
				}
				return c, nil
			},
		},
		Authorize: users.Authorize,
		Log:       log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ring.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &replica{w: w, url: server.URL, iam: users, stacks: stacks}
}

// newReplica is a world with one replica, as root of the account uses it.
func newReplica(t testing.TB) *replica {
	t.Helper()
	w := &world{store: kv.NewMemory()}
	r := w.start(t, w.store)
	root, err := r.iam.EnsureAccount(t.Context(), account, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r.as(*root)
}

// as is the replica as somebody else uses it.
func (r *replica) as(key sigv4.Credentials) *replica {
	copied := *r
	copied.key = key
	return &copied
}

func (r *replica) credentials() aws.CredentialsProviderFunc {
	return func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: r.key.AccessKeyID, SecretAccessKey: string(r.key.SecretAccessKey)}, nil
	}
}

func (r *replica) cfn() *awscfn.Client {
	return awscfn.New(awscfn.Options{Region: region, BaseEndpoint: &r.url, Credentials: r.credentials(), Retryer: aws.NopRetryer{}})
}

func (r *replica) iamClient() *awsiam.Client {
	return awsiam.New(awsiam.Options{Region: region, BaseEndpoint: &r.url, Credentials: r.credentials(), Retryer: aws.NopRetryer{}})
}

func (r *replica) eksClient() *awseks.Client {
	return awseks.New(awseks.Options{Region: region, BaseEndpoint: &r.url, Credentials: r.credentials(), Retryer: aws.NopRetryer{}})
}

// user makes a user with these statements, and returns the replica as that user uses it.
func (r *replica) user(t testing.TB, name, statements string) *replica {
	t.Helper()
	c := r.iamClient()
	if _, err := c.CreateUser(t.Context(), &awsiam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	_, err := c.PutUserPolicy(t.Context(), &awsiam.PutUserPolicyInput{
		UserName: &name, PolicyName: aws.String("p"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[` + statements + `]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.CreateAccessKey(t.Context(), &awsiam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return r.as(sigv4.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*key.AccessKey.SecretAccessKey)})
}

// hosted registers a cluster with a hosted issuer.
func (r *replica) hosted(t testing.TB, name string) {
	t.Helper()
	body := `{"name":"` + name + `"}`
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/lanyard/clusters", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	hash := sha256.Sum256([]byte(body))
	sigv4.Sign(req, r.key, "lanyard", region, hex.EncodeToString(hash[:]), time.Now())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("register cluster: %s: %s: %v", res.Status, text, err)
	}
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

// inventory is everything that IAM and the cluster "demo", if there is one, have: one line each.
func (r *replica) inventory(t testing.TB) []string {
	t.Helper()
	ctx, c := t.Context(), r.iamClient()
	var all []string
	add := func(kind, name string, rest any) {
		text, err := json.Marshal(rest)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, kind+" "+name+" "+string(text))
	}
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
		add("role", *role.RoleName, []any{full.Role.Path, full.Role.AssumeRolePolicyDocument, full.Role.Description, full.Role.MaxSessionDuration,
			full.Role.Tags, full.Role.PermissionsBoundary, attached.AttachedPolicies, documents})
	}
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
		add("user", *user.UserName, []any{attached.AttachedPolicies, len(keys.AccessKeyMetadata), inline.PolicyNames})
	}
	policies, err := c.ListPolicies(ctx, &awsiam.ListPoliciesInput{Scope: "Local"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range policies.Policies {
		v, err := c.GetPolicyVersion(ctx, &awsiam.GetPolicyVersionInput{PolicyArn: p.Arn, VersionId: p.DefaultVersionId})
		if err != nil {
			t.Fatal(err)
		}
		add("policy", *p.PolicyName, []any{p.Path, v.PolicyVersion.Document, p.AttachmentCount})
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
		add("profile", *p.InstanceProfileName, inside)
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
		add("provider", *p.Arn, []any{full.ClientIDList, full.ThumbprintList, full.Tags})
	}
	associations, err := r.eksClient().ListPodIdentityAssociations(ctx, &awseks.ListPodIdentityAssociationsInput{ClusterName: aws.String("demo")})
	if err == nil {
		for _, a := range associations.Associations {
			full, err := r.eksClient().DescribePodIdentityAssociation(ctx, &awseks.DescribePodIdentityAssociationInput{
				ClusterName: aws.String("demo"), AssociationId: a.AssociationId,
			})
			if err != nil {
				t.Fatal(err)
			}
			add("association", *a.Namespace+"/"+*a.ServiceAccount, []any{full.Association.RoleArn, full.Association.Tags})
		}
	}
	slices.Sort(all)
	return all
}

// wantRefused fails the test unless err is a refusal with the code and, when it is not empty, the message.
func wantRefused(t testing.TB, err error, code, message string) {
	t.Helper()
	refusal, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	if refusal.ErrorCode() != code || message != "" && refusal.ErrorMessage() != message {
		t.Errorf("refused with %s: %s\nwant %s: %s", refusal.ErrorCode(), refusal.ErrorMessage(), code, message)
	}
}
