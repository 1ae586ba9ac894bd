package iam_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"
)

const (
	object     = "arn:aws:s3:::bucket/key"
	allowObj   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}]}`
	onlyOffice = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*",` +
		`"Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},"StringEquals":{"aws:PrincipalTag/team":"${aws:RequestTag/team}"}}}]}`
)

// a result as one line: decision, then the statements with their places, then the keys that are missing.
func line(decision types.PolicyEvaluationDecisionType, matched []types.Statement, missing []string) string {
	var b strings.Builder
	b.WriteString(string(decision))
	for _, st := range matched {
		fmt.Fprintf(&b, " %s(%s)@%d:%d-%d:%d", *st.SourcePolicyId, st.SourcePolicyType,
			st.StartPosition.Line, st.StartPosition.Column, st.EndPosition.Line, st.EndPosition.Column)
	}
	for _, key := range missing {
		b.WriteString(" ?" + key)
	}
	return b.String()
}

// whole is the place of the only statement of a document on one line.
func whole(document string) string {
	return fmt.Sprintf("1:%d-1:%d", len(`{"Version":"2012-10-17","Statement":[`)+1, len(document)-1)
}

func entry(key string, typ types.ContextKeyTypeEnum, values ...string) types.ContextEntry {
	return types.ContextEntry{ContextKeyName: &key, ContextKeyType: typ, ContextKeyValues: values}
}

// custom simulates GetObject of one object.
func custom(policies ...string) *awsiam.SimulateCustomPolicyInput {
	return &awsiam.SimulateCustomPolicyInput{PolicyInputList: policies, ActionNames: []string{"s3:GetObject"}, ResourceArns: []string{object}}
}

