package sts

import (
	"context"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// API returns the operations of the STS API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{
		Model: awsapi.ModelNamed("sts"),
		Operations: []awsapi.Operation{
			awsapi.Op("AssumeRole", s.assumeRole, awsapi.Open),
			awsapi.Op("AssumeRoleWithWebIdentity", s.assumeRoleWithWebIdentity, awsapi.Open),
			awsapi.Op("DecodeAuthorizationMessage", s.decodeAuthorizationMessage, decodeMessageAccess),
			awsapi.Op("GetAccessKeyInfo", s.getAccessKeyInfo, accessKeyInfoAccess),
			awsapi.Op("GetCallerIdentity", s.getCallerIdentity, awsapi.Open),
			awsapi.Op("GetFederationToken", s.getFederationToken, s.federationAccess),
			awsapi.Op("GetSessionToken", s.getSessionToken, awsapi.Open),
		},
	}
}

type credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expiration      time.Time
}

func wireCredentials(c sigv4.Credentials, expires time.Time) *credentials {
	return &credentials{c.AccessKeyID, string(c.SecretAccessKey), c.SessionToken, expires}
}

type assumedRoleUser struct {
	AssumedRoleID string
	ARN           string
}

type policyDescriptor struct{ ARN string }

func policyARNs(list []policyDescriptor) []string {
	var arns []string
	for _, d := range list {
		arns = append(arns, d.ARN)
	}
	return arns
}

// roleARN reads the RoleArn parameter.
func roleARN(text string) (arn.ARN, error) {
	a, err := arn.Parse(text)
	if err != nil {
		e := awsapi.Errorf("ValidationError", "%s is invalid", text)
		e.Cause = err
		return arn.ARN{}, e
	}
	return a, nil
}

// noMFA refuses a request that names an MFA device: no identity here has one, so that no code for it can be right.
func noMFA(serialNumber, tokenCode string) error {
	if serialNumber == "" && tokenCode == "" {
		return nil
	}
	return awsapi.Errorf("AccessDenied", "MultiFactorAuthentication failed, unable to validate MFA code. "+
		"Please verify your MFA serial number is valid and associated with this user.")
}

type assumeRoleInput struct {
	RoleARN           string
	RoleSessionName   string
	PolicyARNs        []policyDescriptor
	Policy            string
	DurationSeconds   int32
	Tags              []awsapi.Tag
	TransitiveTagKeys []string
	ExternalID        string
	SerialNumber      string
	TokenCode         string
	SourceIdentity    string
	ProvidedContexts  []providedContext
}

type providedContext struct{ ProviderARN, ContextAssertion string }

type assumeRoleOutput struct {
	Credentials      *credentials
	AssumedRoleUser  *assumedRoleUser
	PackedPolicySize *int32
	SourceIdentity   string
}

func (s *Service) assumeRole(ctx context.Context, c *awsapi.Caller, in *assumeRoleInput) (*assumeRoleOutput, error) {
	role, err := roleARN(in.RoleARN)
	if err != nil {
		return nil, err
	}
	if err := noMFA(in.SerialNumber, in.TokenCode); err != nil {
		return nil, err
	}
	if len(in.ProvidedContexts) > 0 {
		return nil, awsapi.Errorf("InvalidParameterValue", "ProvidedContexts is not supported.")
	}
	out, err := s.Assume(ctx, &AssumeInput{
		Action:         "sts:AssumeRole",
		Principal:      iam.Principal(&c.Identity),
		Caller:         c,
		Role:           role,
		SessionName:    in.RoleSessionName,
		Duration:       time.Duration(in.DurationSeconds) * time.Second,
		Tags:           in.Tags,
		TransitiveKeys: in.TransitiveTagKeys,
		SourceIdentity: in.SourceIdentity,
		ExternalID:     in.ExternalID,
		Policy:         in.Policy,
		PolicyARNs:     policyARNs(in.PolicyARNs),
	})
	if err != nil {
		return nil, err
	}
	return &assumeRoleOutput{
		Credentials:      wireCredentials(out.Credentials, out.Expires),
		AssumedRoleUser:  &assumedRoleUser{out.AssumedRoleID, out.ARN},
		PackedPolicySize: out.PackedPolicySize,
		SourceIdentity:   out.SourceIdentity,
	}, nil
}

