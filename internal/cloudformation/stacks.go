package cloudformation

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// More limits (CloudFormation User Guide, "Understand CloudFormation quotas").
const (
	maxStacks        = 2000 // of an account in a region
	maxStackName     = 128
	maxParameterText = 256 << 10 // bytes of all of a stack's parameters; Lanyard's own
	keptTokens       = 16        // ClientRequestTokens that a stack remembers
)

type stackOut struct {
	StackId     string
	OperationId string
}

// request is what a create, an update or a change set asks for.
type request struct {
	template     string
	previous     bool // the template that the stack has
	parameters   []parameterIn
	capabilities []string
	tags         []tag // nil for those that the stack has
}

// prepared is a request that was found good.
type prepared struct {
	template   *template
	settings   settings
	parameters map[string]string
	plan       *plan
	changed    bool
}

// prepare checks a request as far as that can be done without doing it. current is what the stack has; nil for one that is yet to be
// made.
func (s *Service) prepare(st *stackRow, current *target, q request) (*prepared, error) {
	p := &prepared{settings: settings{Template: q.template, Capabilities: q.capabilities}}
	before := settingsSecrets{}
	if current != nil {
		before = *current.secrets
	}
	switch {
	case q.previous && q.template != "":
		return nil, invalid("You cannot specify both usePreviousTemplate and Template Body/Template URL.")
	case q.previous && current == nil:
		return nil, invalid("The stack has no previous template.")
	case q.previous:
		p.settings.Template = current.settings.Template
	case q.template == "":
		return nil, invalid("Either Template URL or Template Body must be specified.")
	}
	var err error
	if p.template, err = s.parse(p.settings.Template); err != nil {
		return nil, err
	}
	if p.parameters, err = p.template.chooseParameters(q.parameters, before.Parameters); err != nil {
		return nil, err
	}
	size := 0
	for _, text := range p.parameters {
		size += len(text)
	}
	if size > maxParameterText {
		return nil, invalid("The parameters are larger than %d bytes.", maxParameterText)
	}
	needed, _ := p.template.capabilities()
	if needed != "" && !slices.Contains(q.capabilities, needed) && !slices.Contains(q.capabilities, "CAPABILITY_NAMED_IAM") {
		return nil, awsapi.Errorf("InsufficientCapabilitiesException", "Requires capabilities : [%s]", needed)
	}
	if p.settings.Tags, err = uniqueTags(q.tags); err != nil {
		return nil, err
	}
	if q.tags == nil && current != nil {
		p.settings.Tags = current.settings.Tags
	}
	have := map[string]*held{}
	if current != nil {
		if have, err = s.resourcesOf(stackKey(st.identity)); err != nil {
			return nil, err
		}
	}
	if p.plan, err = s.plan(st.identity, p.template, p.parameters, p.settings.Tags, have, before.Outputs); err != nil {
		return nil, err
	}
	if p.settings.Imports = p.plan.imports; len(p.settings.Imports) > maxExports {
		return nil, invalid("Template error: the template imports more than %d values.", maxExports)
	}
	p.changed = current == nil || !p.plan.empty() || !slices.Equal(p.settings.Tags, current.settings.Tags)
	return p, nil
}

func reservedTag(key string) error {
	return invalid("Tag keys that begin with aws: are reserved for system use: %s", clip(key))
}

// uniqueTags returns tags by key. Of a key that is there twice the last counts: eksctl's change sets have some.
func uniqueTags(given []tag) ([]tag, error) {
	byKey := map[string]string{}
	for _, t := range given {
		if awsapi.IsSystemTag(t.Key) {
			return nil, reservedTag(t.Key)
		}
		byKey[t.Key] = t.Value
	}
	tags := make([]tag, 0, len(byKey))
	for _, key := range sortedKeys(byKey) {
		tags = append(tags, tag{key, byKey[key]})
	}
	return tags, nil
}

