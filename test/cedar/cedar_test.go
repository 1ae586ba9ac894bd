package cedar

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/lanyard-id/lanyard/policy"
)

// A question is a request in both languages, made ready for each as far as it can be before it is decided.
type question struct {
	name    string
	allowed bool

	lanyard  *policy.Request
	cedar    cedar.Request
	entities types.EntityMap
}

const sessionARN = "arn:aws:sts::111122223333:assumed-role/shop/pod-1"

// ask writes a question of a pod of the namespace shop. What the request's context has besides is given as key, value, key, value,
// in place of what pods usually have.
func ask(t testing.TB, name string, allowed bool, action, resource string, context ...string) question {
	t.Helper()
	values := map[string]string{
		"aws:SecureTransport": "true", "aws:SourceIp": "10.1.2.3", "aws:TokenIssueTime": "2025-06-01T12:00:00Z",
	}
	for _, key := range []string{
		"aws:CurrentTime", "aws:EpochTime", "aws:UserAgent", "aws:RequestedRegion", "aws:ViaAWSService", "aws:ResourceAccount",
		"aws:PrincipalArn", "aws:PrincipalAccount", "aws:PrincipalType", "aws:userid", "aws:PrincipalIsAWSService", "s3:authType",
		"s3:signatureversion", "s3:x-amz-content-sha256", "s3:ResourceAccount",
	} {
		values[key] = "x"
	}
	for i := 0; i < len(context); i += 2 {
		values[context[i]] = context[i+1]
	}

	iam, record := new(policy.Context), types.RecordMap{}
	for key, value := range values {
		iam.Set(key, value)
		record[types.String(key)] = typed(t, key, value)
	}
	tags := types.RecordMap{}
	for _, tag := range []string{
		"eks-cluster-arn", "eks-cluster-name", "kubernetes-namespace", "kubernetes-service-account", "kubernetes-pod-name", "kubernetes-pod-uid",
	} {
		iam.Set("aws:PrincipalTag/"+tag, "shop")
		tags[types.String(tag)] = types.String("shop")
	}

	principal, verb := cedar.NewEntityUID("Session", sessionARN), cedar.NewEntityUID("Action", types.String(action))
	object := cedar.NewEntityUID("Resource", types.String(resource))
	_, key, _ := strings.Cut(resource, "/")
	folder, _, _ := strings.Cut(key, "/")
	vendor, operation, _ := strings.Cut(action, ":")
	groups := []cedar.EntityUID{cedar.NewEntityUID("Action", types.String(vendor+":*"))}
	for _, verb := range []string{"List", "Delete"} {
		if strings.HasPrefix(operation, verb) {
			groups = append(groups, cedar.NewEntityUID("Action", types.String(vendor+":"+verb+"*")))
		}
	}
	return question{
		name: name, allowed: allowed,
		lanyard: &policy.Request{
			Principal: policy.Principal{
				Kind: policy.RoleSession, Account: "111122223333", ARN: sessionARN, RoleARN: "arn:aws:iam::111122223333:role/shop", ID: "AROA37QFXJP5LOO5CGXEC",
			},
			Action: action, Resource: resource, Context: iam,
		},
		cedar: cedar.Request{Principal: principal, Action: verb, Resource: object, Context: types.NewRecord(record)},
		entities: types.EntityMap{
			principal: {UID: principal, Attributes: types.NewRecord(tags)},
			verb:      {UID: verb, Parents: types.NewEntityUIDSet(groups...)},
			object: {UID: object, Attributes: types.NewRecord(types.RecordMap{
				"arn": types.String(resource), "folder": types.String(folder),
			})},
		},
	}
}

// typed gives a value the type that the Cedar policies compare it in.
func typed(t testing.TB, key, value string) types.Value {
	t.Helper()
	var typed types.Value
	var err error
	switch key {
	case "aws:SecureTransport":
		typed = types.Boolean(value == "true")
	case "aws:SourceIp":
		typed, err = types.ParseIPAddr(value)
	case "aws:TokenIssueTime":
		typed, err = types.ParseDatetime(value)
	default:
		typed = types.String(value)
	}
	if err != nil {
		t.Fatal(err)
	}
	return typed
}

