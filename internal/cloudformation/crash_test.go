package cloudformation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/kv"
)

// dying is a store that a replica loses for good at a certain write: that write is the last to arrive, and its answer is lost.
type dying struct {
	kv.Store

	mu   sync.Mutex
	left int // writes until then; negative for never
}

func (d *dying) Commit(ctx context.Context, ops ...kv.Op) (int64, error) {
	d.mu.Lock()
	left := d.left
	if d.left > 0 {
		d.left--
	}
	d.mu.Unlock()
	lost := fmt.Errorf("%w: the replica is dead", kv.ErrUnavailable)
	switch {
	case left == 0:
		return 0, lost
	case left == 1:
		if _, err := d.Store.Commit(ctx, ops...); err != nil {
			return 0, err
		}
		return 0, lost
	}
	return d.Store.Commit(ctx, ops...)
}

// die makes the n-th write from now the last.
func (d *dying) die(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = n
}

func (d *dying) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left == 0
}

const leaseIsOver = time.Minute

// settle starts another replica on the store, and lets it finish what the dead one left.
func (r *replica) settle(t *testing.T) *replica {
	t.Helper()
	next := r.w.start(t, r.w.store).as(r.Key)
	if err := next.stacks.Settle(t.Context()); err != nil {
		t.Fatalf("settle while the lease lasts: %v", err)
	}
	r.w.sleep(leaseIsOver)
	if err := next.stacks.Settle(t.Context()); err != nil {
		t.Fatalf("settle: %v", err)
	}
	return next
}

// mortal is a replica on a dying store, in a world where all is ready for the crash: a cluster, and the stack "app" if a template is
// given. witness is another one on the same store.
func mortal(t *testing.T, template string) (r, witness *replica, store *dying) {
	t.Helper()
	w := newWorld(t)
	witness = w.root(t)
	witness.Register(t, "demo")
	if template != "" {
		wantStatus(t, witness.create(t, "app", template), cfntypes.StackStatusCreateComplete)
	}
	store = &dying{Store: w.store, left: -1}
	return w.start(t, store).as(witness.Key), witness, store
}

// counts tells what there is by its kind: after a crash, generated names differ.
func counts(inventory []string) map[string]int {
	n := map[string]int{}
	for _, line := range inventory {
		kind, _, _ := strings.Cut(line, " ")
		n[kind]++
	}
	return n
}

const crashTemplate = "ci-user.yaml"

// everyStep calls what happens with a replica that dies at each of its writes in turn, until one lives through it all.
func everyStep(t *testing.T, name string, check func(t *testing.T, n int) (survived bool)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		for n := 1; ; n++ {
			if n > 200 {
				t.Fatal("there is no end of writes")
			}
			if check(t, n) {
				if n < 8 {
					t.Errorf("there were only %d writes", n)
				}
				return
			}
		}
	})
}

// crash runs something on a replica that dies at its n-th write, and reports whether it was over before.
func crash(t *testing.T, store *dying, n int, do func() error) bool {
	t.Helper()
	store.die(n)
	err := do()
	if !store.dead() {
		if err != nil {
			t.Fatalf("without a crash: %v", err)
		}
		return true
	}
	return false
}

// createdAfterCrash creates the stack "app" on a replica that dies at its n-th write, and returns another that has finished it; nil if
// the first write was the last, and there is no stack.
func createdAfterCrash(t *testing.T, n int, template string) (next *replica, survived bool) {
	t.Helper()
	r, _, store := mortal(t, "")
	survived = crash(t, store, n, func() error {
		_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template, Capabilities: namedIAM})
		return err
	})
	next = r.settle(t)
	if !exists(t, next, "app") {
		if n > 1 {
			t.Errorf("write %d: there is no stack", n)
		}
		return nil, survived
	}
	wantStatus(t, next.stack(t, "app"), cfntypes.StackStatusCreateComplete)
	return next, survived
}

