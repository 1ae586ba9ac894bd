// Package intercept reaches programs that know no endpoint setting: a local proxy that answers for AWS's host names,
// by HTTPS with certificates of its own authority, and hands the requests to Lanyard as they are, Host header and
// signature included. Requests to all other hosts pass untouched.
package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/localca"
)

// Config is what a Proxy needs.
type Config struct {
	Endpoint *url.URL     // of Lanyard; required
	CA       *localca.CA  // what the programs are made to trust; required
	TLS      *tls.Config  // towards the endpoint; nil trusts the system's roots
	Log      *slog.Logger // required
}

// dialTimeout bounds the connection to a host that is tunnelled.
const dialTimeout = 10 * time.Second

// New returns the proxy's handler. It serves CONNECT, and requests for http URLs as proxies get them (RFC 9112 section 3.2.2).
func New(c Config) http.Handler {
	p := &proxy{log: c.Log, tls: c.CA.TLS(IsAWS)}
	p.tls.NextProtos = []string{"http/1.1"}
	p.lanyard = forward(transport(c.TLS), c.Log, c.Endpoint)
	p.elsewhere = forward(transport(nil), c.Log, nil)
	return p
}

// transport returns one that uses no proxies, since this is the proxy, and leaves compression to the client and the server.
func transport(c *tls.Config) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableCompression = nil, true
	if c != nil {
		t.TLSClientConfig = c.Clone()
	}
	return t
}

// forward hands requests on, to an endpoint or, if that is nil, to where they were meant for.
func forward(t *http.Transport, log *slog.Logger, endpoint *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Transport: t,
		Rewrite: func(r *httputil.ProxyRequest) {
			if endpoint != nil {
				r.Out.URL.Scheme, r.Out.URL.Host = endpoint.Scheme, endpoint.Host
			}
			// Both are signed: neither may be put in order.
			r.Out.Host, r.Out.URL.RawQuery = r.In.Host, r.In.URL.RawQuery
		},
		FlushInterval: -1, // streams pass as they come
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// IsAWS reports whether a host is one of AWS's API endpoints (in any partition), which the proxy answers for.
func IsAWS(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, suffix := range []string{
		".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn", ".amazonaws.eu", ".api.amazonwebservices.eu",
	} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

type proxy struct {
	log                *slog.Logger
	tls                *tls.Config
	lanyard, elsewhere http.Handler
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.Scheme != "http":
		http.Error(w, "This is a proxy: it needs CONNECT, or an http URL.", http.StatusBadRequest)
	case IsAWS(r.URL.Hostname()) && (r.URL.Port() == "" || r.URL.Port() == "80"):
		p.lanyard.ServeHTTP(w, r)
	default:
		p.elsewhere.ServeHTTP(w, r)
	}
}

// connect answers for AWS, or opens a tunnel.
func (p *proxy) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		http.Error(w, "CONNECT needs HOST:PORT.", http.StatusBadRequest)
		return
	}
	var remote net.Conn
	intercepted := IsAWS(host) && port == "443"
	if !intercepted {
		dialer := net.Dialer{Timeout: dialTimeout}
		if remote, err = dialer.DialContext(r.Context(), "tcp", r.Host); err != nil {
			p.log.Info("tunnel not opened", "host", r.Host, "err", err)
			http.Error(w, "The host cannot be reached.", http.StatusBadGateway)
			return
		}
	}
	client, err := takeOver(w)
	if err != nil {
		p.log.Error("connection not taken over", "host", r.Host, "err", err)
		if remote != nil {
			remote.Close()
		}
		return
	}
	p.log.Debug("connection", "host", r.Host, "intercepted", intercepted)
	if intercepted {
		p.serve(tls.Server(client, p.tls))
		return
	}
	tunnel(client, remote)
}

// takeOver answers a CONNECT and returns the client's connection, with whatever it has sent already.
func takeOver(w http.ResponseWriter) (net.Conn, error) {
	w.WriteHeader(http.StatusOK)
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		conn.Close()
		return nil, err
	}
	return &bufferedConn{Conn: conn, r: buffer}, nil
}

type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// serve answers the requests of one connection.
func (p *proxy) serve(conn net.Conn) {
	l := &oneConn{conn: conn, closed: make(chan struct{})}
	server := &http.Server{
		Handler:           p.lanyard,
		ReadHeaderTimeout: dialTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelInfo),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				l.Close()
			}
		},
	}
	if err := server.Serve(l); !errors.Is(err, net.ErrClosed) {
		p.log.Warn("connection not served", "err", err)
	}
}

// oneConn is a listener that accepts one connection and then waits until that is closed.
type oneConn struct {
	conn   net.Conn
	taken  bool
	once   sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return l.conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// tunnel copies both ways until both sides have ended.
func tunnel(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		io.Copy(a, b) // an error is the end of the tunnel, which the other side sees
		closeWrite(a)
	}()
	io.Copy(b, a)
	closeWrite(b)
	<-ctx.Done()
}

// closeWrite tells the peer that no more comes.
func closeWrite(c net.Conn) {
	if buffered, ok := c.(*bufferedConn); ok {
		c = buffered.Conn
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
