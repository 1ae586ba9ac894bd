package sts_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/internal/sts"
)

const (
	account = "111122223333"
	other   = "444455556666"
	issuer  = "https://oidc.eks.us-east-1.amazonaws.com/id/ABCDEF"
	host    = "oidc.eks.us-east-1.amazonaws.com/id/ABCDEF" // the issuer as condition keys and ARNs have it
	subject = "system:serviceaccount:default:app"
)

// env is IAM and STS behind the real handler, over a store in memory.
type env struct {
	t       testing.TB
	url     string
	db      *kv.DB
	sts     *sts.Service
	root    map[string]sigv4.Credentials // by account
	journal *journal
	at      *atomic.Pointer[time.Time] // where the clock of STS stands; nil for the real one
}

// journal is an audit file that can fail.
type journal struct {
	mu   sync.Mutex
	data bytes.Buffer
	full bool
}

var errDiskFull = errors.New("no space left on device")

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.full {
		return 0, errDiskFull
	}
	return j.data.Write(p)
}

// text returns what was recorded so far.
func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.data.String()
}

func (j *journal) fill(full bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.full = full
}

// events returns the recorded events of a role session name.
func (j *journal) events(t testing.TB, session string) []audit.Event {
	t.Helper()
	var list []audit.Event
	for line := range strings.Lines(j.text()) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if param(t, e.Parameters, "roleSessionName") == session {
			list = append(list, e)
		}
	}
	return list
}

// param returns a member of an object that is a text; empty if there is none.
func param(t testing.TB, o audit.Object, name string) string {
	t.Helper()
	members := map[string]any{}
	if o != nil {
		if err := json.Unmarshal(o, &members); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := members[name].(string)
	return text
}

func newEnv(t testing.TB) *env { return newReplica(t, kv.NewMemory()) }

// newReplica starts one more control plane over a store.
func newReplica(t testing.TB, store kv.Store) *env {
	j := new(journal)
	e := start(t, store, j)
	e.journal = j
	return e
}

// start starts a control plane that writes its audit events to out.
func start(t testing.TB, store kv.Store, out io.Writer) *env {
	t.Helper()
	ctx := t.Context()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	db := kv.NewDB(kv.Config{Store: store, Log: log})
	ring, err := keyring.New(keyring.Config{DB: db, MasterKey: keyring.MasterKey{1}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, db: db, root: make(map[string]sigv4.Credentials), at: new(atomic.Pointer[time.Time])}
	now := func() time.Time {
		if at := e.at.Load(); at != nil {
			return *at
		}
		return time.Now()
	}
	users := iam.New(iam.Config{DB: db, Keyring: ring, Partition: "aws", Log: log})
	e.sts = sts.New(sts.Config{
		IAM: users, Keyring: ring, Partition: "aws", Keys: staticKeys, Audit: audit.NewWriter(out), Now: now,
	})
	handler, err := awsapi.NewHandler(awsapi.HandlerConfig{
		Services:      []awsapi.Service{e.sts.API(), users.API()},
		Authenticator: &awsapi.Authenticator{Credentials: e.sts.Credentials, Region: "us-east-1"},
		Authorize:     users.Authorize,
		Log:           log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ring.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{account, other} {
		root, err := users.EnsureAccount(ctx, id, "account-"+id)
		if err != nil {
			t.Fatal(err)
		}
		if root != nil {
			e.root[id] = *root
		}
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	e.url = server.URL
	return e
}

// provide makes AWS's SDK sign with credentials; it signs nothing with nil.
func provide(c *sigv4.Credentials) aws.CredentialsProvider {
	if c == nil {
		return aws.AnonymousCredentials{}
	}
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: string(c.SecretAccessKey), SessionToken: c.SessionToken}, nil
	})
}

func (e *env) stsAs(c *sigv4.Credentials) *awssts.Client {
	return awssts.New(awssts.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(c), HTTPClient: awstest.HTTPClient(), Retryer: aws.NopRetryer{}})
}

func (e *env) iamOf(id string) *awsiam.Client {
	root := e.root[id]
	return awsiam.New(awsiam.Options{Region: "us-east-1", BaseEndpoint: &e.url, Credentials: provide(&root), HTTPClient: awstest.HTTPClient(), Retryer: aws.NopRetryer{}})
}

// rootOf returns the root key of an account.
func (e *env) rootOf(id string) *sigv4.Credentials {
	c := e.root[id]
	return &c
}

// user makes a user in the first account who may do what the policy says, and returns an access key.
func (e *env) user(name, document string) *sigv4.Credentials {
	e.t.Helper()
	return e.userIn(account, name, document)
}

func (e *env) userIn(id, name, document string) *sigv4.Credentials {
	e.t.Helper()
	ctx, c := e.t.Context(), e.iamOf(id)
	_, err := c.CreateUser(ctx, &awsiam.CreateUserInput{UserName: &name})
	must(e.t, err)
	if document != "" {
		_, err = c.PutUserPolicy(ctx, &awsiam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("p"), PolicyDocument: &document})
		must(e.t, err)
	}
	key, err := c.CreateAccessKey(ctx, &awsiam.CreateAccessKeyInput{UserName: &name})
	must(e.t, err)
	return &sigv4.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: sigv4.Secret(*key.AccessKey.SecretAccessKey)}
}

