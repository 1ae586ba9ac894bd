package cloudtrail_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awscloudtrail "github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/cloudtrail"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	account = "111122223333"
	other   = "444455556666"
)

// server is CloudTrail, for anybody whose access key ID begins with an account ID.
type server struct {
	url   string
	trail *audit.Trail
	store *audit.Files
	ahead atomic.Int64 // of the clock
}

func newServer(t *testing.T) *server {
	t.Helper()
	return newServerFor(t, "")
}

// newServerFor returns a server whose trail is delivered to a bucket, if that has a name.
func newServerFor(t *testing.T, bucket string) *server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := audit.OpenFiles(audit.FilesConfig{Dir: filepath.Join(t.TempDir(), "audit"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s := &server{trail: audit.NewTrail(store, audit.Required, log), store: store}
	var delivery *audit.Deliverer
	if bucket != "" {
		delivery = audit.NewDeliverer(audit.DelivererConfig{Outbox: store, Bucket: bucket, Prefix: "p", Log: log})
	}
	now := func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	trails := cloudtrail.New(cloudtrail.Config{Trail: s.trail, Delivery: delivery, Partition: "aws", Region: "us-east-1", Now: now})
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Services: []awsapi.Service{trails.API()},
		Authenticator: &awsapi.Authenticator{Credentials: func(_ context.Context, keyID, _ string) (awsapi.Credential, error) {
			return awsapi.Credential{Secret: "secret", Identity: awsapi.Identity{
				Kind: policy.Root, Account: keyID[:12], UserID: keyID[:12], ARN: "arn:aws:iam::" + keyID[:12] + ":root", AccessKeyID: keyID,
			}}, nil
		}},
		Authorize: func(context.Context, *awsapi.Caller, awsapi.Access) policy.Decision {
			return policy.Decision{Allowed: true}
		},
		Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(handler)
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

func (s *server) client(account, region string) *awscloudtrail.Client {
	s.ahead.Add(int64(time.Minute)) // no test but one is about the rate
	return awscloudtrail.New(awscloudtrail.Options{
		Region: region, BaseEndpoint: &s.url, HTTPClient: awstest.HTTPClient(), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(account+"KEY", "secret", ""),
	})
}

func (s *server) record(t *testing.T, account, region, name string, age time.Duration) {
	t.Helper()
	err := s.trail.Record(t.Context(), &audit.Event{
		Version: "1.09", Identity: audit.UserIdentity{Type: "IAMUser", UserName: "alice", AccessKeyID: "AKIA1"}, Time: time.Now().Add(-age),
		EventID: name, Source: "iam.amazonaws.com", Name: name, Region: region, Account: account,
		Lanyard: audit.Lanyard{Resources: []audit.Named{{Type: "AWS::IAM::Role", Name: "r"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func names(events []types.Event) (all []string) {
	for _, e := range events {
		all = append(all, aws.ToString(e.EventName))
	}
	return all
}

func lookup(key, value string) *awscloudtrail.LookupEventsInput {
	return &awscloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKey(key), AttributeValue: &value}},
	}
}

func TestLookupEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for i := range 7 {
		s.record(t, account, "us-east-1", fmt.Sprint("E", i), time.Duration(10-i)*time.Minute)
	}
	s.record(t, account, "eu-west-1", "Elsewhere", 0)
	s.record(t, other, "us-east-1", "Foreign", 0)
	s.record(t, account, "us-east-1", "Ancient", 91*24*time.Hour)

	out, err := s.client(account, "us-east-1").LookupEvents(t.Context(), lookup("EventName", "E3"))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Events) != 1 {
		t.Fatalf("found %v", names(out.Events))
	}
	e := out.Events[0]
	got := []string{*e.EventId, *e.EventName, *e.ReadOnly, *e.AccessKeyId, *e.EventSource, *e.Username, *e.Resources[0].ResourceType, *e.Resources[0].ResourceName}
	if diff := cmp.Diff([]string{"E3", "E3", "false", "AKIA1", "iam.amazonaws.com", "alice", "AWS::IAM::Role", "r"}, got); diff != "" {
		t.Error(diff)
	}
	record, err := audit.Decode(*e.CloudTrailEvent)
	if err != nil || record.Name != "E3" || !record.Time.Equal(*e.EventTime) {
		t.Errorf("the record is %+v, %v", record.Event, err)
	}

	var all []string
	in := &awscloudtrail.LookupEventsInput{MaxResults: aws.Int32(3)}
	for pages := 0; ; pages++ {
		out, err := s.client(account, "us-east-1").LookupEvents(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names(out.Events)...)
		if out.NextToken == nil {
			break
		}
		in.NextToken = out.NextToken
	}
	if diff := cmp.Diff([]string{"E6", "E5", "E4", "E3", "E2", "E1", "E0"}, all); diff != "" {
		t.Errorf("all pages (-want +got)\n%s", diff)
	}
	for _, c := range []struct{ account, region, want string }{{account, "eu-west-1", "Elsewhere"}, {other, "us-east-1", "Foreign"}} {
		out, err := s.client(c.account, c.region).LookupEvents(t.Context(), nil)
		if err != nil || cmp.Diff([]string{c.want}, names(out.Events)) != "" {
			t.Errorf("of %s in %s: %v, %v", c.account, c.region, out, err)
		}
	}
}

// code is the code of a refusal; the error's text for others.
func code(err error) string {
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

func TestLookupEventsRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for i := range 3 {
		s.record(t, account, "us-east-1", fmt.Sprint("E", i), 0)
	}
	first, err := s.client(account, "us-east-1").LookupEvents(t.Context(), &awscloudtrail.LookupEventsInput{MaxResults: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	two := lookup("EventName", "E1")
	two.LookupAttributes = append(two.LookupAttributes, two.LookupAttributes...)
	for name, c := range map[string]struct {
		account string
		in      *awscloudtrail.LookupEventsInput
		want    string
	}{
		"no result":                {account, &awscloudtrail.LookupEventsInput{MaxResults: aws.Int32(0)}, "InvalidMaxResultsException"},
		"51 results":               {account, &awscloudtrail.LookupEventsInput{MaxResults: aws.Int32(51)}, "InvalidMaxResultsException"},
		"an end before the start":  {account, &awscloudtrail.LookupEventsInput{StartTime: &now, EndTime: aws.Time(now.Add(-time.Hour))}, "InvalidTimeRangeException"},
		"two attributes":           {account, two, "InvalidLookupAttributesException"},
		"an unknown attribute":     {account, lookup("Colour", "red"), "InvalidLookupAttributesException"},
		"neither true nor false":   {account, lookup("ReadOnly", "yes"), "InvalidLookupAttributesException"},
		"a long value":             {account, lookup("EventName", string(make([]byte, 2001))), "ValidationException"},
		"a category of no event":   {account, &awscloudtrail.LookupEventsInput{EventCategory: "x"}, "InvalidEventCategoryException"},
		"insights":                 {account, &awscloudtrail.LookupEventsInput{EventCategory: "insight"}, "UnsupportedOperationException"},
		"a token that is none":     {account, &awscloudtrail.LookupEventsInput{NextToken: aws.String("?")}, "InvalidNextTokenException"},
		"a token that is short":    {account, &awscloudtrail.LookupEventsInput{NextToken: aws.String("AAAA")}, "InvalidNextTokenException"},
		"a token without its size": {account, &awscloudtrail.LookupEventsInput{NextToken: first.NextToken}, "InvalidNextTokenException"},
		"another account's token": {other, &awscloudtrail.LookupEventsInput{
			MaxResults: aws.Int32(1), NextToken: first.NextToken,
		}, "InvalidNextTokenException"},
	} {
		if _, err := s.client(c.account, "us-east-1").LookupEvents(t.Context(), c.in); err == nil || code(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestLookupsAreLimitedByAccountAndRegion(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.client(account, "us-east-1")
	first, elsewhere, foreign := s.client(account, "us-east-1"), s.client(account, "eu-west-1"), s.client(other, "us-east-1")
	refused := 0
	for range 50 { // within far less than the 24 seconds that these would need
		if _, err := first.LookupEvents(t.Context(), nil); err != nil {
			if code(err) != "ThrottlingException" {
				t.Fatal(err)
			}
			refused++
		}
	}
	if refused == 0 {
		t.Error("50 lookups at once were answered")
	}
	for _, c := range []*awscloudtrail.Client{elsewhere, foreign} {
		if _, err := c.LookupEvents(t.Context(), nil); err != nil {
			t.Errorf("another account or Region: %v", err)
		}
	}
	s.ahead.Add(int64(time.Second))
	if _, err := first.LookupEvents(t.Context(), nil); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

func TestTheTrailIsDescribed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const arn = "arn:aws:cloudtrail:us-east-1:" + account + ":trail/lanyard"
	c := s.client(account, "us-east-1")
	for _, in := range []*awscloudtrail.DescribeTrailsInput{nil, {TrailNameList: []string{"other", "lanyard"}}, {TrailNameList: []string{arn}}} {
		out, err := c.DescribeTrails(t.Context(), in)
		if err != nil || len(out.TrailList) != 1 || *out.TrailList[0].TrailARN != arn || *out.TrailList[0].HomeRegion != "us-east-1" {
			t.Errorf("%+v: %+v, %v", in, out, err)
		}
	}
	out, err := c.DescribeTrails(t.Context(), &awscloudtrail.DescribeTrailsInput{TrailNameList: []string{"other"}})
	if err != nil || len(out.TrailList) != 0 {
		t.Errorf("a trail that is not there: %+v, %v", out, err)
	}
	if _, err := c.DescribeTrails(t.Context(), &awscloudtrail.DescribeTrailsInput{TrailNameList: []string{"arn:x"}}); code(err) != "CloudTrailARNInvalidException" {
		t.Errorf("no ARN: %v", err)
	}
	list, err := c.ListTrails(t.Context(), nil)
	if err != nil || len(list.Trails) != 1 || *list.Trails[0].TrailARN != arn {
		t.Errorf("list: %+v, %v", list, err)
	}
	status, err := c.GetTrailStatus(t.Context(), &awscloudtrail.GetTrailStatusInput{Name: aws.String(arn)})
	if err != nil || !*status.IsLogging || status.LatestDeliveryError != nil {
		t.Errorf("status: %+v, %v", status, err)
	}
	for name, want := range map[string]string{
		"other": "TrailNotFoundException", "ab": "InvalidTrailNameException", strings.Repeat("x", 129): "InvalidTrailNameException",
		"arn:aws:cloudtrail": "CloudTrailARNInvalidException",
	} {
		if _, err := c.GetTrailStatus(t.Context(), &awscloudtrail.GetTrailStatusInput{Name: &name}); code(err) != want {
			t.Errorf("the trail %.20s: %v, want %s", name, err, want)
		}
	}
	// Of another Region the trail is known by its ARN only.
	if _, err := s.client(account, "eu-west-1").GetTrailStatus(t.Context(), &awscloudtrail.GetTrailStatusInput{Name: aws.String("lanyard")}); code(err) != "TrailNotFoundException" {
		t.Errorf("from another Region: %v", err)
	}
}

// coded is an error as S3 has them.
type coded string

func (c coded) Error() string     { return string(c) }
func (c coded) ErrorCode() string { return string(c) }

func TestDeliveriesAreTold(t *testing.T) {
	t.Parallel()
	s := newServerFor(t, "trail")
	c := s.client(account, "us-east-1")
	trails, err := c.DescribeTrails(t.Context(), nil)
	if err != nil || len(trails.TrailList) != 1 || aws.ToString(trails.TrailList[0].S3BucketName) != "trail" || aws.ToString(trails.TrailList[0].S3KeyPrefix) != "p" {
		t.Errorf("%+v, %v", trails, err)
	}
	status := func() *awscloudtrail.GetTrailStatusOutput {
		t.Helper()
		status, err := c.GetTrailStatus(t.Context(), &awscloudtrail.GetTrailStatusInput{Name: aws.String("lanyard")})
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	if got := status(); got.LatestDeliveryTime != nil || got.LatestDeliveryError != nil || aws.ToString(got.LatestDeliveryAttemptTime) != "" {
		t.Errorf("before the first delivery: %+v", got)
	}
	deliver := func(result error) {
		t.Helper()
		s.record(t, account, "us-east-1", "A", 0)
		if _, err := s.store.Deliver(t.Context(), func(context.Context, *audit.Batch) error { return result }); !errors.Is(err, result) {
			t.Fatal(err)
		}
	}
	deliver(coded("NoSuchBucket"))
	if got := status(); got.LatestDeliveryTime != nil || aws.ToString(got.LatestDeliveryError) != "NoSuchBucket" || aws.ToString(got.LatestDeliveryAttemptTime) == "" ||
		aws.ToString(got.LatestDeliveryAttemptSucceeded) != "" || !*got.IsLogging {
		t.Errorf("after a failure: %+v", got)
	}
	deliver(nil)
	if got := status(); got.LatestDeliveryTime == nil || got.LatestDeliveryError != nil ||
		aws.ToString(got.LatestDeliveryAttemptSucceeded) != got.LatestDeliveryTime.Format("2006-01-02T15:04:05Z") ||
		aws.ToString(got.LatestDeliveryAttemptTime) != aws.ToString(got.LatestDeliveryAttemptSucceeded) {
		t.Errorf("after a delivery: %+v", got)
	}
}
