package associations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

const (
	// workers is how many resources are reconciled at a time.
	workers = 4
	// askTimeout bounds the requests to the EKS API for one resource, and writeTimeout those to the API server then.
	askTimeout   = 30 * time.Second
	writeTimeout = 10 * time.Second
)

// The pauses between tries for a resource after one has failed; each is twice the one before.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Config is what a Controller needs.
type Config struct {
	// Resources may get, list, watch and update PodIdentityAssociations, and update their status. Required.
	Resources dynamic.Interface
	EKS       *eks.Client // AWS's, or one that Lanyard answers; required
	Cluster   string      // its name in EKS; required
	// Every is the time after which an association that is as it should be is looked at again, since others may have changed it; it is
	// shortened by up to an eighth, at random. Required.
	Every   time.Duration
	Events  record.EventRecorder // required
	Metrics *Metrics             // required
	Log     *slog.Logger
}

// Metrics are a Controller's.
type Metrics struct {
	reconciles *prometheus.CounterVec
	duration   prometheus.Histogram
	resources  *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		reconciles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_webhook_reconciles_total",
			Help: "Reconciliations of PodIdentityAssociations, by the reason of their condition Ready.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "lanyard_webhook_reconcile_duration_seconds", Help: "Time that they take.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lanyard_webhook_resources",
			Help: "PodIdentityAssociations, by the status of their condition Ready: True, False or Unknown. Only the leading replica has them.",
		}, []string{"ready"}),
	}
	for _, c := range []prometheus.Collector{m.reconciles, m.duration, m.resources} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Controller reconciles PodIdentityAssociations with the associations of a cluster. There must be one at a time.
type Controller struct {
	c     Config
	store cache.Store
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu    sync.Mutex
	ready map[types.NamespacedName]metav1.ConditionStatus // as counted in the metrics
}

// New returns a Controller that has done nothing yet; Run does it.
func New(c Config) *Controller { return &Controller{c: c} }

// Run reconciles until ctx ends. While there is no definition of the resources, it waits for one.
func (c *Controller) Run(ctx context.Context) {
	informer := dynamicinformer.NewFilteredDynamicInformer(c.c.Resources, Resource(), metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	c.store, c.ready = informer.GetStore(), map[types.NamespacedName]metav1.ConditionStatus{}
	c.c.Metrics.resources.Reset()
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](firstPause, lastPause))
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.enqueue,
		UpdateFunc: func(old, changed any) {
			if concerns(old, changed) {
				c.enqueue(changed)
			}
		},
		DeleteFunc: c.enqueue,
	}); err != nil {
		c.c.Log.Error("associations not reconciled", "err", err)
		return
	}
	var group sync.WaitGroup
	group.Go(func() { informer.RunWithContext(ctx) })
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		for range workers {
			group.Go(func() {
				for c.next(ctx) {
				}
			})
		}
		<-ctx.Done()
	}
	c.queue.ShutDown()
	group.Wait()
	c.c.Metrics.resources.Reset() // another replica's to count
}

func (c *Controller) enqueue(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	if object, err := meta.Accessor(o); err == nil {
		c.queue.Add(types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()})
	}
}

// concerns reports whether a change of a resource is one to act on: not one of its status, which is written here.
func concerns(old, changed any) bool {
	a, errA := meta.Accessor(old)
	b, errB := meta.Accessor(changed)
	return errA != nil || errB != nil || a.GetGeneration() != b.GetGeneration() || a.GetUID() != b.GetUID() ||
		!slices.Equal(a.GetFinalizers(), b.GetFinalizers())
}

// next reconciles one resource. It returns false when there is to be no other.
func (c *Controller) next(ctx context.Context) bool {
	key, stop := c.queue.Get()
	if stop {
		return false
	}
	defer c.queue.Done(key)
	start := time.Now()
	o, err := c.resource(key)
	if o == nil && err == nil {
		c.queue.Forget(key)
		c.count(key, "")
		return true
	}
	if err == nil {
		err = c.reconcile(ctx, o)
	}
	c.c.Metrics.duration.Observe(time.Since(start).Seconds())
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil:
		c.queue.Forget(key)
		c.queue.AddAfter(key, c.c.Every-rand.N(c.c.Every/8+1))
	default:
		level := slog.LevelWarn
		if apierrors.IsConflict(err) { // the resource has changed meanwhile
			level = slog.LevelDebug
		}
		c.c.Log.Log(ctx, level, "association not reconciled", "namespace", key.Namespace, "name", key.Name, "err", err)
		c.queue.AddRateLimited(key)
	}
	return true
}

