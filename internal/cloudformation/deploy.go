package cloudformation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
		actor: &actor{invoke: s.invoke, buckets: s.buckets, caller: begun.Operation.Caller, stack: begun.identity},
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
	case "EntityAlreadyExists", "ResourceInUse", "BucketAlreadyExists", "BucketAlreadyOwnedByYou":
		return "AlreadyExists"
	case "NoSuchEntity", "ResourceNotFound", "NotFound", "NoSuchBucket":
		return "NotFound"
	case "AccessDenied":
		return "AccessDenied"
	case "LimitExceeded", "ResourceLimitExceeded":
		return "ServiceLimitExceeded"
	case "DeleteConflict", "ConcurrentModification":
		return "ResourceConflict"
	case "BucketNotEmpty":
		return "GeneralServiceException"
	}
	if e.Status >= 500 {
		return "ServiceInternalError"
	}
	return "InvalidRequest"
}
