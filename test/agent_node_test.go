//go:build linux

package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Where pods find the agent.
const (
	credentialsIPv4 = "http://169.254.170.23/v1/credentials"
	credentialsIPv6 = "http://[fd00:ec2::23]/v1/credentials"
)

// controlPlane is where a node's namespace has Lanyard.
const controlPlane = "127.0.0.1:4566"

// node is a namespace in which the agent runs as on any node, for the cluster dev of a `lanyard dev` outside.
type node struct {
	*namespace
	server *server
	relay  *relay
}

// agentRole is what agents sign their calls with.
const agentRole = "arn:aws:iam::" + account + ":role/dev-kube-system-lanyard-agent"

// startDevForAgents runs a `lanyard dev` that has the agents' role, made as the manifests' guide says.
func startDevForAgents(t testing.TB) *server {
	t.Helper()
	s := startDev(t, dataDir(t))
	policy := filepath.Join(t.TempDir(), "agent.json")
	if err := os.WriteFile(policy, []byte(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "eks-auth:AssumeRoleForPodIdentity",
		"Resource": "arn:aws:eks:us-east-1:`+account+`:cluster/dev"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("irsa", "create", "--cluster", "dev", "-n", "kube-system", "-s", "lanyard-agent", "--policy", policy)
	return s
}

var noCoreDumps = regexp.MustCompile(`(?m)^Max core file size +0 +0 `)

// startNode gives a namespace the agent's addresses, and runs the agent in it until the test ends, with the rights, the flags
// and the identity that the manifests give it. Credentials from EKS Auth live as long as life says, or as Lanyard has it if that
// is zero.
func startNode(t testing.TB, n *namespace, s *server, life time.Duration) *node {
	t.Helper()
	if out, err := n.restricted("net_admin", "initialize").CombinedOutput(); err != nil {
		t.Fatalf("initialize: %v\n%s", err, out)
	}
	relay := startRelay(t, n.listen(controlPlane), s.env["AWS_ENDPOINT_URL"], life)

	bound := &node{n, s, relay}
	cmd := n.restricted("net_bind_service", append([]string{"server"}, bound.agentIdentity()...)...)
	cmd.Env = append(cmd.Env, "AWS_REGION="+s.env["AWS_REGION"], "AWS_ENDPOINT_URL=http://"+controlPlane)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	client := n.client()
	for tick := time.Tick(20 * time.Millisecond); ; {
		reply, err := client.Get("http://127.0.0.1:2703/readyz")
		if err == nil {
			reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
				if err != nil || !noCoreDumps.Match(limits) {
					t.Errorf("the agent may leave core dumps: %v\n%s", err, limits)
				}
				return bound
			}
		}
		select {
		case <-tick:
		case err := <-ended:
			ended <- err
			t.Fatalf("the agent ended: %v", err)
		case <-t.Context().Done():
			t.Fatalf("the agent is not ready: %v", err)
		}
	}
}

// agentIdentity are the flags by which the agent has its identity.
func (n *node) agentIdentity() []string {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "token")
	token := strings.TrimSpace(n.server.must("token", "dev", "-n", "kube-system", "-s", "lanyard-agent", "--audience", "sts.amazonaws.com"))
	if err := os.WriteFile(file, []byte(token), 0o400); err != nil {
		n.t.Fatal(err)
	}
	return []string{"--cluster-name=dev", "--role-arn=" + agentRole, "--web-identity-token-file=" + file, "--jwks-url="}
}

// restricted is the agent as a container of the manifests has it: root, with few capabilities or none, and no way to others.
func (n *namespace) restricted(capabilities string, args ...string) *exec.Cmd {
	bounds := "--bounding-set=-all"
	if capabilities != "" {
		bounds += ",+" + capabilities
	}
	return n.command("setpriv", append([]string{"--no-new-privs", bounds, "--inh-caps=-all", binary("lanyard-agent")}, args...)...)
}

// token returns a token of the service account that `lanyard dev` has an association for.
func (n *node) token(pod string) string {
	n.t.Helper()
	return strings.TrimSpace(n.server.must("token", "dev", "-n", "default", "-s", "s3-sa", "--pod", pod, "--audience", "pods.eks.amazonaws.com"))
}

// relay stands before Lanyard in a node's namespace. It shortens the lives of the credentials that EKS Auth hands out, and
// sees to it that they end.
type relay struct {
	t    testing.TB
	life time.Duration

	mu     sync.Mutex
	minted map[string]int       // by token
	ends   map[string]time.Time // by access key ID
}

const assumeRole = "/clusters/dev/assume-role-for-pod-identity"

