package cloudformation

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// pageSize is how many entries a page of a list has.
const pageSize = 100

// page takes one page from a list. The token that leads to the next one names the last entry; it is opaque only so that nobody
// builds on it.
func page[T any](list []T, key func(T) string, token string) (entries []T, next string, err error) {
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, "", invalid("The NextToken is not one that this operation has returned.")
	}
	if len(after) > 0 {
		at := slices.IndexFunc(list, func(e T) bool { return key(e) == string(after) })
		if at < 0 {
			return nil, "", invalid("The NextToken is not one that this operation has returned, or what it led to is gone.")
		}
		list = list[at+1:]
	}
	if len(list) > pageSize {
		list = list[:pageSize]
		next = base64.RawURLEncoding.EncodeToString([]byte(key(list[pageSize-1])))
	}
	return append([]T{}, list...), next, nil
}

// allStacks are an account's stacks in a region, deleted ones included, the newest first.
func (s *Service) allStacks(c *awsapi.Caller) []*stackRow {
	var all []*stackRow
	for _, st := range s.stacks.Scan(scopeOf(c), "") {
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b *stackRow) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	return all
}

func stackID(st *stackRow) string { return st.ID }

// stackNamed finds a stack that a query names.
func (s *Service) stackNamed(c *awsapi.Caller, name string) (*stackRow, error) {
	if st, ok := s.findStack(c, name); ok {
		return st, nil
	}
	return nil, noSuchStack(name)
}

type describeStacksIn struct{ StackName, NextToken string }

func (in *describeStacksIn) stackName() string { return in.StackName }

// driftNotChecked is the drift of everything: Lanyard does not look for it.
const driftNotChecked = "NOT_CHECKED"

type driftShape struct{ StackDriftStatus string }

type parameterShape struct{ ParameterKey, ParameterValue string }

type outputShape struct{ OutputKey, OutputValue, Description, ExportName string }

// stackName is how answers name a stack.
type stackName struct{ StackId, StackName string }

func (st *stackRow) named() stackName { return stackName{st.ARN(), st.Name} }

// stackView is what all views of a stack show.
type stackView struct {
	stackName
	CreationTime      time.Time
	DeletionTime      time.Time
	LastUpdatedTime   time.Time
	StackStatus       string
	StackStatusReason string
	DriftInformation  driftShape
	LastOperations    []lastOperation
}

func (st *stackRow) view() stackView {
	return stackView{
		stackName: st.named(), CreationTime: st.Created, DeletionTime: st.Deleted, LastUpdatedTime: st.Updated, StackStatus: st.Status,
		StackStatusReason: st.Reason, DriftInformation: driftShape{driftNotChecked}, LastOperations: st.LastOperations,
	}
}

type stackShape struct {
	stackView
	ChangeSetId                 string
	Description                 string
	Parameters                  []parameterShape
	DisableRollback             bool
	NotificationARNs            []string
	TimeoutInMinutes            *int32
	Capabilities                []string
	Outputs                     []outputShape
	Tags                        []tag
	EnableTerminationProtection bool
	RetainExceptOnCreate        *bool
}

type describeStacksOut struct {
	Stacks    []stackShape
	NextToken string
}

func (s *Service) stackShape(st *stackRow) (stackShape, error) {
	shape := stackShape{
		stackView: st.view(), ChangeSetId: st.ChangeSet, Description: st.Description, DisableRollback: st.DisableRollback,
		NotificationARNs: []string{}, Capabilities: []string{}, Tags: []tag{}, EnableTerminationProtection: st.Protected,
	}
	if st.Timeout > 0 {
		shape.TimeoutInMinutes = &st.Timeout
	}
	if st.RetainExceptOnCreate {
		shape.RetainExceptOnCreate = &st.RetainExceptOnCreate
	}
	generation := st.latest()
	if generation == 0 {
		return shape, nil
	}
	row, secrets, err := s.generation(stackKey(st.identity), generation)
	if err != nil {
		return shape, err
	}
	shape.Capabilities = append(shape.Capabilities, row.Capabilities...)
	shape.Tags = append(shape.Tags, row.Tags...)
	if len(secrets.Parameters) > 0 {
		t, err := parseTemplate(row.Template)
		if err != nil {
			return shape, err
		}
		shape.Parameters = t.parameterShapes(secrets.Parameters)
	}
	for _, out := range secrets.Outputs {
		shape.Outputs = append(shape.Outputs, outputShape{out.Key, out.Value, out.Description, out.Export})
	}
	return shape, nil
}

