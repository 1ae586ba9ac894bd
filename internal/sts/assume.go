package sts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/policy"
)

// Assume checks the role's trust policy and everything else that STS checks, records the decision, and mints. Errors
// are *awsapi.Error as STS answers them, or the failure to record or to seal. The role's Decision is in the audit event.
func (s *Service) Assume(ctx context.Context, in *AssumeInput) (*Assumed, error) {
	out, decision, err := s.assume(ctx, in)
	if recordErr := s.recordAssume(ctx, in, out, decision, err); recordErr != nil {
		return nil, recordErr
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// assume does all of Assume but the record. The decision says, for the record, what decided.
func (s *Service) assume(ctx context.Context, in *AssumeInput) (out *Assumed, decision string, err error) {
	a := &assumption{AssumeInput: in}
	for _, check := range []func() error{a.checkNames, a.checkTags, a.checkSessionPolicies, func() error { return s.findRole(ctx, a) }} {
		if err := check(); err != nil {
			return nil, refused(err), err
		}
	}
	decision, err = s.decide(a)
	if err != nil {
		return nil, decision, err
	}
	if err := s.checkManaged(a.role.Account, in.PolicyARNs); err != nil {
		return nil, refused(err), err
	}
	size, err := checkPacked(in.Policy, in.PolicyARNs, a.tags)
	if err != nil {
		return nil, refused(err), err
	}

	issued := s.now().UTC().Truncate(time.Second)
	id := a.identity(s.partition, s.iam.RoleARN(a.role), issued)
	out = &Assumed{Expires: id.Session.Expires, ARN: id.ARN, AssumedRoleID: id.UserID, SourceIdentity: a.sourceIdentity}
	if in.Policy != "" || len(in.PolicyARNs) > 0 || len(in.Tags) > 0 {
		out.PackedPolicySize = &size
	}
	out.Credentials, out.Identity, err = s.mint(id)
	if err != nil {
		return nil, refused(err), err
	}
	return out, decision, nil
}

// refused is the decision when something other than a policy decided. The cause is what the caller may not be told.
func refused(err error) string {
	if e, ok := errors.AsType[*awsapi.Error](err); ok && e.Cause != nil {
		return "refused: " + e.Cause.Error()
	}
	return "refused: " + err.Error()
}

// assumption is an AssumeInput and what becomes of it.
type assumption struct {
	*AssumeInput
	role           *iam.Role
	duration       time.Duration
	tags           []awsapi.Tag // passed and inherited
	transitive     []string     // spelled as in tags
	sourceIdentity string       // passed or inherited
}

// signed reports whether the caller is an IAM identity, which brings policies of its own. A service or a web identity does not.
func (a *assumption) signed() bool {
	return a.Principal.Kind != policy.Service && a.Principal.Kind != policy.WebIdentity
}

// calling returns the session that the caller is, if it is one.
func (a *assumption) calling() *awsapi.Session {
	if !a.signed() {
		return nil
	}
	return a.Caller.Session
}

// denied is STS's answer when the action is not permitted: the same whether the role exists or not, and without a reason.
func (a *assumption) denied(action string, cause error) *awsapi.Error {
	e := awsapi.Errorf("AccessDenied", "Not authorized to perform %s", action)
	if a.Principal.Kind != policy.WebIdentity {
		who := a.Principal.ARN
		if a.Principal.Kind == policy.Service {
			who = a.Principal.Name
		}
		e = awsapi.Errorf("AccessDenied", "User: %s is not authorized to perform: %s on resource: %s", who, action, a.Role)
	}
	e.Cause = cause
	return e
}

var (
	errFederated    = errors.New("federated users may not assume roles")
	errAnonymous    = errors.New("the caller is anonymous")
	errNoRole       = errors.New("there is no such role")
	errSourceChange = errors.New("the source identity of a chain of sessions may not change")
)

// checkNames checks who asks and the names that were given, and finds the source identity.
func (a *assumption) checkNames() error {
	switch a.Principal.Kind {
	case policy.Root:
		return awsapi.Errorf("AccessDenied", "Roles may not be assumed by root accounts.")
	case policy.Federated:
		return a.denied(a.Action, errFederated)
	case policy.Anonymous:
		return a.denied(a.Action, errAnonymous)
	}
	if err := checkName("roleSessionName", a.SessionName); err != nil {
		return err
	}
	a.sourceIdentity = a.SourceIdentity
	if a.SourceIdentity != "" {
		if err := checkName("sourceIdentity", a.SourceIdentity); err != nil {
			return err
		}
	}
	if from := a.calling(); from != nil && from.SourceIdentity != "" {
		if a.SourceIdentity != "" && a.SourceIdentity != from.SourceIdentity {
			return a.denied("sts:SetSourceIdentity", errSourceChange)
		}
		a.sourceIdentity = from.SourceIdentity
	}
	return nil
}

// checkTags checks the tags that were passed, and adds those that are inherited.
func (a *assumption) checkTags() error {
	if err := checkTags(a.Tags, a.TransitiveKeys); err != nil {
		return err
	}
	a.tags = a.Tags[:len(a.Tags):len(a.Tags)]
	a.transitive = make([]string, 0, len(a.TransitiveKeys))
	for _, t := range a.Tags {
		if containsFold(a.TransitiveKeys, t.Key) {
			a.transitive = append(a.transitive, t.Key)
		}
	}
	from := a.calling()
	if from == nil {
		return nil
	}
	for _, key := range from.TransitiveKeys {
		if _, ok := tagNamed(a.Tags, key); ok {
			return awsapi.Errorf("InvalidParameterValue",
				"One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
		}
		inherited, ok := tagNamed(from.Tags, key)
		if !ok {
			continue
		}
		a.tags = append(a.tags, inherited)
		a.transitive = append(a.transitive, inherited.Key)
	}
	if len(a.tags) > maxTags {
		return awsapi.Errorf("InvalidParameterValue",
			"The session would have %d tags with those from the calling session. The limit is %d.", len(a.tags), maxTags)
	}
	return nil
}

// checkSessionPolicies checks what can be said of session policies without knowing the role.
func (a *assumption) checkSessionPolicies() error {
	return checkSessionPolicies(a.Policy, a.PolicyARNs)
}

func checkSessionPolicies(document string, arns []string) error {
	if len(arns) > maxPolicyARNs {
		return awsapi.Errorf("ValidationError",
			"1 validation error detected: Value at 'policyArns' failed to satisfy constraint: Member must have length less than or equal to %d", maxPolicyARNs)
	}
	plain := utf8.RuneCountInString(document)
	for _, a := range arns {
		if _, err := arn.Parse(a); err != nil {
			e := awsapi.Errorf("ValidationError", "%s is invalid", a)
			e.Cause = err
			return e
		}
		plain += len(a)
	}
	if plain > maxPlainPolicy {
		return awsapi.Errorf("ValidationError",
			"1 validation error detected: Value at 'policy' failed to satisfy constraint: Member must have length less than or equal to %d", maxPlainPolicy)
	}
	if document == "" {
		return nil
	}
	if _, err := policy.New("session policy", policy.Session, []byte(document)); err != nil {
		return awsapi.Errorf("MalformedPolicyDocument", "%s", err)
	}
	return nil
}

// checkManaged checks that the managed policies exist that are named as session policies. It must not be asked before the
// caller is known to be trusted: what exists in an account is nobody else's business.
func (s *Service) checkManaged(account string, arns []string) error {
	for _, text := range arns {
		a, err := arn.Parse(text)
		if err == nil {
			if _, ok := s.iam.ManagedPolicy(account, a); ok {
				continue
			}
		}
		return awsapi.Errorf("ValidationError", "Policy %s does not exist or is not attachable.", text)
	}
	return nil
}

// findRole finds the role and holds the duration to its limit.
func (s *Service) findRole(ctx context.Context, a *assumption) error {
	a.duration = a.Duration
	if a.duration == 0 {
		a.duration = defaultDuration
	}
	if err := checkDuration(a.duration); err != nil {
		return err
	}
	role, ok, err := confirm(ctx, s, func() (*iam.Role, bool) { return s.iam.Role(a.Role) })
	if err != nil {
		return err
	}
	if !ok {
		return a.denied(a.Action, errNoRole)
	}
	a.role = role
	switch {
	case a.Principal.Kind == policy.RoleSession && a.duration > maxChained:
		return awsapi.Errorf("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	case a.duration > role.MaxSessionDuration && !a.ByService:
		return awsapi.Errorf("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	return nil
}

// decide asks the role's trust policy, and the caller's own policies, for each action that the request amounts to. The
// error is STS's denial.
func (s *Service) decide(a *assumption) (decision string, err error) {
	var own *policy.Policies
	if a.signed() {
		own, err = s.iam.Policies(&a.Caller.Identity)
		if err != nil {
			return "denied: the caller's policies cannot be had", a.denied(a.Action, err)
		}
	}
	actions := []string{a.Action}
	if len(a.tags) > 0 {
		actions = append(actions, "sts:TagSession")
	}
	if a.sourceIdentity != "" {
		actions = append(actions, "sts:SetSourceIdentity")
	}
	r := policy.Request{
		Principal:       a.Principal,
		Resource:        s.iam.RoleARN(a.role).String(),
		ResourceAccount: a.role.Account,
		Context:         s.trustContext(a),
	}
	for i, action := range actions {
		r.Action = action
		d := policy.EvaluateTrust(&r, a.role.Trust, own)
		if !d.Allowed {
			return d.String(), a.denied(action, nil)
		}
		if i == 0 {
			decision = d.String()
		}
	}
	return decision, nil
}

// trustContext returns the condition keys for the role's trust policy.
func (s *Service) trustContext(a *assumption) *policy.Context {
	var c *policy.Context
	if a.signed() {
		c = s.iam.Context(a.Caller)
	} else {
		c = requestContext(a.Caller)
		if a.Principal.Kind == policy.Service {
			c.Set("aws:PrincipalIsAWSService", "true")
			c.Set("aws:PrincipalServiceName", a.Principal.Name)
			c.SetList("aws:PrincipalServiceNamesList", []string{a.Principal.Name})
		}
	}
	c.Set("aws:ResourceAccount", a.role.Account)
	c.Set("sts:RoleSessionName", a.SessionName)
	if a.ExternalID != "" {
		c.Set("sts:ExternalId", a.ExternalID)
	}
	if a.sourceIdentity != "" {
		c.Set("sts:SourceIdentity", a.sourceIdentity)
	}
	if len(a.tags) > 0 {
		keys := make([]string, len(a.tags))
		for i, t := range a.tags {
			keys[i] = t.Key
			c.Set("aws:RequestTag/"+t.Key, t.Value)
		}
		c.SetList("aws:TagKeys", keys)
	}
	if len(a.transitive) > 0 {
		c.SetList("sts:TransitiveTagKeys", a.transitive)
	}
	for _, t := range a.role.Tags {
		c.Set("aws:ResourceTag/"+t.Key, t.Value)
		c.Set("iam:ResourceTag/"+t.Key, t.Value)
	}
	for _, kv := range a.Context {
		c.Set(kv.Key, kv.Value)
	}
	if len(a.AMR) > 0 {
		c.SetList(providerURL(a.FederatedProvider)+":amr", a.AMR)
	}
	return c
}

// requestContext returns the keys that tell of the request itself, for callers that are no IAM identity.
func requestContext(c *awsapi.Caller) *policy.Context {
	ctx := new(policy.Context)
	ctx.Set("aws:CurrentTime", c.Time.UTC().Format(time.RFC3339))
	ctx.Set("aws:EpochTime", strconv.FormatInt(c.Time.Unix(), 10))
	ctx.Set("aws:SecureTransport", strconv.FormatBool(c.Secure))
	ctx.Set("aws:ViaAWSService", "false")
	if c.SourceIP.IsValid() {
		ctx.Set("aws:SourceIp", c.SourceIP.Unmap().WithZone("").String())
	}
	if c.UserAgent != "" {
		ctx.Set("aws:UserAgent", c.UserAgent)
	}
	if c.Region != "" {
		ctx.Set("aws:RequestedRegion", c.Region)
	}
	return ctx
}

// providerURL returns what a provider's condition keys begin with: its URL as in its ARN, without scheme and port.
func providerURL(providerARN string) string {
	_, url, _ := strings.Cut(providerARN, ":oidc-provider/")
	return url
}

// identity returns who the session is, complete but for the access key ID.
func (a *assumption) identity(partition string, role arn.ARN, issued time.Time) awsapi.Identity {
	session := &awsapi.Session{
		Name:           a.SessionName,
		Tags:           a.tags,
		TransitiveKeys: a.transitive,
		SourceIdentity: a.sourceIdentity,
		PolicyARNs:     a.PolicyARNs,
		Issued:         issued,
		Expires:        issued.Add(a.duration),
	}
	if a.Policy != "" {
		session.Policies = []string{a.Policy}
	}
	if a.Principal.Kind == policy.WebIdentity {
		session.FederatedProvider = a.FederatedProvider
		session.ContextKeys = a.Context
	}
	return awsapi.Identity{
		Kind:      policy.RoleSession,
		Account:   a.role.Account,
		ARN:       arn.New(partition, "sts", "", a.role.Account, "assumed-role/"+a.role.Name+"/"+a.SessionName).String(),
		UserID:    a.role.ID + ":" + a.SessionName,
		EntityID:  a.role.ID,
		EntityARN: role.String(),
		Session:   session,
	}
}

// recordAssume writes the event of one decision. It never holds a token, a secret, or what was only claimed as if it
// were known.
func (s *Service) recordAssume(ctx context.Context, in *AssumeInput, out *Assumed, decision string, err error) error {
	e := s.event(in.Caller, strings.TrimPrefix(in.Action, "sts:"))
	e.Account = in.Role.Account()
	e.Lanyard.Subject, e.Lanyard.Pod = in.Subject, in.Pod
	service := in.InvokedBy
	switch {
	case in.Principal.Kind == policy.Service:
		service = in.Principal.Name
		e.Identity = audit.UserIdentity{Type: "AWSService", InvokedBy: service}
	case in.Principal.Kind == policy.WebIdentity:
		e.Identity = audit.UserIdentity{Type: "WebIdentityUser", Provider: in.FederatedProvider}
		if sub, ok := contextKey(in, ":sub"); ok {
			aud, _ := contextKey(in, ":aud")
			e.Identity.PrincipalID, e.Identity.UserName = in.FederatedProvider+":"+aud+":"+sub, sub
		}
		e.Additional = audit.Object(nil).Text("identityProviderConnectionVerificationMethod", "IAMTrustStore").
			Object("RequestDetails", awsapi.RequestDetails(in.Caller))
	case service != "":
		e.Identity.InvokedBy = service
	}
	if service != "" { // the call was made within AWS, of which the caller's request was only the occasion
		e.SourceIP, e.UserAgent, e.TLS, e.Additional, e.SharedID = service, service, nil, nil, audit.NewID()
	}
	e.Parameters = in.parameters()
	role := in.Role.String()
	e.Resources = []audit.Resource{{Account: e.Account, Type: "AWS::IAM::Role", ARN: role}}
	if out != nil {
		e.Response = in.response(out)
		e.Lanyard.Resources = append(make([]audit.Named, 0, 4),
			audit.Named{Type: "AWS::IAM::AccessKey", Name: out.Credentials.AccessKeyID},
			audit.Named{Type: "AWS::STS::AssumedRole", Name: out.AssumedRoleID},
			audit.Named{Type: "AWS::STS::AssumedRole", Name: out.ARN})
	}
	e.Lanyard.Resources = append(e.Lanyard.Resources, audit.Named{Type: "AWS::IAM::Role", Name: role})
	return s.record(ctx, e, decision, err)
}

// parameters are the request's, as CloudTrail names them.
func (in *AssumeInput) parameters() audit.Object {
	p := make(audit.Object, 0, 1024).Text("roleArn", in.Role.String()).Text("roleSessionName", in.SessionName)
	if in.Duration != 0 {
		p = p.Number("durationSeconds", int64(in.Duration/time.Second))
	}
	if len(in.Tags) > 0 && in.Principal.Kind == policy.WebIdentity {
		var tags audit.Object
		for _, t := range in.Tags {
			tags = tags.Text(t.Key, t.Value)
		}
		p = p.Object("principalTags", tags)
	} else if len(in.Tags) > 0 {
		p = p.Objects("tags", tagObjects(in.Tags))
	}
	if len(in.TransitiveKeys) > 0 {
		p = p.Texts("transitiveTagKeys", in.TransitiveKeys)
	}
	for _, t := range [...]struct{ name, value string }{
		{"externalId", in.ExternalID}, {"sourceIdentity", in.SourceIdentity}, {"policy", in.Policy},
	} {
		if t.value != "" {
			p = p.Text(t.name, t.value)
		}
	}
	if len(in.PolicyARNs) > 0 {
		p = p.Objects("policyArns", arnObjects(in.PolicyARNs))
	}
	return p
}

func tagObjects(tags []awsapi.Tag) []audit.Object {
	list := make([]audit.Object, len(tags))
	for i, t := range tags {
		list[i] = make(audit.Object, 0, 96).Text("key", t.Key).Text("value", t.Value)
	}
	return list
}

func arnObjects(arns []string) []audit.Object {
	list := make([]audit.Object, len(arns))
	for i, a := range arns {
		list[i] = audit.Object(nil).Text("arn", a)
	}
	return list
}

// response is the answer, as CloudTrail has it, without what is secret.
func (in *AssumeInput) response(out *Assumed) audit.Object {
	r := make(audit.Object, 0, 512).Object("credentials", recordCredentials(out.Credentials.AccessKeyID, out.Expires))
	web := in.Principal.Kind == policy.WebIdentity
	subject, _ := contextKey(in, ":sub")
	if web {
		r = r.Text("subjectFromWebIdentityToken", subject)
	}
	r = r.Object("assumedRoleUser", make(audit.Object, 0, 256).Text("assumedRoleId", out.AssumedRoleID).Text("arn", out.ARN))
	if out.PackedPolicySize != nil {
		r = r.Number("packedPolicySize", int64(*out.PackedPolicySize))
	}
	if web {
		audience, _ := contextKey(in, ":aud")
		r = r.Text("provider", in.FederatedProvider).Text("audience", audience)
	}
	if out.SourceIdentity != "" {
		r = r.Text("sourceIdentity", out.SourceIdentity)
	}
	return r
}

// recordCredentials is what a record has of credentials that were made. CloudTrail's have the session token too; here it holds the
// whole session, sealed, and is nobody's but the caller's.
func recordCredentials(accessKeyID string, expires time.Time) audit.Object {
	return make(audit.Object, 0, 160).Text("accessKeyId", accessKeyID).Text("sessionToken", audit.Hidden).
		Text("expiration", audit.TextTime(expires))
}

// contextKey finds the web identity's condition key of a suffix.
func contextKey(in *AssumeInput, suffix string) (string, bool) {
	for _, kv := range in.Context {
		if strings.HasPrefix(kv.Key, providerURL(in.FederatedProvider)) && strings.HasSuffix(kv.Key, suffix) {
			return kv.Value, true
		}
	}
	return "", false
}

// event begins the audit event of a call.
func (s *Service) event(c *awsapi.Caller, name string) *audit.Event {
	e := awsapi.NewRecord(c, "sts", name)
	e.Time = s.now().UTC()
	return e
}

// record completes the event with the outcome and writes it, here and into the request's log event.
func (s *Service) record(ctx context.Context, e *audit.Event, decision string, err error) error {
	e.Lanyard.Decision = decision
	awsapi.RecordError(e, err)
	if err := s.audit.Record(ctx, e); err != nil {
		return fmt.Errorf("record %s: %w", e.Name, err)
	}
	awsapi.Recorded(ctx)
	awsapi.Annotate(ctx, slog.String("sts_decision", decision), slog.String("audit_event_id", e.EventID))
	return nil
}
