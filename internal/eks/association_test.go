package eks_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/kv"
)

func association(cluster, namespace, serviceAccount, role string) *awseks.CreatePodIdentityAssociationInput {
	return &awseks.CreatePodIdentityAssociationInput{
		ClusterName: &cluster, Namespace: &namespace, ServiceAccount: &serviceAccount, RoleArn: &role,
	}
}

func (r *replica) create(cluster, namespace, serviceAccount, role string) (*awseks.CreatePodIdentityAssociationOutput, error) {
	return r.client().CreatePodIdentityAssociation(context.Background(), association(cluster, namespace, serviceAccount, role))
}

func (r *replica) associate(t testing.TB, cluster, namespace, serviceAccount, role string) *types.PodIdentityAssociation {
	t.Helper()
	return must(r.create(cluster, namespace, serviceAccount, role))(t).Association
}

func (r *replica) describe(t testing.TB, cluster, id string) *types.PodIdentityAssociation {
	t.Helper()
	return must(r.client().DescribePodIdentityAssociation(t.Context(), &awseks.DescribePodIdentityAssociationInput{
		ClusterName: &cluster, AssociationId: &id,
	}))(t).Association
}

func TestAssociationIsMadeDescribedUpdatedAndDeleted(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	c := r.client()
	role, second := r.role(t, "app", trustPods), r.role(t, "second", trustPods)
	made := r.associate(t, "demo", "default", "app", role)
	if !regexp.MustCompile(`^a-[a-z0-9]{17}$`).MatchString(*made.AssociationId) {
		t.Errorf("ID = %s", *made.AssociationId)
	}
	want := map[string]any{
		"cluster": "demo", "namespace": "default", "service account": "app", "role": role, "tags": map[string]string{},
		"arn":     "arn:aws:eks:us-east-1:111122223333:podidentityassociation/demo/" + *made.AssociationId,
		"no tags": false, "target": (*string)(nil), "external ID": (*string)(nil), "policy": (*string)(nil), "owner": (*string)(nil),
	}
	values := func(a *types.PodIdentityAssociation) map[string]any {
		return map[string]any{
			"cluster": *a.ClusterName, "namespace": *a.Namespace, "service account": *a.ServiceAccount, "role": *a.RoleArn, "tags": a.Tags,
			"arn": *a.AssociationArn, "no tags": *a.DisableSessionTags, "target": a.TargetRoleArn, "external ID": a.ExternalId,
			"policy": a.Policy, "owner": a.OwnerArn,
		}
	}
	if diff := cmp.Diff(want, values(made)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, values(r.describe(t, "demo", *made.AssociationId))); diff != "" {
		t.Error(diff)
	}

	r.w.sleep(time.Minute)
	target := "arn:aws:iam::444455556666:role/path/target"
	updated := must(c.UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: made.AssociationId, RoleArn: &second, TargetRoleArn: &target,
	}))(t).Association
	want["role"], want["target"] = second, &target
	want["external ID"] = aws.String("us-east-1/111122223333/demo/default/app")
	if diff := cmp.Diff(want, values(updated)); diff != "" {
		t.Error(diff)
	}
	if !updated.ModifiedAt.Equal(updated.CreatedAt.Add(time.Minute)) || !updated.CreatedAt.Equal(*made.CreatedAt) {
		t.Errorf("created %v, modified %v", updated.CreatedAt, updated.ModifiedAt)
	}
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`
	_, err := c.UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: made.AssociationId, Policy: &policy,
	})
	wantRefused(t, err, "InvalidParameterException", "A policy requires that disableSessionTags is true.")
	updated = must(c.UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: made.AssociationId, Policy: &policy, DisableSessionTags: aws.Bool(true),
		TargetRoleArn: aws.String(""),
	}))(t).Association
	want["target"], want["external ID"] = (*string)(nil), (*string)(nil)
	want["policy"], want["no tags"] = &policy, true
	if diff := cmp.Diff(want, values(updated)); diff != "" {
		t.Error(diff)
	}

	deleted := must(c.DeletePodIdentityAssociation(t.Context(), &awseks.DeletePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: made.AssociationId,
	}))(t).Association
	if diff := cmp.Diff(want, values(deleted)); diff != "" {
		t.Error(diff)
	}
	for name, call := range map[string]func() error{
		"describe": func() error {
			_, err := c.DescribePodIdentityAssociation(t.Context(), &awseks.DescribePodIdentityAssociationInput{
				ClusterName: aws.String("demo"), AssociationId: made.AssociationId,
			})
			return err
		},
		"update": func() error {
			_, err := c.UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
				ClusterName: aws.String("demo"), AssociationId: made.AssociationId, RoleArn: &role,
			})
			return err
		},
		"delete": func() error {
			_, err := c.DeletePodIdentityAssociation(t.Context(), &awseks.DeletePodIdentityAssociationInput{
				ClusterName: aws.String("demo"), AssociationId: made.AssociationId,
			})
			return err
		},
	} {
		t.Run(name+" what is gone", func(t *testing.T) {
			wantRefused(t, call(), "ResourceNotFoundException", "The association ID "+*made.AssociationId+" does not exist in cluster demo.")
		})
	}
}

func TestCreateAssociationRefusals(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "app", trustPods)
	taken := r.associate(t, "demo", "default", "taken", role)
	const invalid = "InvalidParameterException"
	trust := func(name, statement string) string {
		return r.role(t, name, `{"Version":"2012-10-17","Statement":[`+statement+`]}`)
	}
	noTag := trust("no-tag", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:AssumeRole"}`)
	onlyTag := trust("only-tag", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:TagSession"}`)
	ec2 := trust("ec2", `{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}`)
	for _, e := range []struct {
		name          string
		change        func(*awseks.CreatePodIdentityAssociationInput)
		code, message string
	}{
		{"a missing cluster", func(in *awseks.CreatePodIdentityAssociationInput) { in.ClusterName = aws.String("nope") },
			"ResourceNotFoundException", "No cluster found for name: nope."},
		{"a missing role", func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = aws.String(role + "x") },
			invalid, "Role provided in the request does not exist."},
		{"a missing role for a taken service account", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.RoleArn, in.ServiceAccount = aws.String(role+"x"), aws.String("taken")
		}, invalid, "Role provided in the request does not exist."},
		{"the role by another path", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.RoleArn = aws.String(strings.Replace(role, "role/", "role/path/", 1))
		}, invalid, "Role provided in the request does not exist."},
		{"a trust without TagSession", func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = &noTag },
			invalid, "Trust policy of the role provided is invalid."},
		{"a trust without AssumeRole", func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = &onlyTag },
			invalid, "Trust policy of the role provided is invalid."},
		{"a trust in another service", func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = &ec2 },
			invalid, "Trust policy of the role provided is invalid."},
		{"a taken service account", func(in *awseks.CreatePodIdentityAssociationInput) { in.ServiceAccount = aws.String("taken") },
			"ResourceInUseException", "Association already exists: " + *taken.AssociationId},
		{"a role of another account", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.RoleArn = aws.String("arn:aws:iam::" + other + ":role/app")
		}, "AccessDeniedException", "Cross-account pass role is not allowed."},
		{"no ARN", func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = aws.String("app") }, invalid, ""},
		{"a namespace in capitals", func(in *awseks.CreatePodIdentityAssociationInput) { in.Namespace = aws.String("Default") }, invalid, ""},
		{"a namespace with a slash", func(in *awseks.CreatePodIdentityAssociationInput) { in.Namespace = aws.String("a/b") }, invalid, ""},
		{"a service account with a slash", func(in *awseks.CreatePodIdentityAssociationInput) { in.ServiceAccount = aws.String("a/b") }, invalid, ""},
		{"a doubled wildcard", func(in *awseks.CreatePodIdentityAssociationInput) { in.Namespace = aws.String("a**") }, invalid, ""},
		{"a policy with session tags", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.Policy = aws.String(`{"Version":"2012-10-17","Statement":[]}`)
		}, invalid, "A policy requires that disableSessionTags is true."},
		{"a policy that is none", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.Policy, in.DisableSessionTags = aws.String(`{"Statement":7}`), aws.Bool(true)
		}, invalid, ""},
		{"a policy with a principal", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.Policy, in.DisableSessionTags = aws.String(trustPods), aws.Bool(true)
		}, invalid, ""},
		{"a target that is no role", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.TargetRoleArn = aws.String("arn:aws:iam::" + other + ":user/u")
		}, invalid, ""},
		{"a target of another partition", func(in *awseks.CreatePodIdentityAssociationInput) {
			in.TargetRoleArn = aws.String("arn:aws-cn:iam::" + other + ":role/r")
		}, invalid, ""},
		{"a reserved tag", func(in *awseks.CreatePodIdentityAssociationInput) { in.Tags = map[string]string{"aws:x": "y"} }, invalid, ""},
	} {
		t.Run(e.name, func(t *testing.T) {
			in := association("demo", "default", "app", role)
			e.change(in)
			_, err := r.client().CreatePodIdentityAssociation(t.Context(), in)
			wantRefused(t, err, e.code, e.message)
		})
	}

	conditional := trust("conditional", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"],
		"Condition":{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"elsewhere"}}}`)
	r.associate(t, "demo", "default", "conditional", conditional)
}

func TestUpdateAssociationRefusals(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	r.hosted(t, "demo2")
	role := r.role(t, "app", trustPods)
	eksRole := r.role(t, "cluster", trustEKS)
	a := r.associate(t, "demo", "default", "app", role)
	for _, e := range []struct {
		name          string
		change        func(*awseks.UpdatePodIdentityAssociationInput)
		code, message string
	}{
		{"nothing", func(in *awseks.UpdatePodIdentityAssociationInput) {}, "InvalidParameterException",
			"At least one of roleArn, targetRoleArn, disableSessionTags and policy is required."},
		{"a missing role", func(in *awseks.UpdatePodIdentityAssociationInput) { in.RoleArn = aws.String(role + "x") },
			"InvalidParameterException", "Role provided in the request does not exist."},
		{"a role that does not trust pods", func(in *awseks.UpdatePodIdentityAssociationInput) { in.RoleArn = &eksRole },
			"InvalidParameterException", "Trust policy of the role provided is invalid."},
		{"by way of another cluster", func(in *awseks.UpdatePodIdentityAssociationInput) {
			in.ClusterName, in.RoleArn = aws.String("demo2"), &role
		}, "ResourceNotFoundException", ""},
		{"of a missing cluster", func(in *awseks.UpdatePodIdentityAssociationInput) {
			in.ClusterName, in.RoleArn = aws.String("nope"), &role
		}, "ResourceNotFoundException", "No cluster found for name: nope."},
		{"a bad target", func(in *awseks.UpdatePodIdentityAssociationInput) { in.TargetRoleArn = aws.String("x") }, "InvalidParameterException", ""},
	} {
		t.Run(e.name, func(t *testing.T) {
			in := &awseks.UpdatePodIdentityAssociationInput{ClusterName: aws.String("demo"), AssociationId: a.AssociationId}
			e.change(in)
			_, err := r.client().UpdatePodIdentityAssociation(t.Context(), in)
			wantRefused(t, err, e.code, e.message)
		})
	}
}

func TestOwnedAssociationsAreLeftToTheirOwner(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "app", trustPods)
	_, err := r.w.store.Commit(t.Context(), kv.Op{
		Key: "/lanyard/eks-associations/111122223333/us-east-1/demo/default/app", Kind: kv.OpPut,
		Value: []byte(`{"id":"a-aaaaaaaaaaaaaaaaa","role":"app","created":1,"more":{"owner":"arn:aws:eks:us-east-1:111122223333:addon/demo/vpc-cni/1"}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := r.eks.Cluster(account, region, "demo")
	if a := must(r.eks.Association(t.Context(), cluster, "default", "app"))(t); a.OwnerARN == "" {
		t.Fatalf("association = %+v", a)
	}
	_, err = r.client().UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: aws.String("a-aaaaaaaaaaaaaaaaa"), RoleArn: &role,
	})
	wantRefused(t, err, "InvalidRequestException", "")
	_, err = r.client().DeletePodIdentityAssociation(t.Context(), &awseks.DeletePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: aws.String("a-aaaaaaaaaaaaaaaaa"),
	})
	wantRefused(t, err, "InvalidRequestException", "")
}

