package cloudformation

import (
	"context"
	"errors"
	"fmt"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

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
	if err := o.dropStale(ctx, st, h); err != nil {
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

// dropStale undoes what an earlier operation, which failed and was not rolled back, left half done. What it had made and could not finish goes
// at once, since nothing can refer to it and it may have the name that the next one gets.
func (o *run) dropStale(ctx context.Context, st *stackRow, h *held) error {
	if h.Intent == nil || h.Intent.Operation == o.id {
		return nil
	}
	if made := h.Intent.Made; made != nil && !retained(st, h.Intent.DeletionPolicy, true) {
		if err := made.typ().remove(ctx, o.actor, made); err != nil {
			return err
		}
		h.Intent.Made = nil
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
		if err := h.State.typ().set(ctx, o.actorFor(h), h.State, h.Intent.Properties, h.State.Properties); err != nil {
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
		if err := typ.set(ctx, o.actorFor(h), &next, h.State.Properties, begun.Properties); err != nil {
			return err
		}
		return o.achieve(ctx, h, &next, status)
	}
	if begun.Made == nil {
		made, err := makeOnce(ctx, o.actorFor(h), typ, begun, again)
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
		if err := typ.set(ctx, o.actorFor(h), begun.Made, begun.Properties.only(typ.made), begun.Properties); err != nil {
			return err
		}
	}
	return o.achieve(ctx, h, begun.Made, status)
}

// actorFor is the actor for a resource: what it makes has the tags that say so (CloudFormation User Guide, "Resource tag").
func (o *run) actorFor(h *held) *actor {
	if typ := typeNamed(h.row.Type); typ == nil || !typ.tagged {
		return o.actor
	}
	caller := *o.actor.caller
	caller.SystemTags = []awsapi.Tag{
		{Key: "aws:cloudformation:logical-id", Value: h.row.ID},
		{Key: "aws:cloudformation:stack-id", Value: o.actor.stack.ARN()},
		{Key: "aws:cloudformation:stack-name", Value: o.actor.stack.Name},
	}
	x := *o.actor
	x.caller = &caller
	return &x
}

func makeOnce(ctx context.Context, x *actor, typ *resourceType, begun *intent, again bool) (*state, error) {
	if again && typ.find != nil {
		if found, err := typ.find(ctx, x, begun); found != nil || err != nil {
			return found, err
		}
	}
	return typ.make(ctx, x, begun)
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