func TestCrashWhileCreating(t *testing.T) {
	t.Parallel()
	template := readTemplate(t, crashTemplate)
	everyStep(t, "create", func(t *testing.T, n int) bool {
		next, survived := createdAfterCrash(t, n, template)
		if next == nil {
			return survived
		}
		all := next.inventory(t)
		if len(all) != 1 || !strings.Contains(all[0], `AmazonS3ReadOnlyAccess"}],1,["push"]`) {
			t.Fatalf("write %d: there are %q, want one user with a key and a policy", n, all)
		}
		next.delete(t, "app")
		if left := next.inventory(t); len(left) != 0 {
			t.Fatalf("write %d: the deletion leaves %q", n, left)
		}
		return survived
	})
}

func TestCrashWhileCreationIsRolledBack(t *testing.T) {
	t.Parallel()
	template := broken(t, readTemplate(t, "role-policy.yaml"))
	everyStep(t, "roll back", func(t *testing.T, n int) bool {
		r, _, store := mortal(t, "")
		survived := crash(t, store, n, func() error {
			_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template, Capabilities: namedIAM})
			return err
		})
		next := r.settle(t)
		if exists(t, next, "app") {
			wantStatus(t, next.stack(t, "app"), cfntypes.StackStatusRollbackComplete)
		}
		if left := next.inventory(t); len(left) != 0 {
			t.Fatalf("write %d: left are %q", n, left)
		}
		return survived
	})
}

func TestCrashWhileUpdating(t *testing.T) {
	t.Parallel()
	// The update replaces the association and the policy, makes a role and removes another.
	before := readTemplate(t, "pod-identity.yaml")
	after := strings.NewReplacer("Namespace: !Ref Namespace", "Namespace: other", "PolicyName: read", "PolicyName: write",
		"\nResources:\n", "\nResources:\n  Second:\n    Type: AWS::IAM::ManagedPolicy\n    Properties: {PolicyDocument: {Version: '2012-10-17', Statement: []}, Roles: [!Ref Role]}\n").Replace(before)
	after = strings.Replace(after, "Statement: []", "Statement: [{Effect: Allow, Action: 's3:*', Resource: '*'}]", 1)
	for _, tc := range []struct {
		name, template string
		status         cfntypes.StackStatus
		undone         bool
	}{
		{"update", after, cfntypes.StackStatusUpdateComplete, false},
		{"update that fails", broken(t, after), cfntypes.StackStatusUpdateRollbackComplete, true},
	} {
		everyStep(t, tc.name, func(t *testing.T, n int) bool {
			r, witness, store := mortal(t, before)
			original := witness.inventory(t)
			survived := crash(t, store, n, func() error {
				_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{StackName: aws.String("app"), TemplateBody: &tc.template, Capabilities: namedIAM})
				return err
			})
			next := r.settle(t)
			all := next.inventory(t)
			switch st := next.stack(t, "app"); {
			case st.StackStatus == cfntypes.StackStatusCreateComplete: // the update had not begun
				if n > 1 || !slices.Equal(all, original) {
					t.Fatalf("write %d: the update is forgotten", n)
				}
			case st.StackStatus != tc.status:
				wantStatus(t, st, tc.status)
			case tc.undone && !slices.Equal(all, original):
				t.Fatalf("write %d: there are %q, want %q", n, all, original)
			case !tc.undone:
				got := counts(all)
				if got["role"] != 1 || got["policy"] != 1 || got["association"] != 1 || !strings.Contains(strings.Join(all, "\n"), "association other/app") {
					t.Fatalf("write %d: there are %q", n, all)
				}
			}
			next.delete(t, "app")
			if left := next.inventory(t); len(left) != 0 {
				t.Fatalf("write %d: the deletion leaves %q", n, left)
			}
			return survived
		})
	}
}

