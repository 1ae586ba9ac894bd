package iam

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// A TrustGuard says what becomes of a role's trust policy that has findings of the severity High (see policy.Findings)
// when the role is made or its policy replaced. AWS has no such thing.
type TrustGuard string

// The trust guards. All that is none of these is taken for TrustDeny.
const (
	TrustOff  TrustGuard = "off"  // it is taken as it is
	TrustWarn TrustGuard = "warn" // it is taken; the log and the answer say what is wrong
	TrustDeny TrustGuard = "deny" // it is refused as MalformedPolicyDocument
)

// ParseTrustGuard reads a setting; empty is TrustWarn.
func ParseTrustGuard(text string) (TrustGuard, error) {
	switch g := TrustGuard(text); g {
	case "":
		return TrustWarn, nil
	case TrustOff, TrustWarn, TrustDeny:
		return g, nil
	}
	return "", fmt.Errorf("trust guard %q is not off, warn or deny", text)
}

// checkTrust refuses a trust policy that the guard does not let pass.
func (s *Service) checkTrust(document string) error {
	if s.guard == TrustOff || s.guard == TrustWarn {
		return nil
	}
	if dangers := dangersOf(document); len(dangers) > 0 {
		return awsapi.Errorf("MalformedPolicyDocument", "The trust guard of this server refuses the policy: %s", describe(dangers[0]))
	}
	return nil
}

// warnTrust tells the log and the caller what is wrong with a trust policy that was taken.
func (s *Service) warnTrust(ctx context.Context, c *awsapi.Caller, of *entity, document string) {
	if s.guard != TrustWarn {
		return
	}
	dangers := dangersOf(document)
	if len(dangers) == 0 {
		return
	}
	ids := make([]string, len(dangers))
	for i, f := range dangers {
		ids[i] = f.ID
		awsapi.Warn(ctx, describe(f))
	}
	findings := slog.String("findings", strings.Join(ids, ","))
	awsapi.Annotate(ctx, findings)
	s.log.WarnContext(ctx, "trust policy lets in whom nobody may have meant to let in",
		slog.String("role", s.roleARN(of)), findings, slog.String("request_id", c.RequestID))
}

// dangersOf returns a trust policy's findings of the severity High.
func dangersOf(document string) []policy.Finding {
	var dangers []policy.Finding
	for _, f := range policy.Findings([]byte(document), policy.Trust) {
		if f.Severity >= policy.High {
			dangers = append(dangers, f)
		}
	}
	return dangers
}

// describe says what is wrong, where, and what to write instead.
func describe(f policy.Finding) string {
	return fmt.Sprintf("%s at line %d, column %d: %s; %s", f.ID, f.Start.Line, f.Start.Column, f.Message, remedy(f))
}

// remedy says what to write instead. Where there is no one right way, it shows the condition that most trust policies want.
func remedy(f policy.Finding) string {
	var fixed bytes.Buffer
	switch {
	case f.Fixed != "" && json.Compact(&fixed, []byte(f.Fixed)) == nil:
		return "write instead: " + fixed.String()
	case strings.HasPrefix(f.ID, "trust-"):
		return `write, with the issuer's host and path: "Condition":{"StringEquals":{"ISSUER:sub":"system:serviceaccount:NAMESPACE:NAME",` +
			`"ISSUER:aud":"sts.amazonaws.com"}}`
	case strings.HasPrefix(f.ID, "any-"):
		return `write the ARNs of those who are meant as the Principal, or: "Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-EXAMPLE"}}`
	}
	return f.Why
}
