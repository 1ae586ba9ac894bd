package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a DB needs.
type Config struct {
	Store  Store        // required; closed by the caller after the DB
	Prefix string       // every key of the DB begins with it, and it ends with a slash; "/lanyard/" when empty
	Log    *slog.Logger // required
	// MaxStaleness is how long the DB may go without hearing from the store before Fresh fails; 10 s when zero. Half of
	// it is how long Sync and Update wait for what the store acknowledged to arrive.
	MaxStaleness time.Duration
}

// DB is a set of tables that follow one watch. Make it, make its tables, then Start it.
type DB struct {
	store        Store
	prefix       string
	log          *slog.Logger
	maxStaleness time.Duration

	// state is what reads see; nil before Start. Only the goroutine that follows the watch replaces it, and Start before it.
	state atomic.Pointer[state]
	// broken is why the DB cannot follow the store, while it cannot: a row that does not decode.
	broken atomic.Pointer[error]
	// confirmed is the latest moment of which the tables are known to hold everything that was acknowledged before it.
	confirmed atomic.Pointer[time.Time]
	// done ends the DB. Set by Start, before state.
	done <-chan struct{}

	mu      sync.Mutex
	tables  []part
	started bool
	changed chan struct{}           // closed, and replaced, when state or broken changes
	cut     context.CancelCauseFunc // ends the current watch
	next    *revisionCall           // the call that Sync's callers may still join
	calling bool                    // whether a goroutine makes the calls
}

// state is the content of all tables at one revision. It never changes.
type state struct {
	revision int64
	parts    []any // *rows[T] for each of DB.tables
}

// revisionCall is one Store.Revision on behalf of all callers of Sync that came before it began.
type revisionCall struct {
	done     chan struct{}
	began    time.Time
	revision int64
	err      error
}

var (
	errNotStarted = fmt.Errorf("%w: the DB has not started", ErrUnavailable)
	errEnded      = fmt.Errorf("%w: the DB has stopped", ErrUnavailable)
	// errStalled ends a watch that does not deliver what the store has; another one may.
	errStalled = fmt.Errorf("%w: the watch does not deliver what the store has", ErrUnavailable)
	// errRewound ends a watch when the store's revision has gone back: it was restored from a backup.
	errRewound = errors.New("kv: the store went back to an earlier revision")
)

// NewDB makes a DB without contacting the store.
func NewDB(c Config) *DB {
	db := &DB{
		store:        c.Store,
		prefix:       c.Prefix,
		log:          c.Log,
		maxStaleness: c.MaxStaleness,
		changed:      make(chan struct{}),
	}
	if db.prefix == "" {
		db.prefix = "/lanyard/"
	}
	if !strings.HasSuffix(db.prefix, "/") {
		db.prefix += "/"
	}
	if db.maxStaleness == 0 {
		db.maxStaleness = 10 * time.Second
	}
	return db
}

func (db *DB) addTable(t part) int {
	db.mustNotHaveStarted()
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, other := range db.tables {
		if other.storePrefix() == t.storePrefix() {
			panic("kv: two tables at " + t.storePrefix())
		}
	}
	db.tables = append(db.tables, t)
	return len(db.tables) - 1
}

func (db *DB) mustNotHaveStarted() {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.started {
		panic("kv: tables and indexes must be made before the DB starts")
	}
}

// Start lists all tables and returns once they are filled; the watch then runs until ctx ends. A row that does not
// decode fails it with an error that names the key. After an error Start may be called again.
func (db *DB) Start(ctx context.Context) error {
	db.mu.Lock()
	if db.started {
		db.mu.Unlock()
		return errors.New("kv: the DB has already started")
	}
	db.started = true
	db.done = ctx.Done()
	db.mu.Unlock()

	if err := db.load(ctx); err != nil {
		db.mu.Lock()
		db.started = false
		db.mu.Unlock()
		return fmt.Errorf("load tables: %w", err)
	}
	go db.follow(ctx)
	go db.heartbeat(ctx)
	return nil
}

// running fails when the DB cannot serve: before Start, after its context, and while it cannot follow the store.
func (db *DB) running() error {
	if db.state.Load() == nil {
		return errNotStarted
	}
	select {
	case <-db.done:
		return errEnded
	default:
	}
	if err := db.broken.Load(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, *err)
	}
	return nil
}

