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

type describeStacksIn struct{ StackName, NextToken string }

func (in *describeStacksIn) stackName() string { return in.StackName }

// driftNotChecked is the drift of everything: Lanyard does not look for it.
const driftNotChecked = "NOT_CHECKED"

type driftShape struct{ StackDriftStatus string }

type parameterShape struct{ ParameterKey, ParameterValue string }

type outputShape struct{ OutputKey, OutputValue, Description, ExportName string }

type stackShape struct {
	StackId                     string
	StackName                   string
	ChangeSetId                 string
	Description                 string
	Parameters                  []parameterShape
	CreationTime                time.Time
	DeletionTime                time.Time
	LastUpdatedTime             time.Time
	StackStatus                 string
	StackStatusReason           string
	DisableRollback             bool
	NotificationARNs            []string
	TimeoutInMinutes            *int32
	Capabilities                []string
	Outputs                     []outputShape
	Tags                        []tag
	EnableTerminationProtection bool
	DriftInformation            driftShape
	RetainExceptOnCreate        *bool
	LastOperations              []lastOperation
}

type describeStacksOut struct {
	Stacks    []stackShape
	NextToken string
}

func (s *Service) stackShape(st *stackRow) (stackShape, error) {
	shape := stackShape{
		StackId: st.ARN(), StackName: st.Name, ChangeSetId: st.ChangeSet, Description: st.Description, CreationTime: st.Created,
		DeletionTime: st.Deleted, LastUpdatedTime: st.Updated, StackStatus: st.Status, StackStatusReason: st.Reason,
		DisableRollback: st.DisableRollback, NotificationARNs: []string{}, Capabilities: []string{}, Tags: []tag{},
		EnableTerminationProtection: st.Protected, DriftInformation: driftShape{driftNotChecked},
		LastOperations: st.LastOperations,
	}
	if st.Timeout > 0 {
		shape.TimeoutInMinutes = &st.Timeout
	}
	if st.RetainExceptOnCreate {
		shape.RetainExceptOnCreate = &st.RetainExceptOnCreate
	}
	generation := cmp.Or(st.Current, st.Next)
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
		st, ok := s.findStack(c, in.StackName)
		if !ok {
			return nil, noSuchStack(in.StackName)
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
	StackId             string
	StackName           string
	TemplateDescription string
	CreationTime        time.Time
	LastUpdatedTime     time.Time
	DeletionTime        time.Time
	StackStatus         string
	StackStatusReason   string
	DriftInformation    driftShape
	LastOperations      []lastOperation
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
		summary := stackSummary{
			StackId: st.ARN(), StackName: st.Name, TemplateDescription: st.Description, CreationTime: st.Created, LastUpdatedTime: st.Updated,
			DeletionTime: st.Deleted, StackStatus: st.Status, StackStatusReason: st.Reason, DriftInformation: driftShape{driftNotChecked},
			LastOperations: st.LastOperations,
		}
		out.StackSummaries = append(out.StackSummaries, summary)
	}
	return out, nil
}

// stackPageIn asks for a page of what belongs to a stack.
type stackPageIn struct{ StackName, NextToken string }

func (in *stackPageIn) stackName() string { return in.StackName }

type eventShape struct {
	StackId              string
	EventId              string
	StackName            string
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
			StackId: st.ARN(), EventId: e.ID, StackName: st.Name, LogicalResourceId: e.Logical, PhysicalResourceId: e.Physical,
			ResourceType: e.Type, Timestamp: e.Time, ResourceStatus: e.Status, ResourceStatusReason: e.Reason, ClientRequestToken: e.Token,
		})
	}
	return out, nil
}

type resourceDriftShape struct{ StackResourceDriftStatus string }

func notChecked() resourceDriftShape { return resourceDriftShape{driftNotChecked} }

type stackResourceIn struct{ StackName, LogicalResourceId string }

func (in *stackResourceIn) stackName() string { return in.StackName }

type resourceDetail struct {
	StackName            string
	StackId              string
	LogicalResourceId    string
	PhysicalResourceId   string
	ResourceType         string
	LastUpdatedTimestamp time.Time
	ResourceStatus       string
	ResourceStatusReason string
	DriftInformation     resourceDriftShape
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
	return &stackResourceOut{resourceDetail{
		StackName: st.Name, StackId: st.ARN(), LogicalResourceId: row.ID, PhysicalResourceId: row.Physical, ResourceType: row.Type,
		LastUpdatedTimestamp: row.Updated, ResourceStatus: row.Status, ResourceStatusReason: row.Reason, DriftInformation: notChecked(),
	}}, nil
}

type stackResourcesIn struct{ StackName, LogicalResourceId, PhysicalResourceId string }

func (in *stackResourcesIn) stackName() string { return in.StackName }

type resourceShape struct {
	StackName            string
	StackId              string
	LogicalResourceId    string
	PhysicalResourceId   string
	ResourceType         string
	Timestamp            time.Time
	ResourceStatus       string
	ResourceStatusReason string
	DriftInformation     resourceDriftShape
}

