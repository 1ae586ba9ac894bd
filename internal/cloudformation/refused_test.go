package cloudformation_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscfn "github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/kv"
)

const minimalRole = `"Role":{"Type":"AWS::IAM::Role","Properties":{"AssumeRolePolicyDocument":` + podsTrust + `}}`

// withRole is a template of one role and other parts.
func withRole(parts string) string { return `{"Resources":{` + minimalRole + `}` + parts + `}` }

// withBucket is a template of a bucket with a property.
func withBucket(property string) string {
	return `{"Resources":{"Data":{"Type":"AWS::S3::Bucket","Properties":{` + property + `}}}}`
}

// withAddon is a template of an add-on with a property.
func withAddon(property string) string {
	return `{"Resources":{"Addon":{"Type":"AWS::EKS::Addon","Properties":{"ClusterName":"demo","AddonName":"vpc-cni",` + property + `}}}}`
}

// withEntry is a template of an access entry with access policies.
func withEntry(policies string) string {
	return `{"Resources":{"E":{"Type":"AWS::EKS::AccessEntry","Properties":{"ClusterName":"demo","PrincipalArn":"arn:aws:iam::111122223333:root",` +
		`"AccessPolicies":` + policies + `}}}}`
}

// withDescription is a template of a role whose description is a value.
func withDescription(value, parts string) string {
	return `{"Resources":{"Role":{"Type":"AWS::IAM::Role","Properties":{"Description":` + value + `,"AssumeRolePolicyDocument":` + podsTrust + `}}}` + parts + `}`
}

func TestTemplatesThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	for _, tc := range []struct{ name, template, message string }{
		{"nothing", ` `, "Template format error: unsupported structure."},
		{"a list", `[1]`, "Template format error: unsupported structure."},
		{"JSON that ends early", `{"Resources":{`, "Template format error: JSON not well-formed. (line 1, column 15)"},
		{"JSON with a member twice", `{"Resources":{},"Resources":{}}`, "Template format error: duplicate key at /Resources."},
		{"YAML that is none", "Resources:\n\t- a: [", ""},
		{"YAML with a key twice", "Resources: {}\nResources: {}", "Template format error: duplicate key Resources at line 2, column 1."},
		{"YAML aliases", "a: &x [1, 2]\nb: [*x, *x]", "Template error: YAML aliases are not allowed in CloudFormation templates"},
		{"a tag that is no function", "Resources: !!binary aGk=", ""},
		{"a bomb of depth", `{"Resources":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`, "Template format error: the template is nested deeper than 64 levels."},
		{"a bomb of YAML depth", "Resources: " + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000), ""},
		{"no resources", `{"Description":"x"}`, "Template format error: At least one Resources member must be defined."},
		{"another version", withRole(`,"AWSTemplateFormatVersion":"2011"`), "Template format error: Unrecognized template format version: 2011"},
		{"an unknown section", withRole(`,"Extras":{}`), "Invalid template property or properties [Extras]"},
		{"a transform", withRole(`,"Transform":"AWS::Serverless-2016-10-31"`), "Template format error: this server does not support the section Transform."},
		{"rules", withRole(`,"Rules":{}`), "Template format error: this server does not support the section Rules."},
		{"unknown types, all by name", `{"Resources":{"A":{"Type":"AWS::S3::BucketPolicy"},"B":{"Type":"AWS::EC2::VPC"},"C":{"Type":"AWS::S3::BucketPolicy"}}}`,
			"Template format error: Unrecognized resource types: [AWS::EC2::VPC, AWS::S3::BucketPolicy]"},
		{"a resource without a type", `{"Resources":{"A":{}}}`, "Template format error: [/Resources/A] Every Resources object must contain a Type member."},
		{"an unknown attribute of a resource", `{"Resources":{"A":{"Type":"AWS::IAM::Role","Foo":1}}}`, "Invalid template resource property 'Foo'"},
		{"a creation policy", `{"Resources":{"A":{"Type":"AWS::IAM::Role","CreationPolicy":{}}}}`, "Template format error: [/Resources/A] this server does not support the attribute CreationPolicy."},
		{"a snapshot of a role", `{"Resources":{"A":{"Type":"AWS::IAM::Role","DeletionPolicy":"Snapshot"}}}`,
			"Template format error: [/Resources/A/DeletionPolicy] DeletionPolicy has a value that is not supported."},
		{"an unknown property", `{"Resources":{"A":{"Type":"AWS::IAM::Role","Properties":{"Foo":1}}}}`,
			"Properties validation failed for resource A with message:\n#: extraneous key [Foo] is not permitted"},
		{"a missing property", `{"Resources":{"A":{"Type":"AWS::IAM::Role"}}}`,
			"Properties validation failed for resource A with message:\n#: required key [AssumeRolePolicyDocument] not found"},
		{"a required property that NoValue takes away", `{"Resources":{"A":{"Type":"AWS::IAM::Role","Properties":{"AssumeRolePolicyDocument":{"Ref":"AWS::NoValue"}}}}}`,
			"Properties validation failed for resource A with message:\n#: required key [AssumeRolePolicyDocument] not found"},
		{"a bucket with encryption", withBucket(`"BucketEncryption":{}`),
			"Properties validation failed for resource Data with message:\n#: extraneous key [BucketEncryption] is not permitted"},
		{"a bucket with versions", withBucket(`"VersioningConfiguration":{"Status":"Enabled"}`),
			"Properties validation failed for resource Data with message:\n#: extraneous key [VersioningConfiguration] is not permitted"},
		{"a bucket with tags", withBucket(`"Tags":[]`),
			"Properties validation failed for resource Data with message:\n#: extraneous key [Tags] is not permitted"},
		{"a bucket's address as a web site", `{"Resources":{"Data":{"Type":"AWS::S3::Bucket"}},"Outputs":{"O":{"Value":{"Fn::GetAtt":"Data.WebsiteURL"}}}}`,
			"Template error: resource Data does not support attribute type WebsiteURL in Fn::GetAtt"},
		{"an add-on in a namespace of its own", withAddon(`"NamespaceConfig":{"Namespace":"x"}`),
			"Properties validation failed for resource Addon with message:\n#: extraneous key [NamespaceConfig] is not permitted"},
		{"an add-on with an association that lacks its role", withAddon(`"PodIdentityAssociations":[{"ServiceAccount":"aws-node"}]`),
			"Properties validation failed for resource Addon with message:\n#/PodIdentityAssociations: expected type: JSONArray of PodIdentityAssociation"},
		{"an add-on with a service account twice", withAddon(`"PodIdentityAssociations":[{"ServiceAccount":"a","RoleArn":"b"},{"ServiceAccount":"a","RoleArn":"c"}]`),
			"Properties validation failed for resource Addon with message:\n#/PodIdentityAssociations: expected type: JSONArray of PodIdentityAssociation"},
		{"an access entry without a principal", `{"Resources":{"E":{"Type":"AWS::EKS::AccessEntry","Properties":{"ClusterName":"demo"}}}}`,
			"Properties validation failed for resource E with message:\n#: required key [PrincipalArn] not found"},
		{"an access policy without a scope", withEntry(`[{"PolicyArn":"a"}]`),
			"Properties validation failed for resource E with message:\n#/AccessPolicies: expected type: JSONArray of AccessPolicy"},
		{"an access scope without a type", withEntry(`[{"PolicyArn":"a","AccessScope":{"Namespaces":["x"]}}]`),
			"Properties validation failed for resource E with message:\n#/AccessPolicies: expected type: JSONArray of AccessPolicy"},
		{"an access scope with more", withEntry(`[{"PolicyArn":"a","AccessScope":{"Type":"cluster","Labels":["x"]}}]`),
			"Properties validation failed for resource E with message:\n#/AccessPolicies: expected type: JSONArray of AccessPolicy"},
		{"a reserved tag", withAddon(`"Tags":[{"Key":"aws:cloudformation:stack-name","Value":"other"}]`),
			"Tag keys that begin with aws: are reserved for system use: aws:cloudformation:stack-name"},
		{"a property of another type", withDescription(`["a"]`, ""), "Properties validation failed for resource Role with message:\n#/Description: expected type: String"},
		{"null", withDescription(`null`, ""), "Template format error: [/Resources/Role/Properties/Description] 'null' values are not allowed in templates"},
		{"null in a list", withDescription(`{"Fn::Join":["",["a",null]]}`, ""), "Template format error: [/Resources/Role/Properties/Description/1] 'null' values are not allowed in templates"},
		{"a logical ID that is none", `{"Resources":{"a-b":{"Type":"AWS::IAM::Role"}}}`, "Template format error: Resource name 'a-b' is non alphanumeric."},
		{"Ref to nothing", withDescription(`{"Ref":"Nothing"}`, ""), "Template format error: Unresolved resource dependencies [Nothing] in the Resources block of the template"},
		{"Sub of nothing", withDescription(`{"Fn::Sub":"${Nothing}"}`, ""), "Template format error: Unresolved resource dependencies [Nothing] in the Resources block of the template"},
		{"DependsOn nothing", `{"Resources":{"A":{"Type":"AWS::IAM::Role","DependsOn":"B","Properties":{"AssumeRolePolicyDocument":{}}}}}`,
			"Template format error: Unresolved resource dependencies [B] in the Resources block of the template"},
		{"GetAtt of nothing", withDescription(`{"Fn::GetAtt":"Nothing.Arn"}`, ""), "Template error: instance of Fn::GetAtt references undefined resource Nothing"},
		{"an unknown attribute", withRole(`,"Outputs":{"O":{"Value":{"Fn::GetAtt":["Role","Secret"]}}}`), "Template error: resource Role does not support attribute type Secret in Fn::GetAtt"},
		{"a circle of one", withDescription(`{"Ref":"Role"}`, ""), "Circular dependency between resources: [Role]"},
		{"a circle of two", `{"Resources":{"A":{"Type":"AWS::IAM::Role","DependsOn":"B","Properties":{"AssumeRolePolicyDocument":{}}},` +
			`"B":{"Type":"AWS::IAM::Role","Properties":{"Description":{"Fn::Sub":"${A.Arn}"},"AssumeRolePolicyDocument":{}}}}}`, "Circular dependency between resources: [A, B]"},
		{"a circle of conditions", withRole(`,"Conditions":{"A":{"Fn::Not":[{"Condition":"B"}]},"B":{"Condition":"A"}}`),
			"Template error: Found circular condition dependency between: [A, B]"},
		{"a condition on a resource", withRole(`,"Conditions":{"A":{"Fn::Equals":[{"Ref":"Role"},"x"]}}`),
			"Template format error: Unresolved dependencies [Role]. Cannot reference resources in the Conditions block of the template"},
		{"a condition that is none", withRole(`,"Conditions":{"A":"yes"}`), "Template format error: Every Conditions member must be a condition function; A is none."},
		{"an unknown condition", withDescription(`{"Fn::If":["Nope","a","b"]}`, ""), "Template format error: Unresolved condition dependency Nope in the Resources block of the template"},
		{"an unknown function", withDescription(`{"Fn::Cidr":["10.0.0.0/16",1,1]}`, ""), "Template error: the function Fn::Cidr is not supported by this server."},
		{"a macro", withDescription(`{"Fn::Transform":{"Name":"x"}}`, ""), "Template error: the function Fn::Transform is not supported by this server."},
		{"an unknown function where no one looks", withDescription(`{"Fn::If":["C","a",{"Fn::GetAZs":""}]}`, `,"Conditions":{"C":{"Fn::Equals":["a","a"]}}`),
			"Template error: the function Fn::GetAZs is not supported by this server."},
		{"a logical function outside the conditions", withDescription(`{"Fn::Equals":["a","a"]}`, ""), "Template error: Fn::Equals can only be used in the Conditions block of the template."},
		{"a function with company", withDescription(`{"Fn::Sub":"a","b":1}`, ""), "Template error: Fn::Sub must be the only member of its object."},
		{"a dynamic reference", withDescription(`"{{resolve:ssm:/x}}"`, ""), "Template error: this server does not support dynamic references: {{resolve:ssm:/x}}"},
		{"Select beyond the end", withDescription(`{"Fn::Select":[2,["a","b"]]}`, ""), "Template error: Fn::Select  cannot select nonexistent value at index 2"},
		{"an unknown mapping", withDescription(`{"Fn::FindInMap":["M","a","b"]}`, ""), "Template validation error: Mapping named 'M' is not present in the 'Mappings' section of template."},
		{"an unknown key of a mapping", withDescription(`{"Fn::FindInMap":["M","x","b"]}`, `,"Mappings":{"M":{"a":{"b":"c"}}}`), "Template error: Unable to get mapping for M::x::b"},
		{"an import that depends on a resource", withRole(`,"Outputs":{"O":{"Value":{"Fn::ImportValue":{"Ref":"Role"}}}}`),
			"Template error: the attributes of Fn::ImportValue can't depend on any resources: Role"},
		{"an unknown export", withDescription(`{"Fn::ImportValue":"nope"}`, ""), "No export named nope found."},
		{"an output without a value", withRole(`,"Outputs":{"O":{}}`), "Template format error: Output O is malformed. Every Outputs member must contain a Value object"},
		{"an export with a bad name", withRole(`,"Outputs":{"O":{"Value":"x","Export":{"Name":"a b"}}}`),
			"Template format error: Output O is malformed. The Name field of every Export member must be specified and consist only of alphanumeric characters, colons, or hyphens."},
		{"a parameter of SSM", withRole(`,"Parameters":{"P":{"Type":"AWS::SSM::Parameter::Value<String>"}}`),
			"Template format error: this server does not support the type AWS::SSM::Parameter::Value<String> of the parameter P."},
		{"a default that is not allowed", withRole(`,"Parameters":{"P":{"Type":"String","Default":"c","AllowedValues":["a","b"]}}`), "Parameter 'P' must be one of AllowedValues"},
		{"a parameter without a value", withRole(`,"Parameters":{"P":{"Type":"String"}}`), "Parameters: [P] must have values"},
		{"a bomb of joins", bombOfJoins(), "Template error: the evaluated template is larger than 1048576 bytes."},
		{"too many resources", manyRoles(501), "Template format error: Number of resources, 501, is greater than maximum allowed, 500"},
		{"a template that is too long", withDescription(`"`+strings.Repeat("x", 51_200)+`"`, ""),
			"1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have length less than or equal to 51200"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &tc.template, Capabilities: namedIAM})
			wantRefused(t, err, "ValidationError", tc.message)
		})
	}
	if all := r.inventory(t); len(all) != 0 {
		t.Errorf("something was made: %q", all)
	}
}