func TestCrashWhileDeleting(t *testing.T) {
	t.Parallel()
	everyStep(t, "delete", func(t *testing.T, n int) bool {
		r, witness, store := mortal(t, readTemplate(t, "target-role.yaml"))
		id := witness.stack(t, "app").StackId
		survived := crash(t, store, n, func() error {
			_, err := r.cfn().DeleteStack(t.Context(), &awscfn.DeleteStackInput{StackName: id})
			return err
		})
		next := r.settle(t)
		if st := next.stack(t, *id); st.StackStatus == cfntypes.StackStatusCreateComplete { // the deletion had not begun
			if n > 1 {
				t.Fatalf("write %d: the deletion is forgotten", n)
			}
			return survived
		}
		wantStatus(t, next.stack(t, *id), cfntypes.StackStatusDeleteComplete)
		if left := next.inventory(t); len(left) != 0 {
			t.Fatalf("write %d: left are %q", n, left)
		}
		return survived
	})
}

// clusterAndStore is a template of an add-on, an access entry and a bucket.
const clusterAndStore = `Parameters:
  Version: {Type: String, Default: v1.19.6-eksbuild.1}
  Group: {Type: String, Default: one}
Resources:
  Data: {Type: "AWS::S3::Bucket"}
  Role:
    Type: AWS::IAM::Role
    Properties: {AssumeRolePolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Allow, Principal: {Service: pods.eks.amazonaws.com}, Action: ["sts:AssumeRole", "sts:TagSession"]}]}}
  Addon:
    Type: AWS::EKS::Addon
    Properties:
      ClusterName: demo
      AddonName: vpc-cni
      AddonVersion: !Ref Version
      PodIdentityAssociations: [{ServiceAccount: aws-node, RoleArn: !GetAtt Role.Arn}]
  Entry:
    Type: AWS::EKS::AccessEntry
    Properties:
      ClusterName: demo
      PrincipalArn: !GetAtt Role.Arn
      KubernetesGroups: [!Ref Group]
      AccessPolicies: [{PolicyArn: "arn:aws:eks::aws:cluster-access-policy/AmazonEKSViewPolicy", AccessScope: {Type: cluster}}]
`

// What EKS and S3 keep is made once, and removed, wherever a replica dies on the way.
func TestCrashWithClusterAndStore(t *testing.T) {
	t.Parallel()
	want := map[string]int{"role": 1, "addon": 1, "association": 1, "entry": 1, "bucket": 1}
	everyStep(t, "create", func(t *testing.T, n int) bool {
		next, survived := createdAfterCrash(t, n, clusterAndStore)
		if next == nil {
			return survived
		}
		if diff := cmp.Diff(want, counts(next.inventory(t))); diff != "" {
			t.Fatalf("write %d: (-want +got):\n%s", n, diff)
		}
		next.delete(t, "app")
		if left := next.inventory(t); len(left) != 0 {
			t.Fatalf("write %d: the deletion leaves %q", n, left)
		}
		return survived
	})
	everyStep(t, "update that fails", func(t *testing.T, n int) bool {
		r, witness, store := mortal(t, clusterAndStore)
		original := witness.inventory(t)
		survived := crash(t, store, n, func() error {
			_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
				StackName: aws.String("app"), TemplateBody: aws.String(broken(t, clusterAndStore)), Capabilities: namedIAM,
				Parameters: parameters("Version", "v1.20.4-eksbuild.1", "Group", "two"),
			})
			return err
		})
		next := r.settle(t)
		st := next.stack(t, "app")
		if n > 1 || st.StackStatus != cfntypes.StackStatusCreateComplete { // else the update had not begun
			wantStatus(t, st, cfntypes.StackStatusUpdateRollbackComplete)
		}
		if diff := cmp.Diff(original, next.inventory(t)); diff != "" {
			t.Fatalf("write %d: the rollback leaves (-want +got):\n%s", n, diff)
		}
		return survived
	})
	everyStep(t, "delete", func(t *testing.T, n int) bool {
		r, witness, store := mortal(t, clusterAndStore)
		id := witness.stack(t, "app").StackId
		survived := crash(t, store, n, func() error {
			_, err := r.cfn().DeleteStack(t.Context(), &awscfn.DeleteStackInput{StackName: id})
			return err
		})
		next := r.settle(t)
		if st := next.stack(t, *id); n > 1 || st.StackStatus != cfntypes.StackStatusCreateComplete {
			wantStatus(t, st, cfntypes.StackStatusDeleteComplete)
			if left := next.inventory(t); len(left) != 0 {
				t.Fatalf("write %d: left are %q", n, left)
			}
		}
		return survived
	})
}