func TestSimulateCustomPolicy(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	alice := of("arn:aws:iam::" + account + ":user/alice")
	deny := statement("Deny", "s3:*", "*")
	bucketPolicy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + *alice +
		`"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}]}`
	later := onlyIf(allowObj, `{"DateGreaterThan":{"aws:CurrentTime":"2020-01-01T00:00:00Z"},"NumericGreaterThan":{"aws:EpochTime":"5"}}`)
	forAlice := onlyIf(allowObj, `{"StringEquals":{"aws:username":"alice","aws:PrincipalArn":"`+*alice+`"}}`)
	for _, c := range []struct {
		name    string
		input   *awsiam.SimulateCustomPolicyInput
		edit    func(*awsiam.SimulateCustomPolicyInput)
		want    string
		details map[string]types.PolicyEvaluationDecisionType // of the whole; nil for an empty map
		bounded string                                        // AllowedByPermissionsBoundary, if it is there
		scp     string                                        // AllowedByOrganizations, if it is there
	}{
		{name: "an allow", input: custom(allowObj), want: "allowed PolicyInputList.1(IAM Policy)@" + whole(allowObj)},
		{name: "of another action", input: custom(statement("Allow", "s3:PutObject", "*")), want: "implicitDeny"},
		{name: "a deny is the only statement named", input: custom(allowObj, deny), want: "explicitDeny PolicyInputList.2(IAM Policy)@" + whole(deny)},
		{name: "keys that are missing", input: custom(onlyOffice), want: "implicitDeny ?aws:PrincipalTag/team ?aws:RequestTag/team ?aws:SourceIp"},
		{
			name: "keys that are there", input: custom(onlyOffice), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.ContextEntries = []types.ContextEntry{entry("aws:SourceIp", "ip", "192.0.2.7"),
					entry("aws:principaltag/Team", "string", "a"), entry("aws:RequestTag/team", "string", "a")}
			},
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(onlyOffice),
		},
		{
			name: "a boundary that allows", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.PermissionsBoundaryPolicyInputList = []string{statement("Allow", "s3:*", "*")}
			},
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(allowObj), bounded: "true",
		},
		{
			name: "a boundary that does not", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.PermissionsBoundaryPolicyInputList = []string{statement("Allow", "ec2:*", "*")}
			},
			want: "implicitDeny", bounded: "false",
		},
		{
			name: "a boundary that denies", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.PermissionsBoundaryPolicyInputList = []string{deny}
			},
			want: "explicitDeny PermissionsBoundaryPolicyInputList.1(Permissions Boundary Policy)@" + whole(deny), bounded: "false",
		},
		{
			name: "an organization that allows", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.OrderedOrganizationPolicyInputList = levels(statement("Allow", "*", "*"), statement("Allow", "s3:*", "*"))
			},
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(allowObj), scp: "true",
		},
		{
			name: "one level of an organization that does not", input: custom(onlyOffice), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.OrderedOrganizationPolicyInputList = levels(statement("Allow", "*", "*"),
					onlyIf(statement("Allow", "s3:*", "*"), `{"StringEquals":{"aws:RequestedRegion":"eu-west-1"}}`))
			},
			want: "implicitDeny ?aws:PrincipalTag/team ?aws:RequestTag/team ?aws:SourceIp", scp: "false",
		},
		{
			name: "a resource's policy in the same account", input: custom(statement("Allow", "ec2:*", "*")), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.CallerArn, i.ResourcePolicy = alice, &bucketPolicy
			},
			want: "allowed ResourcePolicy(Resource Policy)@" + whole(bucketPolicy),
		},
		{
			name: "a resource's policy alone, between accounts", input: custom(statement("Allow", "ec2:*", "*")), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.CallerArn, i.ResourcePolicy, i.ResourceOwner = alice, &bucketPolicy, of("arn:aws:iam::"+other+":root")
			},
			want:    "implicitDeny",
			details: map[string]types.PolicyEvaluationDecisionType{"IAM Policy": "implicitDeny", "Resource Policy": "allowed"},
		},
		{
			name: "both policies, between accounts", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.CallerArn, i.ResourcePolicy, i.ResourceOwner = alice, &bucketPolicy, of(other)
			},
			want:    "allowed ResourcePolicy(Resource Policy)@" + whole(bucketPolicy) + " PolicyInputList.1(IAM Policy)@" + whole(allowObj),
			details: map[string]types.PolicyEvaluationDecisionType{"IAM Policy": "allowed", "Resource Policy": "allowed"},
		},
		{
			name: "a resource of another account, without its policy", input: custom(statement("Allow", "*", "*")), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.CallerArn, i.ResourceArns = alice, []string{"arn:aws:sqs:us-east-1:" + other + ":queue"}
			},
			want:    "implicitDeny",
			details: map[string]types.PolicyEvaluationDecisionType{"IAM Policy": "allowed", "Resource Policy": "implicitDeny"},
		},
		{
			name: "the same by nobody in particular, who is of that account", input: custom(allowObj), edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.ResourceOwner = of(other)
			},
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(allowObj),
		},
		{
			name: "the time is filled in", input: custom(later),
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(later),
		},
		{
			name: "but not over an entry's", input: custom(later),
			edit: func(i *awsiam.SimulateCustomPolicyInput) {
				i.ContextEntries = []types.ContextEntry{entry("aws:CurrentTime", "date", "2019-01-01T00:00:00Z")}
			},
			want: "implicitDeny",
		},
		{
			name: "and who calls, if it is said", input: custom(forAlice),
			edit: func(i *awsiam.SimulateCustomPolicyInput) { i.CallerArn = alice },
			want: "allowed PolicyInputList.1(IAM Policy)@" + whole(forAlice),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.edit != nil {
				c.edit(c.input)
			}
			out, err := in.root.SimulateCustomPolicy(t.Context(), c.input)
			check(t, err)
			r := out.EvaluationResults[0]
			if len(out.EvaluationResults) != 1 || *r.EvalActionName != "s3:GetObject" || *r.EvalResourceName != c.input.ResourceArns[0] || out.IsTruncated {
				t.Errorf("got %+v", out)
			}
			if got := line(r.EvalDecision, r.MatchedStatements, r.MissingContextValues); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			one := r.ResourceSpecificResults[0]
			if got := line(one.EvalResourceDecision, one.MatchedStatements, one.MissingContextValues); got != c.want || *one.EvalResourceName != *r.EvalResourceName {
				t.Errorf("the resource: got %s\nwant %s", got, c.want)
			}
			if diff := cmp.Diff(c.details, one.EvalDecisionDetails); diff != "" && len(c.details)+len(one.EvalDecisionDetails) > 0 {
				t.Errorf("details (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(one.EvalDecisionDetails, r.EvalDecisionDetails); diff != "" && len(r.EvalDecisionDetails) > 0 {
				t.Errorf("details of the whole (-resource +whole):\n%s", diff)
			}
			bounded, scp := "", ""
			if d := r.PermissionsBoundaryDecisionDetail; d != nil {
				bounded = fmt.Sprint(d.AllowedByPermissionsBoundary)
			}
			if d := r.OrganizationsDecisionDetail; d != nil {
				scp = fmt.Sprint(d.AllowedByOrganizations)
			}
			if bounded != c.bounded || scp != c.scp {
				t.Errorf("boundary %q, organization %q; want %q, %q", bounded, scp, c.bounded, c.scp)
			}
		})
	}
}

func levels(documents ...string) (list []types.OrderedOrganizationPolicyType) {
	for _, d := range documents {
		list = append(list, types.OrderedOrganizationPolicyType{ServiceControlPolicyInputList: []string{d}})
	}
	return list
}

