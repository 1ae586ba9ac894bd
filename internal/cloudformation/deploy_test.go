package cloudformation_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/google/go-cmp/cmp"
)

func readTemplate(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// broken adds to a template a role that comes last and cannot be finished: its policy does not exist.
func broken(t testing.TB, template string) string {
	t.Helper()
	const role = `{"Type": "AWS::IAM::Role", "Properties": {"ManagedPolicyArns": ["arn:aws:iam::aws:policy/DoesNotExist"], ` +
		`"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}}}`
	changed := strings.Replace(template, "\nResources:\n", "\nResources:\n  ZzBroken: "+role+"\n", 1)
	if strings.HasPrefix(template, "{") {
		changed = strings.Replace(template, `"Resources": {`, `"Resources": {"ZzBroken": `+role+`,`, 1)
	}
	if strings.HasPrefix(template, "Resources:\n") {
		changed = strings.Replace(template, "Resources:\n", "Resources:\n  ZzBroken: "+role+"\n", 1)
	}
	if changed == template {
		t.Fatal("the template has no Resources where they are looked for")
	}
	return changed
}

// scenarios are set-ups as people have them: each template with its parameters, and others that change the stack.
var scenarios = []struct {
	file     string
	first    string   // template that has to be there before, as the stack "base"
	params   []string // key, value, …
	update   []string
	replaced []string // logical IDs of the resources that the update replaces
	outputs  map[string]string
}{
	{file: "irsa-provider.yaml", update: []string{"Path", "/pods/", "ServiceAccount", "s3-writer"}, replaced: []string{"Role"}},
	{
		file: "importing-role.json", first: "exported-provider.yaml", params: []string{"ProviderStack", "base"},
		update: []string{"ProviderStack", "base", "Duration", "7200"},
	},
	{file: "pod-identity.yaml", update: []string{"Namespace", "other"}, replaced: []string{"Association"}},
	{file: "conditions.json", update: []string{"Stage", "prod"}},
	{file: "conditions.json", params: []string{"Stage", "staging"}, update: []string{"Stage", "dev", "Boundary", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"}},
	{file: "mappings.yaml", update: []string{"Stage", "prod"}, outputs: map[string]string{"Bucket": "data-east"}},
	{file: "managed-policy.yaml", update: []string{"Action", "s3:PutObject"}},
	{file: "managed-policy.yaml", update: []string{"PolicyPath", "/pods/"}, replaced: []string{"Policy"}},
	{file: "ci-user.yaml", update: []string{"Serial", "2"}, replaced: []string{"Key"}},
	{file: "ci-user.yaml", update: []string{"Status", "Inactive", "Note", "other"}},
	{file: "instance-profile.json", update: []string{"Which", "B"}},
	{file: "boundary.yaml", update: []string{"Level", "high"}},
	{file: "role-policy.yaml", update: []string{"Name", "two"}, replaced: []string{"Policy"}},
	{
		file: "lists.yaml", update: []string{"ServiceAccounts", "default:c", "Account", "444455556666"},
		outputs: map[string]string{"First": "default:a", "Coded": "MTExMTIyMjIzMzMz"},
	},
	{
		file: "target-role.yaml", update: []string{"Target", "arn:aws:iam::444455556666:role/other", "Untagged", "false"},
		outputs: map[string]string{"ExternalId": "us-east-1/111122223333/demo/data/loader"},
	},
	{
		file: "addon.yaml", update: []string{"Version", "v1.20.4-eksbuild.1", "Prefixes", "false"},
		outputs: map[string]string{"Ref": "demo|vpc-cni"},
	},
	{file: "addon.yaml", update: []string{"Way", "irsa"}},
	{file: "addon.yaml", params: []string{"Way", "irsa"}, update: []string{"Way", "none"}},
	{
		file: "addon.yaml", params: []string{"Way", "none", "Prefixes", ""}, replaced: []string{"Addon"},
		update: []string{"Way", "none", "Prefixes", "", "Name", "eks-pod-identity-agent", "Version", "v1.3.8-eksbuild.2"},
	},
	{
		file: "access-entry.yaml", update: []string{"Namespaces", "team-c", "Whole", "yes", "Groups", "admins,developers", "Username", "team"},
		outputs: map[string]string{"Ref": "arn:aws:iam::111122223333:role/app-team|demo"},
	},
	{file: "bucket.yaml", update: []string{"Stage", "prod"}, replaced: []string{"Association"}},
	{file: "bucket.yaml", params: []string{"Bucket", "team-data"}, update: []string{"Bucket", "team-data-2"}, replaced: []string{"AppData"},
		outputs: map[string]string{"Bucket": "team-data", "Domain": "team-data.s3.us-east-1.amazonaws.com"}},
}

func TestTemplatesLiveThroughEverything(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios {
		t.Run(sc.file+" "+strings.Join(sc.update, " "), func(t *testing.T) {
			t.Parallel()
			r := newReplica(t)
			r.Register(t, "demo")
			if sc.first != "" {
				wantStatus(t, r.create(t, "base", readTemplate(t, sc.first)), cfntypes.StackStatusCreateComplete)
			}
			template := readTemplate(t, sc.file)
			empty := r.inventory(t)

			// A creation that fails at the end leaves nothing but the stack's own record.
			failed := r.create(t, "failing", broken(t, template), sc.params...)
			wantStatus(t, failed, cfntypes.StackStatusRollbackComplete)
			if diff := cmp.Diff(empty, r.inventory(t)); diff != "" {
				t.Fatalf("the failed creation leaves (-want +got):\n%s", diff)
			}
			why := strings.Join(r.reasons(t, "failing", "ZzBroken", "CREATE_FAILED"), "; ")
			if !strings.Contains(why, "arn:aws:iam::aws:policy/DoesNotExist") || !strings.Contains(why, "HandlerErrorCode: NotFound") {
				t.Errorf("the creation failed because: %s", why)
			}
			r.delete(t, "failing")

			st := r.create(t, "app", template, sc.params...)
			wantStatus(t, st, cfntypes.StackStatusCreateComplete)
			for key, want := range sc.outputs {
				if got := output(t, st, key); got != want {
					t.Errorf("output %s is %q, want %q", key, got, want)
				}
			}
			made := r.inventory(t)
			if slices.Equal(made, empty) {
				t.Fatal("the stack has made nothing")
			}

			_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
				StackName: aws.String("app"), UsePreviousTemplate: aws.Bool(true), Capabilities: namedIAM, Parameters: parameters(sc.params...),
			})
			wantRefused(t, err, "ValidationError", "No updates are to be performed.")

			// An update that fails at the end leaves everything as it was.
			wantStatus(t, r.update(t, "app", broken(t, template), sc.update...), cfntypes.StackStatusUpdateRollbackComplete)
			if diff := cmp.Diff(made, r.inventory(t)); diff != "" {
				t.Fatalf("the failed update leaves (-want +got):\n%s", diff)
			}

			before := map[string]string{}
			for _, id := range sc.replaced {
				before[id] = r.physical(t, "app", id)
			}
			wantStatus(t, r.update(t, "app", template, sc.update...), cfntypes.StackStatusUpdateComplete)
			updated := r.inventory(t)
			if slices.Equal(made, updated) && !slices.Contains(sc.replaced, "Key") && !slices.Contains(sc.update, "Inactive") {
				t.Error("the update has changed nothing")
			}
			for _, id := range sc.replaced {
				if r.physical(t, "app", id) == before[id] {
					t.Errorf("%s was not replaced", id)
				}
			}

			// And back to what it was: nothing of either state is left.
			wantStatus(t, r.update(t, "app", template, sc.params...), cfntypes.StackStatusUpdateComplete)
			if len(sc.replaced) == 0 {
				if diff := cmp.Diff(made, withoutChangedNames(made, r.inventory(t))); diff != "" {
					t.Errorf("the update back leaves (-want +got):\n%s", diff)
				}
			}
			r.delete(t, "app")
			if diff := cmp.Diff(empty, r.inventory(t)); diff != "" {
				t.Errorf("the deleted stack leaves (-want +got):\n%s", diff)
			}
		})
	}
}

// withoutChangedNames returns got as it is, unless a resource was left out in between: then it has another generated name, and only
// the count can be compared.
func withoutChangedNames(want, got []string) []string {
	if len(want) == len(got) && slices.ContainsFunc(got, func(line string) bool { return !slices.Contains(want, line) }) {
		return want
	}
	return got
}

func TestDeletionPolicies(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	template := readTemplate(t, "retained.yaml")
	wantStatus(t, r.create(t, "failing", broken(t, template)), cfntypes.StackStatusRollbackComplete)
	left := r.inventory(t)
	if len(left) != 1 || !strings.Contains(left[0], "failing-Kept-") {
		t.Errorf("the failed creation leaves %q, want the role Kept alone", left)
	}
	st := r.create(t, "app", template)
	first := r.physical(t, "app", "Kept")
	wantStatus(t, r.update(t, "app", template, "Path", "/b/"), cfntypes.StackStatusUpdateComplete)
	if second := r.physical(t, "app", "Kept"); second == first {
		t.Error("the role was not replaced")
	}
	r.delete(t, "app")
	if left := r.inventory(t); len(left) != 4 {
		t.Errorf("left are %q, want four roles", left)
	}
	if skipped := r.reasons(t, *st.StackId, "Kept", "DELETE_SKIPPED"); len(skipped) != 2 {
		t.Errorf("the role Kept was skipped %d times, want 2", len(skipped))
	}

	// RetainExceptOnCreate of the request takes Retain back for what the failed creation made.
	_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{
		StackName: aws.String("none"), TemplateBody: aws.String(broken(t, template)), Capabilities: namedIAM, RetainExceptOnCreate: aws.Bool(true),
	})
	if err != nil {
		t.Fatal(err)
	}
	if left := r.inventory(t); len(left) != 4 {
		t.Errorf("left are %q, want no more than before", left)
	}
}