// Sync returns once every table shows all that was acknowledged, by any replica, before Sync was called.
// Concurrent calls share their work. It fails with ErrUnavailable when the store cannot be reached.
func (db *DB) Sync(ctx context.Context) error {
	if err := db.running(); err != nil {
		return err
	}
	call := db.joinRevisionCall()
	select {
	case <-call.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: ask for the store's revision: %w", ErrUnavailable, ctx.Err())
	}
	if call.err != nil {
		return fmt.Errorf("ask for the store's revision: %w", call.err)
	}
	if err := db.await(ctx, call.revision); err != nil {
		return fmt.Errorf("catch up with revision %d: %w", call.revision, err)
	}
	db.confirm(call.began)
	return nil
}

// Fresh fails with ErrUnavailable when the store has not been heard of for longer than MaxStaleness: then memory may
// be behind by more than is safe to mint credentials from.
func (db *DB) Fresh() error {
	if err := db.running(); err != nil {
		return err
	}
	confirmed := db.confirmed.Load()
	if confirmed == nil {
		return errNotStarted
	}
	if age := time.Since(*confirmed); age > db.maxStaleness {
		return fmt.Errorf("%w: the tables were last known to be current %s ago", ErrUnavailable, age.Round(time.Millisecond))
	}
	return nil
}

// joinRevisionCall returns the next call of Store.Revision that has not begun. A call under way may have read its
// answer before a write that our caller must see, so it is no use.
func (db *DB) joinRevisionCall() *revisionCall {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.next == nil {
		db.next = &revisionCall{done: make(chan struct{})}
	}
	call := db.next
	if !db.calling {
		db.calling = true
		go db.makeRevisionCalls()
	}
	return call
}

// makeRevisionCalls makes one call after the other until nobody waits for another.
func (db *DB) makeRevisionCalls() {
	for {
		db.mu.Lock()
		call := db.next
		db.next = nil
		db.calling = call != nil
		db.mu.Unlock()
		if call == nil {
			return
		}
		applied := db.state.Load().revision
		call.began = time.Now()
		// Whoever joined may have gone; the call is bounded by its own timeout so that it serves those who stay.
		ctx, cancel := context.WithTimeout(context.Background(), db.maxStaleness/2)
		call.revision, call.err = db.store.Revision(ctx)
		cancel()
		if call.err == nil && call.revision < applied {
			call.err = fmt.Errorf("%w: %w", ErrUnavailable, errRewound)
			db.cutWatch(errRewound)
		}
		close(call.done)
	}
}

// cutWatch ends the current watch. If none is open just now, the next heartbeat finds the cause again.
func (db *DB) cutWatch(cause error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.cut != nil {
		db.cut(cause)
	}
}

