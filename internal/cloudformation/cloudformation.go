// Package cloudformation makes, changes and removes what a template describes, as far as pods' permissions need it: roles, policies,
// users and providers of IAM, and pod identity associations of EKS. Everything else is refused by name before anything is made.
//
// A stack's operation is over when the call that began it returns. Each step of it is stored before it is taken and may be taken
// twice, so that what a crash interrupts is carried on by the next start, or by another replica: see [Service.Settle].
package cloudformation

import (
	"context"
	"errors"
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
	Now    func() time.Time // time.Now when nil
	Log    *slog.Logger     // required
}

// Service is CloudFormation.
type Service struct {
	keyring   *keyring.Keyring
	partition string
	invoke    func(ctx context.Context, c *awsapi.Caller, service, operation string, in map[string]any) (map[string]any, error)
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
		keyring: c.Keyring, partition: c.Partition, invoke: c.Invoke, now: c.Now, log: c.Log,
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

// settlePause is how long Start waits between its looks at what was left behind.
const settlePause = 5 * time.Second

// Start carries on, until ctx ends, what other replicas, or this one before it was started, left behind; and forgets stacks that were
// deleted long ago. The DB must have started.
func (s *Service) Start(ctx context.Context) {
	go func() {
		for {
			if err := s.Settle(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "stacks are left unsettled", slog.Any("err", err))
			}
			pause := time.NewTimer(settlePause)
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}()
}

// Settle finishes every operation whose replica has abandoned it, which is one that has not taken a step for lease, and forgets what
// was deleted more than 90 days ago. What another replica takes over meanwhile it leaves alone. The error joins those of the stacks
// that could not be settled; they remain for the next call.
func (s *Service) Settle(ctx context.Context) error {
	var left []string
	for key := range s.underWay.Get("operation") {
		left = append(left, key)
	}
	var failed []error
	for _, key := range left {
		if err := s.takeOver(ctx, key); err != nil {
			failed = append(failed, err)
		}
	}
	if err := s.forget(ctx); err != nil {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