type callerIdentityOutput struct {
	UserID  string
	Account string
	ARN     string
}

func (s *Service) getCallerIdentity(ctx context.Context, c *awsapi.Caller, in *struct{}) (*callerIdentityOutput, error) {
	return &callerIdentityOutput{UserID: c.UserID, Account: c.Account, ARN: c.ARN}, nil
}

type accessKeyInfoInput struct{ AccessKeyID string }

type accessKeyInfoOutput struct{ Account string }

func accessKeyInfoAccess(c *awsapi.Caller, in *accessKeyInfoInput) ([]awsapi.Access, error) {
	// Sessions that were made without a role may call AssumeRole and GetCallerIdentity, and nothing else of STS (IAM User
	// Guide, "Compare AWS STS credentials").
	if c.Session != nil && c.Kind != policy.RoleSession {
		return nil, sessionCredentials("GetAccessKeyInfo")
	}
	return []awsapi.Access{{Action: "sts:GetAccessKeyInfo", Resource: "*"}}, nil
}

func (s *Service) getAccessKeyInfo(ctx context.Context, c *awsapi.Caller, in *accessKeyInfoInput) (*accessKeyInfoOutput, error) {
	account, ok := arn.AccountOfID(in.AccessKeyID)
	if !ok {
		return nil, awsapi.Errorf("ValidationError", "%s is not a valid access key ID.", in.AccessKeyID)
	}
	return &accessKeyInfoOutput{account}, nil
}

// sessionCredentials refuses an operation to callers with temporary credentials.
func sessionCredentials(operation string) *awsapi.Error {
	return awsapi.Errorf("AccessDenied", "Cannot call %s with session credentials", operation)
}

// userDuration is the life of a session without a role: as asked for, or twelve hours. Root gets one hour at most, and
// also when it asks for more.
func userDuration(c *awsapi.Caller, seconds int32) time.Duration {
	d := time.Duration(seconds) * time.Second
	if d == 0 {
		d = 12 * time.Hour
	}
	if c.Kind == policy.Root {
		d = min(d, time.Hour)
	}
	return d
}

type sessionTokenInput struct {
	DurationSeconds int32
	SerialNumber    string
	TokenCode       string
}

type sessionTokenOutput struct{ Credentials *credentials }

func (s *Service) getSessionToken(ctx context.Context, c *awsapi.Caller, in *sessionTokenInput) (*sessionTokenOutput, error) {
	creds, expires, err := s.sessionToken(c, in)
	e := s.event(c, "GetSessionToken")
	if in.DurationSeconds != 0 {
		e.Parameters = e.Parameters.Number("durationSeconds", int64(in.DurationSeconds))
	}
	decision := "allowed: needs no permission"
	if err != nil {
		decision = refused(err)
	} else {
		e.Response = audit.Object(nil).Object("credentials", recordCredentials(creds.AccessKeyID, expires))
		e.Lanyard.Resources = []audit.Named{{Type: "AWS::IAM::AccessKey", Name: creds.AccessKeyID}}
	}
	if err := s.record(ctx, e, decision, err); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return &sessionTokenOutput{wireCredentials(creds, expires)}, nil
}

func (s *Service) sessionToken(c *awsapi.Caller, in *sessionTokenInput) (sigv4.Credentials, time.Time, error) {
	if c.Session != nil {
		return sigv4.Credentials{}, time.Time{}, sessionCredentials("GetSessionToken")
	}
	if err := noMFA(in.SerialNumber, in.TokenCode); err != nil {
		return sigv4.Credentials{}, time.Time{}, err
	}
	id := c.Identity
	issued := s.now().UTC().Truncate(time.Second)
	id.Session = &awsapi.Session{Issued: issued, Expires: issued.Add(userDuration(c, in.DurationSeconds))}
	creds, _, err := s.mint(id)
	return creds, id.Session.Expires, err
}

type federationTokenInput struct {
	Name            string
	Policy          string
	PolicyARNs      []policyDescriptor
	DurationSeconds int32
	Tags            []awsapi.Tag
}

type federatedUser struct {
	FederatedUserID string
	ARN             string
}

type federationTokenOutput struct {
	Credentials      *credentials
	FederatedUser    *federatedUser
	PackedPolicySize int32
}

func (s *Service) federatedUserARN(account, name string) string {
	return arn.New(s.partition, "sts", "", account, "federated-user/"+name).String()
}

