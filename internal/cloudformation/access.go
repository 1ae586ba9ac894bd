package cloudformation

import (
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// named is an input that names a stack, by its name or its ID.
type named interface{ stackName() string }

// onStack makes the access function of an operation on one stack, or on all when none is named. A stack that is not there has the
// ARN that its name would give it, so that only who may ask learns that it is missing (Service Authorization Reference, "Actions,
// resources, and condition keys for AWS CloudFormation").
func onStack[In any, P interface {
	*In
	named
}](s *Service, name string) func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
	return func(c *awsapi.Caller, in *In) ([]awsapi.Access, error) {
		return []awsapi.Access{s.access(c, name, P(in).stackName(), nil, "")}, nil
	}
}

// onAll makes the access function of an operation on no particular stack.
func onAll[In any](_ *Service, name string) func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
	return func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
		return []awsapi.Access{{Action: "cloudformation:" + name, Resource: "*"}}, nil
	}
}

// onChangeSet is onStack for change sets, which may be named by their own ID alone.
func onChangeSet[In any, P interface {
	*In
	changeSetNamed
}](s *Service, name string) func(*awsapi.Caller, *In) ([]awsapi.Access, error) {
	return func(c *awsapi.Caller, in *In) ([]awsapi.Access, error) {
		stack, changeSet := P(in).changeSetName()
		if stack == "" {
			if st, _, ok := s.findChangeSet(c, "", changeSet); ok {
				stack = st.ARN()
			}
		}
		return []awsapi.Access{s.access(c, name, stack, nil, changeSet)}, nil
	}
}

func (s *Service) access(c *awsapi.Caller, operation, stack string, tags []tag, changeSet string) awsapi.Access {
	a := awsapi.Access{Action: "cloudformation:" + operation, Resource: stack}
	var own []tag
	if st, ok := s.findStack(c, stack); ok {
		a.Resource = st.ARN()
		if row, ok := s.settings.Get(generationKey(stackKey(st.identity), max(st.Current, st.Next))); ok {
			own = row.Tags
		}
	} else if stack == "" {
		a.Resource = identity{s.partition, c.Region, c.Account, "*", "*"}.ARN()
	} else if !isARN(stack) {
		a.Resource = identity{s.partition, c.Region, c.Account, stack, "*"}.ARN()
	}
	a.Context = func(p *policy.Context) {
		for _, t := range own {
			p.Set("aws:ResourceTag/"+t.Key, t.Value)
		}
		if changeSet != "" && !isARN(changeSet) {
			p.Set("cloudformation:ChangeSetName", changeSet)
		}
		if len(tags) == 0 {
			return
		}
		keys := make([]string, len(tags))
		for i, t := range tags {
			keys[i] = t.Key
			p.Set("aws:RequestTag/"+t.Key, t.Value)
		}
		p.SetList("aws:TagKeys", keys)
	}
	return a
}

func isARN(text string) bool { return len(text) > 4 && text[:4] == "arn:" }

func (s *Service) createStackAccess(c *awsapi.Caller, in *createStackIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.access(c, "CreateStack", in.StackName, in.Tags, "")}, nil
}

func (s *Service) updateStackAccess(c *awsapi.Caller, in *updateStackIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.access(c, "UpdateStack", in.StackName, in.Tags, "")}, nil
}

func (s *Service) createChangeSetAccess(c *awsapi.Caller, in *createChangeSetIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.access(c, "CreateChangeSet", in.StackName, in.Tags, in.ChangeSetName)}, nil
}
