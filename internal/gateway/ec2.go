package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	ec2Version   = "2016-11-15"
	ec2Namespace = "http://ec2.amazonaws.com/doc/" + ec2Version + "/"
	maxEC2Body   = 1 << 20
)

//go:embed ec2_describe.txt
var ec2Describes string

// parseDescribes reads the table of Describe operations: the lists of each one's answer.
func parseDescribes(table string) map[string][]string {
	lists := map[string][]string{}
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] != "#" {
			lists["Describe"+fields[0]] = fields[1:]
		}
	}
	return lists
}

type ec2Gateway struct {
	Config
	lists map[string][]string // by operation
}

// ec2Error is an error in EC2's form (Amazon EC2 API Reference, "Error codes").
type ec2Error struct {
	code    string
	message string
	status  int
	cause   error // for the log only
}

// ec2Call is one request, and what its event says.
type ec2Call struct {
	action   string
	caller   *awsapi.Caller
	decision policy.Decision
	decided  bool
}

// ServeHTTP implements http.Handler.
func (g *ec2Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call ec2Call
	content, refusal := g.serve(r, &call)
	requestID := awsapi.NewUUID()
	if call.caller != nil {
		requestID = call.caller.RequestID
	}
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	var b bytes.Buffer
	b.WriteString(xml.Header)
	status := http.StatusOK
	if refusal != nil {
		status = refusal.status
		b.WriteString("<Response><Errors><Error>")
		writeElement(&b, "Code", refusal.code)
		writeElement(&b, "Message", refusal.message)
		b.WriteString("</Error></Errors>")
		writeElement(&b, "RequestID", requestID)
		b.WriteString("</Response>")
	} else {
		b.WriteString("<" + call.action + `Response xmlns="` + ec2Namespace + `">`)
		writeElement(&b, "requestId", requestID)
		b.WriteString(content + "</" + call.action + "Response>")
	}
	w.WriteHeader(status)
	// A caller that has gone away is no failure of the request.
	_, _ = w.Write(b.Bytes())
	call.annotate(r.Context(), refusal)
}