// role makes a role in the first account and returns its ARN.
func (e *env) role(name, trust string, edit ...func(*awsiam.CreateRoleInput)) string {
	e.t.Helper()
	in := &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust}
	for _, f := range edit {
		f(in)
	}
	out, err := e.iamOf(account).CreateRole(e.t.Context(), in)
	must(e.t, err)
	return *out.Role.Arn
}

// grant gives a role permissions.
func (e *env) grant(role, document string) {
	e.t.Helper()
	_, err := e.iamOf(account).PutRolePolicy(e.t.Context(),
		&awsiam.PutRolePolicyInput{RoleName: &role, PolicyName: aws.String("p"), PolicyDocument: &document})
	must(e.t, err)
}

// provider registers the issuer in an account for the audience of IRSA.
func (e *env) provider(id, url string) {
	e.t.Helper()
	_, err := e.iamOf(id).CreateOpenIDConnectProvider(e.t.Context(), &awsiam.CreateOpenIDConnectProviderInput{
		Url: &url, ClientIDList: []string{"sts.amazonaws.com"}, ThumbprintList: []string{strings.Repeat("a", 40)},
	})
	must(e.t, err)
}

func path(p string) func(*awsiam.CreateRoleInput) {
	return func(in *awsiam.CreateRoleInput) { in.Path = &p }
}

func longest(seconds int32) func(*awsiam.CreateRoleInput) {
	return func(in *awsiam.CreateRoleInput) { in.MaxSessionDuration = &seconds }
}

func roleTag(key, value string) func(*awsiam.CreateRoleInput) {
	return func(in *awsiam.CreateRoleInput) { in.Tags = append(in.Tags, iamtypes.Tag{Key: &key, Value: &value}) }
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks code, status and text of AWS's SDK's error.
func wantError(t testing.TB, err error, code string, status int, message string) {
	t.Helper()
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		t.Errorf("err = %v, want %s", err, code)
		return
	}
	gotStatus := 0
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		gotStatus = r.HTTPStatusCode()
	}
	if api.ErrorCode() != code || gotStatus != status || api.ErrorMessage() != message {
		t.Errorf("got  %s, %d, %q\nwant %s, %d, %q", api.ErrorCode(), gotStatus, api.ErrorMessage(), code, status, message)
	}
}

// notAuthorized is STS's text for a denial.
func notAuthorized(who, action, role string) string {
	return "User: " + who + " is not authorized to perform: " + action + " on resource: " + role
}

func keysOf(c *ststypes.Credentials) *sigv4.Credentials {
	return &sigv4.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: sigv4.Secret(*c.SecretAccessKey), SessionToken: *c.SessionToken,
	}
}

// Policies and trust policies.

const allowAll = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`

// trusts is a trust policy of one statement.
func trusts(principal, actions, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":` + principal + `,"Action":` + actions + condition + `}]}`
}

const (
	ownAccount  = `{"AWS":"arn:aws:iam::` + account + `:root"}`
	ourProvider = `{"Federated":"arn:aws:iam::` + account + `:oidc-provider/` + host + `"}`
	assumeOnly  = `"sts:AssumeRole"`
	assumeTag   = `["sts:AssumeRole","sts:TagSession"]`
	everything  = `"sts:*"`
	webIdentity = `"sts:AssumeRoleWithWebIdentity"`
	forSubject  = `{"StringEquals":{"` + host + `:sub":"` + subject + `","` + host + `:aud":"sts.amazonaws.com"}}`
)

// Tokens.

var (
	issuerKey = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	})
	foreignKey = sync.OnceValue(func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	})
)

// staticKeys is sts.Config.Keys: one key for every issuer but one that cannot be reached.
func staticKeys(p *iam.Provider, issuerURL string) (idtoken.KeySource, error) {
	if strings.Contains(issuerURL, "unreachable") {
		return nil, idtoken.ErrKeys
	}
	return idtoken.Static{Set: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: issuerKey().Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"},
	}}}, nil
}

type claims map[string]any

// with returns the claims with one changed, or removed if the value is nil.
func (c claims) with(key string, value any) claims {
	out := claims{}
	for k, v := range c {
		out[k] = v
	}
	if value == nil {
		delete(out, key)
	} else {
		out[key] = value
	}
	return out
}

// good are the claims of a service account token that is in order.
func good() claims {
	now := time.Now().Unix()
	return claims{"iss": issuer, "sub": subject, "aud": []string{"sts.amazonaws.com"}, "iat": now, "nbf": now, "exp": now + 3600}
}

func token(t testing.TB, c claims) string {
	return tokenBy(t, jose.RS256, issuerKey(), "k1", c)
}

func tokenBy(t testing.TB, alg jose.SignatureAlgorithm, key crypto.PrivateKey, keyID string, c claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}, nil)
	must(t, err)
	payload, err := json.Marshal(c)
	must(t, err)
	signed, err := signer.Sign(payload)
	must(t, err)
	text, err := signed.CompactSerialize()
	must(t, err)
	return text
}

// forbidden is what no record may hold: the text of a token or secret.
func forbidden(t testing.TB, record string, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(record, s) {
			t.Errorf("the audit record holds a secret: …%s…", s[:min(8, len(s))])
		}
	}
}
