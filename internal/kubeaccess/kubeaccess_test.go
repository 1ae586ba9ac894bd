package kubeaccess_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	cttypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kubeaccess"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	region  = "us-east-1"
	trust   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"sts:AssumeRole"}]}`
)

// plane is a control plane, of which the hosts lanyard.example.com and those below id.example.com are names.
type plane struct {
	t     *testing.T
	url   string // https
	plain string // http
	http  *http.Client
	root  sigv4.Credentials
	ahead atomic.Int64 // of its clock, in nanoseconds
	log   lockedBuffer
	store *failing
	trail *audit.Files
}

// failing is a store that can be out of reach.
type failing struct {
	kv.Store
	down atomic.Bool
}

// Revision implements kv.Store.
func (s *failing) Revision(ctx context.Context) (int64, error) {
	if s.down.Load() {
		return 0, fmt.Errorf("%w: it is down", kv.ErrUnavailable)
	}
	return s.Store.Revision(ctx)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was written since it was last called.
func (b *lockedBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return b.text.String()
}

func start(t *testing.T) *plane {
	t.Helper()
	p := &plane{t: t, store: &failing{Store: kv.NewMemory()}}
	log := slog.New(slog.NewTextHandler(&p.log, nil))
	records, err := audit.OpenFiles(audit.FilesConfig{Dir: filepath.Join(t.TempDir(), "audit"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p.trail = records
	t.Cleanup(func() { records.Close() }) //nolint:errcheck // a test may have closed it
	made, err := controlplane.New(controlplane.Config{
		Store: p.store, MasterKey: keyring.MasterKey{1}, Partition: "aws", Region: region, Account: account, IssuerURL: "https://id.example.com:8443",
		Hosts: []string{"lanyard.example.com", "*.lanyard.test"}, Audit: audit.NewTrail(records, audit.Required, log), Log: log,
		Now: p.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := controlplane.OpenDirectory(t.TempDir() + "/data")
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Start(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if p.root, err = dir.RootKey(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(made.Handler())
	t.Cleanup(server.Close)
	plain := httptest.NewServer(made.Handler())
	t.Cleanup(plain.Close)
	p.url, p.plain, p.http = server.URL, plain.URL, server.Client()
	return p
}

func (p *plane) now() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) }

func (p *plane) aws(key sigv4.Credentials) aws.Config {
	return aws.Config{
		Region: region, BaseEndpoint: &p.url, HTTPClient: p.http, Retryer: func() aws.Retryer { return aws.NopRetryer{} },
		Credentials: credentials.NewStaticCredentialsProvider(key.AccessKeyID, string(key.SecretAccessKey), key.SessionToken),
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// cluster makes a cluster, whose creator is root.
func (p *plane) cluster(name string) {
	p.t.Helper()
	body := fmt.Sprintf(`{"name": %q}`, name)
	r := must(http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+"/lanyard/clusters", strings.NewReader(body)))(p.t)
	sigv4.Sign(r, p.root, "lanyard", region, fmt.Sprintf("%x", sha256.Sum256([]byte(body))), time.Now())
	reply := must(p.http.Do(r))(p.t)
	defer reply.Body.Close()
	if text := must(io.ReadAll(reply.Body))(p.t); reply.StatusCode != http.StatusOK {
		p.t.Fatalf("register cluster %s: %s", name, text)
	}
}

// user makes a user with an access key.
func (p *plane) user(path, name string) (id string, key sigv4.Credentials) {
	p.t.Helper()
	client := iam.NewFromConfig(p.aws(p.root))
	made := must(client.CreateUser(p.t.Context(), &iam.CreateUserInput{UserName: &name, Path: &path}))(p.t).User
	access := must(client.CreateAccessKey(p.t.Context(), &iam.CreateAccessKeyInput{UserName: &name}))(p.t).AccessKey
	return aws.ToString(made.UserId), sigv4.Credentials{AccessKeyID: *access.AccessKeyId, SecretAccessKey: sigv4.Secret(*access.SecretAccessKey)}
}

func (p *plane) role(path, name string) (id string) {
	p.t.Helper()
	made := must(iam.NewFromConfig(p.aws(p.root)).CreateRole(p.t.Context(), &iam.CreateRoleInput{
		RoleName: &name, Path: &path, AssumeRolePolicyDocument: aws.String(trust),
	}))(p.t)
	return aws.ToString(made.Role.RoleId)
}

// assume returns the credentials of a role's session, as a user who may assume it.
func (p *plane) assume(by sigv4.Credentials, role, session string) sigv4.Credentials {
	p.t.Helper()
	made := must(sts.NewFromConfig(p.aws(by)).AssumeRole(p.t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/" + role), RoleSessionName: &session,
	}))(p.t)
	return temporary(made.Credentials)
}

func temporary(c *ststypes.Credentials) sigv4.Credentials {
	return sigv4.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: sigv4.Secret(*c.SecretAccessKey), SessionToken: *c.SessionToken}
}

// entry makes an access entry of a principal, an ARN's last field, in the cluster one.
func (p *plane) entry(principal, username string, groups ...string) {
	p.t.Helper()
	in := &eks.CreateAccessEntryInput{ClusterName: aws.String("one"), PrincipalArn: aws.String("arn:aws:iam::" + account + ":" + principal), KubernetesGroups: groups}
	if username != "" {
		in.Username = &username
	}
	must(eks.NewFromConfig(p.aws(p.root)).CreateAccessEntry(p.t.Context(), in))(p.t)
}

func (p *plane) associate(principal, policy string, namespaces ...string) {
	p.t.Helper()
	scope := &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeCluster}
	if len(namespaces) > 0 {
		scope = &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeNamespace, Namespaces: namespaces}
	}
	must(eks.NewFromConfig(p.aws(p.root)).AssociateAccessPolicy(p.t.Context(), &eks.AssociateAccessPolicyInput{
		ClusterName: aws.String("one"), PrincipalArn: aws.String("arn:aws:iam::" + account + ":" + principal), AccessScope: scope,
		PolicyArn: aws.String("arn:aws:eks::aws:cluster-access-policy/" + policy),
	}))(p.t)
}

// presign is a request that becomes a token; what is left out is as `aws eks get-token` has it.
type presign struct {
	key                           sigv4.Credentials
	url, query, method            string
	cluster                       string
	service, region               string
	at                            time.Time
	expires                       time.Duration
	header                        string // another one that is signed
	after                         string // put after the URL when it is signed
	inHeader                      bool   // the signature, instead of the query
	padded, unprefixed, truncated bool
}

func (s presign) token(t testing.TB) string {
	t.Helper()
	u := cmp.Or(s.url, "https://sts.us-east-1.amazonaws.com/") + "?" + cmp.Or(s.query, "Action=GetCallerIdentity&Version=2011-06-15")
	r := must(http.NewRequestWithContext(t.Context(), cmp.Or(s.method, http.MethodGet), u, nil))(t)
	if s.cluster != "-" {
		r.Header.Set("X-K8s-Aws-Id", cmp.Or(s.cluster, "one"))
	}
	if s.header != "" {
		r.Header.Set(s.header, "x")
	}
	at := s.at
	if at.IsZero() {
		at = time.Now()
	}
	service, in := cmp.Or(s.service, "sts"), cmp.Or(s.region, region)
	if s.inHeader {
		sigv4.Sign(r, s.key, service, in, sigv4.EmptyPayload, at)
	} else {
		sigv4.Presign(r, s.key, service, in, cmp.Or(s.expires, time.Minute), at)
	}
	raw := r.URL.String() + s.after
	if s.truncated {
		raw = raw[:len(raw)-1]
	}
	encoded := base64.RawURLEncoding.EncodeToString([]byte(raw))
	switch {
	case s.padded:
		encoded += "="
	case s.unprefixed:
		return encoded
	}
	return "k8s-aws-v1." + encoded
}

// user is who a TokenReview says somebody is.
type user struct {
	Username string
	UID      string
	Groups   []string
	Extra    map[string][]string
}

type answer struct {
	APIVersion, Kind string
	Spec             any
	Status           struct {
		Authenticated bool
		User          *user
		Error         string
	}
}

// post asks the control plane at a path.
func (p *plane) post(path, body string) (code int, text []byte, header http.Header) {
	p.t.Helper()
	r := must(http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+path, strings.NewReader(body)))(p.t)
	r.Header.Set("Content-Type", "application/json")
	reply := must(p.http.Do(r))(p.t)
	defer reply.Body.Close()
	return reply.StatusCode, must(io.ReadAll(reply.Body))(p.t), reply.Header
}

const version = "authentication.k8s.io/v1"

func ask(version, token string) string {
	return fmt.Sprintf(`{"apiVersion": %q, "kind": "TokenReview", "metadata": {"creationTimestamp": null}, "spec": {"token": %q, "audiences": ["https://kubernetes"]}, "status": {"user": {}}}`,
		version, token)
}

// review asks about a token of the cluster one, and returns who its bearer is.
func (p *plane) review(token string) (*user, string) {
	p.t.Helper()
	code, text, _ := p.post(kubeaccess.Path+account+"/"+region+"/one?timeout=30s", ask(version, token))
	if code != http.StatusOK {
		p.t.Fatalf("the answer is %d %s", code, text)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		p.t.Fatal(err)
	}
	if a.APIVersion != version || a.Kind != "TokenReview" || a.Spec != nil || a.Status.Authenticated != (a.Status.User != nil) || token != "" && bytes.Contains(text, []byte(token)) {
		p.t.Errorf("the answer is %s", text)
	}
	return a.Status.User, a.Status.Error
}

const refused = "the token is not valid for this cluster"

func TestWhoPeopleAreInKubernetes(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	aliceID, alice := p.user("/", "alice")
	bobID, bob := p.user("/staff/", "bob")
	_, stranger := p.user("/", "stranger")
	devID, opsID := p.role("/", "dev"), p.role("/teams/", "ops")
	p.role("/", "unlisted")
	allow := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`
	must(iam.NewFromConfig(p.aws(p.root)).PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{
		UserName: aws.String("alice"), PolicyName: aws.String("sts"), PolicyDocument: &allow,
	}))(t)
	p.entry("user/alice", "", "team-a", "team-b")
	p.entry("user/staff/bob", "bob:{{AccountID}}:{{AccessKeyID}}")
	p.entry("role/dev", "")
	p.entry("role/teams/ops", "ops:{{SessionNameRaw}}:{{SessionName}}")
	p.associate("user/staff/bob", "AmazonEKSViewPolicy")
	p.associate("role/dev", "AmazonEKSEditPolicy", "web", "team-*")
	p.associate("role/dev", "AmazonEKSViewPolicy")

	dev := p.assume(alice, "dev", "alice@example.com")
	ops := p.assume(alice, "teams/ops", "alice@example.com")
	session := must(sts.NewFromConfig(p.aws(alice)).GetSessionToken(t.Context(), &sts.GetSessionTokenInput{}))(t)
	federated := must(sts.NewFromConfig(p.aws(alice)).GetFederationToken(t.Context(), &sts.GetFederationTokenInput{Name: aws.String("guest")}))(t)
	sessionKey := temporary(session.Credentials)
	iamARN, stsARN := "arn:aws:iam::"+account+":", "arn:aws:sts::"+account+":"
	extra := func(key sigv4.Credentials, arn, canonical, principal, session string) map[string][]string {
		return map[string][]string{
			"accessKeyId": {key.AccessKeyID}, "arn": {arn}, "canonicalArn": {canonical}, "principalId": {principal}, "sessionName": {session},
		}
	}
	uid := func(id string) string { return "aws-iam-authenticator:" + account + ":" + id }
	for _, c := range []struct {
		name string
		key  sigv4.Credentials
		want *user
	}{
		{"the cluster's creator, root", p.root, &user{
			Username: iamARN + "root", UID: uid(account), Groups: []string{"lanyard:AmazonEKSClusterAdminPolicy"},
			Extra: extra(p.root, iamARN+"root", iamARN+"root", account, ""),
		}},
		{"a user with groups", alice, &user{
			Username: iamARN + "user/alice", UID: uid(aliceID), Groups: []string{"team-a", "team-b"},
			Extra: extra(alice, iamARN+"user/alice", iamARN+"user/alice", aliceID, ""),
		}},
		{"a user's session", sessionKey, &user{
			Username: iamARN + "user/alice", UID: uid(aliceID), Groups: []string{"team-a", "team-b"},
			Extra: extra(sessionKey, iamARN+"user/alice", iamARN+"user/alice", aliceID, ""),
		}},
		{"a user with another name, and a policy", bob, &user{
			Username: "bob:" + account + ":" + bob.AccessKeyID, UID: uid(bobID), Groups: []string{"lanyard:AmazonEKSViewPolicy"},
			Extra: extra(bob, iamARN+"user/staff/bob", iamARN+"user/staff/bob", bobID, ""),
		}},
		{"a role's session, with policies", dev, &user{
			Username: stsARN + "assumed-role/dev/alice-example.com", UID: uid(devID),
			Groups: []string{"lanyard:AmazonEKSEditPolicy:web", "lanyard:AmazonEKSEditPolicy:team-*", "lanyard:AmazonEKSViewPolicy"},
			Extra:  extra(dev, stsARN+"assumed-role/dev/alice@example.com", iamARN+"role/dev", devID, "alice@example.com"),
		}},
		{"a role's session, of a role with a path", ops, &user{
			Username: "ops:alice@example.com:alice-example.com", UID: uid(opsID),
			Extra: extra(ops, stsARN+"assumed-role/ops/alice@example.com", iamARN+"role/ops", opsID, "alice@example.com"),
		}},
		{"a user without an entry", stranger, nil},
		{"a role without an entry", p.assume(alice, "unlisted", "alice"), nil},
		{"a federated session of a user with an entry", temporary(federated.Credentials), nil},
	} {
		got, text := p.review(presign{key: c.key}.token(t))
		if diff := gocmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if want := map[bool]string{true: "", false: refused}[c.want != nil]; text != want {
			t.Errorf("%s: the error is %q, want %q", c.name, text, want)
		}
	}
	log := p.log.take()
	for _, want := range []string{"authenticated=true", `caller=` + iamARN + "user/stranger", "no access entry", "user or role"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(log, "X-Amz-Signature") || strings.Contains(log, sessionKey.SessionToken) || strings.Contains(log, "k8s-aws-v1") {
		t.Error("the log has tokens")
	}
}

