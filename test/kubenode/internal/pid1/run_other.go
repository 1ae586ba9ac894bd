//go:build !linux

package pid1

import "errors"

var errLinux = errors.New("this needs Linux")

// Run fails: only Linux has such namespaces.
func Run(hostname, node, cache string) error { return errLinux }

// Exec fails: only Linux has such namespaces.
func Exec(pid int, args []string) error { return errLinux }