type stackResourcesOut struct{ StackResources []resourceShape }

// describeStackResources finds the stack by its name, or by a resource that it has; it shows at most a page's entries.
func (s *Service) describeStackResources(_ context.Context, c *awsapi.Caller, in *stackResourcesIn) (*stackResourcesOut, error) {
	var stacks []*stackRow
	switch {
	case in.StackName != "":
		st, ok := s.findStack(c, in.StackName)
		if !ok {
			return nil, noSuchStack(in.StackName)
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
		for _, row := range s.resources.Scan(stackKey(st.identity)+"/", "") {
			if in.LogicalResourceId != "" && row.ID != in.LogicalResourceId || len(out.StackResources) == pageSize {
				continue
			}
			out.StackResources = append(out.StackResources, resourceShape{
				StackName: st.Name, StackId: st.ARN(), LogicalResourceId: row.ID, PhysicalResourceId: row.Physical, ResourceType: row.Type,
				Timestamp: row.Updated, ResourceStatus: row.Status, ResourceStatusReason: row.Reason, DriftInformation: notChecked(),
			})
		}
	}
	return out, nil
}

// has reports whether a stack has a resource with the physical ID.
func (s *Service) has(st *stackRow, physical string) bool {
	for _, row := range s.resources.Scan(stackKey(st.identity)+"/", "") {
		if row.Physical == physical {
			return true
		}
	}
	return false
}

type resourceSummary struct {
	LogicalResourceId    string
	PhysicalResourceId   string
	ResourceType         string
	LastUpdatedTimestamp time.Time
	ResourceStatus       string
	ResourceStatusReason string
	DriftInformation     resourceDriftShape
}

type listResourcesOut struct {
	StackResourceSummaries []resourceSummary
	NextToken              string
}

func (s *Service) listStackResources(_ context.Context, c *awsapi.Caller, in *stackPageIn) (*listResourcesOut, error) {
	st, ok := s.findStack(c, in.StackName)
	if !ok {
		return nil, noSuchStack(in.StackName)
	}
	var all []*resourceRow
	for _, row := range s.resources.Scan(stackKey(st.identity)+"/", "") {
		all = append(all, row)
	}
	rows, next, err := page(all, func(r *resourceRow) string { return r.ID }, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &listResourcesOut{StackResourceSummaries: []resourceSummary{}, NextToken: next}
	for _, row := range rows {
		out.StackResourceSummaries = append(out.StackResourceSummaries, resourceSummary{
			LogicalResourceId: row.ID, PhysicalResourceId: row.Physical, ResourceType: row.Type, LastUpdatedTimestamp: row.Updated,
			ResourceStatus: row.Status, ResourceStatusReason: row.Reason, DriftInformation: notChecked(),
		})
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
	st, ok := s.findStack(c, in.StackName)
	if !ok {
		return nil, noSuchStack(in.StackName)
	}
	row, ok := s.settings.Get(generationKey(stackKey(st.identity), cmp.Or(st.Current, st.Next)))
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
	t, err := parseTemplate(in.TemplateBody)
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
	text := in.TemplateBody
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
		text = of.TemplateBody
	}
	t, err := parseTemplate(text)
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

type listExportsIn struct{ NextToken string }

type exportShape struct{ ExportingStackId, Name, Value string }

type listExportsOut struct {
	Exports   []exportShape
	NextToken string
}

func (s *Service) listExports(_ context.Context, c *awsapi.Caller, in *listExportsIn) (*listExportsOut, error) {
	var all []exportShape
	for key, row := range s.exports.Scan(scopeOf(c), "") {
		shape := exportShape{Name: strings.TrimPrefix(key, scopeOf(c))}
		if err := s.open(key, row.Sealed, &shape.Value); err != nil {
			return nil, err
		}
		if st, ok := s.stacks.Get(row.Stack); ok {
			shape.ExportingStackId = st.ARN()
		}
		all = append(all, shape)
	}
	exports, next, err := page(all, func(e exportShape) string { return e.Name }, in.NextToken)
	return &listExportsOut{exports, next}, err
}

type listImportsIn struct{ ExportName, NextToken string }

type listImportsOut struct {
	Imports   []string
	NextToken string
}

func (s *Service) listImports(_ context.Context, c *awsapi.Caller, in *listImportsIn) (*listImportsOut, error) {
	row, ok := s.exports.Get(scopeOf(c) + in.ExportName)
	if !ok || len(row.Importers) == 0 {
		return nil, invalid("Export '%s' is not imported by any stack.", clip(in.ExportName))
	}
	var names []string
	for _, key := range row.Importers {
		if st, ok := s.stacks.Get(key); ok {
			names = append(names, st.Name)
		}
	}
	slices.Sort(names)
	imports, next, err := page(names, func(name string) string { return name }, in.NextToken)
	return &listImportsOut{imports, next}, err
}
