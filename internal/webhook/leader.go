package webhook

import (
	"context"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of an election, as Kubernetes' own components have them.
const (
	leaseDuration = 15 * time.Second // after which another replica leads in place of one that has fallen silent
	renewDeadline = 10 * time.Second // after which that one knows that it does not lead any more
	electEvery    = 2 * time.Second
)

// LeaderConfig is what Lead needs.
type LeaderConfig struct {
	Leases          coordinationclient.LeasesGetter // required; may create leases, and get and update that of the name
	Namespace, Name string                          // of the lease; required
	Identity        string                          // of this replica, unlike all others; required
	Metrics         *Metrics                        // required
	Log             *slog.Logger
}

// Lead runs jobs in one replica at a time, until ctx ends. Their context ends when another replica may lead; the lease is given up
// only when they have returned.
func Lead(ctx context.Context, c LeaderConfig, jobs ...func(context.Context)) error {
	for ctx.Err() == nil {
		if err := leadOnce(ctx, c, jobs); err != nil {
			return err
		}
	}
	return nil
}

// leadOnce takes part in the election until this replica has led, or ctx ends.
func leadOnce(ctx context.Context, c LeaderConfig, jobs []func(context.Context)) error {
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	elected := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name},
			Client:     c.Leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.Identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: electEvery,
		ReleaseOnCancel: true,
		Name:            c.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { elected <- leading },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(electing)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	case leading := <-elected:
		c.Metrics.leading.Set(1)
		c.Log.Info("this replica leads")
		working, cancel := context.WithCancel(leading)
		defer context.AfterFunc(ctx, cancel)()
		var group sync.WaitGroup
		for _, job := range jobs {
			group.Go(func() { job(working) })
		}
		group.Wait()
		cancel()
		c.Metrics.leading.Set(0)
		c.Log.Info("this replica leads no more")
	}
	stop()
	<-ended
	return nil
}
