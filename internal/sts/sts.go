// Package sts mints and opens temporary credentials. Every credential that Lanyard hands out is made by one function,
// [Service.Assume] (or, for the two calls that make sessions without a role, by its sisters in this package).
//
// Minting writes nothing to the store: a session token holds the whole session, sealed by the keyring, so that any replica
// opens what another minted. A session ends when it expires, and when its role or user is deleted.
package sts

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// Config is what the service needs.
type Config struct {
	IAM       *iam.Service     // required
	Keyring   *keyring.Keyring // required; seals session tokens
	Partition string
	// Keys returns the keys of a registered provider for tokens whose iss is issuerURL, or an error that wraps idtoken.ErrKeys when
	// the token's issuer URL is not where the provider was registered.
	Keys func(p *iam.Provider, issuerURL string) (idtoken.KeySource, error)
	// Review, if not nil, says of a token that was verified whether the cluster that issued it still honours it. Errors wrap
	// idtoken.ErrRevoked or idtoken.ErrUnreviewed.
	Review func(ctx context.Context, token string, c *idtoken.Claims) error
	Audit  audit.Recorder   // required
	Now    func() time.Time // time.Now when nil
}

// Service is STS.
type Service struct {
	iam       *iam.Service
	keyring   *keyring.Keyring
	partition string
	keys      func(p *iam.Provider, issuerURL string) (idtoken.KeySource, error)
	review    func(ctx context.Context, token string, c *idtoken.Claims) error
	audit     audit.Recorder
	now       func() time.Time
}

// New makes the service.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{
		iam: c.IAM, keyring: c.Keyring, partition: c.Partition, keys: c.Keys, review: c.Review, audit: c.Audit, now: c.Now,
	}
}

// The causes of failed authentication, for the log.
var (
	errNoKey          = errors.New("no such active access key")
	errTokenWithKey   = errors.New("session token with a long-term access key")
	errNoToken        = errors.New("temporary access key without its session token")
	errSessionExpired = errors.New("session has expired")
	errEntityGone     = errors.New("the session's role or user is gone")
)

// onTheWay is how long after its end a session is still honoured, for requests that were signed before. AWS's SDK for Go uses the credentials of web
// identities to the last moment, and takes a refusal for final.
const onTheWay = 5 * time.Second

// Credentials resolves an access key, and for temporary ones the session token that came with it. It is awsapi's
// Authenticator.Credentials. A session whose role or user is gone, by its unique ID, is unknown.
func (s *Service) Credentials(ctx context.Context, accessKeyID, sessionToken string) (awsapi.Credential, error) {
	if !strings.HasPrefix(accessKeyID, string(arn.TemporaryAccessKeyID)) {
		if sessionToken != "" {
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey, Cause: errTokenWithKey}
		}
		c, ok, err := confirm(ctx, s, func() (awsapi.Credential, bool) { return s.iam.Credential(accessKeyID) })
		if err != nil {
			return awsapi.Credential{}, err
		}
		if !ok {
			return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey, Cause: errNoKey}
		}
		return c, nil
	}
	if sessionToken == "" {
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey, Cause: errNoToken}
	}
	ses, err := s.open(accessKeyID, sessionToken)
	if err != nil {
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey, Cause: err}
	}
	if !s.now().Before(ses.identity.Session.Expires.Add(onTheWay)) {
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.ExpiredSession, Cause: errSessionExpired}
	}
	_, ok, err := confirm(ctx, s, func() (struct{}, bool) { return struct{}{}, s.iam.Exists(&ses.identity) })
	if err != nil {
		return awsapi.Credential{}, err
	}
	if !ok {
		return awsapi.Credential{}, &awsapi.AuthError{Kind: awsapi.UnknownKey, Cause: errEntityGone}
	}
	return awsapi.Credential{Secret: ses.secret, Identity: ses.identity}, nil
}

// confirm looks something up, and before it believes that it is not there, catches up with what other replicas have
// written: a role, provider or key that was acknowledged a moment ago is never denied.
func confirm[T any](ctx context.Context, s *Service, find func() (T, bool)) (found T, ok bool, err error) {
	if found, ok = find(); ok {
		return found, true, nil
	}
	if err := s.iam.Sync(ctx); err != nil {
		return found, false, err
	}
	found, ok = find()
	return found, ok, nil
}

// AssumeInput is a role to assume and all that goes into the session.
type AssumeInput struct {
	Action    string           // sts:AssumeRole or sts:AssumeRoleWithWebIdentity
	Principal policy.Principal // who assumes
	// Caller is the request that this is done for; required. For service and web-identity principals its Identity is not used.
	Caller         *awsapi.Caller
	Role           arn.ARN
	SessionName    string
	Duration       time.Duration // 0: one hour
	Tags           []awsapi.Tag  // passed in the request; a chained caller's transitive tags are added to them
	TransitiveKeys []string
	SourceIdentity string
	ExternalID     string
	Policy         string   // session policy, JSON
	PolicyARNs     []string // managed session policies
	// Context holds further condition keys for the trust policy: the provider's :sub, :aud and :amr, aws:SourceArn, aws:SourceAccount.
	// Those of a web identity stay with the session.
	Context []awsapi.KeyValue
	// AMR is the provider's multivalued :amr key.
	AMR               []string
	FederatedProvider string // ARN
	// ByService exempts AWS services from the role's MaxSessionDuration.
	ByService bool
	// InvokedBy is the service that asks in the principal's name; empty when the principal asks itself. It, and the service account's
	// Subject and the Pod that this is for, NAMESPACE/NAME, are for the record.
	InvokedBy, Subject, Pod string
}

// Assumed is a session that was made.
type Assumed struct {
	Credentials      sigv4.Credentials
	Expires          time.Time
	ARN              string // arn:…:sts::ACCOUNT:assumed-role/ROLE/SESSION
	AssumedRoleID    string // AROA…:SESSION
	PackedPolicySize *int32 // percent; nil when neither policies nor tags were passed
	SourceIdentity   string
	Identity         awsapi.Identity // of the session, for going on as it within this process
}
