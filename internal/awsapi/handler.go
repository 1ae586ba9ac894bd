package awsapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// HandlerConfig is what a Handler needs.
type HandlerConfig struct {
	Services      []Service
	Authenticator *Authenticator
	// Authorize decides on one permission.
	Authorize func(ctx context.Context, c *Caller, a Access) policy.Decision
	// Used is told of each caller that was authenticated, whether the request is allowed or not: operations that need no permission are
	// uses of a key too. May be nil.
	Used func(c *Caller)
	// Raw holds handlers of services that are not described by a model, by signing name: s3, ec2. They authenticate by
	// themselves. Their requests leave the same log event, to which they can add with Annotate.
	Raw map[string]http.Handler
	// Audit keeps the record of every call that an authenticated caller makes, allowed or not; required but where nothing is to be
	// kept.
	Audit audit.Recorder
	// Ready, when it returns an error, makes every request answer 503 with the protocol's own error.
	Ready func() error
	// MaxBody bounds request bodies of the modelled services, in bytes; 1 MiB when zero.
	MaxBody int64
	Log     *slog.Logger // required
}

// Handler serves all services on one address. It routes by the service of the credential scope, then by Host, then by
// Action.
type Handler struct {
	services  []*service
	byName    map[string]*service
	raw       map[string]http.Handler
	auth      *Authenticator
	authorize func(ctx context.Context, c *Caller, a Access) policy.Decision
	used      func(c *Caller)
	audit     audit.Recorder
	ready     func() error
	maxBody   int64
	log       *slog.Logger
	suffixes  []string // of AWS's host names
}

const defaultMaxBody = 1 << 20

// NewHandler checks the services against their models and compiles their codecs.
func NewHandler(c HandlerConfig) (*Handler, error) {
	h := &Handler{byName: map[string]*service{}, raw: c.Raw, auth: c.Authenticator, authorize: c.Authorize, used: c.Used,
		audit: c.Audit, ready: c.Ready, maxBody: c.MaxBody, log: c.Log, suffixes: awsSuffixes()}
	if h.maxBody == 0 {
		h.maxBody = defaultMaxBody
	}
	switch {
	case c.Log == nil:
		return nil, errors.New("awsapi: a Handler needs a Log")
	case c.Authenticator == nil || c.Authenticator.Credentials == nil:
		return nil, errors.New("awsapi: a Handler needs an Authenticator with Credentials")
	case c.Authorize == nil:
		return nil, errors.New("awsapi: a Handler needs Authorize")
	}
	for _, from := range c.Services {
		s, err := compileService(from)
		if err != nil {
			return nil, err
		}
		if h.byName[s.model.name] != nil || c.Raw[s.model.name] != nil {
			return nil, fmt.Errorf("awsapi: service %s is there twice", s.model.name)
		}
		h.services = append(h.services, s)
		h.byName[s.model.name] = s
	}
	return h, nil
}

func compileService(from Service) (*service, error) {
	if from.Model == nil || from.Model.operations == nil {
		return nil, errors.New("awsapi: a service has no model")
	}
	s := &service{model: from.Model, protocol: from.Model.protocol,
		operations: map[string]*operation{}, routes: map[routeKey][]*operation{}}
	for name, m := range from.Model.operations {
		op := &operation{opModel: m, service: s}
		s.operations[name] = op
		if s.protocol == restJSONProtocol {
			key := routeKey{m.method, len(m.path)}
			s.routes[key] = append(s.routes[key], op)
		}
	}
	for _, impl := range from.Operations {
		op := s.operations[impl.name]
		if op == nil || op.served || impl.access == nil {
			return nil, fmt.Errorf("awsapi: %s has no operation %s, has it twice, or it has no access function", s.model.name, impl.name)
		}
		op.impl, op.served = impl, true
		var err error
		if op.in, err = compileCodec(reflect.TypeOf(impl.in), op.input, true); err != nil {
			return nil, fmt.Errorf("awsapi: input of %s: %w", impl.name, err)
		}
		if op.out, err = compileCodec(reflect.TypeOf(impl.out), op.output, false); err != nil {
			return nil, fmt.Errorf("awsapi: output of %s: %w", impl.name, err)
		}
	}
	return s, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := &event{requestID: NewUUID(), start: time.Now()}
	ctx := context.WithValue(r.Context(), eventKey{}, e)
	r = r.WithContext(ctx)
	sig, sigErr := sigv4.Parse(r)
	scope := ""
	if sigErr == nil {
		scope, e.keyID = sig.Service, sig.AccessKeyID
	}
	name := h.hostService(r.Host)
	byHost := h.raw[name] != nil || h.byName[name] != nil
	if !byHost {
		name = scope
	}
	if raw := h.raw[name]; raw != nil {
		h.serveRaw(w, r, e, name, raw)
		return
	}
	q := &request{Request: r, service: h.byName[name], byHost: byHost}
	rep := h.serve(q, e, sig, sigErr)
	header := w.Header()
	header.Set(requestID, e.requestID)
	header.Set("Content-Type", rep.contentType)
	header.Set("Content-Length", strconv.Itoa(len(rep.body)))
	if rep.errorType != "" {
		header.Set("X-Amzn-Errortype", rep.errorType)
	}
	e.mu.Lock()
	for _, warning := range e.warnings {
		header.Add("Warning", warning)
	}
	e.mu.Unlock()
	e.status = rep.status
	w.WriteHeader(rep.status)
	if r.Method != http.MethodHead {
		if _, err := w.Write(rep.body); err != nil && e.err == nil {
			e.err = fmt.Errorf("send the answer: %w", err)
		}
	}
	e.log(ctx, h.log, r)
}

