package policy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// The tests of this file hold what findings claim against what Evaluate decides, for policies made by chance from pieces
// that are likely to touch each other.

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

// anyStatement returns a statement of an identity policy.
func anyStatement(r *rand.Rand) string {
	var conditions []string
	for range r.IntN(3) {
		conditions = append(conditions, pick(r,
			`"StringEquals":{"aws:username":"ann"}`, `"StringEquals":{"aws:username":["ann","bob"]}`, `"StringLike":{"AWS:username":"a*"}`,
			`"StringNotEquals":{"aws:username":"bob"}`, `"StringEqualsIfExists":{"aws:username":"eve"}`, `"Null":{"aws:username":"true"}`,
			`"Null":{"aws:username":"false"}`, `"NumericLessThan":{"s3:max-keys":[5,7]}`, `"NumericGreaterThanEquals":{"s3:max-keys":7}`,
			`"NumericGreaterThan":{"s3:max-keys":"6"}`, `"NumericEquals":{"s3:max-keys":["5","6.0"]}`, `"StringLike":{"s3:max-keys":"6"}`,
			`"Bool":{"aws:SecureTransport":"true"}`, `"Bool":{"aws:SecureTransport":["false"]}`, `"ForAllValues:StringEquals":{"aws:username":"ann"}`))
	}
	names := make(map[string]bool)
	var distinct []string
	for _, c := range conditions {
		if name, _, _ := strings.Cut(c, ":"); !names[name] {
			names[name] = true
			distinct = append(distinct, c)
		}
	}
	element := func(name string, not bool, values ...string) string {
		if not {
			name = "Not" + name
		}
		if r.IntN(3) == 0 {
			return fmt.Sprintf(`%q:[%q,%q]`, name, pick(r, values...), pick(r, values...))
		}
		return fmt.Sprintf(`%q:%q`, name, pick(r, values...))
	}
	return fmt.Sprintf(`{"Effect":%q,%s,%s%s}`, pick(r, "Allow", "Allow", "Deny"),
		element("Action", r.IntN(4) == 0, "*", "s3:*", "S3:G*", "s3:?et", "s3:Get", "s3:*et*", "s3:??*", "iam:Get", "*:Get"),
		element("Resource", r.IntN(4) == 0, "*", "arn:aws:s3:::a/*", "arn:aws:s3:::a/?", "arn:aws:s3:::a/*b*", "arn:aws:s3:::a/b",
			"arn:aws:s3:::*",
			"arn:aws:s3:::${aws:username}/*", "arn:aws:s3:::${aws:username}/b", "arn:aws:s3:*:*:?/*", "arn:aws:iam::111122223333:user/*"),
		when(distinct))
}

// questions are requests that tell the statements apart.
func questions() (all []*policy.Request) {
	for _, action := range []string{"s3:Get", "s3:Put", "s3:G", "s3:et", "iam:Get"} {
		for _, resource := range []string{
			"*", "arn:aws:s3:::a/b", "arn:aws:s3:::a/bb", "arn:aws:s3:::a/", "arn:aws:s3:::ann/b", "arn:aws:s3:::z", "arn:aws:iam::111122223333:user/a",
		} {
			for _, user := range []string{"", "ann", "bob", "a", "eve", "b*"} {
				for _, keys := range []string{"", "5", "6", "6.5", "7"} {
					c := new(policy.Context)
					c.Set("aws:SecureTransport", fmt.Sprint(len(keys) != 1))
					if user != "" {
						c.Set("aws:username", user)
					}
					if keys != "" {
						c.Set("s3:max-keys", keys)
					}
					all = append(all, asks(action, resource, c))
				}
			}
		}
	}
	return all
}

