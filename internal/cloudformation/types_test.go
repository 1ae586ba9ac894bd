package cloudformation_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
)

func systemTags(st cfntypes.Stack, logical string) map[string]string {
	return map[string]string{
		"aws:cloudformation:logical-id": logical, "aws:cloudformation:stack-id": *st.StackId, "aws:cloudformation:stack-name": *st.StackName,
	}
}

func (r *replica) roleTags(t *testing.T, role string) map[string]string {
	t.Helper()
	out, err := r.IAM().ListRoleTags(t.Context(), &awsiam.ListRoleTagsInput{RoleName: &role})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range out.Tags {
		tags[*tag.Key] = *tag.Value
	}
	return tags
}

// What a stack has made says so by tags that are CloudFormation's alone.
func TestSystemTagsOfIAM(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.IAM()
	st := r.create(t, "app", withRole(""))
	role := r.physical(t, "app", "Role")
	want := systemTags(st, "Role")
	if diff := cmp.Diff(want, r.roleTags(t, role)); diff != "" {
		t.Fatalf("tags of the role (-want +got):\n%s", diff)
	}

	// Users can neither bring such tags, nor change or remove them.
	const reserved = "Tag keys that begin with aws: are reserved for system use: aws:cloudformation:stack-name"
	theirs := iamtypes.Tag{Key: aws.String("aws:cloudformation:stack-name"), Value: aws.String("other")}
	_, err := c.TagRole(ctx, &awsiam.TagRoleInput{RoleName: &role, Tags: []iamtypes.Tag{theirs}})
	wantRefused(t, err, "InvalidInput", reserved)
	_, err = c.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: &role, TagKeys: []string{"aws:cloudformation:stack-name"}})
	wantRefused(t, err, "InvalidInput", reserved)
	_, err = c.UntagRole(ctx, &awsiam.UntagRoleInput{RoleName: &role, TagKeys: []string{"team", "AWS:CloudFormation:Stack-Name"}})
	wantRefused(t, err, "InvalidInput", "")
	_, err = c.CreateRole(ctx, &awsiam.CreateRoleInput{
		RoleName: aws.String("forged"), AssumeRolePolicyDocument: aws.String(podsTrust), Tags: []iamtypes.Tag{theirs},
	})
	wantRefused(t, err, "InvalidInput", reserved)

	// They leave room for all the tags that a role may have.
	var own []iamtypes.Tag
	for i := range 50 {
		key := fmt.Sprintf("key-%d", i)
		own = append(own, iamtypes.Tag{Key: &key, Value: aws.String("v")})
		want[key] = "v"
	}
	if _, err := c.TagRole(ctx, &awsiam.TagRoleInput{RoleName: &role, Tags: own}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.roleTags(t, role)); diff != "" {
		t.Errorf("tags of the role (-want +got):\n%s", diff)
	}
	_, err = c.TagRole(ctx, &awsiam.TagRoleInput{RoleName: &role, Tags: []iamtypes.Tag{{Key: aws.String("one-more"), Value: aws.String("v")}}})
	wantRefused(t, err, "LimitExceeded", "")

	// An update leaves them, whatever becomes of the role's own tags.
	_, err = r.cfn().UpdateStack(ctx, &awscfn.UpdateStackInput{
		StackName: aws.String("app"), UsePreviousTemplate: aws.Bool(true), Capabilities: namedIAM, Tags: tags("key-1", "from the stack"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want["key-1"] = "from the stack"
	if diff := cmp.Diff(want, r.roleTags(t, role)); diff != "" {
		t.Errorf("tags of the role after the update (-want +got):\n%s", diff)
	}

	// Policies see them as any other tag of the resource.
	reader := r.user(t, "reader", `{"Effect":"Allow","Action":"iam:GetRole","Resource":"*",`+
		`"Condition":{"StringEquals":{"aws:ResourceTag/aws:cloudformation:stack-name":"app"}}}`)
	if _, err := reader.IAM().GetRole(ctx, &awsiam.GetRoleInput{RoleName: &role}); err != nil {
		t.Errorf("the role of the stack app: %v", err)
	}
	r.create(t, "other", withRole(""))
	_, err = reader.IAM().GetRole(ctx, &awsiam.GetRoleInput{RoleName: aws.String(r.physical(t, "other", "Role"))})
	wantRefused(t, err, "AccessDenied", "")
}

// Nobody needs a permission for tags that he does not bring.
func TestSystemTagsTakeNoPermission(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	plain := r.user(t, "plain", `{"Effect":"Allow","Action":["cloudformation:*","iam:CreateRole"],"Resource":"*"},`+
		`{"Effect":"Deny","Action":"iam:*","Resource":"*","Condition":{"Null":{"aws:TagKeys":"false"}}}`)
	wantStatus(t, plain.create(t, "app", withRole("")), cfntypes.StackStatusCreateComplete)
	_, err := plain.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{
		StackName: aws.String("tagged"), TemplateBody: aws.String(withRole("")), Capabilities: namedIAM, Tags: tags("team", "data"),
	})
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, r.stack(t, "tagged"), cfntypes.StackStatusRollbackComplete)
	if why := r.reasons(t, "tagged", "Role", "CREATE_FAILED"); len(why) != 1 || !strings.Contains(why[0], "iam:CreateRole") {
		t.Errorf("the creation failed because: %q", why)
	}
}

