package sts_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sts"
	"github.com/lanyard-id/lanyard/policy"
)

const cluster = "arn:aws:eks:us-east-1:" + account + ":cluster/demo"

// podTags are the session tags of EKS Pod Identity.
func podTags() []awsapi.Tag {
	return []awsapi.Tag{
		{Key: "eks-cluster-arn", Value: cluster},
		{Key: "eks-cluster-name", Value: "demo"},
		{Key: "kubernetes-namespace", Value: "default"},
		{Key: "kubernetes-service-account", Value: "app"},
		{Key: "kubernetes-pod-name", Value: "app-0"},
		{Key: "kubernetes-pod-uid", Value: "5f1b2c3d-0000-4000-8000-000000000000"},
	}
}

// byEKS is what EKS Auth asks for on behalf of a pod.
func byEKS(t testing.TB, role string) *sts.AssumeInput {
	t.Helper()
	a, err := arn.Parse(role)
	must(t, err)
	in := &sts.AssumeInput{
		Action:    "sts:AssumeRole",
		Principal: policy.Principal{Kind: policy.Service, Name: "pods.eks.amazonaws.com"},
		Caller: &awsapi.Caller{
			Identity:  awsapi.Identity{Kind: policy.RoleSession, ARN: "arn:aws:sts::" + account + ":assumed-role/node/i-1", AccessKeyID: "ASIANODE"},
			RequestID: "request", Service: "eks-auth", Operation: "AssumeRoleForPodIdentity", Region: "us-east-1",
			SourceIP: netip.MustParseAddr("192.0.2.7"), UserAgent: "agent", Secure: true, Time: time.Now(),
		},
		Role:        a,
		SessionName: "eks-demo-app-0-5f1b2c3d-0000-4000-8000-000000000001",
		Duration:    6 * time.Hour,
		Tags:        podTags(),
		Context:     []awsapi.KeyValue{{Key: "aws:SourceArn", Value: cluster}, {Key: "aws:SourceAccount", Value: account}},
		ByService:   true,
	}
	for _, t := range in.Tags {
		in.TransitiveKeys = append(in.TransitiveKeys, t.Key)
	}
	return in
}

const podsMay = `{"Service":"pods.eks.amazonaws.com"}`

func TestAssumeByAService(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	role := e.role("app", trusts(podsMay, assumeTag, `{
		"StringEquals":{"aws:RequestTag/kubernetes-namespace":"default","aws:SourceAccount":"`+account+`","aws:PrincipalServiceName":"pods.eks.amazonaws.com"},
		"ArnEquals":{"aws:SourceArn":"`+cluster+`"},
		"Bool":{"aws:PrincipalIsAWSService":"true","aws:SecureTransport":"true"},
		"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},
		"Null":{"aws:PrincipalArn":"true"}}`))
	in := byEKS(t, role)
	out, err := e.sts.Assume(t.Context(), in)
	must(t, err)
	if life := time.Until(out.Expires); life > 6*time.Hour || life < 6*time.Hour-time.Minute {
		t.Errorf("life = %s, want six hours, although the role's maximum is one", life)
	}
	if out.PackedPolicySize == nil || *out.PackedPolicySize < 40 || *out.PackedPolicySize > 70 {
		t.Errorf("packed policy size = %v, want near the 56 %% that AWS reports", out.PackedPolicySize)
	}

	// Nothing of the service's call but tags stays with the session.
	opened, err := e.sts.Credentials(t.Context(), out.Credentials.AccessKeyID, out.Credentials.SessionToken)
	must(t, err)
	if diff := cmp.Diff(out.Identity, opened.Identity); diff != "" {
		t.Errorf("the session that was made and the one that was opened differ:\n%s", diff)
	}
	want := &awsapi.Session{
		Name: in.SessionName, Tags: podTags(), TransitiveKeys: in.TransitiveKeys, Issued: out.Expires.Add(-6 * time.Hour), Expires: out.Expires,
	}
	if diff := cmp.Diff(want, opened.Identity.Session); diff != "" {
		t.Errorf("session (-want +got)\n%s", diff)
	}

	events := e.journal.events(t, in.SessionName)
	if len(events) != 1 {
		t.Fatalf("%d events, want one", len(events))
	}
	got := events[0]
	if !strings.HasPrefix(got.Lanyard.Decision, "allowed") || got.EventID == "" || got.SharedID == "" || got.Time.IsZero() {
		t.Errorf("incomplete event %+v", got)
	}
	got.EventID, got.SharedID, got.Lanyard.Decision, got.Time = "", "", "", time.Time{}
	wantEvent := audit.Event{
		Version: "1.08", Identity: audit.UserIdentity{Type: "AWSService", InvokedBy: "pods.eks.amazonaws.com"},
		RequestID: "request", Source: "sts.amazonaws.com", Name: "AssumeRole", Account: account, Region: "us-east-1", ReadOnly: true,
		SourceIP: "pods.eks.amazonaws.com", UserAgent: "pods.eks.amazonaws.com",
		Parameters: audit.Object(`{"roleArn":"` + role + `","roleSessionName":"` + in.SessionName + `","durationSeconds":21600,"tags":[` +
			`{"key":"eks-cluster-arn","value":"` + in.Tags[0].Value + `"},{"key":"eks-cluster-name","value":"` + in.Tags[1].Value + `"},` +
			`{"key":"kubernetes-namespace","value":"` + in.Tags[2].Value + `"},{"key":"kubernetes-service-account","value":"` + in.Tags[3].Value + `"},` +
			`{"key":"kubernetes-pod-name","value":"` + in.Tags[4].Value + `"},{"key":"kubernetes-pod-uid","value":"` + in.Tags[5].Value + `"}],` +
			`"transitiveTagKeys":["eks-cluster-arn","eks-cluster-name","kubernetes-namespace","kubernetes-service-account","kubernetes-pod-name","kubernetes-pod-uid"]}`),
		Response: audit.Object(`{"credentials":{"accessKeyId":"` + out.Credentials.AccessKeyID + `","sessionToken":"` + audit.Hidden +
			`","expiration":"` + audit.TextTime(out.Expires) + `"},"assumedRoleUser":{"assumedRoleId":"` + out.AssumedRoleID + `","arn":"` + out.ARN +
			`"},"packedPolicySize":` + fmt.Sprint(*out.PackedPolicySize) + `}`),
		Resources: []audit.Resource{{Account: account, Type: "AWS::IAM::Role", ARN: role}},
		Lanyard: audit.Lanyard{Resources: []audit.Named{
			{Type: "AWS::IAM::AccessKey", Name: out.Credentials.AccessKeyID}, {Type: "AWS::STS::AssumedRole", Name: out.AssumedRoleID},
			{Type: "AWS::STS::AssumedRole", Name: out.ARN}, {Type: "AWS::IAM::Role", Name: role},
		}},
	}
	if diff := cmp.Diff(wantEvent, got); diff != "" {
		t.Errorf("event (-want +got)\n%s", diff)
	}
	forbidden(t, e.journal.text(), string(out.Credentials.SecretAccessKey), out.Credentials.SessionToken)
}