// addGeneration stores the settings of a stack's next generation as part of tx, and claims what they import.
func (s *Service) addGeneration(tx *kv.Tx, st *stackRow, p *prepared) error {
	st.Last++
	st.Next = st.Last
	key := generationKey(stackKey(st.identity), st.Next)
	row := p.settings
	var err error
	if row.Sealed, err = s.seal(key, settingsSecrets{Parameters: p.parameters}); err != nil {
		return err
	}
	s.settings.Write(tx, key, &row)
	st.Description = p.template.description
	return s.claimImports(tx, st, p.settings.Imports)
}

// begin begins an operation of a stack as part of tx.
func (s *Service) begin(tx *kv.Tx, st *stackRow, c *awsapi.Caller, status, kind, token, reason string) {
	caller := *c
	st.Operation = &operation{ID: awsapi.NewUUID(), Caller: &caller, Until: s.now().Add(lease), Token: token}
	st.LastOperations = []lastOperation{{kind, st.Operation.ID}}
	if token != "" {
		st.Requests = append(st.Requests, requestToken{token, kind})
		st.Requests = st.Requests[max(0, len(st.Requests)-keptTokens):]
	}
	s.setStatus(tx, st, status, reason)
	s.stacks.Write(tx, stackKey(st.identity), st)
}

// repeated reports whether a request with this token has been taken before: then it has no further effect.
func (st *stackRow) repeated(token, kind string) (bool, error) {
	for _, r := range st.Requests {
		if token != "" && r.Token == token {
			if r.Operation != kind {
				return false, awsapi.Errorf("TokenAlreadyExistsException", "The client request token %s was used for another operation.", token)
			}
			return true, nil
		}
	}
	return false, nil
}

// The kinds of operations, as answers name them.
const (
	createKind = "CREATE_STACK"
	updateKind = "UPDATE_STACK"
	deleteKind = "DELETE_STACK"
)

type createStackIn struct {
	StackName                   string
	TemplateBody                string
	Parameters                  []parameterIn
	Capabilities                []string
	Tags                        []tag
	DisableRollback             *bool
	OnFailure                   string
	EnableTerminationProtection bool
	RetainExceptOnCreate        bool
	TimeoutInMinutes            int32
	NotificationARNs            []string
	ClientRequestToken          string
}

func checkStackName(name string) error {
	if len(name) > maxStackName {
		return invalid("1 validation error detected: Value '%s' at 'stackName' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", clip(name), maxStackName)
	}
	letter := name != "" && (name[0] >= 'a' && name[0] <= 'z' || name[0] >= 'A' && name[0] <= 'Z')
	if !letter || !isLogicalID(strings.ReplaceAll(name, "-", "")) {
		return invalid("1 validation error detected: Value '%s' at 'stackName' failed to satisfy constraint: "+
			"Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*", clip(name))
	}
	return nil
}

func noNotifications(arns []string) error {
	if len(arns) > 0 {
		return invalid("This server does not support the member 'notificationARNs'.")
	}
	return nil
}

func (s *Service) newIdentity(c *awsapi.Caller, name string) identity {
	return identity{Partition: s.partition, Region: c.Region, Account: c.Account, Name: name, ID: awsapi.NewUUID()}
}

func alreadyExists(name string) error {
	return awsapi.Errorf("AlreadyExistsException", "Stack [%s] already exists", name)
}

func (s *Service) createStack(ctx context.Context, c *awsapi.Caller, in *createStackIn) (*stackOut, error) {
	if st, ok := s.findStack(c, in.StackName); ok {
		if again, err := st.repeated(in.ClientRequestToken, createKind); again || err != nil {
			return st.out(), err
		}
		return nil, alreadyExists(in.StackName)
	}
	if err := checkStackName(in.StackName); err != nil {
		return nil, err
	}
	if in.DisableRollback != nil && in.OnFailure != "" {
		return nil, invalid("Either DisableRollback or OnFailure can be specified, not both.")
	}
	if err := noNotifications(in.NotificationARNs); err != nil {
		return nil, err
	}
	st := &stackRow{
		identity: s.newIdentity(c, in.StackName), Created: s.now().UTC(), Protected: in.EnableTerminationProtection, OnFailure: in.OnFailure,
		DisableRollback: in.DisableRollback != nil && *in.DisableRollback, RetainExceptOnCreate: in.RetainExceptOnCreate, Timeout: in.TimeoutInMinutes,
	}
	p, err := s.prepare(st, nil, request{template: in.TemplateBody, parameters: in.Parameters, capabilities: in.Capabilities, tags: in.Tags})
	if err != nil {
		return nil, err
	}
	var begun *stackRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		begun = st.clone()
		if err := s.takeName(tx, begun); err != nil {
			return err
		}
		if err := s.addGeneration(tx, begun, p); err != nil {
			return err
		}
		s.begin(tx, begun, c, createInProgress, createKind, in.ClientRequestToken, userInitiated)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return begun.out(), s.carryOut(ctx, begun)
}