// resource returns a resource from memory, to be changed at will; nil for one that is not there.
func (c *Controller) resource(key types.NamespacedName) (*unstructured.Unstructured, error) {
	o, ok, err := c.store.GetByKey(key.String())
	if err != nil || !ok {
		return nil, err
	}
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("resource %s is a %T", key, o)
	}
	return u.DeepCopy(), nil
}

// reconcile brings the association of one resource to what the resource says, and writes down what came of it.
func (c *Controller) reconcile(ctx context.Context, o *unstructured.Unstructured) error {
	a, err := decode(o)
	if err != nil {
		return err
	}
	if a.DeletionTimestamp != nil {
		if !slices.Contains(a.Finalizers, Finalizer) {
			return nil
		}
		if err := c.release(ctx, a); err != nil {
			return errors.Join(err, c.report(ctx, o, a, nil, err))
		}
		o.SetFinalizers(slices.DeleteFunc(a.Finalizers, func(f string) bool { return f == Finalizer }))
		if _, err := c.update(ctx, o); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove the finalizer: %w", err)
		}
		return nil
	}
	if !slices.Contains(a.Finalizers, Finalizer) {
		o.SetFinalizers(append(a.Finalizers, Finalizer))
		if o, err = c.update(ctx, o); err != nil {
			return fmt.Errorf("add the finalizer: %w", err)
		}
	}
	seen, did, err := c.ensure(ctx, a)
	for _, d := range did {
		c.c.Events.Event(o, corev1.EventTypeNormal, d.reason, d.message)
	}
	return errors.Join(err, c.report(ctx, o, a, seen, err))
}

// update writes a resource but for its status.
func (c *Controller) update(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return c.c.Resources.Resource(Resource()).Namespace(o.GetNamespace()).Update(ctx, o, metav1.UpdateOptions{})
}

// report writes the status of a resource: the association as it was seen, if it was, and what failed.
func (c *Controller) report(
	ctx context.Context, o *unstructured.Unstructured, a *PodIdentityAssociation, seen *association, failure error,
) error {
	s := a.Status
	s.Conditions = slices.Clone(s.Conditions)
	s.ObservedGeneration = a.Generation
	if seen != nil {
		s.AssociationARN, s.AssociationID, s.RoleARN, s.ExternalID = seen.arn, seen.id, seen.role, seen.externalID
	}
	ready := metav1.Condition{
		Type: Ready, Status: metav1.ConditionTrue, ObservedGeneration: a.Generation,
		Reason: string(Created), Message: "The association is there, and as the resource says.",
	}
	if failure != nil {
		reason, message := explain(failure)
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, string(reason), message
		if reason == ControlPlaneUnreachable || reason == Throttled {
			ready.Status = metav1.ConditionUnknown
		}
	}
	c.c.Metrics.reconciles.WithLabelValues(ready.Reason).Inc()
	c.count(types.NamespacedName{Namespace: a.Namespace, Name: a.Name}, ready.Status)
	before := meta.FindStatusCondition(a.Status.Conditions, Ready)
	meta.SetStatusCondition(&s.Conditions, ready)
	if equality.Semantic.DeepEqual(s, a.Status) {
		return nil
	}
	if failure != nil && (before == nil || before.Reason != ready.Reason || before.Message != ready.Message) {
		c.c.Events.Event(o, corev1.EventTypeWarning, ready.Reason, ready.Message)
	}
	changed, err := withStatus(o, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err = c.c.Resources.Resource(Resource()).Namespace(a.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status: %w", err)
	}
	return nil
}

// count counts a resource by whether it is ready; empty is for one that has gone.
func (c *Controller) count(key types.NamespacedName, ready metav1.ConditionStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, ok := c.ready[key]
	if before == ready {
		return
	}
	if ok {
		c.c.Metrics.resources.WithLabelValues(string(before)).Dec()
		delete(c.ready, key)
	}
	if ready != "" {
		c.c.Metrics.resources.WithLabelValues(string(ready)).Inc()
		c.ready[key] = ready
	}
}