func (t *template) parameterShapes(chosen map[string]string) []parameterShape {
	var shapes []parameterShape
	for _, id := range sortedKeys(chosen) {
		shapes = append(shapes, parameterShape{id, t.parameters[id].echo(chosen[id])})
	}
	return shapes
}

func (s *Service) describeStacks(_ context.Context, c *awsapi.Caller, in *describeStacksIn) (*describeStacksOut, error) {
	out := &describeStacksOut{Stacks: []stackShape{}}
	var stacks []*stackRow
	if in.StackName != "" {
		st, err := s.stackNamed(c, in.StackName)
		if err != nil {
			return nil, err
		}
		stacks = append(stacks, st)
	} else {
		all := slices.DeleteFunc(s.allStacks(c), func(st *stackRow) bool { return st.Status == deleteComplete })
		var err error
		if stacks, out.NextToken, err = page(all, stackID, in.NextToken); err != nil {
			return nil, err
		}
	}
	for _, st := range stacks {
		shape, err := s.stackShape(st)
		if err != nil {
			return nil, err
		}
		out.Stacks = append(out.Stacks, shape)
	}
	return out, nil
}

type listStacksIn struct {
	StackStatusFilter []string
	NextToken         string
}

type stackSummary struct {
	stackView
	TemplateDescription string
}

type listStacksOut struct {
	StackSummaries []stackSummary
	NextToken      string
}

