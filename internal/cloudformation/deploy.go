package cloudformation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// The statuses of stacks (CloudFormation User Guide, "Understand stack creation events"). Those in progress say where a stack's
// operation stands: they are all that a replica needs to carry it on.
const (
	createInProgress         = "CREATE_IN_PROGRESS"
	createComplete           = "CREATE_COMPLETE"
	createFailed             = "CREATE_FAILED"
	rollbackInProgress       = "ROLLBACK_IN_PROGRESS"
	rollbackComplete         = "ROLLBACK_COMPLETE"
	rollbackFailed           = "ROLLBACK_FAILED"
	deleteInProgress         = "DELETE_IN_PROGRESS"
	deleteComplete           = "DELETE_COMPLETE"
	deleteFailed             = "DELETE_FAILED"
	deleteSkipped            = "DELETE_SKIPPED" // of resources
	updateInProgress         = "UPDATE_IN_PROGRESS"
	updateCleanup            = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
	updateComplete           = "UPDATE_COMPLETE"
	updateFailed             = "UPDATE_FAILED"
	updateRollbackInProgress = "UPDATE_ROLLBACK_IN_PROGRESS"
	updateRollbackFailed     = "UPDATE_ROLLBACK_FAILED"
	updateRollbackCleanup    = "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS"
	updateRollbackComplete   = "UPDATE_ROLLBACK_COMPLETE"
	reviewInProgress         = "REVIEW_IN_PROGRESS"
	stackType                = "AWS::CloudFormation::Stack"
	lease                    = 15 * time.Second
	operationTimeout         = 10 * time.Minute
	deletedStacksAreKept     = 90 * 24 * time.Hour
	replacementReason        = "Requested update requires the creation of a new physical resource; hence creating one."
	initiatedReason          = "Resource creation Initiated"
	userInitiated            = "User Initiated"
	internalReason           = "Internal Failure"
)

// errTakenOver ends a run whose operation another replica has taken over, because it waited too long between two steps.
var errTakenOver = fmt.Errorf("%w: another replica has taken the operation over", kv.ErrUnavailable)

// run carries out a stack's operation.
type run struct {
	s     *Service
	key   string // of the stack
	id    string // of the operation
	term  int
	actor *actor
}

// abandoned reports whether an error means that the run cannot go on, nor tell what came of its last step. The operation stays as it
// is stored, and is carried on later.
func abandoned(err error) bool {
	return errors.Is(err, kv.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// carryOut runs the operation that was just begun, or taken over. It does not end with the request that began it: what is begun is
// finished.
func (s *Service) carryOut(ctx context.Context, begun *stackRow) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationTimeout)
	defer cancel()
	o := &run{
		s: s, key: stackKey(begun.identity), id: begun.Operation.ID, term: begun.Operation.Term,
		actor: &actor{invoke: s.invoke, caller: begun.Operation.Caller, stack: begun.identity},
	}
	for st := begun; st.Operation != nil && st.Operation.ID == o.id; {
		if err := o.next(ctx, st); err != nil {
			return fmt.Errorf("carry on with stack %s, which is %s: %w", st.ARN(), st.Status, err)
		}
		var there bool
		if st, there = s.stacks.Get(o.key); !there {
			return nil
		}
	}
	return nil
}

// next takes an operation from one status to the next.
func (o *run) next(ctx context.Context, st *stackRow) error {
	switch st.Status {
	case createInProgress, updateInProgress:
		return o.forward(ctx, st)
	case rollbackInProgress, deleteInProgress:
		return o.unmake(ctx, st)
	case updateRollbackInProgress:
		return o.revert(ctx, st)
	case updateCleanup, updateRollbackCleanup:
		return o.cleanUp(ctx, st)
	}
	return fmt.Errorf("the status %s has no operation", st.Status)
}