func TestCreateAssociationCanBeRepeatedForADay(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	r.hosted(t, "demo2")
	role, second := r.role(t, "app", trustPods), r.role(t, "second", trustPods)
	in := func() *awseks.CreatePodIdentityAssociationInput {
		in := association("demo", "default", "app", role)
		in.ClientRequestToken = aws.String("token")
		in.Tags = map[string]string{"a": "b"}
		return in
	}
	create := func(in *awseks.CreatePodIdentityAssociationInput) (*awseks.CreatePodIdentityAssociationOutput, error) {
		return r.client().CreatePodIdentityAssociation(t.Context(), in)
	}
	first := must(create(in()))(t).Association
	r.w.sleep(23 * time.Hour)
	if again := must(create(in()))(t).Association; *again.AssociationId != *first.AssociationId {
		t.Errorf("IDs %s and %s differ", *first.AssociationId, *again.AssociationId)
	}
	for name, change := range map[string]func(*awseks.CreatePodIdentityAssociationInput){
		"another role":            func(in *awseks.CreatePodIdentityAssociationInput) { in.RoleArn = &second },
		"other tags":              func(in *awseks.CreatePodIdentityAssociationInput) { in.Tags = nil },
		"no session tags":         func(in *awseks.CreatePodIdentityAssociationInput) { in.DisableSessionTags = aws.Bool(true) },
		"a target role":           func(in *awseks.CreatePodIdentityAssociationInput) { in.TargetRoleArn = &second },
		"another namespace":       func(in *awseks.CreatePodIdentityAssociationInput) { in.Namespace = aws.String("kube-system") },
		"another service account": func(in *awseks.CreatePodIdentityAssociationInput) { in.ServiceAccount = aws.String("web") },
	} {
		t.Run(name, func(t *testing.T) {
			in := in()
			change(in)
			_, err := create(in)
			wantRefused(t, err, "InvalidRequestException", "")
		})
	}
	elsewhere := in()
	elsewhere.ClusterName = aws.String("demo2")
	if a := must(create(elsewhere))(t).Association; *a.AssociationId == *first.AssociationId {
		t.Error("two clusters' associations have one ID")
	}
	renamed := in()
	renamed.ClientRequestToken = aws.String("another")
	_, err := create(renamed)
	wantRefused(t, err, "ResourceInUseException", "Association already exists: "+*first.AssociationId)
	r.w.sleep(2 * time.Hour)
	_, err = create(in())
	wantRefused(t, err, "ResourceInUseException", "Association already exists: "+*first.AssociationId)
}

