package policy_test

import (
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

func TestMayAllowIgnoresConditionsAndDenials(t *testing.T) {
	t.Parallel()
	pods := &policy.Principal{Kind: policy.Service, Name: "pods.eks.amazonaws.com"}
	for _, e := range []struct {
		name, statements string
		assume, tag      bool
	}{
		{"both actions", `{"Effect":"Allow","Principal":{"Service":["pods.eks.amazonaws.com"]},"Action":["sts:AssumeRole","sts:TagSession"]}`,
			true, true},
		{"both actions on a condition", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},
			"Action":["sts:AssumeRole","sts:TagSession"],"Condition":{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"x"}}}`, true, true},
		{"two statements", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:AssumeRole"},
			{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:TagSession"}`, true, true},
		{"all of sts", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:*"}`, true, true},
		{"one action", `{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:AssumeRole"}`, true, false},
		{"another service", `{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}`,
			false, false},
		{"an account", `{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":["sts:AssumeRole","sts:TagSession"]}`, false, false},
		{"a denial", `{"Effect":"Deny","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}`,
			false, false},
	} {
		p, err := policy.New("trust", policy.Trust, []byte(`{"Version":"2012-10-17","Statement":[`+e.statements+`]}`))
		if err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if got := p.MayAllow(pods, "sts:AssumeRole"); got != e.assume {
			t.Errorf("%s: sts:AssumeRole = %v, want %v", e.name, got, e.assume)
		}
		if got := p.MayAllow(pods, "sts:TagSession"); got != e.tag {
			t.Errorf("%s: sts:TagSession = %v, want %v", e.name, got, e.tag)
		}
	}
}