// takeOver carries on an operation that its replica has abandoned.
func (s *Service) takeOver(ctx context.Context, key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("settle stack %s: panic: %v\n%s", key, p, debug.Stack())
		}
	}()
	var taken *stackRow
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		taken = nil
		st, ok := s.stacks.Read(tx, key)
		if !ok || st.Operation == nil || s.now().Before(st.Operation.Until) {
			return nil
		}
		taken = st.clone()
		taken.Operation.Term++
		taken.Operation.Until = s.now().Add(lease)
		s.stacks.Write(tx, key, taken)
		return nil
	})
	if err != nil || taken == nil {
		return err
	}
	s.log.InfoContext(ctx, "stack operation taken over", slog.String("stack", key))
	return s.carryOut(ctx, taken)
}

// commit stores a step: a change of the stack's row and of others. It fails when the operation is no longer this run's.
func (o *run) commit(ctx context.Context, change func(tx *kv.Tx, st *stackRow) error) error {
	s := o.s
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		old, ok := s.stacks.Read(tx, o.key)
		if !ok || old.Operation == nil || old.Operation.ID != o.id || old.Operation.Term != o.term {
			return errTakenOver
		}
		st := old.clone()
		st.Operation.Until = s.now().Add(lease)
		if err := change(tx, st); err != nil {
			return err
		}
		s.stacks.Write(tx, o.key, st)
		return nil
	})
}

// addEvent adds an event to a stack as part of tx. Beyond a stack's most events the oldest goes.
func (s *Service) addEvent(tx *kv.Tx, st *stackRow, e eventRow) {
	st.Events++
	key := stackKey(st.identity)
	e.Time = s.now().UTC()
	if e.ID == "" {
		e.ID = awsapi.NewUUID()
	}
	if st.Operation != nil {
		e.Token = st.Operation.Token
	}
	s.events.Write(tx, eventKey(key, st.Events), &e)
	if st.Events > maxEvents {
		s.events.Remove(tx, eventKey(key, st.Events-maxEvents))
	}
}

// setStatus gives a stack another status, with its event, as part of tx. A status that is not in progress ends the operation.
func (s *Service) setStatus(tx *kv.Tx, st *stackRow, status, reason string) {
	st.Status, st.Reason = status, reason
	s.addEvent(tx, st, eventRow{Logical: st.Name, Physical: st.ARN(), Type: stackType, Status: status, Reason: reason})
	if !strings.HasSuffix(status, "_IN_PROGRESS") || status == reviewInProgress {
		st.Operation = nil
	}
}

// record stores a resource, with an event for its status unless that is empty.
func (o *run) record(ctx context.Context, h *held, status, reason string) error {
	s := o.s
	row := *h.row
	row.Reason, row.Updated = reason, s.now().UTC()
	if status != "" {
		row.Status = status
	}
	var err error
	key := o.key + "/" + row.ID
	if row.Sealed, err = s.seal(key, h.resourceSecrets); err != nil {
		return err
	}
	err = o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		s.resources.Write(tx, key, &row)
		if status != "" {
			s.addEvent(tx, st, resourceEvent(&row, row.Physical, status, reason))
		}
		return nil
	})
	if err == nil {
		h.row = &row
	}
	return err
}

func resourceEvent(row *resourceRow, physical, status, reason string) eventRow {
	return eventRow{
		ID: row.ID + "-" + status + "-" + awsapi.NewUUID(), Logical: row.ID, Physical: physical, Type: row.Type, Status: status, Reason: reason,
	}
}

// say adds an event about a resource that does not change what is stored of it.
func (o *run) say(ctx context.Context, h *held, physical, status, reason string) error {
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		o.s.addEvent(tx, st, resourceEvent(h.row, physical, status, reason))
		return nil
	})
}

// reasonOf says in an event why a step failed, in the words of CloudFormation's resource handlers where a service refused.
func (o *run) reasonOf(ctx context.Context, err error) string {
	refused, ok := errors.AsType[*awsapi.Error](err)
	switch {
	case !ok:
		o.s.log.ErrorContext(ctx, "step of a stack failed", slog.String("stack", o.key), slog.Any("err", err))
		return internalReason
	case refused.Status == 0: // CloudFormation's own
		return refused.Message
	}
	return fmt.Sprintf("Resource handler returned message: \"%s (Status Code: %d)\" (HandlerErrorCode: %s)",
		refused.Message, refused.Status, handlerCode(refused))
}