// serve answers a request of a modelled service. A panic of an operation is an internal failure.
func (h *Handler) serve(q *request, e *event, sig *sigv4.Signature, sigErr error) (rep reply) {
	fail := func(err error) reply {
		s := q.service
		if s == nil {
			s = standIn(q.Request)
		}
		wire := s.toWire(err, e.requestID)
		e.code, e.err = wire.Code, cause(err)
		return s.errorReply(wire, e.requestID, q.asJSON)
	}
	defer func() {
		if p := recover(); p != nil {
			rep = fail(panicked(q.Context(), p))
		}
	}()
	body, err := h.readBody(q)
	if err != nil {
		return fail(err)
	}
	form := ""
	if isForm(q.Request) {
		form = string(body)
	}
	if err := h.identify(q, form); err != nil {
		return fail(q.protocolOf().fault(unreadableFault, "The request cannot be read: %v", err))
	}
	if q.service != nil {
		e.service = q.service.model.name
	}
	if h.ready != nil {
		if err := h.ready(); err != nil {
			s := q.protocolOf()
			unavailable := s.fault(unavailableFault, "%s", unavailableText)
			unavailable.Cause = err
			return fail(unavailable)
		}
	}
	if q.operation == nil {
		return fail(h.unknown(q, sig, sigErr))
	}
	op := q.operation
	e.operation = op.name
	sum := sha256.Sum256(body)
	c, err := h.authenticate(q, sig, sigErr, hex.EncodeToString(sum[:]))
	if err != nil {
		return fail(err)
	}
	c.Operation = op.name
	e.caller = c
	if h.used != nil && c.Kind != policy.Anonymous {
		h.used(c)
	}
	if !op.served {
		return fail(op.service.fault(notServedFault, "This server does not implement %s.", op.name))
	}
	in, out, err := h.perform(q, e, c, body)
	if unrecorded := h.record(q.Context(), e, op, in, out, err); unrecorded != nil {
		return fail(unrecorded)
	}
	if err != nil {
		return fail(err)
	}
	return op.reply(out, e.requestID, q.asJSON)
}

// perform does what is asked for. The input is nil if it could not be decoded. A panic of the operation is an error.
func (h *Handler) perform(q *request, e *event, c *Caller, body []byte) (in, out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(q.Context(), p)
		}
	}()
	op := q.operation
	given := op.impl.newIn()
	if err := op.decode(q, given, body); err != nil {
		return nil, nil, err
	}
	in = given
	if err := h.permit(q.Context(), e, c, op, in); err != nil {
		return in, nil, err
	}
	out, err = op.impl.call(q.Context(), c, in)
	return in, out, err
}

// panicked is the error that a panic is answered as.
func panicked(ctx context.Context, p any) error {
	Annotate(ctx, slog.String("stack", string(debug.Stack())))
	return fmt.Errorf("panic: %v", p)
}

// cause is what the log shows of an error: what lies behind it, or itself when callers do not see it.
func cause(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Cause
	}
	return err
}

// standIn answers requests of no service, in the protocol that the client seems to speak.
func standIn(r *http.Request) *service {
	switch {
	case r.Header.Get("X-Amz-Target") != "":
		return &service{protocol: jsonProtocol}
	case r.URL.Path != "/" && r.URL.Path != "" || strings.HasPrefix(r.Header.Get("Content-Type"), jsonType):
		return &service{protocol: restJSONProtocol}
	}
	return &service{protocol: queryProtocol}
}

