package cloudformation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/kv"
)

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
		s.releaseImports(tx, st, s.imports(o.key), nil)
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
	before := h.Before
	if inPlace {
		back := *h.State
		if err := o.setBack(ctx, h, &back); err != nil {
			return err
		}
		same := *h.Before
		same.Attributes = back.Attributes
		before = &same
	} else if h.State != nil {
		h.Discard = append(h.Discard, *h.State)
	}
	h.State = before
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
	return typ.set(ctx, o.actorFor(h), s, h.State.Properties, h.Before.Properties)
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
		s.releaseImports(tx, st, s.imports(o.key), goal.settings.Imports)
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
