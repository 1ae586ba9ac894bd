package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

var update = flag.Bool("update", false, "write the records of testdata/audit anew")

// secure returns the SDK's configuration for the server's HTTPS endpoint, which is also where its issuers are.
func (s *server) secure() aws.Config {
	s.t.Helper()
	cfg := s.aws()
	out, err := eks.NewFromConfig(cfg).DescribeCluster(s.t.Context(), &eks.DescribeClusterInput{Name: aws.String("dev")})
	if err != nil {
		s.t.Fatal(err)
	}
	issuer, err := url.Parse(aws.ToString(out.Cluster.Identity.Oidc.Issuer))
	if err != nil {
		s.t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	cfg.BaseEndpoint = aws.String("https://" + issuer.Host)
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return cfg
}

// podIdentity asks EKS Auth for the credentials of a pod of the cluster "dev", by the HTTP client, and returns the answer.
func (s *server) podIdentity(cfg aws.Config, key sigv4.Credentials, namespace, serviceAccount string) (status int, answer string) {
	s.t.Helper()
	token := strings.TrimSpace(s.must("token", "dev", "-n", namespace, "-s", serviceAccount, "--audience", "pods.eks.amazonaws.com"))
	body := `{"token":"` + token + `"}`
	sum := sha256.Sum256([]byte(body))
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost,
		*cfg.BaseEndpoint+"/clusters/dev/assume-role-for-pod-identity", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "agent")
	sigv4.Sign(r, key, "eks-auth", "us-east-1", hex.EncodeToString(sum[:]), time.Now())
	out, err := cfg.HTTPClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Body.Close()
	text, err := io.ReadAll(out.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return out.StatusCode, string(text)
}

// masks stand for what differs from run to run.
var masks = []struct {
	pattern *regexp.Regexp
	mask    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`(AROA|ASIA|AKIA)[A-Z2-7]{16,}`), "$1…"},
	{regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`[A-Z][a-z]{2} \d+, 20\d\d, \d+:\d\d:\d\d [AP]M`), "TIME IN WORDS"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`/id/[0-9A-Z]{16,}`), "/id/ID"},
	{regexp.MustCompile(`a-[0-9a-z]{17,}`), "a-ID"},
	{regexp.MustCompile(`"userAgent":"aws-sdk-go-v2[^"]*"`), `"userAgent":"SDK"`},
	{regexp.MustCompile(`"packedPolicySize":\d+`), `"packedPolicySize":"PERCENT"`},
}

// threePods has one pod get its role by IRSA, one by Pod Identity, and one get none; then the first and an administrator make a role. It returns
// the ID of the first pod's access key.
func (s *server) threePods(cfg aws.Config) (accessKeyID string) {
	t := s.t
	t.Helper()
	token := strings.TrimSpace(s.must("token", "dev", "-n", "default", "-s", "my-sa", "--audience", "sts.amazonaws.com"))
	web := cfg
	web.Credentials = nil
	session, err := sts.NewFromConfig(web).AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/dev-my-sa"), RoleSessionName: aws.String("irsa-pod"), WebIdentityToken: &token,
		DurationSeconds: aws.Int32(3600),
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, text := s.podIdentity(cfg, s.rootKey(), "default", "s3-sa"); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if _, err := sts.NewFromConfig(web).AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/dev-s3-sa"), RoleSessionName: aws.String("denied-pod"), WebIdentityToken: &token,
	}); err == nil {
		t.Fatal("a role was given to a pod that it is not for")
	}
	pod := cfg
	pod.Credentials = s.as(aws.Credentials{
		AccessKeyID: *session.Credentials.AccessKeyId, SecretAccessKey: *session.Credentials.SecretAccessKey, SessionToken: *session.Credentials.SessionToken,
	}).Credentials
	if _, err := iam.NewFromConfig(pod).CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName: aws.String("more"), AssumeRolePolicyDocument: aws.String(trustPods),
	}); err == nil {
		t.Fatal("the pod made a role")
	}
	if _, err := iam.NewFromConfig(cfg).CreateRole(t.Context(), &iam.CreateRoleInput{
		RoleName: aws.String("more"), AssumeRolePolicyDocument: aws.String(trustPods), Path: aws.String("/x/"),
	}); err != nil {
		t.Fatal(err)
	}
	return *session.Credentials.AccessKeyId
}

