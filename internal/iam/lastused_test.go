package iam_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// direct is an HTTP client whose requests go to a handler, without a network.
type direct struct{ http.Handler }

func (d direct) Do(r *http.Request) (*http.Response, error) {
	r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), "192.0.2.1:1234"
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

func (d direct) client(c sigv4.Credentials) *awsiam.Client {
	return awsiam.New(awsiam.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://localhost"), HTTPClient: d, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, string(c.SecretAccessKey), c.SessionToken),
	})
}

func TestLastUsesAreSharedAndSeldomWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		store := kv.NewMemory()
		one, h1 := replica(t, store, "aws")
		two, h2 := replica(t, store, "aws")
		key, err := one.EnsureAccount(ctx, account, "test")
		check(t, err)
		check(t, two.Sync(ctx))
		first, second := direct{h1}.client(*key), direct{h2}.client(*key)
		check(t, failure(first.CreateRole(ctx, &awsiam.CreateRoleInput{RoleName: of("app"), AssumeRolePolicyDocument: of(trusts("AWS", account))})))
		role, err := first.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("app")})
		check(t, err)
		session := awsapi.Identity{
			Kind: policy.RoleSession, Account: account, EntityID: *role.Role.RoleId, EntityARN: *role.Role.Arn, Session: &awsapi.Session{},
		}
		uses := func(in *installation, service string) {
			in.Authorize(ctx, &awsapi.Caller{Identity: session, Service: service, Region: "eu-west-1", Time: time.Now()}, awsapi.Access{Action: "s3:GetObject", Resource: object})
		}
		shows := func(when string, client *awsiam.Client, want time.Time) {
			t.Helper()
			check(t, one.Sync(ctx))
			check(t, two.Sync(ctx))
			got, err := client.GetRole(ctx, &awsiam.GetRoleInput{RoleName: of("app")})
			check(t, err)
			switch used := got.Role.RoleLastUsed; {
			case want.IsZero() && used.LastUsedDate != nil:
				t.Errorf("%s, the role was last used at %s", when, used.LastUsedDate)
			case !want.IsZero() && (used.LastUsedDate == nil || !used.LastUsedDate.Equal(want) || *used.Region != "eu-west-1"):
				t.Errorf("%s, the role was last used %v, want %s", when, used.LastUsedDate, want)
			}
		}
		revision := func() int64 {
			t.Helper()
			r, err := store.Revision(ctx)
			check(t, err)
			return r
		}
		go one.Run(ctx)
		go two.Run(ctx)
		shows("before any use", first, time.Time{})

		began := time.Now()
		uses(one, "s3")
		shows("where it was used, at once", first, began)
		shows("elsewhere, before it was saved", second, time.Time{})
		time.Sleep(61 * time.Second)
		synctest.Wait()
		shows("elsewhere, a minute later", second, began)

		saved := revision()
		for range 12 {
			uses(one, "s3")
			uses(two, "s3")
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if now := revision(); now != saved {
			t.Errorf("uses within a quarter of an hour made %d writes", now-saved)
		}
		shows("after more uses within a quarter of an hour", first, began)

		time.Sleep(3 * time.Minute)
		again := time.Now()
		uses(two, "s3")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		shows("after another use elsewhere", first, again)
		third, h3 := replica(t, store, "aws")
		check(t, third.Sync(ctx))
		shows("after a start", direct{h3}.client(*key), again)

		used, err := direct{h3}.client(*key).GetAccessKeyLastUsed(ctx, &awsiam.GetAccessKeyLastUsedInput{AccessKeyId: &key.AccessKeyID})
		check(t, err)
		if u := used.AccessKeyLastUsed; *u.ServiceName != "iam" || u.LastUsedDate == nil {
			t.Errorf("root's key was last used %+v", u)
		}
		check(t, failure(first.DeleteRole(ctx, &awsiam.DeleteRoleInput{RoleName: of("app")})))
		uses(two, "s3") // by a session that has outlived its role
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		entries, _, err := store.List(ctx, "/lanyard/iam-last-used/")
		check(t, err)
		for _, e := range entries {
			if strings.HasSuffix(e.Key, *role.Role.RoleId) {
				t.Errorf("%s outlived its role: %s", e.Key, e.Value)
			}
		}
	})
}