func (s *Service) listStacks(_ context.Context, c *awsapi.Caller, in *listStacksIn) (*listStacksOut, error) {
	all := s.allStacks(c)
	if len(in.StackStatusFilter) > 0 {
		all = slices.DeleteFunc(all, func(st *stackRow) bool { return !slices.Contains(in.StackStatusFilter, st.Status) })
	}
	stacks, next, err := page(all, stackID, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listStacksOut{StackSummaries: []stackSummary{}, NextToken: next}
	for _, st := range stacks {
		out.StackSummaries = append(out.StackSummaries, stackSummary{st.view(), st.Description})
	}
	return out, nil
}

// stackPageIn asks for a page of what belongs to a stack.
type stackPageIn struct{ StackName, NextToken string }

func (in *stackPageIn) stackName() string { return in.StackName }

type eventShape struct {
	stackName
	EventId              string
	LogicalResourceId    string
	PhysicalResourceId   string
	ResourceType         string
	Timestamp            time.Time
	ResourceStatus       string
	ResourceStatusReason string
	ClientRequestToken   string
}

type stackEventsOut struct {
	StackEvents []eventShape
	NextToken   string
}

// describeStackEvents shows the latest events first.
func (s *Service) describeStackEvents(_ context.Context, c *awsapi.Caller, in *stackPageIn) (*stackEventsOut, error) {
	st, ok := s.findStack(c, in.StackName)
	if !ok {
		return nil, invalid("Stack [%s] does not exist", clip(in.StackName))
	}
	var all []*eventRow
	for _, e := range s.events.Scan(stackKey(st.identity)+"/", "") {
		all = append(all, e)
	}
	slices.Reverse(all)
	events, next, err := page(all, func(e *eventRow) string { return e.ID }, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &stackEventsOut{StackEvents: []eventShape{}, NextToken: next}
	for _, e := range events {
		out.StackEvents = append(out.StackEvents, eventShape{
			stackName: st.named(), EventId: e.ID, LogicalResourceId: e.Logical, PhysicalResourceId: e.Physical,
			ResourceType: e.Type, Timestamp: e.Time, ResourceStatus: e.Status, ResourceStatusReason: e.Reason, ClientRequestToken: e.Token,
		})
	}
	return out, nil
}

type resourceDriftShape struct{ StackResourceDriftStatus string }

// resourceView is what all views of a resource show.
type resourceView struct {
	LogicalResourceId    string
	PhysicalResourceId   string
	ResourceType         string
	ResourceStatus       string
	ResourceStatusReason string
	DriftInformation     resourceDriftShape
}

func (row *resourceRow) view() resourceView {
	return resourceView{row.ID, row.Physical, row.Type, row.Status, row.Reason, resourceDriftShape{driftNotChecked}}
}

// rows are a stack's resources, by their logical IDs.
func (s *Service) rows(st *stackRow) []*resourceRow {
	var all []*resourceRow
	for _, row := range s.resources.Scan(stackKey(st.identity)+"/", "") {
		all = append(all, row)
	}
	return all
}

type stackResourceIn struct{ StackName, LogicalResourceId string }

func (in *stackResourceIn) stackName() string { return in.StackName }

type resourceDetail struct {
	stackName
	resourceView
	LastUpdatedTimestamp time.Time
}

type stackResourceOut struct{ StackResourceDetail resourceDetail }

func (s *Service) describeStackResource(_ context.Context, c *awsapi.Caller, in *stackResourceIn) (*stackResourceOut, error) {
	st, ok := s.findStack(c, in.StackName)
	if !ok {
		return nil, invalid("Stack '%s' does not exist", clip(in.StackName))
	}
	row, ok := s.resources.Get(stackKey(st.identity) + "/" + in.LogicalResourceId)
	if !ok {
		return nil, invalid("Resource %s does not exist for stack %s", clip(in.LogicalResourceId), st.Name)
	}
	return &stackResourceOut{resourceDetail{st.named(), row.view(), row.Updated}}, nil
}

type stackResourcesIn struct{ StackName, LogicalResourceId, PhysicalResourceId string }

func (in *stackResourcesIn) stackName() string { return in.StackName }

type resourceShape struct {
	stackName
	resourceView
	Timestamp time.Time
}

type stackResourcesOut struct{ StackResources []resourceShape }

// describeStackResources finds the stack by its name, or by a resource that it has; it shows at most a page's entries.
func (s *Service) describeStackResources(_ context.Context, c *awsapi.Caller, in *stackResourcesIn) (*stackResourcesOut, error) {
	var stacks []*stackRow
	switch {
	case in.StackName != "":
		st, err := s.stackNamed(c, in.StackName)
		if err != nil {
			return nil, err
		}
		stacks = append(stacks, st)
	case in.PhysicalResourceId == "":
		return nil, invalid("At least one of StackName and PhysicalResourceId must be specified")
	default:
		stacks = slices.DeleteFunc(s.allStacks(c), func(st *stackRow) bool { return st.Status == deleteComplete || !s.has(st, in.PhysicalResourceId) })
		if len(stacks) == 0 {
			return nil, invalid("Stack for %s does not exist", clip(in.PhysicalResourceId))
		}
	}
	out := &stackResourcesOut{StackResources: []resourceShape{}}
	for _, st := range stacks {
		for _, row := range s.rows(st) {
			if in.LogicalResourceId == "" || row.ID == in.LogicalResourceId {
				out.StackResources = append(out.StackResources, resourceShape{st.named(), row.view(), row.Updated})
			}
		}
	}
	out.StackResources = out.StackResources[:min(len(out.StackResources), pageSize)]
	return out, nil
}

// has reports whether a stack has a resource with the physical ID.
func (s *Service) has(st *stackRow, physical string) bool {
	return slices.ContainsFunc(s.rows(st), func(row *resourceRow) bool { return row.Physical == physical })
}

type resourceSummary struct {
	resourceView
	LastUpdatedTimestamp time.Time
}

type listResourcesOut struct {
	StackResourceSummaries []resourceSummary
	NextToken              string
}

func (s *Service) listStackResources(_ context.Context, c *awsapi.Caller, in *stackPageIn) (*listResourcesOut, error) {
	st, err := s.stackNamed(c, in.StackName)
	if err != nil {
		return nil, err
	}
	rows, next, err := page(s.rows(st), func(r *resourceRow) string { return r.ID }, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listResourcesOut{StackResourceSummaries: []resourceSummary{}, NextToken: next}
	for _, row := range rows {
		out.StackResourceSummaries = append(out.StackResourceSummaries, resourceSummary{row.view(), row.Updated})
	}
	return out, nil
}

type getTemplateIn struct{ StackName, ChangeSetName, TemplateStage string }

func (in *getTemplateIn) stackName() string { return in.StackName }

type getTemplateOut struct {
	TemplateBody    string
	StagesAvailable []string
}

// getTemplate shows a template as it was given: without transforms, both stages are the same.
func (s *Service) getTemplate(_ context.Context, c *awsapi.Caller, in *getTemplateIn) (*getTemplateOut, error) {
	stages := []string{"Original", "Processed"}
	if in.ChangeSetName != "" {
		_, set, ok := s.findChangeSet(c, in.StackName, in.ChangeSetName)
		if !ok {
			return nil, noSuchChangeSet(in.ChangeSetName)
		}
		return &getTemplateOut{set.Settings.Template, stages}, nil
	}
	if in.StackName == "" {
		return nil, invalid("Either StackName or ChangeSetName must be specified.")
	}
	st, err := s.stackNamed(c, in.StackName)
	if err != nil {
		return nil, err
	}
	row, ok := s.settings.Get(generationKey(stackKey(st.identity), st.latest()))
	if !ok {
		return nil, noSuchStack(in.StackName)
	}
	return &getTemplateOut{row.Template, stages}, nil
}

type validateTemplateIn struct{ TemplateBody string }

type templateParameter struct {
	ParameterKey string
	DefaultValue *string
	NoEcho       bool
	Description  string
}

type validateTemplateOut struct {
	Parameters         []templateParameter
	Description        string
	Capabilities       []string
	CapabilitiesReason string
}

const noTemplate = "Either Template URL or Template Body must be specified."

func (t *template) capabilityShapes() (needed []string, reason string) {
	capability, types := t.capabilities()
	if capability == "" {
		return nil, ""
	}
	return []string{capability}, "The following resource(s) require capabilities: [" + strings.Join(types, ", ") + "]"
}

func (s *Service) validateTemplate(_ context.Context, _ *awsapi.Caller, in *validateTemplateIn) (*validateTemplateOut, error) {
	if in.TemplateBody == "" {
		return nil, invalid(noTemplate)
	}
	t, err := s.parse(in.TemplateBody)
	if err != nil {
		return nil, err
	}
	out := &validateTemplateOut{Parameters: []templateParameter{}, Description: t.description}
	for _, id := range sortedKeys(t.parameters) {
		p := t.parameters[id]
		out.Parameters = append(out.Parameters, templateParameter{id, p.value, p.noEcho, p.description})
	}
	out.Capabilities, out.CapabilitiesReason = t.capabilityShapes()
	return out, nil
}

type getTemplateSummaryIn struct{ StackName, TemplateBody string }

func (in *getTemplateSummaryIn) stackName() string { return in.StackName }

type parameterDeclaration struct {
	ParameterKey         string
	DefaultValue         *string
	ParameterType        string
	NoEcho               bool
	Description          string
	ParameterConstraints parameterConstraints
}

type parameterConstraints struct{ AllowedValues []string }

type templateSummaryOut struct {
	Parameters         []parameterDeclaration
	Description        string
	Capabilities       []string
	CapabilitiesReason string
	ResourceTypes      []string
	Version            string
	Metadata           string
}

func (s *Service) getTemplateSummary(ctx context.Context, c *awsapi.Caller, in *getTemplateSummaryIn) (*templateSummaryOut, error) {
	text, parse := in.TemplateBody, s.parse
	switch {
	case text == "" && in.StackName == "":
		return nil, invalid(noTemplate)
	case text != "" && in.StackName != "":
		return nil, invalid("Only one of TemplateBody and StackName can be specified.")
	case text == "":
		of, err := s.getTemplate(ctx, c, &getTemplateIn{StackName: in.StackName})
		if err != nil {
			return nil, err
		}
		text, parse = of.TemplateBody, parseTemplate
	}
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	out := &templateSummaryOut{Parameters: []parameterDeclaration{}, Description: t.description, Version: "2010-09-09"}
	for _, id := range sortedKeys(t.parameters) {
		p := t.parameters[id]
		out.Parameters = append(out.Parameters, parameterDeclaration{
			id, p.value, p.typ, p.noEcho, p.description, parameterConstraints{p.allowed},
		})
	}
	for _, id := range sortedKeys(t.resources) {
		out.ResourceTypes = append(out.ResourceTypes, t.resources[id].typ.name)
	}
	slices.Sort(out.ResourceTypes)
	out.ResourceTypes = slices.Compact(out.ResourceTypes)
	out.Capabilities, out.CapabilitiesReason = t.capabilityShapes()
	if t.metadata != nil {
		out.Metadata = canonical(t.metadata)
	}
	return out, nil
}