func TestOnFailure(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		in     awscfn.CreateStackInput
		status cfntypes.StackStatus
		left   int // roles
	}{
		{"nothing is said", awscfn.CreateStackInput{}, cfntypes.StackStatusRollbackComplete, 0},
		{"ROLLBACK", awscfn.CreateStackInput{OnFailure: "ROLLBACK"}, cfntypes.StackStatusRollbackComplete, 0},
		{"DO_NOTHING", awscfn.CreateStackInput{OnFailure: "DO_NOTHING"}, cfntypes.StackStatusCreateFailed, 2},
		{"DisableRollback", awscfn.CreateStackInput{DisableRollback: aws.Bool(true)}, cfntypes.StackStatusCreateFailed, 2},
		{"DELETE", awscfn.CreateStackInput{OnFailure: "DELETE"}, cfntypes.StackStatusDeleteComplete, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newReplica(t)
			tc.in.StackName, tc.in.TemplateBody, tc.in.Capabilities = aws.String("app"), aws.String(broken(t, readTemplate(t, "mappings.yaml"))), namedIAM
			made, err := r.cfn().CreateStack(t.Context(), &tc.in)
			if err != nil {
				t.Fatal(err)
			}
			wantStatus(t, r.stack(t, *made.StackId), tc.status)
			if left := r.inventory(t); len(left) != tc.left {
				t.Errorf("left are %q, want %d roles", left, tc.left)
			}
			_, err = r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
				StackName: made.StackId, TemplateBody: aws.String(readTemplate(t, "mappings.yaml")), Capabilities: namedIAM,
			})
			wantRefused(t, err, "ValidationError", "")
			r.delete(t, *made.StackId)
			if left := r.inventory(t); len(left) != 0 {
				t.Errorf("after the deletion are left %q", left)
			}
		})
	}
}