// Of three pods, one gets its role by IRSA, one by Pod Identity, and one gets none: the records are CloudTrail's.
func TestRecordsAreCloudTrails(t *testing.T) {
	s := startDev(t, dataDir(t))
	cfg := s.secure()
	key := s.threePods(cfg)
	trail := cloudtrail.NewFromConfig(cfg)
	for _, c := range []struct{ file, key, value string }{
		{"irsa", "Username", "system:serviceaccount:default:my-sa"},
		{"pod-identity", "ResourceName", "default/s3-sa-0"},
		{"role", "ResourceName", "more"},
	} {
		var out *cloudtrail.LookupEventsOutput
		eventually(t, "the trail is looked up", func(ctx context.Context) (err error) {
			out, err = trail.LookupEvents(ctx, &cloudtrail.LookupEventsInput{LookupAttributes: []types.LookupAttribute{
				{AttributeKey: types.LookupAttributeKey(c.key), AttributeValue: aws.String(c.value)},
			}})
			return err
		})
		var got bytes.Buffer
		for _, e := range out.Events {
			text := *e.CloudTrailEvent
			for _, m := range masks {
				text = m.pattern.ReplaceAllString(text, m.mask)
			}
			if err := json.Indent(&got, []byte(text), "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
		}
		file := filepath.Join("testdata", "audit", c.file+".json")
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.file, diff)
		}
	}

	shown := s.must("events", "-n", "default", "s3-sa-0")
	for _, part := range []string{"AssumeRoleForPodIdentity", "AssumeRole ", "default/s3-sa-0", "association a-", "dev-s3-sa"} {
		if !strings.Contains(shown, part) {
			t.Errorf("lanyard events does not show %q:\n%s", part, shown)
		}
	}
	refused := s.must("events", "--errors")
	if strings.Contains(refused, " ok ") || !strings.Contains(refused, "AccessDenied") {
		t.Errorf("lanyard events --errors shows\n%s", refused)
	}
	if made := s.must("events", "--access-key", key, "-o", "json"); strings.Count(made, `"eventVersion"`) != 2 {
		t.Errorf("of a session that was made and used once, lanyard events shows\n%s", made)
	}
}

// trailText is all that is in a server's trail on disk.
func (s *server) trailText() string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "audit", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		all.Write(text)
		all.WriteByte('\n') // a summary has none
	}
	return all.String()
}

// Whatever secret is sent or made, none is in the trail.
func TestTheTrailHoldsNoSecret(t *testing.T) {
	s := startDev(t, dataDir(t))
	cfg := s.secure()
	users, tokens := iam.NewFromConfig(cfg), sts.NewFromConfig(cfg)
	secrets := map[string]string{"root's secret": s.env["AWS_SECRET_ACCESS_KEY"]}
	keep := func(name string, values ...*string) {
		for _, v := range values {
			secrets[name] = aws.ToString(v)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := users.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("alice")})
	must(err)
	key, err := users.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("alice")})
	must(err)
	keep("alice's secret", key.AccessKey.SecretAccessKey)
	alice := cfg
	alice.Credentials = s.as(aws.Credentials{AccessKeyID: *key.AccessKey.AccessKeyId, SecretAccessKey: *key.AccessKey.SecretAccessKey}).Credentials
	session, err := sts.NewFromConfig(alice).GetSessionToken(t.Context(), nil)
	must(err)
	keep("a session's secret", session.Credentials.SecretAccessKey)
	keep("a session's token", session.Credentials.SessionToken)
	federated, err := tokens.GetFederationToken(t.Context(), &sts.GetFederationTokenInput{Name: aws.String("bob")})
	must(err)
	keep("a federated user's secret", federated.Credentials.SecretAccessKey)
	keep("a federated user's token", federated.Credentials.SessionToken)
	token := strings.TrimSpace(s.must("token", "dev", "-n", "default", "-s", "my-sa", "--audience", "sts.amazonaws.com"))
	keep("a pod's token", &token)
	web, err := tokens.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/dev-my-sa"), RoleSessionName: aws.String("secrets"), WebIdentityToken: &token,
	})
	must(err)
	keep("a web identity's secret", web.Credentials.SecretAccessKey)
	keep("a web identity's token", web.Credentials.SessionToken)
	for _, namespace := range []string{"default", "other"} {
		_, answer := s.podIdentity(cfg, s.rootKey(), namespace, "s3-sa")
		var out struct {
			Credentials struct{ SecretAccessKey, SessionToken string }
		}
		must(json.Unmarshal([]byte(answer), &out))
		keep("a pod's secret in "+namespace, &out.Credentials.SecretAccessKey)
		keep("a pod's session token in "+namespace, &out.Credentials.SessionToken)
	}
	var made struct{ SecretAccessKey string }
	must(json.Unmarshal([]byte(s.must("account", "create", "second", "-o", "json")), &made))
	keep("another account's secret", &made.SecretAccessKey)
	for _, call := range []func() error{ // refusals repeat what was sent at most in part
		func() error {
			_, err := users.CreateLoginProfile(t.Context(), &iam.CreateLoginProfileInput{UserName: aws.String("alice"), Password: aws.String("MARKED-password-1")})
			return err
		},
		func() error {
			_, err := tokens.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
				RoleArn: aws.String("arn:aws:iam::" + account + ":role/dev-my-sa"), RoleSessionName: aws.String("secrets"), WebIdentityToken: aws.String("MARKED-token-1"),
			})
			return err
		},
		func() error {
			_, err := users.UploadServerCertificate(t.Context(), &iam.UploadServerCertificateInput{
				ServerCertificateName: aws.String("c"), CertificateBody: aws.String("x"), PrivateKey: aws.String("MARKED-key-1"),
			})
			return err
		},
	} {
		if err := call(); err == nil {
			t.Error("what cannot be right was accepted")
		}
	}
	text := s.trailText()
	for name, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("the trail holds %s", name)
		}
	}
	for _, marked := range []string{"MARKED-password-1", "MARKED-token-1", "MARKED-key-1"} {
		if strings.Contains(text, marked) {
			t.Errorf("the trail holds %s", marked)
		}
	}
	for _, name := range []string{"CreateUser", "CreateAccessKey", "GetSessionToken", "GetFederationToken", "AssumeRoleWithWebIdentity",
		"AssumeRoleForPodIdentity", "CreateAccount", "CreateServiceAccountToken", "RegisterCluster"} {
		if !strings.Contains(text, `"eventName":"`+name+`"`) {
			t.Errorf("the trail has no record of %s", name)
		}
	}
	if !strings.Contains(text, `"accessKeyId":"`+*key.AccessKey.AccessKeyId+`","status"`) && !strings.Contains(text, *key.AccessKey.AccessKeyId) {
		t.Error("the trail does not tell which key was made")
	}
}

