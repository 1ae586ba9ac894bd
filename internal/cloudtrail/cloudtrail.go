// Package cloudtrail is CloudTrail: it finds the records of the audit trail, which are kept whether anybody asks for them or not, and
// describes the one trail that there is.
package cloudtrail

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// Config is what the service needs.
type Config struct {
	Trail     *audit.Trail     // required
	Delivery  *audit.Deliverer // nil without a bucket
	Partition string
	Region    string           // where the trail is at home
	Now       func() time.Time // time.Now when nil
}

// Service is CloudTrail.
type Service struct {
	trail     *audit.Trail
	delivery  *audit.Deliverer
	partition string
	region    string
	now       func() time.Time
	started   time.Time
	lookups   limits
}

// New makes the service.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{trail: c.Trail, delivery: c.Delivery, partition: c.Partition, region: c.Region, now: c.Now, started: c.Now()}
}

// API returns the operations of the CloudTrail API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("cloudtrail"), Operations: []awsapi.Operation{
		awsapi.Op("DescribeTrails", s.describeTrails, anyTrail[describeTrailsInput]("DescribeTrails")),
		awsapi.Op("GetTrailStatus", s.getTrailStatus, s.trailStatusAccess),
		awsapi.Op("ListTrails", s.listTrails, anyTrail[listTrailsInput]("ListTrails")),
		awsapi.Op("LookupEvents", s.lookupEvents, anyTrail[lookupEventsInput]("LookupEvents")),
	}}
}

// anyTrail is the access of operations that are not about one trail (Service Authorization Reference, "Actions, resources, and
// condition keys for AWS CloudTrail").
func anyTrail[In any](operation string) func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
	return func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
		return []awsapi.Access{{Action: "cloudtrail:" + operation, Resource: "*"}}, nil
	}
}

type lookupEventsInput struct {
	LookupAttributes   []lookupAttribute
	StartTime, EndTime time.Time
	EventCategory      string
	MaxResults         *int32
	NextToken          string
}

type lookupAttribute struct{ AttributeKey, AttributeValue string }

type lookupEventsOutput struct {
	Events    []event
	NextToken string
}

type event struct {
	EventID         string
	EventName       string
	ReadOnly        string
	AccessKeyID     string
	EventTime       time.Time
	EventSource     string
	Username        string
	Resources       []resource
	CloudTrailEvent string
}

type resource struct{ ResourceType, ResourceName string }

const maxResults = 50 // of a page, and when the caller does not say

func (s *Service) lookupEvents(ctx context.Context, c *awsapi.Caller, in *lookupEventsInput) (*lookupEventsOutput, error) {
	if !s.lookups.allow(c.Account+"/"+c.Region, s.now()) {
		return nil, awsapi.Errorf("ThrottlingException", "Rate exceeded")
	}
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	q.Account, q.Region = c.Account, c.Region
	if oldest := s.now().Add(-audit.DefaultRetention); q.From.Before(oldest) {
		q.From = oldest
	}
	binding := in.binding(c)
	if in.NextToken != "" {
		if q.After, err = openToken(binding, in.NextToken); err != nil {
			return nil, err
		}
	}
	page, err := s.trail.Lookup(ctx, q)
	if errors.Is(err, audit.ErrPosition) {
		return nil, badToken(err)
	}
	if err != nil {
		return nil, err
	}
	out := &lookupEventsOutput{Events: make([]event, len(page.Events))}
	for i := range page.Events {
		out.Events[i] = wireEvent(&page.Events[i])
	}
	if page.Next != "" {
		out.NextToken = makeToken(binding, page.Next)
	}
	return out, nil
}

func wireEvent(f *audit.Found) event {
	e := event{
		EventID: f.EventID, EventName: f.Name, ReadOnly: strconv.FormatBool(f.ReadOnly), AccessKeyID: f.Identity.AccessKeyID,
		EventTime: f.Time, EventSource: f.Source, Username: f.Identity.User(), Resources: []resource{}, CloudTrailEvent: f.Text,
	}
	for _, r := range f.Lanyard.Resources {
		e.Resources = append(e.Resources, resource{r.Type, r.Name})
	}
	return e
}