func TestAssociationsAreListed(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	r.hosted(t, "demo-2") // its key begins as that of the other
	role := r.role(t, "app", trustPods)
	for _, who := range []string{"a/app", "a/web", "ab/app", "b/app", "b/*", "team-*/app"} {
		ns, sa, _ := strings.Cut(who, "/")
		r.associate(t, "demo", ns, sa, role)
	}
	r.associate(t, "demo-2", "a", "app", role)
	for _, e := range []struct {
		namespace, serviceAccount string
		want                      []string
	}{
		{"", "", []string{"a/app", "a/web", "ab/app", "b/*", "b/app", "team-*/app"}},
		{"a", "", []string{"a/app", "a/web"}},
		{"", "app", []string{"a/app", "ab/app", "b/app", "team-*/app"}},
		{"b", "app", []string{"b/app"}},
		{"team-*", "", []string{"team-*/app"}},
		{"team-x", "", nil},
		{"a/app", "", nil},
	} {
		for _, size := range []int32{1, 2, 100} {
			in := &awseks.ListPodIdentityAssociationsInput{ClusterName: aws.String("demo"), MaxResults: &size}
			if e.namespace != "" {
				in.Namespace = &e.namespace
			}
			if e.serviceAccount != "" {
				in.ServiceAccount = &e.serviceAccount
			}
			var got []string
			pages := awseks.NewListPodIdentityAssociationsPaginator(r.client(), in)
			for pages.HasMorePages() {
				page := must(pages.NextPage(t.Context()))(t)
				if len(page.Associations) > int(size) {
					t.Errorf("a page of %d", len(page.Associations))
				}
				for _, a := range page.Associations {
					got = append(got, *a.Namespace+"/"+*a.ServiceAccount)
					if full := r.describe(t, "demo", *a.AssociationId); *full.AssociationArn != *a.AssociationArn {
						t.Errorf("ARNs %s and %s", *full.AssociationArn, *a.AssociationArn)
					}
				}
			}
			if diff := cmp.Diff(e.want, got); diff != "" {
				t.Errorf("namespace %q, service account %q, by %d: %s", e.namespace, e.serviceAccount, size, diff)
			}
		}
	}
	_, err := r.client().ListPodIdentityAssociations(t.Context(), &awseks.ListPodIdentityAssociationsInput{ClusterName: aws.String("nope")})
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: nope.")
	_, err = r.client().ListPodIdentityAssociations(t.Context(), &awseks.ListPodIdentityAssociationsInput{
		ClusterName: aws.String("demo"), NextToken: aws.String("!"),
	})
	wantRefused(t, err, "InvalidParameterException", "")
}

