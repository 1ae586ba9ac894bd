package handover_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/handover"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder returns one in which sockets may be handed over. Its name is short, as names of Unix sockets have to be.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "handover")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func listen(t *testing.T, address string) *handover.Socket {
	t.Helper()
	s, err := handover.Listen(t.Context(), address)
	must(t, err)
	return s
}

func offer(t *testing.T, dir, as string, sockets ...*handover.Socket) *handover.Offer {
	t.Helper()
	o, err := handover.NewOffer(dir, as, sockets, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	return o
}

func take(t *testing.T, dir, from string) []*handover.Socket {
	t.Helper()
	sockets, err := handover.Take(dir, from)
	must(t, err)
	return sockets
}

func addresses(sockets []*handover.Socket) (all []string) {
	for _, s := range sockets {
		all = append(all, s.Address())
	}
	slices.Sort(all)
	return all
}

// A connection that nobody has accepted outlives all who had the socket before.
func TestConnectionsWaitForWhoTakesTheSocket(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	first := listen(t, "127.0.0.1:0")
	address := first.Address()
	var clients []net.Conn
	dial := func() {
		c, err := net.Dial("tcp", address)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	dial()
	before := offer(t, dir, "first", first)
	for _, name := range []string{"second", "third"} {
		taken := take(t, dir, "")
		if diff := cmp.Diff([]string{address}, addresses(taken)); diff != "" {
			t.Fatalf("%s takes (-want +got):\n%s", name, diff)
		}
		must(t, before.Close())
		dial() // while nobody serves
		before = offer(t, dir, name, taken...)
	}
	last := take(t, dir, "third")
	must(t, before.Close())
	l, err := last[0].Listener()
	must(t, err)
	must(t, handover.CloseAll(last))
	dial()
	for _, client := range clients {
		c, err := l.Accept()
		must(t, err)
		if _, err := io.WriteString(c, "served"); err != nil {
			t.Fatal(err)
		}
		must(t, c.Close())
		if got, err := io.ReadAll(client); string(got) != "served" || err != nil {
			t.Errorf("a client read %q, %v", got, err)
		}
	}
	must(t, l.Close())
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("somebody has the socket still")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the folder has %v, %v", left, err)
	}
}

// Who waits is told to try again, and who comes later is not refused.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := listen(t, "127.0.0.1:0")
	var waiting []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", s.Address())
		must(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "request")
		must(t, err)
		waiting = append(waiting, c)
	}
	must(t, s.Drain())
	for _, c := range waiting {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a client that waits sees %v", err)
		}
	}
	dialer := net.Dialer{Timeout: 50 * time.Millisecond} // whose end shows that there was no answer
	c, err := dialer.Dial("tcp", s.Address())
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("a client that comes later has %v and sees %v", c, err)
	}
	must(t, s.Drain()) // of nothing
	must(t, s.Close())
}

func TestTake(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if got := take(t, dir, ""); len(got) != 0 {
		t.Errorf("of nobody: %q", addresses(got))
	}
	v4, v6, other := listen(t, "127.0.0.1:0"), listen(t, "[::1]:0"), listen(t, "127.0.0.1:0")
	all := []string{v4.Address(), v6.Address(), other.Address()}
	hold := offer(t, dir, "hold", v4, v6)
	defer hold.Close()
	again := take(t, dir, "hold")
	serve := offer(t, dir, "server", append(again, other)...)
	for _, c := range []struct {
		from string
		want []string
	}{
		{"", all}, // each once
		{"hold", all[:2]},
		{"server", all},
		{"nobody", nil},
	} {
		got := take(t, dir, c.from)
		want := slices.Sorted(slices.Values(c.want))
		if diff := cmp.Diff(want, addresses(got)); diff != "" {
			t.Errorf("from %q (-want +got):\n%s", c.from, diff)
		}
		must(t, handover.CloseAll(got))
	}
	must(t, serve.Rename("other"))
	for from, want := range map[string]int{"server": 0, "other": 3} {
		got := take(t, dir, from)
		if len(got) != want {
			t.Errorf("of the one that is renamed %s offers %q, want %d", from, addresses(got), want)
		}
		must(t, handover.CloseAll(got))
	}
	must(t, serve.Withdraw())
	if got := take(t, dir, "other"); len(got) != 0 {
		t.Errorf("of an offer that was withdrawn: %q", addresses(got))
	}
	must(t, serve.Close())
	got := take(t, dir, "")
	defer handover.CloseAll(got)
	if one := handover.Find(got, v6.Address()); one == nil || handover.Find(got, other.Address()) != nil {
		t.Errorf("found %v", one)
	} else if rest := handover.Without(got, one); len(rest) != 1 || rest[0].Address() != v4.Address() {
		t.Errorf("without it: %q", addresses(rest))
	}
}

// What processes leave that were killed is cleared away, and what nobody has offered is left alone.
func TestTakeFromTheDead(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "hold.dead")})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	must(t, os.WriteFile(filepath.Join(dir, "hold.file"), nil, 0o600))
	if got := take(t, dir, ""); len(got) != 0 {
		t.Errorf("took %q", addresses(got))
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 1 || left[0].Name() != "hold.file" {
		t.Errorf("the folder has %v", left)
	}
}

// Who has sockets and is not let run has them still: nobody may go on as if there were none.
func TestTakeFromWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "hold.silent")})
	must(t, err)
	defer l.Close()
	if got, err := handover.Take(dir, ""); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("took %q, %v", addresses(got), err)
	}
}

