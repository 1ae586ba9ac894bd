//go:build !linux

package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
)

var errLinux = fmt.Errorf("sockets are handed over on Linux only: %w", errors.ErrUnsupported)

// New fails: sockets are handed over on Linux only.
func New(net.Listener) (*Socket, error) { return nil, errLinux }

// Listener fails as New does.
func (*Socket) Listener() (net.Listener, error) { return nil, errLinux }

// Drain fails as New does.
func (*Socket) Drain() error { return errLinux }

// Close does nothing.
func (*Socket) Close() error { return nil }

// Listen fails as New does.
func Listen(context.Context, string) (*Socket, error) { return nil, errLinux }

// Lock fails as New does.
func Lock(context.Context, string) (unlock func() error, err error) { return nil, errLinux }

// Offer is none: there cannot be one.
type Offer struct{}

// NewOffer fails as New does.
func NewOffer(string, string, []*Socket, *slog.Logger) (*Offer, error) { return nil, errLinux }

// Sockets returns none.
func (*Offer) Sockets() []*Socket { return nil }

// Rename fails as New does.
func (*Offer) Rename(string) error { return errLinux }

// Withdraw does nothing.
func (*Offer) Withdraw() error { return nil }

// Close does nothing.
func (*Offer) Close() error { return nil }

// Take fails as New does.
func Take(string, string) ([]*Socket, error) { return nil, errLinux }
