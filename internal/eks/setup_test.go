package eks_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	other   = "444455556666"
	region  = "us-east-1"

	trustPods = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},` +
		`"Action":["sts:AssumeRole","sts:TagSession"]}]}`
	trustEKS = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"eks.amazonaws.com"},` +
		`"Action":"sts:AssumeRole"}]}`
)

// world is a store, and the clock and the settings of the replicas over it.
type world struct {
	store           kv.Store
	now             atomic.Int64 // Unix nanoseconds
	maxAssociations int
}

func newWorld() *world {
	w := &world{store: kv.NewMemory()}
	w.now.Store(time.Now().UnixNano())
	return w
}

func (w *world) time() time.Time { return time.Unix(0, w.now.Load()) }

func (w *world) sleep(d time.Duration) { w.now.Add(int64(d)) }

// replica is one server: the services over a store, and real clients of them with root's key of the account.
type replica struct {
	w    *world
	url  string
	eks  *eks.Service
	iam  *iam.Service
	root sigv4.Credentials
}

// start starts a replica over store, which is the world's or one in front of it.
func (w *world) start(t testing.TB, store kv.Store) *replica {
	t.Helper()
	s := awstest.New(t, awstest.Config{Store: store, Now: w.time, MaxAssociations: w.maxAssociations})
	c := s.Serve(t, s.Handler(t, awsapi.HandlerConfig{}))
	return &replica{w: w, url: c.URL, eks: s.EKS, iam: s.IAM}
}

// newReplica is a world with one replica, which has made the account.
func newReplica(t testing.TB) *replica {
	t.Helper()
	w := newWorld()
	return w.start(t, w.store).withAccount(t, account)
}

// withAccount makes an account and returns the replica as its root uses it.
func (r *replica) withAccount(t testing.TB, id string) *replica {
	t.Helper()
	root, err := r.iam.EnsureAccount(t.Context(), id, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r.as(*root)
}

// as is the replica as somebody else uses it.
func (r *replica) as(c sigv4.Credentials) *replica {
	copied := *r
	copied.root = c
	return &copied
}

func (r *replica) wire() awstest.Client { return awstest.Client{URL: r.url, Key: r.root} }

func (r *replica) credentials() aws.CredentialsProviderFunc { return r.wire().Credentials() }

func (r *replica) client() *awseks.Client { return r.wire().EKS() }

func (r *replica) iamClient() *awsiam.Client { return r.wire().IAM() }

// role makes a role and returns its ARN.
func (r *replica) role(t testing.TB, name, trust string) string {
	t.Helper()
	out, err := r.iamClient().CreateRole(t.Context(), &awsiam.CreateRoleInput{RoleName: &name, AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	return *out.Role.Arn
}

// user makes a user with an inline policy of these statements, and returns the replica as that user uses it.
func (r *replica) user(t testing.TB, name, statements string) *replica {
	t.Helper()
	return r.as(r.wire().User(t, name, statements))
}

// hosted registers a cluster with a hosted issuer.
func (r *replica) hosted(t testing.TB, name string) {
	t.Helper()
	r.wire().Register(t, name)
}

// call makes a call of Lanyard's own API. A refusal comes back as the SDK would return it.
func (r *replica) call(t testing.TB, method, path, body string) (map[string]any, error) {
	t.Helper()
	return r.wire().Call(t, "lanyard", method, path, body)
}

func wantRefused(t testing.TB, err error, code, message string) {
	t.Helper()
	awstest.WantRefused(t, err, code, message)
}

func must[T any](v T, err error) func(t testing.TB) T { return awstest.Must(v, err) }
