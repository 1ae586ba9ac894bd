package cloudformation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// The statuses of change sets and of their execution.
const (
	executionAvailable   = "AVAILABLE"
	executionUnavailable = "UNAVAILABLE"
	executionComplete    = "EXECUTE_COMPLETE"
	executionObsolete    = "OBSOLETE"
	changeSetFailed      = "FAILED"
	nothingChanges       = "The submitted information didn't contain changes. Submit different information to create a change set."
)

// maxChangeSets is how many change sets a stack may have: Lanyard's own bound.
const maxChangeSets = 100

// execution is whether a change set can be executed: not when its stack has changed since.
func (set *changeSetRow) execution(st *stackRow) string {
	if set.Execution == executionAvailable && set.Base != st.Last {
		return executionObsolete
	}
	return set.Execution
}

// changeSetNamed is an input that names a change set: by its ID, or by its name and its stack.
type changeSetNamed interface {
	changeSetName() (stack, changeSet string)
}

func noSuchChangeSet(name string) error {
	return awsapi.Errorf("ChangeSetNotFound", "ChangeSet [%s] does not exist", clip(name))
}

// findChangeSet finds a change set and its stack.
func (s *Service) findChangeSet(c *awsapi.Caller, stack, nameOrID string) (*stackRow, *changeSetRow, bool) {
	if !isARN(nameOrID) {
		st, ok := s.findStack(c, stack)
		if !ok {
			return nil, nil, false
		}
		set, ok := s.changeSets.Get(stackKey(st.identity) + "/" + nameOrID)
		return st, set, ok
	}
	key, set, ok := s.changeSetsByID.First(nameOrID)
	if !ok || !strings.HasPrefix(key, scopeOf(c)) {
		return nil, nil, false
	}
	st, ok := s.stacks.Get(key[:strings.LastIndexByte(key, '/')])
	return st, set, ok
}

type createChangeSetIn struct {
	StackName               string
	ChangeSetName           string
	ChangeSetType           string
	TemplateBody            string
	UsePreviousTemplate     bool
	Parameters              []parameterIn
	Capabilities            []string
	Tags                    []tag
	Description             string
	ClientToken             string
	NotificationARNs        []string
	OnStackFailure          string
	IncludeNestedStacks     bool
	ImportExistingResources bool
}

type createChangeSetOut struct{ Id, StackId string }

// createChangeSet finds out what a create or an update would do. Where it would do nothing, the change set has failed.
func (s *Service) createChangeSet(ctx context.Context, c *awsapi.Caller, in *createChangeSetIn) (*createChangeSetOut, error) {
	kind := cmp.Or(in.ChangeSetType, "UPDATE")
	switch {
	case kind == "IMPORT" || in.ImportExistingResources:
		return nil, invalid("This server does not import existing resources.")
	case in.OnStackFailure == "DELETE" && kind != "CREATE":
		return nil, invalid("OnStackFailure of DELETE can only be specified for a change set of type CREATE.")
	}
	if err := noNotifications(in.NotificationARNs); err != nil {
		return nil, err
	}
	st, there := s.findStack(c, in.StackName)
	there = there && st.Status != deleteComplete
	switch {
	case !there && kind == "UPDATE":
		return nil, invalid("Stack [%s] does not exist", clip(in.StackName))
	case there && kind == "CREATE" && st.Status != reviewInProgress:
		return nil, invalid("Stack [%s] already exists and cannot be created again with the changeSet [%s].", st.Name, in.ChangeSetName)
	case there && kind == "UPDATE":
		if err := st.updatable(true); err != nil { // ExecuteChangeSet says whether it may be rolled back
			return nil, err
		}
	case !there:
		if err := checkStackName(in.StackName); err != nil {
			return nil, err
		}
		st = &stackRow{identity: s.newIdentity(c, in.StackName), Created: s.now().UTC()}
	}
	if set, ok := s.changeSets.Get(stackKey(st.identity) + "/" + in.ChangeSetName); ok {
		if in.ClientToken != "" && set.Token == in.ClientToken {
			return &createChangeSetOut{set.ID, st.ARN()}, nil
		}
		return nil, awsapi.Errorf("AlreadyExistsException", "ChangeSet [%s] already exists", in.ChangeSetName)
	}
	var current *target
	if kind == "UPDATE" {
		var err error
		if current, err = s.target(stackKey(st.identity), st.latest()); err != nil {
			return nil, err
		}
	}
	p, err := s.prepare(st, current, request{
		template: in.TemplateBody, previous: in.UsePreviousTemplate, parameters: in.Parameters, capabilities: in.Capabilities, tags: in.Tags,
	})
	if err != nil {
		return nil, err
	}
	set := &changeSetRow{
		ID:   arn.New(s.partition, "cloudformation", c.Region, c.Account, "changeSet/"+in.ChangeSetName+"/"+awsapi.NewUUID()).String(),
		Name: in.ChangeSetName, Type: kind,
		Description: in.Description, Created: s.now().UTC(), Status: createComplete, Execution: executionAvailable,
		OnStackFailure: in.OnStackFailure, IncludeNested: in.IncludeNestedStacks, Token: in.ClientToken, Base: st.Last, Settings: p.settings,
		Changes: p.changes(),
	}
	if !p.changed {
		set.Status, set.Reason, set.Execution = changeSetFailed, nothingChanges, executionUnavailable
	}
	key := stackKey(st.identity) + "/" + set.Name
	if set.Settings.Sealed, err = s.seal(key, settingsSecrets{Parameters: p.parameters}); err != nil {
		return nil, err
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if !there {
			next := st.clone()
			if err := s.takeName(tx, next); err != nil {
				return err
			}
			next.Description = p.template.description
			s.setStatus(tx, next, reviewInProgress, userInitiated)
			s.stacks.Write(tx, stackKey(st.identity), next)
		} else if have, ok := s.stacks.Read(tx, stackKey(st.identity)); !ok || have.Last != st.Last {
			return invalid("Stack [%s] was changed meanwhile.", st.Name)
		}
		return s.addChangeSet(tx, key, set)
	})
	if err != nil {
		return nil, err
	}
	return &createChangeSetOut{set.ID, st.ARN()}, nil
}