func startRelay(t testing.TB, l net.Listener, upstream string, life time.Duration) *relay {
	t.Helper()
	to, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, life: life, minted: map[string]int{}, ends: map[string]time.Time{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host // it is signed
		},
		Transport:      &http.Transport{DisableCompression: true},
		ModifyResponse: r.shorten,
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.check(request)
		proxy.ServeHTTP(w, request)
	})}
	ended := make(chan error)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return r
}

var credentialOf = regexp.MustCompile(`Credential=(\w+)/`)

// check counts requests for credentials, and fails the test when one is signed with credentials that have ended.
func (r *relay) check(request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := credentialOf.FindStringSubmatch(request.Header.Get("Authorization")); id != nil {
		if end, ok := r.ends[id[1]]; ok && time.Now().After(end) {
			r.t.Errorf("%s %s is signed with credentials that ended at %v", request.Method, request.URL, end)
		}
	}
	if request.URL.Path != assumeRole {
		return
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		r.t.Error(err)
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	var in struct{ Token string }
	if err := json.Unmarshal(body, &in); err != nil {
		r.t.Errorf("the agent sent %q: %v", body, err)
	}
	r.minted[in.Token]++
}

// shorten makes credentials end sooner.
func (r *relay) shorten(reply *http.Response) error {
	if r.life == 0 || reply.Request.URL.Path != assumeRole || reply.StatusCode != http.StatusOK {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.NewDecoder(reply.Body).Decode(&all); err != nil {
		return fmt.Errorf("decode credentials: %w", err)
	}
	var own map[string]any
	if err := json.Unmarshal(all["credentials"], &own); err != nil {
		return fmt.Errorf("decode credentials: %w", err)
	}
	end := time.Now().Add(r.life).Truncate(time.Second)
	own["expiration"] = end.Unix()
	id, _ := own["accessKeyId"].(string)
	r.mu.Lock()
	r.ends[id] = end
	r.mu.Unlock()
	var err error
	if all["credentials"], err = json.Marshal(own); err != nil {
		return err
	}
	body, err := json.Marshal(all)
	if err != nil {
		return err
	}
	reply.Body = io.NopCloser(bytes.NewReader(body))
	reply.ContentLength = int64(len(body))
	reply.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// mints returns how often credentials were asked for with a token.
func (r *relay) mints(token string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.minted[token]
}

// podEnvironment is what a pod on the node has, with the token in a file.
func (n *node) podEnvironment(uri, token string) []string {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		n.t.Fatal(err)
	}
	env := []string{
		"AWS_REGION=" + n.server.env["AWS_REGION"],
		"AWS_DEFAULT_REGION=" + n.server.env["AWS_REGION"],
		"AWS_ENDPOINT_URL=http://" + controlPlane,
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + uri,
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + file,
	}
	if uri == credentialsIPv6 {
		env = append(env, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6") // without which the SDK for Java refuses the address
	}
	return env
}

// The agent on a node that has both kinds of addresses, or only those that it must have.
func TestAgentOnANode(t *testing.T) {
	t.Parallel()
	s := startDevForAgents(t)
	for _, c := range []struct {
		name  string
		given func(*namespace)
		uris  map[string]bool // whether it is served there
	}{
		{"with IPv4 and IPv6", func(*namespace) {}, map[string]bool{credentialsIPv4: true, credentialsIPv6: true}},
		{
			"with IPv4 alone", func(n *namespace) { n.must("sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1") },
			map[string]bool{credentialsIPv4: true, credentialsIPv6: false},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bare := newNamespace(t)
			c.given(bare)
			n := startNode(t, bare, s, 0)
			token := n.token("app-0")
			for uri, served := range c.uris {
				provider := endpointcreds.New(uri, func(o *endpointcreds.Options) {
					o.AuthorizationToken = token
					o.HTTPClient = n.client()
					o.Retryer = aws.NopRetryer{}
				})
				got, err := provider.Retrieve(t.Context())
				if (err == nil) != served {
					t.Errorf("%s: got error %v, want it served: %v", uri, err, served)
				}
				if !served {
					continue
				}
				who, err := sts.NewFromConfig(s.as(got)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
				if err != nil {
					t.Fatalf("%s: %v", uri, err)
				}
				if want := "arn:aws:sts::" + account + ":assumed-role/dev-s3-sa/eks-dev-app-0-"; !strings.HasPrefix(aws.ToString(who.Arn), want) {
					t.Errorf("%s: the credentials are of %s, want %s…", uri, aws.ToString(who.Arn), want)
				}
			}
			if got := n.relay.mints(token); got != 1 {
				t.Errorf("Lanyard was asked %d times for one pod", got)
			}
		})
	}
}
