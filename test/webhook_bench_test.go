//go:build e2e

package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
)

// BenchmarkAdmission creates pods, 50 at a time, through a real API server and a webhook that knows 10,000 service accounts and 5,000
// associations. p99-ms is the webhook's own time for a review by its metrics, added-p99-ms what the API server says that the webhook
// adds to a request; both are interpolated within the metrics' buckets. MiB is the webhook's resident set.
func BenchmarkAdmission(b *testing.B) {
	const accounts, associations, workers = 10_000, 5_000, 50
	k := startKubernetes(b)
	s := startDev(b, dataDir(b))
	jwks := filepath.Join(b.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, k.must(http.MethodGet, "/openid/v1/jwks", ""), 0o600); err != nil {
		b.Fatal(err)
	}
	s.must("cluster", "register", "one", "--issuer", kubernetesIssuer, "--jwks", jwks)
	role := "arn:aws:iam::" + account + ":role/dev-s3-sa"
	k.must(http.MethodPost, "/api/v1/namespaces", `{"metadata": {"name": "web"}}`)
	client := eks.NewFromConfig(s.aws())
	inParallel(b, workers, accounts, func(i int) error {
		name := fmt.Sprintf("worker-%d", i)
		if i < associations {
			_, err := client.CreatePodIdentityAssociation(b.Context(), &eks.CreatePodIdentityAssociationInput{
				ClusterName: aws.String("one"), Namespace: aws.String("web"), ServiceAccount: &name, RoleArn: &role,
			})
			if err != nil {
				return err
			}
		}
		_, err := k.do(http.MethodPost, "/api/v1/namespaces/web/serviceaccounts", `{"metadata": {"name": "`+name+`"}}`)
		return err
	})
	webhook, reviews, admin := startWebhook(b, s, k.webhookKubeconfig())
	k.register("Fail", reviews)
	waitReady(b, admin)
	k.waitUntilTrusted()
	k.waitFor("all in memory", func() bool { return counts(b, admin)["lanyard_webhook_associations"] == associations })

	const own, added = "lanyard_webhook_request_duration_seconds", "apiserver_admission_webhook_admission_duration_seconds"
	create := func(round string, n int) {
		inParallel(b, workers, n, func(i int) error {
			pod, _, err := k.createPod(fmt.Sprintf("%s-%d", round, i), fmt.Sprintf("worker-%d", i%associations))
			if err == nil && pod.Spec.Containers[0].Env == nil {
				err = fmt.Errorf("pod %d of round %s was not mutated", i, round)
			}
			return err
		})
	}
	create("warm", 500)
	before, beforeAdded := counts(b, admin), parseCounts(b, k.must(http.MethodGet, "/metrics", ""))
	b.ResetTimer()
	round := 0
	for b.Loop() {
		create("round-"+strconv.Itoa(round), 1000)
		round++
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(1000*round), "ms/pod")
	b.ReportMetric(1000*quantile(own, "", before, counts(b, admin), 0.99), "p99-ms")
	b.ReportMetric(2, "p99-ms-limit")
	b.ReportMetric(1000*quantile(added, "pod-identity", beforeAdded, parseCounts(b, k.must(http.MethodGet, "/metrics", "")), 0.99), "added-p99-ms")
	b.ReportMetric(25, "added-p99-ms-limit")
	b.ReportMetric(residentSet(b, webhook.Process.Pid), "MiB")
	b.ReportMetric(60, "MiB-limit")
}

// inParallel calls do for 0 to n-1, by so many workers at a time.
func inParallel(t testing.TB, workers, n int, do func(i int) error) {
	t.Helper()
	next := make(chan int)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// quantile returns a quantile of what a histogram has counted from one reading to another, interpolated as Prometheus does. Series
// whose labels do not have the text are left out; the others are added up.
func quantile(name, label string, before, after map[string]float64, q float64) float64 {
	byBound := map[float64]float64{}
	for series, n := range after {
		labels, ok := strings.CutPrefix(series, name+"_bucket{")
		if !ok || !strings.Contains(labels, label) {
			continue
		}
		_, le, _ := strings.Cut(labels, `le="`)
		le, _, _ = strings.Cut(le, `"`)
		bound, err := strconv.ParseFloat(le, 64) // +Inf too
		if err != nil {
			continue
		}
		byBound[bound] += n - before[series]
	}
	var bounds []float64
	for bound := range byBound {
		bounds = append(bounds, bound)
	}
	sort.Float64s(bounds)
	if len(bounds) == 0 {
		return 0
	}
	rank := q * byBound[bounds[len(bounds)-1]]
	low, below := 0.0, 0.0
	for _, bound := range bounds {
		if byBound[bound] >= rank {
			if bound > 1e9 || byBound[bound] == below {
				return low
			}
			return low + (bound-low)*(rank-below)/(byBound[bound]-below)
		}
		low, below = bound, byBound[bound]
	}
	return low
}