// addChangeSet stores a change set as part of tx. Where a stack has the most that it may have, the oldest without changes makes room: nobody can
// execute it, and `aws cloudformation deploy` leaves one behind each time that it finds nothing to do.
func (s *Service) addChangeSet(tx *kv.Tx, key string, set *changeSetRow) error {
	if _, taken := s.changeSets.Read(tx, key); taken {
		return awsapi.Errorf("AlreadyExistsException", "ChangeSet [%s] already exists", set.Name)
	}
	n, idle, made := 0, "", time.Time{}
	for at, have := range s.changeSets.Scan(strings.TrimSuffix(key, set.Name), "") {
		n++
		if have.Status == changeSetFailed && (idle == "" || have.Created.Before(made)) {
			idle, made = at, have.Created
		}
	}
	switch {
	case n < maxChangeSets:
	case idle == "":
		return awsapi.Errorf("LimitExceededException", "Limit exceeded: a stack has at most %d change sets.", maxChangeSets)
	default:
		s.changeSets.Remove(tx, idle)
	}
	s.changeSets.Write(tx, key, set)
	return nil
}

// changes describes a plan.
func (p *prepared) changes() []changeRecord {
	var records []changeRecord
	for _, step := range p.plan.steps {
		if r, ok := step.record(); ok {
			records = append(records, r)
		}
	}
	return records
}

func (step *planned) record() (changeRecord, bool) {
	r := changeRecord{Logical: step.id}
	if step.have != nil {
		r.Physical, r.Type = step.have.row.Physical, step.have.row.Type
	}
	if step.want != nil {
		r.Type = step.want.typ.name
	}
	switch step.change {
	case noChange:
		return r, false
	case addChange:
		r.Action, r.Physical = "Add", ""
		return r, true
	case removeChange:
		r.Action, r.Policy = "Remove", cmp.Or(step.have.State.DeletionPolicy, policyDelete)
		if r.Policy == policyRetainExceptOnCreate {
			r.Policy = policyRetain
		}
		return r, true
	}
	r.Action, r.Replacement = "Modify", "False"
	detail := func(attribute, name, recreation string) {
		d := changeDetail{Attribute: attribute, Name: name, Recreation: recreation, Evaluation: "Static", Source: "DirectModification"}
		if name != "" && hasUnknown(step.want.properties[name]) {
			d.Evaluation, d.Source = "Dynamic", "ResourceAttribute"
			if recreation == "Always" && r.Replacement == "False" {
				r.Replacement = "Conditional"
			}
		} else if recreation == "Always" {
			r.Replacement = "True"
		}
		if !slices.Contains(r.Scope, attribute) {
			r.Scope = append(r.Scope, attribute)
		}
		r.Details = append(r.Details, d)
	}
	for _, name := range step.replaces {
		detail("Properties", name, "Always")
	}
	for _, name := range step.modifies {
		if name == "Tags" {
			detail("Tags", "", "Never")
			continue
		}
		detail("Properties", name, "Never")
	}
	have := step.have.State
	if have.DeletionPolicy != step.want.deletionPolicy {
		detail("DeletionPolicy", "", "Never")
	}
	if have.UpdateReplacement != step.want.updateReplacement {
		detail("UpdateReplacePolicy", "", "Never")
	}
	if r.Replacement == "True" {
		r.Policy = "ReplaceAnd" + cmp.Or(step.want.updateReplacement, policyDelete)
	}
	if len(r.Details) == 0 {
		detail("Metadata", "", "Never") // only what the resource waits for: AWS has no attribute for that
	}
	return r, true
}