func TestOneResultForEachAction(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	out, err := in.root.SimulateCustomPolicy(t.Context(), &awsiam.SimulateCustomPolicyInput{
		PolicyInputList: []string{
			statement("Allow", "s3:GetObject", "arn:aws:s3:::a/*"),
			statement("Deny", "s3:*", "arn:aws:s3:::b/*"),
			onlyIf(statement("Allow", "s3:PutObject", "arn:aws:s3:::a/*"), `{"Bool":{"aws:SecureTransport":"true"}}`),
		},
		ActionNames:  []string{"s3:GetObject", "s3:PutObject"},
		ResourceArns: []string{"arn:aws:s3:::a/x", "arn:aws:s3:::c/x", "arn:aws:s3:::b/x"},
	})
	check(t, err)
	var got []string
	for _, r := range out.EvaluationResults {
		got = append(got, *r.EvalActionName+" "+*r.EvalResourceName+" "+line(r.EvalDecision, nil, r.MissingContextValues)+fmt.Sprint(len(r.MatchedStatements)))
		for _, one := range r.ResourceSpecificResults {
			got = append(got, *one.EvalResourceName+" "+line(one.EvalResourceDecision, nil, one.MissingContextValues)+fmt.Sprint(len(one.MatchedStatements)))
		}
	}
	want := []string{
		"s3:GetObject * explicitDeny1",
		"arn:aws:s3:::a/x allowed1", "arn:aws:s3:::c/x implicitDeny0", "arn:aws:s3:::b/x explicitDeny1",
		"s3:PutObject * explicitDeny ?aws:SecureTransport1",
		"arn:aws:s3:::a/x implicitDeny ?aws:SecureTransport0", "arn:aws:s3:::c/x implicitDeny0", "arn:aws:s3:::b/x explicitDeny1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out, err = in.root.SimulateCustomPolicy(t.Context(), &awsiam.SimulateCustomPolicyInput{
		PolicyInputList: []string{statement("Allow", "s3:ListAllMyBuckets", "*")}, ActionNames: []string{"s3:ListAllMyBuckets"},
	})
	check(t, err)
	if r := out.EvaluationResults[0]; *r.EvalResourceName != "*" || r.ResourceSpecificResults != nil || r.EvalDecisionDetails != nil || r.EvalDecision != "allowed" {
		t.Errorf("without resources: got %+v", r)
	}
}

func TestSimulationsArePaged(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	input := &awsiam.SimulateCustomPolicyInput{PolicyInputList: []string{allowObj}, MaxItems: of(int32(3))}
	for i := range 8 {
		input.ActionNames = append(input.ActionNames, fmt.Sprintf("s3:Action%d", i))
	}
	var got []string
	pages := 0
	for p := awsiam.NewSimulateCustomPolicyPaginator(in.root, input); p.HasMorePages(); pages++ {
		page, err := p.NextPage(t.Context())
		check(t, err)
		for _, r := range page.EvaluationResults {
			got = append(got, *r.EvalActionName)
		}
	}
	if diff := cmp.Diff(input.ActionNames, got); diff != "" || pages != 3 {
		t.Errorf("%d pages (-want +got):\n%s", pages, diff)
	}
	// A page is shorter than asked for where policies are long or resources many.
	many := &awsiam.SimulateCustomPolicyInput{PolicyInputList: []string{allowObj}, ActionNames: input.ActionNames}
	for i := range 900 {
		many.ResourceArns = append(many.ResourceArns, fmt.Sprintf("arn:aws:s3:::bucket/%d", i))
	}
	out, err := in.root.SimulateCustomPolicy(t.Context(), many)
	check(t, err)
	if len(out.EvaluationResults) != 5 || !out.IsTruncated || len(out.EvaluationResults[0].ResourceSpecificResults) != 900 {
		t.Errorf("a page of %d results, truncated %v", len(out.EvaluationResults), out.IsTruncated)
	}
	many.PolicyInputList = []string{strings.Repeat(" ", 100_000) + allowObj}
	_, err = in.root.SimulateCustomPolicy(t.Context(), many)
	refused(t, err, "InvalidInput", "Policies of this size can be simulated with 97 resources at most.")
}