// What is handed over is looked at: only listening sockets of TCP are taken.
func TestTakeWhatIsNotASocket(t *testing.T) {
	t.Parallel()
	connected, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(connected[0])
	defer unix.Close(connected[1])
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	for name, c := range map[string]struct {
		data string
		fds  []int
	}{
		"a file":                    {"\x01", []int{int(null.Fd())}},
		"a socket of a client":      {"\x01", connected[:1]},
		"nothing, and a word":       {"\x01", nil},
		"fewer than were announced": {"\x02", []int{int(null.Fd())}},
		"more than there may be":    {"\x11", slices.Repeat([]int{int(null.Fd())}, 17)},
	} {
		dir := folder(t)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "hold.false")})
		must(t, err)
		done := make(chan error, 1)
		go func() {
			conn, err := l.AcceptUnix()
			if err == nil {
				_, _, err = conn.WriteMsgUnix([]byte(c.data), unix.UnixRights(c.fds...), nil)
				err = errors.Join(err, conn.Close())
			}
			done <- err
		}()
		if got, err := handover.Take(dir, ""); err == nil {
			t.Errorf("%s: took %q", name, addresses(got))
		}
		must(t, <-done)
		must(t, l.Close())
	}
}

// A folder in which others could offer sockets is used by nothing.
func TestFoldersOfOthers(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	others := filepath.Join(dir, "others")
	must(t, os.Mkdir(others, 0o700))
	must(t, os.Chmod(others, 0o777))
	s := listen(t, "127.0.0.1:0")
	defer s.Close()
	for _, dir := range []string{others, filepath.Join(dir, "file"), filepath.Join(dir, "none")} {
		if _, err := handover.Take(dir, ""); err == nil {
			t.Errorf("%s: took from it", dir)
		}
		if _, err := handover.Lock(t.Context(), dir); err == nil {
			t.Errorf("%s: locked it", dir)
		}
		if _, err := handover.NewOffer(dir, "hold", []*handover.Socket{s}, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: offered in it", dir)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	must(t, os.Chmod(others, 0o700))
	must(t, os.Chown(others, 65532, 65532))
	if _, err := handover.Take(others, ""); err == nil {
		t.Error("took from another user's folder")
	}
}

func TestOffersAreBounded(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := listen(t, "127.0.0.1:0")
	defer s.Close()
	for _, n := range []int{0, 17} {
		if _, err := handover.NewOffer(dir, "hold", slices.Repeat([]*handover.Socket{s}, n), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("offered %d", n)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(folder(t), "socket")})
	must(t, err)
	defer l.Close()
	if _, err := handover.New(l); err == nil {
		t.Error("made a socket for TCP of one that is not")
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s, err := handover.New(tcp)
	must(t, err)
	must(t, tcp.Close())
	c, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Errorf("the socket is gone with the listener: %v", err)
	} else {
		c.Close()
	}
	must(t, s.Close())
}

// An address that the machine does not have yet is listened on, and one that is taken is not.
func TestListen(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"192.0.2.1:0", "[2001:db8::1]:0"} {
		s, err := handover.Listen(t.Context(), address)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			t.Logf("%s: %v", address, err)
			continue
		}
		must(t, err)
		must(t, s.Close())
	}
	s := listen(t, "127.0.0.1:0")
	defer s.Close()
	if _, err := handover.Listen(t.Context(), s.Address()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("listened twice: %v", err)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	unlock, err := handover.Lock(t.Context(), dir)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := handover.Lock(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("locked twice: %v", err)
	}
	next := make(chan error, 1)
	go func() {
		unlock, err := handover.Lock(context.Background(), dir)
		if err == nil {
			err = unlock()
		}
		next <- err
	}()
	must(t, unlock())
	must(t, <-next)
}

func TestWait(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	lacking := errors.New("nobody hands it over")
	ctx, cancel := context.WithCancel(t.Context())
	looked := 0
	_, _, err := handover.Wait(ctx, dir, func([]*handover.Socket) error {
		if looked++; looked == 2 {
			cancel()
		}
		return lacking
	})
	if !errors.Is(err, lacking) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want what is missing", err)
	}
	s := listen(t, "127.0.0.1:0")
	var held *handover.Offer
	got, unlock, err := handover.Wait(t.Context(), dir, func(sockets []*handover.Socket) error {
		if handover.Find(sockets, s.Address()) != nil {
			return nil
		}
		held = offer(t, dir, "hold", s)
		return lacking
	})
	must(t, err)
	defer held.Close()
	defer handover.CloseAll(got)
	if _, err := handover.Lock(ctx, dir); err == nil {
		t.Error("the folder is not locked")
	}
	must(t, unlock())
}

// Other users get nothing, whatever the file system lets them do.
func TestOtherUsersGetNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	t.Parallel()
	dir := folder(t)
	s := listen(t, "127.0.0.1:0")
	var log bytes.Buffer
	o, err := handover.NewOffer(dir, "hold", []*handover.Socket{s}, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "hold.*"))
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Chmod(files[0], 0o777))
	read := make(chan int, 1)
	go func() {
		defer close(read)
		asAnother(t, func() {
			c, err := net.Dial("unix", files[0])
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			control := make([]byte, 1024)
			_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), control)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			read <- n
		})
	}()
	if n := <-read; n != 0 {
		t.Errorf("another user got %d bytes", n)
	}
	must(t, o.Close())
	if !strings.Contains(log.String(), "user 65532 asks") {
		t.Errorf("the log says %q", log.String())
	}
}

// asAnother calls f on a thread that is another user's, which ends with it.
func asAnother(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread() // for good
	// Not syscall.Setresuid, which is for all threads.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65532, ^uintptr(0)); errno != 0 {
		t.Error(errno)
		return
	}
	f()
}