type describeChangeSetIn struct{ ChangeSetName, StackName, NextToken string }

func (in *describeChangeSetIn) changeSetName() (string, string) {
	return in.StackName, in.ChangeSetName
}

type targetShape struct{ Attribute, Name, RequiresRecreation string }

type detailShape struct {
	Target        targetShape
	Evaluation    string
	ChangeSource  string
	CausingEntity string
}

type resourceChangeShape struct {
	PolicyAction       string
	Action             string
	LogicalResourceId  string
	PhysicalResourceId string
	ResourceType       string
	Replacement        string
	Scope              []string
	Details            []detailShape
}

type changeShape struct {
	Type           string
	ResourceChange resourceChangeShape
}

type describeChangeSetOut struct {
	ChangeSetName       string
	ChangeSetId         string
	StackId             string
	StackName           string
	Description         string
	Parameters          []parameterShape
	CreationTime        time.Time
	ExecutionStatus     string
	Status              string
	StatusReason        string
	NotificationARNs    []string
	Capabilities        []string
	Tags                []tag
	Changes             []changeShape
	NextToken           string
	IncludeNestedStacks bool
	OnStackFailure      string
}

func (s *Service) describeChangeSet(_ context.Context, c *awsapi.Caller, in *describeChangeSetIn) (*describeChangeSetOut, error) {
	st, set, ok := s.findChangeSet(c, in.StackName, in.ChangeSetName)
	if !ok {
		return nil, noSuchChangeSet(in.ChangeSetName)
	}
	out := &describeChangeSetOut{
		ChangeSetName: set.Name, ChangeSetId: set.ID, StackId: st.ARN(), StackName: st.Name, Description: set.Description,
		CreationTime: set.Created, ExecutionStatus: set.execution(st), Status: set.Status, StatusReason: set.Reason, NotificationARNs: []string{},
		Capabilities: append([]string{}, set.Settings.Capabilities...), Tags: append([]tag{}, set.Settings.Tags...), Changes: []changeShape{},
		IncludeNestedStacks: set.IncludeNested, OnStackFailure: set.OnStackFailure,
	}
	t, secrets, err := s.changeSetTarget(stackKey(st.identity), set)
	if err != nil {
		return nil, err
	}
	out.Parameters = t.parameterShapes(secrets.Parameters)
	changes, next, err := page(set.Changes, func(r changeRecord) string { return r.Logical }, in.NextToken)
	if err != nil {
		return nil, err
	}
	out.NextToken = next
	for _, r := range changes {
		shape := resourceChangeShape{
			PolicyAction: r.Policy, Action: r.Action, LogicalResourceId: r.Logical, PhysicalResourceId: r.Physical, ResourceType: r.Type,
			Replacement: r.Replacement, Scope: append([]string{}, r.Scope...), Details: []detailShape{},
		}
		for _, d := range r.Details {
			shape.Details = append(shape.Details, detailShape{
				targetShape{d.Attribute, d.Name, d.Recreation}, d.Evaluation, d.Source, d.Cause,
			})
		}
		out.Changes = append(out.Changes, changeShape{"Resource", shape})
	}
	return out, nil
}

func (s *Service) changeSetTarget(stack string, set *changeSetRow) (*template, *settingsSecrets, error) {
	secrets := new(settingsSecrets)
	if err := s.open(stack+"/"+set.Name, set.Settings.Sealed, secrets); err != nil {
		return nil, nil, err
	}
	t, err := parseTemplate(set.Settings.Template)
	if err != nil {
		return nil, nil, fmt.Errorf("read a template that was taken before: %w", err)
	}
	return t, secrets, nil
}

type executeChangeSetIn struct {
	ChangeSetName        string
	StackName            string
	ClientRequestToken   string
	DisableRollback      *bool
	RetainExceptOnCreate bool
}

func (in *executeChangeSetIn) changeSetName() (string, string) { return in.StackName, in.ChangeSetName }