func TestSimulationsThatAreRefused(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	with := func(edit func(*awsiam.SimulateCustomPolicyInput)) func() error {
		return func() error {
			i := custom(allowObj)
			edit(i)
			return failure(in.root.SimulateCustomPolicy(t.Context(), i))
		}
	}
	entries := func(list ...types.ContextEntry) func() error {
		return with(func(i *awsiam.SimulateCustomPolicyInput) { i.ContextEntries = list })
	}
	bad := func(typ types.ContextKeyTypeEnum, values ...string) refusal {
		return refusal{fmt.Sprintf("%s %q", typ, values), entries(entry("aws:TheKey", typ, values...)), "InvalidInput",
			"Invalid Context Entry: a value of aws:TheKey is not of type " + string(typ) + "."}
	}
	long := strings.Repeat("a", 129)
	refuses(t, []refusal{
		bad("boolean", "yes"), bad("booleanList", "true", "1"), bad("numeric", "1e3"), bad("numeric", ""), bad("numericList", "1", "x"),
		bad("date", "yesterday"), bad("dateList", "2020-01-01T00:00:00Z", "2020-13-01"), bad("ip", "192.0.2.300"), bad("ip", "192.0.2.0/24"),
		bad("ip", "fe80::1%eth0"), bad("ipList", "::1", ""), bad("binary", "%%%"), bad("binary", "YQ"), bad("binaryList", "YQ==", "Y\nQ=="),
		{"a type that is none", entries(entry("aws:TheKey", "text", "x")), "ValidationError", "1 validation error detected: Value at 'contextEntries.1.member.contextKeyType'"},
		{"a name that is too short", entries(entry("aws:", "string", "x")), "ValidationError", "1 validation error"},
		{"no type", entries(types.ContextEntry{ContextKeyName: of("aws:TheKey"), ContextKeyValues: []string{"x"}}), "InvalidInput", "Each member of ContextEntries must have"},
		{"no name", entries(types.ContextEntry{ContextKeyType: "string", ContextKeyValues: []string{"x"}}), "InvalidInput", "Each member of ContextEntries must have"},
		{"two values of a single type", entries(entry("aws:TheKey", "string", "x", "y")), "InvalidInput", "Invalid Context Entry: aws:TheKey of type string must have exactly one value."},
		{"no value of a single type", entries(entry("aws:TheKey", "string")), "InvalidInput", "Invalid Context Entry: aws:TheKey of type string must have exactly one value."},
		{"a key twice", entries(entry("aws:TheKey", "string", "x"), entry("AWS:thekey", "string", "x")), "InvalidInput", "Invalid Context Entry: AWS:thekey is there more than once."},
		{"too many entries", with(func(i *awsiam.SimulateCustomPolicyInput) {
			for n := range 257 {
				i.ContextEntries = append(i.ContextEntries, entry(fmt.Sprintf("aws:RequestTag/%d", n), "string", "x"))
			}
		}), "InvalidInput", "ContextEntries must have 256 members at most."},
		{"too many values", entries(entry("aws:TagKeys", "stringList", strings.Split(strings.Repeat("x ", 1000)+"x", " ")...)), "InvalidInput", "ContextEntries must have 1000 values at most together."},
		{"a policy that is none", with(func(i *awsiam.SimulateCustomPolicyInput) { i.PolicyInputList = append(i.PolicyInputList, "{\n}") }),
			"InvalidInput", "Invalid policy PolicyInputList.2 at line 1, column 1: "},
		{"a boundary that is none", with(func(i *awsiam.SimulateCustomPolicyInput) { i.PermissionsBoundaryPolicyInputList = []string{"{}"} }),
			"InvalidInput", "Invalid policy PermissionsBoundaryPolicyInputList.1 at line 1, column 1: "},
		{"two boundaries", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.PermissionsBoundaryPolicyInputList = []string{allowObj, allowObj}
		}),
			"InvalidInput", "PermissionsBoundaryPolicyInputList can have one policy only."},
		{"a service control policy that is none", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.OrderedOrganizationPolicyInputList = levels(allowObj, "{}")
		}),
			"InvalidInput", "Invalid policy OrderedOrganizationPolicyInputList.2.ServiceControlPolicyInputList.1 at line 1, column 1: "},
		{"more policies than are read", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.PolicyInputList = []string{allowObj + strings.Repeat(" ", 70_000), allowObj + strings.Repeat(" ", 70_000)}
		}), "InvalidInput", "The policies of a request must have 131072 bytes at most together."},
		{"a wildcard action", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ActionNames = []string{"s3:*"} }), "InvalidInput", "Invalid Action Name: s3:* "},
		{"an action without a service", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ActionNames = []string{"GetObject"} }), "InvalidInput", "Invalid Action Name: GetObject "},
		{"an action that is too long", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ActionNames = []string{"s3:" + long} }), "ValidationError", "1 validation error"},
		{"no action", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ActionNames = []string{} }), "InvalidInput", "ActionNames must have between 1 and 1000 members."},
		{"too many actions", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.ActionNames = strings.Split(strings.Repeat("s3:GetObject ", 1000)+"s3:GetObject", " ")
		}), "InvalidInput", "ActionNames must have between 1 and 1000 members."},
		{"too many resources", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.ResourceArns = strings.Split(strings.Repeat("* ", 1000)+"*", " ")
		}), "InvalidInput", "ResourceArns must have 1000 members at most."},
		{"a resource that is no ARN", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ResourceArns = []string{"bucket"} }), "InvalidInput", "Invalid Resource Arn: bucket"},
		{"an owner that is none", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ResourceOwner = of("arn:aws:iam::" + account + ":user/x") }), "InvalidInput", "Invalid Resource Owner: "},
		{"a session as the caller", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.CallerArn = of("arn:aws:sts::" + account + ":assumed-role/r/s")
		}), "InvalidInput", "Invalid Entity Arn: arn:aws:sts::" + account + ":assumed-role/r/s does not clearly define entity type and name."},
		{"a group as the caller", with(func(i *awsiam.SimulateCustomPolicyInput) { i.CallerArn = of("arn:aws:iam::" + account + ":group/g") }), "InvalidInput", "Invalid caller - "},
		{"a resource policy for nobody", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ResourcePolicy = of("{}") }), "InvalidInput", "Invalid caller - Caller cannot be null or empty."},
		{"a resource policy for a role", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.CallerArn, i.ResourcePolicy = of("arn:aws:iam::"+account+":role/r"), of("{}")
		}), "InvalidInput", "Simulation of resource-based policies isn't supported for IAM roles."},
		{"a resource policy without principals", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.CallerArn, i.ResourcePolicy = of("arn:aws:iam::"+account+":user/u"), of(allowObj)
		}), "InvalidInput", "Invalid policy ResourcePolicy at line 1, column 38: "},
		{"an option that is none", with(func(i *awsiam.SimulateCustomPolicyInput) { i.ResourceHandlingOption = of("EC2-Moon") }), "InvalidInput", "Invalid Resource Handling Option: EC2-Moon"},
		{"an option without its resources", with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.ResourceHandlingOption, i.ResourceArns = of("EC2-VPC-InstanceStore-Subnet"), ec2("instance", "image", "security-group", "network-interface")
		}), "InvalidInput", "The Resource Handling Option EC2-VPC-InstanceStore-Subnet requires a resource of the type subnet."},
		{"a marker of another list", func() error {
			for _, name := range []string{"a", "b"} {
				in.role(t, name)
			}
			out, err := in.root.ListRoles(t.Context(), &awsiam.ListRolesInput{MaxItems: of(int32(1))})
			check(t, err)
			i := custom(allowObj)
			i.Marker = out.Marker
			return failure(in.root.SimulateCustomPolicy(t.Context(), i))
		}, "ValidationError", "Invalid Marker"},
	})
	for option, kinds := range map[string][]string{
		"EC2-VPC-InstanceStore":        {"instance", "image", "security-group", "network-interface"},
		"EC2-VPC-InstanceStore-Subnet": {"instance", "image", "security-group", "network-interface", "subnet"},
		"EC2-VPC-EBS":                  {"instance", "image", "security-group", "network-interface", "volume"},
		"EC2-VPC-EBS-Subnet":           {"instance", "image", "security-group", "network-interface", "volume", "subnet"},
	} {
		check(t, with(func(i *awsiam.SimulateCustomPolicyInput) {
			i.ResourceHandlingOption, i.ResourceArns = &option, ec2(kinds...)
		})())
	}
}