// handlerCode is the class of a service's refusal (CloudFormation CLI User Guide, "Handler error codes").
func handlerCode(e *awsapi.Error) string {
	switch strings.TrimSuffix(e.Code, "Exception") {
	case "EntityAlreadyExists", "ResourceInUse":
		return "AlreadyExists"
	case "NoSuchEntity", "ResourceNotFound", "NotFound":
		return "NotFound"
	case "AccessDenied":
		return "AccessDenied"
	case "LimitExceeded", "ResourceLimitExceeded":
		return "ServiceLimitExceeded"
	case "DeleteConflict", "ConcurrentModification":
		return "ResourceConflict"
	}
	if e.Status >= 500 {
		return "ServiceInternalError"
	}
	return "InvalidRequest"
}

// target is what an operation goes towards, read from the store.
type target struct {
	template *template
	settings *settings
	secrets  *settingsSecrets
}

func (s *Service) target(key string, generation int) (*target, error) {
	row, secrets, err := s.generation(key, generation)
	if err != nil {
		return nil, err
	}
	t, err := parseTemplate(row.Template)
	if err != nil {
		return nil, fmt.Errorf("read a template that was taken before: %w", err)
	}
	return &target{t, row, secrets}, nil
}

// forward makes of a stack what its next settings want.
func (o *run) forward(ctx context.Context, st *stackRow) error {
	goal, err := o.s.target(o.key, st.Next)
	if err != nil {
		return err
	}
	have, err := o.s.resourcesOf(o.key)
	if err != nil {
		return err
	}
	e := o.s.newEvaluator(goal.template, st.identity, goal.secrets.Parameters, func(id string) (*state, bool) {
		if h := have[id]; h != nil && h.State != nil {
			return h.State, true
		}
		return nil, false
	})
	ordered, err := e.order()
	if err != nil {
		return err // the plan had found it
	}
	for _, r := range ordered {
		h := have[r.id]
		if h == nil {
			h = &held{row: &resourceRow{ID: r.id, Type: r.typ.name}}
			have[r.id] = h
		}
		w, err := e.want(r, goal.settings.Tags)
		if err == nil {
			err = o.bring(ctx, st, h, w)
		}
		switch {
		case err == nil:
			continue
		case abandoned(err):
			return err
		}
		verb, status := "create", createFailed
		if h.State != nil {
			verb, status = "update", updateFailed
		}
		if err := o.record(ctx, h, status, o.reasonOf(ctx, err)); err != nil {
			return err
		}
		return o.fail(ctx, fmt.Sprintf("The following resource(s) failed to %s: [%s].", verb, r.id))
	}
	outputs, err := e.outputs()
	if err == nil {
		err = o.complete(ctx, st, outputs)
	}
	if refused, ok := errors.AsType[*awsapi.Error](err); ok {
		return o.fail(ctx, refused.Message)
	}
	return err
}

// fail turns an operation round.
func (o *run) fail(ctx context.Context, reason string) error {
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		status := updateRollbackInProgress
		switch {
		case st.Status == createInProgress && (st.DisableRollback || st.OnFailure == "DO_NOTHING"):
			status = createFailed
		case st.Status == createInProgress && st.OnFailure == "DELETE":
			status, reason = deleteInProgress, reason+" Delete requested by user."
		case st.Status == createInProgress:
			status, reason = rollbackInProgress, reason+" Rollback requested by user."
		case st.DisableRollback:
			status = updateFailed
		}
		o.s.setStatus(tx, st, status, reason)
		return nil
	})
}

