package cloudformation

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// resourceType says how the resources of a type are made, changed and removed. Each step is a call of an API for the stack's caller,
// and each may be repeated after a crash without harm.
type resourceType struct {
	name       string
	properties []property
	attributes []string // of Fn::GetAtt
	iam        bool     // it takes CAPABILITY_IAM
	// nameProperty is the property that names the resource, for types that AWS names when it is absent; nameLength bounds the name.
	nameProperty string
	nameLength   int
	lowerCase    bool // names that AWS gives are in lower case
	tagged       bool // it has a property Tags, onto which the stack's tags go
	bucket       bool // it takes Config.Buckets
	// made names the properties that make takes care of; set does the rest.
	made []string
	// make makes the resource by one call, so that an error of it means that there is none.
	make func(ctx context.Context, x *actor, in *intent) (*state, error)
	// find looks whether a call of make whose outcome is unknown has made the resource; nil when it has not. A nil find stands for
	// types whose make may simply be repeated.
	find func(ctx context.Context, x *actor, in *intent) (*state, error)
	// prepare notes in the intent what find needs to know from before the first call of make; nil for none.
	prepare func(ctx context.Context, x *actor, in *intent) error
	// set brings a resource from some properties to others: what differs is put, what is only in from is taken away. nil for types
	// of which nothing can be changed.
	set func(ctx context.Context, x *actor, s *state, from, to properties) error
	// remove removes the resource; that it is gone already is no error.
	remove func(ctx context.Context, x *actor, s *state) error
}

// state is a resource as it was made.
type state struct {
	Type              string
	Physical          string // the physical ID
	Reference         string // what Ref gives
	Attributes        map[string]string
	Properties        properties
	Requires          []string `json:",omitempty"` // logical IDs of the resources that it needs
	DeletionPolicy    string   `json:",omitempty"`
	UpdateReplacement string   `json:",omitempty"`
}

// intent is a step that was begun. It is stored before the step and removed after it.
type intent struct {
	Action     action
	Operation  string     // that began it
	Name       string     // that the resource gets; empty when the service names it
	Properties properties // that it gets
	Token      string     // for operations that take one
	Started    time.Time
	Known      []string `json:",omitempty"` // see resourceType.prepare
	Made       *state   `json:",omitempty"` // what make has made
	// Requires and the policies are those of the state that the step leads to.
	Requires          []string `json:",omitempty"`
	DeletionPolicy    string   `json:",omitempty"`
	UpdateReplacement string   `json:",omitempty"`
}

type action string

const (
	createAction action = "create"
	updateAction action = "update"
)

// actor makes the calls of a stack's operation, for the caller who began it.
type actor struct {
	invoke  func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error)
	buckets func(ctx context.Context, c *awsapi.Caller, operation, bucket string) (time.Time, error)
	caller  *awsapi.Caller
	stack   identity
}

// members are the input or the output of a call.
type members = map[string]any

func (x *actor) iam(ctx context.Context, operation string, in members) (members, error) {
	return x.invoke(ctx, x.caller, "iam", operation, in)
}

func (x *actor) eks(ctx context.Context, operation string, in members) (members, error) {
	return x.invoke(ctx, x.caller, "eks", operation, in)
}

// bucket is a call about a bucket; nil stands for a server that has none, which began the operation when it had.
func (x *actor) bucket(ctx context.Context, operation, name string) (time.Time, error) {
	if x.buckets == nil {
		return time.Time{}, invalid(noBuckets)
	}
	return x.buckets(ctx, x.caller, operation, name)
}

// quietly is for calls whose end is reached when what they are about is not there.
func quietly(_ members, err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

func isMissing(err error) bool {
	e, ok := errors.AsType[*awsapi.Error](err)
	return ok && slices.Contains([]string{"NoSuchEntity", "ResourceNotFoundException", "NotFoundException", "NoSuchBucket"}, e.Code)
}

// typeNamed finds a resource type; nil for those that are not served.
func typeNamed(name string) *resourceType {
	switch name {
	case "AWS::IAM::Role":
		return roleType()
	case "AWS::IAM::User":
		return userType()
	case "AWS::IAM::AccessKey":
		return accessKeyType()
	case "AWS::IAM::Policy":
		return policyType()
	case "AWS::IAM::RolePolicy":
		return rolePolicyType()
	case "AWS::IAM::ManagedPolicy":
		return managedPolicyType()
	case "AWS::IAM::InstanceProfile":
		return instanceProfileType()
	case "AWS::IAM::OIDCProvider":
		return oidcProviderType()
	case "AWS::EKS::PodIdentityAssociation":
		return associationType()
	case "AWS::EKS::Addon":
		return addonType()
	case "AWS::EKS::AccessEntry":
		return accessEntryType()
	case "AWS::S3::Bucket":
		return bucketType()
	}
	return nil
}

// in reads a member of an output by its path.
func in(out members, path ...string) string {
	for i, name := range path {
		switch v := out[name].(type) {
		case string:
			if i == len(path)-1 {
				return v
			}
		case members:
			out = v
			continue
		}
		return ""
	}
	return ""
}

// madeSince reports whether something that a Get operation shows was made after an intent began: then its own call has made it, for
// before that call it was not there. Services keep times to the second.
func madeSince(object any, begun *intent) bool {
	m, _ := object.(members)
	created, ok := m["CreateDate"].(float64)
	return ok && int64(created) >= begun.Started.Unix()
}