// A stack whose creation failed and was not rolled back is put right by updates, which have nothing to be rolled back to either.
func TestFailedCreationIsPutRight(t *testing.T) {
	t.Parallel()
	const template = `{"Parameters": {"Policy": {"Type": "String"}}, "Resources": {
		"First": {"Type": "AWS::IAM::User"},
		"Role": {"Type": "AWS::IAM::Role", "DependsOn": "First", "Properties": {"RoleName": "reader", "ManagedPolicyArns": [{"Ref": "Policy"}],
			"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}}}},
		"Outputs": {"Role": {"Value": {"Fn::GetAtt": "Role.Arn"}, "Export": {"Name": "reader"}}}}`
	const missing, there = "arn:aws:iam::aws:policy/DoesNotExist", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	update := func(policy string, disable bool) error {
		_, err := c.UpdateStack(ctx, &awscfn.UpdateStackInput{
			StackName: aws.String("app"), UsePreviousTemplate: aws.Bool(true), Capabilities: namedIAM, DisableRollback: &disable, Parameters: parameters("Policy", policy),
		})
		return err
	}
	for _, byChangeSet := range []bool{false, true} {
		_, err := c.CreateStack(ctx, &awscfn.CreateStackInput{
			StackName: aws.String("app"), TemplateBody: aws.String(template), Capabilities: namedIAM, DisableRollback: aws.Bool(true), Parameters: parameters("Policy", missing),
		})
		if err != nil {
			t.Fatal(err)
		}
		wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusCreateFailed)
		wantRefused(t, update(there, false), "ValidationError", "This stack is currently in a non-terminal [CREATE_FAILED] state. To update the stack from this state, "+
			"please use the disable-rollback parameter with update-stack API.")
		user := r.physical(t, "app", "First")
		if err := update(missing, true); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusUpdateFailed)
		if byChangeSet {
			set := aws.String("fix")
			_, err := c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{
				StackName: aws.String("app"), ChangeSetName: set, UsePreviousTemplate: aws.Bool(true), Capabilities: namedIAM, Parameters: parameters("Policy", there),
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: aws.String("app"), ChangeSetName: set})
			wantRefused(t, err, "ValidationError", "")
			if _, err = c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: aws.String("app"), ChangeSetName: set, DisableRollback: aws.Bool(true)}); err != nil {
				t.Fatal(err)
			}
		} else if err := update(there, true); err != nil {
			t.Fatal(err)
		}
		st := r.stack(t, "app")
		wantStatus(t, st, cfntypes.StackStatusUpdateComplete)
		if got := output(t, st, "Role"); got != "arn:aws:iam::111122223333:role/reader" {
			t.Errorf("the role is %s", got)
		}
		if got := r.physical(t, "app", "First"); got != user {
			t.Errorf("the user %s, which was complete, was made again as %s", user, got)
		}
		if diff := cmp.Diff(map[string]int{"role": 1, "user": 1}, counts(r.inventory(t))); diff != "" {
			t.Errorf("there are (-want +got):\n%s", diff)
		}
		r.delete(t, "app")
		if left := r.inventory(t); len(left) != 0 {
			t.Errorf("left are %q", left)
		}
	}
}

