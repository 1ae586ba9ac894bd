package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lanyard-id/lanyard/policy"
)

const (
	migrationProvider = "arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/ONE"
	readerRole        = "arn:aws:iam::111122223333:role/apps/reader"
	exactStatement    = `{"Effect":"Allow","Principal":{"Service":["pods.eks.amazonaws.com"]},"Action":["sts:AssumeRole","sts:TagSession"]}`
	ec2Statement      = `{"Sid":"Nodes","Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}`
)

// byWebIdentity is a statement that lets a :sub have a role, by an operator.
func byWebIdentity(operator, sub string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{"Federated":%q},"Action":"sts:AssumeRoleWithWebIdentity","Condition":{`+
		`"StringEquals":{"oidc.example.com/id/ONE:aud":"sts.amazonaws.com"},%q:{"oidc.example.com/id/ONE:sub":%q}}}`, migrationProvider, operator, sub)
}

// forReader is the statement of the service account web/reader.
var forReader = byWebIdentity("StringLike", "system:serviceaccount:web:reader")

func trusting(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

// reading is a scene with the service account web/reader, which has the role with the trust policy, changed as a test has it.
func reading(trust string, change func(*migrationScene)) *migrationScene {
	s := &migrationScene{
		cluster: clusterView{Name: "one", ARN: "arn:aws:eks:us-east-1:111122223333:cluster/one"}, account: "111122223333", provider: migrationProvider,
		accounts:     []annotatedAccount{{Namespace: "web", Name: "reader", Role: readerRole, Selected: true}},
		roles:        map[string]roleScene{readerRole: {trust: trust}},
		associations: map[string]associationView{},
	}
	if change != nil {
		change(s)
	}
	return s
}

func associated(role string) func(*migrationScene) {
	return func(s *migrationScene) { s.associations["web/reader"] = associationView{ID: "a-1", RoleARN: role} }
}

// brief is a plan's steps in few words.
func brief(p *migrationPlan) (steps []string) {
	for _, s := range p.Steps {
		who := s.ServiceAccount
		if who == "" {
			who = roleName(s.RoleARN)
		}
		line := s.Do + " " + who + ": " + s.State
		if s.Why != "" {
			line += ": " + s.Why
		}
		steps = append(steps, line)
	}
	return steps
}

func wantPlan(t *testing.T, p *migrationPlan, err error, steps []string, warning string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(steps, brief(p)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	switch warnings := strings.Join(p.Warnings, "\n"); {
	case warning == "" && warnings != "":
		t.Errorf("it warns: %s", warnings)
	case !strings.Contains(warnings, warning):
		t.Errorf("it warns %q, want %q", warnings, warning)
	}
}

func TestPlansOfTheFirstPhase(t *testing.T) {
	t.Parallel()
	begin := []string{"trust Pod Identity reader: to do", "associate reader: to do"}
	problem := func(text string) func(*migrationScene) {
		return func(s *migrationScene) { s.roles[readerRole] = roleScene{problem: text} }
	}
	annotation := func(name, value string) func(*migrationScene) {
		return func(s *migrationScene) { s.accounts[0].Annotations = map[string]string{name: value} }
	}
	for _, c := range []struct {
		name, trust string
		change      func(*migrationScene)
		steps       []string
		warning     string
	}{
		{"nothing is done yet", trusting(forReader), nil, begin, ""},
		{"the trust is there", trusting(forReader, exactStatement), nil, []string{"trust Pod Identity reader: done", "associate reader: to do"}, ""},
		{"the association is there", trusting(forReader), associated(readerRole), []string{"trust Pod Identity reader: to do", "associate reader: done"}, ""},
		{"all is there", trusting(forReader, exactStatement), associated(readerRole), []string{"trust Pod Identity reader: done", "associate reader: done"}, ""},
		{"an association with another role", trusting(forReader), associated("arn:aws:iam::111122223333:role/other"), []string{
			"associate reader: skipped: association a-1 gives it arn:aws:iam::111122223333:role/other: take away the annotation or the association"}, ""},
		{"a role that cannot be used", trusting(forReader), problem("the role does not exist"), []string{"associate reader: skipped: the role does not exist"}, ""},
		{"several service accounts share the role", trusting(byWebIdentity("StringLike", "system:serviceaccount:web:*")), func(s *migrationScene) {
			s.accounts = append(s.accounts, annotatedAccount{Namespace: "web", Name: "writer", Role: readerRole, Selected: true},
				annotatedAccount{Namespace: "batch", Name: "job", Role: readerRole})
		}, []string{"trust Pod Identity reader: to do", "associate reader: to do", "associate writer: to do"},
			"has :sub system:serviceaccount:web:*: of those that it is for, web/reader, web/writer will have it"},
		{"the trust policy names nobody", trusting(`{"Effect":"Allow","Principal":{"Federated":"` + migrationProvider + `"},"Action":"sts:AssumeRoleWithWebIdentity"}`),
			nil, begin, "names no :sub"},
		{"Pod Identity is trusted for another namespace", trusting(forReader, strings.TrimSuffix(exactStatement, "}")+
			`,"Condition":{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"batch"}}}`), nil, []string{
			"trust Pod Identity reader: skipped: it trusts Pod Identity on conditions that do not hold for web/reader: change them, or let --restrict add a statement for this cluster",
			"associate reader: skipped: its role does not trust Pod Identity for it"}, ""},
		{"Pod Identity is trusted for this namespace", trusting(forReader, strings.TrimSuffix(exactStatement, "}")+
			`,"Condition":{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"web"}}}`), nil,
			[]string{"trust Pod Identity reader: done", "associate reader: to do"}, ""},
		{"Pod Identity is denied", trusting(forReader, `{"Effect":"Deny","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:TagSession"}`), nil, []string{
			"trust Pod Identity reader: skipped: a Deny statement of its trust policy keeps Pod Identity from web/reader",
			"associate reader: skipped: its role does not trust Pod Identity for it"}, ""},
		{"another audience", trusting(forReader), annotation("eks.amazonaws.com/audience", "vault"), begin,
			"web/reader: the annotation eks.amazonaws.com/audience: vault has no counterpart"},
		{"STS's own audience", trusting(forReader), annotation("eks.amazonaws.com/audience", "sts.amazonaws.com"), begin, ""},
		{"a token's life", trusting(forReader), annotation("eks.amazonaws.com/token-expiration", "3600"), begin, "sessions by Pod Identity last 6 hours"},
		{"the quota of associations", trusting(forReader), func(s *migrationScene) { s.count = 5000 }, begin, "would have 5001 associations"},
		{"as many associations as may be", trusting(forReader), func(s *migrationScene) { s.count = 4999 }, begin, ""},
		{"the quota of trust policies", trusting(forReader, byWebIdentity("StringLike", strings.Repeat("x", 1600))), nil, begin, "IAM takes 2048"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := reading(c.trust, c.change).associate(false)
			wantPlan(t, p, err, c.steps, c.warning)
		})
	}
}

func TestTheStatementIsEksctls(t *testing.T) {
	t.Parallel()
	p, err := reading(trusting(ec2Statement, forReader), nil).associate(false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Steps[0].After, trusting(ec2Statement, forReader, exactStatement); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var added, removed []string
	for _, line := range p.Steps[0].Change {
		switch {
		case strings.HasPrefix(line, "+"):
			added = append(added, line)
		case strings.HasPrefix(line, "-"):
			removed = append(removed, line)
		}
	}
	if len(removed) > 1 || len(added) < 9 || !strings.Contains(strings.Join(added, ""), "pods.eks.amazonaws.com") {
		t.Errorf("the change reads\n%s", strings.Join(p.Steps[0].Change, "\n"))
	}
}

func TestRestrictedTrustIsForOneCluster(t *testing.T) {
	t.Parallel()
	scene := reading(trusting(forReader), nil)
	p, err := scene.associate(true)
	if err != nil {
		t.Fatal(err)
	}
	scene.roles[readerRole] = roleScene{trust: p.Steps[0].After}
	again, err := scene.associate(true)
	wantPlan(t, again, err, []string{"trust Pod Identity reader: done", "associate reader: to do"}, "")

	scene.cluster = clusterView{Name: "two", ARN: "arn:aws:eks:us-east-1:111122223333:cluster/two"}
	other, err := scene.associate(true)
	wantPlan(t, other, err, []string{"trust Pod Identity reader: to do", "associate reader: to do"}, "")
	scene.roles[readerRole] = roleScene{trust: other.Steps[0].After}
	other, err = scene.associate(true)
	wantPlan(t, other, err, []string{"trust Pod Identity reader: done", "associate reader: to do"}, "")
	open, err := reading(trusting(forReader, exactStatement), nil).associate(true)
	wantPlan(t, open, err, []string{"trust Pod Identity reader: done", "associate reader: to do"}, "trusts Pod Identity of other clusters already")
	plain, err := reading(p.Steps[0].After, func(s *migrationScene) { s.cluster = scene.cluster }).associate(false)
	if err != nil || plain.Steps[0].State != stateSkipped {
		t.Errorf("what is restricted to one cluster was opened to all: %v, %v", brief(plain), err)
	}
}

func TestOnlyPodsThatChangeOverAreRestarted(t *testing.T) {
	t.Parallel()
	pods := func(s *migrationScene) {
		for range 2 {
			s.pods = append(s.pods, identityPod{Namespace: "web", ServiceAccount: "reader", restart: "kubectl rollout restart -n web deployment/reader"})
		}
		s.pods = append(s.pods, identityPod{Namespace: "web", ServiceAccount: "other", restart: "kubectl rollout restart -n web deployment/other"})
	}
	scene := reading(trusting(forReader), pods)
	p, err := scene.associate(false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kubectl rollout restart -n web deployment/reader"}, p.Restart); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	associated("arn:aws:iam::111122223333:role/other")(scene)
	if p, err = scene.associate(false); err != nil || len(p.Restart) > 0 {
		t.Errorf("pods are restarted for nothing: %v, %v", p.Restart, err)
	}
}

func TestPlansOfTheSecondPhase(t *testing.T) {
	t.Parallel()
	both := trusting(forReader, exactStatement)
	end := []string{"remove annotation reader: to do", "distrust web identity reader: to do"}
	ready := func(change func(*migrationScene)) func(*migrationScene) {
		return func(s *migrationScene) {
			associated(readerRole)(s)
			if change != nil {
				change(s)
			}
		}
	}
	running := func(account, role string) func(*migrationScene) {
		return ready(func(s *migrationScene) {
			s.pods = append(s.pods, identityPod{Namespace: "web", Name: "app-0", ServiceAccount: account, Role: role, restart: "kubectl rollout restart x"})
		})
	}
	for _, c := range []struct {
		name, trust string
		force       bool
		change      func(*migrationScene)
		steps       []string
		warning     string
	}{
		{"all is ready", both, false, ready(nil), end, ""},
		{"there is no association", both, false, nil, []string{
			"remove annotation reader: skipped: it has no association: run this without --finish first", "distrust web identity reader: skipped: still needed by web/reader"}, ""},
		{"the association has another role", both, true, associated("arn:aws:iam::111122223333:role/other"), []string{
			"remove annotation reader: skipped: association a-1 gives it arn:aws:iam::111122223333:role/other",
			"distrust web identity reader: skipped: still needed by web/reader"}, ""},
		{"the role does not trust Pod Identity", trusting(forReader), true, ready(nil), []string{
			"remove annotation reader: skipped: its role does not trust Pod Identity for it: run this without --finish first",
			"distrust web identity reader: skipped: still needed by web/reader"}, ""},
		{"a pod was not restarted", both, false, running("reader", readerRole), []string{
			"remove annotation reader: skipped: pods go the web identity's way until they are restarted: web/app-0",
			"distrust web identity reader: skipped: still needed by web/reader"}, ""},
		{"a pod was not restarted, and that does not matter", both, true, running("reader", readerRole), end, ""},
		{"a pod of another service account has the role by its own variables", both, false, running("someone", readerRole), []string{
			"remove annotation reader: to do",
			"distrust web identity reader: skipped: pods go the web identity's way until they are restarted: web/app-0"}, ""},
		{"pods that have other roles", both, false, running("someone", "arn:aws:iam::111122223333:role/other"), end, ""},
		{"another namespace still has the role", both, false, ready(func(s *migrationScene) {
			s.accounts = append(s.accounts, annotatedAccount{Namespace: "batch", Name: "job", Role: readerRole})
		}), []string{"remove annotation reader: to do", "distrust web identity reader: skipped: still needed by batch/job"}, ""},
		{"a run was broken off after the annotation", both, false, ready(func(s *migrationScene) {
			s.accounts[0].Role, s.accounts[0].Was = "", readerRole
		}), []string{"remove annotation reader: done", "distrust web identity reader: to do"}, ""},
		{"all is done", trusting(exactStatement), false, ready(func(s *migrationScene) {
			s.accounts[0].Role, s.accounts[0].Was = "", readerRole
		}), []string{"remove annotation reader: done", "distrust web identity reader: done"}, ""},
		{"a statement for two providers is left", trusting(exactStatement,
			`{"Effect":"Allow","Principal":{"Federated":["`+migrationProvider+`","arn:aws:iam::111122223333:oidc-provider/other"]},"Action":"sts:AssumeRoleWithWebIdentity"}`),
			false, ready(nil), []string{"remove annotation reader: to do", "distrust web identity reader: done"}, "1 of its trust policy's statements name the provider besides others"},
		{"someone without an annotation is let in", trusting(forReader, byWebIdentity("StringLike", "system:serviceaccount:ci:deploy"), exactStatement), false, ready(nil), end,
			"also lets system:serviceaccount:ci:deploy in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := reading(c.trust, c.change).finish(c.force)
			wantPlan(t, p, err, c.steps, c.warning)
		})
	}
}

// migrated changes the scene to one after the first phase, or after the second.
func migrated(finished bool) func(*migrationScene) {
	return func(s *migrationScene) {
		s.associations["web/reader"] = associationView{ID: "a-1", RoleARN: readerRole, Tags: map[string]string{migratedTag: "true"}}
		s.agentPods = []identityPod{
			{Namespace: "web", Name: "reader-0", ServiceAccount: "reader", restart: "kubectl rollout restart -n web deployment/reader"},
			{Namespace: "web", Name: "other-0", ServiceAccount: "other", restart: "kubectl rollout restart -n web deployment/other"},
		}
		if finished {
			s.accounts[0].Role, s.accounts[0].Was = "", readerRole
		}
	}
}

func TestPlansOfTheWayBack(t *testing.T) {
	t.Parallel()
	both := trusting(forReader, exactStatement)
	after := func(finished bool, change func(*migrationScene)) func(*migrationScene) {
		return func(s *migrationScene) {
			migrated(finished)(s)
			change(s)
		}
	}
	missing := "its role's trust policy does not let it in by web identity, and what it said before --finish is not kept: add a statement such as "
	for _, c := range []struct {
		name, trust string
		change      func(*migrationScene)
		steps       []string // a step that ends in "…" is the beginning of one
		restart     bool
	}{
		{"nothing was done", trusting(forReader), nil, []string{"delete association reader: done"}, false},
		{"the first phase", both, migrated(false), []string{"delete association reader: to do"}, true},
		{"the second phase, whose trust was put back", both, migrated(true), []string{"restore annotation reader: to do", "delete association reader: to do"}, true},
		{"the second phase, whose trust is gone", trusting(exactStatement), migrated(true), []string{
			"restore annotation reader: skipped: " + missing + "…", "delete association reader: skipped: " + missing + "…"}, false},
		{"a run was broken off after the annotation", both, after(true, func(s *migrationScene) { s.accounts[0].Role, s.accounts[0].Was = readerRole, "" }),
			[]string{"delete association reader: to do"}, true},
		{"a run was broken off after the association", both, after(true, func(s *migrationScene) { clear(s.associations) }),
			[]string{"restore annotation reader: to do", "delete association reader: done"}, false},
		{"an association that people made", both, associated(readerRole), []string{
			"delete association reader: skipped: association a-1 has no tag lanyard.dev/migrated, so this command did not make it: " +
				"delete it with `lanyard association delete` if it is to go"}, false},
		{"an association that was given another role", both, after(false, func(s *migrationScene) {
			a := s.associations["web/reader"]
			a.RoleARN = "arn:aws:iam::111122223333:role/other"
			s.associations["web/reader"] = a
		}), []string{"delete association reader: skipped: association a-1 gives it arn:aws:iam::111122223333:role/other, and this command makes none with another role"}, false},
		{"a role that is gone", both, after(true, func(s *migrationScene) { s.roles[readerRole] = roleScene{problem: "the role does not exist"} }), []string{
			"restore annotation reader: skipped: the role does not exist", "delete association reader: skipped: the role does not exist"}, false},
		{"a trust in another service account", trusting(byWebIdentity("StringLike", "system:serviceaccount:web:writer"), exactStatement), migrated(false),
			[]string{"delete association reader: skipped: " + missing + "…"}, false},
		{"a trust in another audience than the annotation's", both, after(false, func(s *migrationScene) {
			s.accounts[0].Annotations = map[string]string{"eks.amazonaws.com/audience": "vault"}
		}), []string{"delete association reader: skipped: " + missing + "…"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := reading(c.trust, c.change).undo()
			if err != nil {
				t.Fatal(err)
			}
			got := brief(p)
			for i, want := range c.steps {
				if start, cut := strings.CutSuffix(want, "…"); cut && i < len(got) && strings.HasPrefix(got[i], start) {
					got[i] = want
				}
			}
			if diff := cmp.Diff(c.steps, got); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			var restart []string
			if c.restart {
				restart = []string{"kubectl rollout restart -n web deployment/reader"}
			}
			if diff := cmp.Diff(restart, p.Restart); diff != "" {
				t.Errorf("restarts (-want +got):\n%s", diff)
			}
		})
	}
}

// The statement that the plan asks for is one with which the next plan goes on.
func TestTheMissingStatementIsTheRightOne(t *testing.T) {
	t.Parallel()
	scene := reading(trusting(exactStatement), migrated(true))
	p, err := scene.undo()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(p.Steps[0].Why, "add a statement such as ")
	statement, _, ok := strings.Cut(rest, ", and run this again")
	if !ok {
		t.Fatalf("it says %s", p.Steps[0].Why)
	}
	p, err = reading(trusting(exactStatement, statement), migrated(true)).undo()
	wantPlan(t, p, err, []string{"restore annotation reader: to do", "delete association reader: to do"}, "it goes on trusting Pod Identity")
}

func TestOnlyStatementsOfTheProviderGo(t *testing.T) {
	t.Parallel()
	quoted := func(s string) string { text, _ := json.Marshal(s); return string(text) }
	other := `{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::111122223333:oidc-provider/other"},"Action":"sts:AssumeRoleWithWebIdentity"}`
	mixed := `{"Effect":"Allow","Principal":{"Federated":` + quoted(migrationProvider) + `,"AWS":"111122223333"},"Action":"sts:AssumeRoleWithWebIdentity"}`
	wide := `{"Effect":"Allow","Principal":{"Federated":` + quoted(migrationProvider) + `},"Action":"sts:*"}`
	deny := `{"Effect":"Deny","Principal":{"Federated":` + quoted(migrationProvider) + `},"Action":"sts:AssumeRoleWithWebIdentity"}`
	listed := `{"Effect":"Allow","Principal":{"Federated":[` + quoted(migrationProvider) + `]},"Action":["sts:assumerolewithwebidentity","sts:TagSession"]}`
	any := `{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}`
	d, err := readTrust(`{"Id":"kept","Version":"2012-10-17","Statement":[` + strings.Join([]string{forReader, other, mixed, wide, deny, listed, any, ec2Statement}, ",") + `]}`)
	if err != nil {
		t.Fatal(err)
	}
	rest, removed, left, err := d.withoutWebIdentity(migrationProvider)
	if err != nil || len(removed) != 2 || left != 3 {
		t.Fatalf("removed %d, left %d, %v", len(removed), left, err)
	}
	got, err := rest.text()
	if want := `{"Version":"2012-10-17","Id":"kept","Statement":[` + strings.Join([]string{other, mixed, wide, deny, any, ec2Statement}, ",") + `]}`; err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	if _, err := readTrust(`{"Version":"2012-10-17","Statement":[{"Effect":"Perhaps"}]}`); err == nil {
		t.Error("what is no trust policy was read")
	}
	one, err := readTrust(`{"Version":"2012-10-17","Statement": ` + ec2Statement + `}`)
	if err != nil || len(one.Statement) != 1 {
		t.Errorf("a statement without a list: got %v, %v", one, err)
	}
}

