// Package filelock keeps two processes from using the same folder.
package filelock

import (
	"errors"
	"fmt"
	"os"
)

// Hold makes a file if there is none, and holds it until the function that it returns is called, or the process ends: whoever else would hold it
// meanwhile gets an error. On systems without such locks it is always an error.
func Hold(path string) (release func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("is another process using it? %w", err), f.Close())
	}
	// A process that is being started has a copy of all open files for a moment, so that closing ours would not always be enough.
	return func() error { return errors.Join(unlock(f), f.Close()) }, nil
}
