//go:build !unix

package audit

import "errors"

// lock fails: without a lock two processes could ruin the trail.
func lock(string) (unlock func() error, err error) {
	return nil, errors.New("the audit trail on disk needs a system that can lock files")
}