func ec2(kinds ...string) (arns []string) {
	for _, k := range kinds {
		arns = append(arns, "arn:aws:ec2:us-east-1:"+account+":"+k+"/x")
	}
	return arns
}

func TestContextEntriesOfAllTypes(t *testing.T) {
	t.Parallel()
	in := start(t, "aws")
	for _, c := range []struct {
		typ       types.ContextKeyTypeEnum
		values    []string
		condition string // holds for the values
	}{
		{"string", []string{"Ä, b"}, `{"StringEquals":{"aws:TheKey":"Ä, b"}}`},
		{"stringList", []string{"a", "b"}, `{"ForAllValues:StringEquals":{"aws:TheKey":["a","b","c"]},"ForAnyValue:StringEquals":{"aws:TheKey":"b"}}`},
		{"stringList", nil, `{"ForAllValues:StringEquals":{"aws:TheKey":"c"}}`},
		{"numeric", []string{"-1.50"}, `{"NumericEquals":{"aws:TheKey":-1.5}}`},
		{"numericList", []string{"1", "2"}, `{"ForAllValues:NumericLessThan":{"aws:TheKey":3},"ForAnyValue:NumericEquals":{"aws:TheKey":2}}`},
		{"boolean", []string{"TRUE"}, `{"Bool":{"aws:TheKey":"true"}}`},
		{"booleanList", []string{"false", "true"}, `{"ForAnyValue:Bool":{"aws:TheKey":"true"}}`},
		{"ip", []string{"2001:db8::1"}, `{"IpAddress":{"aws:TheKey":"2001:db8::/32"}}`},
		{"ipList", []string{"192.0.2.1", "192.0.2.2"}, `{"ForAllValues:IpAddress":{"aws:TheKey":"192.0.2.0/24"},"ForAnyValue:IpAddress":{"aws:TheKey":"192.0.2.2/32"}}`},
		{"binary", []string{"AP8="}, `{"BinaryEquals":{"aws:TheKey":"AP8="}}`},
		{"binaryList", []string{"AP8=", "YQ=="}, `{"ForAnyValue:BinaryEquals":{"aws:TheKey":"YQ=="}}`},
		{"date", []string{"2026-03-04T05:06:07Z"}, `{"DateEquals":{"aws:TheKey":"2026-03-04T06:06:07+01:00"}}`},
		{"dateList", []string{"0000000000", "2026-03-04"}, `{"ForAnyValue:DateLessThan":{"aws:TheKey":"2000-01-01"}}`},
	} {
		i := custom(onlyIf(allowObj, c.condition))
		i.ContextEntries = []types.ContextEntry{entry("aws:TheKey", c.typ, c.values...)}
		if c.values == nil {
			i.ContextEntries[0].ContextKeyValues = []string{}
		}
		out, err := in.root.SimulateCustomPolicy(t.Context(), i)
		if err != nil || out.EvaluationResults[0].EvalDecision != "allowed" {
			t.Errorf("%s %q: %v, %v", c.typ, c.values, out, err)
		}
	}
}