func TestServicesAreHeldToTheTrustPolicy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	roles := map[string]string{
		"trusting":  e.role("trusting", trusts(podsMay, assumeTag, "")),
		"untagged":  e.role("untagged", trusts(podsMay, assumeOnly, "")),
		"ec2":       e.role("ec2", trusts(`{"Service":"ec2.amazonaws.com"}`, assumeTag, "")),
		"account":   e.role("account", trusts(ownAccount, assumeTag, "")),
		"namespace": e.role("namespace", trusts(podsMay, assumeTag, `{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"other"}}`)),
		"cluster":   e.role("cluster", trusts(podsMay, assumeTag, `{"ArnEquals":{"aws:SourceArn":"`+cluster+`-2"}}`)),
	}
	for _, c := range []struct {
		role   string
		edit   func(*sts.AssumeInput)
		denied string // the action; "" when allowed
	}{
		{"trusting", nil, ""},
		{"untagged", nil, "sts:TagSession"},
		{"untagged", func(in *sts.AssumeInput) { in.Tags, in.TransitiveKeys = nil, nil }, ""},
		{"ec2", nil, "sts:AssumeRole"},
		{"account", nil, "sts:AssumeRole"},
		{"namespace", nil, "sts:AssumeRole"},
		{"cluster", nil, "sts:AssumeRole"},
	} {
		in := byEKS(t, roles[c.role])
		if c.edit != nil {
			c.edit(in)
		}
		_, err := e.sts.Assume(t.Context(), in)
		if c.denied == "" {
			if err != nil {
				t.Errorf("%s: %v", c.role, err)
			}
			continue
		}
		wire, ok := errors.AsType[*awsapi.Error](err)
		if !ok || wire.Code != "AccessDenied" || wire.Message != notAuthorized("pods.eks.amazonaws.com", c.denied, roles[c.role]) {
			t.Errorf("%s: err = %v", c.role, err)
		}
	}
}

