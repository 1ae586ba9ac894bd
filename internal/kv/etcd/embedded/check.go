package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// check looks for damage that etcd itself would crash on, or worse: start, and lose writes. etcd keeps a log of
// writes (the WAL) and a database, which lags behind it and records the index of the last log entry it holds. A log
// that ends before that index has lost its end; etcd would give the lost indexes to new writes, and then skip these as
// already applied.
func check(logger *zap.Logger, dir string) error {
	member := filepath.Join(dir, "member")
	database := filepath.Join(member, "snap", "db")
	log := filepath.Join(member, "wal")

	haveDatabase, err := exists(database)
	if err != nil {
		return err
	}
	haveLog := wal.Exist(log)
	if !haveDatabase && !haveLog {
		return nil
	}
	if !haveDatabase {
		return fmt.Errorf("%s is missing", database)
	}
	applied, err := readDatabase(database)
	if err != nil {
		return fmt.Errorf("%s: %w", database, err)
	}
	if !haveLog {
		if applied == 0 {
			// The very first start was interrupted before it made the log. Nothing can have been acknowledged.
			return os.RemoveAll(member)
		}
		return fmt.Errorf("%s is missing", log)
	}
	last, committed, err := readLog(logger, log)
	if err != nil {
		return fmt.Errorf("%s: %w", log, err)
	}
	if applied == 0 && committed == 0 {
		// The very first start was interrupted before the member had written itself into the log: it could never elect itself.
		// Nothing can have been acknowledged.
		return os.RemoveAll(member)
	}
	if last < applied {
		return fmt.Errorf("%s ends at entry %d, but entries up to %d were written", log, last, applied)
	}
	return nil
}

func exists(file string) (bool, error) {
	_, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// readDatabase visits all pages of a database, so that damage shows, and returns the index of the last log entry it
// holds. Values have no checksums: what is damaged inside one is not found.
func readDatabase(file string) (applied uint64, err error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bolt.Tx) error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("the file has %d bytes of %d", info.Size(), tx.Size())
		}
		if err := tx.ForEach(visit); err != nil {
			return err
		}
		meta := tx.Bucket([]byte("meta"))
		if meta == nil {
			return nil
		}
		if index := meta.Get([]byte("consistent_index")); len(index) == 8 {
			applied = binary.BigEndian.Uint64(index)
		}
		return nil
	})
	return applied, err
}

// visit visits all pairs of a bucket, in order and by their keys. What it misses, etcd finds when it begins by listing
// the free pages; but there the database panics in a goroutine that nobody can guard.
func visit(name []byte, b *bolt.Bucket) error {
	var last []byte
	lookup := b.Cursor()
	return b.ForEach(func(key, value []byte) error {
		if value == nil {
			return fmt.Errorf("bucket %q has a bucket inside", name)
		}
		if last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("bucket %q is not in order", name)
		}
		if found, _ := lookup.Seek(key); !bytes.Equal(found, key) {
			return fmt.Errorf("bucket %q has a key that is not found", name)
		}
		last = key
		return nil
	})
}

// readLog returns the indexes of a log's last entry and of the last one that it knows to be committed. An entry that a
// crash left half written at the end was never acknowledged, and is not an error.
func readLog(logger *zap.Logger, dir string) (last, committed uint64, err error) {
	snapshots, err := wal.ValidSnapshotEntries(logger, dir)
	if err != nil {
		return 0, 0, err
	}
	from := &walpb.Snapshot{}
	if len(snapshots) > 0 {
		from = snapshots[len(snapshots)-1]
	}
	w, err := wal.OpenForRead(logger, dir, from)
	if err != nil {
		return 0, 0, err
	}
	// A log that is open for reading always fails to close: it has no directory of its own. Its files were only read.
	defer w.Close()
	_, state, entries, err := w.ReadAll()
	if err != nil {
		return 0, 0, err
	}
	if len(entries) == 0 {
		return from.GetIndex(), state.GetCommit(), nil
	}
	return entries[len(entries)-1].GetIndex(), state.GetCommit(), nil
}
