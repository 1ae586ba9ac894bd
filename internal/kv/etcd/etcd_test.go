package etcd_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/lanyard-id/lanyard/internal/kv/etcd"
	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
	"github.com/lanyard-id/lanyard/internal/kv/kvtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func serve(t testing.TB) *embedded.Server {
	t.Helper()
	server, err := embedded.Serve(t.Context(), t.TempDir(), "127.0.0.1:0", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func TestOverTCP(t *testing.T) {
	kvtest.Run(t, func(t testing.TB) kvtest.Harness {
		server := serve(t)
		store, err := etcd.Open(t.Context(), etcd.Config{
			Endpoints: []string{server.Endpoint},
			Log:       slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		operator, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { operator.Close() })
		return kvtest.Harness{Store: store, Compact: func(ctx context.Context, revision int64) error {
			_, err := operator.Compact(ctx, revision)
			return err
		}}
	})
}
