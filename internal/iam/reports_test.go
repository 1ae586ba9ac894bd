package iam_test

import (
	"encoding/csv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"github.com/lanyard-id/lanyard/internal/iam"
)

func TestTheCredentialReport(t *testing.T) {
	t.Parallel()
	var later atomic.Int64
	in, ctx := start(t, "aws", func(c *iam.Config) {
		c.Now = func() time.Time { return now.Add(time.Duration(later.Load())) }
	}), t.Context()
	alice, key := in.user(t, "alice")
	in.user(t, "bob")
	check(t, failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{
		UserName: of("alice"), PolicyArn: of("arn:aws:iam::aws:policy/AdministratorAccess"),
	})))
	check(t, failure(alice.GetUser(ctx, &awsiam.GetUserInput{})))
	check(t, failure(in.root.UpdateAccessKey(ctx, &awsiam.UpdateAccessKeyInput{
		UserName: of("alice"), AccessKeyId: &key.AccessKeyID, Status: types.StatusTypeInactive,
	})))
	get := func() (*awsiam.GetCredentialReportOutput, error) {
		return in.root.GetCredentialReport(ctx, &awsiam.GetCredentialReportInput{})
	}
	generate := func(want types.ReportStateType) {
		t.Helper()
		out, err := in.root.GenerateCredentialReport(ctx, &awsiam.GenerateCredentialReportInput{})
		check(t, err)
		if out.State != want {
			t.Errorf("the state is %s, want %s", out.State, want)
		}
	}
	refused(t, failure(get()), "ReportNotPresent", "")
	generate(types.ReportStateTypeStarted)
	generate(types.ReportStateTypeComplete)
	in.user(t, "carol") // after the report
	report, err := get()
	check(t, err)
	if report.ReportFormat != types.ReportFormatTypeTextCsv || !report.GeneratedTime.Equal(now) {
		t.Errorf("format %s, generated at %s", report.ReportFormat, report.GeneratedTime)
	}
	lines, err := csv.NewReader(strings.NewReader(string(report.Content))).ReadAll()
	check(t, err)
	if len(lines) != 4 || len(lines[0]) != 22 {
		t.Fatalf("%d lines of %d columns: %s", len(lines), len(lines[0]), report.Content)
	}
	const at = "2026-03-04T05:06:07Z"
	used := lines[2][10] // by the server's clock
	for i, want := range map[int]string{
		1: "<root_account>,arn:aws:iam::111122223333:root," + at + ",not_supported,no_information,not_supported,not_supported,false,true," + at,
		2: "alice,arn:aws:iam::111122223333:user/alice," + at + ",false,N/A,N/A,N/A,false,false," + at + "," + used +
			",us-east-1,iam,false,N/A,N/A,N/A,N/A,false,N/A,false,N/A",
		3: "bob,arn:aws:iam::111122223333:user/bob," + at + ",false,N/A,N/A,N/A,false,true," + at + ",N/A,N/A,N/A,false,N/A,N/A,N/A,N/A,false,N/A,false,N/A",
	} {
		if got := strings.Join(lines[i], ","); !strings.HasPrefix(got, want) {
			t.Errorf("line %d is\n%s\nwant\n%s", i, got, want)
		}
	}
	if _, err := time.Parse(time.RFC3339, used); err != nil {
		t.Errorf("alice's key was last used at %s", used)
	}
	refused(t, failure(in.other.GetCredentialReport(ctx, &awsiam.GetCredentialReportInput{})), "ReportNotPresent", "")
	later.Store(int64(4 * time.Hour))
	refused(t, failure(get()), "ReportExpired", "")
	generate(types.ReportStateTypeStarted)
	report, err = get()
	check(t, err)
	if !strings.Contains(string(report.Content), "\ncarol,") {
		t.Errorf("the report is of before: %s", report.Content)
	}
}

func TestTheAccountSummaryCountsAll(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.group(t, "g", "alice")
	p := in.policy(t, "p", allowObj)
	check(t, failure(in.root.CreatePolicyVersion(ctx, &awsiam.CreatePolicyVersionInput{PolicyArn: p, PolicyDocument: of(allowObj)})))
	check(t, failure(in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{Url: of("https://id.example.com/a")})))
	check(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})))
	got, err := in.root.GetAccountSummary(ctx, &awsiam.GetAccountSummaryInput{})
	check(t, err)
	for key, want := range map[string]int32{
		"Users": 1, "Groups": 1, "GroupsQuota": 300, "GroupsPerUserQuota": 10, "Policies": 1, "PolicyVersionsInUse": 2, "Providers": 1,
		"InstanceProfiles": 1, "MFADevices": 0, "AccountPasswordPresent": 0, "GroupPolicySizeQuota": 5120, "VersionsPerPolicyQuota": 5,
	} {
		if n, there := got.SummaryMap[key]; n != want || !there {
			t.Errorf("%s = %d, want %d", key, n, want)
		}
	}
}
