package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

func TestWhoAsks(t *testing.T) {
	t.Parallel()
	const account = "111122223333"
	for text, want := range map[string]policy.Principal{
		"": {
			Kind: policy.RoleSession, Account: account, ARN: "arn:aws:sts::111122223333:assumed-role/simulated/SESSION",
			RoleARN: "arn:aws:iam::111122223333:role/simulated",
		},
		"arn:aws:iam::111122223333:role/team/web": {
			Kind: policy.RoleSession, Account: account, ARN: "arn:aws:sts::111122223333:assumed-role/web/SESSION",
			RoleARN: "arn:aws:iam::111122223333:role/team/web",
		},
		"arn:aws-cn:sts::111122223333:assumed-role/web/pod": {
			Kind: policy.RoleSession, Account: account, ARN: "arn:aws-cn:sts::111122223333:assumed-role/web/pod",
			RoleARN: "arn:aws-cn:iam::111122223333:role/web",
		},
		"arn:aws:iam::111122223333:user/team/ann": {Kind: policy.User, Account: account, ARN: "arn:aws:iam::111122223333:user/team/ann"},
		"arn:aws:iam::111122223333:root":          {Kind: policy.Root, Account: account, ARN: "arn:aws:iam::111122223333:root"},
		"arn:aws:sts::111122223333:federated-user/bob": {
			Kind: policy.Federated, Account: account, ARN: "arn:aws:sts::111122223333:federated-user/bob",
		},
		"arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/A": {
			Kind: policy.WebIdentity, Name: "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/A",
		},
		"pods.eks.amazonaws.com":  {Kind: policy.Service, Name: "pods.eks.amazonaws.com"},
		"ec2.cn.amazonaws.com.cn": {Kind: policy.Service, Name: "ec2.cn.amazonaws.com.cn"},
		"anonymous":               {Kind: policy.Anonymous},
	} {
		got, err := parseCaller(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{
		"ann", "arn:aws:iam::111122223333:policy/x", "arn:aws:iam::aws:role/x", "arn:aws:iam::111122223333:role/", "arn:aws:iam::111122223333:root/x",
		"arn:aws:sts::111122223333:assumed-role/web", "arn:aws:sts::111122223333:assumed-role/web/a/b", "arn:aws:s3:::bucket", "arn:aws:iam::1:user/ann",
	} {
		if got, err := parseCaller(text); err == nil || hint(err) == "" {
			t.Errorf("%q: got %+v, %v; want an error with a hint", text, got, err)
		}
	}
}

func TestWhatTheCallerTells(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		caller string
		want   map[string]string // no value: the key is absent
	}{
		{"arn:aws:iam::111122223333:role/team/web", map[string]string{
			"aws:PrincipalArn": "arn:aws:iam::111122223333:role/team/web", "aws:PrincipalAccount": "111122223333", "aws:PrincipalType": "AssumedRole",
			"aws:PrincipalIsAWSService": "false", "aws:username": "", "aws:userid": "",
		}},
		{"arn:aws:iam::111122223333:user/team/ann", map[string]string{
			"aws:PrincipalArn": "arn:aws:iam::111122223333:user/team/ann", "aws:username": "ann", "aws:PrincipalType": "User", "aws:MultiFactorAuthPresent": "",
		}},
		{"arn:aws:iam::111122223333:root", map[string]string{"aws:PrincipalType": "Account", "aws:userid": "111122223333"}},
		{"pods.eks.amazonaws.com", map[string]string{
			"aws:PrincipalIsAWSService": "true", "aws:PrincipalServiceName": "pods.eks.amazonaws.com", "aws:PrincipalArn": "", "aws:PrincipalAccount": "",
		}},
		{"arn:aws:iam::111122223333:oidc-provider/oidc.example.com", map[string]string{"aws:PrincipalArn": "", "aws:PrincipalType": ""}},
		{"anonymous", map[string]string{"aws:PrincipalType": "Anonymous", "aws:PrincipalAccount": ""}},
	} {
		p, err := parseCaller(c.caller)
		if err != nil {
			t.Fatal(err)
		}
		keys := callerContext(p)
		for key, want := range c.want {
			got, ok := keys.Get(key)
			if ok != (want != "") || ok && got[0] != want {
				t.Errorf("%s has %s %q, want %q", c.caller, key, got, want)
			}
		}
	}
}

func TestConditionKeysOfTheCommandLine(t *testing.T) {
	t.Parallel()
	entries, err := parseContext([]string{"aws:TagKeys=team", "aws:SourceIp=192.0.2.1", "AWS:tagkeys=stage", "aws:RequestTag/a=b=c", "aws:RequestTag/empty="})
	if err != nil {
		t.Fatal(err)
	}
	c := new(policy.Context)
	requestTime(c, time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC))
	setContext(c, entries)
	for key, want := range map[string][]string{
		"aws:TagKeys": {"team", "stage"}, "aws:SourceIp": {"192.0.2.1"}, "aws:RequestTag/a": {"b=c"}, "aws:RequestTag/empty": {""},
		"aws:CurrentTime": {"2025-01-02T03:04:05Z"}, "aws:EpochTime": {"1735787045"},
	} {
		if got, _ := c.Get(key); !cmp.Equal(got, want) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, bad := range []string{"", "aws:SourceIp", "SourceIp=x", "=x"} {
		if got, err := parseContext([]string{bad}); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
