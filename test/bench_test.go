package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// The benchmarks compare with a bare handler, or with a server that holds next to nothing, in one run: blocks of requests go to the
// one and to the other in turn, so that whatever else the machine does slows both. Both sides get the same bytes, which were signed
// beforehand, over the same number of connections, by the same client, which does as little as there is to do.
//
// x-bare is the ratio of the times, x-bare-median the median of the blocks' ratios, which other programs disturb less, and x-bare-cpu the
// ratio of the CPU times, of this process, in which client and both servers run. x-empty-cpu is that of two servers' processes. limit is
// what a ratio, and ms-limit and MiB-limit are what the figures before them, are meant to stay below.

const (
	poolTokens = 4000 // distinct tokens; each is sent again only when all the others have been
	block      = 250  // requests to one side before it is the other's turn
	trustPods  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}]}`
)

// BenchmarkAssumeRoleForPodIdentity compares with a handler that decodes the same body, verifies one RS256 signature and seals one token.
func BenchmarkAssumeRoleForPodIdentity(b *testing.B) {
	s := startPlane(b)
	k := newKubernetes(b)
	s.cluster(k)
	full := load{address: s.address(), requests: s.podRequests(k.tokens(b, poolTokens))}
	bare := load{address: startBare(b, podIdentity(b, &k.key.PublicKey)), requests: full.requests}
	compare(b, &bare, &full, "bare")
	b.ReportMetric(2, "limit")
}

// BenchmarkGetCallerIdentity compares with a handler that writes a constant answer of the same size. The call is signed with the
// credentials of a session.
func BenchmarkGetCallerIdentity(b *testing.B) {
	s := startPlane(b)
	s.cluster(newKubernetes(b))
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	request := s.request(s.agent(), "sts", "/", "application/x-www-form-urlencoded; charset=utf-8", []byte(body))
	full := load{address: s.address(), requests: [][]byte{request}}
	answer := full.first(b)
	bare := load{requests: full.requests, address: startBare(b, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.Write(answer)
	})}
	compare(b, &bare, &full, "bare")
	b.ReportMetric(3, "limit")
}

// BenchmarkAssociations puts 100,000 associations into a server with an embedded store, and compares the cost of a request with that
// of a server that has one. Memory is the resident set, in which the parts of the store that are mapped into memory count.
func BenchmarkAssociations(b *testing.B) {
	const associations, creators = 100_000, 64
	k := newKubernetes(b)
	tokens := k.tokens(b, poolTokens)
	var sides [2]load
	var servers [2]*server
	for i := range sides {
		s := startServer(quiet{b}, fmt.Sprintf("maxAssociations: %d\n", associations+1))
		servers[i] = s
		s.cluster(k)
		sides[i] = load{address: s.address(), requests: s.podRequests(tokens), process: s.cmd.Process.Pid}
		sides[i].run(b, poolTokens) // what every server has grown to after some requests is not the associations'
	}
	s := servers[1]
	before := s.memory()
	role := "arn:aws:iam::" + account + ":role/app"
	creates := load{address: s.address(), connections: creators}
	begun := time.Now()
	for done := 0; done < associations; done += len(creates.requests) {
		creates.requests = creates.requests[:0]
		for i := range 5000 {
			body, err := json.Marshal(map[string]string{
				"namespace": fmt.Sprintf("team-%d", (done+i)/100), "serviceAccount": fmt.Sprintf("app-%d", (done+i)%100), "roleArn": role,
			})
			if err != nil {
				b.Fatal(err)
			}
			creates.requests = append(creates.requests,
				s.request(s.rootKey(), "eks", "/clusters/bench/pod-identity-associations", "application/json", body))
		}
		creates.run(b, len(creates.requests))
	}
	creates.close()
	rate, added := associations/time.Since(begun).Seconds(), s.memory()-before
	compare(b, &sides[0], &sides[1], "empty")
	b.ReportMetric(rate, "creates/s")
	b.ReportMetric(added, "MiB-added")
	b.ReportMetric(s.memory()-before, "MiB-added-later")
	b.ReportMetric(s.memory(), "MiB-in-all")
	b.ReportMetric(100, "MiB-limit")
}

// BenchmarkDev starts `lanyard dev` in new directories, and reports the slowest start and the memory of the last one: when it was
// ready, and when it had served some requests to all its parts.
func BenchmarkDev(b *testing.B) {
	var starts []time.Duration
	var s *server
	for b.Loop() {
		if s != nil {
			s.kill()
		}
		begun := time.Now()
		s = startDev(b, dataDir(b))
		starts = append(starts, time.Since(begun))
	}
	ready := s.memory()
	objects := s3.NewFromConfig(s.aws(), func(o *s3.Options) { o.UsePathStyle = true })
	for i := range 200 {
		out, err := s.webIdentity("dev-my-sa", "dev", "default", "my-sa")
		if err != nil {
			b.Fatal(err)
		}
		pod := sts.NewFromConfig(s.as(aws.Credentials{
			AccessKeyID: aws.ToString(out.Credentials.AccessKeyId), SecretAccessKey: aws.ToString(out.Credentials.SecretAccessKey),
			SessionToken: aws.ToString(out.Credentials.SessionToken),
		}))
		if _, err := pod.GetCallerIdentity(b.Context(), &sts.GetCallerIdentityInput{}); err != nil {
			b.Fatal(err)
		}
		_, err = objects.PutObject(b.Context(), &s3.PutObjectInput{
			Bucket: aws.String("logs"), Key: aws.String(strconv.Itoa(i)), Body: bytes.NewReader(make([]byte, 64<<10)),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(slices.Max(starts).Milliseconds()), "ms-to-ready")
	b.ReportMetric(2000, "ms-limit")
	b.ReportMetric(ready, "MiB-ready")
	b.ReportMetric(s.memory(), "MiB-used")
	b.ReportMetric(150, "MiB-limit")
}

// BenchmarkReplication writes to one server and asks another, over one etcd, until it serves what was written. The time is counted
// from the answer to the write.
func BenchmarkReplication(b *testing.B) {
	first, second := startServers(quiet{b})
	writer, reader := iam.NewFromConfig(first.aws()), iam.NewFromConfig(second.aws())
	role := aws.String("r")
	if _, err := writer.CreateRole(b.Context(), &iam.CreateRoleInput{RoleName: role, AssumeRolePolicyDocument: aws.String(trustPods)}); err != nil {
		b.Fatal(err)
	}
	var delays []time.Duration
	for b.Loop() {
		want := strconv.Itoa(len(delays))
		if _, err := writer.UpdateRole(b.Context(), &iam.UpdateRoleInput{RoleName: role, Description: &want}); err != nil {
			b.Fatal(err)
		}
		written := time.Now()
		eventually(b, "the second server serves what the first wrote", func(ctx context.Context) error {
			out, err := reader.GetRole(ctx, &iam.GetRoleInput{RoleName: role})
			if err == nil && aws.ToString(out.Role.Description) != want {
				err = errors.New("not yet")
			}
			return err
		})
		delays = append(delays, time.Since(written))
	}
	slices.Sort(delays)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(delays[len(delays)-1].Microseconds())/1000, "ms-max")
	b.ReportMetric(100, "ms-limit")
}

// quiet is a benchmark that leaves out what servers log about every request.
type quiet struct{ *testing.B }

// Output implements testing.TB.
func (quiet) Output() io.Writer { return io.Discard }

// startPlane runs a control plane in this process over a store in memory, with the audit trail, the log level and the garbage
// collector's pace of `lanyard dev`.
func startPlane(b *testing.B) *server {
	b.Helper()
	return startPlaneWith(b, openRecords(b))
}

// openRecords opens an audit trail on disk until the benchmark ends.
func openRecords(b *testing.B) *audit.Files {
	b.Helper()
	records, err := audit.OpenFiles(audit.FilesConfig{Dir: filepath.Join(b.TempDir(), "audit"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { records.Close() })
	return records
}

// startPlaneWith does the same with another store for the audit trail.
func startPlaneWith(b *testing.B, records audit.Store) *server {
	b.Helper()
	daemon.TuneGC()
	log, err := daemon.NewLogger(b.Output(), "warn", "text")
	if err != nil {
		b.Fatal(err)
	}
	dir, err := controlplane.OpenDirectory(dataDir(b))
	if err != nil {
		b.Fatal(err)
	}
	plane, err := controlplane.New(controlplane.Config{
		Store: kv.NewMemory(), MasterKey: keyring.MasterKey{1}, Partition: "aws", Region: "us-east-1", Account: account,
		IssuerURL: "https://issuer.test", Audit: audit.NewTrail(records, audit.Required, log), Log: log,
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := plane.Start(b.Context(), dir); err != nil {
		b.Fatal(err)
	}
	root, err := dir.RootKey()
	if err != nil {
		b.Fatal(err)
	}
	endpoint := "http://" + serve(b, log, plane.Handler())
	return &server{t: b, env: map[string]string{
		"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_STS": endpoint, "AWS_REGION": "us-east-1",
		"AWS_ACCESS_KEY_ID": root.AccessKeyID, "AWS_SECRET_ACCESS_KEY": string(root.SecretAccessKey),
	}}
}

func startBare(b *testing.B, handler http.HandlerFunc) (address string) {
	return serve(b, slog.New(slog.DiscardHandler), handler)
}

// serve serves until the benchmark ends.
func serve(b *testing.B, log *slog.Logger, handler http.Handler) (address string) {
	b.Helper()
	s := &daemon.Server{Name: "http", Address: "127.0.0.1:0", Handler: handler}
	if err := s.Listen(); err != nil {
		b.Fatal(err)
	}
	stopped := make(chan error, 1)
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	go func() { stopped <- daemon.Serve(ctx, log, s) }()
	b.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			b.Error(err)
		}
	})
	return s.Addr()
}

// podIdentity is the least that an answer to AssumeRoleForPodIdentity can be made with.
func podIdentity(b *testing.B, key *rsa.PublicKey) http.HandlerFunc {
	aead, err := chacha20poly1305.NewX(make([]byte, chacha20poly1305.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	session := make([]byte, 600)
	type out struct {
		Subject struct {
			Namespace      string `json:"namespace"`
			ServiceAccount string `json:"serviceAccount"`
		} `json:"subject"`
		Audience    string `json:"audience"`
		Association struct {
			ARN string `json:"associationArn"`
			ID  string `json:"associationId"`
		} `json:"podIdentityAssociation"`
		User struct {
			ARN string `json:"arn"`
			ID  string `json:"assumeRoleId"`
		} `json:"assumedRoleUser"`
		Credentials struct {
			SessionToken    string `json:"sessionToken"`
			SecretAccessKey string `json:"secretAccessKey"`
			AccessKeyID     string `json:"accessKeyId"`
			Expiration      int64  `json:"expiration"`
		} `json:"credentials"`
	}
	answer := func(r *http.Request) (*out, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		var in struct {
			Token string `json:"token"`
		}
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, err
		}
		dot := strings.LastIndexByte(in.Token, '.')
		signature, err := base64.RawURLEncoding.DecodeString(in.Token[dot+1:])
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256([]byte(in.Token[:dot]))
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature); err != nil {
			return nil, err
		}
		nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(session)+aead.Overhead())
		rand.Read(nonce)
		var o out
		o.Subject.Namespace, o.Subject.ServiceAccount, o.Audience = "team-a", "app", "pods.eks.amazonaws.com"
		o.Association.ARN = "arn:aws:eks:us-east-1:" + account + ":podidentityassociation/bench/a-0123456789abcdefg"
		o.Association.ID = "a-0123456789abcdefg"
		o.User.ARN = "arn:aws:sts::" + account + ":assumed-role/app/eks-bench-app-1-11111111-1111-4111-8111-111111111111"
		o.User.ID = "AROAAAAAAAAAAAAAAAAAA:eks-bench-app-1-11111111-1111-4111-8111-111111111111"
		o.Credentials.SessionToken = base64.StdEncoding.EncodeToString(aead.Seal(nonce, nonce, session, nil))
		o.Credentials.SecretAccessKey, o.Credentials.AccessKeyID = "0123456789012345678901234567890123456789", "ASIAAAAAAAAAAAAAAAAA"
		o.Credentials.Expiration = time.Now().Add(6 * time.Hour).Unix()
		return &o, nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		o, err := answer(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(o)
	}
}

// kubernetes is a cluster's own issuer of tokens.
type kubernetes struct{ key *rsa.PrivateKey }

const issuerURL = "https://kubernetes.test"

func newKubernetes(t testing.TB) *kubernetes {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &kubernetes{key}
}

// tokens makes the tokens of as many pods of team-a/app.
func (k *kubernetes) tokens(t testing.TB, n int) []string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tokens := make([]string, n)
	var group sync.WaitGroup
	for worker := range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := worker; i < n; i += runtime.GOMAXPROCS(0) {
				id := fmt.Sprintf("b1d0a6e9-4dd2-44ce-a7a0-%012d", i)
				text, err := json.Marshal(map[string]any{
					"aud": []string{"pods.eks.amazonaws.com"}, "iss": issuerURL, "sub": "system:serviceaccount:team-a:app", "jti": id,
					"exp": now.Add(24 * time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
					"kubernetes.io": map[string]any{
						"namespace":      "team-a",
						"serviceaccount": map[string]any{"name": "app", "uid": "0fb8aef7-1f4b-4a06-9e09-1b54b3a1e6b3"},
						"pod":            map[string]any{"name": fmt.Sprintf("app-%d", i), "uid": id},
						"node":           map[string]any{"name": "node-1", "uid": "9c9d3a6d-6a47-4c07-8a43-3f2a3cf5dd0a"},
					},
				})
				if err != nil {
					t.Error(err)
					return
				}
				jws, err := signer.Sign(text)
				if err != nil {
					t.Error(err)
					return
				}
				if tokens[i], err = jws.CompactSerialize(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return tokens
}

// cluster joins the cluster "bench", gives team-a/app the role "app" there, and node/agent the role "agent", by which it may ask for
// pods' credentials.
func (s *server) cluster(k *kubernetes) {
	s.t.Helper()
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &k.key.PublicKey, KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.must("cluster", "register", "bench", "--issuer", issuerURL, "--jwks", file)
	s.must("cluster", "register", "nodes")
	s.must("irsa", "create", "--cluster", "nodes", "-n", "node", "-s", "agent", "--role-name", "agent")
	roles := iam.NewFromConfig(s.aws())
	_, err = roles.PutRolePolicy(s.t.Context(), &iam.PutRolePolicyInput{
		RoleName: aws.String("agent"), PolicyName: aws.String("p"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"eks-auth:AssumeRoleForPodIdentity","Resource":"arn:aws:eks:us-east-1:` + account + `:cluster/*"}]}`),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	role, err := roles.CreateRole(s.t.Context(), &iam.CreateRoleInput{RoleName: aws.String("app"), AssumeRolePolicyDocument: aws.String(trustPods)})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = eks.NewFromConfig(s.aws()).CreatePodIdentityAssociation(s.t.Context(), &eks.CreatePodIdentityAssociationInput{
		ClusterName: aws.String("bench"), Namespace: aws.String("team-a"), ServiceAccount: aws.String("app"), RoleArn: role.Role.Arn,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// agent returns credentials of a session of the role "agent".
func (s *server) agent() sigv4.Credentials {
	s.t.Helper()
	out, err := s.webIdentity("agent", "nodes", "node", "agent")
	if err != nil {
		s.t.Fatal(err)
	}
	return sigv4.Credentials{
		AccessKeyID: aws.ToString(out.Credentials.AccessKeyId), SecretAccessKey: sigv4.Secret(aws.ToString(out.Credentials.SecretAccessKey)),
		SessionToken: aws.ToString(out.Credentials.SessionToken),
	}
}

func (s *server) rootKey() sigv4.Credentials {
	return sigv4.Credentials{AccessKeyID: s.env["AWS_ACCESS_KEY_ID"], SecretAccessKey: sigv4.Secret(s.env["AWS_SECRET_ACCESS_KEY"])}
}

// podRequests returns an agent's request for each token. Signatures are good for 15 minutes.
func (s *server) podRequests(tokens []string) [][]byte {
	s.t.Helper()
	agent := s.agent()
	requests := make([][]byte, len(tokens))
	for i, token := range tokens {
		body := []byte(`{"token":"` + token + `"}`)
		requests[i] = s.request(agent, "eks-auth", "/clusters/bench/assume-role-for-pod-identity", "application/json", body)
	}
	return requests
}

// request returns the bytes of a signed POST.
func (s *server) request(c sigv4.Credentials, service, path, contentType string, body []byte) []byte {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.env["AWS_ENDPOINT_URL"]+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Amz-Sdk-Invocation-Id", "d3b4d5f5-4dd2-44ce-a7a0-0cd3f1bd9b6e")
	r.Header.Set("Amz-Sdk-Request", "attempt=1; max=3")
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "aws-sdk-go-v2/1.47.7 ua/2.1 os/linux lang/go#1.26 md/GOOS#linux md/GOARCH#amd64")
	sum := sha256.Sum256(body)
	sigv4.Sign(r, c, service, "us-east-1", hex.EncodeToString(sum[:]), time.Now())
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		s.t.Fatal(err)
	}
	return wire.Bytes()
}

