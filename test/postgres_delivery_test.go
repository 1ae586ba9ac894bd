//go:build e2e && linux

package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/audit/postgres"
)

// Two servers write to one trail and deliver it, by turns, while one of them fails now and then as a process does that ends: each record
// is delivered, and but for what was tried before, once. A transaction that is slow to commit is not left behind.
func TestServersDeliverATrailByTurns(t *testing.T) {
	database := startPostgres(t)
	var stores [2]*postgres.Store
	for i := range stores {
		var err error
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		if stores[i], err = postgres.Open(t.Context(), postgres.Config{URL: database, Deliver: true, Retention: time.Hour, Log: log}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := stores[i].Close(); err != nil {
				t.Error(err)
			}
		})
	}
	db, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	// A number is taken before any other, and its record is there last.
	slow, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const insert = "INSERT INTO lanyard_audit (time, account, region, keys, record) VALUES (now(), '111122223333', 'us-east-1', '{}', $1)"
	if _, err := slow.Exec(t.Context(), insert, `{"eventName":"slow"}`); err != nil {
		t.Fatal(err)
	}

	errGone := errors.New("the process has ended")
	var mu sync.Mutex
	delivered := map[string]string{} // the records of a batch, by its ID
	order := []string{}
	attempts := 0
	deliver := func(_ context.Context, b *audit.Batch) error {
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for _, r := range b.Records {
			e, err := audit.Decode(string(r))
			if err != nil {
				t.Error(err)
			}
			names = append(names, e.Name)
		}
		all := strings.Join(names, " ")
		if before, ok := delivered[b.ID]; ok && before != all {
			t.Errorf("batch %s has another content than before:\n%s\n%s", b.ID, before, all)
		} else if !ok {
			delivered[b.ID] = all
			order = append(order, b.ID)
		}
		if attempts++; attempts%3 == 1 {
			return errGone
		}
		return nil
	}
	var writers, deliverers sync.WaitGroup
	const records = 2000
	want := []string{"slow"}
	some, written := make(chan struct{}), make(chan struct{})
	for i, s := range stores {
		for worker := range 8 {
			writers.Go(func() {
				for n := range records / 16 {
					e := &audit.Event{
						Version: "1.08", Name: fmt.Sprintf("%d-%d-%d", i, worker, n), Account: account, Region: "us-east-1", Time: time.Now(),
					}
					if err := s.Record(t.Context(), e); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if want = append(want, e.Name); len(want) == records/4 {
						close(some)
					}
					mu.Unlock()
				}
			})
		}
		deliverers.Go(func() {
			for {
				ok, err := s.Deliver(t.Context(), deliver)
				if err != nil && !errors.Is(err, errGone) {
					t.Error(err)
					return
				}
				if ok || err != nil {
					continue
				}
				select {
				case <-written:
					return // and there was nothing to deliver, or the other server was at it
				default:
				}
			}
		})
	}
	<-some
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	writers.Wait()
	close(written)
	deliverers.Wait()
	for {
		if ok, err := stores[0].Deliver(t.Context(), deliver); err == nil && !ok {
			break
		}
	}
	var got []string
	for _, id := range order {
		got = append(got, strings.Fields(delivered[id])...)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("of %d records, %d have been delivered (-want +got)\n%s", len(want), len(got), diff)
	}
	t.Logf("%d records were delivered in %d batches, at %d attempts", len(got), len(order), attempts)
	state, err := stores[1].Delivery(t.Context())
	if err != nil || state.Waiting != 0 || state.Failure != "" || state.Delivered.IsZero() || state.Lost != 0 {
		t.Errorf("when all is done: %+v, %v", state, err)
	}

	// What is dropped when it is too old, before it was delivered, is counted.
	for _, age := range []string{"2 hours", "2 hours", "1 minute"} {
		if _, err := db.Exec(t.Context(), strings.Replace(insert, "now()", "now() - interval '"+age+"'", 1), `{"eventName":"old"}`); err != nil {
			t.Fatal(err)
		}
	}
	third, err := postgres.Open(t.Context(), postgres.Config{URL: database, Deliver: true, Retention: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	eventually(t, "what is too old is dropped", func(ctx context.Context) error {
		state, err := third.Delivery(ctx)
		if err == nil && state.Lost != 2 {
			err = fmt.Errorf("%+v", state)
		}
		return err
	})
	ok, err := third.Deliver(t.Context(), func(_ context.Context, b *audit.Batch) error {
		if len(b.Records) != 1 {
			t.Errorf("%d records are left, want 1", len(b.Records))
		}
		return nil
	})
	if !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
}
