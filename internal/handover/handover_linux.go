package handover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// New makes a Socket of a listener on TCP, which may be closed then.
func New(l net.Listener) (*Socket, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("%T is no listener on TCP", l)
	}
	// Not by TCPListener.File: asking its file for the descriptor puts the socket into blocking mode, and with it all that share it.
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(have uintptr) { fd, dupErr = unix.FcntlInt(have, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate the socket of %s: %w", l.Addr(), dupErr)
	}
	return &Socket{fd, l.Addr().String()}, nil
}

// Listener makes a listener of the socket. Closing that leaves the socket open.
func (s *Socket) Listener() (net.Listener, error) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the socket of %s: %w", s.address, err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.address, err)
	}
	return l, nil
}

// Close gives the socket up. Connections that wait in its queue are reset if nobody else has it.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Drain resets the connections that wait in the socket's queue, so that their clients try again at once, and lets no further ones in: what is sent
// to the socket, which Listen has made, is dropped from then on, whoever has it. A client that connects is not refused but tries again, as TCP
// does.
func (s *Socket) Drain() error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // lets 0 bytes pass
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}); err != nil {
		return fmt.Errorf("drop what is sent to %s: %w", s.address, err)
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return fmt.Errorf("drain %s: %w", s.address, err)
	}
	for {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return fmt.Errorf("drain %s: %w", s.address, err)
		}
		reset := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err := errors.Join(reset, unix.Close(fd)); err != nil {
			return fmt.Errorf("drain %s: %w", s.address, err)
		}
	}
}

// Listen binds and listens on an address, host:port, that this machine need not have yet.
func Listen(ctx context.Context, address string) (*Socket, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var setErr error
		// The option of IPv4 is that of IPv6 too (ip(7), IP_FREEBIND; the kernel has one flag for both).
		err := c.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, setErr)
	}}
	config.SetMultipathTCP(false) // which knows no filters, for Drain
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s, err := New(l)
	return s, errors.Join(err, l.Close())
}

// checkDir refuses a folder in which others than this process's user could offer sockets of theirs, or take ours.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(s.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder that this user, %d, alone can write to", dir, os.Geteuid())
	}
	return nil
}

// Lock waits until no other process has locked the folder. Whoever looks for sockets and makes what is missing locks it meanwhile. The end of
// a process unlocks what it has locked.
func Lock(ctx context.Context, dir string) (unlock func() error, err error) {
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("lock for sockets: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock for sockets: %w", err)
	}
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f.Close, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, context.Cause(ctx)), f.Close())
		}
	}
}

// Offer gives sockets to whoever takes them from a folder, until it is closed.
type Offer struct {
	file     string
	sockets  []*Socket
	listener *net.UnixListener
	log      *slog.Logger
	done     sync.WaitGroup
}

// NewOffer offers sockets in a folder, under the name of those who offer the same. They are closed with the offer.
func NewOffer(dir, as string, sockets []*Socket, log *slog.Logger) (*Offer, error) {
	if len(sockets) == 0 || len(sockets) > most {
		return nil, fmt.Errorf("offer sockets: %d are not 1 to %d", len(sockets), most)
	}
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("offer sockets: %w", err)
	}
	file := filepath.Join(dir, as+"."+rand.Text())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: file})
	if err != nil {
		return nil, fmt.Errorf("offer sockets: %w", err)
	}
	l.SetUnlinkOnClose(false) // for Rename
	o := &Offer{file: file, sockets: sockets, listener: l, log: log}
	o.done.Go(o.serve)
	return o, nil
}

func (o *Offer) serve() {
	for {
		c, err := o.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = o.give(c)
		}
		if err != nil {
			o.log.Warn("sockets not handed over", "err", err)
			time.Sleep(retry) // when there are no descriptors left
		}
	}
}

