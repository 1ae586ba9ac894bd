package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a Server. Requests are small and come from the same node.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second // of a whole request
	writeTimeout      = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	// maxHeaderBytes bounds a request's header; net/http adds 4 KiB to it. The longest token has 20,000 bytes.
	maxHeaderBytes = 28 << 10
	// acceptFailsFor is how long accepting may fail before the server counts as unhealthy.
	acceptFailsFor = time.Minute
)

// StopTimeout is how long a Server that stops goes on answering what it has accepted: a fetch takes up to ten seconds.
const StopTimeout = 15 * time.Second

// Server serves pods on some addresses, by HTTP/1.1, and knows how it is doing.
type Server struct {
	http      *http.Server
	listeners []*listener
	stopping  atomic.Bool
	open      atomic.Int64  // connections
	closed    chan struct{} // has room for one: a connection was closed
}

// NewServer makes a server of a handler on listeners, which it closes in the end.
func NewServer(h http.Handler, listeners []net.Listener, log *slog.Logger) *Server {
	s := &Server{closed: make(chan struct{}, 1)}
	for _, l := range listeners {
		s.listeners = append(s.listeners, &listener{Listener: l})
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState:         s.count,
	}
	return s
}

// Serve serves until ctx ends or a listener fails. Then it accepts no more, answers what has been accepted, for some seconds,
// and returns. Who holds a listener's socket besides keeps what arrives from then on.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, l := range s.listeners {
		l.serving.Store(true)
		group.Go(func() {
			err := s.http.Serve(l)
			l.serving.Store(false)
			cancel(fmt.Errorf("serve credentials on %s: %w", l.Addr(), err)) // nothing, if that is why it ended
		})
	}
	<-ctx.Done()
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		cause = nil
	}
	return errors.Join(cause, s.stop(&group))
}

// stop is not http.Server.Shutdown because that drops requests whose connection was accepted before and that arrive after it.
func (s *Server) stop(accepting *sync.WaitGroup) error {
	s.stopping.Store(true)
	var err error
	for _, l := range s.listeners {
		if closeErr := l.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, fmt.Errorf("stop listening: %w", closeErr))
		}
	}
	accepting.Wait()
	s.http.SetKeepAlivesEnabled(false) // closes what is idle, and the rest after its answer
	grace, done := context.WithTimeout(context.Background(), StopTimeout)
	defer done()
	for s.open.Load() > 0 {
		select {
		case <-s.closed:
		case <-grace.Done():
			return errors.Join(err, fmt.Errorf("%d connections were cut off", s.open.Load()), s.http.Close())
		}
	}
	return errors.Join(err, s.http.Close())
}

// Connections returns how many connections are open.
func (s *Server) Connections() int64 { return s.open.Load() }

func (s *Server) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.open.Add(-1)
		select {
		case s.closed <- struct{}{}:
		default:
		}
	}
}

// Ready returns why requests are not accepted at the moment: on one of the addresses, or at all.
func (s *Server) Ready() error {
	if s.stopping.Load() {
		return errors.New("the server stops")
	}
	for _, l := range s.listeners {
		if !l.serving.Load() {
			return fmt.Errorf("%s is not served", l.Addr())
		}
		if f := l.failing(time.Now()); f != nil {
			return fmt.Errorf("accept on %s: %w", l.Addr(), f.err)
		}
	}
	return nil
}

// Healthy returns why it will hardly help to wait until requests are accepted: that failed for a minute. A server that stops
// is healthy.
func (s *Server) Healthy() error {
	now := time.Now()
	for _, l := range s.listeners {
		if f := l.failing(now); f != nil && now.Sub(f.since) >= acceptFailsFor {
			return fmt.Errorf("accept on %s, since %s: %w", l.Addr(), f.since.UTC().Format(time.RFC3339), f.err)
		}
	}
	return nil
}

// listener keeps in mind whether it can accept: net/http tries again and again, each second at least, when it cannot.
type listener struct {
	net.Listener
	serving atomic.Bool
	failure atomic.Pointer[acceptFailure] // the last; nil if there was none
}

type acceptFailure struct {
	since, last time.Time // of failures with no more than acceptRetry between them
	err         error
}

// acceptRetry is longer than net/http waits until it tries again.
const acceptRetry = 5 * time.Second

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	switch {
	case err == nil:
		l.failure.Store(nil)
	case !errors.Is(err, net.ErrClosed):
		now := time.Now()
		f := &acceptFailure{since: now, last: now, err: err}
		if before := l.failing(now); before != nil {
			f.since = before.since
		}
		l.failure.Store(f)
	}
	return c, err
}

// failing returns the last failure unless it is over.
func (l *listener) failing(now time.Time) *acceptFailure {
	if f := l.failure.Load(); f != nil && now.Sub(f.last) < acceptRetry {
		return f
	}
	return nil
}
