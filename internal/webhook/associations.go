package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/subject"
)

// AssociationsConfig is what Associations needs.
type AssociationsConfig struct {
	// List returns all associations of the cluster. Required.
	List func(context.Context) ([]subject.Subject, error)
	// Find asks whether there is an association for this service account, by its own names, or by a pattern where there are such. Required.
	Find func(context.Context, subject.Subject) (bool, error)
	// Every is the time from one List to the next: how long an association takes to be forgotten that is deleted. Required.
	Every time.Duration
	// Patience is how long Synced waits for a first List while nobody answers.
	Patience time.Duration
	// Answered reports whether an error of List is an answer nevertheless, such as that the cluster is not registered. Required.
	Answered func(error) bool
	// Timeout bounds a List and a Find. Required.
	ListTimeout, FindTimeout time.Duration
	Metrics                  *Metrics // required
	Log                      *slog.Logger
}

// Associations knows which service accounts have an association. It keeps them in memory, and finds those that are not there
// by asking.
type Associations struct {
	c    AssociationsConfig
	find *flights[subject.Subject, bool]

	patient time.Time // until when Synced waits

	mu       sync.RWMutex
	answered bool // by a List
	names    map[subject.Subject]struct{}
	patterns []subject.Subject
}

// NewAssociations returns Associations with nothing in memory; Run fills it.
func NewAssociations(c AssociationsConfig) *Associations {
	a := &Associations{c: c, patient: time.Now().Add(c.Patience), names: map[subject.Subject]struct{}{}}
	a.find = newFlights(c.FindTimeout, func(ctx context.Context, who subject.Subject) (bool, error) {
		start := time.Now()
		found, err := c.Find(ctx, who)
		c.Metrics.lookedUp(sourceAssociations, found, err, time.Since(start))
		return found, err
	})
	return a
}

// Memory reports whether an association for the service account is in memory.
func (a *Associations) Memory(namespace, serviceAccount string) bool {
	who := subject.Subject{Namespace: namespace, ServiceAccount: serviceAccount}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, ok := a.names[who]; ok {
		return true
	}
	for _, p := range a.patterns {
		if p.Covers(who) {
			return true
		}
	}
	return false
}

// Live asks whether the service account has an association, and remembers that it has until the next list.
func (a *Associations) Live(ctx context.Context, namespace, serviceAccount string) (bool, error) {
	who := subject.Subject{Namespace: namespace, ServiceAccount: serviceAccount}
	found, err := a.find.do(ctx, who)
	if found {
		a.mu.Lock()
		a.names[who] = struct{}{}
		a.mu.Unlock()
	}
	return found, err
}

// Synced reports whether the associations have been listed once, as far as anybody lets them be. Until then others may know more, such as the
// replica that this one replaces, and are better asked. It is true in the end though nobody answers: the control plane may be of pods that
// wait for a webhook.
func (a *Associations) Synced() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.answered || !time.Now().Before(a.patient)
}

// firstEvery is the time from one List to the next until Synced.
const firstEvery = time.Second

// Run lists the associations at once and then again and again, until ctx ends. What is in memory stays when that fails.
func (a *Associations) Run(ctx context.Context) {
	for {
		if err := a.refresh(ctx); err != nil && ctx.Err() == nil {
			a.c.Log.Warn("associations not listed", "err", err)
		}
		every := a.c.Every
		if !a.Synced() {
			every = min(every, firstEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every - rand.N(every/8+1)): // replicas that came together do not stay together
		}
	}
}

func (a *Associations) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.c.ListTimeout)
	defer cancel()
	list, err := a.c.List(ctx)
	a.c.Metrics.listed(err)
	if err != nil {
		if a.c.Answered(err) {
			a.mu.Lock()
			a.answered = true
			a.mu.Unlock()
		}
		return fmt.Errorf("list associations: %w", err)
	}
	names, patterns := make(map[subject.Subject]struct{}, len(list)), []subject.Subject(nil)
	for _, s := range list {
		if s.IsPattern() {
			patterns = append(patterns, s)
		} else {
			names[s] = struct{}{}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answered, a.names, a.patterns = true, names, patterns
	a.c.Metrics.associations.Set(float64(len(list)))
	return nil
}
