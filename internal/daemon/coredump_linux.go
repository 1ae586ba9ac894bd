package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NoCoreDumps sees to it that the memory of this process, and with it tokens and keys, comes into no core dump, and cannot be read by
// other processes of its user. Both settings are needed: the limit is not heeded where the kernel pipes dumps to a program
// (core(5), prctl(2)). Processes that it starts afterwards inherit the limit only.
func NoCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set the limit of core dumps to nothing: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	return nil
}
