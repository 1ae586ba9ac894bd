// Package cloudformation makes, changes and removes what a template describes, as far as pods' permissions need it: roles, policies,
// users and providers of IAM; pod identity associations, add-ons and access entries of EKS; and buckets. Everything else is refused by
// name before anything is made.
//
// A stack's operation is over when the call that began it returns. Each step of it is stored before it is taken and may be taken
// twice, so that what a crash interrupts is carried on by the next start, or by another replica: see [Service.Settle].
package cloudformation

import (
	"context"
	"log/slog"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// Config is what the service needs.
type Config struct {
	DB        *kv.DB           // required, not yet started
	Keyring   *keyring.Keyring // required; wraps parameters, outputs and what resources are made of
	Partition string           // aws, aws-cn, aws-us-gov, …
	// Invoke calls another service's operation with the permissions of a caller: see awsapi.Handler.Invoke. Required.
	Invoke func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error)
	// Buckets is a call of S3's CreateBucket, HeadBucket or DeleteBucket with the permissions of a caller, in the region of its request;
	// HeadBucket returns when the bucket was made. Refusals are as those of Invoke. Nil when the server keeps no buckets of its own:
	// templates that have some are refused.
	Buckets func(ctx context.Context, c *awsapi.Caller, operation, bucket string) (time.Time, error)
	Now     func() time.Time // time.Now when nil
	Log     *slog.Logger     // required
}

// Service is CloudFormation.
type Service struct {
	keyring   *keyring.Keyring
	partition string
	invoke    func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error)
	buckets   func(ctx context.Context, c *awsapi.Caller, operation, bucket string) (time.Time, error)
	now       func() time.Time
	log       *slog.Logger

	db         *kv.DB
	stacks     *kv.Table[stackRow]
	names      *kv.Table[nameRow]
	settings   *kv.Table[settings]
	resources  *kv.Table[resourceRow]
	events     *kv.Table[eventRow]
	exports    *kv.Table[exportRow]
	changeSets *kv.Table[changeSetRow]

	underWay       *kv.Index[stackRow]     // stacks with an operation, under "operation"
	changeSetsByID *kv.Index[changeSetRow] // by ARN
}

// New makes the service and its tables.
func New(c Config) *Service {
	s := &Service{
		keyring: c.Keyring, partition: c.Partition, invoke: c.Invoke, buckets: c.Buckets, now: c.Now, log: c.Log,
		db:         c.DB,
		stacks:     kv.NewTable[stackRow](c.DB, "cloudformation-stacks"),
		names:      kv.NewTable[nameRow](c.DB, "cloudformation-names"),
		settings:   kv.NewTable[settings](c.DB, "cloudformation-settings"),
		resources:  kv.NewTable[resourceRow](c.DB, "cloudformation-resources"),
		events:     kv.NewTable[eventRow](c.DB, "cloudformation-events"),
		exports:    kv.NewTable[exportRow](c.DB, "cloudformation-exports"),
		changeSets: kv.NewTable[changeSetRow](c.DB, "cloudformation-change-sets"),
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.underWay = kv.NewIndex(s.stacks, func(_ string, r *stackRow) []string {
		if r.Operation == nil {
			return nil
		}
		return []string{"operation"}
	})
	s.changeSetsByID = kv.NewIndex(s.changeSets, func(_ string, r *changeSetRow) []string { return []string{r.ID} })
	return s
}

// API returns the operations of the CloudFormation API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("cloudformation"), Operations: []awsapi.Operation{
		awsapi.Op("CreateStack", s.createStack, s.createStackAccess),
		awsapi.Op("UpdateStack", s.updateStack, s.updateStackAccess),
		awsapi.Op("DeleteStack", s.deleteStack, onStack[deleteStackIn](s, "DeleteStack")),
		awsapi.Op("UpdateTerminationProtection", s.updateProtection, onStack[updateProtectionIn](s, "UpdateTerminationProtection")),
		awsapi.Op("DescribeStacks", s.describeStacks, onStack[describeStacksIn](s, "DescribeStacks")),
		awsapi.Op("ListStacks", s.listStacks, onAll[listStacksIn](s, "ListStacks")),
		awsapi.Op("DescribeStackEvents", s.describeStackEvents, onStack[stackPageIn](s, "DescribeStackEvents")),
		awsapi.Op("DescribeStackResource", s.describeStackResource, onStack[stackResourceIn](s, "DescribeStackResource")),
		awsapi.Op("DescribeStackResources", s.describeStackResources, onStack[stackResourcesIn](s, "DescribeStackResources")),
		awsapi.Op("ListStackResources", s.listStackResources, onStack[stackPageIn](s, "ListStackResources")),
		awsapi.Op("GetTemplate", s.getTemplate, onStack[getTemplateIn](s, "GetTemplate")),
		awsapi.Op("GetTemplateSummary", s.getTemplateSummary, onStack[getTemplateSummaryIn](s, "GetTemplateSummary")),
		awsapi.Op("ValidateTemplate", s.validateTemplate, onAll[validateTemplateIn](s, "ValidateTemplate")),
		awsapi.Op("ListExports", s.listExports, onAll[listExportsIn](s, "ListExports")),
		awsapi.Op("ListImports", s.listImports, onAll[listImportsIn](s, "ListImports")),
		awsapi.Op("CreateChangeSet", s.createChangeSet, s.createChangeSetAccess),
		awsapi.Op("DescribeChangeSet", s.describeChangeSet, onChangeSet[describeChangeSetIn](s, "DescribeChangeSet")),
		awsapi.Op("ExecuteChangeSet", s.executeChangeSet, onChangeSet[executeChangeSetIn](s, "ExecuteChangeSet")),
		awsapi.Op("DeleteChangeSet", s.deleteChangeSet, onChangeSet[deleteChangeSetIn](s, "DeleteChangeSet")),
		awsapi.Op("ListChangeSets", s.listChangeSets, onStack[stackPageIn](s, "ListChangeSets")),
	}}
}