func TestTheMostSpecificAssociationWins(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	r.hosted(t, "other")
	role := r.role(t, "app", trustPods)
	for _, who := range []string{"team-a/api", "team-a/api-*", "team-a/*", "team-*/api", "team-*/*", "*/special"} {
		ns, sa, _ := strings.Cut(who, "/")
		r.associate(t, "demo", ns, sa, role)
	}
	cluster, _ := r.eks.Cluster(account, region, "demo")
	for _, e := range []struct{ namespace, serviceAccount, want string }{
		{"team-a", "api", "team-a/api"},
		{"team-a", "api-v2", "team-a/api-*"},
		{"team-a", "web", "team-a/*"},
		{"team-a", "special", "team-a/*"}, // the namespace counts first
		{"team-b", "api", "team-*/api"},
		{"team-b", "web", "team-*/*"},
		{"kube-system", "special", "*/special"},
		{"kube-system", "default", ""},
		{"team-*", "api", ""}, // no namespace has such a name
		{"team-a", "*", ""},
		{"team-a/api", "x", ""},
	} {
		got := ""
		if a := must(r.eks.Association(t.Context(), cluster, e.namespace, e.serviceAccount))(t); a != nil {
			got = a.Namespace + "/" + a.ServiceAccount
			if a.IsPattern() != strings.Contains(got, "*") {
				t.Errorf("%s: IsPattern = %v", got, a.IsPattern())
			}
		}
		if got != e.want {
			t.Errorf("%s/%s: %q, want %q", e.namespace, e.serviceAccount, got, e.want)
		}
	}
	elsewhere, _ := r.eks.Cluster(account, region, "other")
	if a := must(r.eks.Association(t.Context(), elsewhere, "team-a", "api"))(t); a != nil {
		t.Errorf("another cluster has %+v", a)
	}
}

