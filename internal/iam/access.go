package iam

import (
	"context"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// target is what an operation acts on, as policies see it. Something that does not exist has the ARN that its name
// would give it, so that only who may ask learns that it is missing.
type target struct {
	arn      string
	tags     []awsapi.Tag
	boundary string // of a user or role
}

// subject is an input that says what its operation acts on.
type subject interface {
	target(s *Service, c *awsapi.Caller) (target, error)
}

// conditional is an input that brings condition keys of its own.
type conditional interface {
	conditions(p *policy.Context, t target)
}

// on makes an operation that needs the permission iam:NAME on its subject.
func on[In, Out any, P interface {
	*In
	subject
}](s *Service, name string, call func(context.Context, *awsapi.Caller, *In) (*Out, error)) awsapi.Operation {
	return awsapi.Op(name, call, func(c *awsapi.Caller, in *In) ([]awsapi.Access, error) {
		a, err := s.access("iam:"+name, c, P(in))
		if err != nil {
			return nil, err
		}
		return []awsapi.Access{a}, nil
	})
}

// act is on for operations that answer nothing.
func act[In any, P interface {
	*In
	subject
}](s *Service, name string, call func(context.Context, *awsapi.Caller, *In) error) awsapi.Operation {
	return on[In, struct{}, P](s, name, func(ctx context.Context, c *awsapi.Caller, in *In) (*struct{}, error) {
		if err := call(ctx, c, in); err != nil {
			return nil, err
		}
		return &struct{}{}, nil
	})
}

func (s *Service) access(action string, c *awsapi.Caller, in subject) (awsapi.Access, error) {
	t, err := in.target(s, c)
	if err != nil {
		return awsapi.Access{}, err
	}
	return awsapi.Access{Action: action, Resource: t.arn, Context: func(p *policy.Context) {
		for _, tag := range t.tags {
			p.Set("aws:ResourceTag/"+tag.Key, tag.Value)
			p.Set("iam:ResourceTag/"+tag.Key, tag.Value)
		}
		if in, ok := in.(conditional); ok {
			in.conditions(p, t)
		}
	}}, nil
}

func (s *Service) userTarget(c *awsapi.Caller, name string) (target, error) {
	if r, ok := s.users.Get(nameKey(c.Account, name)); ok {
		return target{s.userARN(&r.entity), r.Tags, r.Boundary}, nil
	}
	return target{arn: s.iamARN(c.Account, "user/"+name)}, nil
}

func (s *Service) roleTarget(c *awsapi.Caller, name string) (target, error) {
	if r, ok := s.roles.Get(nameKey(c.Account, name)); ok {
		return target{s.roleARN(&r.entity), r.Tags, r.Boundary}, nil
	}
	return target{arn: s.iamARN(c.Account, "role/"+name)}, nil
}

func (s *Service) policyTarget(c *awsapi.Caller, policyARN string) (target, error) {
	m, err := s.findManaged(c.Account, policyARN)
	switch {
	case m != nil:
		return target{arn: m.ARN, tags: m.Tags}, nil
	case hasCode(err, "NoSuchEntity"):
		return target{arn: policyARN}, nil
	default:
		return target{}, err
	}
}

func (s *Service) profileTarget(c *awsapi.Caller, name string) (target, error) {
	if p, ok := s.profiles.Get(nameKey(c.Account, name)); ok {
		return target{arn: s.profileARN(p), tags: p.Tags}, nil
	}
	return target{arn: s.iamARN(c.Account, "instance-profile/"+name)}, nil
}

func (s *Service) providerTarget(c *awsapi.Caller, providerARN string) (target, error) {
	key, err := s.providerKey(c.Account, providerARN)
	if err != nil {
		return target{}, err
	}
	if p, ok := s.providers.Get(key); ok {
		return target{arn: s.providerARN(&p.provider).String(), tags: p.Tags}, nil
	}
	return target{arn: providerARN}, nil
}

// newTarget is something that is about to be made.
func (s *Service) newTarget(c *awsapi.Caller, kind, path, name string) (target, error) {
	return target{arn: s.iamARN(c.Account, kind+pathOrRoot(path)+name)}, nil
}

// listTarget is what a list operation acts on: everything below a path.
func (s *Service) listTarget(c *awsapi.Caller, kind, pathPrefix string) (target, error) {
	return target{arn: s.iamARN(c.Account, kind+pathOrRoot(pathPrefix))}, nil
}

func pathOrRoot(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

// boundaryOf sets the boundary that the user or role has, for the operations that change its permissions.
func boundaryOf(p *policy.Context, t target) {
	if t.boundary != "" {
		p.Set("iam:PermissionsBoundary", t.boundary)
	}
}
