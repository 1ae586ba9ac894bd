//go:build !linux

package daemon

import "errors"

// NoCoreDumps fails with errors.ErrUnsupported: it is for Linux.
func NoCoreDumps() error { return errors.ErrUnsupported }
