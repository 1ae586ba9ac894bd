package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lanyard-id/lanyard/internal/daemon"
)

// The setting cannot be taken back, and so is made in a process of its own.
func TestNoCoreDumps(t *testing.T) {
	if os.Getenv("LANYARD_TEST_CORE_DUMPS") != "" {
		if os.Getenv("LANYARD_TEST_CORE_DUMPS") == "guarded" {
			if err := daemon.NoCoreDumps(); err != nil {
				t.Fatal(err)
			}
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
			t.Fatal(err)
		}
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("core files of %d bytes, dumpable %d\n", limit.Max, dumpable)
		return
	}
	t.Parallel()
	for _, c := range []struct {
		name, want string
		is         bool
	}{
		{"guarded", "core files of 0 bytes, dumpable 0", true},
		{"unguarded", "dumpable 0", false},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoCoreDumps$")
		cmd.Env = append(os.Environ(), "LANYARD_TEST_CORE_DUMPS="+c.name)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
		if strings.Contains(string(out), c.want) != c.is {
			t.Errorf("%s: got %q, want %q: %v", c.name, out, c.want, c.is)
		}
	}
}
