package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// outboxSchema is there once the trail is to be delivered. The one row of lanyard_audit_delivery says how far it has been: up to done; while a
// batch is being delivered, until is where that ends, so that after a crash the same one is delivered again.
const outboxSchema = `
CREATE INDEX IF NOT EXISTS lanyard_audit_order ON lanyard_audit (seq);
CREATE TABLE IF NOT EXISTS lanyard_audit_delivery (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	trail text NOT NULL,
	done bigint NOT NULL DEFAULT 0,
	until bigint NOT NULL DEFAULT 0,
	planned timestamptz,
	attempted timestamptz,
	delivered timestamptz,
	failure text NOT NULL DEFAULT '',
	lost bigint NOT NULL DEFAULT 0
);`

const (
	deliveryLock     = schemaLock + 1 // who has it delivers
	maxDelivered     = 50 << 20       // bytes of records, and
	maxDeliveredRows = 100_000        // records that are delivered together
	usualRecord      = 1200           // bytes, as JSON
	settleTimeout    = 10 * time.Second
	settleEvery      = 20 * time.Millisecond
	statusTimeout    = 2 * time.Second
)

// makeOutbox makes what delivery needs.
func makeOutbox(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, outboxSchema); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "INSERT INTO lanyard_audit_delivery (trail) VALUES ($1) ON CONFLICT DO NOTHING", rand.Text())
	return err
}

// lastSeq is the number of the last record that there may be.
const lastSeq = "coalesce(pg_sequence_last_value(pg_get_serial_sequence('lanyard_audit', 'seq')::regclass), 0)"

// Delivery implements audit.Outbox, if Config.Deliver was set.
func (s *Store) Delivery(ctx context.Context) (audit.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var d audit.Delivery
	var records int64
	var attempted, delivered *time.Time
	err := s.pool.QueryRow(ctx, "SELECT "+lastSeq+" - done, attempted, delivered, failure, lost FROM lanyard_audit_delivery").
		Scan(&records, &attempted, &delivered, &d.Failure, &d.Lost)
	if err != nil {
		return audit.Delivery{}, fmt.Errorf("read how far the audit trail is delivered: %w", err)
	}
	d.Waiting, d.Attempted, d.Delivered = max(0, records)*usualRecord, orZero(attempted), orZero(delivered)
	return d, nil
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// Deliver implements audit.Outbox, if Config.Deliver was set. Of the servers that share the trail, one delivers at a time.
func (s *Store) Deliver(ctx context.Context, deliver func(context.Context, *audit.Batch) error) (delivered bool, err error) {
	select {
	case <-s.done:
		return false, fmt.Errorf("deliver audit records: %w", os.ErrClosed)
	default:
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("deliver audit records: %w", err)
	}
	defer conn.Release()
	var locked bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(deliveryLock)).Scan(&locked); err != nil {
		return false, fmt.Errorf("deliver audit records: %w", err)
	}
	if !locked {
		return false, nil
	}
	defer func() {
		if !unlock(conn) {
			err = errors.Join(err, conn.Conn().Close(context.WithoutCancel(ctx))) // which gives the lock back, too
		}
	}()
	b, done, until, err := s.nextBatch(ctx, conn)
	if err != nil {
		return false, fmt.Errorf("read audit records to deliver: %w", err)
	}
	if len(b.Records) == 0 {
		return false, nil
	}
	failed := deliver(ctx, b)
	if failed != nil && ctx.Err() != nil { // nobody wants it any more
		return false, failed
	}
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if failed != nil {
		_, err = s.pool.Exec(noting, "UPDATE lanyard_audit_delivery SET attempted = $1, failure = $2", time.Now(), audit.FailureCode(failed))
	} else {
		// until is another if records were dropped in the meantime.
		_, err = s.pool.Exec(noting, `UPDATE lanyard_audit_delivery SET attempted = $1, delivered = $1, failure = '',
			done = CASE WHEN done = $2 AND until = $3 THEN until ELSE done END`, time.Now(), done, until)
	}
	if err != nil {
		err = fmt.Errorf("write down what was delivered: %w", err)
	}
	return failed == nil, errors.Join(failed, err)
}

func unlock(conn *pgxpool.Conn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	var ok bool
	err := conn.QueryRow(ctx, "SELECT pg_advisory_unlock($1)", int64(deliveryLock)).Scan(&ok)
	return err == nil && ok
}