func TestSystemTagsOfEKS(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.Register(t, "demo")
	ctx, c := t.Context(), r.EKS()
	pods, addon, entry := r.create(t, "pods", readTemplate(t, "pod-identity.yaml")), r.create(t, "addon", readTemplate(t, "addon.yaml")),
		r.create(t, "entry", readTemplate(t, "access-entry.yaml"))
	for _, tc := range []struct {
		st                   cfntypes.Stack
		output, logical, own string
	}{
		{pods, "AssociationArn", "Association", "data"},
		{addon, "Arn", "Addon", "network"},
		{entry, "Arn", "Entry", "data"},
	} {
		t.Run(tc.logical, func(t *testing.T) {
			arn := aws.String(output(t, tc.st, tc.output))
			want := systemTags(tc.st, tc.logical)
			want["team"] = tc.own
			got, err := c.ListTagsForResource(ctx, &awseks.ListTagsForResourceInput{ResourceArn: arn})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Tags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			reserved := `The tag key "aws:cloudformation:stack-id" is reserved: it begins with aws:.`
			_, err = c.UntagResource(ctx, &awseks.UntagResourceInput{ResourceArn: arn, TagKeys: []string{"aws:cloudformation:stack-id"}})
			wantRefused(t, err, "BadRequestException", reserved)
			_, err = c.TagResource(ctx, &awseks.TagResourceInput{ResourceArn: arn, Tags: map[string]string{"aws:cloudformation:stack-id": "x"}})
			wantRefused(t, err, "BadRequestException", reserved)
			own := map[string]string{}
			for i := range 49 { // and the one that it has
				own[fmt.Sprintf("key-%d", i)] = "v"
			}
			if _, err := c.TagResource(ctx, &awseks.TagResourceInput{ResourceArn: arn, Tags: own}); err != nil {
				t.Errorf("fifty tags besides: %v", err)
			}
			_, err = c.TagResource(ctx, &awseks.TagResourceInput{ResourceArn: arn, Tags: map[string]string{"one-more": "v"}})
			wantRefused(t, err, "BadRequestException", "")
		})
	}
}