// A bucket of the same name that was there before is not taken for one that the interrupted attempt has made.
func TestCrashDoesNotAdoptBuckets(t *testing.T) {
	t.Parallel()
	template := withBucket(`"BucketName":"fixed"`)
	for n := 1; n < 6; n++ {
		r, witness, store := mortal(t, "")
		if _, err := witness.s3Client().CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("fixed")}); err != nil {
			t.Fatal(err)
		}
		r.w.sleep(time.Hour)
		crash(t, store, n, func() error {
			_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template})
			return err
		})
		next := r.settle(t)
		if exists(t, next, "app") {
			wantStatus(t, next.stack(t, "app"), cfntypes.StackStatusRollbackComplete)
		}
		if all := next.inventory(t); len(all) != 1 || !strings.HasPrefix(all[0], "bucket fixed ") {
			t.Fatalf("write %d: there are %q, want the bucket", n, all)
		}
	}
}

// A role of the same name that was there before is not taken for one that the interrupted attempt has made.
func TestCrashDoesNotAdoptStrangers(t *testing.T) {
	t.Parallel()
	template := `{"Resources":{"Role":{"Type":"AWS::IAM::Role","Properties":{"RoleName":"fixed","AssumeRolePolicyDocument":` + podsTrust + `}}}}`
	for n := 1; n < 6; n++ {
		r, witness, store := mortal(t, "")
		other := strings.Replace(template, `"Properties":{`, `"Properties":{"Description":"somebody else's",`, 1)
		witness.create(t, "other", other)
		before := witness.inventory(t)
		r.w.sleep(time.Hour)
		crash(t, store, n, func() error {
			_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template, Capabilities: namedIAM})
			return err
		})
		next := r.settle(t)
		if exists(t, next, "app") {
			wantStatus(t, next.stack(t, "app"), cfntypes.StackStatusRollbackComplete)
		}
		if all := next.inventory(t); !slices.Equal(all, before) {
			t.Fatalf("write %d: there are %q, want %q", n, all, before)
		}
	}
}

// Two replicas may settle at once: one of them does.
func TestOneReplicaSettles(t *testing.T) {
	t.Parallel()
	template := readTemplate(t, crashTemplate)
	r, _, store := mortal(t, "")
	store.die(6)
	if _, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template, Capabilities: namedIAM}); err == nil {
		t.Fatal("the crash went unnoticed")
	}
	r.w.sleep(leaseIsOver)
	var wg sync.WaitGroup
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, r.w.start(t, r.w.store).as(r.Key))
	}
	for _, other := range replicas {
		wg.Go(func() {
			if err := other.stacks.Settle(t.Context()); err != nil && !errors.Is(err, kv.ErrUnavailable) {
				t.Errorf("settle: %v", err)
			}
		})
	}
	wg.Wait()
	wantStatus(t, replicas[0].stack(t, "app"), cfntypes.StackStatusCreateComplete)
	if complete := replicas[0].reasons(t, "app", "app", "CREATE_COMPLETE"); len(complete) != 1 {
		t.Errorf("the stack was completed %d times", len(complete))
	}
	if all := replicas[0].inventory(t); len(all) != 1 {
		t.Errorf("there are %q, want one user", all)
	}
}

// exists reports whether a stack of the name exists.
func exists(t *testing.T, r *replica, name string) bool {
	t.Helper()
	list, err := r.cfn().ListStacks(t.Context(), &awscfn.ListStacksInput{StackStatusFilter: notDeleted()})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list.StackSummaries, func(s cfntypes.StackSummary) bool { return *s.StackName == name })
}
