package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// podRequest is a usual request of a pod: three policies, twelve statements, four conditions, a context of 24 keys.
func podRequest(t testing.TB) (*policy.Request, *policy.Policies) {
	c := new(policy.Context)
	for _, key := range []string{
		"aws:CurrentTime", "aws:EpochTime", "aws:SecureTransport", "aws:UserAgent", "aws:RequestedRegion", "aws:ViaAWSService",
		"aws:ResourceAccount", "aws:SourceIp", "aws:PrincipalArn", "aws:PrincipalAccount", "aws:PrincipalType", "aws:userid",
		"aws:PrincipalIsAWSService", "aws:TokenIssueTime", "s3:authType", "s3:signatureversion", "s3:x-amz-content-sha256", "s3:ResourceAccount",
	} {
		c.Set(key, "x")
	}
	c.Set("aws:SecureTransport", "true")
	c.Set("aws:SourceIp", "10.1.2.3")
	c.Set("aws:TokenIssueTime", "2025-06-01T12:00:00Z")
	for _, tag := range []string{"eks-cluster-arn", "eks-cluster-name", "kubernetes-namespace", "kubernetes-service-account", "kubernetes-pod-name", "kubernetes-pod-uid"} {
		c.Set("aws:PrincipalTag/"+tag, "shop")
	}
	one := compile(t, policy.Identity,
		allow("sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:orders"),
		allow("sqs:ReceiveMessage", "arn:aws:sqs:us-east-1:111122223333:orders"),
		allow("dynamodb:*", "arn:aws:dynamodb:*:111122223333:table/shop-*"),
		allow("logs:PutLogEvents", "arn:aws:logs:*:*:log-group:/shop/*"),
		allow("kms:Decrypt", "arn:aws:kms:us-east-1:111122223333:key/shop"))
	two := compile(t, policy.Identity,
		allow("s3:ListBucket", "arn:aws:s3:::data", `"StringLike":{"s3:prefix":"${aws:PrincipalTag/kubernetes-namespace}/*"}`),
		allow("s3:List*", "arn:aws:s3:::data"),
		allow("s3:PutObject", "arn:aws:s3:::data/in/*"),
		allow("s3:GetObject", "arn:aws:s3:::data/${aws:PrincipalTag/kubernetes-namespace}/*", `"Bool":{"aws:SecureTransport":"true"}`))
	three := compile(t, policy.Identity,
		deny("*", "*", `"DateLessThan":{"aws:TokenIssueTime":"2025-01-01T00:00:00Z"}`),
		deny("s3:*", "*", `"NotIpAddress":{"aws:SourceIp":["10.0.0.0/8","192.168.0.0/16"]}`),
		deny("s3:Delete*", "*"))
	return &policy.Request{Principal: session(), Action: "s3:GetObject", Resource: "arn:aws:s3:::data/shop/2025/06/report.csv", Context: c},
		&policy.Policies{Identity: []*policy.Policy{one, two, three}}
}

func BenchmarkEvaluate(b *testing.B) {
	r, p := podRequest(b)
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Evaluate(r, p); !d.Allowed {
			b.Fatal(d)
		}
	}
}

func BenchmarkExplain(b *testing.B) {
	r, p := podRequest(b)
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Explain(r, p); !d.Allowed {
			b.Fatal(d)
		}
	}
}

// BenchmarkStatements evaluates managed policies of more and more statements, up to the 6,144 characters that IAM lets them have.
// A decision that looks at every statement costs the same for each.
func BenchmarkStatements(b *testing.B) {
	const largest = 6144 // characters
	for _, statements := range []int{1, 4, 16, 0} {
		list := []string{allow("s3:GetObject", "arn:aws:s3:::reports/*")}
		more := func() bool {
			if statements > 0 {
				return len(list) < statements
			}
			return policy.Size([]byte(document(append(list, list[len(list)-1])...))) <= largest
		}
		for more() {
			list = append(list, deny("s3:GetObject", fmt.Sprintf("arn:aws:s3:::reports/secret-%02d/*", len(list)), `"Bool":{"aws:SecureTransport":"true"}`))
		}
		p := &policy.Policies{Identity: []*policy.Policy{compile(b, policy.Identity, list...)}}
		r := asks("s3:GetObject", object, keys("aws:SecureTransport", "true"))
		b.Run(fmt.Sprintf("statements=%d", len(list)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := policy.Evaluate(r, p); !d.Allowed {
					b.Fatal(d)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(list)), "ns/statement")
		})
	}
}