// protocolOf is the request's service, or a stand-in.
func (q *request) protocolOf() *service {
	if q.service != nil {
		return q.service
	}
	return standIn(q.Request)
}

// unknown is the answer to a request for which there is no operation.
func (h *Handler) unknown(q *request, sig *sigv4.Signature, sigErr error) error {
	s := q.protocolOf()
	if q.service == nil && sigErr != nil {
		return signatureError(sigErr)
	}
	if s.protocol == queryProtocol {
		action, ok := q.params.get("Action")
		if !ok {
			return s.fault(missingActionFault, "%s", missingText)
		}
		version, ok := q.params.get("Version")
		if !ok {
			version = "NO_VERSION_SPECIFIED"
		}
		return s.fault(unknownActionFault, "Could not find operation %s for version %s", clip(action, 128), clip(version, 128))
	}
	if q.service == nil && sig != nil {
		return s.fault(unknownActionFault, "This server does not serve the service '%s'.", clip(sig.Service, 64))
	}
	return s.fault(unknownActionFault, "There is no operation for %s %s.", clip(q.Method, 16), clip(q.URL.EscapedPath(), 256))
}

// authenticate returns the caller. Operations without authentication ignore a signature.
func (h *Handler) authenticate(q *request, sig *sigv4.Signature, sigErr error, bodyHash string) (*Caller, error) {
	name := q.service.model.name
	if q.operation.unsigned {
		return h.auth.Anonymous(q.Request, name), nil
	}
	if sigErr != nil {
		return nil, signatureError(sigErr)
	}
	return h.auth.authenticate(q.Request, sig, name, bodyHash)
}

// permit asks for every permission that the operation needs.
func (h *Handler) permit(ctx context.Context, e *event, c *Caller, op *operation, in any) error {
	needed, err := op.impl.access(c, in)
	if err != nil {
		return err
	}
	for _, a := range needed {
		if own := a.Context; c.Via != "" {
			a.Context = func(p *policy.Context) {
				if own != nil {
					own(p)
				}
				c.CalledVia(p)
			}
		}
		d := h.authorize(ctx, c, a)
		e.decision = &d
		if !d.Allowed {
			return op.service.fault(accessDeniedFault, "%s", d.Message(&policy.Request{
				Principal: policy.Principal{Kind: c.Kind, Account: c.Account, ARN: c.ARN, ID: c.EntityID},
				Action:    a.Action, Resource: a.Resource, ResourceAccount: a.ResourceAccount,
			}))
		}
	}
	return nil
}

// readBody reads the whole body, which may not be larger than the limit.
func (h *Handler) readBody(q *request) ([]byte, error) {
	s := q.protocolOf()
	if encoding := q.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, s.fault(mediaTypeFault, "The content encoding '%s' is not supported.", clip(encoding, 64))
	}
	tooLarge := func() error {
		return s.fault(tooLargeFault, "The request body is larger than %d bytes.", h.maxBody)
	}
	if q.ContentLength > h.maxBody {
		return nil, tooLarge()
	}
	if q.ContentLength == 0 {
		return nil, nil
	}
	var body []byte
	var err error
	if q.ContentLength > 0 {
		body = make([]byte, q.ContentLength)
		_, err = io.ReadFull(q.Body, body)
	} else if body, err = io.ReadAll(io.LimitReader(q.Body, h.maxBody+1)); int64(len(body)) > h.maxBody {
		return nil, tooLarge()
	}
	if err != nil {
		incomplete := s.fault(incompleteFault, "The request body terminated unexpectedly")
		incomplete.Cause = err
		return nil, incomplete
	}
	return body, nil
}

// isForm reports whether the body is a form. Some clients do not say.
func isForm(r *http.Request) bool {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return r.Method == http.MethodPost && (media == "" || strings.EqualFold(strings.TrimSpace(media), "application/x-www-form-urlencoded"))
}

// errUnreadable is the cause of an answer to what could not be read at all, which is no call of the operation.
var errUnreadable = errors.New("the request cannot be read")

