package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	coordinationfake "k8s.io/client-go/kubernetes/typed/coordination/v1/fake"
	clienttesting "k8s.io/client-go/testing"
)

// memoryCluster is a cluster's objects in memory, with versions: as in a cluster, what has changed since it was read is not updated.
func memoryCluster() *clienttesting.Fake {
	fake := &clienttesting.Fake{}
	tracker := clienttesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())
	version := 0
	fake.AddReactor("create", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, err := meta.Accessor(action.(clienttesting.CreateAction).GetObject())
		if err == nil {
			version++
			o.SetResourceVersion(strconv.Itoa(version))
		}
		return err != nil, nil, err
	})
	fake.AddReactor("update", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, err := meta.Accessor(action.(clienttesting.UpdateAction).GetObject())
		if err != nil {
			return true, nil, err
		}
		stored, err := tracker.Get(action.GetResource(), o.GetNamespace(), o.GetName())
		if err != nil {
			return true, nil, err
		}
		have, err := meta.Accessor(stored)
		if err != nil {
			return true, nil, err
		}
		if have.GetResourceVersion() != o.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), o.GetName(), nil)
		}
		version++
		o.SetResourceVersion(strconv.Itoa(version))
		return false, nil, nil
	})
	fake.AddReactor("*", "*", clienttesting.ObjectReaction(tracker))
	return fake
}

// One replica leads at a time. Another takes over when its work has ended, not when it begins to.
func TestOneReplicaLeadsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leases := &coordinationfake.FakeCoordinationV1{Fake: memoryCluster()}
		const windUp = 5 * time.Second
		var leading atomic.Int32 // number of the replica, from 1; 0 for none
		start := func(number int32) (stop func()) {
			metrics, err := NewMetrics(prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if err := Lead(ctx, LeaderConfig{
					Leases: leases, Namespace: "lanyard", Name: "lease", Identity: fmt.Sprint("replica-", number),
					Metrics: metrics, Log: slog.New(slog.DiscardHandler),
				}, func(ctx context.Context) {
					if !leading.CompareAndSwap(0, number) {
						t.Errorf("replica %d leads together with %d", number, leading.Load())
					}
					<-ctx.Done()
					time.Sleep(windUp)
					leading.Store(0)
				}); err != nil {
					t.Error(err)
				}
			}()
			return func() {
				cancel()
				<-ended
			}
		}
		stopFirst := start(1)
		time.Sleep(time.Second)
		stopSecond := start(2)
		time.Sleep(time.Hour)
		if got := leading.Load(); got != 1 {
			t.Errorf("replica %d leads, want the first", got)
		}
		stopping := time.Now()
		stopFirst()
		if took := time.Since(stopping); took < windUp {
			t.Errorf("it stopped after %s, before its work had ended", took)
		}
		time.Sleep(3 * electEvery) // a try comes after up to 2.2 times that, at random
		if got := leading.Load(); got != 2 {
			t.Errorf("replica %d leads, want the second", got)
		}
		stopSecond()
		time.Sleep(time.Hour)
		if got := leading.Load(); got != 0 {
			t.Errorf("replica %d leads after all have stopped", got)
		}
	})
}
