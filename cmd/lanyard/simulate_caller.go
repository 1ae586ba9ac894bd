package main

import (
	"fmt"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	simulatedAccount = "111122223333" // a dev server's first account, and the one of AWS's examples
	simulatedSession = "SESSION"      // a session's name where none is known
)

// parseCaller reads who asks, as `lanyard simulate --caller` takes it.
func parseCaller(text string) (policy.Principal, error) {
	switch {
	case text == "":
		text = "arn:aws:iam::" + simulatedAccount + ":role/simulated"
	case text == "anonymous":
		return policy.Principal{Kind: policy.Anonymous}, nil
	case !strings.HasPrefix(text, "arn:") && strings.Contains(text, ".amazonaws.com"):
		return policy.Principal{Kind: policy.Service, Name: text}, nil
	}
	a, err := arn.Parse(text)
	if err != nil {
		return policy.Principal{}, unknownCaller(text)
	}
	p := policy.Principal{Account: a.Account(), ARN: text}
	typ, name, _ := strings.Cut(a.Resource(), "/")
	switch what := a.Service() + " " + typ; {
	case !arn.ValidAccountID(a.Account()) || (name == "") != (what == "iam root"):
		return policy.Principal{}, unknownCaller(text)
	case what == "iam root":
		p.Kind = policy.Root
	case what == "iam user":
		p.Kind = policy.User
	case what == "iam role":
		p = roleSession(a, "")
	case what == "sts assumed-role" && strings.Count(name, "/") == 1:
		role, _, _ := strings.Cut(name, "/")
		p.Kind, p.RoleARN = policy.RoleSession, arn.New(a.Partition(), "iam", "", a.Account(), "role/"+role).String()
	case what == "sts federated-user":
		p.Kind = policy.Federated
	case what == "iam oidc-provider":
		return policy.Principal{Kind: policy.WebIdentity, Name: text}, nil
	default:
		return policy.Principal{}, unknownCaller(text)
	}
	return p, nil
}

func unknownCaller(text string) error {
	return withHint(fmt.Errorf("%q is nobody who makes requests", text),
		"give the ARN of a role, a role session (arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION), a user, root or an OIDC provider, "+
			"a service such as pods.eks.amazonaws.com, or anonymous")
}

// roleSession is a session of a role whose name is not known. The role's path is not in the session's ARN.
func roleSession(role arn.ARN, id string) policy.Principal {
	name := role.Resource()[strings.LastIndexByte(role.Resource(), '/')+1:]
	return policy.Principal{
		Kind: policy.RoleSession, Account: role.Account(), RoleARN: role.String(), ID: id,
		ARN: arn.New(role.Partition(), "sts", "", role.Account(), "assumed-role/"+name+"/"+simulatedSession).String(),
	}
}

// partition returns the partition that a caller is in: aws for services, which are in all.
func partition(p policy.Principal) string {
	for _, text := range []string{p.ARN, p.Name} {
		if a, err := arn.Parse(text); err == nil {
			return a.Partition()
		}
	}
	return "aws"
}

// callerContext returns the condition keys that follow from who asks (IAM User Guide, "AWS global condition context keys").
// Those that depend on more than the principal, such as aws:userid of a session, are not among them.
func callerContext(p policy.Principal) *policy.Context {
	c := new(policy.Context)
	c.Set("aws:ViaAWSService", "false")
	switch p.Kind {
	case policy.Anonymous:
		c.Set("aws:PrincipalType", "Anonymous")
		c.Set("aws:userid", "anonymous")
		return c
	case policy.WebIdentity:
		return c
	case policy.Service:
		c.Set("aws:PrincipalIsAWSService", "true")
		c.Set("aws:PrincipalServiceName", p.Name)
		c.SetList("aws:PrincipalServiceNamesList", []string{p.Name})
		return c
	case policy.Root:
		c.Set("aws:PrincipalType", "Account")
		c.Set("aws:userid", p.Account)
	case policy.User:
		c.Set("aws:PrincipalType", "User")
		c.Set("aws:username", p.ARN[strings.LastIndexByte(p.ARN, '/')+1:])
	case policy.RoleSession:
		c.Set("aws:PrincipalType", "AssumedRole")
		c.Set("aws:MultiFactorAuthPresent", "false")
	case policy.Federated:
		c.Set("aws:PrincipalType", "FederatedUser")
		c.Set("aws:MultiFactorAuthPresent", "false")
	}
	c.Set("aws:PrincipalIsAWSService", "false")
	c.Set("aws:PrincipalAccount", p.Account)
	c.Set("aws:PrincipalArn", p.ARN)
	if p.Kind == policy.RoleSession {
		c.Set("aws:PrincipalArn", p.RoleARN)
	}
	return c
}