func TestKeysThatOnlyWebIdentitiesHave(t *testing.T) {
	t.Parallel()
	document := func(condition string) string {
		return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"*","Condition":` + condition + `}]}`
	}
	for _, c := range []struct{ name, document, note string }{
		{"the provider's subject", document(`{"StringEquals":{"OIDC.example.com/id/ONE:sub":"x"}}`), "uses OIDC.example.com/id/ONE:sub, which"},
		{"the federated provider", document(`{"StringEquals":{"aws:federatedprovider":"x"}}`), "uses aws:federatedprovider, which"},
		{"in a variable", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/${oidc.example.com/id/ONE:sub}/*"}]}`,
			"uses oidc.example.com/id/ONE:sub, which"},
		{"another provider's", document(`{"StringEquals":{"other.example.com:sub":"x"}}`), ""},
		{"a tag", document(`{"StringEquals":{"aws:PrincipalTag/team":"x"}}`), ""},
		{"no policy", `{`, "is not understood"},
	} {
		got := strings.Join(webIdentityNotes("its policy own", []string{c.document}, migrationProvider), "\n")
		if (got == "") != (c.note == "") || !strings.Contains(got, c.note) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.note)
		}
	}
}

// answers stands for the network.
type answers func(*http.Request) (*http.Response, error)