// A server is killed while many ask it: every request that was answered has its record, which the next server finds.
func TestEveryAnswerHasItsRecord(t *testing.T) {
	dir := dataDir(t)
	s := startDev(t, dir)
	const callers, killAfter = 32, 2000
	cfg := s.aws()
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{MaxConnsPerHost: callers, MaxIdleConnsPerHost: callers}}
	client := sts.NewFromConfig(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		mu       sync.Mutex
		answered []string
		group    sync.WaitGroup
		enough   = make(chan struct{})
		once     sync.Once
	)
	for range callers {
		group.Go(func() {
			for {
				out, err := client.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("load")})
				if err != nil {
					return // not answered: there may be a record or not
				}
				id, ok := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
				if !ok {
					t.Error("an answer has no request ID")
					return
				}
				mu.Lock()
				answered = append(answered, id)
				if len(answered) == killAfter {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	s.kill()
	cancel()
	group.Wait()

	recorded := map[string]bool{}
	for line := range strings.Lines(s.trailText()) {
		if e, err := audit.Decode(line); err == nil {
			recorded[e.RequestID] = true
		}
	}
	missing := 0
	for _, id := range answered {
		if !recorded[id] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d answered requests have no record", missing, len(answered))
	}
	t.Logf("%d requests were answered before the kill", len(answered))

	s = startDev(t, dir)
	out, err := cloudtrail.NewFromConfig(s.aws()).LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyEventName, AttributeValue: aws.String("GetFederationToken")}},
	})
	if err != nil || len(out.Events) != 50 || out.NextToken == nil {
		t.Errorf("the next server finds %d events, %v", len(out.Events), err)
	}
}

// unkept is a trail that keeps nothing.
type unkept struct{ audit.Store }

func (unkept) Record(context.Context, *audit.Event) error { return nil }

func (unkept) Room() error { return nil }

// BenchmarkAuditTrail compares credentials for pods with and without the trail, in rounds that follow each other. Each decision has two records:
// the trail must have them all. How many decisions a second there are is as much a matter of the machine, which also runs the client.
func BenchmarkAuditTrail(b *testing.B) {
	k := newKubernetes(b)
	tokens := k.tokens(b, poolTokens)
	kept := &counted{}
	kept.Files = openRecords(b)
	var sides [2]load
	for i, s := range []*server{startPlaneWith(b, unkept{}), startPlaneWith(b, kept)} {
		s.cluster(k)
		sides[i] = load{address: s.address(), requests: s.podRequests(tokens)}
	}
	before, asked := kept.n.Load(), sides[1].next.Load()
	rates := compare(b, &sides[0], &sides[1], "unkept")
	if records, answers := kept.n.Load()-before, sides[1].next.Load()-asked; records != 2*answers {
		b.Errorf("%d answers have %d records", answers, records)
	}
	b.ReportMetric(rates[0], "decisions/s-unkept")
	b.ReportMetric(rates[1], "decisions/s")
	b.ReportMetric(1.15, "limit")
}

// counted counts what a trail has kept.
type counted struct {
	*audit.Files
	n atomic.Int64
}

// Record implements audit.Recorder.
func (c *counted) Record(ctx context.Context, e *audit.Event) error {
	err := c.Files.Record(ctx, e)
	if err == nil {
		c.n.Add(1)
	}
	return err
}