// An update that fails without rollback can be put right by the next one, and a failure of that leads back to the stack's last good
// state.
func TestUpdateWithoutRollback(t *testing.T) {
	t.Parallel()
	template := readTemplate(t, "irsa-provider.yaml")
	fail := func(t *testing.T, r *replica, disable bool, pairs ...string) cfntypes.Stack {
		t.Helper()
		_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
			StackName: aws.String("app"), TemplateBody: aws.String(broken(t, template)), Capabilities: namedIAM, DisableRollback: &disable,
			Parameters: parameters(pairs...),
		})
		if err != nil {
			t.Fatal(err)
		}
		return r.stack(t, "app")
	}
	t.Run("then one that succeeds", func(t *testing.T) {
		t.Parallel()
		r := newReplica(t)
		r.create(t, "app", template)
		wantStatus(t, fail(t, r, true, "Path", "/b/"), cfntypes.StackStatusUpdateFailed)
		wantStatus(t, fail(t, r, true, "Path", "/c/"), cfntypes.StackStatusUpdateFailed)
		wantStatus(t, r.update(t, "app", template, "Path", "/d/"), cfntypes.StackStatusUpdateComplete)
		if all := r.inventory(t); len(all) != 2 {
			t.Errorf("there are %q, want one provider and one role", all)
		}
		r.delete(t, "app")
		if all := r.inventory(t); len(all) != 0 {
			t.Errorf("left are %q", all)
		}
	})
	t.Run("then one that is rolled back", func(t *testing.T) {
		t.Parallel()
		r := newReplica(t)
		r.create(t, "app", template)
		before := r.inventory(t)
		wantStatus(t, fail(t, r, true, "Path", "/b/"), cfntypes.StackStatusUpdateFailed)
		wantStatus(t, fail(t, r, false, "Path", "/c/"), cfntypes.StackStatusUpdateRollbackComplete)
		if diff := cmp.Diff(before, r.inventory(t)); diff != "" {
			t.Errorf("the rollback leaves (-want +got):\n%s", diff)
		}
	})
}

