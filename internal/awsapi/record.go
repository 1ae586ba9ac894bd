package awsapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/policy"
)

// NewRecord begins the audit record of a call of a service, by its signing name: who made it, and how. The rest is for the caller to
// add.
func NewRecord(c *Caller, service, operation string) *audit.Event {
	e := &audit.Event{
		Version: "1.09", Identity: userIdentity(c), Time: c.Time.UTC(), Source: service + ".amazonaws.com", Name: operation,
		Region: c.Region, UserAgent: c.UserAgent, RequestID: c.RequestID, ReadOnly: readOnly(operation), Account: c.Account,
	}
	if c.SourceIP.IsValid() {
		e.SourceIP = c.SourceIP.Unmap().String()
	}
	if c.Secure && c.TLSVersion != "" {
		e.TLS = &audit.TLS{Version: c.TLSVersion, Cipher: c.TLSCipher, Host: c.Host}
	}
	if c.Via != "" { // the call came from the service (CloudTrail User Guide, "sourceIPAddress" and "invokedBy")
		service := c.Via + viaSuffix
		e.Identity.InvokedBy, e.SourceIP, e.UserAgent, e.TLS = service, service, service, nil
	}
	e.Lanyard.Subject, e.Lanyard.Pod = podOf(c.Session)
	switch service {
	case "sts":
		e.Version = "1.08"
		e.Additional = audit.Object(nil).Object("RequestDetails", RequestDetails(c))
	case "iam": // a global service: all of its records are in one Region
		if p, ok := arn.PartitionOfRegion(c.Region); ok {
			e.Region = p.GlobalRegion
		}
	case "lanyard": // AWS has no such service
		e.Source = service
	}
	return e
}

// RequestDetails is what the records of STS say of the endpoint.
func RequestDetails(c *Caller) audit.Object {
	endpoint := "regional"
	if strings.HasPrefix(c.Host, "sts.amazonaws.com") {
		endpoint = "global"
	}
	return audit.Object(nil).Text("awsServingRegion", c.Region).Text("endpointType", endpoint)
}

// Recorded says that the audit record of the request that ctx belongs to has been written, so that the Handler writes none.
func Recorded(ctx context.Context) {
	if e, ok := ctx.Value(eventKey{}).(*event); ok {
		e.recorded.Store(true)
	}
}

// RecordError says in a record why the call failed. Texts of other errors than those that callers see are for the log.
func RecordError(e *audit.Event, err error) {
	if err == nil {
		return
	}
	e.ErrorCode = "InternalFailure"
	if wire, ok := errors.AsType[*Error](err); ok {
		e.ErrorCode, e.ErrorMessage = wire.Code, wire.Message
	}
	if e.ErrorCode == "AccessDeniedException" {
		e.ErrorCode = "AccessDenied" // as CloudTrail has it
	}
}

// readOnly reports whether an operation changes nothing. Credentials that are minted change nothing, to CloudTrail.
func readOnly(operation string) bool {
	for _, prefix := range []string{"Get", "List", "Describe", "AssumeRole", "Lookup", "Simulate", "Decode", "Validate"} {
		if strings.HasPrefix(operation, prefix) {
			return true
		}
	}
	return false
}

// userIdentity is who the caller is (CloudTrail User Guide, "CloudTrail userIdentity element").
func userIdentity(c *Caller) audit.UserIdentity {
	u := audit.UserIdentity{Type: "Unknown", PrincipalID: c.UserID, ARN: c.ARN, Account: c.Account, AccessKeyID: c.AccessKeyID}
	switch c.Kind {
	case policy.Root:
		u.Type = "Root"
	case policy.User:
		u.Type, u.UserName = "IAMUser", lastPart(c.ARN)
	case policy.RoleSession:
		u.Type = "AssumedRole"
	case policy.Federated:
		u.Type = "FederatedUser"
	}
	if c.Session != nil {
		u.Session = sessionContext(c)
	}
	return u
}