// bring makes a resource what it is wanted to be.
func (o *run) bring(ctx context.Context, st *stackRow, h *held, w *wanted) error {
	if err := o.dropStale(ctx, h); err != nil {
		return err
	}
	if h.Intent != nil { // the operation was interrupted here
		return o.finish(ctx, h, w.typ, true)
	}
	step := decide(w, h)
	if step.change == noChange {
		return nil
	}
	if !h.touched(st) {
		h.Touched, h.Base, h.Before, h.Discard = true, st.Current, h.State, nil
	}
	if step.change == keepChange {
		kept := *h.State
		kept.DeletionPolicy, kept.UpdateReplacement, kept.Requires = w.deletionPolicy, w.updateReplacement, w.dependsOn
		h.State = &kept
		return o.record(ctx, h, "", h.row.Reason)
	}
	if step.change == replaceChange && len(h.Discard) >= maxDiscard {
		return invalid("The resource has been replaced too often without a rollback of the failed updates.")
	}
	h.Intent = &intent{
		Action: updateAction, Operation: o.id, Properties: w.properties, Token: awsapi.NewUUID(), Started: o.s.now().UTC(),
		Requires: w.dependsOn, DeletionPolicy: w.deletionPolicy, UpdateReplacement: w.updateReplacement,
	}
	status, reason := updateInProgress, ""
	if step.change != modifyChange {
		h.Intent.Action, h.Intent.Name = createAction, nameFor(st.identity, w)
		if w.typ.prepare != nil {
			if err := w.typ.prepare(ctx, o.actor, h.Intent); err != nil {
				h.Intent = nil
				return err
			}
		}
		if status, reason = createInProgress, ""; step.change == replaceChange {
			status, reason = updateInProgress, replacementReason
		}
	}
	h.row = &resourceRow{ID: h.row.ID, Type: w.typ.name, Physical: h.row.Physical, Status: h.row.Status}
	if err := o.record(ctx, h, status, reason); err != nil {
		return err
	}
	return o.finish(ctx, h, w.typ, false)
}

// maxDiscard is how many replaced resources one row keeps for removal.
const maxDiscard = 4

// touched reports whether the operation, or one before it that failed and was not rolled back, has changed the resource.
func (h *held) touched(st *stackRow) bool { return h.Touched && h.Base == st.Current }

// dropStale undoes what an earlier operation, which failed and was not rolled back, left half done.
func (o *run) dropStale(ctx context.Context, h *held) error {
	if h.Intent == nil || h.Intent.Operation == o.id {
		return nil
	}
	if err := o.dropIntent(ctx, h); err != nil {
		return err
	}
	return o.record(ctx, h, "", h.row.Reason)
}

// dropIntent takes back a step that was begun: half an update is undone, and what was made is kept for removal.
func (o *run) dropIntent(ctx context.Context, h *held) error {
	if h.Intent == nil {
		return nil
	}
	if h.Intent.Made != nil {
		h.Discard = append(h.Discard, *h.Intent.Made)
	}
	if h.Intent.Action == updateAction && h.State != nil {
		if err := h.State.typ().set(ctx, o.actor, h.State, h.Intent.Properties, h.State.Properties); err != nil {
			return err
		}
	}
	h.Intent = nil
	return nil
}

// typ is the type of a resource that was made. Only what has a type is made.
func (s *state) typ() *resourceType {
	if t := typeNamed(s.Type); t != nil {
		return t
	}
	panic("cloudformation: a stored resource has the unknown type " + s.Type)
}

// finish carries out a resource's intent. again is set when an earlier attempt may have done so already.
func (o *run) finish(ctx context.Context, h *held, typ *resourceType, again bool) error {
	begun := h.Intent
	status := updateComplete
	if h.State == nil {
		status = createComplete
	}
	if begun.Action == updateAction {
		next := *h.State
		if err := typ.set(ctx, o.actor, &next, h.State.Properties, begun.Properties); err != nil {
			return err
		}
		return o.achieve(ctx, h, &next, status)
	}
	if begun.Made == nil {
		made, err := o.makeOnce(ctx, typ, begun, again)
		if abandoned(err) {
			return err
		}
		if err != nil {
			h.Intent = nil // there is nothing to remove
			return err
		}
		made.Type, made.Properties = typ.name, begun.Properties
		begun.Made = made
		h.row.Physical = made.Physical
		if err := o.record(ctx, h, h.row.Status, initiatedReason); err != nil {
			return err
		}
	}
	if typ.set != nil {
		if err := typ.set(ctx, o.actor, begun.Made, begun.Properties.only(typ.made), begun.Properties); err != nil {
			return err
		}
	}
	return o.achieve(ctx, h, begun.Made, status)
}

