package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell is a supervisor of a script, which is given a file.
func shell(t *testing.T, steady time.Duration, script string) (s *supervisor, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	return &supervisor{"/bin/sh", []string{"-c", script, "sh", file}, steady, t.Output(), t.Output(), slog.New(slog.DiscardHandler)}, file
}

// lines waits until a file has some lines.
func lines(t *testing.T, file string, n int) {
	t.Helper()
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		if text, err := os.ReadFile(file); err == nil && strings.Count(string(text), "\n") >= n {
			return
		}
		if t.Context().Err() != nil {
			t.Fatalf("there are no %d lines", n)
		}
	}
}

func TestWhatEndsByAccidentIsStartedAgain(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	s, file := shell(t, 0, `trap 'echo told >>"$1"; exit 0' TERM; echo begun >>"$1"
case $(wc -l <"$1") in 1) kill -9 $$;; 2) exit 7;; esac
while :; do sleep 0.01; done`)
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	lines(t, file, 3)
	stop()
	if err := <-done; err != nil {
		t.Errorf("told to stop, it ended with %v", err)
	}
	got, err := os.ReadFile(file)
	if want := "begun\nbegun\nbegun\ntold\n"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestWhatDoesNotRunForLongIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{"exit 7": "exit status 7", "kill -9 $$": "signal: killed"} {
		s, _ := shell(t, time.Hour, script)
		if err := s.run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", script, err, want)
		}
	}
	s, _ := shell(t, 0, "exit 0")
	if err := s.run(t.Context()); err != nil {
		t.Errorf("what succeeds is done: %v", err)
	}
	s = &supervisor{filepath.Join(t.TempDir(), "none"), []string{"x"}, time.Hour, nil, nil, slog.New(slog.DiscardHandler)}
	if err := s.run(t.Context()); err == nil {
		t.Error("a program that is not there ran")
	}
}

func TestFailureToStopIsTold(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	s, file := shell(t, 0, `trap 'exit 7' TERM; echo begun >>"$1"; while :; do sleep 0.01; done`)
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	lines(t, file, 1)
	stop()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("got %v", err)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "health") // a short name, as those of Unix sockets have to be
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "socket")
	if err := os.WriteFile(file, nil, 0o600); err != nil { // of one before
		t.Fatal(err)
	}
	ask := func(path string) error { return health(t.Context(), &healthConfig{file, path}) }
	if err := ask("/readyz"); err == nil {
		t.Error("nobody is ready")
	}
	l, err := listenUnix(file)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	s := &http.Server{Handler: mux}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	if err := ask("/healthz"); err != nil {
		t.Error(err)
	}
	if err := ask("/readyz"); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("not ready: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

func TestBoundTo(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "0.0.0.0", "::", "", "127.0.0.1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, a := range boundTo(net.JoinHostPort(host, port)) {
			found = found || a == l.Addr().String()
		}
		if !found {
			t.Errorf("%q: %v, and it is %s", host, boundTo(net.JoinHostPort(host, port)), l.Addr())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := boundTo("no port"); len(got) != 0 {
		t.Errorf("of no address: %q", got)
	}
}