// takeName gives a new stack its name as part of tx.
func (s *Service) takeName(tx *kv.Tx, st *stackRow) error {
	scope := st.Account + "/" + st.Region + "/"
	if _, taken := s.names.Read(tx, scope+st.Name); taken {
		return alreadyExists(st.Name)
	}
	if s.names.Len() >= maxStacks {
		n := 0
		for range s.names.Scan(scope, "") {
			n++
		}
		if n >= maxStacks {
			return awsapi.Errorf("LimitExceededException", "Limit exceeded: an account has at most %d stacks in a region.", maxStacks)
		}
	}
	s.names.Write(tx, scope+st.Name, &nameRow{Stack: stackKey(st.identity)})
	return nil
}

func (st *stackRow) out() *stackOut {
	out := &stackOut{StackId: st.ARN()}
	if len(st.LastOperations) > 0 {
		out.OperationId = st.LastOperations[0].OperationId
	}
	return out
}

type updateStackIn struct {
	StackName            string
	TemplateBody         string
	UsePreviousTemplate  bool
	Parameters           []parameterIn
	Capabilities         []string
	Tags                 []tag
	DisableRollback      bool
	RetainExceptOnCreate bool
	NotificationARNs     []string
	ClientRequestToken   string
}

// noSuchStack is what DescribeStacks and its kin say; to change a stack that is not there is another text.
func noSuchStack(name string) error { return invalid("Stack with id %s does not exist", clip(name)) }

// updatable says why a stack cannot be updated. One that was never complete has nothing that an update could be rolled back to.
func (st *stackRow) updatable(disableRollback bool) error {
	switch st.Status {
	case createComplete, updateComplete, updateRollbackComplete, updateFailed, createFailed:
		if st.Current == 0 && !disableRollback {
			return invalid("This stack is currently in a non-terminal [%s] state. To update the stack from this state, please use the disable-rollback "+
				"parameter with update-stack API.", st.Status)
		}
		return nil
	}
	return invalid("Stack:%s is in %s state and can not be updated.", st.ARN(), st.Status)
}

// latest is the generation of the settings that a stack has; before it was first complete, that of the last attempt.
func (st *stackRow) latest() int { return cmp.Or(st.Current, st.Next) }

func (s *Service) updateStack(ctx context.Context, c *awsapi.Caller, in *updateStackIn) (*stackOut, error) {
	st, ok := s.findStack(c, in.StackName)
	if !ok || st.Status == deleteComplete {
		return nil, invalid("Stack [%s] does not exist", clip(in.StackName))
	}
	if again, err := st.repeated(in.ClientRequestToken, updateKind); again || err != nil {
		return st.out(), err
	}
	if err := st.updatable(in.DisableRollback); err != nil {
		return nil, err
	}
	if err := noNotifications(in.NotificationARNs); err != nil {
		return nil, err
	}
	current, err := s.target(stackKey(st.identity), st.latest())
	if err != nil {
		return nil, err
	}
	p, err := s.prepare(st, current, request{
		template: in.TemplateBody, previous: in.UsePreviousTemplate, parameters: in.Parameters, capabilities: in.Capabilities, tags: in.Tags,
	})
	if err != nil {
		return nil, err
	}
	if !p.changed && st.Status != updateFailed && st.Status != createFailed {
		return nil, invalid("No updates are to be performed.")
	}
	return s.beginUpdate(ctx, c, st, p, in.DisableRollback, in.RetainExceptOnCreate, in.ClientRequestToken, nil)
}

