package embedded

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lanyard-id/lanyard/internal/kv"
	"go.uber.org/zap"
)

func TestGuardTurnsEveryEndIntoAnError(t *testing.T) {
	oops := errors.New("oops")
	for _, c := range []struct {
		why  string
		f    func(*zap.Logger) error
		want string
	}{
		{"success", func(*zap.Logger) error { return nil }, ""},
		{"an error", func(*zap.Logger) error { return oops }, "oops"},
		{"a fatal log entry", func(l *zap.Logger) error { l.Fatal("dead", zap.Error(oops)); return nil }, "dead: oops"},
		{"a panic by log entry", func(l *zap.Logger) error { l.Panic("dead"); return nil }, "dead"},
		{"a panic", func(*zap.Logger) error { panic("dead") }, "panic: dead"},
		{"a mapped file that is shorter than it should be", func(*zap.Logger) error {
			if shortFile(t)[0] == 0 {
				return nil
			}
			return oops
		}, "panic"},
	} {
		b := newBridge(slog.New(slog.DiscardHandler))
		err := b.guard(func() error { return c.f(b.logger) })
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.why, err, c.want)
		}
	}
}

// shortFile maps a page of a file that is empty.
func shortFile(t *testing.T) []byte {
	f, err := os.Create(filepath.Join(t.TempDir(), "short"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := syscall.Mmap(int(f.Fd()), 0, os.Getpagesize(), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(page); err != nil {
			t.Error(err)
		}
	})
	return page
}

func TestAMemberThatFailsLaterMakesTheStoreUnavailable(t *testing.T) {
	var log bytes.Buffer
	s, err := Open(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	bridge := s.(*store).member.bridge
	if err := bridge.guard(func() error { bridge.logger.Fatal("no space left on device"); return nil }); err == nil {
		t.Fatal("the failure was not noticed")
	}
	if _, err := s.Commit(t.Context(), kv.Op{Key: "/a", Kind: kv.OpPut}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Commit = %v, want ErrUnavailable", err)
	}
	if b := <-s.Watch(t.Context(), "/", 0); !errors.Is(b.Err, kv.ErrUnavailable) {
		t.Errorf("Watch = %v, want ErrUnavailable", b)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("Close = %v, want the failure", err)
	}
	if !strings.Contains(log.String(), "restart the process") || !strings.Contains(log.String(), "no space left on device") {
		t.Errorf("the log does not tell: %s", log.String())
	}
}