func TestSimulatePrincipalPolicy(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "Alice")
	alice := "arn:aws:iam::" + account + ":user/Alice"
	_, err := in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: of("Alice"), PolicyName: of("inline"), PolicyDocument: of(allowObj)})
	check(t, err)
	_, err = in.root.TagUser(ctx, &awsiam.TagUserInput{UserName: of("Alice"), Tags: []types.Tag{{Key: of("team"), Value: of("a")}}})
	check(t, err)
	in.role(t, "reader")
	reader := "arn:aws:iam::" + account + ":role/reader"
	own := in.policy(t, "own", onlyIf(statement("Allow", "s3:PutObject", "*"), `{"StringEquals":{"aws:PrincipalArn":"`+reader+`"}}`))
	for _, p := range []string{*own, "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"} {
		_, err = in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("reader"), PolicyArn: &p})
		check(t, err)
	}
	limit := in.policy(t, "limit", statement("Allow", "s3:*", "*"))
	_, err = in.root.PutRolePermissionsBoundary(ctx, &awsiam.PutRolePermissionsBoundaryInput{RoleName: of("reader"), PermissionsBoundary: limit})
	check(t, err)
	for _, c := range []struct {
		name, source, action string
		edit                 func(*awsiam.SimulatePrincipalPolicyInput)
		want                 string // decision and sources
		bounded              string
	}{
		{"an inline policy of a user", alice, "s3:GetObject", nil, "allowed user_Alice_inline", ""},
		{"what it does not allow", alice, "s3:PutObject", nil, "implicitDeny", ""},
		{"an additional policy", alice, "s3:PutObject", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.PolicyInputList = []string{onlyIf(statement("Allow", "s3:*", "*"), `{"StringEquals":{"aws:PrincipalTag/Team":"a","aws:username":"Alice"}}`)}
		}, "allowed PolicyInputList.1", ""},
		{"a boundary that is added", alice, "s3:GetObject", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.PermissionsBoundaryPolicyInputList = []string{statement("Allow", "ec2:*", "*")}
		}, "implicitDeny", "false"},
		{"a managed policy of a role, within its boundary", reader, "s3:PutObject", nil, "allowed own", "true"},
		{"one of AWS's", reader, "s3:GetObject", nil, "allowed AmazonS3ReadOnlyAccess", "true"},
		{"the role's boundary limits what is added", reader, "ec2:RunInstances", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.PolicyInputList = []string{statement("Allow", "*", "*")}
		}, "implicitDeny", "false"},
		{"unless it is replaced", reader, "ec2:RunInstances", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.PolicyInputList = []string{statement("Allow", "*", "*")}
			i.PermissionsBoundaryPolicyInputList = i.PolicyInputList
		}, "allowed PolicyInputList.1", "true"},
		{"or excluded", reader, "ec2:RunInstances", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.PolicyInputList = []string{statement("Allow", "*", "*")}
			i.PolicyExclusionList = []types.PolicyIdentifier{&types.PolicyIdentifierMemberPolicyType{Value: "permission-boundary"}}
		}, "allowed PolicyInputList.1", ""},
		{"without the inline policies", alice, "s3:GetObject", excluding(&types.PolicyIdentifierMemberPolicyType{Value: "inline"}), "implicitDeny", ""},
		{"without one inline policy", alice, "s3:GetObject", excluding(inlineOf("user", "alice", "inline")), "implicitDeny", ""},
		{"without another's", alice, "s3:GetObject", excluding(inlineOf("role", "alice", "inline")), "allowed user_Alice_inline", ""},
		{"without AWS's policies", reader, "s3:GetObject", excluding(&types.PolicyIdentifierMemberPolicyType{Value: "aws-managed"}), "implicitDeny", "true"},
		{"without the account's", reader, "s3:GetObject", excluding(&types.PolicyIdentifierMemberPolicyType{Value: "user-managed"}), "allowed AmazonS3ReadOnlyAccess", "true"},
		{"without those of a name", reader, "s3:PutObject", excluding(&types.PolicyIdentifierMemberPolicyArn{Value: "arn:aws:iam::" + account + ":policy/?w*"}), "implicitDeny", "true"},
		{"without a policy that is not there", reader, "s3:PutObject", excluding(&types.PolicyIdentifierMemberPolicyArn{Value: "arn:aws:iam::" + account + ":policy/*wn2"}), "allowed own", "true"},
		{"as somebody else", reader, "s3:PutObject", func(i *awsiam.SimulatePrincipalPolicyInput) { i.CallerArn = &alice }, "implicitDeny", "true"},
		{"a resource's policy, as a user", alice, "s3:PutObject", func(i *awsiam.SimulatePrincipalPolicyInput) {
			i.ResourcePolicy = of(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + alice + `"},"Action":"s3:*","Resource":"*"}}`)
		}, "allowed ResourcePolicy", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			input := &awsiam.SimulatePrincipalPolicyInput{PolicySourceArn: &c.source, ActionNames: []string{c.action}, ResourceArns: []string{object}}
			if c.edit != nil {
				c.edit(input)
			}
			out, err := in.root.SimulatePrincipalPolicy(ctx, input)
			check(t, err)
			r := out.EvaluationResults[0]
			got, bounded := string(r.EvalDecision), ""
			for _, st := range r.MatchedStatements {
				got += " " + *st.SourcePolicyId
			}
			if d := r.PermissionsBoundaryDecisionDetail; d != nil {
				bounded = fmt.Sprint(d.AllowedByPermissionsBoundary)
			}
			if got != c.want || bounded != c.bounded || len(r.MissingContextValues) > 0 {
				t.Errorf("got %s, boundary %q, missing %v; want %s, %q", got, bounded, r.MissingContextValues, c.want, c.bounded)
			}
		})
	}
	simulate := func(source string, edit func(*awsiam.SimulatePrincipalPolicyInput)) func() error {
		return func() error {
			input := &awsiam.SimulatePrincipalPolicyInput{PolicySourceArn: &source, ActionNames: []string{"s3:GetObject"}}
			if edit != nil {
				edit(input)
			}
			return failure(in.root.SimulatePrincipalPolicy(ctx, input))
		}
	}
	session := "arn:aws:sts::" + account + ":assumed-role/reader/s"
	refuses(t, []refusal{
		{"a session", simulate(session, nil), "InvalidInput", "Invalid Entity Arn: " + session + " does not clearly define entity type and name."},
		{"what is no ARN", simulate("aaaaaaaaaaaaaaaaaaaaa", nil), "InvalidInput", "Invalid Entity Arn: "},
		{"a user that is not there", simulate(alice+"2", nil), "NoSuchEntity", "The user with name Alice2 cannot be found."},
		{"a user at another path", simulate("arn:aws:iam::"+account+":user/x/Alice", nil), "NoSuchEntity", "The user with name Alice cannot be found."},
		{"a role that is not there", simulate(reader+"2", nil), "NoSuchEntity", "The role with name reader2 cannot be found."},
		{"a group", simulate("arn:aws:iam::"+account+":group/g", nil), "NoSuchEntity", "The group with name g cannot be found."},
		{"another account's role", func() error {
			return failure(in.other.SimulatePrincipalPolicy(ctx, &awsiam.SimulatePrincipalPolicyInput{PolicySourceArn: &reader, ActionNames: []string{"s3:GetObject"}}))
		}, "NoSuchEntity", "The role with name reader cannot be found."},
		{"a resource's policy for a role", simulate(reader, func(i *awsiam.SimulatePrincipalPolicyInput) { i.ResourcePolicy = of("{}") }),
			"InvalidInput", "Simulation of resource-based policies isn't supported for IAM roles."},
		{"an exclusion with two stars", simulate(reader, excluding(&types.PolicyIdentifierMemberPolicyArn{Value: "arn:aws:iam::" + account + ":policy/*a*"})),
			"InvalidInput", "Invalid policy ARN in PolicyExclusionList: "},
		{"an exclusion for any account", simulate(reader, excluding(&types.PolicyIdentifierMemberPolicyArn{Value: "arn:aws:iam::*:policy/anyname"})),
			"InvalidInput", "Invalid policy ARN in PolicyExclusionList: "},
		{"an exclusion of what is no policy", simulate(reader, excluding(&types.PolicyIdentifierMemberPolicyArn{Value: reader})),
			"InvalidInput", "Invalid policy ARN in PolicyExclusionList: "},
	})
}