// actionName is what an EC2 action looks like; it also goes into ARNs and XML.
var actionName = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{2,127}$`)

// serve returns the content of the answer.
func (g *ec2Gateway) serve(r *http.Request, call *ec2Call) (string, *ec2Error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEC2Body+1))
	switch {
	case err != nil:
		return "", &ec2Error{"InvalidRequest", "The request's body cannot be read.", http.StatusBadRequest, err}
	case len(body) > maxEC2Body:
		return "", &ec2Error{"RequestEntityTooLarge", "The request is too large.", http.StatusRequestEntityTooLarge, nil}
	}
	hash := sha256.Sum256(body)
	if call.caller, err = g.Authenticator.Authenticate(r, "ec2", hex.EncodeToString(hash[:])); err != nil {
		return "", ec2AuthError(err)
	}
	form, ferr := ec2Form(r, body)
	if ferr != nil {
		return "", ferr
	}
	action := form.Get("Action")
	switch {
	case action == "":
		return "", &ec2Error{"MissingAction", "The request is missing an action or a required parameter", http.StatusBadRequest, nil}
	case !actionName.MatchString(action):
		return "", &ec2Error{"InvalidAction", "The action is not valid for this web service.", http.StatusBadRequest, nil}
	case form.Get("Version") == "":
		return "", &ec2Error{"MissingParameter", "The request must contain the parameter Version", http.StatusBadRequest, nil}
	}
	call.action, call.caller.Operation = action, action

	access := awsapi.Access{Action: "ec2:" + action, Resource: "*", Context: func(c *policy.Context) {
		c.Set("ec2:Region", g.Authenticator.Region)
	}}
	call.decided, call.decision = true, g.Authorize(r.Context(), call.caller, access)
	if !call.decision.Allowed {
		return "", g.denied(r.Context(), call, access)
	}
	lists, served := g.lists[action]
	place := action == "DescribeRegions" || action == "DescribeAvailabilityZones"
	switch {
	case !served && !place:
		return "", &ec2Error{"UnsupportedOperation", "The operation " + action + " is not supported: there is no EC2 here.", http.StatusBadRequest, nil}
	case strings.EqualFold(form.Get("DryRun"), "true"):
		return "", &ec2Error{"DryRunOperation", "Request would have succeeded, but DryRun flag is set.", http.StatusPreconditionFailed, nil}
	case action == "DescribeRegions":
		return g.regions(form)
	case action == "DescribeAvailabilityZones":
		return g.zones(form)
	}
	return "<" + strings.Join(lists, "/><") + "/>", nil
}

// denied is the refusal of a request without permission. That of a change tells more, sealed, to whom STS may open it.
func (g *ec2Gateway) denied(ctx context.Context, call *ec2Call, access awsapi.Access) *ec2Error {
	refusal := &ec2Error{"UnauthorizedOperation", "You are not authorized to perform this operation. " + call.decision.Message(&policy.Request{
		Principal: policy.Principal{Kind: call.caller.Kind, Account: call.caller.Account, ARN: call.caller.ARN},
		Action:    access.Action, Resource: access.Resource,
	}), http.StatusForbidden, nil}
	if g.EncodeDenial == nil || reads(call.action) {
		return refusal
	}
	encoded, err := g.EncodeDenial(ctx, call.caller, access)
	if err != nil { // the refusal stands without it
		refusal.cause = fmt.Errorf("encode authorization message: %w", err)
		return refusal
	}
	refusal.message += ". Encoded authorization failure message: " + encoded
	return refusal
}

// reads reports whether an action changes nothing, by the names that EC2 gives its actions.
func reads(action string) bool {
	for _, verb := range []string{"Describe", "Get", "List", "Search"} {
		if strings.HasPrefix(action, verb) {
			return true
		}
	}
	return false
}

// ec2Form returns the parameters of the query and the body. None may occur twice.
func ec2Form(r *http.Request, body []byte) (url.Values, *ec2Error) {
	invalid := &ec2Error{"InvalidQueryParameter", "The query parameters cannot be parsed, or occur more than once.", http.StatusBadRequest, nil}
	form, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid
	}
	posted, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalid
	}
	for name, values := range posted {
		form[name] = append(form[name], values...)
	}
	for _, values := range form {
		if len(values) != 1 {
			return nil, invalid
		}
	}
	return form, nil
}

// wanted reports whether a list parameter (Name.1, Name.2, …) has the value, or is absent.
func wanted(form url.Values, name, value string) (missing string, ok bool) {
	ok = true
	for key, values := range form {
		if strings.HasPrefix(key, name+".") {
			if values[0] != value {
				return values[0], false
			}
		}
	}
	return "", ok
}

// regions describes the one region that is served.
func (g *ec2Gateway) regions(form url.Values) (string, *ec2Error) {
	region := g.Authenticator.Region
	if missing, ok := wanted(form, "RegionName", region); !ok {
		return "", &ec2Error{"InvalidParameterValue", "Invalid region provided: [" + missing + "]", http.StatusBadRequest, nil}
	}
	if err := noFilters(form); err != nil {
		return "", err
	}
	suffix := "amazonaws.com"
	if p, ok := arn.PartitionOfRegion(region); ok {
		suffix = p.DNSSuffix
	}
	return item("regionInfo", detail{"regionName", region}, detail{"regionEndpoint", "ec2." + region + "." + suffix},
		detail{"optInStatus", "opt-in-not-required"}), nil
}

// zones describes the one zone that the region is taken to have.
func (g *ec2Gateway) zones(form url.Values) (string, *ec2Error) {
	region := g.Authenticator.Region
	if missing, ok := wanted(form, "ZoneName", region+"a"); !ok {
		return "", &ec2Error{"InvalidParameterValue", "Invalid availability zone: [" + missing + "]", http.StatusBadRequest, nil}
	}
	if err := noFilters(form); err != nil {
		return "", err
	}
	return item("availabilityZoneInfo", detail{"zoneName", region + "a"}, detail{"zoneState", "available"}, detail{"regionName", region},
		detail{"optInStatus", "opt-in-not-required"}, detail{"zoneType", "availability-zone"},
		detail{"groupName", region}, detail{"networkBorderGroup", region}), nil
}

// noFilters refuses filters where there is something that they would have to leave out.
func noFilters(form url.Values) *ec2Error {
	for key := range form {
		if strings.HasPrefix(key, "Filter.") || strings.HasPrefix(key, "ZoneId.") {
			return &ec2Error{"UnsupportedOperation", "The parameter " + key + " is not supported.", http.StatusBadRequest, nil}
		}
	}
	return nil
}

// item writes a list of one structure.
func item(list string, members ...detail) string {
	var b bytes.Buffer
	b.WriteString("<" + list + "><item>")
	for _, m := range members {
		writeElement(&b, m.name, m.value)
	}
	b.WriteString("</item></" + list + ">")
	return b.String()
}

// ec2AuthError turns a failed authentication into EC2's error.
func ec2AuthError(err error) *ec2Error {
	var auth *awsapi.AuthError
	switch {
	case errors.Is(err, kv.ErrUnavailable):
		return &ec2Error{"Unavailable", "The service is unavailable. Please try again shortly.", http.StatusServiceUnavailable, err}
	case !errors.As(err, &auth):
		return &ec2Error{"InternalError", "An internal error has occurred", http.StatusInternalServerError, err}
	}
	switch auth.Kind {
	case awsapi.MissingToken:
		return &ec2Error{"MissingAuthenticationToken", "Request is missing Authentication Token", http.StatusForbidden, err}
	case awsapi.ExpiredSession:
		return &ec2Error{"RequestExpired", "Request has expired.", http.StatusBadRequest, err}
	case awsapi.BadSignature:
		if auth.Signature == nil {
			return &ec2Error{"InternalError", "An internal error has occurred", http.StatusInternalServerError, err}
		}
		switch auth.Signature.Kind {
		case sigv4.Expired, sigv4.NotYetValid:
			return &ec2Error{"RequestExpired", "Request has expired.", http.StatusBadRequest, err}
		case sigv4.Malformed:
			return &ec2Error{"IncompleteSignature", auth.Signature.Message, http.StatusBadRequest, err}
		}
		return &ec2Error{"SignatureDoesNotMatch", auth.Signature.Message, http.StatusForbidden, err}
	}
	return &ec2Error{"AuthFailure", "AWS was not able to validate the provided access credentials", http.StatusUnauthorized, err}
}

// annotate adds what the gateway knows to the request's one event.
func (call *ec2Call) annotate(ctx context.Context, refusal *ec2Error) {
	attrs := []slog.Attr{slog.String("operation", call.action)}
	if c := call.caller; c != nil {
		attrs = append(attrs, slog.String("caller", c.ARN), slog.String("account", c.Account))
	}
	if call.decided {
		attrs = append(attrs, slog.String("decision", call.decision.String()))
	}
	if refusal != nil {
		attrs = append(attrs, slog.String("code", refusal.code))
		if refusal.cause != nil {
			attrs = append(attrs, slog.Any("err", refusal.cause))
		}
	}
	awsapi.Annotate(ctx, attrs...)
}
