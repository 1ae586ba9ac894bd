package sts

import (
	"context"
	"errors"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/policy"
)

// clockSkew is by how much a token may say that it was issued, or becomes valid, in the future. A token that has expired
// gets no grace.
const clockSkew = 5 * time.Minute

// maxClaim is the longest subject that STS's model has (webIdentitySubjectType) and the longest client ID that IAM's has,
// in bytes. What a session keeps of a token is bounded by it.
const maxClaim = 255

type webIdentityInput struct {
	RoleARN          string
	RoleSessionName  string
	WebIdentityToken string
	ProviderID       string
	PolicyARNs       []policyDescriptor
	Policy           string
	DurationSeconds  int32
}

type webIdentityOutput struct {
	Credentials                 *credentials
	SubjectFromWebIdentityToken string
	AssumedRoleUser             *assumedRoleUser
	PackedPolicySize            *int32
	Provider                    string
	Audience                    string
	SourceIdentity              string
}

// assumeRoleWithWebIdentity needs no signature: the token is the proof. What is wrong is reported in STS's order: session
// policies, the token's form, the role and its duration, the issuer, the audience, keys, signature and times, what the cluster
// says of the token, and in the end the trust policy. Refusals are recorded from the point on where the issuer is known to
// the role's account; before that anybody could fill the record.
func (s *Service) assumeRoleWithWebIdentity(ctx context.Context, c *awsapi.Caller, in *webIdentityInput) (*webIdentityOutput, error) {
	role, err := roleARN(in.RoleARN)
	if err != nil {
		return nil, err
	}
	if in.ProviderID != "" {
		return nil, awsapi.Errorf("ValidationError", "ProviderId is for OAuth 2.0 access tokens, which are not supported.")
	}
	assume := &AssumeInput{
		Action:      "sts:AssumeRoleWithWebIdentity",
		Principal:   policy.Principal{Kind: policy.WebIdentity},
		Caller:      c,
		Role:        role,
		SessionName: in.RoleSessionName,
		Duration:    time.Duration(in.DurationSeconds) * time.Second,
		Policy:      in.Policy,
		PolicyARNs:  policyARNs(in.PolicyARNs),
	}
	a := &assumption{AssumeInput: assume}
	if err := a.checkSessionPolicies(); err != nil {
		return nil, err
	}
	claimed, err := idtoken.ParseInsecure(in.WebIdentityToken)
	if err != nil {
		return nil, tokenError(err)
	}
	if err := s.findRole(ctx, a); err != nil {
		return nil, err
	}
	provider, ok, err := confirm(ctx, s, func() (*iam.Provider, bool) { return s.iam.Provider(role.Account(), claimed.Issuer) })
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, awsapi.Errorf("InvalidIdentityToken", "No OpenIDConnect provider found in your account for %s", claimed.Issuer)
	}
	assume.FederatedProvider = provider.ARN.String()
	assume.Principal.Name = assume.FederatedProvider

	claims, audience, err := s.verify(ctx, provider, in.WebIdentityToken, claimed.Issuer)
	if err == nil {
		assume.present(provider, claims, audience)
		if s.review != nil {
			err = s.review(ctx, in.WebIdentityToken, claims)
		}
	}
	if err != nil {
		refusal := tokenError(err)
		if err := s.recordAssume(ctx, assume, nil, refused(refusal), refusal); err != nil {
			return nil, err
		}
		return nil, refusal
	}
	out, err := s.Assume(ctx, assume)
	if err != nil {
		return nil, err
	}
	return &webIdentityOutput{
		Credentials:                 wireCredentials(out.Credentials, out.Expires),
		SubjectFromWebIdentityToken: claims.Subject,
		AssumedRoleUser:             &assumedRoleUser{out.AssumedRoleID, out.ARN},
		PackedPolicySize:            out.PackedPolicySize,
		Provider:                    assume.FederatedProvider,
		Audience:                    audience,
		SourceIdentity:              out.SourceIdentity,
	}, nil
}

