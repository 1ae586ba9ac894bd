// Package handover passes listening sockets from a process to those that serve beside it and after it, so that no connection is refused while
// one takes the place of another: a socket, and the connections that wait in its queue, are there as long as any process has it.
//
// Who has sockets offers them in a folder, as a Unix socket that gives them to whoever connects. The folder's owner is the user of all these
// processes, and no other may write to it: whoever gets a socket gets what clients send to it.
package handover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// most bounds how many sockets are offered at a time.
	most = 16
	// answerWithin bounds how long an offer is waited for, and how long a taker is. It is a matter of microseconds, unless one of them is not let run.
	answerWithin = 5 * time.Second
	// retry is how often a lock that another process has is tried, and how often it is looked for sockets that are to come.
	retry = 10 * time.Millisecond
)

// Socket is a listening TCP socket that this process has, apart from its listeners. It accepts nothing by itself.
type Socket struct {
	fd      int // not an os.File, which the runtime would watch for connections
	address string
}

// Address is what the socket listens on, as host:port.
func (s *Socket) Address() string { return s.address }

// CloseAll closes sockets.
func CloseAll(sockets []*Socket) (err error) {
	for _, s := range sockets {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Find returns the socket that listens on an address, or nil.
func Find(sockets []*Socket, address string) *Socket {
	i := slices.IndexFunc(sockets, func(s *Socket) bool { return s.address == address })
	if i < 0 {
		return nil
	}
	return sockets[i]
}

// Without returns the sockets but for one.
func Without(sockets []*Socket, one *Socket) []*Socket {
	return slices.DeleteFunc(slices.Clone(sockets), func(s *Socket) bool { return s == one })
}

// Wait calls Take, with the folder locked, until missing finds nothing missing in what anybody offers, and returns it. The folder is locked still,
// until unlock is called: what others lack can be made, and offered, before anybody looks again. When ctx ends, it fails with what is missing.
func Wait(ctx context.Context, dir string, missing func([]*Socket) error) (sockets []*Socket, unlock func() error, err error) {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		if unlock, err = Lock(ctx, dir); err != nil {
			return nil, nil, err
		}
		if sockets, err = Take(dir, ""); err != nil {
			return nil, nil, errors.Join(err, unlock())
		}
		lack := missing(sockets)
		if lack == nil {
			return sockets, unlock, nil
		}
		if err := errors.Join(CloseAll(sockets), unlock()); err != nil {
			return nil, nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for sockets in %s: %w: %w", dir, lack, context.Cause(ctx))
		}
	}
}