func (o *run) makeOnce(ctx context.Context, typ *resourceType, begun *intent, again bool) (*state, error) {
	if again && typ.find != nil {
		if found, err := typ.find(ctx, o.actor, begun); found != nil || err != nil {
			return found, err
		}
	}
	return typ.make(ctx, o.actor, begun)
}

// achieve stores the state that an intent has led to.
func (o *run) achieve(ctx context.Context, h *held, next *state, status string) error {
	begun := h.Intent
	reached := *next
	reached.Properties, reached.Requires = begun.Properties, begun.Requires
	reached.DeletionPolicy, reached.UpdateReplacement = begun.DeletionPolicy, begun.UpdateReplacement
	if h.State != nil && h.State.Physical != reached.Physical && (h.Before == nil || h.State.Physical != h.Before.Physical) {
		h.Discard = append(h.Discard, *h.State)
	}
	h.State, h.Intent = &reached, nil
	h.row.Physical = reached.Physical
	return o.record(ctx, h, status, "")
}

// complete ends a creation, or the forward part of an update: outputs and exports become what the template says.
func (o *run) complete(ctx context.Context, st *stackRow, outputs []outputValue) error {
	s := o.s
	var before []outputValue
	if st.Current != 0 {
		_, secrets, err := s.generation(o.key, st.Current)
		if err != nil {
			return err
		}
		before = secrets.Outputs
	}
	next, secrets, err := s.generation(o.key, st.Next)
	if err != nil {
		return err
	}
	secrets.Outputs = outputs
	done := *next
	key := generationKey(o.key, st.Next)
	if done.Sealed, err = s.seal(key, secrets); err != nil {
		return err
	}
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		if err := s.setExports(tx, st, before, outputs); err != nil {
			return err
		}
		s.settings.Write(tx, key, &done)
		st.Current, st.Next = st.Next, 0
		if st.Status == createInProgress {
			s.setStatus(tx, st, createComplete, "")
		} else {
			s.setStatus(tx, st, updateCleanup, "")
		}
		return nil
	})
}

// setExports replaces a stack's exports as part of tx. What others import stays as it is.
func (s *Service) setExports(tx *kv.Tx, st *stackRow, before, after []outputValue) error {
	key, scope := stackKey(st.identity), st.Account+"/"+st.Region+"/"
	stays := map[string]bool{}
	for _, out := range after {
		if out.Export == "" {
			continue
		}
		stays[out.Export] = true
		at := scope + out.Export
		row, ok := s.exports.Read(tx, at)
		if ok && row.Stack != key {
			return invalid("Export with name %s is already exported by stack %s.", out.Export, s.stackNames(row.Stack))
		}
		next := exportRow{Stack: key}
		if ok {
			var value string
			if err := s.open(at, row.Sealed, &value); err != nil {
				return err
			}
			if value == out.Value {
				continue
			}
			if len(row.Importers) > 0 {
				return invalid("%s", inUse(out.Export, "updated", s.stackNames(row.Importers...)))
			}
		}
		var err error
		if next.Sealed, err = s.seal(at, out.Value); err != nil {
			return err
		}
		s.exports.Write(tx, at, &next)
	}
	for _, out := range before {
		if out.Export == "" || stays[out.Export] {
			continue
		}
		row, ok := s.exports.Read(tx, scope+out.Export)
		if !ok || row.Stack != key {
			continue
		}
		if len(row.Importers) > 0 {
			return invalid("%s", inUse(out.Export, "deleted", s.stackNames(row.Importers...)))
		}
		s.exports.Remove(tx, scope+out.Export)
	}
	return nil
}

func inUse(export, verb, by string) string {
	return "Export " + export + " cannot be " + verb + " as it is in use by " + by + "."
}

// stackNames are the names of stacks, by their keys.
func (s *Service) stackNames(keys ...string) string {
	names := make([]string, 0, len(keys))
	for _, key := range keys {
		if st, ok := s.stacks.Get(key); ok {
			names = append(names, st.Name)
		}
	}
	return strings.Join(names, ", ")
}