// query reads the request. The model leaves these checks to the service, whose errors are of their own kinds.
func (in *lookupEventsInput) query() (*audit.Query, error) {
	q := &audit.Query{From: in.StartTime, To: in.EndTime, Limit: maxResults}
	if in.MaxResults != nil {
		q.Limit = int(*in.MaxResults)
	}
	if q.Limit < 1 || q.Limit > maxResults {
		return nil, awsapi.Errorf("InvalidMaxResultsException", "The MaxResults value must be between 1 and %d.", maxResults)
	}
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		return nil, awsapi.Errorf("InvalidTimeRangeException", "The start time must be before the end time.")
	}
	switch in.EventCategory {
	case "":
	case "insight":
		return nil, awsapi.Errorf("UnsupportedOperationException", "This server has no Insights events.")
	default:
		return nil, awsapi.Errorf("InvalidEventCategoryException", "The event category must be insight, or left out.")
	}
	switch len(in.LookupAttributes) {
	case 0:
		return q, nil
	case 1:
	default:
		return nil, awsapi.Errorf("InvalidLookupAttributesException", "You can specify only one lookup attribute.")
	}
	q.Attribute, q.Value = in.LookupAttributes[0].AttributeKey, in.LookupAttributes[0].AttributeValue
	switch q.Attribute {
	case audit.ByEventID, audit.ByEventName, audit.ByUsername, audit.ByResourceType, audit.ByResourceName, audit.ByEventSource, audit.ByAccessKeyID:
	case audit.ByReadOnly:
		if q.Value != "true" && q.Value != "false" {
			return nil, awsapi.Errorf("InvalidLookupAttributesException", "The value of ReadOnly must be true or false.")
		}
	default:
		return nil, awsapi.Errorf("InvalidLookupAttributesException", "%s is not a lookup attribute.", strconv.Quote(q.Attribute))
	}
	return q, nil
}

// binding is a hash of everything that must stay the same from page to page.
func (in *lookupEventsInput) binding(c *awsapi.Caller) []byte {
	parts := []string{c.Account, c.Region, in.StartTime.UTC().String(), in.EndTime.UTC().String(), in.EventCategory}
	for _, a := range in.LookupAttributes {
		parts = append(parts, a.AttributeKey, a.AttributeValue)
	}
	if in.MaxResults != nil {
		parts = append(parts, strconv.Itoa(int(*in.MaxResults)))
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return sum[:16]
}

// makeToken makes a paging token. It is no secret, and gives away nothing but a place in the trail: what it leads to is the
// caller's own account's.
func makeToken(binding []byte, position string) string {
	return base64.StdEncoding.EncodeToString(append(binding, position...))
}

func openToken(binding []byte, token string) (position string, err error) {
	text, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return "", badToken(err)
	}
	if len(text) < len(binding) || subtle.ConstantTimeCompare(text[:len(binding)], binding) == 0 {
		return "", badToken(errors.New("it was made for other parameters"))
	}
	return string(text[len(binding):]), nil
}

func badToken(cause error) error {
	e := awsapi.Errorf("InvalidNextTokenException", "The next token is not valid, or is not for these parameters.")
	e.Cause = cause
	return e
}

// LookupEvents may be called twice per second, account and Region (CloudTrail API Reference, "LookupEvents").
const (
	lookupsPerSecond = 2
	maxLimits        = 10_000
)

// limits holds callers to their rate.
type limits struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

func (l *limits) allow(who string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter, ok := l.by[who]
	if !ok {
		if l.by == nil || len(l.by) >= maxLimits { // nobody's last second is worth more memory
			l.by = map[string]*rate.Limiter{}
		}
		limiter = rate.NewLimiter(lookupsPerSecond, lookupsPerSecond)
		l.by[who] = limiter
	}
	return limiter.AllowN(now, 1)
}

// trailName is the name of the one trail.
const trailName = "lanyard"

func (s *Service) trailARN(account string) string {
	return arn.New(s.partition, "cloudtrail", s.region, account, "trail/"+trailName).String()
}

type describeTrailsInput struct {
	TrailNameList       []string
	IncludeShadowTrails *bool
}

type describeTrailsOutput struct{ TrailList []trail }

type trail struct {
	Name                       string
	S3BucketName, S3KeyPrefix  string
	TrailARN                   string
	HomeRegion                 string
	IncludeGlobalServiceEvents bool
	IsMultiRegionTrail         bool
	IsOrganizationTrail        bool
	LogFileValidationEnabled   bool
	HasCustomEventSelectors    bool
	HasInsightSelectors        bool
}

