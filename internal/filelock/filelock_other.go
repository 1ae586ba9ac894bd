//go:build !unix

package filelock

import (
	"errors"
	"os"
)

// lock fails: without a lock two processes could ruin what they write.
func lock(*os.File) error { return errors.New("this system cannot lock files") }

func unlock(*os.File) error { return nil }