// claimImports enters a stack as an importer of exports, as part of tx.
func (s *Service) claimImports(tx *kv.Tx, st *stackRow, imports []string) error {
	for _, name := range imports {
		at := st.Account + "/" + st.Region + "/" + name
		row, ok := s.exports.Read(tx, at)
		if !ok {
			return invalid("No export named %s found.", clip(name))
		}
		if slices.Contains(row.Importers, stackKey(st.identity)) {
			continue
		}
		next := *row
		next.Importers = append(slices.Clone(row.Importers), stackKey(st.identity))
		s.exports.Write(tx, at, &next)
	}
	return nil
}

// releaseImports strikes a stack from the importers of all exports that are not in keep, as part of tx.
func (s *Service) releaseImports(tx *kv.Tx, st *stackRow, imports, keep []string) {
	for _, name := range without(imports, keep) {
		at := st.Account + "/" + st.Region + "/" + name
		row, ok := s.exports.Read(tx, at)
		if !ok || !slices.Contains(row.Importers, stackKey(st.identity)) {
			continue
		}
		next := *row
		next.Importers = slices.DeleteFunc(slices.Clone(row.Importers), func(key string) bool { return key == stackKey(st.identity) })
		s.exports.Write(tx, at, &next)
	}
}

// importsOf are the exports that a generation of a stack's settings imports.
func (s *Service) importsOf(key string, generation int) []string {
	if row, ok := s.settings.Get(generationKey(key, generation)); ok {
		return row.Imports
	}
	return nil
}

// unmake removes all resources of a stack whose creation is rolled back or which is deleted.
func (o *run) unmake(ctx context.Context, st *stackRow) error {
	have, err := o.s.resourcesOf(o.key)
	if err != nil {
		return err
	}
	rollback := st.Status == rollbackInProgress
	var failed []string
	needed := map[string]bool{} // by what could not be removed
	for _, id := range removalOrder(have) {
		h := have[id]
		gone := len(h.states()) == 0
		if gone && (h.row.Status == deleteComplete || h.row.Status == deleteSkipped) {
			continue
		}
		removed := !needed[id]
		if removed {
			if removed, err = o.unmakeOne(ctx, st, h, rollback); err != nil {
				return err
			}
			if !removed {
				failed = append(failed, id)
			}
		}
		if !removed {
			for _, s := range h.states() {
				for _, other := range s.Requires {
					needed[other] = true
				}
			}
		}
	}
	return o.unmade(ctx, failed)
}

// unmakeOne removes a resource, unless it is to be retained, and reports whether it is done with.
func (o *run) unmakeOne(ctx context.Context, st *stackRow, h *held, rollback bool) (bool, error) {
	if h.State != nil && (slices.Contains(st.Operation.Retain, h.row.ID) || retained(st, h.State.DeletionPolicy, rollback)) {
		h.resourceSecrets = resourceSecrets{}
		return true, o.record(ctx, h, deleteSkipped, "")
	}
	states := h.states()
	if len(states) > 0 {
		if err := o.record(ctx, h, deleteInProgress, ""); err != nil {
			return false, err
		}
	}
	seen := map[string]bool{}
	for _, s := range states {
		if seen[s.Physical] {
			continue
		}
		seen[s.Physical] = true
		err := s.typ().remove(ctx, o.actor, s)
		if abandoned(err) {
			return false, err
		}
		if err != nil {
			return false, o.record(ctx, h, deleteFailed, o.reasonOf(ctx, err))
		}
	}
	h.resourceSecrets = resourceSecrets{}
	return true, o.record(ctx, h, deleteComplete, "")
}

// retained reports whether a resource outlives its stack. rollback is set when the operation takes back what itself made.
func retained(st *stackRow, policy string, rollback bool) bool {
	return policy == policyRetain && (!rollback || !st.RetainExceptOnCreate) || policy == policyRetainExceptOnCreate && !rollback
}

