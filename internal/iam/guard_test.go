package iam_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/iam"
)

const (
	anySubject = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::` + account +
		`:oidc-provider/oidc.example.com/id/A"},"Action":"sts:AssumeRoleWithWebIdentity",` +
		`"Condition":{"StringEquals":{"oidc.example.com/id/A:aud":"sts.amazonaws.com"}}}]}`
	oneSubject = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::` + account +
		`:oidc-provider/oidc.example.com/id/A"},"Action":"sts:AssumeRoleWithWebIdentity",` +
		`"Condition":{"StringEquals":{"oidc.example.com/id/A:sub":"system:serviceaccount:default:app","oidc.example.com/id/A:aud":"sts.amazonaws.com"}}}]}`
)

// warnings is an HTTP client that keeps the Warning headers of the last answer.
type warnings struct{ last []string }

func (w *warnings) Do(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultClient.Do(r)
	if err == nil {
		w.last = res.Header.Values("Warning")
	}
	return res, err
}

func (w *warnings) keep(o *awsiam.Options) { o.HTTPClient = w }

func TestTrustGuard(t *testing.T) {
	t.Parallel()
	const said = "trust-without-subject at line 1, column 81: "
	for _, c := range []struct {
		guard  iam.TrustGuard
		denies bool
		warns  bool
	}{
		{iam.TrustOff, false, false},
		{iam.TrustWarn, false, true},
		{"", false, true}, // the default
		{iam.TrustDeny, true, false},
		{"lenient", true, false}, // what is not understood fails closed
	} {
		t.Run(string(c.guard), func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			in := start(t, "aws", func(config *iam.Config) {
				config.TrustGuard, config.Log = c.guard, slog.New(slog.NewJSONHandler(&log, nil))
			})
			var w warnings
			create := func(name, trust string) error {
				return failure(in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust}, w.keep))
			}
			update := func(name, trust string) error {
				return failure(in.root.UpdateAssumeRolePolicy(t.Context(), &awsiam.UpdateAssumeRolePolicyInput{RoleName: &name, PolicyDocument: &trust}, w.keep))
			}
			quiet := func(what string) {
				t.Helper()
				if len(w.last) > 0 || log.Len() > 0 {
					t.Errorf("%s: warnings %q, log %s", what, w.last, log.String())
				}
			}
			check(t, create("named", oneSubject))
			quiet("a good policy")
			check(t, update("named", oneSubject))
			quiet("a good policy in place of it")
			for what, call := range map[string]func() error{
				"CreateRole":             func() error { return create("any", anySubject) },
				"UpdateAssumeRolePolicy": func() error { return update("named", anySubject) },
			} {
				log.Reset()
				err := call()
				if c.denies {
					refused(t, err, "MalformedPolicyDocument", "The trust guard of this server refuses the policy: "+said)
					if !strings.Contains(err.Error(), `"ISSUER:sub":"system:serviceaccount:NAMESPACE:NAME"`) {
						t.Errorf("%s: the error does not say what to write: %v", what, err)
					}
				} else {
					check(t, err)
				}
				if !c.warns {
					quiet(what)
					continue
				}
				if len(w.last) != 1 || !strings.HasPrefix(w.last[0], `299 lanyard "`+said) {
					t.Errorf("%s: warnings %q", what, w.last)
				}
				var event struct{ Level, Msg, Role, Findings string }
				check(t, json.Unmarshal(log.Bytes(), &event)) // one event
				if event.Level != "WARN" || event.Findings != "trust-without-subject" || !strings.HasPrefix(event.Role, "arn:aws:iam::"+account+":role/") {
					t.Errorf("%s: logged %+v", what, event)
				}
			}
			out, err := in.root.GetRole(t.Context(), &awsiam.GetRoleInput{RoleName: of("named")})
			check(t, err)
			if kept := strings.Contains(*out.Role.AssumeRolePolicyDocument, "default%3Aapp"); kept != c.denies {
				t.Errorf("the role has the policy %s", *out.Role.AssumeRolePolicyDocument)
			}
			_, err = in.root.GetRole(t.Context(), &awsiam.GetRoleInput{RoleName: of("any")})
			if made := err == nil; made == c.denies {
				t.Errorf("the role was made: %v", made)
			}
		})
	}
}

func TestTheTrustGuardLetsPassWhatIsMeant(t *testing.T) {
	t.Parallel()
	in := start(t, "aws", func(c *iam.Config) { c.TrustGuard = iam.TrustDeny })
	for name, trust := range map[string]string{
		"pods": strings.Replace(trusts("Service", "pods.eks.amazonaws.com"), `"sts:AssumeRole"`, `["sts:AssumeRole","sts:TagSession"]`, 1),
		"own":  trusts("AWS", account), "user": trusts("AWS", "arn:aws:iam::"+other+":root"),
		"prefix": strings.Replace(strings.Replace(oneSubject, "default:app", "default:app-*", 1), "StringEquals", "StringLike", 1),
	} {
		check(t, failure(in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})))
	}
	// What IAM itself refuses keeps its own error.
	refused(t, failure(in.root.CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: of("none"), AssumeRolePolicyDocument: of("{}")})),
		"MalformedPolicyDocument", "Missing required field")
}

func TestParseTrustGuard(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, text := range []string{"", "off", "warn", "deny", "Deny", "on"} {
		g, err := iam.ParseTrustGuard(text)
		got[text] = string(g)
		if err != nil {
			got[text] = err.Error()
		}
	}
	want := map[string]string{"": "warn", "off": "off", "warn": "warn", "deny": "deny",
		"Deny": `trust guard "Deny" is not off, warn or deny`, "on": `trust guard "on" is not off, warn or deny`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
