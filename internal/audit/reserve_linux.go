package audit

import (
	"errors"
	"os"
	"syscall"
)

// keepSize has fallocate(2) leave the length of a file as it is (FALLOC_FL_KEEP_SIZE).
const keepSize = 1

// reserveRoom has the file system set disk space aside for the first bytes of a file, so many, which does not change what is in it. The error
// is errors.ErrUnsupported where it cannot.
func reserveRoom(f *os.File, bytes int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), keepSize, 0, bytes)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
