// Package etcd is the kv.Store over etcd's v3 API: external clusters by address, embedded ones by package embedded.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-semver/semver"
	"github.com/lanyard-id/lanyard/internal/kv"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"
)

const (
	// requestTimeout bounds one request; etcd itself gives up after 7 s (5 s and two elections).
	requestTimeout = 10 * time.Second
	// pageSize is how many entries one request of List asks for.
	pageSize = 5000
)

// Config says how to reach an external cluster.
type Config struct {
	Endpoints []string    // required: https://HOST:PORT of one or more members
	TLS       *tls.Config // the cluster's CA and our client certificate; nil for http endpoints
	Username  string      // for a cluster with authentication by password; may be empty
	Password  string
	Log       *slog.Logger // required
}

// oldest are, by minor version, the first etcd releases whose answers to a progress request never run ahead of the
// events that are still on their way (etcd's changelogs). All later minor versions are right from the start.
var oldest = map[string]semver.Version{
	"3.4": {Major: 3, Minor: 4, Patch: 25},
	"3.5": {Major: 3, Minor: 5, Patch: 8},
}

// Open connects to a cluster and returns once one of its members has answered. Members whose version is too old for
// Store.Revision to be relied on are refused.
func Open(ctx context.Context, c Config) (kv.Store, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		Username:             c.Username,
		Password:             c.Password,
		Context:              context.WithoutCancel(ctx),
		DialTimeout:          requestTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(), // what matters comes back as an error
	})
	if err != nil {
		return nil, fmt.Errorf("%w: etcd: %w", kv.ErrUnavailable, err)
	}
	var reached bool
	var failures []error
	for _, endpoint := range c.Endpoints {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout/2)
		status, err := client.Status(ctx, endpoint)
		cancel()
		if err != nil {
			failures = append(failures, fmt.Errorf("etcd at %s: %w", endpoint, err))
			continue
		}
		reached = true
		if err := checkVersion(status.Version); err != nil {
			return nil, errors.Join(fmt.Errorf("etcd at %s: %w", endpoint, err), client.Close())
		}
	}
	if !reached {
		return nil, errors.Join(fmt.Errorf("%w: %w", kv.ErrUnavailable, errors.Join(failures...)), client.Close())
	}
	for _, err := range failures {
		c.Log.Warn("etcd member cannot be reached", "err", err)
	}
	return New(client), nil
}

func checkVersion(text string) error {
	v, err := semver.NewVersion(text)
	if err != nil {
		return fmt.Errorf("its version %q is not understood: %w", text, err)
	}
	least, ok := oldest[fmt.Sprintf("%d.%d", v.Major, v.Minor)]
	if !ok {
		least = semver.Version{Major: 3, Minor: 6}
	}
	if v.LessThan(least) {
		return fmt.Errorf("version %s is too old: its watches may report progress too early; upgrade to %s or later", v, least)
	}
	return nil
}

// New returns a Store over a client, which the Store closes.
func New(c *clientv3.Client) kv.Store {
	return &store{client: c, watches: map[uint64]*watch{}}
}

type store struct {
	client *clientv3.Client

	mu      sync.Mutex
	lastID  uint64
	watches map[uint64]*watch
}

// Get implements kv.Store.
func (s *store) Get(ctx context.Context, key string) (kv.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, key)
	if err != nil {
		return kv.Entry{}, failure("get "+key, err)
	}
	if len(r.Kvs) == 0 {
		return kv.Entry{}, kv.ErrNotFound
	}
	return entry(r.Kvs[0]), nil
}

// List implements kv.Store. It reads in pages, all at the revision of the first.
func (s *store) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	var entries []kv.Entry
	var revision int64
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	if from == "" {
		from, end = "\x00", "\x00" // etcd's notation for all keys
	}
	for {
		r, err := s.page(ctx, from, end, revision)
		if err != nil {
			return nil, 0, failure("list "+prefix, err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		entries = slices.Grow(entries, len(r.Kvs))
		for _, e := range r.Kvs {
			entries = append(entries, entry(e))
		}
		if !r.More {
			return entries, revision, nil
		}
		from = entries[len(entries)-1].Key + "\x00"
	}
}

func (s *store) page(ctx context.Context, from, end string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
}

// Commit implements kv.Store by one etcd transaction.
func (s *store) Commit(ctx context.Context, ops ...kv.Op) (int64, error) {
	if err := kv.ValidateOps(ops); err != nil {
		return 0, err
	}
	var expected []clientv3.Cmp
	var changes []clientv3.Op
	for _, op := range ops {
		if op.Expect != kv.AnyRevision {
			// A missing key compares as revision 0.
			expected = append(expected, clientv3.Compare(clientv3.ModRevision(op.Key), "=", op.Expect))
		}
		switch op.Kind {
		case kv.OpPut:
			changes = append(changes, clientv3.OpPut(op.Key, string(op.Value)))
		case kv.OpDelete:
			changes = append(changes, clientv3.OpDelete(op.Key))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Txn(ctx).If(expected...).Then(changes...).Commit()
	if errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrTooManyOps) {
		return 0, fmt.Errorf("%w: etcd's limits are below its defaults: %w", kv.ErrTooLarge, err)
	}
	if err != nil {
		return 0, failure("commit", err)
	}
	if !r.Succeeded {
		return 0, kv.ErrConflict
	}
	return r.Header.Revision, nil
}

// Revision implements kv.Store. Watches that are behind then ask the server for progress until they have caught up.
func (s *store) Revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.readableKey(), clientv3.WithCountOnly())
	if err != nil {
		return 0, failure("read the revision", err)
	}
	revision := r.Header.Revision
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		w.owe(revision)
	}
	return revision, nil
}