var errLongClaim = errors.New("subject, audience or authorized party is too long")

// verify checks a token of a provider in full, and returns what it says and the audience that it is for.
func (s *Service) verify(ctx context.Context, p *iam.Provider, token, issuer string) (*idtoken.Claims, string, error) {
	keys, err := s.keys(p, issuer)
	if err != nil {
		return nil, "", err
	}
	now := s.now()
	claims, err := idtoken.Verify(ctx, token, idtoken.Expect{
		Issuer: issuer, Audiences: p.ClientIDs, SingleAudience: true, Now: now, Leeway: clockSkew,
	}, keys)
	if err != nil {
		return nil, "", err
	}
	if !now.Before(claims.Expires) {
		return nil, "", &idtoken.ExpiredError{Now: now, Expires: claims.Expires}
	}
	for _, kept := range append([]string{claims.Subject, claims.AuthorizedParty}, claims.Audience...) {
		if len(kept) > maxClaim {
			return nil, "", errLongClaim
		}
	}
	audience, err := claims.EffectiveAudience()
	return claims, audience, err
}

// present puts what a verified token says into the request.
func (in *AssumeInput) present(p *iam.Provider, claims *idtoken.Claims, audience string) {
	in.Context = []awsapi.KeyValue{
		{Key: p.URL + ":sub", Value: claims.Subject},
		{Key: p.URL + ":aud", Value: audience},
	}
	if claims.AuthorizedParty != "" {
		in.Context = append(in.Context, awsapi.KeyValue{Key: p.URL + ":azp", Value: claims.AuthorizedParty})
		if len(claims.Audience) == 1 {
			in.Context = append(in.Context, awsapi.KeyValue{Key: p.URL + ":oaud", Value: claims.Audience[0]})
		}
	}
	if pod := claims.Kubernetes; pod != nil {
		in.Subject = claims.Subject
		if pod.Pod != nil {
			in.Pod = pod.Namespace + "/" + pod.Pod.Name
		}
	}
	in.AMR = claims.AMR
	for _, t := range claims.PrincipalTags {
		in.Tags = append(in.Tags, awsapi.Tag(t))
	}
	in.TransitiveKeys = claims.TransitiveTags
	in.SourceIdentity = claims.SourceIdentity
}

// tokenError is STS's answer to a token that was refused. A failure that is not about the token stays as it is.
func tokenError(err error) error {
	code, message := "InvalidIdentityToken", ""
	expired, isExpired := errors.AsType[*idtoken.ExpiredError](err)
	missing, isMissing := errors.AsType[*idtoken.MissingClaimError](err)
	switch {
	case isExpired:
		code, message = "ExpiredTokenException", expired.Error()
	case isMissing:
		message = missing.Error()
	case errors.Is(err, idtoken.ErrMalformed):
		message = "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
	case errors.Is(err, idtoken.ErrManyAudiences):
		message = idtoken.ErrManyAudiences.Error()
	case errors.Is(err, idtoken.ErrAudience):
		message = "Incorrect token audience"
	case errors.Is(err, idtoken.ErrThumbprint):
		message = "OpenIDConnect provider's HTTPS certificate doesn't match configured thumbprint"
	case errors.Is(err, idtoken.ErrKeys):
		message = "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements"
	case errors.Is(err, idtoken.ErrAlgorithm), errors.Is(err, idtoken.ErrSignature), errors.Is(err, idtoken.ErrIssuer),
		errors.Is(err, idtoken.ErrNotYet), errors.Is(err, idtoken.ErrRevoked), errors.Is(err, errLongClaim):
		message = "The web identity token provided could not be validated. See the AssumeRoleWithWebIdentity documentation for requirements."
	case errors.Is(err, idtoken.ErrUnreviewed):
		code, message = "IDPCommunicationError", "The identity provider that was asked to verify the web identity token could not be reached."
	default:
		return err
	}
	e := awsapi.Errorf(code, "%s", message)
	e.Cause = err
	return e
}