func (s *Service) federationAccess(c *awsapi.Caller, in *federationTokenInput) ([]awsapi.Access, error) {
	if c.Session != nil {
		return nil, sessionCredentials("GetFederationToken")
	}
	tags := func(ctx *policy.Context) {
		if len(in.Tags) == 0 {
			return
		}
		var keys []string
		for _, t := range in.Tags {
			keys = append(keys, t.Key)
			ctx.Set("aws:RequestTag/"+t.Key, t.Value)
		}
		ctx.SetList("aws:TagKeys", keys)
	}
	resource := s.federatedUserARN(c.Account, in.Name)
	access := []awsapi.Access{{Action: "sts:GetFederationToken", Resource: resource, Context: tags}}
	if len(in.Tags) > 0 {
		access = append(access, awsapi.Access{Action: "sts:TagSession", Resource: resource, Context: tags})
	}
	return access, nil
}

func (s *Service) getFederationToken(ctx context.Context, c *awsapi.Caller, in *federationTokenInput) (*federationTokenOutput, error) {
	out, err := s.federationToken(c, in)
	e := s.event(c, "GetFederationToken")
	e.Parameters = in.parameters()
	decision := "allowed: the caller has sts:GetFederationToken"
	if err != nil {
		decision = refused(err)
	} else {
		e.Response = audit.Object(nil).Object("credentials", recordCredentials(out.Credentials.AccessKeyID, out.Credentials.Expiration)).
			Object("federatedUser", audit.Object(nil).Text("federatedUserId", out.FederatedUser.FederatedUserID).Text("arn", out.FederatedUser.ARN)).
			Number("packedPolicySize", int64(out.PackedPolicySize))
		e.Lanyard.Resources = []audit.Named{
			{Type: "AWS::IAM::AccessKey", Name: out.Credentials.AccessKeyID}, {Type: "AWS::STS::FederatedUser", Name: out.FederatedUser.ARN},
		}
	}
	if err := s.record(ctx, e, decision, err); err != nil {
		return nil, err
	}
	return out, err
}

// parameters are the request's, as CloudTrail names them.
func (in *federationTokenInput) parameters() audit.Object {
	p := audit.Object(nil).Text("name", in.Name)
	if in.DurationSeconds != 0 {
		p = p.Number("durationSeconds", int64(in.DurationSeconds))
	}
	if in.Policy != "" {
		p = p.Text("policy", in.Policy)
	}
	if arns := policyARNs(in.PolicyARNs); len(arns) > 0 {
		p = p.Objects("policyArns", arnObjects(arns))
	}
	if len(in.Tags) > 0 {
		p = p.Objects("tags", tagObjects(in.Tags))
	}
	return p
}

func (s *Service) federationToken(c *awsapi.Caller, in *federationTokenInput) (*federationTokenOutput, error) {
	arns := policyARNs(in.PolicyARNs)
	if err := checkTags(in.Tags, nil); err != nil {
		return nil, err
	}
	if err := checkSessionPolicies(in.Policy, arns); err != nil {
		return nil, err
	}
	if err := s.checkManaged(c.Account, arns); err != nil {
		return nil, err
	}
	size, err := checkPacked(in.Policy, arns, in.Tags)
	if err != nil {
		return nil, err
	}
	issued := s.now().UTC().Truncate(time.Second)
	session := &awsapi.Session{
		Name:       in.Name,
		Tags:       in.Tags,
		PolicyARNs: arns,
		Issued:     issued,
		Expires:    issued.Add(userDuration(c, in.DurationSeconds)),
	}
	if in.Policy != "" {
		session.Policies = []string{in.Policy}
	}
	id := awsapi.Identity{
		Kind:      policy.Federated,
		Account:   c.Account,
		ARN:       s.federatedUserARN(c.Account, in.Name),
		UserID:    c.Account + ":" + in.Name,
		EntityID:  c.EntityID,
		EntityARN: c.EntityARN,
		Session:   session,
	}
	creds, id, err := s.mint(id)
	if err != nil {
		return nil, err
	}
	return &federationTokenOutput{
		Credentials:      wireCredentials(creds, session.Expires),
		FederatedUser:    &federatedUser{id.UserID, id.ARN},
		PackedPolicySize: size,
	}, nil
}