// unmade ends a rollback of a creation, or a deletion.
func (o *run) unmade(ctx context.Context, failed []string) error {
	s := o.s
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		s.releaseImports(tx, st, s.importsOf(o.key, max(st.Current, st.Next)), nil)
		reason := ""
		if len(failed) > 0 {
			reason = fmt.Sprintf("The following resource(s) failed to delete: [%s].", strings.Join(failed, ", "))
		}
		switch rollback := st.Status == rollbackInProgress; {
		case rollback && len(failed) > 0:
			s.setStatus(tx, st, rollbackFailed, reason)
		case rollback:
			s.setStatus(tx, st, rollbackComplete, "")
		case len(failed) > 0:
			s.setStatus(tx, st, deleteFailed, reason)
		default:
			st.Deleted = s.now().UTC()
			s.names.Remove(tx, st.Account+"/"+st.Region+"/"+st.Name)
			s.setStatus(tx, st, deleteComplete, "")
		}
		return nil
	})
}

// revert brings resources back to what they were before an update. What the update made is removed afterwards, by cleanUp.
func (o *run) revert(ctx context.Context, st *stackRow) error {
	have, err := o.s.resourcesOf(o.key)
	if err != nil {
		return err
	}
	order := removalOrder(have)
	slices.Reverse(order)
	for _, id := range order {
		h := have[id]
		if !h.touched(st) {
			continue
		}
		err := o.revertOne(ctx, h)
		if abandoned(err) {
			return err
		}
		if err == nil {
			continue
		}
		if err := o.record(ctx, h, updateFailed, o.reasonOf(ctx, err)); err != nil {
			return err
		}
		return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
			o.s.setStatus(tx, st, updateRollbackFailed, fmt.Sprintf("The following resource(s) failed to update: [%s].", id))
			return nil
		})
	}
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		o.s.setStatus(tx, st, updateRollbackCleanup, "")
		return nil
	})
}

func (o *run) revertOne(ctx context.Context, h *held) error {
	if h.State == nil && h.Before == nil && h.Intent == nil {
		return nil // it was not made
	}
	inPlace := h.Before != nil && h.State != nil && h.State.Physical == h.Before.Physical
	changed := inPlace && canonical(h.State.Properties) != canonical(h.Before.Properties) || h.Intent != nil && h.Intent.Action == updateAction
	if changed {
		if err := o.say(ctx, h, h.State.Physical, updateInProgress, ""); err != nil {
			return err
		}
	}
	if err := o.dropIntent(ctx, h); err != nil {
		return err
	}
	if inPlace {
		back := *h.State
		if err := o.setBack(ctx, h, &back); err != nil {
			return err
		}
	} else if h.State != nil {
		h.Discard = append(h.Discard, *h.State)
	}
	h.State = h.Before
	if h.State == nil {
		return o.record(ctx, h, "", h.row.Reason)
	}
	h.row.Physical = h.State.Physical
	if !changed {
		return o.record(ctx, h, "", "")
	}
	return o.record(ctx, h, updateComplete, "")
}

func (o *run) setBack(ctx context.Context, h *held, s *state) error {
	typ := s.typ()
	if typ.set == nil {
		return nil
	}
	return typ.set(ctx, o.actor, s, h.State.Properties, h.Before.Properties)
}

// cleanUp removes what an update, or its rollback, has left over: resources that were replaced or are no longer wanted. What cannot be
// removed stays behind, and an event says so: that does not undo the update.
func (o *run) cleanUp(ctx context.Context, st *stackRow) error {
	s := o.s
	goal, err := s.target(o.key, st.Current)
	if err != nil {
		return err
	}
	ordered, err := s.newEvaluator(goal.template, st.identity, goal.secrets.Parameters, nil).order()
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, r := range ordered {
		wanted[r.id] = true
	}
	have, err := s.resourcesOf(o.key)
	if err != nil {
		return err
	}
	rollback := st.Status == updateRollbackCleanup
	for _, id := range removalOrder(have) {
		if err := o.cleanUpOne(ctx, st, have[id], wanted[id], rollback); err != nil {
			return err
		}
	}
	return o.commit(ctx, func(tx *kv.Tx, st *stackRow) error {
		var imports []string
		for _, row := range s.settings.Scan(o.key+"/", "") {
			imports = append(imports, row.Imports...)
		}
		slices.Sort(imports)
		imports = slices.Compact(imports)
		s.releaseImports(tx, st, imports, goal.settings.Imports)
		for at := range s.settings.Scan(o.key+"/", "") {
			if at != generationKey(o.key, st.Current) {
				s.settings.Remove(tx, at)
			}
		}
		st.Next = 0
		if rollback {
			s.setStatus(tx, st, updateRollbackComplete, "")
		} else {
			s.setStatus(tx, st, updateComplete, "")
		}
		return nil
	})
}

