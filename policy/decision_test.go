package policy_test

import (
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

func TestMessage(t *testing.T) {
	t.Parallel()
	const who = "User: arn:aws:sts::111122223333:assumed-role/reader/pod-1 is not authorized to perform: s3:GetObject"
	const what = " on resource: " + object
	implicit := func(kind string) string {
		return who + what + " because no " + kind + " allows the s3:GetObject action"
	}
	for _, c := range []struct {
		decision policy.Decision
		want     string
	}{
		{policy.Decision{Layer: policy.IdentityLayer}, implicit("identity-based policy")},
		{policy.Decision{Layer: policy.ResourceLayer}, implicit("resource-based policy")},
		{policy.Decision{Layer: policy.BoundaryLayer}, implicit("permissions boundary")},
		{policy.Decision{Layer: policy.SessionLayer}, implicit("session policy")},
		{policy.Decision{Layer: policy.ServiceControlLayer}, implicit("service control policy")},
		{policy.Decision{Layer: policy.ResourceControlLayer}, implicit("resource control policy")},
		{policy.Decision{Layer: policy.TrustLayer}, implicit("role trust policy")},
		{policy.Decision{}, who + what},
		{policy.Decision{Explicit: true, Layer: policy.IdentityLayer}, who + what + " with an explicit deny in an identity-based policy"},
		{policy.Decision{Explicit: true, Layer: policy.ResourceLayer}, who + what + " with an explicit deny in a resource-based policy"},
		{policy.Decision{Explicit: true, Layer: policy.BoundaryLayer}, who + what + " with an explicit deny in a permissions boundary"},
		{policy.Decision{Explicit: true, Layer: policy.SessionLayer}, who + what + " with an explicit deny in a session policy"},
		{policy.Decision{Explicit: true, Layer: policy.ServiceControlLayer}, who + what + " with an explicit deny in a service control policy"},
		{policy.Decision{Explicit: true, Layer: policy.ResourceControlLayer}, who + what + " with an explicit deny in a resource control policy"},
		{policy.Decision{Explicit: true, Layer: policy.TrustLayer}, who + what + " with an explicit deny in the role trust policy"},
		{policy.Decision{Allowed: true, Layer: policy.IdentityLayer}, ""},
	} {
		if got := c.decision.Message(asks("s3:GetObject", object, nil)); got != c.want {
			t.Errorf("%+v says\n     %s\nwant %s", c.decision, got, c.want)
		}
	}
	for _, resource := range []string{"", "*"} {
		r := asks("s3:ListAllMyBuckets", resource, nil)
		want := "User: " + session().ARN + " is not authorized to perform: s3:ListAllMyBuckets " +
			"because no identity-based policy allows the s3:ListAllMyBuckets action"
		if got := policy.Evaluate(r, nil).Message(r); got != want {
			t.Errorf("for the resource %q\n got %s\nwant %s", resource, got, want)
		}
	}
	for want, principal := range map[string]policy.Principal{
		"User: pods.eks.amazonaws.com is not authorized to perform: s3:X": service(),
		"User: " + issuer + " is not authorized to perform: s3:X":         webIdentity(),
		"User: anonymous is not authorized to perform: s3:X":              {},
	} {
		if got := (policy.Decision{}).Message(&policy.Request{Principal: principal, Action: "s3:X"}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestDecisionString(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]policy.Decision{
		"denied: no identity-based policy allows s3:GetObject": {Layer: policy.IdentityLayer, Action: "s3:GetObject"},
		"allowed by statement 0 (Sid ReadOwn) of role-policy at 4:7": {
			Allowed: true, Layer: policy.IdentityLayer, Policy: "role-policy", Sid: "ReadOwn", Line: 4, Column: 7,
		},
		"denied by statement 2 of b at 1:9":                  {Explicit: true, Layer: policy.BoundaryLayer, Policy: "b", Statement: 2, Line: 1, Column: 9},
		"allowed: the account's root user may do everything": {Allowed: true, Layer: policy.RootLayer},
		"denied": {},
	} {
		if got := d.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := policy.NoLayer.String(); got != "policy" {
		t.Errorf("no layer is %q", got)
	}
}