func excluding(x types.PolicyIdentifier) func(*awsiam.SimulatePrincipalPolicyInput) {
	return func(i *awsiam.SimulatePrincipalPolicyInput) { i.PolicyExclusionList = []types.PolicyIdentifier{x} }
}

func inlineOf(typ types.AttachmentType, name, policy string) types.PolicyIdentifier {
	return &types.PolicyIdentifierMemberInlinePolicyIdentifier{Value: types.InlinePolicyIdentifierType{
		AttachmentType: typ, AttachmentName: &name, PolicyName: &policy,
	}}
}

// Simulating somebody else's policies discloses them: it needs a permission on the user or role.
func TestWhoMaySimulate(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	client, _ := in.user(t, "alice")
	in.role(t, "reader")
	in.role(t, "writer")
	allow := func(action, resource string) {
		t.Helper()
		_, err := in.root.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{
			UserName: of("alice"), PolicyName: of("p"), PolicyDocument: of(statement("Allow", action, resource)),
		})
		check(t, err)
	}
	principal := func(role string) error {
		return failure(client.SimulatePrincipalPolicy(ctx, &awsiam.SimulatePrincipalPolicyInput{
			PolicySourceArn: of("arn:aws:iam::" + account + ":role/" + role), ActionNames: []string{"s3:GetObject"},
		}))
	}
	keys := func(role string) error {
		return failure(client.GetContextKeysForPrincipalPolicy(ctx, &awsiam.GetContextKeysForPrincipalPolicyInput{
			PolicySourceArn: of("arn:aws:iam::" + account + ":role/" + role),
		}))
	}
	allow("iam:SimulatePrincipalPolicy", "arn:aws:iam::"+account+":role/reader")
	check(t, principal("reader"))
	refused(t, principal("writer"), "AccessDenied", "User: arn:aws:iam::"+account+":user/alice is not authorized to perform: "+
		"iam:SimulatePrincipalPolicy on resource: arn:aws:iam::"+account+":role/writer")
	refused(t, keys("reader"), "AccessDenied", "")
	refused(t, failure(client.SimulateCustomPolicy(ctx, custom(allowObj))), "AccessDenied", "User: arn:aws:iam::"+account+
		":user/alice is not authorized to perform: iam:SimulateCustomPolicy because")
	allow("iam:GetContextKeysForPrincipalPolicy", "arn:aws:iam::"+account+":role/reader")
	check(t, keys("reader"))
	refused(t, keys("writer"), "AccessDenied", "")
	allow("iam:SimulateCustomPolicy", "*")
	check(t, failure(client.SimulateCustomPolicy(ctx, custom(allowObj))))
	refused(t, failure(client.GetContextKeysForCustomPolicy(ctx, &awsiam.GetContextKeysForCustomPolicyInput{PolicyInputList: []string{allowObj}})), "AccessDenied", "")
}