// lastAccessed makes a report on what has an ARN, and shows what it has of each service.
func lastAccessed(t *testing.T, client *awsiam.Client, about string) (job string, services map[string]string) {
	t.Helper()
	made, err := client.GenerateServiceLastAccessedDetails(t.Context(), &awsiam.GenerateServiceLastAccessedDetailsInput{Arn: &about})
	check(t, err)
	out, err := client.GetServiceLastAccessedDetails(t.Context(), &awsiam.GetServiceLastAccessedDetailsInput{JobId: made.JobId})
	check(t, err)
	if out.JobStatus != types.JobStatusTypeCompleted || out.JobCreationDate == nil || out.JobCompletionDate == nil {
		t.Errorf("the job is %+v", out)
	}
	services = make(map[string]string)
	for _, s := range out.ServicesLastAccessed {
		state := "never"
		if s.LastAuthenticated != nil {
			state = s.LastAuthenticated.Format(time.TimeOnly) + " " + strings.TrimPrefix(*s.LastAuthenticatedEntity, "arn:aws:iam::"+account+":")
		}
		services[*s.ServiceNamespace] = state
	}
	return *made.JobId, services
}

func TestWhenServicesWereLastUsed(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	_, alice := in.user(t, "alice")
	_, bob := in.user(t, "bob")
	in.user(t, "carol")
	in.group(t, "g", "alice", "bob")
	in.role(t, "app")
	p := in.policy(t, "p", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","sqs:*"],"Resource":"*"},{"Effect":"Deny","Action":"ec2:*","Resource":"*"}]}`)
	check(t, failure(in.root.AttachGroupPolicy(ctx, &awsiam.AttachGroupPolicyInput{GroupName: of("g"), PolicyArn: p})))
	check(t, failure(in.root.AttachRolePolicy(ctx, &awsiam.AttachRolePolicyInput{RoleName: of("app"), PolicyArn: p})))
	uses := func(id awsapi.Identity, minutes int) {
		c := callerOf(id)
		c.Time = now.Add(time.Duration(minutes) * time.Minute)
		in.Authorize(ctx, c, awsapi.Access{Action: "s3:GetObject", Resource: object})
	}
	uses(in.identity(t, alice.AccessKeyID), 0)
	uses(in.identity(t, bob.AccessKeyID), 5)
	uses(in.roleSession(t, "app"), 9)
	const prefix = "arn:aws:iam::" + account + ":"
	for about, want := range map[string]map[string]string{
		prefix + "user/alice": {"s3": "05:06:07 user/alice", "sqs": "never"},
		prefix + "user/carol": {},
		prefix + "group/g":    {"s3": "05:11:07 user/bob", "sqs": "never"},
		prefix + "role/app":   {"s3": "05:15:07 role/app", "sqs": "never"},
		*p:                    {"s3": "05:15:07 role/app", "sqs": "never"},
	} {
		if _, got := lastAccessed(t, in.root, about); !cmp.Equal(got, want) {
			t.Errorf("%s\n%s", about, cmp.Diff(want, got))
		}
	}
	job, _ := lastAccessed(t, in.root, prefix+"group/g")
	var members []string
	input := &awsiam.GetServiceLastAccessedDetailsWithEntitiesInput{JobId: &job, ServiceNamespace: of("s3"), MaxItems: of(int32(1))}
	for {
		page, err := in.root.GetServiceLastAccessedDetailsWithEntities(ctx, input)
		check(t, err)
		for _, e := range page.EntityDetailsList {
			members = append(members, *e.EntityInfo.Arn+" "+string(e.EntityInfo.Type)+" "+e.LastAuthenticated.Format(time.TimeOnly))
		}
		if !page.IsTruncated {
			break
		}
		input.Marker = page.Marker
	}
	if len(members) != 2 || !strings.Contains(strings.Join(members, "\n"), prefix+"user/bob USER 05:11:07") {
		t.Errorf("members = %v", members)
	}
	refuses(t, []refusal{
		{"the granularity of actions", func() error {
			return failure(in.root.GenerateServiceLastAccessedDetails(ctx, &awsiam.GenerateServiceLastAccessedDetailsInput{
				Arn: p, Granularity: types.AccessAdvisorUsageGranularityTypeActionLevel,
			}))
		}, "InvalidInput", "This server keeps when services were last used, not actions"},
		{"a user that is missing", func() error {
			return failure(in.root.GenerateServiceLastAccessedDetails(ctx, &awsiam.GenerateServiceLastAccessedDetailsInput{Arn: of(prefix + "user/no")}))
		}, "NoSuchEntity", "The user with name no cannot be found."},
		{"an ARN of nothing", func() error {
			return failure(in.root.GenerateServiceLastAccessedDetails(ctx, &awsiam.GenerateServiceLastAccessedDetailsInput{Arn: of("arn:aws:s3:::bucket-of-mine")}))
		}, "InvalidInput", "Invalid Entity Arn"},
		{"a job of another account", func() error {
			return failure(in.other.GetServiceLastAccessedDetails(ctx, &awsiam.GetServiceLastAccessedDetailsInput{JobId: &job}))
		}, "NoSuchEntity", "The job with id " + job + " cannot be found."},
		{"a service that no policy grants", func() error {
			return failure(in.root.GetServiceLastAccessedDetailsWithEntities(ctx, &awsiam.GetServiceLastAccessedDetailsWithEntitiesInput{
				JobId: &job, ServiceNamespace: of("ec2"),
			}))
		}, "NoSuchEntity", "The policies of " + prefix + "group/g do not grant access to the service ec2."},
	})
}

func TestPoliciesThatGrantServices(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.user(t, "alice")
	in.group(t, "g", "alice")
	p := in.policy(t, "sqs", statement("Allow", "SQS:*", "*"))
	check(t, failure(in.root.AttachUserPolicy(ctx, &awsiam.AttachUserPolicyInput{UserName: of("alice"), PolicyArn: p})))
	put := func(name, document string) {
		t.Helper()
		check(t, failure(in.root.PutGroupPolicy(ctx, &awsiam.PutGroupPolicyInput{GroupName: of("g"), PolicyName: &name, PolicyDocument: &document})))
	}
	put("star", statement("Allow", "*", "*"))
	put("not", `{"Version":"2012-10-17","Statement":{"Effect":"Allow","NotAction":["s3:*","sqs:SendMessage"],"Resource":"*"}}`)
	put("denies", statement("Deny", "s3:*", "*"))
	for _, c := range []struct{ about, want string }{
		{"user/alice", "s3: star(GROUP g); sqs: sqs not(GROUP g) star(GROUP g); ec2: not(GROUP g) star(GROUP g)"},
		{"group/g", "s3: star(GROUP g); sqs: not(GROUP g) star(GROUP g); ec2: not(GROUP g) star(GROUP g)"},
	} {
		out, err := in.root.ListPoliciesGrantingServiceAccess(ctx, &awsiam.ListPoliciesGrantingServiceAccessInput{
			Arn: of("arn:aws:iam::" + account + ":" + c.about), ServiceNamespaces: []string{"s3", "sqs", "ec2"},
		})
		check(t, err)
		var got []string
		for _, e := range out.PoliciesGrantingServiceAccess {
			entry := *e.ServiceNamespace + ":"
			for _, p := range e.Policies {
				entry += " " + *p.PolicyName
				if p.PolicyType == types.PolicyTypeInline {
					entry += "(" + string(p.EntityType) + " " + *p.EntityName + ")"
				}
			}
			got = append(got, entry)
		}
		if got := strings.Join(got, "; "); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.about, got, c.want)
		}
	}
}