func (a answers) Do(r *http.Request) (*http.Response, error) { return a(r) }

// EKS sees a role's trust some seconds after IAM has it. Only then is its refusal not the last word.
func TestAssociationsWaitForTheTrustToSettle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		justTrusted bool
		refusals    int // before it is taken
		asked       int
		taken       bool
	}{
		{"a trust that was changed just now", true, 3, 4, true},
		{"a trust that never settles", true, 100, settleAttempts, false},
		{"a trust of old", false, 3, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				client := eks.New(eks.Options{
					Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
					HTTPClient: answers(func(*http.Request) (*http.Response, error) {
						asked++
						status, body := http.StatusOK, `{"association": {}}`
						if asked <= c.refusals {
							status, body = http.StatusBadRequest, `{"message": "Trust policy of the role provided is invalid."}`
						}
						return &http.Response{StatusCode: status, Header: http.Header{"X-Amzn-Errortype": {"InvalidParameterException"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
					}),
				})
				step := migrationStep{Namespace: "web", ServiceAccount: "reader", RoleARN: readerRole}
				err := (&migrator{eks: client}).associate(t.Context(), "one", &step, c.justTrusted)
				if asked != c.asked || (err == nil) != c.taken {
					t.Errorf("asked %d times, want %d: %v", asked, c.asked, err)
				}
			})
		})
	}
}

