//go:build !linux

package kubenode

import (
	"errors"
	"os"
	"syscall"
)

var errLinux = errors.New("a Kubernetes node needs Linux")

// Supported says that only Linux can run a node.
func Supported() error { return errLinux }

// CgroupRoot is empty: only Linux has cgroups.
func CgroupRoot(dir string) string { return "" }

// What Start would call, if it went on without support.

func namespaces() *syscall.SysProcAttr     { return nil }
func lock(string) (*os.File, error)        { return nil, errLinux }
func (n *Node) within(func() error) error  { return errLinux }
func makeCgroups(string) ([]string, error) { return nil, errLinux }
func removeCgroups([]string) error         { return errLinux }