func TestGetContextKeys(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	out, err := in.root.GetContextKeysForCustomPolicy(ctx, &awsiam.GetContextKeysForCustomPolicyInput{PolicyInputList: []string{onlyOffice, allowObj}})
	check(t, err)
	want := []string{"aws:PrincipalTag/team", "aws:RequestTag/team", "aws:SourceIp"}
	if diff := cmp.Diff(want, out.ContextKeyNames); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out, err = in.root.GetContextKeysForCustomPolicy(ctx, &awsiam.GetContextKeysForCustomPolicyInput{PolicyInputList: []string{allowObj}})
	if err != nil || len(out.ContextKeyNames) > 0 {
		t.Errorf("got %+v, %v; want no keys", out, err)
	}
	in.role(t, "reader")
	_, err = in.root.PutRolePolicy(ctx, &awsiam.PutRolePolicyInput{RoleName: of("reader"), PolicyName: of("p"), PolicyDocument: of(onlyOffice)})
	check(t, err)
	reader := of("arn:aws:iam::" + account + ":role/reader")
	both, err := in.root.GetContextKeysForPrincipalPolicy(ctx, &awsiam.GetContextKeysForPrincipalPolicyInput{
		PolicySourceArn: reader, PolicyInputList: []string{onlyIf(allowObj, `{"Bool":{"aws:SecureTransport":"true"}}`)},
	})
	check(t, err)
	if diff := cmp.Diff([]string{"aws:PrincipalTag/team", "aws:RequestTag/team", "aws:SecureTransport", "aws:SourceIp"}, both.ContextKeyNames); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	refuses(t, []refusal{
		{"a policy that is none", func() error {
			return failure(in.root.GetContextKeysForCustomPolicy(ctx, &awsiam.GetContextKeysForCustomPolicyInput{PolicyInputList: []string{"[]"}}))
		}, "InvalidInput", "Invalid policy PolicyInputList.1 at line 1, column 1: "},
		{"a role that is not there", func() error {
			return failure(in.root.GetContextKeysForPrincipalPolicy(ctx, &awsiam.GetContextKeysForPrincipalPolicyInput{PolicySourceArn: of(*reader + "2")}))
		}, "NoSuchEntity", "The role with name reader2 cannot be found."},
	})
}

// What is taken for a number, date, address or binary is equal to itself where policies compare.
func FuzzContextEntry(f *testing.F) {
	for _, seed := range []string{"1", "-0.5", "+3.0", "1e3", "2026-03-04T05:06:07.5+01:00", "2026", "1700000000", "true", "FALSE", "::1",
		"192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "YWJj", "YQ", "", " 1", "٣"} {
		for _, typ := range []string{"string", "numeric", "boolean", "ip", "binary", "date"} {
			f.Add(typ, seed)
		}
	}
	in := start(f, "aws")
	operators := map[string]string{"string": "StringEquals", "numeric": "NumericEquals", "boolean": "Bool", "ip": "IpAddress", "binary": "BinaryEquals", "date": "DateEquals"}
	f.Fuzz(func(t *testing.T, typ, value string) {
		operator, ok := operators[typ]
		for _, r := range value {
			ok = ok && (r >= ' ' && r <= '~')
		}
		if !ok {
			return
		}
		i := custom(onlyIf(allowObj, fmt.Sprintf(`{%q:{"aws:TheKey":%q}}`, operator, strings.NewReplacer("$", "${$}").Replace(value))))
		i.ContextEntries = []types.ContextEntry{entry("aws:TheKey", types.ContextKeyTypeEnum(typ), value)}
		out, err := in.root.SimulateCustomPolicy(t.Context(), i)
		switch {
		case err != nil:
			refused(t, err, "InvalidInput", "Invalid ")
			if _, bad := base64.StdEncoding.Strict().DecodeString(value); typ == "string" || typ == "binary" && bad == nil {
				t.Errorf("%s %q: %v", typ, value, err)
			}
		case out.EvaluationResults[0].EvalDecision != "allowed":
			t.Errorf("%s %q is not equal to itself", typ, value)
		}
	})
}