// bombOfJoins repeats a parameter of 4,000 bytes 400 times.
func bombOfJoins() string {
	items := strings.TrimSuffix(strings.Repeat(`{"Ref":"P"},`, 400), ",")
	return withDescription(`{"Fn::Join":["",[`+items+`]]}`, `,"Parameters":{"P":{"Type":"String","Default":"`+strings.Repeat("x", 4000)+`"}}`)
}

func manyRoles(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"R%d":{"Type":"T"},`, i)
	}
	return `{"Resources":{` + strings.TrimSuffix(b.String(), ",") + `}}`
}

// A megabyte and more does not come so far as the template.
func TestRequestsThatAreTooLarge(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: aws.String(strings.Repeat("x", 1<<20))})
	wantRefused(t, err, "RequestEntityTooLarge", "")
}

func TestParametersThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	template := withRole(`,"Parameters":{"Name":{"Type":"String","Default":"abc","MinLength":2,"MaxLength":4,"AllowedPattern":"[a-z]+"},` +
		`"Count":{"Type":"Number","Default":5,"MinValue":1,"MaxValue":9},"Mode":{"Type":"String","Default":"a","AllowedPattern":"a|b","ConstraintDescription":"say a or b"}}`)
	for _, tc := range []struct {
		params  []string
		message string
	}{
		{[]string{"Name", "a"}, "Parameter 'Name' must contain at least 2 characters"},
		{[]string{"Name", "abcde"}, "Parameter 'Name' must contain at most 4 characters"},
		{[]string{"Name", "AB"}, "Parameter 'Name' must match pattern [a-z]+"},
		{[]string{"Count", "x"}, "Parameter 'Count' must be a number"},
		{[]string{"Count", "0"}, "Parameter 'Count' must be a number not less than 1"},
		{[]string{"Count", "9.5"}, "Parameter 'Count' must be a number not greater than 9"},
		{[]string{"Mode", "ab"}, "Parameter Mode failed to satisfy constraint: say a or b"},
		{[]string{"Other", "x"}, "Parameters: [Other] do not exist in the template"},
		{[]string{"Name", "ab", "Name", "ab"}, "Duplicate parameter keys: [Name]"},
	} {
		_, err := r.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{
			StackName: aws.String("app"), TemplateBody: &template, Capabilities: namedIAM, Parameters: parameters(tc.params...),
		})
		wantRefused(t, err, "ValidationError", tc.message)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	template := withRole("")
	r.create(t, "there", template)
	create := func(in awscfn.CreateStackInput) func() error {
		return func() error {
			if in.StackName == nil {
				in.StackName = aws.String("app")
			}
			if in.TemplateBody == nil {
				in.TemplateBody = &template
			}
			_, err := c.CreateStack(ctx, &in)
			return err
		}
	}
	for _, tc := range []struct {
		name, code, message string
		call                func() error
	}{
		{"a name that is taken", "AlreadyExistsException", "Stack [there] already exists", create(awscfn.CreateStackInput{StackName: aws.String("there")})},
		{"a name that is none", "ValidationError", "1 validation error detected: Value '1-a' at 'stackName' failed to satisfy constraint: " +
			"Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*", create(awscfn.CreateStackInput{StackName: aws.String("1-a")})},
		{"a name that is too long", "ValidationError", "", create(awscfn.CreateStackInput{StackName: aws.String(strings.Repeat("a", 129))})},
		{"no capability", "InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]", create(awscfn.CreateStackInput{})},
		{"a service role", "ValidationError", "This server does not support the member 'roleARN' of CreateStack.",
			create(awscfn.CreateStackInput{RoleARN: aws.String("arn:aws:iam::111122223333:role/x")})},
		{"a template elsewhere", "ValidationError", "This server does not support the member 'templateURL' of CreateStack.",
			create(awscfn.CreateStackInput{TemplateURL: aws.String("https://example.com/x")})},
		{"two ways to fail", "ValidationError", "Either DisableRollback or OnFailure can be specified, not both.",
			create(awscfn.CreateStackInput{DisableRollback: aws.Bool(true), OnFailure: "DELETE", Capabilities: namedIAM})},
		{"a reserved tag", "ValidationError", "Tag keys that begin with aws: are reserved for system use: aws:x",
			create(awscfn.CreateStackInput{Tags: tags("aws:x", "y"), Capabilities: namedIAM})},
		{"an update of nothing", "ValidationError", "Stack [nope] does not exist", func() error {
			_, err := c.UpdateStack(ctx, &awscfn.UpdateStackInput{StackName: aws.String("nope"), TemplateBody: &template})
			return err
		}},
		{"another type for a resource", "ValidationError", "Update of resource type is not permitted. The new template modifies resource type of the following resources: [Role]", func() error {
			_, err := c.UpdateStack(ctx, &awscfn.UpdateStackInput{
				StackName: aws.String("there"), TemplateBody: aws.String(`{"Resources":{"Role":{"Type":"AWS::IAM::User"}}}`), Capabilities: namedIAM,
			})
			return err
		}},
		{"a change set of nothing", "ValidationError", "Stack [nope] does not exist", func() error {
			_, err := c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{StackName: aws.String("nope"), ChangeSetName: aws.String("c"), TemplateBody: &template})
			return err
		}},
		{"an unknown change set", "ChangeSetNotFound", "ChangeSet [c] does not exist", func() error {
			_, err := c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: aws.String("there"), ChangeSetName: aws.String("c")})
			return err
		}},
		{"an unknown resource", "ValidationError", "Resource X does not exist for stack there", func() error {
			_, err := c.DescribeStackResource(ctx, &awscfn.DescribeStackResourceInput{StackName: aws.String("there"), LogicalResourceId: aws.String("X")})
			return err
		}},
		{"a token that leads nowhere", "ValidationError", "", func() error {
			_, err := c.ListStacks(ctx, &awscfn.ListStacksInput{NextToken: aws.String("###")})
			return err
		}},
		{"resources retained without need", "ValidationError", "", func() error {
			_, err := c.DeleteStack(ctx, &awscfn.DeleteStackInput{StackName: aws.String("there"), RetainResources: []string{"Role"}})
			return err
		}},
		{"an operation that is not served", "NotImplemented", "", func() error {
			_, err := c.CancelUpdateStack(ctx, &awscfn.CancelUpdateStackInput{StackName: aws.String("there")})
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { wantRefused(t, tc.call(), tc.code, tc.message) })
	}
	r.delete(t, "nope") // as in AWS, that is no error
}

// A server whose S3 is off, or somebody else's, refuses buckets wherever a template is looked at.
func TestBucketsNeedAStore(t *testing.T) {
	t.Parallel()
	for name, objects := range map[string]http.Handler{"no S3": nil, "an S3 elsewhere": http.NotFoundHandler()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := (&world{store: kv.NewMemory(), objects: objects}).root(t)
			ctx, c, template := t.Context(), r.cfn(), withBucket("")
			const why = "Template format error: This server does not support the resource type AWS::S3::Bucket: it keeps no buckets of its own."
			_, err := c.CreateStack(ctx, &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: &template})
			wantRefused(t, err, "ValidationError", why)
			_, err = c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{
				StackName: aws.String("app"), ChangeSetName: aws.String("c"), ChangeSetType: "CREATE", TemplateBody: &template,
			})
			wantRefused(t, err, "ValidationError", why)
			_, err = c.ValidateTemplate(ctx, &awscfn.ValidateTemplateInput{TemplateBody: &template})
			wantRefused(t, err, "ValidationError", why)
			_, err = c.GetTemplateSummary(ctx, &awscfn.GetTemplateSummaryInput{TemplateBody: &template})
			wantRefused(t, err, "ValidationError", why)
		})
	}
}

// A stack's resources take its caller's permissions, as calls by wire do.
func TestPermissionsAreTheCallers(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	template := withRole("")
	weak := r.user(t, "weak", `{"Effect":"Allow","Action":["cloudformation:*","iam:Get*"],"Resource":"*"}`)
	wantStatus(t, weak.create(t, "weak", template), cfntypes.StackStatusRollbackComplete)
	why := strings.Join(weak.reasons(t, "weak", "Role", "CREATE_FAILED"), "; ")
	if !strings.Contains(why, "user/weak is not authorized to perform: iam:CreateRole") || !strings.Contains(why, "HandlerErrorCode: AccessDenied") {
		t.Errorf("the creation failed because: %s", why)
	}
	via := r.user(t, "via", `{"Effect":"Allow","Action":"cloudformation:*","Resource":"arn:aws:cloudformation:*:*:stack/team-*"},`+
		`{"Effect":"Allow","Action":"iam:*","Resource":"*","Condition":{"StringEquals":{"aws:CalledViaFirst":"cloudformation.amazonaws.com"}}}`)
	wantStatus(t, via.create(t, "team-a", template), cfntypes.StackStatusCreateComplete)
	_, err := via.cfn().CreateStack(t.Context(), &awscfn.CreateStackInput{StackName: aws.String("other"), TemplateBody: &template, Capabilities: namedIAM})
	wantRefused(t, err, "AccessDenied", "")
	_, err = via.cfn().DescribeStacks(t.Context(), &awscfn.DescribeStacksInput{StackName: aws.String("weak")})
	wantRefused(t, err, "AccessDenied", "")
	_, err = via.IAM().ListRoles(t.Context(), nil)
	wantRefused(t, err, "AccessDenied", "")
	via.delete(t, "team-a")
}

func TestClientRequestTokens(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	in := &awscfn.CreateStackInput{StackName: aws.String("app"), TemplateBody: aws.String(withRole("")), Capabilities: namedIAM, ClientRequestToken: aws.String("one")}
	first, err := c.CreateStack(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.CreateStack(ctx, in)
	if err != nil || *again.StackId != *first.StackId {
		t.Errorf("repeated: %v, %v", again, err)
	}
	_, err = c.UpdateStack(ctx, &awscfn.UpdateStackInput{
		StackName: aws.String("app"), TemplateBody: aws.String(withDescription(`"x"`, "")), Capabilities: namedIAM, ClientRequestToken: aws.String("one"),
	})
	wantRefused(t, err, "TokenAlreadyExistsException", "")
	in.ClientRequestToken = aws.String("two")
	_, err = c.CreateStack(ctx, in)
	wantRefused(t, err, "AlreadyExistsException", "")
}

// What NoEcho hides, and what keys are made of, is neither in the store nor in the audit trail.
func TestSecretsAreNotStoredInTheClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var trail bytes.Buffer
	w.trail = &trail
	r := w.root(t)
	template := readTemplate(t, "ci-user.yaml")
	st := r.create(t, "app", template, "Note", "a-note-to-be-hidden")
	r.update(t, "app", template, "Note", "hidden-still")
	if _, err := r.cfn().CreateChangeSet(t.Context(), &awscfn.CreateChangeSetInput{
		StackName: aws.String("app"), ChangeSetName: aws.String("set"), TemplateBody: &template, Capabilities: namedIAM,
		Parameters: parameters("Note", "hidden-again"),
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range st.Parameters {
		if *p.ParameterKey == "Note" && *p.ParameterValue != "****" {
			t.Errorf("the parameter shows as %s", *p.ParameterValue)
		}
	}
	secret := output(t, st, "Secret")
	entries, _, err := r.w.store.List(t.Context(), "/lanyard/cloudformation-")
	if err != nil || len(entries) < 5 {
		t.Fatalf("got %d rows, %v", len(entries), err)
	}
	if got, want := strings.Count(trail.String(), `"parameters":[{"parameterKey":"Note"}]`), 3; got != want {
		t.Errorf("%d records have the parameter's name, want %d", got, want)
	}
	if strings.Contains(trail.String(), "secretAccessKey") {
		t.Error("the trail has the member secretAccessKey")
	}
	for _, hidden := range []string{"a-note-to-be-hidden", "hidden-still", "hidden-again", secret} {
		for _, e := range entries {
			if strings.Contains(string(e.Value), hidden) {
				t.Errorf("%s has %s in the clear", e.Key, hidden)
			}
		}
		for line := range strings.Lines(trail.String()) {
			// The template makes the note a tag, which IAM shows to everybody: the record of that call has it.
			ofStack := strings.Contains(line, `"eventSource":"cloudformation.amazonaws.com"`)
			if strings.Contains(line, hidden) && (ofStack || hidden == secret) {
				t.Errorf("the trail has %s in the clear: %s", hidden, line)
			}
		}
	}
}

// `aws cloudformation deploy` leaves a change set behind each time that it finds nothing to do. A stack that is deployed every hour, and changes
// once in a while, must not come to an end of them.
func TestChangeSetsWithoutChangesMakeRoom(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	template := withRole("")
	r.create(t, "app", template)
	other := strings.Replace(template, `"Properties":{`, `"Properties":{"Description":"other",`, 1)
	plan := func(name, template string) error {
		_, err := c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{
			StackName: aws.String("app"), ChangeSetName: &name, TemplateBody: &template, Capabilities: namedIAM,
		})
		return err
	}
	status := func(name string) string {
		t.Helper()
		set, err := c.DescribeChangeSet(ctx, &awscfn.DescribeChangeSetInput{StackName: aws.String("app"), ChangeSetName: &name})
		if err != nil {
			return "gone"
		}
		return string(set.Status)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(plan("to-do", other))
	for i := range 100 { // one more than there is room for
		r.w.sleep(time.Second)
		check(plan(fmt.Sprintf("nothing-%d", i), template))
	}
	got := []string{status("to-do"), status("nothing-0"), status("nothing-1"), status("nothing-99")}
	if diff := cmp.Diff([]string{"CREATE_COMPLETE", "gone", "FAILED", "FAILED"}, got); diff != "" {
		t.Error(diff)
	}

	for i := range 99 {
		check(plan(fmt.Sprintf("something-%d", i), other))
	}
	wantRefused(t, plan("nothing-more", template), "LimitExceededException", "Limit exceeded: a stack has at most 100 change sets.")
	if got := status("something-0"); got != "CREATE_COMPLETE" {
		t.Errorf("a change set that can be executed is %s", got)
	}
}

func TestChangeSetThatCreates(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	in := &awscfn.CreateChangeSetInput{
		StackName: aws.String("app"), ChangeSetName: aws.String("first"), ChangeSetType: "CREATE", TemplateBody: aws.String(withRole("")), Capabilities: namedIAM,
	}
	made, err := c.CreateChangeSet(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	st := r.stack(t, "app")
	wantStatus(t, st, cfntypes.StackStatusReviewInProgress)
	_, err = c.UpdateStack(ctx, &awscfn.UpdateStackInput{StackName: aws.String("app"), TemplateBody: in.TemplateBody, Capabilities: namedIAM})
	wantRefused(t, err, "ValidationError", "Stack:"+*st.StackId+" is in REVIEW_IN_PROGRESS state and can not be updated.")
	in.ChangeSetName = aws.String("second")
	if _, err := c.CreateChangeSet(ctx, in); err != nil {
		t.Fatal(err)
	}
	if err := awscfn.NewChangeSetCreateCompleteWaiter(c).Wait(ctx, &awscfn.DescribeChangeSetInput{ChangeSetName: made.Id}, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{ChangeSetName: made.Id}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusCreateComplete)
	sets, err := c.ListChangeSets(ctx, &awscfn.ListChangeSetsInput{StackName: aws.String("app")})
	if err != nil || len(sets.Summaries) != 1 || sets.Summaries[0].ExecutionStatus != "EXECUTE_COMPLETE" {
		t.Errorf("change sets %v, %v", sets, err)
	}

	// A replacement shows as one, and what depends on it as conditional.
	out := `,"P":{"Type":"AWS::IAM::InstanceProfile","Properties":{"Roles":[{"Ref":"Role"}]}}`
	update := func(name, path string) *awscfn.DescribeChangeSetOutput {
		t.Helper()
		template := `{"Resources":{"Role":{"Type":"AWS::IAM::Role","Properties":{"Path":"` + path + `","AssumeRolePolicyDocument":` + podsTrust + `}}` + out + `}}`
		_, err := c.CreateChangeSet(ctx, &awscfn.CreateChangeSetInput{StackName: aws.String("app"), ChangeSetName: &name, TemplateBody: &template, Capabilities: namedIAM})
		if err != nil {
			t.Fatal(err)
		}
		set, err := c.DescribeChangeSet(ctx, &awscfn.DescribeChangeSetInput{StackName: aws.String("app"), ChangeSetName: &name})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	set := update("third", "/a/")
	if len(set.Changes) != 2 || set.Changes[0].ResourceChange.Action != "Add" || set.Changes[1].ResourceChange.Replacement != "True" {
		// The role comes first in the order of work.
		if len(set.Changes) != 2 || set.Changes[0].ResourceChange.Replacement != "True" || set.Changes[1].ResourceChange.Action != "Add" {
			t.Errorf("changes %v", set.Changes)
		}
	}
	update("fourth", "/b/")
	if _, err := c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: aws.String("app"), ChangeSetName: aws.String("third")}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, r.stack(t, "app"), cfntypes.StackStatusUpdateComplete)
	_, err = c.ExecuteChangeSet(ctx, &awscfn.ExecuteChangeSetInput{StackName: aws.String("app"), ChangeSetName: aws.String("fourth")})
	wantRefused(t, err, "ChangeSetNotFound", "")
	if _, err := c.DeleteChangeSet(ctx, &awscfn.DeleteChangeSetInput{StackName: aws.String("app"), ChangeSetName: aws.String("fourth")}); err != nil {
		t.Error(err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	var template strings.Builder
	template.WriteString(`{"Resources":{"Role":{"Type":"AWS::IAM::Role","Properties":{"AssumeRolePolicyDocument":` + podsTrust + `}}`)
	for i := range 110 {
		fmt.Fprintf(&template, `,"P%d":{"Type":"AWS::IAM::RolePolicy","Properties":{"RoleName":{"Ref":"Role"},"PolicyName":"p%d",`+
			`"PolicyDocument":{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}}}`, i, i)
	}
	template.WriteString(`}}`)
	wantStatus(t, r.create(t, "app", template.String()), cfntypes.StackStatusCreateComplete)
	n := 0
	pages := awscfn.NewListStackResourcesPaginator(c, &awscfn.ListStackResourcesInput{StackName: aws.String("app")})
	for ; pages.HasMorePages(); n++ {
		if _, err := pages.NextPage(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("the resources have %d pages, want 2", n)
	}
	if got := r.reasons(t, "app", "app", "CREATE_COMPLETE"); len(got) != 1 {
		t.Errorf("of %d events of completion are found, want 1", len(got))
	}
}

func TestTemplatesAreDescribed(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	ctx, c := t.Context(), r.cfn()
	template := readTemplate(t, "ci-user.yaml")
	valid, err := c.ValidateTemplate(ctx, &awscfn.ValidateTemplateInput{TemplateBody: &template})
	if err != nil {
		t.Fatal(err)
	}
	if len(valid.Parameters) != 3 || len(valid.Capabilities) != 1 || valid.Capabilities[0] != "CAPABILITY_IAM" ||
		*valid.CapabilitiesReason != "The following resource(s) require capabilities: [AWS::IAM::AccessKey, AWS::IAM::Policy, AWS::IAM::User]" {
		t.Errorf("got %+v", valid)
	}
	r.create(t, "app", template)
	for _, in := range []*awscfn.GetTemplateSummaryInput{{TemplateBody: &template}, {StackName: aws.String("app")}} {
		summary, err := c.GetTemplateSummary(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		if len(summary.ResourceTypes) != 3 || len(summary.Parameters) != 3 || *summary.Parameters[0].ParameterType != "String" {
			t.Errorf("got %+v", summary)
		}
	}
	user := r.physical(t, "app", "User")
	found, err := c.DescribeStackResources(ctx, &awscfn.DescribeStackResourcesInput{PhysicalResourceId: &user})
	if err != nil || len(found.StackResources) != 3 || *found.StackResources[0].StackName != "app" {
		t.Errorf("the stack of the user is %v, %v", found, err)
	}
}
