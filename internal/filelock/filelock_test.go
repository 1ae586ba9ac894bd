//go:build unix

package filelock_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lanyard-id/lanyard/internal/filelock"
)

func TestHold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	release, err := filelock.Hold(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Hold(path); err == nil || !strings.Contains(err.Error(), "is another process using it?") {
		t.Errorf("held twice: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = filelock.Hold(path)
	if err != nil {
		t.Fatalf("once it was released: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if _, err := filelock.Hold(filepath.Join(path, "lock")); err == nil {
		t.Error("a file below a file was held")
	}
}

// A process that is being started has the file open, too, until it becomes another program.
func TestReleaseCountsForCopies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	release, err := filelock.Hold(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range opened(t, path) {
		copied, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(copied)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = filelock.Hold(path)
	if err != nil {
		t.Fatalf("a copy holds it still: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

// opened returns the descriptors by which this process has a file open.
func opened(t *testing.T, path string) (all []int) {
	t.Helper()
	var want, have syscall.Stat_t
	if err := syscall.Stat(path, &want); err != nil {
		t.Fatal(err)
	}
	for fd := range 1024 {
		if syscall.Fstat(fd, &have) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			all = append(all, fd)
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s is not open: %v", path, os.ErrNotExist)
	}
	return all
}
