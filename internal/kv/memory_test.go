package kv_test

import (
	"context"
	"testing"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/kvtest"
)

func TestMemory(t *testing.T) {
	kvtest.Run(t, func(testing.TB) kvtest.Harness {
		store := kv.NewMemory()
		return kvtest.Harness{Store: store, Compact: func(_ context.Context, revision int64) error {
			store.(*kv.Memory).Compact(revision)
			return nil
		}}
	})
}
