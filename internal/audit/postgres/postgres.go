// Package postgres keeps the audit trail in PostgreSQL, where several servers share it.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// Config is what a store needs.
type Config struct {
	URL       string        // postgres://USER:PASSWORD@HOST/DATABASE?…, as libpq has it
	Retention time.Duration // how long records are kept; audit.DefaultRetention when zero
	Deliver   bool          // the records are delivered elsewhere: makes Deliver and Delivery work
	Log       *slog.Logger  // required
}

const (
	maxBatch      = 512              // records that are committed together
	writeTimeout  = 5 * time.Second  // for a batch to be committed
	readTimeout   = 10 * time.Second // of a lookup
	openTimeout   = 10 * time.Second
	tidyEvery     = time.Hour
	deletedAtOnce = 10_000
)

// schema is made by whichever server comes first. The index of keys serves lookups by an attribute, the first one all others.
const schema = `
CREATE TABLE IF NOT EXISTS lanyard_audit (
	seq bigint GENERATED ALWAYS AS IDENTITY,
	time timestamptz NOT NULL,
	account text NOT NULL,
	region text NOT NULL,
	keys bigint[] NOT NULL,
	record text NOT NULL
);
CREATE INDEX IF NOT EXISTS lanyard_audit_newest ON lanyard_audit (account, region, time DESC, seq DESC);
CREATE INDEX IF NOT EXISTS lanyard_audit_keys ON lanyard_audit USING gin (keys);
CREATE INDEX IF NOT EXISTS lanyard_audit_oldest ON lanyard_audit USING brin (time);`

// schemaLock keeps servers that start together from making the schema together.
const schemaLock = 0x6c616e79617264 // "lanyard"

// Store is an audit.Store in a database. Records that wait at the same time are committed together, and Record returns when they
// have been: what it keeps survives the end of this process and, with PostgreSQL's usual settings, a crash of the database's
// machine. It is safe for concurrent use.
type Store struct {
	pool      *pgxpool.Pool
	retention time.Duration
	deliver   bool
	log       *slog.Logger
	queue     chan *entry
	done      chan struct{}
	close     sync.Once
	stopped   sync.WaitGroup
}

// entry is a record that waits to be committed.
type entry struct {
	time            time.Time
	account, region string
	keys            []int64
	record          string
	result          chan error // has room for the result
}

// Open connects, makes the schema unless it is there, and begins to drop what is too old.
func Open(ctx context.Context, c Config) (*Store, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read the URL of the audit trail's database: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the audit trail's database: %w", err)
	}
	s := &Store{pool: pool, retention: c.Retention, deliver: c.Deliver, log: c.Log, queue: make(chan *entry, maxBatch), done: make(chan struct{})}
	if s.retention == 0 {
		s.retention = audit.DefaultRetention
	}
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	err = pgx.BeginFunc(opening, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(opening, "SELECT pg_advisory_xact_lock($1)", int64(schemaLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(opening, schema); err != nil || !c.Deliver {
			return err
		}
		return makeOutbox(opening, tx)
	})
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open the audit trail's database: %w", err)
	}
	s.stopped.Go(s.write)
	s.stopped.Go(s.keep)
	return s, nil
}

// Record implements audit.Recorder. A record may have been kept although there is an error, when the connection broke at the wrong
// moment or ctx ended.
func (s *Store) Record(ctx context.Context, e *audit.Event) error {
	line, err := e.Encode()
	if err != nil {
		return err
	}
	w := &entry{
		time: e.Time, account: e.Account, region: e.Region, keys: e.AppendKeys(nil), record: string(line), result: make(chan error, 1),
	}
	select {
	case s.queue <- w:
	case <-s.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.result:
		return err
	case <-s.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errClosed = fmt.Errorf("write audit record: %w", os.ErrClosed)

// write commits what waits, until the store is closed.
func (s *Store) write() {
	batch := make([]*entry, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case e := <-s.queue:
			batch = append(batch, e)
		case <-s.done:
			return
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case e := <-s.queue:
				batch = append(batch, e)
			default:
				more = false
			}
		}
		err := s.commit(batch)
		for _, e := range batch {
			e.result <- err
		}
	}
}