func (s *Service) describeTrails(_ context.Context, c *awsapi.Caller, in *describeTrailsInput) (*describeTrailsOutput, error) {
	all := []trail{{
		Name: trailName, TrailARN: s.trailARN(c.Account), HomeRegion: s.region, IncludeGlobalServiceEvents: true, IsMultiRegionTrail: true,
	}}
	if s.delivery != nil {
		all[0].S3BucketName, all[0].S3KeyPrefix = s.delivery.Bucket, s.delivery.Prefix
	}
	if len(in.TrailNameList) == 0 {
		if in.IncludeShadowTrails != nil && !*in.IncludeShadowTrails && c.Region != s.region {
			all = []trail{}
		}
		return &describeTrailsOutput{all}, nil
	}
	for _, name := range in.TrailNameList {
		found, err := s.isTrail(c, name)
		if err != nil {
			return nil, err
		}
		if found {
			return &describeTrailsOutput{all}, nil
		}
	}
	return &describeTrailsOutput{[]trail{}}, nil
}

// isTrail reports whether a name or an ARN is the trail's.
func (s *Service) isTrail(c *awsapi.Caller, name string) (bool, error) {
	if strings.HasPrefix(name, "arn:") {
		if _, err := arn.Parse(name); err != nil {
			e := awsapi.Errorf("CloudTrailARNInvalidException", "The ARN of the trail is not valid.")
			e.Cause = err
			return false, e
		}
		return name == s.trailARN(c.Account), nil
	}
	if len(name) < 3 || len(name) > 128 {
		return false, awsapi.Errorf("InvalidTrailNameException", "A trail's name must have between 3 and 128 characters.")
	}
	return name == trailName && c.Region == s.region, nil
}

type getTrailStatusInput struct{ Name string }

type getTrailStatusOutput struct {
	IsLogging          bool
	StartLoggingTime   time.Time
	TimeLoggingStarted string

	LatestDeliveryError            string
	LatestDeliveryTime             time.Time
	LatestDeliveryAttemptTime      string
	LatestDeliveryAttemptSucceeded string
}

func (s *Service) trailStatusAccess(c *awsapi.Caller, in *getTrailStatusInput) ([]awsapi.Access, error) {
	resource := in.Name
	if !strings.HasPrefix(resource, "arn:") {
		resource = arn.New(s.partition, "cloudtrail", c.Region, c.Account, "trail/"+in.Name).String()
	}
	return []awsapi.Access{{Action: "cloudtrail:GetTrailStatus", Resource: resource}}, nil
}

func (s *Service) getTrailStatus(ctx context.Context, c *awsapi.Caller, in *getTrailStatusInput) (*getTrailStatusOutput, error) {
	found, err := s.isTrail(c, in.Name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, awsapi.Errorf("TrailNotFoundException", "Unknown trail: %s for the user: %s", in.Name, c.Account)
	}
	out := &getTrailStatusOutput{IsLogging: true, StartLoggingTime: s.started, TimeLoggingStarted: textTime(s.started)}
	if s.delivery != nil {
		d, err := s.delivery.Delivery(ctx)
		if err != nil {
			return nil, err
		}
		out.LatestDeliveryTime, out.LatestDeliveryError = d.Delivered, d.Failure
		out.LatestDeliveryAttemptTime, out.LatestDeliveryAttemptSucceeded = textTime(d.Attempted), textTime(d.Delivered)
		if d.Failure == "" && d.Lost > 0 {
			out.LatestDeliveryError = fmt.Sprintf("%d records were dropped before they were delivered.", d.Lost)
		}
	}
	if s.trail.Failure() != nil {
		out.IsLogging, out.LatestDeliveryError = false, "Records cannot be kept at the moment."
	}
	if lost := s.trail.Lost(); lost > 0 {
		out.LatestDeliveryError = fmt.Sprintf("%d records were lost since the start.", lost)
	}
	return out, nil
}

// textTime is a time as GetTrailStatus has it in texts; empty if it has not come.
func textTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

type listTrailsInput struct{ NextToken string }

type listTrailsOutput struct{ Trails []trailInfo }

type trailInfo struct{ TrailARN, Name, HomeRegion string }

func (s *Service) listTrails(_ context.Context, c *awsapi.Caller, in *listTrailsInput) (*listTrailsOutput, error) {
	if in.NextToken != "" {
		return nil, badToken(errors.New("there is one page"))
	}
	return &listTrailsOutput{[]trailInfo{{s.trailARN(c.Account), trailName, s.region}}}, nil
}