// lagging is a store whose watches, from hold on, deliver nothing until its revision is asked for.
type lagging struct {
	kv.Store
	mu   sync.Mutex
	gate chan struct{} // closed while the watches deliver
}

func newLagging(store kv.Store) *lagging {
	s := &lagging{Store: store, gate: make(chan struct{})}
	close(s.gate)
	return s
}

func (s *lagging) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *lagging) Revision(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
	default:
		close(s.gate)
	}
	return s.Store.Revision(ctx)
}

func (s *lagging) Watch(ctx context.Context, prefix string, after int64) <-chan kv.Batch {
	from := s.Store.Watch(ctx, prefix, after)
	to := make(chan kv.Batch)
	go func() {
		defer close(to)
		for b := range from {
			s.mu.Lock()
			gate := s.gate
			s.mu.Unlock()
			select {
			case <-gate:
			case <-ctx.Done():
				return
			}
			select {
			case to <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

func TestAMissIsConfirmedBeforeItIsBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld()
	here := w.start(t, w.store).withAccount(t, account)
	behind := newLagging(w.store)
	there := w.start(t, behind)
	behind.hold()
	here.hosted(t, "demo")
	here.associate(t, "demo", "default", "app", here.role(t, "app", trustPods))

	if _, ok := there.eks.Cluster(account, region, "demo"); ok {
		t.Fatal("the other replica has heard of the cluster already")
	}
	cluster := must(there.eks.FindCluster(t.Context(), account, region, "demo"))(t)
	if cluster == nil {
		t.Fatal("the cluster is not found")
	}
	if a := must(there.eks.Association(t.Context(), cluster, "default", "app"))(t); a == nil {
		t.Error("the association is not found")
	}
	if missing := must(there.eks.FindCluster(t.Context(), account, region, "nope"))(t); missing != nil {
		t.Errorf("found %+v", missing)
	}
}

// unreachable is a store that, once down, cannot be asked for its revision.
type unreachable struct {
	kv.Store
	down atomic.Bool
}

func (s *unreachable) Revision(ctx context.Context) (int64, error) {
	if s.down.Load() {
		return 0, kv.ErrUnavailable
	}
	return s.Store.Revision(ctx)
}

func TestAMissThatCannotBeConfirmedIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld()
	store := &unreachable{Store: w.store}
	r := w.start(t, store).withAccount(t, account)
	r.hosted(t, "demo")
	r.associate(t, "demo", "default", "app", r.role(t, "app", trustPods))
	cluster, _ := r.eks.Cluster(account, region, "demo")
	store.down.Store(true)
	if a, err := r.eks.Association(t.Context(), cluster, "default", "app"); err != nil || a == nil {
		t.Errorf("a hit: %+v, %v", a, err)
	}
	if a, err := r.eks.Association(t.Context(), cluster, "default", "web"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a miss: %+v, %v", a, err)
	}
	if c, err := r.eks.FindCluster(t.Context(), account, region, "nope"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("a missing cluster: %+v, %v", c, err)
	}
}

func TestAssociationsHaveAQuota(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.maxAssociations = 2
	r := w.start(t, w.store).withAccount(t, account)
	r.hosted(t, "demo")
	r.hosted(t, "other")
	role := r.role(t, "app", trustPods)
	first := r.associate(t, "demo", "default", "a", role)
	r.associate(t, "demo", "default", "b", role)
	_, err := r.create("demo", "default", "c", role)
	wantRefused(t, err, "ResourceLimitExceededException", "")
	r.associate(t, "other", "default", "c", role)
	must(r.client().DeletePodIdentityAssociation(t.Context(), &awseks.DeletePodIdentityAssociationInput{
		ClusterName: aws.String("demo"), AssociationId: first.AssociationId,
	}))(t)
	r.associate(t, "demo", "default", "c", role)
}

func TestConcurrentCreates(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "app", trustPods)
	// Each of the service accounts is asked for so many times, by so many clients at once.
	for _, e := range []struct{ accounts, times int }{{500, 2}, {1, 50}} {
		var made, taken atomic.Int64
		var wg sync.WaitGroup
		free := make(chan struct{}, 100)
		for i := range e.accounts * e.times {
			wg.Go(func() {
				free <- struct{}{}
				defer func() { <-free }()
				_, err := r.create("demo", fmt.Sprintf("ns-%d", e.accounts), fmt.Sprintf("sa-%d", i%e.accounts), role)
				refusal, _ := errors.AsType[smithy.APIError](err)
				switch {
				case err == nil:
					made.Add(1)
				case refusal != nil && refusal.ErrorCode() == "ResourceInUseException":
					taken.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if made.Load() != int64(e.accounts) || taken.Load() != int64(e.accounts*(e.times-1)) {
			t.Errorf("%d service accounts: %d made, %d taken", e.accounts, made.Load(), taken.Load())
		}
		n := 0
		pages := awseks.NewListPodIdentityAssociationsPaginator(r.client(), &awseks.ListPodIdentityAssociationsInput{
			ClusterName: aws.String("demo"), Namespace: aws.String(fmt.Sprintf("ns-%d", e.accounts)),
		})
		for pages.HasMorePages() {
			n += len(must(pages.NextPage(t.Context()))(t).Associations)
		}
		if n != e.accounts {
			t.Errorf("%d associations, want %d", n, e.accounts)
		}
	}
}

func TestWhatAssociationsNeedPermissionFor(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "app", trustPods)
	a := r.associate(t, "demo", "default", "taken", role)
	const cluster = "arn:aws:eks:us-east-1:111122223333:cluster/demo"
	allow := func(action, resource, condition string) string {
		if condition != "" {
			condition = `,"Condition":` + condition
		}
		return `{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `"` + condition + `}`
	}
	create := func(r *replica) error {
		_, err := r.create("demo", "default", "app", role)
		return err
	}
	update := func(r *replica) error {
		_, err := r.client().UpdatePodIdentityAssociation(t.Context(), &awseks.UpdatePodIdentityAssociationInput{
			ClusterName: aws.String("demo"), AssociationId: a.AssociationId, RoleArn: &role,
		})
		return err
	}
	missing := func(r *replica) error {
		_, err := r.create("nope", "default", "app", role)
		return err
	}
	pass := allow("iam:PassRole", role, `{"StringEquals":{"iam:PassedToService":"pods.eks.amazonaws.com"}}`)
	for i, e := range []struct {
		name       string
		statements string
		call       func(*replica) error
		denied     string // action; empty when allowed
	}{
		{"create with both", allow("eks:CreatePodIdentityAssociation", cluster, "") + "," + pass, create, ""},
		{"create without passing the role", allow("eks:*", "*", ""), create, "iam:PassRole"},
		{"create and pass the role to another service", allow("eks:*", "*", "") + "," +
			allow("iam:PassRole", role, `{"StringEquals":{"iam:PassedToService":"ec2.amazonaws.com"}}`), create, "iam:PassRole"},
		{"create and pass another role", allow("eks:*", "*", "") + "," + allow("iam:PassRole", role+"x", ""), create, "iam:PassRole"},
		{"only pass the role", pass, create, "eks:CreatePodIdentityAssociation"},
		{"create in another cluster", allow("eks:*", cluster+"2", "") + "," + pass, create, "eks:CreatePodIdentityAssociation"},
		{"not learn that a cluster is missing", pass, missing, "eks:CreatePodIdentityAssociation"},
		{"update with both", allow("eks:UpdatePodIdentityAssociation", *a.AssociationArn, "") + "," + pass, update, ""},
		{"update without passing the role", allow("eks:*", "*", ""), update, "iam:PassRole"},
		{"update with permission on the cluster only", allow("eks:*", cluster, "") + "," + pass, update, "eks:UpdatePodIdentityAssociation"},
	} {
		t.Run(e.name, func(t *testing.T) {
			err := e.call(r.user(t, fmt.Sprintf("user-%d", i), e.statements))
			if e.denied == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefused(t, err, "AccessDeniedException", "")
			if !strings.Contains(err.Error(), "not authorized to perform: "+e.denied+" ") {
				t.Errorf("refused with %v, want %s", err, e.denied)
			}
		})
	}
}

func TestARoleThatWasJustMadeElsewhereIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld()
	here := w.start(t, w.store).withAccount(t, account)
	here.hosted(t, "demo")
	behind := newLagging(w.store)
	there := w.start(t, behind).as(here.root)
	behind.hold()
	there.associate(t, "demo", "default", "app", here.role(t, "app", trustPods))
}

func TestAssociationKeepsItsDeletedRole(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	a := r.associate(t, "demo", "default", "app", r.role(t, "app", trustPods))
	must(r.iamClient().DeleteRole(t.Context(), &awsiam.DeleteRoleInput{RoleName: aws.String("app")}))(t)
	if got := r.describe(t, "demo", *a.AssociationId); *got.RoleArn != *a.RoleArn {
		t.Errorf("role = %s", *got.RoleArn)
	}
}

// fill writes clusters with n associations in all straight into the store.
func fill(tb testing.TB, store kv.Store, n int) {
	tb.Helper()
	var ops []kv.Op
	for i := range n {
		ops = append(ops, kv.Op{
			Key: fmt.Sprintf("/lanyard/eks-associations/111122223333/us-east-1/cluster-%d/namespace-%d/app-%d", i/5000, i%100, i), Kind: kv.OpPut,
			Value: fmt.Appendf(nil, `{"id":"a-%017d","role":"app-%d","created":1763757442123}`, i, i%100),
		})
		if len(ops) == kv.MaxOps || i == n-1 {
			if _, err := store.Commit(tb.Context(), ops...); err != nil {
				tb.Fatal(err)
			}
			ops = nil
		}
	}
}

func BenchmarkAssociation(b *testing.B) {
	w := newWorld()
	fill(b, w.store, 10_000)
	for i := range 100 {
		_, err := w.store.Commit(b.Context(), kv.Op{
			Key: fmt.Sprintf("/lanyard/eks-associations/111122223333/us-east-1/cluster-0/team-%d-*/app", i), Kind: kv.OpPut,
			Value: fmt.Appendf(nil, `{"id":"a-x%016d","role":"app","created":1763757442123}`, i),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	r := w.start(b, w.store)
	c := &eks.Cluster{Account: account, Region: region, Name: "cluster-0"}
	for name, ns := range map[string]string{"exact": "namespace-7", "pattern": "team-42-x"} {
		b.Run(name, func(b *testing.B) {
			sa := map[string]string{"exact": "app-7", "pattern": "app"}[name]
			b.ReportAllocs()
			for b.Loop() {
				if a, err := r.eks.Association(b.Context(), c, ns, sa); a == nil || err != nil {
					b.Fatal(a, err)
				}
			}
		})
	}
}

// BenchmarkMemory reports what an association costs in the tables, the store not counted.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	w := newWorld()
	fill(b, w.store, n)
	for b.Loop() {
		before := heap()
		r := w.start(b, w.store)
		b.ReportMetric(float64(heap()-before)/n, "B/association")
		if _, ok := r.eks.Cluster(account, region, "nope"); ok {
			b.Fatal("a cluster that is not there")
		}
	}
}