func TestNamesThatNobodyMayHave(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	_, alice := p.user("/", "alice")
	allow := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`
	must(iam.NewFromConfig(p.aws(p.root)).PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{
		UserName: aws.String("alice"), PolicyName: aws.String("sts"), PolicyDocument: &allow,
	}))(t)
	for i, c := range []struct {
		username, session, want string // empty: refused
	}{
		{"{{SessionName}}:kube-scheduler", "someone", "someone:kube-scheduler"},
		{"{{SessionName}}:kube-scheduler", "system", ""},
		{"node:{{EC2PrivateDNSName}}", "i-0123456789abcdef0", ""},
		{"{{sessionname}}", "someone", ""},
	} {
		role := fmt.Sprintf("r%d", i)
		p.role("/", role)
		p.entry("role/"+role, c.username)
		got, _ := p.review(presign{key: p.assume(alice, role, c.session)}.token(t))
		if name := ""; got != nil {
			if name = got.Username; name != c.want {
				t.Errorf("%s of %s: got %q, want %q", c.username, c.session, name, c.want)
			}
		} else if c.want != "" {
			t.Errorf("%s of %s is refused", c.username, c.session)
		}
	}
	p.entry("user/alice", "{{SessionName}}") // has none
	if got, _ := p.review(presign{key: alice}.token(t)); got != nil {
		t.Errorf("a name of nothing is %+v", got)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	p.cluster("two")
	_, alice := p.user("/", "alice")
	p.entry("user/alice", "alice")
	host := strings.TrimPrefix(p.url, "https://")
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	const action = "Action=GetCallerIdentity&Version=2011-06-15"
	for _, c := range []struct {
		name string
		with presign
		want string // what the log says; empty for one that is taken
	}{
		{"as the CLI makes it", presign{}, ""},
		{"for the global endpoint", presign{url: "https://sts.amazonaws.com/"}, ""},
		{"for another region", presign{url: "https://sts.eu-west-1.amazonaws.com/", region: "eu-west-1"}, ""},
		{"for FIPS and both versions of IP", presign{url: "https://sts-fips.us-east-1.api.aws"}, ""},
		{"for the name that the API server asks by", presign{url: "http://" + host + "/"}, ""},
		{"for that name on another port", presign{url: "http://127.0.0.1:4566/"}, ""},
		{"for the issuers' name", presign{url: "https://id.example.com/"}, ""},
		{"for a name of the server's", presign{url: "https://lanyard.example.com:8443/"}, ""},
		{"for a name below one of the server's", presign{url: "https://a.b.lanyard.test/"}, ""},
		{"of ten minutes", presign{expires: 10 * time.Minute}, ""},
		{"of one minute, after fourteen", presign{at: ago(14 * time.Minute)}, ""},
		{"of a clock that is ahead", presign{at: ago(-4 * time.Minute)}, ""},

		{"too old", presign{at: ago(15*time.Minute + time.Second)}, "Signature expired"},
		{"too old, whatever it says", presign{at: ago(15*time.Minute + time.Second), expires: 15 * time.Minute}, "Signature expired"},
		{"from the future", presign{at: ago(-10 * time.Minute)}, "ahead of now"},
		{"for another cluster", presign{cluster: "two"}, "does not match"},
		{"for no cluster", presign{cluster: "-"}, "signed are the headers"},
		{"for another host", presign{url: "https://sts.example.com/"}, "presigned for the host"},
		{"for an emulator's host", presign{url: "http://localhost:4566/"}, "presigned for the host"},
		{"for another partition's STS", presign{url: "https://sts.cn-north-1.amazonaws.com.cn/", region: "cn-north-1"}, "presigned for the host"},
		{"with another path", presign{url: "https://sts.us-east-1.amazonaws.com/x"}, "its path"},
		{"with an escaped path", presign{url: "https://sts.us-east-1.amazonaws.com/%2e"}, "its path"},
		{"of another service", presign{service: "iam"}, "signed for"},
		{"of no region", presign{region: "nowhere"}, "signed for"},
		{"for POST", presign{method: http.MethodPost}, "does not match"},
		{"for another action", presign{query: "Action=GetSessionToken&Version=2011-06-15"}, "another thing"},
		{"for another version", presign{query: "Action=GetCallerIdentity&Version=2010-05-08"}, "another thing"},
		{"without an action", presign{query: "Version=2011-06-15"}, "Action is there 0 times"},
		{"with another parameter", presign{query: action + "&Foo=bar"}, "parameters that no token has"},
		{"with a parameter in other letters", presign{query: action + "&x-amz-date=20261122T000000Z"}, "parameters that no token has"},
		{"with a parameter twice", presign{query: action + "&Action=GetCallerIdentity"}, "Action is there 2 times"},
		{"with a date added", presign{after: "&X-Amz-Date=20261122T000000Z"}, "X-Amz-Date is there 2 times"},
		{"with a semicolon", presign{after: ";x=y"}, "its query cannot be read"},
		{"with an escape of nothing", presign{after: "%zz"}, "its query cannot be read"},
		{"with a fragment", presign{after: "#x"}, "not a URL of a web server alone"},
		{"of an hour", presign{expires: time.Hour}, "X-Amz-Expires"},
		{"with another signed header", presign{header: "X-Other"}, "signed are the headers"},
		{"signed in the header", presign{inHeader: true}, "X-Amz-Algorithm is there 0 times"},
		{"of a key that is not there", presign{key: sigv4.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "x"}}, "unknown key"},
		{"of another secret", presign{key: sigv4.Credentials{AccessKeyID: alice.AccessKeyID, SecretAccessKey: "x"}}, "does not match"},
		{"of a session token that is none", presign{key: sigv4.Credentials{AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "x", SessionToken: "x"}}, "unknown key"},
		{"of a long-term key with a session token", presign{key: sigv4.Credentials{AccessKeyID: alice.AccessKeyID, SecretAccessKey: alice.SecretAccessKey, SessionToken: "x"}}, "unknown key"},
		{"padded", presign{padded: true}, "not base64url"},
		{"cut short", presign{truncated: true}, "does not match"},
		{"too long", presign{query: action + "&Foo=" + strings.Repeat("x", 40<<10)}, "it has "},
	} {
		if c.with.key.AccessKeyID == "" {
			c.with.key = alice
		}
		p.log.take()
		got, text := p.review(c.with.token(t))
		log := p.log.take()
		switch {
		case c.want == "" && (got == nil || got.Username != "alice"):
			t.Errorf("%s: refused: %s", c.name, log)
		case c.want != "" && (got != nil || text != refused):
			t.Errorf("%s: taken for %+v, %q", c.name, got, text)
		case !strings.Contains(log, c.want):
			t.Errorf("%s: the log says %s, want %q", c.name, log, c.want)
		}
	}
	// Those of others are others' to speak of.
	for _, token := range []string{"", "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", presign{key: alice, unprefixed: true}.token(t), "K8S-AWS-V1.x"} {
		if got, text := p.review(token); got != nil || text != "" {
			t.Errorf("%q: got %+v, %q", token, got, text)
		}
	}
}

// What has been taken away is gone at once.
func TestWhatIsTakenAwayCountsNoMore(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	client := iam.NewFromConfig(p.aws(p.root))
	allow := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`
	_, alice := p.user("/", "alice")
	must(client.PutUserPolicy(t.Context(), &iam.PutUserPolicyInput{UserName: aws.String("alice"), PolicyName: aws.String("sts"), PolicyDocument: &allow}))(t)
	p.entry("user/alice", "alice")
	p.role("/", "dev")
	p.entry("role/dev", "dev:{{SessionName}}")
	dev := p.assume(alice, "dev", "someone")
	want := func(when string, key sigv4.Credentials, in bool) {
		t.Helper()
		if got, _ := p.review(presign{key: key, at: p.now()}.token(t)); (got != nil) != in {
			t.Errorf("%s: got %+v, want %v", when, got, in)
		}
	}
	want("at first, the user", alice, true)
	want("at first, the role", dev, true)

	status := func(s iamtypes.StatusType) {
		t.Helper()
		must(client.UpdateAccessKey(t.Context(), &iam.UpdateAccessKeyInput{UserName: aws.String("alice"), AccessKeyId: &alice.AccessKeyID, Status: s}))(t)
	}
	status(iamtypes.StatusTypeInactive)
	want("an inactive key", alice, false)
	status(iamtypes.StatusTypeActive)
	want("an active key", alice, true)

	must(client.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("dev")}))(t)
	want("the session of a role that is gone", dev, false)
	p.role("/", "dev")
	want("the session of a role that is another by now", dev, false)
	want("the role of the entry's ARN, which is not the entry's", p.assume(alice, "dev", "someone"), false)

	entries := eks.NewFromConfig(p.aws(p.root))
	must(entries.DeleteAccessEntry(t.Context(), &eks.DeleteAccessEntryInput{
		ClusterName: aws.String("one"), PrincipalArn: aws.String("arn:aws:iam::" + account + ":role/dev"),
	}))(t)
	p.entry("role/dev", "")
	again := p.assume(alice, "dev", "someone")
	want("an entry of its own", again, true)
	p.ahead.Store(int64(2 * time.Hour))
	want("a session that has expired", again, false)
	want("a key, which has not", alice, true)
	p.ahead.Store(0)

	must(entries.DeleteAccessEntry(t.Context(), &eks.DeleteAccessEntryInput{
		ClusterName: aws.String("one"), PrincipalArn: aws.String("arn:aws:iam::" + account + ":user/alice"),
	}))(t)
	want("no entry", alice, false)
	want("the cluster's creator", p.root, true)
	must(entries.DeleteCluster(t.Context(), &eks.DeleteClusterInput{Name: aws.String("one")}))(t)
	want("no cluster", p.root, false)
}

