package awsapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// viaSuffix makes a service principal of a service's name.
const viaSuffix = ".amazonaws.com"

// Invoke calls an operation for a caller as the wire would: the input is held to the model, the caller's permissions are asked
// for, and the call leaves a log event of its own. It is for services that act for their callers, as CloudFormation does; the
// caller's identity and the circumstances of its request are kept (IAM User Guide, "Forward access sessions"), the condition keys
// aws:ViaAWSService, aws:CalledVia, aws:CalledViaFirst and aws:CalledViaLast name the service that c.Service has, and the
// call has a request ID and a time of its own.
//
// in has the members of the operation's input by their names in the model, with JSON's types: string, float64, bool, []any and
// map[string]any. The result has the output's members likewise; times are seconds since 1970.
//
// A refusal is an *Error with its status. Errors that wrap kv.ErrUnavailable mean that the outcome is unknown. Any other error
// is a failure of the server.
func (h *Handler) Invoke(ctx context.Context, c *Caller, service, operation string, in map[string]any) (out map[string]any, err error) {
	s := h.byName[service]
	if s == nil {
		return nil, fmt.Errorf("invoke %s of %s: there is no such service", operation, service)
	}
	op := s.operations[operation]
	if op == nil || !op.served {
		return nil, fmt.Errorf("invoke %s of %s: the operation is not served", operation, service)
	}
	outer, _ := ctx.Value(eventKey{}).(*event)
	ctx, e := h.nest(ctx, c, service, operation)
	defer func() { h.settle(ctx, e, outer, err) }()
	input, output, err := h.invoke(ctx, e, op, in)
	if unrecorded := h.record(ctx, e, op, input, output, err); unrecorded != nil {
		return nil, fmt.Errorf("%w: %w", kv.ErrUnavailable, unrecorded) // it must be called again
	}
	if err != nil {
		return nil, op.refusal(err, e.requestID)
	}
	return op.members(output)
}

// InvokeRaw is Invoke for the services that no model describes: do does what is asked for, for the caller that it is given, and asks
// for the permissions itself, as the service's Raw handler does for calls by wire. Like those, the call is not in the audit trail.
func (h *Handler) InvokeRaw(ctx context.Context, c *Caller, service, operation string, do func(context.Context, *Caller) error) (err error) {
	outer, _ := ctx.Value(eventKey{}).(*event)
	ctx, e := h.nest(ctx, c, service, operation)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(ctx, p)
		}
		h.settle(ctx, e, outer, err)
	}()
	return do(ctx, e.caller)
}

// nest begins a call that the service of a caller's request makes for it.
func (h *Handler) nest(ctx context.Context, c *Caller, service, operation string) (context.Context, *event) {
	e := &event{requestID: NewUUID(), start: time.Now(), service: service, operation: operation}
	nested := *c
	nested.RequestID, nested.Service, nested.Operation, nested.Via = e.requestID, service, operation, c.Service
	nested.UserAgent, nested.Time = c.Service+viaSuffix, h.auth.now()
	e.caller = &nested
	return context.WithValue(ctx, eventKey{}, e), e
}

// settle leaves the call's log event, and hands its warnings on to the event of the request that it was made for, if any.
func (h *Handler) settle(ctx context.Context, e, outer *event, err error) {
	e.status = http.StatusOK
	if err != nil {
		s := h.byName[e.service]
		if s == nil {
			s = &service{protocol: restJSONProtocol}
		}
		wire := s.toWire(err, e.requestID)
		e.status, e.code, e.err = wire.Status, wire.Code, cause(err)
	}
	if outer != nil {
		Annotate(ctx, slog.String("for_request_id", outer.requestID))
		outer.mu.Lock()
		outer.warnings = append(outer.warnings, e.warnings[:min(len(e.warnings), maxWarnings-len(outer.warnings))]...)
		outer.mu.Unlock()
	}
	e.log(ctx, h.log, &http.Request{
		RemoteAddr: netip.AddrPortFrom(e.caller.SourceIP, 0).String(), Header: http.Header{"User-Agent": {e.caller.UserAgent}},
	})
}

// invoke does what is asked for. The input is nil if it does not fit the model. A panic of the operation is an error.
func (h *Handler) invoke(ctx context.Context, e *event, op *operation, given map[string]any) (in, out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(ctx, p)
		}
	}()
	made := op.impl.newIn()
	if err := op.decodeMembers(made, given); err != nil {
		return nil, nil, err
	}
	if err := h.permit(ctx, e, e.caller, op, made); err != nil {
		return made, nil, err
	}
	out, err = op.impl.call(ctx, e.caller, made)
	return made, out, err
}

// members turns an operation's output into what Invoke returns.
func (op *operation) members(output any) (map[string]any, error) {
	v := reflect.ValueOf(output)
	if v.IsNil() {
		v = reflect.New(op.out.typ)
	}
	object, err := parseJSON(op.out.appendJSON(make([]byte, 0, 1024), v.Elem()))
	if err != nil {
		return nil, fmt.Errorf("read the output of %s: %w", op.name, err)
	}
	return object, nil
}

// decodeMembers fills an input from its members, wherever a request would have them, and holds it to the model.
func (op *operation) decodeMembers(in any, members map[string]any) error {
	d := decoder{noEcho: op.service.model.name == "iam"}
	wire := make(map[string]any, len(members))
	for name, v := range members {
		for i := range op.in.fields {
			if f := &op.in.fields[i]; f.name == name {
				name = f.wire
				break
			}
		}
		wire[name] = v
	}
	d.jsonFields(op.in, reflect.ValueOf(in).Elem(), wire)
	switch {
	case d.unreadable != "":
		return op.service.fault(unreadableFault, "%s", d.unreadable)
	case d.count > 0:
		return op.service.fault(validationFault, "%s", strings.Join(d.violations, "; "))
	case d.unserved != "":
		return op.service.fault(validationFault, "This server does not support the member '%s' of %s.", d.unserved, op.name)
	}
	return nil
}

// CalledVia sets the condition keys of a call that a service makes for its caller; none for calls by wire.
func (c *Caller) CalledVia(p *policy.Context) {
	if c.Via == "" {
		return
	}
	principal := c.Via + viaSuffix
	p.Set("aws:ViaAWSService", "true")
	p.SetList("aws:CalledVia", []string{principal})
	p.Set("aws:CalledViaFirst", principal)
	p.Set("aws:CalledViaLast", principal)
}

// refusal gives an *Error its status; other errors stay as they are.
func (op *operation) refusal(err error, requestID string) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return op.service.toWire(err, requestID)
	}
	return err
}