func (o *run) cleanUpOne(ctx context.Context, st *stackRow, h *held, wanted, rollback bool) error {
	type leftover struct {
		state  *state
		policy string
		made   bool // by the operation that is taken back
	}
	var left []leftover
	for i := range h.Discard {
		left = append(left, leftover{&h.Discard[i], h.Discard[i].DeletionPolicy, true})
	}
	if h.Intent != nil && h.Intent.Made != nil { // of an update that failed and was not rolled back
		left = append(left, leftover{h.Intent.Made, h.Intent.DeletionPolicy, true})
	}
	switch {
	case !wanted && h.State != nil:
		left = append(left, leftover{h.State, h.State.DeletionPolicy, false})
	case !rollback && h.State != nil && h.Before != nil && h.Before.Physical != h.State.Physical:
		left = append(left, leftover{h.Before, h.State.UpdateReplacement, false})
	}
	for _, l := range left {
		if retained(st, l.policy, l.made) {
			if err := o.say(ctx, h, l.state.Physical, deleteSkipped, ""); err != nil {
				return err
			}
			continue
		}
		if err := o.say(ctx, h, l.state.Physical, deleteInProgress, ""); err != nil {
			return err
		}
		status, reason := deleteComplete, ""
		if err := l.state.typ().remove(ctx, o.actor, l.state); abandoned(err) {
			return err
		} else if err != nil {
			status, reason = deleteFailed, o.reasonOf(ctx, err)
		}
		if err := o.say(ctx, h, l.state.Physical, status, reason); err != nil {
			return err
		}
	}
	if !wanted || h.State == nil {
		return o.commit(ctx, func(tx *kv.Tx, _ *stackRow) error {
			o.s.resources.Remove(tx, o.key+"/"+h.row.ID)
			return nil
		})
	}
	if !h.Touched {
		return nil
	}
	h.Touched, h.Before, h.Discard, h.Intent = false, nil, nil, nil
	return o.record(ctx, h, "", h.row.Reason)
}

// forget removes what is left of stacks that were deleted long ago.
func (s *Service) forget(ctx context.Context) error {
	var old []string
	for key, st := range s.stacks.Scan("", "") {
		if !st.Deleted.IsZero() && s.now().Sub(st.Deleted) > deletedStacksAreKept {
			old = append(old, key)
		}
	}
	for _, key := range old {
		if err := s.removeRows(ctx, key); err != nil {
			return fmt.Errorf("forget the deleted stack %s: %w", key, err)
		}
	}
	return nil
}

// removeRows removes a stack's rows, its own last, so that an interruption leaves something to begin with.
func (s *Service) removeRows(ctx context.Context, key string) error {
	for {
		var some []func(*kv.Tx)
		collect := func(at string, remove func(*kv.Tx, string)) bool {
			some = append(some, func(tx *kv.Tx) { remove(tx, at) })
			return len(some) < kv.MaxOps-1
		}
		for at := range s.events.Scan(key+"/", "") {
			if !collect(at, s.events.Remove) {
				break
			}
		}
		for at := range s.resources.Scan(key+"/", "") {
			if len(some) >= kv.MaxOps-1 || !collect(at, s.resources.Remove) {
				break
			}
		}
		for at := range s.settings.Scan(key+"/", "") {
			if len(some) >= kv.MaxOps-1 || !collect(at, s.settings.Remove) {
				break
			}
		}
		for at := range s.changeSets.Scan(key+"/", "") {
			if len(some) >= kv.MaxOps-1 || !collect(at, s.changeSets.Remove) {
				break
			}
		}
		last := len(some) < kv.MaxOps-1
		err := s.db.Update(ctx, func(tx *kv.Tx) error {
			for _, remove := range some {
				remove(tx)
			}
			if last {
				s.stacks.Remove(tx, key)
			}
			return nil
		})
		if err != nil || last {
			return err
		}
	}
}
