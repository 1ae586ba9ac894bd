// Package daemon holds what a long-running program needs: a logger, HTTP servers with safe limits and an ordered
// stop, and TLS certificates that are read again when their files change.
package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// NewLogger returns a logger that writes to w. The level is debug, info, warn or error; the format is json or text.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log format %q: use json or text", format)
}

// Server is an HTTP server to run.
type Server struct {
	Name    string // in logs
	Address string // host:port; port 0 picks a free one
	Handler http.Handler
	TLS     *tls.Config // nil serves plain HTTP
	// Listener is what Listen binds, unless it is set before: then the address is not looked at.
	Listener net.Listener
}

// Limits of every server. There is no time limit on bodies here, since objects may be large: the handlers of small
// requests set their own.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	stopTimeout       = 10 * time.Second // for requests in flight when a server stops
)

// Listen binds the server's address, so that it accepts connections from now on and Addr is known.
func (s *Server) Listen() error {
	if s.Listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.Name, err)
	}
	s.Listener = l
	return nil
}

// Addr returns the address that a server which has called Listen is bound to.
func (s *Server) Addr() string { return s.Listener.Addr().String() }

// Close gives up the address of a server that was never served.
func (s *Server) Close() error { return s.Listener.Close() }

// Serve runs servers that listen until ctx ends or one of them fails; then it stops accepting, and waits up to ten
// seconds for the requests in flight.
func Serve(ctx context.Context, log *slog.Logger, servers ...*Server) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, s := range servers {
		hs := &http.Server{
			Handler:           s.Handler,
			TLSConfig:         s.TLS,
			ReadHeaderTimeout: readHeaderTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		group.Go(func() {
			var err error
			if s.TLS != nil {
				err = hs.ServeTLS(s.Listener, "", "")
			} else {
				err = hs.Serve(s.Listener)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				cancel(fmt.Errorf("serve %s: %w", s.Name, err))
			}
		})
		group.Go(func() {
			<-ctx.Done()
			grace, done := context.WithTimeout(context.Background(), stopTimeout)
			defer done()
			if err := hs.Shutdown(grace); err != nil {
				log.Warn("requests cut off at stop", "server", s.Name, "err", errors.Join(err, hs.Close()))
			}
		})
	}
	group.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// Linger returns a context that ends some time after ctx does, or when it is cancelled: for servers that go on while load balancers hear that
// they are to stop.
func Linger(ctx context.Context, delay time.Duration) (context.Context, context.CancelFunc) {
	lingering, end := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer end()
		select {
		case <-ctx.Done():
		case <-lingering.Done():
			return
		}
		select {
		case <-time.After(delay):
		case <-lingering.Done():
		}
	}()
	return lingering, end
}

// certificateCheck is how often a certificate's files are looked at, at the most.
const certificateCheck = 10 * time.Second

// CertificateFiles returns a TLS configuration whose certificate is read from PEM files, and read again when they
// change. The first reading must succeed; a later one that fails keeps the old certificate and is logged.
func CertificateFiles(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu       sync.Mutex
	current  *tls.Certificate
	modified time.Time // of certFile, when current was read
	checked  time.Time
}

func (c *certificate) load() error {
	info, err := os.Stat(c.certFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read certificate %s and key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.modified, c.checked = &pair, info.ModTime(), time.Now()
	return nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certificateCheck {
		return c.current, nil
	}
	c.checked = time.Now()
	if info, err := os.Stat(c.certFile); err == nil && info.ModTime().Equal(c.modified) {
		return c.current, nil
	}
	if err := c.load(); err != nil {
		c.log.Error("certificate not reloaded", "err", err)
	}
	return c.current, nil
}

// ClientTLS returns the TLS configuration of a client: the CA that servers must be vouched for by (the system's roots when caFile
// is empty), and the client's own certificate, which may be left out.
func ClientTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
		}
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