// BenchmarkPatterns matches patterns that make careless matchers slow with texts that nearly fit: the time for a character stays
// the same however long the text is.
func BenchmarkPatterns(b *testing.B) {
	for _, pattern := range []struct{ name, text string }{
		{"stars", strings.Repeat("*a", 50) + "*b"}, // *a*a*a…*b
		{"stars-inside", strings.Repeat("*a", 50) + "*b*"},
		{"letters", "*" + strings.Repeat("a", 100) + "b"}, // *aaa…b
		{"letters-inside", "*" + strings.Repeat("a", 100) + "b*"},
		{"questions", "*" + strings.Repeat("a?", 50) + "b"}, // *a?a?a?…b
		{"questions-inside", "*" + strings.Repeat("a?", 50) + "b*"},
	} {
		p := identity(b, allow("s3:*", "*", `"StringLike":{"s3:prefix":"`+pattern.text+`"}`))
		for _, length := range []int{1_000, 10_000, 100_000} {
			r := asks("s3:ListBucket", bucket, keys("s3:prefix", strings.Repeat("a", length)))
			b.Run(fmt.Sprintf("%s/characters=%d", pattern.name, length), func(b *testing.B) {
				for b.Loop() {
					if d := policy.Evaluate(r, p); d.Allowed {
						b.Fatal(d)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*length), "ns/char")
			})
		}
	}
}

func TestEvaluateAllocatesLittle(t *testing.T) { // not parallel: AllocsPerRun does not allow it
	r, p := podRequest(t)
	if got := testing.AllocsPerRun(100, func() { policy.Evaluate(r, p) }); got > 2 {
		t.Errorf("a decision makes %v allocations, want at most 2", got)
	}
}

func BenchmarkEvaluateTrust(b *testing.B) {
	trust := compile(b, policy.Trust, trusts(`"Federated":"`+issuer+`"`, "sts:AssumeRoleWithWebIdentity",
		`"StringEquals":{"oidc.example.com/id/1:aud":"sts.amazonaws.com","oidc.example.com/id/1:sub":"system:serviceaccount:shop:cart"}`))
	r := &policy.Request{
		Principal: webIdentity(), Action: "sts:AssumeRoleWithWebIdentity", Resource: roleARN,
		Context: keys("oidc.example.com/id/1:aud", "sts.amazonaws.com", "oidc.example.com/id/1:sub", "system:serviceaccount:shop:cart"),
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.EvaluateTrust(r, trust, nil); !d.Allowed {
			b.Fatal(d)
		}
	}
}

func BenchmarkContext(b *testing.B) {
	names := []string{"aws:CurrentTime", "aws:SecureTransport", "aws:SourceIp", "aws:PrincipalArn", "aws:PrincipalTag/kubernetes-namespace", "aws:userid"}
	b.ReportAllocs()
	for b.Loop() {
		var c policy.Context
		for _, name := range names {
			c.Set(name, "x")
		}
	}
}

func BenchmarkNew(b *testing.B) {
	doc := []byte(document(
		allow("s3:GetObject", "arn:aws:s3:::data/${aws:PrincipalTag/kubernetes-namespace}/*", `"Bool":{"aws:SecureTransport":"true"}`),
		deny("*", "*", `"DateLessThan":{"aws:TokenIssueTime":"2025-01-01T00:00:00Z"}`)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.New("p", policy.Identity, doc); err != nil {
			b.Fatal(err)
		}
	}
}
