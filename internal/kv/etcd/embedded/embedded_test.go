package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
	"github.com/lanyard-id/lanyard/internal/kv/kvtest"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func open(t testing.TB, dir string) kv.Store {
	t.Helper()
	store, err := embedded.Open(t.Context(), dir, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func closeStore(t testing.TB, store kv.Store) {
	t.Helper()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, store kv.Store, key, value string) int64 {
	t.Helper()
	revision, err := store.Commit(t.Context(), kv.Op{Key: key, Expect: kv.AnyRevision, Kind: kv.OpPut, Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(t testing.TB) kvtest.Harness { return kvtest.Harness{Store: open(t, t.TempDir())} })
}

func TestWhatWasWrittenIsThereAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "open")
	var revision int64
	for round := range 3 {
		store := open(t, dir)
		if round > 0 {
			e, err := store.Get(t.Context(), "/key")
			if want := fmt.Sprint("value ", round-1); err != nil || string(e.Value) != want || e.Revision != revision {
				t.Errorf("round %d: got %q at revision %d, %v; want %q at %d", round, e.Value, e.Revision, err, want, revision)
			}
		}
		next := put(t, store, "/key", fmt.Sprint("value ", round))
		if next <= revision {
			t.Errorf("round %d: revision %d does not follow %d", round, next, revision)
		}
		revision = next
		closeStore(t, store)
		closeStore(t, store) // twice is fine
	}
}

func TestNobodyElseReadsTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	closeStore(t, open(t, dir))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	if _, err := embedded.Open(t.Context(), dir, logger(t)); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second Open = %v", err)
	}
	put(t, store, "/a", "the first still works")
	closeStore(t, store)
	closeStore(t, open(t, dir))
}

func TestServeOnlyOnLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "localhost:0", "192.0.2.1:2379", "127.0.0.1"} {
		if s, err := embedded.Serve(t.Context(), t.TempDir(), address, logger(t)); err == nil {
			t.Errorf("Serve(%q) is accepted", address)
			s.Close()
		}
	}
}

func TestATakenAddressIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if s, err := embedded.Serve(t.Context(), dir, l.Addr().String(), logger(t)); err == nil {
		s.Close()
		t.Error("Serve at a taken address succeeds")
	} else if strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Serve at a taken address = %v", err)
	}
	closeStore(t, open(t, dir))
}

// edit rewrites a file.
func edit(t testing.TB, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// used returns how many bytes of a file come before the zeros at its end.
func used(b []byte) int {
	return len(strings.TrimRight(string(b), "\x00"))
}

func garbage(at float64, n int) func([]byte) []byte {
	return func(b []byte) []byte {
		from := int(at * float64(used(b)))
		for i := from; i < min(from+n, len(b)); i++ {
			b[i] = byte(i*7 + 13)
		}
		return b
	}
}

func TestDamagedDirectoriesAreRefused(t *testing.T) {
	template := t.TempDir()
	store := open(t, template)
	for i := range 200 {
		put(t, store, fmt.Sprint("/key/", i), strings.Repeat("x", 500))
	}
	closeStore(t, store)

	for _, c := range []struct {
		why    string
		file   string // below member; may be a pattern
		damage func(b []byte) []byte
	}{
		{"the database is missing", "snap/db", nil},
		{"the database is empty", "snap/db", func([]byte) []byte { return nil }},
		{"the database is cut", "snap/db", func(b []byte) []byte { return b[:used(b)/2] }},
		{"the database lacks its last page", "snap/db", func(b []byte) []byte { return b[:used(b)-4096] }},
		{"the database is garbage", "snap/db", garbage(0, 1<<30)},
		{"the database has no beginning", "snap/db", garbage(0, 8192)},
		{"the database has garbage inside", "snap/db", garbage(0.1, 1<<20)},
		{"the log is missing", "wal", nil},
		{"the log's file is missing", "wal/*.wal", nil},
		{"the log's file is empty", "wal/*.wal", func([]byte) []byte { return nil }},
		{"the log is cut", "wal/*.wal", func(b []byte) []byte { return b[:used(b)/2] }},
		{"the log lacks its last entries", "wal/*.wal", func(b []byte) []byte { return b[:used(b)-2000] }},
		{"the log ends in zeros", "wal/*.wal", func(b []byte) []byte { clear(b[used(b)/2:]); return b }},
		{"the log is garbage", "wal/*.wal", garbage(0, 1<<30)},
		{"the log has garbage inside", "wal/*.wal", garbage(0.5, 20)},
		{"the log has garbage at its beginning", "wal/*.wal", garbage(0, 20)},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "member", c.file))
			if err != nil || len(files) != 1 {
				t.Fatalf("%s: %v, %v", c.file, files, err)
			}
			if c.damage != nil {
				edit(t, files[0], c.damage)
			} else if err := os.RemoveAll(files[0]); err != nil {
				t.Fatal(err)
			}
			store, err := embedded.Open(t.Context(), dir, logger(t))
			if err == nil {
				defer store.Close()
				t.Fatal("the directory is accepted")
			}
			for _, want := range []string{dir, "is damaged", "restore it from a backup"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in the error: %v", want, err)
				}
			}
			t.Log(err)
		})
	}
	closeStore(t, open(t, template)) // what the damaged ones were copied from is fine
}

func TestAnInterruptedFirstStartIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	store := open(t, dir)
	put(t, store, "/a", "")
	closeStore(t, store)
}

// Killed between making the log and writing itself into it, a member could never elect itself.
func TestAFirstStartThatLeftAnEmptyLogIsStartedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := wal.Create(zap.NewNop(), filepath.Join(dir, "member", "wal"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	store := open(t, dir)
	put(t, store, "/a", "")
	closeStore(t, store)
}

// crashDir makes TestMain, in a process started by TestCrash, write to the store there until it is killed.
const crashDir = "EMBEDDED_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver prints a line for every commit that was acknowledged.
func writeForEver(dir string) error {
	ctx := context.Background()
	store, err := embedded.Open(ctx, dir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	_, from, err := store.List(ctx, "/")
	if err != nil {
		return err
	}
	for i := from; ; i++ {
		key := fmt.Sprintf("/key/%d", i)
		if _, err := store.Commit(ctx, kv.Op{Key: key, Kind: kv.OpPut, Value: []byte(strings.Repeat(key, 50))}); err != nil {
			return err
		}
		fmt.Println(key)
	}
}

func TestCrash(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for round := range 4 {
		writer := exec.CommandContext(t.Context(), os.Args[0])
		writer.Env = append(os.Environ(), crashDir+"="+dir)
		writer.Stderr = t.Output()
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		// The kill comes after ever more commits; what is printed between it and the end still counts.
		lines, n := bufio.NewScanner(out), 0
		for lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
			if n++; n == 1+150*round {
				if err := writer.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		var exit *exec.ExitError
		if err := writer.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the writer ended by itself: %v", err)
		}
	}
	store := open(t, dir)
	defer closeStore(t, store)
	for _, key := range acknowledged {
		e, err := store.Get(t.Context(), key)
		if err != nil || string(e.Value) != strings.Repeat(key, 50) {
			t.Errorf("%s was acknowledged, and is %q, %v", key, e.Value, err)
		}
	}
	t.Logf("%d acknowledged commits survived", len(acknowledged))
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		closeStore(b, open(b, dir))
	}
}

func BenchmarkCommit(b *testing.B) {
	store := open(b, b.TempDir())
	defer closeStore(b, store)
	value := strings.Repeat("x", 1000)
	for b.Loop() {
		put(b, store, "/key", value)
	}
}
