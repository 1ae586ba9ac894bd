// Package embedded runs one etcd member inside this process.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/kv/etcd"
	bolt "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// startTimeout bounds a start. A member that is alone elects itself in a fraction of a second; reading a large
// directory from a slow disk takes longer.
const startTimeout = time.Minute

// Open starts a member whose data is kept in dir, without listening on any TCP port, and returns once it serves. The
// store's Close stops it cleanly. A directory that is in use or damaged is refused with an error that says what to do.
//
// What Commit acknowledged is on the disk (fsync), whatever then happens to the process. When the member itself fails
// later, for instance because the disk is full, that is logged as an error, every call returns kv.ErrUnavailable from
// then on, and only a new process helps.
func Open(ctx context.Context, dir string, log *slog.Logger) (kv.Store, error) {
	m, err := start(ctx, dir, nil, log)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: %w", err)
	}
	return &store{member: m, inner: etcd.New(v3client.New(m.etcd.Server))}, nil
}

// Server is a member that etcd clients reach over TCP.
type Server struct {
	// Endpoint is the URL for etcd.Config.
	Endpoint string

	member *member
}

// Serve is like Open, but serves etcd's API at a loopback address ("127.0.0.1:2379"; port 0 takes a free one), so
// that several processes on one machine can share a store. There is neither TLS nor authentication: everything on the
// machine has access, and other addresses are refused.
func Serve(ctx context.Context, dir, address string, log *slog.Logger) (*Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("embedded etcd: %s is not a loopback IP address; the server has no authentication", address)
	}
	for {
		at := address
		if port == "0" {
			if at, err = freePort(host); err != nil {
				return nil, fmt.Errorf("embedded etcd: %w", err)
			}
		}
		endpoint := url.URL{Scheme: "http", Host: at}
		m, err := start(ctx, dir, &endpoint, log)
		switch {
		case err == nil:
			return &Server{Endpoint: endpoint.String(), member: m}, nil
		case port != "0" || !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("embedded etcd: %w", err)
		}
		// The port was free, and became somebody else's before etcd had it.
	}
}

// freePort finds a port by listening on it for a moment: etcd opens its listeners itself.
func freePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Close stops the server.
func (s *Server) Close() error { return s.member.close() }

// member is a running etcd and the lock on its directory.
type member struct {
	etcd   *embed.Etcd
	bridge *bridge
	lock   *fileutil.LockedFile
}

func start(ctx context.Context, dir string, listen *url.URL, log *slog.Logger) (m *member, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// etcd's own locks are waited for; ours fails at once. It goes with the process, however that ends.
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("the data directory %s is in use by another process: stop that, or use another directory", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()

	bridge := newBridge(log)
	if err := bridge.guard(func() error { return check(bridge.logger, dir) }); err != nil {
		return nil, damaged(dir, err)
	}
	var e *embed.Etcd
	if err := bridge.guard(func() (err error) {
		e, err = embed.StartEtcd(config(dir, listen, bridge.logger))
		return err
	}); err != nil {
		return nil, damaged(dir, err)
	}
	// From here on, etcd closes the directory before the lock goes.
	stop := func(err error) (*member, error) {
		e.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return stop(err)
	case <-bridge.failed:
		// Not stopped: that would wait for the part that failed.
		return nil, damaged(dir, bridge.failure())
	case <-ctx.Done():
		return stop(fmt.Errorf("%w: it is not ready after %s: %w", kv.ErrUnavailable, startTimeout, ctx.Err()))
	}
	bridge.started()
	return &member{etcd: e, bridge: bridge, lock: lock}, nil
}

// damaged says what to do about a start that failed. Files that cannot be reached, and addresses that are taken, are
// no damage.
func damaged(dir string, err error) error {
	var network *net.OpError
	if errors.As(err, &network) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, bolt.ErrTimeout) {
		return fmt.Errorf("start in the data directory %s: %w", dir, err)
	}
	return fmt.Errorf("the data directory %s is damaged or was not made by this program: restore it from a backup, "+
		"or move it away to start empty: %w", dir, err)
}

// config returns the member's settings. They differ from etcd's own defaults where one member in a small process
// needs other ones.
func config(dir string, listen *url.URL, logger *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = "lanyard"
	c.Dir = dir
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	// There are no peers. The advertised peer URL only names the member in its own records.
	c.ListenPeerUrls = nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ListenClientUrls = nil
	if listen != nil {
		c.ListenClientUrls = []url.URL{*listen}
		c.AdvertiseClientUrls = []url.URL{*listen}
	}
	// The election, which the only member wins, is most of the time that a start takes.
	c.TickMs, c.ElectionMs = 20, 100
	// The entries since the last snapshot are kept in memory, and are read at the start.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 1000, 100
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	// Watches that are further behind list again.
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModeRevision, "10000"
	c.QuotaBackendBytes = 8 << 30
	return c
}

func (m *member) close() error {
	select {
	case <-m.bridge.failed:
		// Stopping would wait for the part that has failed. The lock stays until the process ends.
		return fmt.Errorf("embedded etcd was not stopped, because it had failed: %w", m.bridge.failure())
	default:
	}
	m.bridge.stopping()
	m.etcd.Close()
	if err := m.lock.Close(); err != nil {
		return fmt.Errorf("embedded etcd: unlock the data directory: %w", err)
	}
	return nil
}

// store passes calls on while the member runs: a call into a member that has been stopped could crash.
type store struct {
	inner  kv.Store
	member *member

	mu     sync.RWMutex // held for reading by every call
	closed bool
}

var errClosed = fmt.Errorf("%w: the embedded etcd is closed", kv.ErrUnavailable)

// usable fails if the member is no more. The caller holds mu.
func (s *store) usable() error {
	if s.closed {
		return errClosed
	}
	select {
	case <-s.member.bridge.failed:
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, s.member.bridge.failure())
	default:
		return nil
	}
}

// Get implements kv.Store.
func (s *store) Get(ctx context.Context, key string) (kv.Entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return kv.Entry{}, err
	}
	return s.inner.Get(ctx, key)
}

// List implements kv.Store.
func (s *store) List(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return nil, 0, err
	}
	return s.inner.List(ctx, prefix)
}

// Commit implements kv.Store.
func (s *store) Commit(ctx context.Context, ops ...kv.Op) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return 0, err
	}
	return s.inner.Commit(ctx, ops...)
}

// Watch implements kv.Store.
func (s *store) Watch(ctx context.Context, prefix string, after int64) <-chan kv.Batch {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return kv.Deliver(ctx, func(func(kv.Batch) bool) error { return err })
	}
	return s.inner.Watch(ctx, prefix, after)
}

// Revision implements kv.Store.
func (s *store) Revision(ctx context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return 0, err
	}
	return s.inner.Revision(ctx)
}

// Close implements kv.Store. It waits for calls under way, then for the member to stop.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.inner.Close(), s.member.close())
}