// executeChangeSet does what a change set has found, and removes the stack's others.
func (s *Service) executeChangeSet(ctx context.Context, c *awsapi.Caller, in *executeChangeSetIn) (*struct{}, error) {
	st, set, ok := s.findChangeSet(c, in.StackName, in.ChangeSetName)
	if !ok {
		return nil, noSuchChangeSet(in.ChangeSetName)
	}
	key := stackKey(st.identity)
	if again, err := st.repeated(in.ClientRequestToken, kindOf(set)); again || err != nil {
		return &struct{}{}, err
	}
	refused := func(execution string) error {
		return awsapi.Errorf("InvalidChangeSetStatus", "ChangeSet [%s] cannot be executed in its current execution status of [%s]", set.ID, execution)
	}
	if execution := set.execution(st); execution != executionAvailable {
		return nil, refused(execution)
	}
	t, secrets, err := s.changeSetTarget(key, set)
	if err != nil {
		return nil, err
	}
	p := &prepared{template: t, settings: set.Settings, parameters: secrets.Parameters}
	also := func(tx *kv.Tx, st *stackRow) error {
		have, ok := s.changeSets.Read(tx, key+"/"+set.Name)
		if !ok || have.ID != set.ID || have.Execution != executionAvailable || have.Base != st.Last-1 { // its settings are the last by now
			return refused(executionObsolete)
		}
		for at := range s.changeSets.Scan(key+"/", "") {
			if at != key+"/"+set.Name {
				s.changeSets.Remove(tx, at)
			}
		}
		next := *have
		next.Execution = executionComplete
		s.changeSets.Write(tx, key+"/"+set.Name, &next)
		st.ChangeSet = set.ID
		st.OnFailure = set.OnStackFailure
		return nil
	}
	if set.Type == "CREATE" {
		err = s.executeCreate(ctx, c, st, p, in, also)
	} else {
		keep := set.OnStackFailure == "DO_NOTHING" || in.DisableRollback != nil && *in.DisableRollback
		_, err = s.beginUpdate(ctx, c, st, p, keep, in.RetainExceptOnCreate, in.ClientRequestToken, also)
	}
	if err != nil {
		return nil, err
	}
	return &struct{}{}, nil
}

func kindOf(set *changeSetRow) string {
	if set.Type == "CREATE" {
		return createKind
	}
	return updateKind
}

func (s *Service) executeCreate(ctx context.Context, c *awsapi.Caller, st *stackRow, p *prepared, in *executeChangeSetIn,
	also func(tx *kv.Tx, st *stackRow) error) error {
	var begun *stackRow
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		have, ok := s.stacks.Read(tx, stackKey(st.identity))
		if !ok || have.Status != reviewInProgress {
			return invalid("Stack [%s] cannot be created again.", st.Name)
		}
		begun = have.clone()
		begun.DisableRollback = in.DisableRollback != nil && *in.DisableRollback
		begun.RetainExceptOnCreate = in.RetainExceptOnCreate
		if err := s.addGeneration(tx, begun, p); err != nil {
			return err
		}
		if err := also(tx, begun); err != nil {
			return err
		}
		s.begin(tx, begun, c, createInProgress, createKind, in.ClientRequestToken, userInitiated)
		return nil
	})
	if err != nil {
		return err
	}
	return s.carryOut(ctx, begun)
}

type deleteChangeSetIn struct{ ChangeSetName, StackName string }

func (in *deleteChangeSetIn) changeSetName() (string, string) { return in.StackName, in.ChangeSetName }

// deleteChangeSet succeeds for a change set that does not exist, as in AWS.
func (s *Service) deleteChangeSet(ctx context.Context, c *awsapi.Caller, in *deleteChangeSetIn) (*struct{}, error) {
	st, set, ok := s.findChangeSet(c, in.StackName, in.ChangeSetName)
	if !ok {
		return &struct{}{}, nil
	}
	return &struct{}{}, s.db.Update(ctx, func(tx *kv.Tx) error {
		s.changeSets.Remove(tx, stackKey(st.identity)+"/"+set.Name)
		return nil
	})
}

type changeSetSummary struct {
	StackId             string
	StackName           string
	ChangeSetId         string
	ChangeSetName       string
	ExecutionStatus     string
	Status              string
	StatusReason        string
	CreationTime        time.Time
	Description         string
	IncludeNestedStacks bool
}

type listChangeSetsOut struct {
	Summaries []changeSetSummary
	NextToken string
}

func (s *Service) listChangeSets(_ context.Context, c *awsapi.Caller, in *stackPageIn) (*listChangeSetsOut, error) {
	st, ok := s.findStack(c, in.StackName)
	if !ok {
		return nil, invalid("Stack [%s] does not exist", clip(in.StackName))
	}
	var all []changeSetSummary
	for _, set := range s.changeSets.Scan(stackKey(st.identity)+"/", "") {
		all = append(all, changeSetSummary{
			StackId: st.ARN(), StackName: st.Name, ChangeSetId: set.ID, ChangeSetName: set.Name, ExecutionStatus: set.execution(st),
			Status: set.Status, StatusReason: set.Reason, CreationTime: set.Created, Description: set.Description, IncludeNestedStacks: set.IncludeNested,
		})
	}
	summaries, next, err := page(all, func(c changeSetSummary) string { return c.ChangeSetName }, in.NextToken)
	return &listChangeSetsOut{summaries, next}, err
}