func TestFindingsAboutStatementsAreTrue(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	requests := questions()
	seen := make(map[string]int)
	for range 3000 {
		statements := []string{anyStatement(r), anyStatement(r)}
		text := document(statements...)
		for _, f := range policy.Findings([]byte(text), policy.Identity) {
			var changed string // the document without what the finding says to have no effect
			switch f.ID {
			case "covered-statement", "denied-allow", "contradiction":
				changed = document(statements[1-f.Statement])
			default:
				continue
			}
			if seen[f.ID]++; seen[f.ID] > 30 {
				continue
			}
			before := &policy.Policies{Identity: []*policy.Policy{compileDocument(t, policy.Identity, text)}}
			after := &policy.Policies{Identity: []*policy.Policy{compileDocument(t, policy.Identity, changed)}}
			for _, q := range requests {
				if got := policy.Evaluate(q, before).Allowed; got != policy.Evaluate(q, after).Allowed {
					t.Fatalf("%s\nin %s\nbut %s on %s with %v is allowed only if it stays or goes: %v",
						listing([]policy.Finding{f}), text, q.Action, q.Resource, q.Context, got)
				}
			}
		}
	}
	for _, id := range []string{"covered-statement", "denied-allow", "contradiction"} {
		if seen[id] < 30 {
			t.Errorf("only %d findings of %s were tried", seen[id], id)
		}
	}
}

// A trust policy that lets in a service account which nobody named has a high finding.
func TestNoStrangerGetsInWithoutAHighFinding(t *testing.T) {
	t.Parallel()
	const provider = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.us-west-2.amazonaws.com/id/ABC"
	const sub, aud = "oidc.eks.us-west-2.amazonaws.com/id/ABC:sub", "oidc.eks.us-west-2.amazonaws.com/id/ABC:aud"
	r := rand.New(rand.NewPCG(3, 4))
	in, fine := 0, 0
	for range 2000 {
		names := make(map[string]bool)
		var conditions []string
		for range 1 + r.IntN(3) {
			operator := pick(r, "", "", "ForAllValues:", "ForAnyValue:") +
				pick(r, "StringEquals", "StringLike", "StringNotEquals", "StringNotLike", "StringEqualsIgnoreCase", "ArnLike") +
				pick(r, "", "", "IfExists")
			if r.IntN(8) == 0 {
				operator = "Null"
			}
			value := pick(r, "system:serviceaccount:shop:orders", "system:serviceaccount:*:orders", "system:serviceaccount:shop:*", "*",
				"system:*", "?ystem:serviceaccount:shop:orders", "${*}")
			switch {
			case operator == "Null":
				value = pick(r, "true", "false")
			case strings.Contains(operator, "Arn"):
				value = "*"
			}
			if !names[operator] {
				names[operator] = true
				conditions = append(conditions, fmt.Sprintf(`%q:{%q:%q}`, operator, pick(r, sub, sub, sub, aud, "other.example.com:sub"), value))
			}
		}
		statements := []string{trusts(`"Federated":"`+provider+`"`, pick(r, "sts:AssumeRoleWithWebIdentity", "sts:*", "sts:assumerole*identity"), conditions...)}
		if r.IntN(3) == 0 {
			statements = append(statements, distrusts(pick(r, `"Federated":"`+provider+`"`, `"AWS":"*"`, `"Service":"ec2.amazonaws.com"`),
				pick(r, "sts:AssumeRoleWithWebIdentity", "sts:AssumeRole", "sts:*"),
				fmt.Sprintf(`%q:{%q:%q}`, pick(r, "StringNotEquals", "StringNotLike", "ForAnyValue:StringNotLike", "StringEquals"), pick(r, sub, aud),
					pick(r, "system:serviceaccount:shop:orders", "system:serviceaccount:shop:*", "system:*"))))
		}
		text := document(statements...)
		trust := compileDocument(t, policy.Trust, text)
		stranger := &policy.Request{
			Principal: policy.Principal{Kind: policy.WebIdentity, Name: provider},
			Action:    "sts:AssumeRoleWithWebIdentity", Resource: "arn:aws:iam::111122223333:role/app",
			Context: keys(sub, "system:serviceaccount:strange:stranger", aud, "sts.amazonaws.com"),
		}
		high := worst(text, policy.Trust, policy.High)
		if policy.EvaluateTrust(stranger, trust, nil).Allowed {
			in++
			if len(high) == 0 {
				t.Fatalf("%s\nlets in a stranger without a high finding", text)
			}
		} else if len(high) == 0 {
			fine++
		}
	}
	if in < 100 || fine < 100 {
		t.Errorf("of the policies %d let in a stranger, and %d are fine", in, fine)
	}
}
