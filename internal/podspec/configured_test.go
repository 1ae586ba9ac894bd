package podspec_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

const configuredText = `{
  "web/reader": {"RoleARN": "arn:aws:iam::111122223333:role/r", "Audience": "a", "UseRegionalSTS": true, "TokenExpiration": 3600},
  "*/reader": {"RoleARN": "arn:aws:iam::111122223333:role/all"},
  "web/short": {"RoleARN": "arn:aws:iam::111122223333:role/s", "TokenExpiration": 1},
  "web/none": {"Audience": "a"}
}`

// The settings of the flags that an entry does not say are those of all pods, but for regional STS: as with AWS's webhook, an entry that
// does not ask for it has none.
func TestConfiguredAccounts(t *testing.T) {
	t.Parallel()
	accounts, err := podspec.ParseConfiguredAccounts([]byte(configuredText))
	if err != nil {
		t.Fatal(err)
	}
	s := podspec.Settings{AnnotationPrefix: "example.com", RegionalSTS: true, TokenExpiration: 7200}
	const arn = "arn:aws:iam::111122223333:role/"
	for _, c := range []struct {
		name, namespace, account string
		want                     podspec.Identity // zero: none is there
		fault                    bool             // of the role
	}{
		{"by its name", "web", "reader", podspec.Identity{Way: podspec.WebIdentity, RoleARN: arn + "r", Audience: "a", Expiration: 3600, RegionalSTS: true}, false},
		{"in another namespace", "batch", "reader", podspec.Identity{Way: podspec.WebIdentity, RoleARN: arn + "all", Audience: "sts.amazonaws.com", Expiration: 7200}, false},
		{"too short a life", "web", "short", podspec.Identity{Way: podspec.WebIdentity, RoleARN: arn + "s", Audience: "sts.amazonaws.com", Expiration: 600}, false},
		{"without a role", "web", "none", podspec.Identity{Way: podspec.WebIdentity, Audience: "a", Expiration: 7200}, true},
		{"another one", "web", "writer", podspec.Identity{}, false},
		{"a star that is no namespace", "*", "short", podspec.Identity{}, false},
	} {
		got, ok := accounts.Find(c.namespace, c.account)
		if ok != (c.want != podspec.Identity{}) {
			t.Errorf("%s: found is %v", c.name, ok)
		}
		if !ok {
			continue
		}
		id, err := s.Identity(podspec.WebIdentity, s.Annotations(got))
		if diff := cmp.Diff(c.want, id); diff != "" || (err != nil) != c.fault {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
	}
}

func TestConfiguredAccountsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	if none, err := podspec.ParseConfiguredAccounts(nil); len(none) > 0 || err != nil {
		t.Errorf("nothing: %v, %v", none, err)
	}
	for text, want := range map[string]string{
		`{`:                           "unexpected end",
		`[]`:                          "cannot unmarshal array",
		`{"reader": {}}`:              `"reader" is not NAMESPACE/NAME`,
		`{"/reader": {}}`:             "is not NAMESPACE/NAME",
		`{"web/": {}}`:                "is not NAMESPACE/NAME",
		`{"a/b/c": {}}`:               "is not NAMESPACE/NAME",
		`{"a/b": null}`:               `"a/b" has nothing`,
		`{"a/b": {"RoleARN": 1}}`:     "cannot unmarshal number",
		`{"a/b": {}, "reader": {}}`:   "is not NAMESPACE/NAME",
		`{"a/b": {}} {"a/c": {}}`:     "after top-level value",
		`{"a/b": {"Audience": ["a"]}`: "unexpected end",
	} {
		if got, err := podspec.ParseConfiguredAccounts([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
}

// Whatever the ConfigMap says, each account that is found has an identity that Kubernetes takes, or an error.
func FuzzConfiguredAccounts(f *testing.F) {
	f.Add([]byte(configuredText), "web", "reader")
	f.Add([]byte(`{"*/x": {"roleArn": "y", "TokenExpiration": -1}}`), "web", "x")
	f.Fuzz(func(t *testing.T, text []byte, namespace, name string) {
		accounts, err := podspec.ParseConfiguredAccounts(text)
		if err != nil && accounts != nil {
			t.Errorf("it has both an error and accounts")
		}
		c, ok := accounts.Find(namespace, name)
		if !ok {
			return
		}
		var s podspec.Settings
		id, err := s.Identity(podspec.WebIdentity, s.Annotations(c))
		if err == nil && id.RoleARN != c.RoleARN {
			t.Errorf("the role %q becomes %q", c.RoleARN, id.RoleARN)
		}
		if id.Expiration < podspec.MinTokenExpiration || id.Expiration > podspec.MaxTokenExpiration || id.Audience == "" {
			t.Errorf("got %+v of %+v", id, c)
		}
	})
}