func TestReviewsThatAreNone(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	good := presign{key: p.root}.token(t)
	path := kubeaccess.Path + account + "/" + region + "/one"
	for _, c := range []struct {
		name, path, body string
		want             int
	}{
		{"version 1", path, ask(version, good), http.StatusOK},
		{"version 1 beta 1", path, ask("authentication.k8s.io/v1beta1", good), http.StatusOK},
		{"a version that is not known", path, ask("authentication.k8s.io/v2", good), http.StatusBadRequest},
		{"another kind", path, strings.Replace(ask(version, good), "TokenReview", "SubjectAccessReview", 1), http.StatusBadRequest},
		{"no JSON", path, "token=" + good, http.StatusBadRequest},
		{"a member twice", path, strings.Replace(ask(version, good), `"kind"`, `"kind": "TokenReview", "kind"`, 1), http.StatusBadRequest},
		{"no spec", path, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}`, http.StatusBadRequest},
		{"more than 64 KiB", path, ask(version, strings.Repeat("x", 64<<10)), http.StatusRequestEntityTooLarge},
		{"a path that is too short", kubeaccess.Path + account + "/one", ask(version, good), http.StatusNotFound},
		{"a path that is too long", path + "/x", ask(version, good), http.StatusNotFound},
		{"a path without a name", kubeaccess.Path + account + "/" + region + "/", ask(version, good), http.StatusNotFound},
	} {
		code, text, _ := p.post(c.path, c.body)
		if code != c.want || bytes.Contains(text, []byte("authenticated\":true")) != (c.want == http.StatusOK) || bytes.Contains(text, []byte(good)) {
			t.Errorf("%s: got %d %s, want %d", c.name, code, text, c.want)
		}
	}
	for name, at := range map[string]string{
		"another account": kubeaccess.Path + "444455556666/" + region + "/one", "another region": kubeaccess.Path + account + "/eu-west-1/one",
		"an account that is none": kubeaccess.Path + "x/" + region + "/one",
	} {
		if code, text, _ := p.post(at, ask(version, good)); code != http.StatusOK || bytes.Contains(text, []byte(`"authenticated":true`)) || !bytes.Contains(text, []byte(refused)) {
			t.Errorf("%s: got %d %s", name, code, text)
		}
	}
	for name, change := range map[string]struct {
		do   func(*http.Request)
		want int
	}{
		"GET":                  {func(r *http.Request) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed},
		"another content type": {func(r *http.Request) { r.Header.Set("Content-Type", "application/x-protobuf") }, http.StatusUnsupportedMediaType},
		"no content type":      {func(r *http.Request) { r.Header.Del("Content-Type") }, http.StatusUnsupportedMediaType},
	} {
		r := must(http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+path, strings.NewReader(ask(version, good))))(t)
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
		change.do(r)
		reply := must(p.http.Do(r))(t)
		reply.Body.Close()
		if reply.StatusCode != change.want {
			t.Errorf("%s: got %s, want %d", name, reply.Status, change.want)
		}
	}

	reply := must(http.Post(p.plain+path, "application/json", strings.NewReader(ask(version, good))))(t)
	reply.Body.Close()
	if reply.StatusCode != http.StatusForbidden {
		t.Errorf("over plain HTTP: got %s", reply.Status)
	}

	// A store that cannot be asked is no reason to take a key for unknown.
	p.store.down.Store(true)
	unknown := presign{key: sigv4.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "x"}}.token(t)
	if code, _, header := p.post(path, ask(version, unknown)); code != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("without a store: got %d, %v", code, header)
	}
	if got, _ := p.review(good); got == nil {
		t.Error("without a store, what is known is refused")
	}
}

// What was verified is in the trail, whether the bearer was let in or not, and is a use of the key; what was not verified leaves nothing.
func TestReviewsAreInTheTrail(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.cluster("one")
	_, alice := p.user("/", "alice")
	_, stranger := p.user("/", "stranger")
	p.entry("user/alice", "", "team-a", "team-b")
	for _, s := range []presign{
		{key: alice}, {key: stranger}, {key: alice, cluster: "two"}, {key: sigv4.Credentials{AccessKeyID: alice.AccessKeyID, SecretAccessKey: "x"}},
	} {
		p.review(s.token(t))
	}
	found := must(cloudtrail.NewFromConfig(p.aws(p.root)).LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{
		LookupAttributes: []cttypes.LookupAttribute{{AttributeKey: cttypes.LookupAttributeKeyEventName, AttributeValue: aws.String("GetCallerIdentity")}},
	}))(t)
	type record struct{ User, Key, Code, Message, Decision, Cluster, Source string }
	var got []record
	for _, e := range found.Events {
		text := aws.ToString(e.CloudTrailEvent)
		r := must(audit.Decode(text))(t)
		got = append(got, record{
			r.Identity.ARN, r.Identity.AccessKeyID, r.ErrorCode, r.ErrorMessage, r.Lanyard.Decision, aws.ToString(e.Resources[0].ResourceName), r.Source,
		})
		if !r.ReadOnly || r.Parameters != nil || r.Response != nil || r.SourceIP != "127.0.0.1" || r.RequestID == "" || strings.Contains(text, "Signature=") {
			t.Errorf("the record is %s", text)
		}
	}
	user := "arn:aws:iam::" + account + ":user/"
	want := []record{
		{user + "stranger", stranger.AccessKeyID, "AccessDenied", refused, "denied in cluster one: token refused: no access entry", "one", "sts.amazonaws.com"},
		{user + "alice", alice.AccessKeyID, "", "", "allowed: " + user + "alice in cluster one, with the groups team-a, team-b", "one", "sts.amazonaws.com"},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	used := must(iam.NewFromConfig(p.aws(p.root)).GetAccessKeyLastUsed(t.Context(), &iam.GetAccessKeyLastUsedInput{AccessKeyId: &stranger.AccessKeyID}))(t)
	if last := used.AccessKeyLastUsed; last.LastUsedDate == nil || aws.ToString(last.ServiceName) != "sts" {
		t.Errorf("the key was last used %v with %s", last.LastUsedDate, aws.ToString(last.ServiceName))
	}

	if err := p.trail.Close(); err != nil {
		t.Fatal(err)
	}
	code, text, header := p.post(kubeaccess.Path+account+"/"+region+"/one", ask(version, presign{key: alice}.token(t)))
	if code != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || bytes.Contains(text, []byte("alice")) {
		t.Errorf("without a trail: got %d %s", code, text)
	}
}

// body is one that does not end until it may.
type body struct{ begun, end chan struct{} }

// Read implements io.Reader.
func (b body) Read([]byte) (int, error) {
	b.begun <- struct{}{}
	<-b.end
	return 0, io.EOF
}

func TestReviewsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	const most = 256
	h := kubeaccess.New(kubeaccess.Config{Log: slog.New(slog.DiscardHandler)})
	serve := func(from io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://lanyard.example.com"+kubeaccess.Path+account+"/"+region+"/one", from)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	slow := body{make(chan struct{}), make(chan struct{})}
	var group sync.WaitGroup
	for range most {
		group.Go(func() { serve(slow) })
	}
	for range most {
		<-slow.begun
	}
	if w := serve(strings.NewReader("{}")); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("beside %d others: got %d, %v", most, w.Code, w.Header())
	}
	close(slow.end)
	group.Wait()
	if w := serve(strings.NewReader("{}")); w.Code != http.StatusBadRequest {
		t.Errorf("after them: got %d", w.Code)
	}
}