// readableKey returns a key to read for the sake of the revision: one that a user with access to nothing but what is
// watched may read.
func (s *store) readableKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.watches)) {
		if prefix := s.watches[id].prefix; prefix != "" {
			return prefix
		}
	}
	return "/"
}

// Close implements kv.Store.
func (s *store) Close() error {
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the etcd client: %w", err)
	}
	return nil
}

// watch is an open watch.
type watch struct {
	prefix string
	owed   atomic.Int64  // the highest revision that the reader must hear of
	wake   chan struct{} // has room for one: owed has grown
}

func (w *watch) owe(revision int64) {
	for {
		old := w.owed.Load()
		if old >= revision {
			return
		}
		if w.owed.CompareAndSwap(old, revision) {
			break
		}
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements kv.Store.
func (s *store) Watch(ctx context.Context, prefix string, after int64) <-chan kv.Batch {
	w := &watch{prefix: prefix, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.watches[id] = w
	s.mu.Unlock()
	return kv.Deliver(ctx, func(send func(kv.Batch) bool) error {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.watches, id)
		}()
		return s.follow(ctx, id, w, after, send)
	})
}

// follow runs a watch until it fails.
func (s *store) follow(ctx context.Context, id uint64, w *watch, delivered int64, send func(kv.Batch) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The client shares a stream among the watches whose contexts carry the same metadata, and the server answers a
	// progress request only when all of a stream's watches have caught up. Each watch therefore gets its own.
	ctx = metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "lanyard-watch", strconv.FormatUint(id, 10))
	responses := s.client.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(delivered+1), clientv3.WithProgressNotify())

	// The server drops a progress request while the watch is behind, or when its member is. So it is repeated.
	const firstRetry, lastRetry = 5 * time.Millisecond, 500 * time.Millisecond
	retry := time.NewTimer(0)
	defer retry.Stop()
	pause := firstRetry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r, ok := <-responses:
			if !ok {
				return cmp.Or(ctx.Err(), fmt.Errorf("%w: the etcd client is closed", kv.ErrUnavailable))
			}
			if err := r.Err(); err != nil {
				return failure("watch "+w.prefix, err)
			}
			for _, b := range batches(r) {
				if b.Revision <= delivered {
					continue
				}
				if !send(b) {
					return ctx.Err()
				}
				delivered = b.Revision
			}
			continue
		case <-w.wake:
			pause = firstRetry
		case <-retry.C:
		}
		if delivered >= w.owed.Load() {
			continue
		}
		if err := s.client.RequestProgress(ctx); err != nil {
			return failure("watch "+w.prefix, err)
		}
		retry.Reset(pause)
		pause = min(2*pause, lastRetry)
	}
}

// batches splits a response by revision. A response never holds only a part of a revision: we do not ask for fragments.
func batches(r clientv3.WatchResponse) []kv.Batch {
	if r.IsProgressNotify() {
		return []kv.Batch{{Revision: r.Header.Revision}}
	}
	var all []kv.Batch
	for _, e := range r.Events {
		if len(all) == 0 || all[len(all)-1].Revision != e.Kv.ModRevision {
			all = append(all, kv.Batch{Revision: e.Kv.ModRevision})
		}
		last := &all[len(all)-1]
		last.Events = append(last.Events, kv.Event{Entry: entry(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete})
	}
	for _, b := range all {
		slices.SortFunc(b.Events, func(a, b kv.Event) int { return cmp.Compare(a.Key, b.Key) })
	}
	return all
}

func entry(e *mvccpb.KeyValue) kv.Entry {
	return kv.Entry{Key: string(e.Key), Value: e.Value, Revision: e.ModRevision}
}

// failure maps an error of etcd's to kv's. Whatever is not a compaction leaves the caller without the store: the
// network, time, elections, a full or broken disk, missing permissions.
func failure(doing string, err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("etcd: %s: %w", doing, kv.ErrCompacted)
	}
	return fmt.Errorf("%w: etcd: %s: %w", kv.ErrUnavailable, doing, err)
}
