//go:build !linux

package link

import (
	"errors"
	"fmt"
)

// Ensure fails: only Linux has the links that it makes.
func Ensure(c Config) (Result, error) {
	return Result{}, fmt.Errorf("only Linux nodes can be set up; give this one %s by its own means: %w", c.IPv4, errors.ErrUnsupported)
}

// Remove fails as Ensure does.
func Remove(c Config) (Result, error) {
	return Result{}, fmt.Errorf("only Linux nodes can be set up; take %s from this one by its own means: %w", c.IPv4, errors.ErrUnsupported)
}

// Park fails as Ensure does.
func Park(c Config) (Result, error) {
	return Result{}, fmt.Errorf("only Linux nodes can drop what is sent to %s: %w", c.IPv4, errors.ErrUnsupported)
}