// What somebody else has attached to a role keeps it, and the deletion says so. It can be tried again, or go on without the role.
func TestDeletionThatFails(t *testing.T) {
	t.Parallel()
	for _, retain := range []bool{false, true} {
		r := newReplica(t)
		st := r.create(t, "app", readTemplate(t, "managed-policy.yaml"))
		role := r.physical(t, "app", "Role")
		attach := aws.String("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
		if _, err := r.IAM().AttachRolePolicy(t.Context(), &awsiam.AttachRolePolicyInput{RoleName: &role, PolicyArn: attach}); err != nil {
			t.Fatal(err)
		}
		r.delete(t, "app")
		st = r.stack(t, *st.StackId)
		wantStatus(t, st, cfntypes.StackStatusDeleteFailed)
		if got, want := *st.StackStatusReason, "The following resource(s) failed to delete: [Role]."; got != want {
			t.Errorf("the stack's reason is %q, want %q", got, want)
		}
		if got := r.reasons(t, "app", "Role", "DELETE_FAILED"); len(got) != 1 || !strings.Contains(got[0], "must detach all policies first") {
			t.Errorf("the role's reasons are %q", got)
		}
		again := &awscfn.DeleteStackInput{StackName: st.StackId}
		left := 0
		if retain {
			again.RetainResources, left = []string{"Role"}, 1
		} else if _, err := r.IAM().DetachRolePolicy(t.Context(), &awsiam.DetachRolePolicyInput{RoleName: &role, PolicyArn: attach}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.cfn().DeleteStack(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, r.stack(t, *st.StackId), cfntypes.StackStatusDeleteComplete)
		if all := r.inventory(t); len(all) != left {
			t.Errorf("left are %q, want %d roles", all, left)
		}
	}
}

func TestExportsHoldWhatOthersImport(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	base, app := readTemplate(t, "exported-provider.yaml"), readTemplate(t, "importing-role.json")

	_, err := c.CreateStack(ctx, &awscfn.CreateStackInput{
		StackName: aws.String("app"), TemplateBody: &app, Capabilities: namedIAM, Parameters: parameters("ProviderStack", "base"),
	})
	wantRefused(t, err, "ValidationError", "No export named base:ProviderArn found.")

	r.create(t, "base", base)
	r.create(t, "app", app, "ProviderStack", "base")
	exports, err := c.ListExports(ctx, &awscfn.ListExportsInput{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range exports.Exports {
		names = append(names, *e.Name)
	}
	if diff := cmp.Diff([]string{"app:RoleArn", "base:Issuer", "base:ProviderArn"}, names); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
	imports, err := c.ListImports(ctx, &awscfn.ListImportsInput{ExportName: aws.String("base:Issuer")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app"}, imports.Imports); diff != "" {
		t.Errorf("imports (-want +got):\n%s", diff)
	}

	st := r.update(t, "base", strings.Replace(base, "Value: oidc.example.com/id/shared", "Value: elsewhere", 1))
	wantStatus(t, st, cfntypes.StackStatusUpdateRollbackComplete)
	if got := r.reasons(t, "base", "base", "UPDATE_ROLLBACK_IN_PROGRESS"); len(got) != 1 || got[0] != "Export base:Issuer cannot be updated as it is in use by app." {
		t.Errorf("the rollback's reason is %q", got)
	}
	r.delete(t, "base")
	st = r.stack(t, "base")
	wantStatus(t, st, cfntypes.StackStatusDeleteFailed)
	if !strings.Contains(*st.StackStatusReason, "as it is in use by app") {
		t.Errorf("the deletion failed because: %s", *st.StackStatusReason)
	}
	second := strings.ReplaceAll(base, "${AWS::StackName}", "base")
	second = strings.ReplaceAll(second, "id/shared", "id/second")
	wantStatus(t, r.create(t, "second", second), cfntypes.StackStatusRollbackComplete)

	r.delete(t, "app")
	_, err = c.ListImports(ctx, &awscfn.ListImportsInput{ExportName: aws.String("base:Issuer")})
	wantRefused(t, err, "ValidationError", "Export 'base:Issuer' is not imported by any stack.")
	r.delete(t, "base")
	if left := r.inventory(t); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

// A stack whose update fails without a rollback has two generations, and may import by each. When it goes, it lets go of both.
func TestDeletedStackImportsNothing(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	base, app := readTemplate(t, "exported-provider.yaml"), readTemplate(t, "importing-role.json")
	r.create(t, "base", base)
	r.create(t, "app", app, "ProviderStack", "base")
	_, err := r.cfn().UpdateStack(t.Context(), &awscfn.UpdateStackInput{
		StackName: aws.String("app"), Capabilities: namedIAM, DisableRollback: aws.Bool(true), TemplateBody: aws.String(`{"Resources": {"User": {
			"Type": "AWS::IAM::User", "Properties": {"ManagedPolicyArns": ["arn:aws:iam::111122223333:policy/missing"]}}}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusUpdateFailed)
	r.delete(t, "base")
	wantStatus(t, r.stack(t, "base"), cfntypes.StackStatusDeleteFailed)
	r.delete(t, "app")
	_, err = r.cfn().ListImports(t.Context(), &awscfn.ListImportsInput{ExportName: aws.String("base:Issuer")})
	wantRefused(t, err, "ValidationError", "Export 'base:Issuer' is not imported by any stack.")
	r.delete(t, "base")
	if left := r.inventory(t); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

// A resource with a name of its own cannot be replaced, since the name is taken by what it would replace.
func TestNamedResourceCannotBeReplaced(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	template := `{"Parameters":{"Path":{"Type":"String","Default":"/"}},"Resources":{"Role":{"Type":"AWS::IAM::Role","Properties":{"RoleName":"fixed",` +
		`"Path":{"Ref":"Path"},"AssumeRolePolicyDocument":` + podsTrust + `}}}}`
	r.create(t, "app", template)
	before := r.inventory(t)
	wantStatus(t, r.update(t, "app", template, "Path", "/b/"), cfntypes.StackStatusUpdateRollbackComplete)
	if got := r.reasons(t, "app", "Role", "UPDATE_FAILED"); len(got) != 1 || !strings.Contains(got[0], "already exists") {
		t.Errorf("the update failed because: %q", got)
	}
	if diff := cmp.Diff(before, r.inventory(t)); diff != "" {
		t.Errorf("the rollback leaves (-want +got):\n%s", diff)
	}

	// Nor does a stack take over, or take away, what somebody else has made.
	wantStatus(t, r.create(t, "thief", template), cfntypes.StackStatusRollbackComplete)
	r.delete(t, "thief")
	if diff := cmp.Diff(before, r.inventory(t)); diff != "" {
		t.Errorf("the other stack has changed (-want +got):\n%s", diff)
	}
}

func TestStackTagsGoOntoResources(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx := t.Context()
	template := readTemplate(t, "ci-user.yaml")
	set := func(pairs ...string) {
		t.Helper()
		_, err := r.cfn().UpdateStack(ctx, &awscfn.UpdateStackInput{
			StackName: aws.String("app"), UsePreviousTemplate: aws.Bool(true), Capabilities: namedIAM, Tags: tags(pairs...),
		})
		if err != nil {
			t.Fatal(err)
		}
		wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusUpdateComplete)
	}
	want := func(pairs ...string) {
		t.Helper()
		name := r.physical(t, "app", "User")
		out, err := r.IAM().ListUserTags(ctx, &awsiam.ListUserTagsInput{UserName: &name})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tag := range out.Tags {
			if !strings.HasPrefix(*tag.Key, "aws:") {
				got = append(got, *tag.Key, *tag.Value)
			}
		}
		if diff := cmp.Diff(pairs, got); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
	}
	r.create(t, "app", template)
	want("note", "hidden")
	set("team", "data", "note", "the resource's own tag counts")
	want("note", "hidden", "team", "data")
	set("owner", "ops")
	want("note", "hidden", "owner", "ops")
}
