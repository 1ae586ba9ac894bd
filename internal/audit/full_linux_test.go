package audit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// TestAFullDiskIsNoticedBefore runs TestOnAFullDisk where it may mount a small file system that nobody else sees.
func TestAFullDiskIsNoticedBefore(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOnAFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "LANYARD_SMALL_DISK="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || strings.Contains(string(out), "cannot mount") {
		t.Skip("this machine lets nobody mount a file system of his own")
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestOnAFullDisk") {
		t.Errorf("%v\n%s", err, out)
	}
}

// While the trail says that it is ready, what is recorded finds room, even if the disk is full by then. When it does not say so any more,
// the records of many calls that are under way still do. Once there is room, it is ready again.
func TestOnAFullDisk(t *testing.T) {
	disk := os.Getenv("LANYARD_SMALL_DISK")
	if disk == "" {
		t.Skip("run by TestAFullDiskIsNoticedBefore")
	}
	const size = 48 << 20
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Fatal("cannot mount: ", err)
	}
	dir := filepath.Join(disk, "audit")
	s, err := audit.OpenFiles(audit.FilesConfig{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	trail := audit.NewTrail(s, audit.Required, slog.New(slog.DiscardHandler))
	ballast := filepath.Join(disk, "ballast")
	fill := func() {
		t.Helper()
		file, err := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = file.Write(make([]byte, 64<<10))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	keep := func() {
		t.Helper()
		e := event("Large")
		e.Time = time.Now()
		e.Lanyard.Decision = strings.Repeat("x", 100<<10)
		if err := trail.Record(t.Context(), e); err != nil {
			t.Fatalf("record %d did not find room, though it was promised: %v", kept, err)
		}
		kept++
	}
	for round := range 3 {
		fill()
		for before := kept; trail.Ready() == nil; {
			keep()
			if kept-before > 100 {
				t.Fatal("10 MB fit on a full disk")
			}
		}
		for range 35 { // 3.5 MB of calls that are under way
			keep()
		}
		if err := trail.Ready(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("round %d: on a full disk, the trail is ready: %v", round, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // the process ends, and the disk is full when the next begins
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			fill()
			if s, err = audit.OpenFiles(audit.FilesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err != nil {
				t.Fatal(err)
			}
			trail = audit.NewTrail(s, audit.Required, slog.New(slog.DiscardHandler))
			if err := trail.Ready(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a trail that is opened on a full disk is ready: %v", err)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}
		if err := trail.Ready(); err != nil {
			t.Fatalf("round %d: there is room, and the trail is not ready: %v", round, err)
		}
		for range 20 {
			keep()
		}
		if round == 2 {
			break
		}
		if got := len(find(t, s, audit.Query{})); got != kept {
			t.Fatalf("%d records are found, want %d", got, kept)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