func (o *Offer) give(c *net.UnixConn) (err error) {
	defer func() { err = errors.Join(err, c.Close()) }()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, peerErr); err != nil {
		return fmt.Errorf("find out who asks: %w", err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d asks for the sockets of user %d", peer.Uid, os.Geteuid())
	}
	if err := c.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	fds := make([]int, len(o.sockets))
	for i, s := range o.sockets {
		fds[i] = s.fd
	}
	_, _, err = c.WriteMsgUnix([]byte{byte(len(fds))}, unix.UnixRights(fds...), nil)
	return err
}

// Sockets are those that are offered.
func (o *Offer) Sockets() []*Socket { return o.sockets }

// Rename goes on with the offer under another name. Who looks for both meanwhile may miss it, unless the folder is locked.
func (o *Offer) Rename(as string) error {
	to := filepath.Join(filepath.Dir(o.file), as+filepath.Ext(o.file))
	if err := os.Rename(o.file, to); err != nil {
		return fmt.Errorf("offer sockets: %w", err)
	}
	o.file = to
	return nil
}

// Withdraw ends the offer; the sockets stay open. It may be called again.
func (o *Offer) Withdraw() error {
	closed, gone := o.listener.Close(), os.Remove(o.file)
	o.done.Wait()
	if errors.Is(closed, net.ErrClosed) {
		closed = nil
	}
	if errors.Is(gone, fs.ErrNotExist) {
		gone = nil
	}
	return errors.Join(closed, gone)
}

// Close withdraws the offer, and closes its sockets.
func (o *Offer) Close() error { return errors.Join(o.Withdraw(), CloseAll(o.sockets)) }

// Take returns a socket for each address that is offered in a folder by those of a name, or by anybody if it is empty. Offers of processes that
// are gone are cleared away. One that does not answer is not gone: the error is then os.ErrDeadlineExceeded.
func Take(dir, from string) (sockets []*Socket, err error) {
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("take sockets: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("take sockets: %w", err)
	}
	for _, f := range files {
		if name, _, ok := strings.Cut(f.Name(), "."); !ok || f.Type() != fs.ModeSocket || from != "" && name != from {
			continue
		}
		offered, err := take(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("take sockets of %s: %w", f.Name(), err), CloseAll(sockets))
		}
		for _, s := range offered {
			if Find(sockets, s.address) == nil {
				sockets = append(sockets, s)
			} else if err := s.Close(); err != nil {
				return nil, errors.Join(err, CloseAll(sockets))
			}
		}
	}
	return sockets, nil
}

// take returns nothing if the offer is no more.
func take(file string) (sockets []*Socket, err error) {
	dialer := net.Dialer{Timeout: answerWithin}
	c, err := dialer.Dial("unix", file)
	switch {
	case errors.Is(err, unix.ECONNREFUSED): // its process has ended, and could not clear it away
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4*most))
	n, controlled, flags, _, err := c.(*net.UnixConn).ReadMsgUnix(data, control)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, err
	case n == 0 && controlled == 0:
		// It was withdrawn between our connecting and its accepting.
		return nil, nil
	}
	fds, parseErr := descriptors(control[:controlled])
	for _, fd := range fds {
		s, err := received(fd)
		if err != nil {
			parseErr = errors.Join(parseErr, err)
			continue
		}
		sockets = append(sockets, s)
	}
	err = errors.Join(err, parseErr)
	if err == nil && (flags&unix.MSG_CTRUNC != 0 || n != 1 || int(data[0]) != len(sockets)) {
		err = errors.New("not all sockets have come")
	}
	if err != nil {
		return nil, errors.Join(err, CloseAll(sockets))
	}
	return sockets, nil
}

func descriptors(control []byte) (all []int, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return all, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

// received makes a Socket of a descriptor, or closes it.
func received(fd int) (*Socket, error) {
	address, err := listensOn(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Socket{fd, address}, nil
}

func listensOn(fd int) (address string, err error) {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return "", err
	}
	if listening == 0 {
		return "", errors.New("not a listening socket")
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)).String(), nil
	}
	return "", fmt.Errorf("a listening socket of kind %T", name)
}
