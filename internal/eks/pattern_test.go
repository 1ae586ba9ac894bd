package eks

import (
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/internal/subject"
)

func TestNamesAndPatterns(t *testing.T) {
	t.Parallel()
	label, subdomain := strings.Repeat("a", 63), strings.Repeat("a", 253)
	for _, e := range []struct {
		namespace, serviceAccount string
		ok                        bool
	}{
		{"default", "app", true},
		{"0", "a.b-c.d", true},
		{"*", "*", true},
		{"team-*", "*-reader", true},
		{"a*b*c", "app.*", true},
		{label, subdomain, true},
		{label + "a", "app", false},
		{"default", subdomain + "a", false},
		{"", "app", false},
		{"default", "", false},
		{"Default", "app", false},
		{"default", "app_1", false},
		{"a.b", "app", false}, // a namespace has no dots
		{"default", "a..b", false},
		{"default", ".a", false},
		{"-default", "app", false},
		{"default-", "app", false},
		{"default", "a.-b", false},
		{"team-**", "app", false}, // the same as team-*
		{"team-?", "app", false},
		{"team-[ab]", "app", false},
		{"-*", "app", false}, // no name begins so
		{"a/b", "app", false},
		{"default", "a/b", false},
		{"ns\n", "app", false},
		{"ñ", "app", false},
	} {
		who := subject.Subject{Namespace: e.namespace, ServiceAccount: e.serviceAccount}
		if err := checkSubject(who); (err == nil) != e.ok {
			t.Errorf("%+v: %v, want ok = %v", who, err, e.ok)
		}
	}
}

func TestAssociationKeysGoThereAndBack(t *testing.T) {
	t.Parallel()
	who := subject.Subject{Namespace: "team-*", ServiceAccount: "a.b"}
	cluster, got := splitAssociationKey(associationKey("111122223333/us-east-1/demo", who))
	if cluster != "111122223333/us-east-1/demo" || got != who {
		t.Errorf("split = %q, %+v", cluster, got)
	}
}
