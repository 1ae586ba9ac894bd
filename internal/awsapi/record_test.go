package awsapi_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// records are what a call left in the trail, but for what differs from call to call.
func records(t *testing.T, c call) []audit.Found {
	t.Helper()
	var trail bytes.Buffer
	a := newAPI(t, func(c *awsapi.HandlerConfig) { c.Audit = audit.NewWriter(&trail) })
	a.send(t, c)
	var all []audit.Found
	for line := range strings.Lines(trail.String()) {
		e, err := audit.Decode(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func orNull(o audit.Object) string {
	if o == nil {
		return "null"
	}
	return string(o)
}

func TestCallsAreRecorded(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/"
	for _, c := range []struct {
		name               string
		call               call
		source, operation  string
		parameters, answer string
		code               string
		readOnly           bool
		resources          []string
	}{
		{"a read", iamQuery("Action=GetRole&RoleName=r"), "iam", "GetRole", `{"roleName":"r"}`, "null", "", true, []string{"AWS::IAM::Role r"}},
		{"a read that is not permitted", iamQuery("Action=GetRole&RoleName=forbidden"), "iam", "GetRole", `{"roleName":"forbidden"}`, "null",
			"AccessDenied", true, []string{"AWS::IAM::Role forbidden"}},
		{"of what is not there", iamQuery("Action=GetRole&RoleName=missing"), "iam", "GetRole", `{"roleName":"missing"}`, "null",
			"NoSuchEntity", true, []string{"AWS::IAM::Role missing"}},
		{"a failure of the server's", iamQuery("Action=GetRole&RoleName=secret"), "iam", "GetRole", `{"roleName":"secret"}`, "null",
			"InternalFailure", true, []string{"AWS::IAM::Role secret"}},
		{"a panic", iamQuery("Action=GetRole&RoleName=panic"), "iam", "GetRole", `{"roleName":"panic"}`, "null",
			"InternalFailure", true, []string{"AWS::IAM::Role panic"}},
		{"a change without an answer", iamQuery("Action=UpdateRole&RoleName=r&MaxSessionDuration=3600"), "iam", "UpdateRole",
			`{"roleName":"r","maxSessionDuration":3600}`, "null", "", false, []string{"AWS::IAM::Role r"}},
		{"what violates the model", iamQuery("Action=UpdateRole&RoleName=r&MaxSessionDuration=1"), "iam", "UpdateRole", "null", "null",
			"ValidationError", false, nil},
		{"a call without parameters", stsQuery("Action=GetCallerIdentity"), "sts", "GetCallerIdentity", "null", "null", "", true, nil},
		{"a change", rest("eks", "POST", "/clusters/c/pod-identity-associations",
			`{"namespace":"ns","serviceAccount":"sa","roleArn":"`+role+`r","tags":{"K":"v"},"disableSessionTags":true}`), "eks", "CreatePodIdentityAssociation",
			`{"clusterName":"c","namespace":"ns","serviceAccount":"sa","roleArn":"` + role + `r","tags":{"K":"v"},"disableSessionTags":true}`,
			`{"association":{"clusterName":"c","namespace":"ns","serviceAccount":"sa","roleArn":"` + role + `r","tags":{"K":"v"},"disableSessionTags":true}}`,
			"", false, []string{"AWS::EKS::Cluster c", "AWS::IAM::Role " + role + "r"}},
		{"a session policy, which is no resource", rest("eks", "POST", "/clusters/c/pod-identity-associations",
			`{"namespace":"ns","serviceAccount":"sa","roleArn":"`+role+`r","policy":"{}"}`), "eks", "CreatePodIdentityAssociation",
			`{"clusterName":"c","namespace":"ns","serviceAccount":"sa","roleArn":"` + role + `r","policy":"{}"}`,
			`{"association":{"clusterName":"c","namespace":"ns","serviceAccount":"sa","roleArn":"` + role + `r","policy":"{}"}}`,
			"", false, []string{"AWS::EKS::Cluster c", "AWS::IAM::Role " + role + "r"}},
		{"tags of a cluster", rest("eks", "POST", "/tags/arn%3Aaws%3Aeks%3Aus-east-1%3A111122223333%3Acluster%2Fc", `{"tags":{"K":"v"}}`), "eks", "TagResource",
			`{"resourceArn":"arn:aws:eks:us-east-1:111122223333:cluster/c","tags":{"K":"v"}}`, "null", "", false,
			[]string{"AWS::EKS::Cluster arn:aws:eks:us-east-1:111122223333:cluster/c"}},
		{"a cluster", rest("eks", "GET", "/clusters/c", ""), "eks", "DescribeCluster", `{"name":"c"}`, "null", "", true, []string{"AWS::EKS::Cluster c"}},
		{"a token", rest("eks-auth", "POST", "/clusters/c/assume-role-for-pod-identity", `{"token":"aaa.bbb.hunter2"}`), "eks-auth",
			"AssumeRoleForPodIdentity", `{"clusterName":"c","token":"` + audit.Hidden + `"}`, "null", "", true, []string{"AWS::EKS::Cluster c"}},
	} {
		all := records(t, c.call)
		if len(all) != 1 {
			t.Errorf("%s left %d records, want one", c.name, len(all))
			continue
		}
		e := all[0]
		var resources []string
		for _, r := range e.Lanyard.Resources {
			resources = append(resources, r.Type+" "+r.Name)
		}
		type outcome struct {
			Source, Name, Parameters, Answer, Code string
			ReadOnly                               bool
			Resources                              []string
		}
		want := outcome{c.source + ".amazonaws.com", c.operation, c.parameters, c.answer, c.code, c.readOnly, c.resources}
		got := outcome{e.Source, e.Name, orNull(e.Parameters), orNull(e.Response), e.ErrorCode, e.ReadOnly, resources}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, diff)
		}
		id := audit.UserIdentity{Type: "IAMUser", PrincipalID: "AIDAEXAMPLE", ARN: userARN, Account: account, AccessKeyID: keyID, UserName: "alice"}
		if diff := cmp.Diff(id, e.Identity); diff != "" {
			t.Errorf("%s: identity (-want +got)\n%s", c.name, diff)
		}
		if strings.Contains(e.Text, "hunter2") || !e.Time.Equal(now) || e.Region != "us-east-1" || e.Account != account || e.RequestID == "" || e.EventID == "" {
			t.Errorf("%s: %s", c.name, e.Text)
		}
	}
}

func TestWhatIsNoCallIsNotRecorded(t *testing.T) {
	t.Parallel()
	unsigned, foreign := iamQuery("Action=GetRole&RoleName=r"), iamQuery("Action=GetRole&RoleName=r")
	unsigned.service = ""
	foreign.creds = sigv4.Credentials{AccessKeyID: "AKIAFOREIGN", SecretAccessKey: "x"}
	for name, c := range map[string]call{
		"a request that is not signed":     unsigned,
		"a key that is not known":          foreign,
		"an operation that is not served":  iamQuery("Action=CreateSAMLProvider"),
		"an operation that does not exist": iamQuery("Action=MakeCoffee"),
		"a body that cannot be read":       rest("eks", "POST", "/clusters/c/pod-identity-associations", `{`),
		"an unsigned operation":            stsQuery("Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/role&RoleSessionName=session&WebIdentityToken=token"),
		"what is asked of S3":              rest("s3", "GET", "/bucket", ""),
	} {
		if all := records(t, c); len(all) > 0 {
			t.Errorf("%s left %s", name, all[0].Text)
		}
	}
}

// refusing is a trail on a full disk.
type refusing struct{ io.Writer }

var errFull = errors.New("no space left on device")

func (refusing) Write([]byte) (int, error) { return 0, errFull }

func TestWhatCannotBeRecordedIsRefused(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *awsapi.HandlerConfig) { c.Audit = audit.NewWriter(refusing{}) })
	r := a.send(t, iamQuery("Action=GetRole&RoleName=r"))
	if answer := text(t, r); r.StatusCode != http.StatusInternalServerError || strings.Contains(answer, "AROAEXAMPLE") || strings.Contains(answer, errFull.Error()) {
		t.Errorf("%d %s", r.StatusCode, answer)
	}
	if !strings.Contains(a.log.String(), errFull.Error()) {
		t.Errorf("the log does not say why: %s", a.log.String())
	}
}