// Users are put into groups, and policies are given to them, and taken away again: what is left is what somebody else gave.
func TestGroupsOfTemplates(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.IAM()
	for _, name := range []string{"one", "two"} {
		if _, err := c.CreateGroup(ctx, &awsiam.CreateGroupInput{GroupName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	const document = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}`
	template := `{"Parameters": {"Group": {"Type": "CommaDelimitedList"}}, "Resources": {
		"User": {"Type": "AWS::IAM::User", "Properties": {"UserName": "ci", "Groups": {"Ref": "Group"}}},
		"Inline": {"Type": "AWS::IAM::Policy", "Properties": {"PolicyName": "read", "Groups": {"Ref": "Group"}, "PolicyDocument": ` + document + `}},
		"Managed": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"ManagedPolicyName": "read", "Groups": {"Ref": "Group"}, "PolicyDocument": ` + document + `}}}}`
	// has shows a group's users, inline and attached policies.
	has := func(name string) (all []string) {
		t.Helper()
		group, err := c.GetGroup(ctx, &awsiam.GetGroupInput{GroupName: &name})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range group.Users {
			all = append(all, "user "+*u.UserName)
		}
		inline, err := c.ListGroupPolicies(ctx, &awsiam.ListGroupPoliciesInput{GroupName: &name})
		if err != nil {
			t.Fatal(err)
		}
		for _, policy := range inline.PolicyNames {
			all = append(all, "inline "+policy)
		}
		attached, err := c.ListAttachedGroupPolicies(ctx, &awsiam.ListAttachedGroupPoliciesInput{GroupName: &name})
		if err != nil {
			t.Fatal(err)
		}
		for _, policy := range attached.AttachedPolicies {
			all = append(all, "attached "+*policy.PolicyName)
		}
		return all
	}
	want := func(when string, one, two []string) {
		t.Helper()
		if diff := cmp.Diff([][]string{one, two}, [][]string{has("one"), has("two")}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	all := []string{"user ci", "inline read", "attached read"}

	wantStatus(t, r.create(t, "app", template, "Group", "one,missing"), cfntypes.StackStatusRollbackComplete)
	want("after a creation that failed", nil, nil)
	r.delete(t, "app")

	wantStatus(t, r.create(t, "app", template, "Group", "one"), cfntypes.StackStatusCreateComplete)
	want("after the creation", all, nil)
	wantStatus(t, r.update(t, "app", template, "Group", "one,two"), cfntypes.StackStatusUpdateComplete)
	want("after one was added", all, all)
	wantStatus(t, r.update(t, "app", template, "Group", "missing"), cfntypes.StackStatusUpdateRollbackComplete)
	want("after an update that failed", all, all)
	wantStatus(t, r.update(t, "app", template, "Group", "two"), cfntypes.StackStatusUpdateComplete)
	want("after one was taken away", nil, all)
	if _, err := c.AddUserToGroup(ctx, &awsiam.AddUserToGroupInput{GroupName: aws.String("one"), UserName: aws.String("ci")}); err != nil {
		t.Fatal(err)
	}
	r.delete(t, "app")
	wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusDeleteFailed)
	want("after a deletion that failed", []string{"user ci"}, nil)
}

// A bucket without a name gets one of the stack's and its own, as S3 wants names.
func TestBucketsAreNamed(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	long := "Stack" + strings.Repeat("-of-Many-Words", 8)
	for stack, pattern := range map[string]string{"MyApp": `^myapp-data-[0-9a-z]{12}$`, long: `^stack-of-many-words[a-z-]*-data-[0-9a-z]{12}$`} {
		wantStatus(t, r.create(t, stack, withBucket("")), cfntypes.StackStatusCreateComplete)
		name := r.physical(t, stack, "Data")
		if !regexp.MustCompile(pattern).MatchString(name) || len(name) > 63 {
			t.Errorf("the bucket is called %q", name)
		}
		if _, err := r.s3Client().HeadBucket(t.Context(), &awss3.HeadBucketInput{Bucket: &name}); err != nil {
			t.Errorf("bucket %s: %v", name, err)
		}
	}
	st := r.create(t, "bad", withBucket(`"BucketName":"Not_A_Name"`))
	wantStatus(t, st, cfntypes.StackStatusRollbackComplete)
	if why := r.reasons(t, "bad", "Data", "CREATE_FAILED"); len(why) != 1 || !strings.Contains(why[0], "The specified bucket is not valid.") {
		t.Errorf("the creation failed because: %q", why)
	}
}

func TestBucketThatIsNotEmpty(t *testing.T) {
	t.Parallel()
	for _, retain := range []bool{false, true} {
		t.Run(fmt.Sprintf("retained: %t", retain), func(t *testing.T) {
			t.Parallel()
			r := newReplica(t)
			ctx, objects := t.Context(), r.s3Client()
			template := withBucket(`"BucketName":"team-data"`)
			if retain {
				template = strings.Replace(template, `"Type"`, `"DeletionPolicy":"Retain","Type"`, 1)
			}
			st := r.create(t, "app", template)
			bucket, key := aws.String("team-data"), aws.String("report")
			if _, err := objects.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: key, Body: strings.NewReader("x")}); err != nil {
				t.Fatal(err)
			}
			r.delete(t, "app")
			if retain {
				wantStatus(t, r.stack(t, *st.StackId), cfntypes.StackStatusDeleteComplete)
			} else {
				wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusDeleteFailed)
				want := `Resource handler returned message: "The bucket you tried to delete is not empty (Status Code: 409)" (HandlerErrorCode: GeneralServiceException)`
				if why := r.reasons(t, "app", "Data", "DELETE_FAILED"); len(why) != 1 || why[0] != want {
					t.Errorf("the deletion failed because: %q", why)
				}
			}
			if _, err := objects.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: key}); err != nil {
				t.Fatalf("the object is gone: %v", err)
			}
			if retain {
				return
			}
			if _, err := objects.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: key}); err != nil {
				t.Fatal(err)
			}
			r.delete(t, "app")
			wantStatus(t, r.stack(t, *st.StackId), cfntypes.StackStatusDeleteComplete)
		})
	}
}

// A bucket takes its caller's permissions, and one that is there already is neither taken over nor taken away.
func TestBucketsAreTheCallers(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	template := withBucket(`"BucketName":"team-data"`)
	weak := r.user(t, "weak", `{"Effect":"Allow","Action":"cloudformation:*","Resource":"*"}`)
	wantStatus(t, weak.create(t, "weak", template), cfntypes.StackStatusRollbackComplete)
	why := strings.Join(weak.reasons(t, "weak", "Data", "CREATE_FAILED"), "; ")
	if !strings.Contains(why, `user/weak is not authorized to perform: s3:CreateBucket on resource: "arn:aws:s3:::team-data"`) ||
		!strings.Contains(why, "HandlerErrorCode: AccessDenied") {
		t.Errorf("the creation failed because: %s", why)
	}
	via := r.user(t, "via", `{"Effect":"Allow","Action":"cloudformation:*","Resource":"*"},`+
		`{"Effect":"Allow","Action":"s3:*","Resource":"*","Condition":{"StringEquals":{"aws:CalledViaFirst":"cloudformation.amazonaws.com"}}}`)
	_, err := via.s3Client().CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("team-data")})
	wantRefused(t, err, "AccessDenied", "")
	wantStatus(t, via.create(t, "via", template), cfntypes.StackStatusCreateComplete)

	wantStatus(t, r.create(t, "thief", template), cfntypes.StackStatusRollbackComplete)
	why = strings.Join(r.reasons(t, "thief", "Data", "CREATE_FAILED"), "; ")
	if !strings.Contains(why, "you already own it") || !strings.Contains(why, "HandlerErrorCode: AlreadyExists") {
		t.Errorf("the creation failed because: %s", why)
	}
	r.delete(t, "thief")
	if _, err := r.s3Client().HeadBucket(t.Context(), &awss3.HeadBucketInput{Bucket: aws.String("team-data")}); err != nil {
		t.Errorf("the bucket of the stack via: %v", err)
	}
	via.delete(t, "via")
	if all := r.inventory(t); strings.Contains(strings.Join(all, "\n"), "bucket") {
		t.Errorf("left are %q", all)
	}
}

// The associations of an add-on whose software is preserved stay.
func TestAddonThatIsPreserved(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.Register(t, "demo")
	template := strings.Replace(readTemplate(t, "addon.yaml"), `PreserveOnDelete: "false"`, `PreserveOnDelete: "true"`, 1)
	template = strings.Replace(template, "    Type: AWS::IAM::Role\n", "    Type: AWS::IAM::Role\n    DeletionPolicy: Retain\n", 1)
	wantStatus(t, r.create(t, "app", template), cfntypes.StackStatusCreateComplete)
	r.delete(t, "app")
	got := counts(r.inventory(t))
	if diff := cmp.Diff(map[string]int{"role": 1, "association": 1}, got); diff != "" {
		t.Errorf("left are (-want +got):\n%s", diff)
	}
}

// An add-on that is there already, or that has a version that does not exist, fails as EKS says.
func TestAddonsThatFail(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.Register(t, "demo")
	template := readTemplate(t, "addon.yaml")
	wantStatus(t, r.create(t, "app", template), cfntypes.StackStatusCreateComplete)
	before := r.inventory(t)
	wantStatus(t, r.create(t, "again", template, "Way", "none"), cfntypes.StackStatusRollbackComplete)
	if why := r.reasons(t, "again", "Addon", "CREATE_FAILED"); len(why) != 1 || !strings.Contains(why[0], "Addon already exists.") ||
		!strings.Contains(why[0], "HandlerErrorCode: AlreadyExists") {
		t.Errorf("the creation failed because: %q", why)
	}
	wantStatus(t, r.update(t, "app", template, "Version", "v0.0.1"), cfntypes.StackStatusUpdateRollbackComplete)
	if diff := cmp.Diff(before, r.inventory(t)); diff != "" {
		t.Errorf("left are (-want +got):\n%s", diff)
	}
}