// nextBatch returns the batch that is to be delivered, between two numbers of records. It has no records if there are none.
func (s *Store) nextBatch(ctx context.Context, conn *pgxpool.Conn) (b *audit.Batch, done, until int64, err error) {
	b = new(audit.Batch)
	var trail string
	var planned *time.Time
	err = conn.QueryRow(ctx, "SELECT trail, done, until, planned FROM lanyard_audit_delivery").Scan(&trail, &done, &until, &planned)
	if err != nil {
		return nil, 0, 0, err
	}
	if until == done {
		last, err := settled(ctx, conn)
		if err != nil || last == done {
			return b, 0, 0, err
		}
		err = conn.QueryRow(ctx, `SELECT coalesce(max(seq), $2) FROM (
				SELECT seq, sum(octet_length(record)) OVER (ORDER BY seq) AS size FROM lanyard_audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3
			) AS next WHERE size <= $4`, done, last, maxDeliveredRows, maxDelivered).Scan(&until)
		if err != nil {
			return nil, 0, 0, err
		}
		now := time.Now()
		planned = &now
		var tag pgconn.CommandTag
		tag, err = conn.Exec(ctx, "UPDATE lanyard_audit_delivery SET until = $1, planned = $2 WHERE done = $3 AND until = $3", until, now, done)
		if err != nil || tag.RowsAffected() == 0 { // records were dropped just now
			return b, 0, 0, err
		}
	}
	b.Time = orZero(planned)
	b.ID = fmt.Sprint(trail, " ", done, " ", b.Time.UnixMicro())
	rows, err := conn.Query(ctx, "SELECT record FROM lanyard_audit WHERE seq > $1 AND seq <= $2 ORDER BY seq", done, until)
	if err != nil {
		return nil, 0, 0, err
	}
	if b.Records, err = pgx.CollectRows(rows, pgx.RowTo[[]byte]); err != nil {
		return nil, 0, 0, err
	}
	if len(b.Records) == 0 { // what had these numbers was never committed, or is gone
		_, err = conn.Exec(ctx, "UPDATE lanyard_audit_delivery SET done = until WHERE done = $1", done)
	}
	return b, done, until, err
}

// settled returns the number of a record after which every one up to it can be seen that ever will be. Numbers are given before records are
// committed, so that one may still come before another that is there already: all that write at the moment are waited for.
func settled(ctx context.Context, conn *pgxpool.Conn) (last int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settleTimeout, errors.New("a transaction that writes to the audit trail does not end"))
	defer cancel()
	if err := conn.QueryRow(ctx, "SELECT "+lastSeq).Scan(&last); err != nil {
		return 0, err
	}
	// Whoever has been given a number until now has had this lock since before.
	var writers []string
	err = conn.QueryRow(ctx, "SELECT array_agg(virtualtransaction) FROM pg_locks WHERE "+writes).Scan(&writers)
	for err == nil && len(writers) > 0 {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(settleEvery):
		}
		err = conn.QueryRow(ctx, "SELECT array_agg(virtualtransaction) FROM pg_locks WHERE "+writes+" AND virtualtransaction = ANY($1)", writers).Scan(&writers)
	}
	return last, err
}

// writes is true of the locks of transactions that write to the trail.
const writes = `locktype = 'relation' AND granted AND mode = 'RowExclusiveLock' AND relation = 'lanyard_audit'::regclass
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// tidyOutbox drops records that are too old, and tells of those that have not been delivered. A batch that is being delivered is given up
// if some were in it: what it has of the others will be delivered by another.
func (s *Store) tidyOutbox(ctx context.Context, before time.Time) (dropped int64, err error) {
	var lost int64
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var done int64
		if err := tx.QueryRow(ctx, "SELECT done FROM lanyard_audit_delivery FOR UPDATE").Scan(&done); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `WITH gone AS (
			DELETE FROM lanyard_audit WHERE ctid = ANY(ARRAY(SELECT ctid FROM lanyard_audit WHERE time < $1 LIMIT $2)) RETURNING seq
		) SELECT count(*), count(*) FILTER (WHERE seq > $3) FROM gone`, before, deletedAtOnce, done).Scan(&dropped, &lost)
		if err != nil || lost == 0 {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE lanyard_audit_delivery SET lost = lost + $1, until = done", lost)
		return err
	})
	if err == nil && lost > 0 {
		s.log.Error("audit records are dropped before they are delivered", "records", lost)
	}
	return dropped, err
}
