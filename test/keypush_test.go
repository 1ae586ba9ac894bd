//go:build e2e

package test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	corev1 "k8s.io/api/core/v1"
)

// rotation is a cluster whose webhook pushes the API server's keys.
type rotation struct {
	t *testing.T
	k *apiServer
	s *server
}

// token returns a token of the API server's present key.
func (r rotation) token() string { return r.k.token("web", "app", "sts.amazonaws.com") }

// honoured asks STS for a token's credentials.
func (r rotation) honoured(ctx context.Context, token string) error {
	_, err := sts.NewFromConfig(r.s.aws()).AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String("arn:aws:iam::" + account + ":role/app"), RoleSessionName: aws.String("test"), WebIdentityToken: &token,
	})
	return err
}

// check fails the test when a token is honoured, and should not be, or the other way round.
func (r rotation) check(when, token string, want bool) {
	r.t.Helper()
	err := r.honoured(r.t.Context(), token)
	if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "Couldn't retrieve verification key") {
		r.t.Errorf("%s: got %v, want it honoured: %t", when, err, want)
	}
}

// watch presents tokens again and again until it is stopped, and fails the test when one is refused.
func (r rotation) watch(tokens ...string) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan struct{})
	n := 0
	go func() {
		defer close(ended)
		for tick := time.Tick(20 * time.Millisecond); ; n++ {
			if err := r.honoured(ctx, tokens[n%len(tokens)]); err != nil && ctx.Err() == nil {
				r.t.Errorf("a token that is alive: %v", err)
				return
			}
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
		if n == 0 {
			r.t.Error("no token was presented: nothing is shown")
		}
	}
}

// start runs another webhook, with credentials of the API server's present key. It looks at the keys only when it notices that the API server
// was restarted, or when the last look has failed.
func (r rotation) start() (stop func(), admin string) {
	r.t.Helper()
	kubeconfig := r.k.kubeconfigOf("lanyard", "lanyard-webhook")
	cmd, _, admin := startWebhook(r.t, r.k.leadingWebhook(r.s), kubeconfig, "--push-keys", "--key-push-period", "1h")
	return func() { cmd.Process.Signal(syscall.SIGTERM) }, admin
}

// waitForKeys waits until a webhook has pushed so many keys.
func (r rotation) waitForKeys(admin string, published, retained float64) {
	r.t.Helper()
	r.k.waitFor(fmt.Sprintf("%v keys and %v retained", published, retained), func() bool {
		c := counts(r.t, admin)
		return c["lanyard_webhook_leading"] == 1 &&
			c[`lanyard_webhook_keys{state="published"}`] == published && c[`lanyard_webhook_keys{state="retained"}`] == retained
	})
}

// While an API server's key is rotated, no token is refused that is alive, of the old key or of the next, and no hand is needed. Keys that are
// published no more are honoured on, unless somebody takes them away.
func TestKeysArePushed(t *testing.T) {
	k := startKubernetes(t)
	dir := dataDir(t)
	s := startDev(t, dir)
	r := rotation{t, k, s}
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	k.must(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", `{"metadata": {"name": "app"}}`)
	k.joinForWebhook(s)
	s.must("irsa", "create", "--cluster", "one", "-n", "web", "-s", "app", "--role-name", "app",
		"--policy-arn", "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
	firstKey, nextKey, lastKey := filepath.Join(k.dir, "sa.key"), k.newKey("next.key"), k.newKey("last.key")

	stop, admin := r.start()
	r.waitForKeys(admin, 1, 0)
	first := r.token()
	unwatch := r.watch(first)

	k.stop()
	k.start(firstKey, nextKey) // publishes the next key, and signs with the first
	r.waitForKeys(admin, 2, 0)
	k.stop()
	k.start(nextKey, firstKey) // signs with the next
	second := r.token()
	r.check("a token of the next key at once", second, true)
	unwatch()

	unwatch = r.watch(first, second)
	stop() // the next replica knows what this one has pushed
	stop, admin = r.start()
	r.waitForKeys(admin, 2, 0)
	k.stop()
	k.start(nextKey)
	r.waitForKeys(admin, 1, 1)
	unwatch()
	r.check("a token of a key that is not published", first, true)

	// Nor does it come back when it has been taken away by hand.
	s.must("cluster", "update-keys", "one", "--kubeconfig", k.kubeconfig)
	r.check("a token of a key that was taken away", first, false)
	unwatch = r.watch(second)
	k.stop()
	k.start(nextKey, lastKey)
	r.waitForKeys(admin, 2, 0)
	r.check("a token of a key that was taken away, after the next change", first, false)
	unwatch()

	// An API server that has another issuer.
	i := slices.Index(k.args, "--service-account-issuer="+kubernetesIssuer)
	k.args = slices.Insert(k.args, i, "--service-account-issuer="+kubernetesIssuer+"/other")
	k.stop()
	k.start(nextKey)
	k.waitFor("the mismatch", func() bool { return counts(t, admin)["lanyard_webhook_issuer_mismatch"] == 1 })
	k.waitFor("an event", func() bool {
		var events corev1.EventList
		read(t, k.must(http.MethodGet, "/api/v1/namespaces/lanyard/events", ""), &events)
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Kind == "Namespace" && e.Reason == "IssuerMismatch" && strings.Contains(e.Message, kubernetesIssuer+"/other")
		})
	})
	if got := counts(t, admin)[`lanyard_webhook_keys{state="published"}`]; got != 2 {
		t.Errorf("the other issuer's keys were pushed: there are %v", got)
	}
	k.args = slices.Delete(k.args, i, i+1)
	k.stop()
	k.start(nextKey)
	r.waitForKeys(admin, 1, 1)
	if got := counts(t, admin)["lanyard_webhook_issuer_mismatch"]; got != 0 {
		t.Errorf("the mismatch is %v", got)
	}

	// The control plane is away meanwhile.
	third := r.token()
	s.kill()
	k.stop()
	k.start(lastKey, nextKey)
	const failed = `lanyard_webhook_key_looks_total{result="error"}`
	before := counts(t, admin)[failed]
	k.waitFor("a look that fails", func() bool { return counts(t, admin)[failed] > before })
	r.s = startDev(t, dir, "--listen", strings.TrimPrefix(s.env["AWS_ENDPOINT_URL"], "http://"))
	r.waitForKeys(admin, 2, 0)
	r.check("a token of the next key, after all", third, true)
	r.check("a token of the last key", r.token(), true)
	stop()
}