// What other services of the process pass has not been held to a model.
func TestAssumeChecksWhatNoModelHasChecked(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	role := e.role("app", trusts(podsMay, everything, ""), longest(43200))
	for name, c := range map[string]struct {
		edit func(*sts.AssumeInput)
		code string
	}{
		"no session name":              {func(in *sts.AssumeInput) { in.SessionName = "" }, "ValidationError"},
		"a session name of 65":         {func(in *sts.AssumeInput) { in.SessionName = strings.Repeat("n", 65) }, "ValidationError"},
		"a session name with a slash":  {func(in *sts.AssumeInput) { in.SessionName = "a/b" }, "ValidationError"},
		"less than 15 minutes":         {func(in *sts.AssumeInput) { in.Duration = 899 * time.Second }, "ValidationError"},
		"more than 12 hours":           {func(in *sts.AssumeInput) { in.Duration = 43201 * time.Second }, "ValidationError"},
		"a tag that is not UTF-8":      {func(in *sts.AssumeInput) { in.Tags[0].Value = "\xff" }, "ValidationError"},
		"the replacement character":    {func(in *sts.AssumeInput) { in.Tags[0].Value = "\uFFFD" }, "ValidationError"},
		"an anonymous caller":          {func(in *sts.AssumeInput) { in.Principal.Kind = policy.Anonymous }, "AccessDenied"},
		"a source identity of AWS's":   {func(in *sts.AssumeInput) { in.SourceIdentity = "aws:me" }, "ValidationError"},
		"a role that is not an ARN":    {func(in *sts.AssumeInput) { in.Role = arn.ARN{} }, "AccessDenied"},
		"a session policy that is bad": {func(in *sts.AssumeInput) { in.Policy = "[]" }, "MalformedPolicyDocument"},
	} {
		in := byEKS(t, role)
		c.edit(in)
		_, err := e.sts.Assume(t.Context(), in)
		if wire, ok := errors.AsType[*awsapi.Error](err); !ok || wire.Code != c.code {
			t.Errorf("%s: err = %v, want %s", name, err, c.code)
		}
	}
	in := byEKS(t, role)
	in.Duration = 12 * time.Hour
	in.Tags[0].Value = strings.Repeat("ü", 20)
	if _, err := e.sts.Assume(t.Context(), in); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

// As EKS Auth does for an association with a target role.
func TestChainWithinTheProcess(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.role("first", trusts(podsMay, assumeTag, ""))
	e.grant("first", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Resource":"*"}]}`)
	target := e.role("target", trusts(`{"AWS":"`+first+`"}`, assumeTag,
		`{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"default","sts:ExternalId":"region/account"}}`))
	in := byEKS(t, first)
	one, err := e.sts.Assume(t.Context(), in)
	must(t, err)

	caller := *in.Caller
	caller.Identity = one.Identity
	a, err := arn.Parse(target)
	must(t, err)
	next := &sts.AssumeInput{
		Action: "sts:AssumeRole", Principal: iam.Principal(&caller.Identity), Caller: &caller, Role: a,
		SessionName: in.SessionName, ExternalID: "region/account", Duration: time.Hour,
	}
	two, err := e.sts.Assume(t.Context(), next)
	must(t, err)
	if diff := cmp.Diff(podTags(), two.Identity.Session.Tags); diff != "" {
		t.Errorf("tags of the target's session (-want +got)\n%s", diff)
	}
	if two.PackedPolicySize != nil {
		t.Errorf("packed policy size %d, want none: nothing was passed", *two.PackedPolicySize)
	}

	next.ExternalID = ""
	if _, err := e.sts.Assume(t.Context(), next); err == nil {
		t.Error("without its external ID the target role was assumed")
	}
}

func TestWhatCannotBeRecordedIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.provider(account, issuer)
	alice := e.user("alice", allowAll)
	role := e.role("app", trusts(podsMay, assumeTag, ""))
	web := e.role("web", trusts(ourProvider, webIdentity, forSubject))
	in := byEKS(t, role)

	e.journal.fill(true)
	out, err := e.sts.Assume(t.Context(), in)
	if !errors.Is(err, errDiskFull) || out != nil {
		t.Errorf("Assume = %v, %v, want the recorder's error", out, err)
	}
	in.Role = arn.ARN{}
	if _, err := e.sts.Assume(t.Context(), in); !errors.Is(err, errDiskFull) {
		t.Errorf("a refusal that was not recorded: %v, want the recorder's error", err)
	}
	if _, err := e.stsAs(alice).GetSessionToken(t.Context(), nil); err == nil {
		t.Error("GetSessionToken made credentials without a record")
	}
	if _, err := e.present(web, "web", token(t, good())); err == nil || strings.Contains(err.Error(), errDiskFull.Error()) {
		t.Errorf("err = %v, want an internal failure that does not say why", err)
	}
	e.journal.fill(false)
	if _, err := e.present(web, "web", token(t, good())); err != nil {
		t.Errorf("once there is space again: %v", err)
	}
}

func BenchmarkAssumeByService(b *testing.B) {
	record, err := os.OpenFile(filepath.Join(b.TempDir(), "audit.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	must(b, err)
	defer record.Close()
	e := start(b, kv.NewMemory(), record)
	in := byEKS(b, e.role("app", trusts(podsMay, assumeTag, `{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"default"}}`)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.sts.Assume(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCredentials(b *testing.B) {
	e := newEnv(b)
	out, err := e.sts.Assume(b.Context(), byEKS(b, e.role("app", trusts(podsMay, assumeTag, ""))))
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.sts.Credentials(b.Context(), out.Credentials.AccessKeyID, out.Credentials.SessionToken); err != nil {
			b.Fatal(err)
		}
	}
}