// await returns once the tables stand at a revision or later.
func (db *DB) await(ctx context.Context, revision int64) error {
	if db.state.Load().revision >= revision {
		return nil
	}
	timeout := time.NewTimer(db.maxStaleness / 2)
	defer timeout.Stop()
	for {
		db.mu.Lock()
		changed := db.changed
		db.mu.Unlock()
		if db.state.Load().revision >= revision {
			return nil
		}
		if err := db.running(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-db.done:
			return errEnded
		case <-timeout.C:
			db.cutWatch(errStalled)
			return errStalled
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// confirm notes that the tables hold everything that was acknowledged before a moment.
func (db *DB) confirm(moment time.Time) {
	for {
		old := db.confirmed.Load()
		if old != nil && !old.Before(moment) || db.confirmed.CompareAndSwap(old, &moment) {
			return
		}
	}
}

// heartbeat keeps a DB fresh that nobody syncs.
func (db *DB) heartbeat(ctx context.Context) {
	tick := time.NewTicker(db.maxStaleness / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := db.Sync(ctx); err != nil && ctx.Err() == nil {
			db.log.Warn("tables cannot be confirmed to be current", "err", err)
		}
	}
}

// follow keeps the tables at the store's revision until ctx ends.
func (db *DB) follow(ctx context.Context) {
	for attempt := 0; ; attempt++ {
		before := db.state.Load()
		err := db.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if db.state.Load() != before {
			attempt = 0
		}
		if errors.Is(err, ErrUnavailable) {
			db.log.Warn("watch interrupted; resuming", "revision", db.state.Load().revision, "err", err)
		} else {
			db.reload(ctx, err)
		}
		if sleep(ctx, db.pause(attempt)) != nil {
			return
		}
	}
}

func (db *DB) pause(attempt int) time.Duration {
	return backoff(attempt, 10*time.Millisecond, max(10*time.Millisecond, db.maxStaleness/4))
}

// watch applies what the store's watch delivers, after what the tables hold, until the watch ends; it returns why.
func (db *DB) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	db.mu.Lock()
	db.cut = cancel
	db.mu.Unlock()
	for b := range db.store.Watch(ctx, db.prefix, db.state.Load().revision) {
		if b.Err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return b.Err
		}
		if err := db.apply(b); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the watch's channel was closed", ErrUnavailable)
}

// reload lists the tables again, after a watch that cannot go on for the given cause, until that has worked or ctx ends.
func (db *DB) reload(ctx context.Context, cause error) {
	db.log.Warn("watch cannot go on; listing again", "revision", db.state.Load().revision, "err", cause)
	if !errors.Is(cause, ErrCompacted) {
		db.setBroken(&cause)
	}
	for attempt := 0; ; attempt++ {
		err := db.load(ctx)
		if err == nil {
			db.setBroken(nil)
			return
		}
		if ctx.Err() != nil {
			return
		}
		db.log.Error("tables cannot be listed", "err", err)
		if !errors.Is(err, ErrUnavailable) {
			db.setBroken(&err)
		}
		if sleep(ctx, db.pause(attempt)) != nil {
			return
		}
	}
}

func (db *DB) setBroken(err *error) {
	db.broken.Store(err)
	db.notify()
}

// load replaces the tables by what the store lists.
func (db *DB) load(ctx context.Context) error {
	began := time.Now()
	entries, revision, err := db.store.List(ctx, db.prefix)
	if err != nil {
		return fmt.Errorf("list %s: %w", db.prefix, err)
	}
	old := db.state.Load()
	if old != nil && revision < old.revision {
		// Another history: equal revisions do not mean equal values.
		db.log.Warn("the store went back to an earlier revision", "from", old.revision, "to", revision)
		old = nil
	}
	byTable := make([][]Entry, len(db.tables))
	for _, e := range entries {
		if i, ok := db.tableOf(e.Key); ok {
			byTable[i] = append(byTable[i], e)
		}
	}
	next := &state{revision: revision, parts: make([]any, len(db.tables))}
	for i, t := range db.tables {
		var before any
		if old != nil {
			before = old.parts[i]
		}
		if next.parts[i], err = t.load(before, byTable[i]); err != nil {
			return err
		}
	}
	db.publish(next)
	db.confirm(began)
	return nil
}

// apply moves the tables on by one batch.
func (db *DB) apply(b Batch) error {
	old := db.state.Load()
	if b.Revision <= old.revision {
		return nil
	}
	next := &state{revision: b.Revision, parts: old.parts}
	if len(b.Events) > 0 {
		byTable := make([][]Event, len(db.tables))
		for _, e := range b.Events {
			if i, ok := db.tableOf(e.Key); ok {
				byTable[i] = append(byTable[i], e)
			}
		}
		next.parts = slices.Clone(old.parts)
		for i, events := range byTable {
			if len(events) == 0 {
				continue
			}
			var err error
			if next.parts[i], err = db.tables[i].apply(old.parts[i], events); err != nil {
				return err
			}
		}
	}
	db.publish(next)
	return nil
}

// tableOf returns the table that a store key belongs to. Keys of tables that this DB does not have are somebody
// else's: another version's, or another component's.
func (db *DB) tableOf(key string) (int, bool) {
	for i, t := range db.tables {
		if strings.HasPrefix(key, t.storePrefix()) {
			return i, true
		}
	}
	return 0, false
}

func (db *DB) publish(s *state) {
	db.state.Store(s)
	db.notify()
}

func (db *DB) notify() {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.changed)
	db.changed = make(chan struct{})
}
