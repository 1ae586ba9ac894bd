//go:build !unix

package gateway

import (
	"errors"
	"os"
)

// lockFile fails: without a lock two processes could ruin the store.
func lockFile(string) (*os.File, error) {
	return nil, errors.New("the embedded S3 store needs a system that can lock files")
}