func questions(t testing.TB) []question {
	t.Helper()
	const report, other, inbox = "arn:aws:s3:::data/shop/2025/06/report.csv", "arn:aws:s3:::data/bank/2025/06/report.csv", "arn:aws:s3:::data/in/1.csv"
	return []question{
		ask(t, "read what is its own", true, "s3:GetObject", report),
		ask(t, "read what is another's", false, "s3:GetObject", other),
		ask(t, "read without encryption", false, "s3:GetObject", report, "aws:SecureTransport", "false"),
		ask(t, "read from outside", false, "s3:GetObject", report, "aws:SourceIp", "203.0.113.7"),
		ask(t, "read from the other network", true, "s3:GetObject", report, "aws:SourceIp", "192.168.1.1"),
		ask(t, "read with an old token", false, "s3:GetObject", report, "aws:TokenIssueTime", "2024-12-31T23:59:59Z"),
		ask(t, "write", true, "s3:PutObject", inbox),
		ask(t, "write elsewhere", false, "s3:PutObject", report),
		ask(t, "delete", false, "s3:DeleteObject", inbox),
		ask(t, "list", true, "s3:ListBucket", "arn:aws:s3:::data"),
		ask(t, "list another bucket", false, "s3:ListBucket", "arn:aws:s3:::data2"),
		ask(t, "send", true, "sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:orders"),
		ask(t, "send to another queue", false, "sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:other"),
		ask(t, "query a table", true, "dynamodb:Query", "arn:aws:dynamodb:eu-west-1:111122223333:table/shop-carts"),
		ask(t, "query another table", false, "dynamodb:Query", "arn:aws:dynamodb:eu-west-1:111122223333:table/bank"),
		ask(t, "log", true, "logs:PutLogEvents", "arn:aws:logs:us-east-1:111122223333:log-group:/shop/cart"),
		ask(t, "decrypt", false, "kms:Decrypt", "arn:aws:kms:us-east-1:111122223333:key/1"),
		ask(t, "decrypt for S3", true, "kms:Decrypt", "arn:aws:kms:us-east-1:111122223333:key/1", "kms:ViaService", "s3.us-east-1.amazonaws.com"),
		ask(t, "do something else", false, "ec2:RunInstances", "*"),
	}
}

func load(t testing.TB) (*policy.Policies, *cedar.PolicySet) {
	t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	iam := new(policy.Policies)
	for _, name := range []string{"queues-and-tables", "files", "guards"} {
		p, err := policy.New(name, policy.Identity, read(name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		iam.Identity = append(iam.Identity, p)
	}
	set, err := cedar.NewPolicySetFromBytes("pod-role.cedar", read("pod-role.cedar"))
	if err != nil {
		t.Fatal(err)
	}
	return iam, set
}

func TestBothDecideAlike(t *testing.T) {
	t.Parallel()
	iam, set := load(t)
	for _, q := range questions(t) {
		if d := policy.Evaluate(q.lanyard, iam); d.Allowed != q.allowed {
			t.Errorf("%s: Lanyard says %v, want allowed %v", q.name, d, q.allowed)
		}
		d, diagnostic := cedar.Authorize(set, q.entities, q.cedar)
		if bool(d) != q.allowed || len(diagnostic.Errors) > 0 {
			t.Errorf("%s: Cedar says %v, want allowed %v; %+v", q.name, d, q.allowed, diagnostic)
		}
	}
}

// BenchmarkEvaluate lets both decide the same requests in turn, so that both meet the same machine, and reports how many times
// Cedar's time Lanyard takes.
func BenchmarkEvaluate(b *testing.B) {
	iam, set := load(b)
	all := questions(b)
	const turn = 20 // times that one decides all the questions before it is the other's turn
	var lanyard, other time.Duration
	for b.Loop() {
		start := time.Now()
		for range turn {
			for i := range all {
				if policy.Evaluate(all[i].lanyard, iam).Allowed != all[i].allowed {
					b.Fatal(all[i].name)
				}
			}
		}
		between := time.Now()
		for range turn {
			for i := range all {
				if d, _ := cedar.Authorize(set, all[i].entities, all[i].cedar); bool(d) != all[i].allowed {
					b.Fatal(all[i].name)
				}
			}
		}
		lanyard, other = lanyard+between.Sub(start), other+time.Since(between)
	}
	decisions := float64(b.N * turn * len(all))
	b.ReportMetric(float64(lanyard.Nanoseconds())/decisions, "lanyard-ns/decision")
	b.ReportMetric(float64(other.Nanoseconds())/decisions, "cedar-ns/decision")
	b.ReportMetric(float64(lanyard)/float64(other), "x-cedar")
	b.ReportMetric(0, "ns/op") // of both together
	if lanyard > other {
		b.Errorf("Lanyard takes %v for what Cedar does in %v", lanyard, other)
	}
}