// decode fills the operation's input from the request and holds it to the model.
func (op *operation) decode(q *request, in any, body []byte) error {
	d := decoder{noEcho: op.service.model.name == "iam"}
	v := reflect.ValueOf(in).Elem()
	if op.service.protocol == queryProtocol {
		d.queryFields(op.in, v, q.params, "")
	} else {
		object, err := parseJSON(body)
		if err != nil {
			return op.unreadable("The request body is not a JSON object: %v", err)
		}
		query, err := url.ParseQuery(q.URL.RawQuery)
		if err != nil {
			return op.unreadable("The query string cannot be read: %v", err)
		}
		d.rest(op.in, v, q.labels, query, object)
	}
	switch {
	case d.unreadable != "":
		return op.unreadable("%s", d.unreadable)
	case d.count == 1:
		return op.service.fault(validationFault, "1 validation error detected: %s", d.violations[0])
	case d.count > 1:
		return op.service.fault(validationFault, "%d validation errors detected: %s", d.count, strings.Join(d.violations, "; "))
	case d.unserved != "":
		return op.service.fault(validationFault, "This server does not support the member '%s' of %s.", d.unserved, op.name)
	}
	return nil
}

func (op *operation) unreadable(format string, args ...any) error {
	e := op.service.fault(unreadableFault, format, args...)
	e.Cause = errUnreadable
	return e
}

// reply writes the operation's result in the protocol's envelope.
func (op *operation) reply(out any, id string, asJSON bool) reply {
	v := reflect.ValueOf(out)
	if v.IsNil() {
		v = reflect.New(op.out.typ)
	}
	v = v.Elem()
	b := make([]byte, 0, 2048)
	if op.service.protocol != queryProtocol {
		contentType := jsonType
		if op.service.protocol == jsonProtocol {
			contentType = json11
		}
		return reply{status: http.StatusOK, contentType: contentType, body: op.out.appendJSON(b, v)}
	}
	if asJSON {
		b = append(b, `{"`+op.name+`Response":{`...)
		if op.wrapper != "" {
			b = append(b, `"`+op.wrapper+`":`...)
			b = op.out.appendJSON(b, v)
			b = append(b, ',')
		}
		b = append(b, `"ResponseMetadata":{"RequestId":"`+id+`"}}}`...)
		return reply{status: http.StatusOK, contentType: jsonType, body: b}
	}
	b = append(b, "<"+op.name+`Response xmlns="`+op.service.model.namespace+"\">\n"...)
	if op.wrapper != "" {
		b = op.out.appendElement(b, op.wrapper, v)
		b = append(b, '\n')
	}
	b = append(b, "<ResponseMetadata><RequestId>"+id+"</RequestId></ResponseMetadata>\n</"+op.name+"Response>\n"...)
	return reply{status: http.StatusOK, contentType: xmlType, body: b}
}

// serveRaw hands the request to a service that is not described by a model.
func (h *Handler) serveRaw(w http.ResponseWriter, r *http.Request, e *event, name string, raw http.Handler) {
	e.service = name
	sw := &statusWriter{ResponseWriter: w}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				e.status = sw.status
				e.log(r.Context(), h.log, r)
				panic(p)
			}
			e.err = fmt.Errorf("panic: %v", p)
			Annotate(r.Context(), slog.String("stack", string(debug.Stack())))
			if sw.status == 0 {
				rawError(sw, name, http.StatusInternalServerError, "InternalError", fmt.Sprintf(internalText, e.requestID), e.requestID)
			}
		}
		e.status = sw.status
		if e.status == 0 {
			e.status = http.StatusOK
		}
		e.log(r.Context(), h.log, r)
	}()
	if h.ready != nil {
		if err := h.ready(); err != nil {
			e.err, e.code = err, "ServiceUnavailable"
			rawError(sw, name, http.StatusServiceUnavailable, "ServiceUnavailable", unavailableText, e.requestID)
			return
		}
	}
	raw.ServeHTTP(sw, r)
}

// rawError writes an error in the envelope of EC2 or S3.
func rawError(w http.ResponseWriter, name string, status int, code, message, id string) {
	b := []byte(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	if name == "ec2" {
		b = append(b, "<Response><Errors><Error><Code>"+code+"</Code><Message>"...)
		b = appendXMLText(b, message)
		b = append(b, "</Message></Error></Errors><RequestID>"+id+"</RequestID></Response>"...)
	} else {
		b = append(b, "<Error><Code>"+code+"</Code><Message>"...)
		b = appendXMLText(b, message)
		b = append(b, "</Message><RequestId>"+id+"</RequestId></Error>"...)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // it fails when the client is gone: there is nobody to tell
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom lets the server use what it has for copying files.
func (w *statusWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return io.Copy(w.ResponseWriter, src)
}

// Unwrap lets http.ResponseController find the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