func TestPodsThatPodIdentityDoesNotReach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, where string
		pod         corev1.Pod
	}{
		{"a pod as any", "", corev1.Pod{Spec: corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "linux"}}}},
		{"a Fargate profile", "Fargate", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"eks.amazonaws.com/fargate-profile": "fp"}}}},
		{"Fargate's scheduler", "Fargate", corev1.Pod{Spec: corev1.PodSpec{SchedulerName: "fargate-scheduler"}}},
		{"Windows nodes", "Windows", corev1.Pod{Spec: corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "windows"}}}},
		{"Windows pods", "Windows", corev1.Pod{Spec: corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}}},
	} {
		if got := unservedBy(&c.pod); got != c.where {
			t.Errorf("%s: got %q, want %q", c.name, got, c.where)
		}
	}
}

// Lists longer than a page are read to their end, and an answer that breaks off is no list.
func TestListsOfAnAPIServerArePaged(t *testing.T) {
	t.Parallel()
	pages := map[string]string{
		"":     `{"metadata": {"continue": "next"}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}`,
		"next": `{"metadata": {}, "items": [{"metadata": {"name": "c"}}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Query().Get("continue")]
		if !ok || r.URL.Query().Get("limit") != "100" {
			w.WriteHeader(http.StatusGone)
			return
		}
		io.WriteString(w, page)
	}))
	t.Cleanup(server.Close)
	k := &kubernetesAPI{address: server.URL, client: server.Client()}
	var names []string
	add := func(a *corev1.ServiceAccount) error {
		names = append(names, a.Name)
		return nil
	}
	if err := listKubernetes(t.Context(), k, "/api/v1/serviceaccounts", add); err != nil || strings.Join(names, " ") != "a b c" {
		t.Errorf("got %q, %v", names, err)
	}
	pages["next"] = `{"metadata": {"continue": "lost"}}`
	if err := listKubernetes(t.Context(), k, "/api/v1/serviceaccounts", add); err == nil || !strings.Contains(err.Error(), "Gone") {
		t.Errorf("a list that breaks off: got %v", err)
	}
}

// Whatever a trust policy is, adding a statement and taking web identities out leave a document that is one, and no other statement
// changed.
func FuzzTrustChanges(f *testing.F) {
	f.Add(trusting(forReader, ec2Statement))
	f.Add(`{"Statement": ` + ec2Statement + `, "Id": "<x>", "Version": "2012-10-17"}`)
	f.Add(trusting(`{"Effect":"Deny","NotPrincipal":{"AWS":"111122223333"},"Action":"*"}`, exactStatement))
	f.Fuzz(func(t *testing.T, text string) {
		d, err := readTrust(text)
		if err != nil {
			return
		}
		statement, err := podIdentityStatement("", "")
		if err != nil {
			t.Fatal(err)
		}
		added, err := d.with(statement).text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.New("added", policy.Trust, []byte(added)); err != nil {
			t.Fatalf("%s became %s: %v", text, added, err)
		}
		again, err := readTrust(added)
		if err != nil || len(again.Statement) != len(d.Statement)+1 {
			t.Fatalf("%s became %s: %v", text, added, err)
		}
		rest, removed, _, err := again.withoutWebIdentity(migrationProvider)
		if err != nil {
			t.Fatalf("%s: %v", added, err)
		}
		if len(rest.Statement)+len(removed) != len(again.Statement) {
			t.Fatalf("%s: %d statements are left and %d gone", added, len(rest.Statement), len(removed))
		}
	})
}