// address is where the server listens.
func (s *server) address() string { return strings.TrimPrefix(s.env["AWS_ENDPOINT_URL"], "http://") }

// memory is the server's resident set, in MiB.
func (s *server) memory() float64 {
	s.t.Helper()
	return residentSet(s.t, s.cmd.Process.Pid)
}

// residentSet is a process's, in MiB.
func residentSet(t testing.TB, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("memory is measured only where there is /proc")
	}
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nVmRSS:")
	text, _, _ := strings.Cut(after, " kB")
	kb, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return float64(kb) / 1024
}

// load sends requests, over connections that stay open.
type load struct {
	address     string
	requests    [][]byte
	connections int // two for each CPU when zero
	process     int // that serves, if not this one

	next atomic.Int64
	open []*connection
}

// run sends n requests, each as the one after the last of the run before, and returns how long that took. Every answer must be a success.
func (l *load) run(t testing.TB, n int) time.Duration {
	t.Helper()
	if l.connections == 0 {
		l.connections = 2 * runtime.GOMAXPROCS(0)
	}
	for len(l.open) < l.connections {
		c, err := dial(t, l.address)
		if err != nil {
			t.Fatal(err)
		}
		l.open = append(l.open, c)
	}
	end := l.next.Load() + int64(n)
	begun := time.Now()
	var group sync.WaitGroup
	for _, c := range l.open {
		group.Go(func() {
			for {
				i := l.next.Add(1) - 1
				if i >= end {
					return
				}
				if _, err := c.roundTrip(l.requests[i%int64(len(l.requests))]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	l.next.Store(end)
	if t.Failed() {
		t.FailNow()
	}
	return took
}

// close closes the connections.
func (l *load) close() {
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

// first sends the first request and returns the answer's body.
func (l *load) first(t testing.TB) []byte {
	t.Helper()
	c, err := dial(t, l.address)
	if err != nil {
		t.Fatal(err)
	}
	body, err := c.roundTrip(l.requests[0])
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(body)
}

// connection is the least of an HTTP client: it reads answers that have a Content-Length.
type connection struct {
	net.Conn
	in   *bufio.Reader
	body []byte
}

func dial(t testing.TB, address string) (*connection, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return &connection{Conn: c, in: bufio.NewReaderSize(c, 16<<10)}, nil
}

// roundTrip sends a request and returns the body of the answer, which is good until the next call.
func (c *connection) roundTrip(request []byte) ([]byte, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200 "))
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) <= 2 {
			break
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return nil, err
			}
		}
	}
	if length < 0 {
		return nil, errors.New("the answer has no Content-Length")
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	if _, err := io.ReadFull(c.in, c.body); err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("refused: %s", c.body)
	}
	return c.body, nil
}

// compare reports what a request to one costs, in times of what it costs to the other, which is called so. It returns how many requests a
// second each answered.
func compare(b *testing.B, other, one *load, called string) (rates [2]float64) {
	b.Helper()
	var times, cpu [2]time.Duration
	var ratios []float64
	sides := [2]*load{other, one}
	for _, l := range sides {
		l.run(b, block)
	}
	requests := 0
	for b.Loop() {
		var took [2]time.Duration
		for i, l := range sides {
			before := l.cpuTime(b)
			took[i] = l.run(b, block)
			times[i] += took[i]
			cpu[i] += l.cpuTime(b) - before
		}
		ratios = append(ratios, float64(took[1])/float64(took[0]))
		requests += block
	}
	slices.Sort(ratios)
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(requests) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(times[0]), "µs-"+called)
	b.ReportMetric(per(times[1]), "µs-full")
	b.ReportMetric(float64(times[1])/float64(times[0]), "x-"+called)
	b.ReportMetric(ratios[len(ratios)/2], "x-"+called+"-median")
	b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "x-"+called+"-cpu")
	return [2]float64{float64(requests) / times[0].Seconds(), float64(requests) / times[1].Seconds()}
}

// cpuTime is what the process that serves has used.
func (l *load) cpuTime(t testing.TB) time.Duration {
	t.Helper()
	if l.process == 0 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.process))
	if err != nil {
		t.Fatal(err)
	}
	// The program's name is in parentheses; then, as the 12th and 13th field, come the times in hundredths of a second.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
