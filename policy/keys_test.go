package policy_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/policy"
)

func TestContextKeys(t *testing.T) {
	t.Parallel()
	one := compile(t, policy.Identity,
		allow("s3:GetObject", "arn:aws:s3:::data/${aws:username}/${*}/${t:team, 'none'}", `"StringEquals":{"s3:prefix":["${AWS:UserName}","x"]}`),
		deny("*", "*", `"Null":{"t:b":true},"NumericEquals":{"T:B":1},"Bool":{"t:a":"${t:flag}"}`))
	two := compile(t, policy.Trust, trusts(`"AWS":"111122223333"`, "sts:AssumeRole", `"StringEquals":{"sts:ExternalId":"7"}`))
	for _, c := range []struct {
		name     string
		policies []*policy.Policy
		want     []string
	}{
		{"no policies", nil, nil},
		{"one policy", []*policy.Policy{one}, []string{"aws:username", "s3:prefix", "t:a", "t:b", "t:flag", "t:team"}},
		{"two policies", []*policy.Policy{two, one}, []string{"aws:username", "s3:prefix", "sts:ExternalId", "t:a", "t:b", "t:flag", "t:team"}},
	} {
		if diff := cmp.Diff(c.want, policy.ContextKeys(c.policies...)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestContextAll(t *testing.T) {
	t.Parallel()
	c := keys("aws:UserName", "ann", "aws:PrincipalTag/Größe", "L", "aws:username", "bob")
	c.SetList("aws:TagKeys", []string{"a", "b"})
	var got []string
	for key, values := range c.All() {
		got = append(got, append([]string{key}, values...)...)
	}
	if want := []string{"aws:username", "bob", "aws:principaltag/größe", "L", "aws:TagKeys", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for key := range c.All() {
		if key != "aws:username" {
			t.Errorf("went on with %s", key)
		}
		break
	}
	for key := range (*policy.Context)(nil).All() {
		t.Errorf("no context has the key %s", key)
	}
}
