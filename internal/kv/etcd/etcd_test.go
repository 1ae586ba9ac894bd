package etcd_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/etcd"
	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
	"github.com/lanyard-id/lanyard/internal/kv/kvtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func serve(t testing.TB, dir, address string) *embedded.Server {
	t.Helper()
	server, err := embedded.Serve(t.Context(), dir, address, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func connect(t testing.TB, endpoint string) kv.Store {
	t.Helper()
	store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{endpoint}, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func closeAll(t testing.TB, closers ...interface{ Close() error }) {
	t.Helper()
	for _, c := range closers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOverTCP(t *testing.T) {
	kvtest.Run(t, func(t testing.TB) kvtest.Harness {
		server := serve(t, t.TempDir(), "127.0.0.1:0")
		t.Cleanup(func() { closeAll(t, server) })
		store := connect(t, server.Endpoint)
		operator, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAll(t, operator) })
		return kvtest.Harness{Store: store, Compact: func(ctx context.Context, revision int64) error {
			_, err := operator.Compact(ctx, revision)
			return err
		}}
	})
}

func newTable(t testing.TB, store kv.Store) (*kv.DB, *kv.Table[string]) {
	t.Helper()
	db := kv.NewDB(kv.Config{Store: store, Log: logger(t), MaxStaleness: 4 * time.Second})
	table := kv.NewTable[string](db, "texts")
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db, table
}

// relay is an address that stays, behind which a server may be made again at another: a port that was given up may be anybody's.
type relay struct {
	endpoint string
	to       atomic.Pointer[string] // host:port; nil for nowhere
}

func startRelay(t testing.TB) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{endpoint: "http://" + l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // it is closed
			}
			running.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return r
}

// lead has new connections lead to a server, or nowhere.
func (r *relay) lead(to *embedded.Server) {
	if to == nil {
		r.to.Store(nil)
		return
	}
	address := strings.TrimPrefix(to.Endpoint, "http://")
	r.to.Store(&address)
}

func (r *relay) serve(c net.Conn) {
	defer c.Close()
	to := r.to.Load()
	if to == nil {
		return
	}
	server, err := net.Dial("tcp", *to)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, server}, {server, c}} {
		both.Go(func() {
			io.Copy(way[0], way[1]) //nolint:errcheck // whichever way ends first ends the other
			c.Close()
			server.Close()
		})
	}
	both.Wait()
}

func TestReplicasOverOneServerSurviveItsRestart(t *testing.T) {
	dir := t.TempDir()
	relay := startRelay(t)
	server := serve(t, dir, "127.0.0.1:0")
	relay.lead(server)
	stores := []kv.Store{connect(t, relay.endpoint), connect(t, relay.endpoint)}
	t.Cleanup(func() { closeAll(t, stores[0], stores[1]) })
	writer, written := newTable(t, stores[0])
	reader, read := newTable(t, stores[1])
	write := func(key string) {
		t.Helper()
		if err := writer.Update(t.Context(), func(tx *kv.Tx) error { written.Write(tx, key, &key); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	if err := reader.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := read.Get("before"); !ok {
		t.Error("the row is missing after Sync")
	}

	relay.lead(nil)
	closeAll(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := reader.Sync(ctx); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Sync without a server = %v, want ErrUnavailable", err)
	}
	if _, ok := read.Get("before"); !ok {
		t.Error("the table was lost with the server")
	}

	server = serve(t, dir, "127.0.0.1:0")
	t.Cleanup(func() { closeAll(t, server) })
	relay.lead(server)
	for _, db := range []*kv.DB{writer, reader} {
		for db.Sync(t.Context()) != nil {
			if t.Context().Err() != nil {
				t.Fatal("the replica does not come back")
			}
		}
	}
	write("after")
	if err := reader.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"before", "after"} {
		if _, ok := read.Get(key); !ok {
			t.Errorf("row %q is missing after the restart", key)
		}
	}
	if err := reader.Fresh(); err != nil {
		t.Errorf("Fresh: %v", err)
	}
}

func TestOpenNeedsAServerThatAnswers(t *testing.T) {
	server := serve(t, t.TempDir(), "127.0.0.1:0")
	closeAll(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{server.Endpoint}, Log: logger(t)})
	if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), server.Endpoint) {
		t.Errorf("Open = %v, want ErrUnavailable with the endpoint", err)
	}
	if _, err := etcd.Open(t.Context(), etcd.Config{Log: logger(t)}); err == nil {
		t.Error("Open without endpoints succeeds")
	}
}
