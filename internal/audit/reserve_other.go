//go:build !linux

package audit

import (
	"errors"
	"os"
)

// reserveRoom fails: how to reserve room for a file is each system's own affair.
func reserveRoom(*os.File, int64) error { return errors.ErrUnsupported }
