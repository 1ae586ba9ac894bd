package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/lanyard-id/lanyard/internal/subject"
)

const (
	benchAccounts     = 10000
	benchAssociations = 5000
)

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkReview reviews pods of one half of 10,000 service accounts, which have associations, with all in memory. It tells what
// those take (MiB), and the 99th percentile of the time that a review takes (p99-µs).
func BenchmarkReview(b *testing.B) {
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	before := heap()
	accounts := &ClusterAccounts{store: cache.NewStore(cache.DeletionHandlingMetaNamespaceKeyFunc)}
	for i := range benchAccounts {
		a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("namespace-%d", i%100), Name: fmt.Sprintf("service-account-%d", i),
			UID: types.UID(fmt.Sprintf("12345678-1234-1234-1234-%012d", i)), ResourceVersion: fmt.Sprint(i),
			Annotations: map[string]string{
				"eks.amazonaws.com/role-arn":    fmt.Sprintf("arn:aws:iam::111122223333:role/role-%d", i),
				"meta.helm.sh/release-name":     fmt.Sprintf("release-%d", i),
				"kubectl.kubernetes.io/applied": strings.Repeat("x", 500),
			},
		}}
		if err := accounts.store.Add(trimAccount(a, "eks.amazonaws.com/")); err != nil {
			b.Fatal(err)
		}
	}
	associations := NewAssociations(AssociationsConfig{
		List: func(context.Context) (list []subject.Subject, err error) {
			for i := range benchAssociations {
				list = append(list, subject.Subject{Namespace: fmt.Sprintf("namespace-%d", i%100), ServiceAccount: fmt.Sprintf("service-account-%d", i)})
			}
			return list, nil
		},
		ListTimeout: time.Minute, Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	if err := associations.refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	taken := heap() - before
	h := New(Config{
		Accounts: Accounts{Memory: accounts.Accounts().Memory}, Associations: associations, Metrics: metrics, Log: slog.New(slog.DiscardHandler),
	})
	times := make([]time.Duration, 0, b.N)
	i := 0
	for b.Loop() {
		i++
		n := i % benchAssociations
		body := fmt.Sprintf(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "r-1", "namespace": "namespace-%d", "operation": "CREATE",
			"resource": {"group": "", "version": "v1", "resource": "pods"}, "object": {"metadata": {"generateName": "app-", "labels": {"app": "x"}},
			"spec": {"serviceAccountName": "service-account-%d", "volumes": [{"name": "data", "emptyDir": {}}], "containers": [
			{"name": "app", "image": "app", "env": [{"name": "A", "value": "b"}], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
			 "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}, {"name": "side", "image": "side"}]}}}}`, n%100, n)
		r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		start := time.Now()
		h.ServeHTTP(w, r)
		times = append(times, time.Since(start))
		if !strings.Contains(w.Body.String(), `"patch":"`) {
			b.Fatal(w.Body)
		}
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)*99/100])/float64(time.Microsecond), "p99-µs")
	b.ReportMetric(float64(taken)/(1<<20), "MiB")
	runtime.KeepAlive(accounts)
}