func (s *Store) commit(batch []*entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	rows := pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		e := batch[i]
		return []any{e.time, e.account, e.region, e.keys, e.record}, nil
	})
	_, err := s.pool.CopyFrom(ctx, pgx.Identifier{"lanyard_audit"}, []string{"time", "account", "region", "keys", "record"}, rows)
	if err != nil {
		return fmt.Errorf("write audit records to the database: %w", err)
	}
	return nil
}

// Lookup implements audit.Store.
func (s *Store) Lookup(ctx context.Context, q *audit.Query) (audit.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	sql := "SELECT time, seq, record FROM lanyard_audit WHERE account = $1 AND region = $2"
	args := []any{q.Account, q.Region}
	where := func(condition string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(args)), 1)
		}
		sql += " AND " + condition
	}
	if q.Attribute != "" {
		where("keys @> ?", []int64{q.Key()})
	}
	if !q.From.IsZero() {
		where("time >= ?", q.From.Truncate(time.Second))
	}
	if !q.To.IsZero() {
		where("time < ?", q.To.Truncate(time.Second).Add(time.Second))
	}
	if q.After != "" {
		at, seq, err := parsePosition(q.After)
		if err != nil {
			return audit.Page{}, err
		}
		where("(time, seq) < (?, ?)", at, seq)
	}
	sql += " ORDER BY time DESC, seq DESC LIMIT " + strconv.Itoa(q.Limit)
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return audit.Page{}, fmt.Errorf("look up audit records: %w", err)
	}
	defer rows.Close()
	var page audit.Page
	var at time.Time
	var seq int64
	n := 0
	for ; rows.Next(); n++ {
		var record string
		if err := rows.Scan(&at, &seq, &record); err != nil {
			return audit.Page{}, fmt.Errorf("look up audit records: %w", err)
		}
		found, err := audit.Decode(record)
		if err != nil {
			return audit.Page{}, fmt.Errorf("audit record %d in the database: %w", seq, err)
		}
		if q.Matches(&found.Event) { // else another value has the same key
			page.Events = append(page.Events, found)
		}
	}
	if err := rows.Err(); err != nil {
		return audit.Page{}, fmt.Errorf("look up audit records: %w", err)
	}
	if n == q.Limit {
		page.Next = fmt.Sprintf("%d.%d", at.UnixMicro(), seq)
	}
	return page, nil
}

func parsePosition(text string) (at time.Time, seq int64, err error) {
	a, b, _ := strings.Cut(text, ".")
	micro, err := strconv.ParseInt(a, 10, 64)
	if err == nil {
		seq, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil {
		return time.Time{}, 0, audit.ErrPosition
	}
	return time.UnixMicro(micro), seq, nil
}

// Room implements audit.Store. How much room its machine has the database alone knows.
func (s *Store) Room() error { return nil }

// Probe implements audit.Store.
func (s *Store) Probe(ctx context.Context) error { return s.pool.Ping(ctx) }

// Close implements audit.Store. What waits to be committed fails.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.done)
		s.stopped.Wait()
		s.pool.Close()
	})
	return nil
}

// keep drops what is too old, until the store is closed.
func (s *Store) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		if err := s.tidy(ctx, time.Now()); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("dropping old audit records failed", "err", err)
		}
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
	}
}

func (s *Store) tidy(ctx context.Context, now time.Time) error {
	before := now.Add(-s.retention)
	for {
		var dropped int64
		var err error
		if s.deliver {
			dropped, err = s.tidyOutbox(ctx, before)
		} else {
			var tag pgconn.CommandTag
			tag, err = s.pool.Exec(ctx, `DELETE FROM lanyard_audit WHERE ctid = ANY(ARRAY(
				SELECT ctid FROM lanyard_audit WHERE time < $1 LIMIT $2))`, before, deletedAtOnce)
			dropped = tag.RowsAffected()
		}
		if err != nil || dropped < deletedAtOnce {
			return err
		}
	}
}