func lastPart(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func sessionContext(c *Caller) audit.Object {
	context := make(audit.Object, 0, 512)
	switch issuer := audit.Object(nil); c.Kind {
	case policy.RoleSession, policy.Federated:
		kind := "Role"
		if c.Kind == policy.Federated {
			kind = "IAMUser"
		}
		issuer = issuer.Text("type", kind).Text("principalId", c.EntityID).Text("arn", c.EntityARN).Text("accountId", c.Account)
		context = context.Object("sessionIssuer", issuer.Text("userName", lastPart(c.EntityARN)))
	}
	s := c.Session
	if s.FederatedProvider != "" {
		attributes := audit.Object("{}")
		for i, k := range s.ContextKeys {
			if i == 0 {
				attributes = nil
			}
			attributes = attributes.Text(k.Key, k.Value)
		}
		context = context.Object("webIdFederationData",
			audit.Object(nil).Text("federatedProvider", s.FederatedProvider).Object("attributes", attributes))
	}
	context = context.Object("attributes",
		audit.Object(nil).Text("creationDate", s.Issued.UTC().Format("2006-01-02T15:04:05Z")).Text("mfaAuthenticated", "false"))
	if s.SourceIdentity != "" {
		context = context.Text("sourceIdentity", s.SourceIdentity)
	}
	return context
}

// podOf returns whose session it is, as its token's subject or its tags say.
func podOf(s *Session) (subject, pod string) {
	if s == nil {
		return "", ""
	}
	for _, k := range s.ContextKeys {
		if strings.HasSuffix(k.Key, ":sub") && strings.HasPrefix(k.Value, subjectPrefix) {
			return k.Value, ""
		}
	}
	return TaggedPod(s.Tags)
}

const subjectPrefix = "system:serviceaccount:"

// TaggedPod returns the service account's subject and the pod, NAMESPACE/NAME, that session tags of EKS Pod Identity name.
func TaggedPod(tags []Tag) (subject, pod string) {
	var namespace, account, name string
	for _, t := range tags {
		switch t.Key {
		case "kubernetes-namespace":
			namespace = t.Value
		case "kubernetes-service-account":
			account = t.Value
		case "kubernetes-pod-name":
			name = t.Value
		}
	}
	if namespace == "" || account == "" {
		return "", ""
	}
	if name != "" {
		pod = namespace + "/" + name
	}
	return subjectPrefix + namespace + ":" + account, pod
}

// record keeps the audit record of a call that an authenticated caller made, unless the operation has kept a better one.
func (h *Handler) record(ctx context.Context, e *event, op *operation, in, out any, err error) error {
	if h.audit == nil || e.recorded.Load() || e.caller.Kind == policy.Anonymous || errors.Is(err, errUnreadable) {
		return nil
	}
	r := NewRecord(e.caller, op.service.model.name, op.name)
	if e.decision != nil {
		r.Lanyard.Decision = e.decision.String()
	}
	w := recordWriter{service: op.service.model.name, epoch: op.service.protocol == restJSONProtocol}
	if in != nil {
		w.request = true
		r.Parameters = w.object(op.in, reflect.ValueOf(in).Elem())
	}
	if v := reflect.ValueOf(out); err == nil && !r.ReadOnly && v.IsValid() && !v.IsNil() {
		w.request = false
		r.Response = w.object(op.out, v.Elem())
	}
	r.Lanyard.Resources = w.resources
	RecordError(r, err)
	if err := h.audit.Record(ctx, r); err != nil {
		return fmt.Errorf("record %s: %w", op.name, err)
	}
	return nil
}

// recordWriter writes values as CloudTrail has them in records: members' names begin in lower case, times are texts unless the
// service's own JSON has numbers, secrets are hidden. On the way it finds the resources.
type recordWriter struct {
	service   string // its signing name
	epoch     bool
	request   bool // zero numbers and false are what was not given
	resources []audit.Named
}

// object writes a structure; nil if nothing is in it.
func (w *recordWriter) object(k *codec, v reflect.Value) audit.Object {
	b := w.structure(make([]byte, 0, 512), k, v, "")
	if len(b) == len("{}") {
		return nil
	}
	return b
}

func (w *recordWriter) structure(b []byte, k *codec, v reflect.Value, within string) []byte {
	b = append(b, '{')
	first := true
	for i := range k.fields {
		f := &k.fields[i]
		fv := v.FieldByIndex(f.index)
		if f.codec.omitted(fv) || w.request && fv.IsZero() || isLeftOut(f.name) {
			continue
		}
		b = appendName(b, lowerCamel(f.name), &first)
		if f.shape.sensitive || isSecret(f.name) {
			b = appendJSONText(b, audit.Hidden)
			continue
		}
		if f.codec.isPtr {
			fv = fv.Elem()
		}
		if f.shape.kind == stringKind {
			w.find(within, f.name, fv.String())
		}
		b = w.value(b, f.codec, fv, f.name)
	}
	return append(b, '}')
}

func (w *recordWriter) value(b []byte, k *codec, v reflect.Value, name string) []byte {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch k.shape.kind {
	case structureKind:
		return w.structure(b, k, v, name)
	case listKind:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = w.element(b, k.elem, v.Index(i), name)
		}
		return append(b, ']')
	case mapKind:
		b = append(b, '{')
		first := true
		for _, key := range sortedKeys(v) {
			b = appendName(b, key.String(), &first)
			b = w.element(b, k.elem, v.MapIndex(key), name)
		}
		return append(b, '}')
	case timestampKind:
		if !w.epoch {
			return appendJSONText(b, audit.TextTime(timeOf(v)))
		}
		return appendEpoch(b, timeOf(v))
	case blobKind:
		return appendJSONText(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	case stringKind:
		return appendJSONText(b, v.String())
	case integerKind:
		return strconv.AppendInt(b, v.Int(), 10)
	case floatKind:
		return strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	case booleanKind:
		return strconv.AppendBool(b, v.Bool())
	}
	return append(b, "null"...)
}

func (w *recordWriter) element(b []byte, k *codec, v reflect.Value, name string) []byte {
	if k.shape.sensitive {
		return appendJSONText(b, audit.Hidden)
	}
	return w.value(b, k, v, name)
}

// isSecret names members that are secret although not every model says so.
func isSecret(name string) bool {
	switch strings.ToLower(name) {
	case "token", "sessiontoken", "webidentitytoken", "password", "privatekey":
		return true
	}
	return false
}

// isLeftOut names members that are not in records at all. Of credentials there is no secret (CloudTrail User Guide and IAM User Guide,
// "Logging IAM and AWS STS API calls with AWS CloudTrail"). Of a stack's parameters there are the keys alone, since the template may say
// NoEcho of any (CloudFormation User Guide, "Logging AWS CloudFormation API calls with AWS CloudTrail").
func isLeftOut(name string) bool { return name == "SecretAccessKey" || name == "ParameterValue" }

// lowerCamel is the name of a member in a record.
func lowerCamel(name string) string {
	if strings.ToUpper(name) == name {
		return strings.ToLower(name) // such as URL
	}
	return strings.ToLower(name[:1]) + name[1:]
}

// maxResources bounds what LookupEvents lists of one record.
const maxResources = 16

// find adds a resource if a member names one. Its type is told by the member's name, and that of "arn" and "name" by what they are in.
func (w *recordWriter) find(within, member, value string) {
	member, within = strings.ToLower(member), strings.ToLower(within)
	if member == "arn" || member == "name" && within != "" {
		member = within + member
	}
	kind := resourceType(member)
	switch w.service {
	case "eks", "lanyard":
		kind = eksResourceType(member, value)
	case "cloudtrail":
		if kind = ""; member == "name" {
			kind = "AWS::CloudTrail::Trail"
		}
	}
	if kind == "" || len(w.resources) == maxResources {
		return
	}
	found := audit.Named{Type: kind, Name: value}
	for _, r := range w.resources {
		if r == found {
			return
		}
	}
	w.resources = append(w.resources, found)
}

// resourceType is the type, by CloudFormation's name, of what a member of a request or an answer identifies; empty for others.
func resourceType(member string) string {
	switch member {
	case "rolename", "rolearn", "roleid":
		return "AWS::IAM::Role"
	case "username", "userarn", "userid":
		return "AWS::IAM::User"
	case "groupname", "grouparn", "groupid":
		return "AWS::IAM::Group"
	case "policyarn":
		return "AWS::IAM::Policy"
	case "instanceprofilename", "instanceprofilearn", "instanceprofileid":
		return "AWS::IAM::InstanceProfile"
	case "openidconnectproviderarn":
		return "AWS::IAM::OIDCProvider"
	case "samlproviderarn":
		return "AWS::IAM::SAMLProvider"
	case "accesskeyid":
		return "AWS::IAM::AccessKey"
	case "clustername":
		return "AWS::EKS::Cluster"
	case "stackname", "stackid":
		return "AWS::CloudFormation::Stack"
	}
	return ""
}

// eksResourceType is resourceType for EKS, which has usernames that are Kubernetes', and policies that are no resources.
func eksResourceType(member, value string) string {
	switch member {
	case "name", "clustername", "clusterarn":
		return "AWS::EKS::Cluster"
	case "associationid", "associationarn":
		return "AWS::EKS::PodIdentityAssociation"
	case "addonname", "addonarn":
		return "AWS::EKS::Addon"
	case "accessentryarn":
		return "AWS::EKS::AccessEntry"
	case "rolearn", "targetrolearn", "serviceaccountrolearn":
		return "AWS::IAM::Role"
	case "principalarn", "resourcearn":
		a, err := arn.Parse(value)
		if err != nil {
			return ""
		}
		kind, _, _ := strings.Cut(a.Resource(), "/")
		switch a.Service() + ":" + kind {
		case "iam:role":
			return "AWS::IAM::Role"
		case "iam:user":
			return "AWS::IAM::User"
		case "eks:cluster":
			return "AWS::EKS::Cluster"
		case "eks:podidentityassociation":
			return "AWS::EKS::PodIdentityAssociation"
		case "eks:addon":
			return "AWS::EKS::Addon"
		case "eks:access-entry":
			return "AWS::EKS::AccessEntry"
		}
	}
	return ""
}