// beginUpdate begins an update that was prepared for a stack as it was then, and carries it out. also is part of the beginning.
func (s *Service) beginUpdate(ctx context.Context, c *awsapi.Caller, planned *stackRow, p *prepared, disableRollback, retain bool, token string,
	also func(tx *kv.Tx, st *stackRow) error) (*stackOut, error) {
	key := stackKey(planned.identity)
	var begun *stackRow
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		st, ok := s.stacks.Read(tx, key)
		if !ok {
			return invalid("Stack [%s] does not exist", planned.Name)
		}
		if err := st.updatable(disableRollback); err != nil {
			return err
		}
		if st.Current != planned.Current || st.Last != planned.Last {
			return invalid("Stack:%s was changed meanwhile and can not be updated.", st.ARN())
		}
		begun = st.clone()
		begun.Updated, begun.DisableRollback, begun.RetainExceptOnCreate, begun.OnFailure = s.now().UTC(), disableRollback, retain, ""
		if err := s.addGeneration(tx, begun, p); err != nil {
			return err
		}
		if also != nil {
			if err := also(tx, begun); err != nil {
				return err
			}
		}
		s.begin(tx, begun, c, updateInProgress, updateKind, token, userInitiated)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return begun.out(), s.carryOut(ctx, begun)
}

type deleteStackIn struct {
	StackName          string
	RetainResources    []string
	ClientRequestToken string
}

func (in *deleteStackIn) stackName() string { return in.StackName }

// deleteStack succeeds for a stack that does not exist, as in AWS.
func (s *Service) deleteStack(ctx context.Context, c *awsapi.Caller, in *deleteStackIn) (*struct{}, error) {
	found, ok := s.findStack(c, in.StackName)
	if !ok || found.Status == deleteComplete {
		return &struct{}{}, nil
	}
	key := stackKey(found.identity)
	var begun *stackRow
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		begun = nil
		st, ok := s.stacks.Read(tx, key)
		if !ok || st.Status == deleteComplete {
			return nil
		}
		if again, err := st.repeated(in.ClientRequestToken, deleteKind); again || err != nil {
			return err
		}
		switch {
		case st.Protected:
			return invalid("Stack [%s] cannot be deleted while TerminationProtection is enabled", st.Name)
		case st.Operation != nil:
			return invalid("Stack [%s] cannot be deleted while in status %s", st.ARN(), st.Status)
		case len(in.RetainResources) > 0 && st.Status != deleteFailed:
			return invalid("Invalid operation on stack [%s]. When you delete a stack, specify which resources to retain only when the stack is in the "+
				"DELETE_FAILED state.", st.ARN())
		}
		begun = st.clone()
		reason, err := s.withdrawExports(tx, begun)
		if err != nil {
			return err
		}
		s.begin(tx, begun, c, deleteInProgress, deleteKind, in.ClientRequestToken, userInitiated)
		begun.Operation.Retain = in.RetainResources
		if reason != "" {
			s.setStatus(tx, begun, deleteFailed, reason)
		}
		s.stacks.Write(tx, key, begun)
		return nil
	})
	if err != nil || begun == nil || begun.Operation == nil {
		return &struct{}{}, err
	}
	return &struct{}{}, s.carryOut(ctx, begun)
}

type updateProtectionIn struct {
	StackName                   string
	EnableTerminationProtection bool
}

func (in *updateProtectionIn) stackName() string { return in.StackName }

type stackIDOut struct{ StackId string }

func (s *Service) updateProtection(ctx context.Context, c *awsapi.Caller, in *updateProtectionIn) (*stackIDOut, error) {
	var id string
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		st, ok := s.readStack(tx, c, in.StackName)
		if !ok || st.Status == deleteComplete {
			return invalid("Stack [%s] does not exist", clip(in.StackName))
		}
		next := st.clone()
		next.Protected, id = in.EnableTerminationProtection, st.ARN()
		s.stacks.Write(tx, stackKey(st.identity), next)
		return nil
	})
	return &stackIDOut{id}, err
}
