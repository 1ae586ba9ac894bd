package kubenode

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supported says why this machine cannot run a node, if it cannot. What it lacks in programs [Built] says.
func Supported() error {
	if os.Geteuid() != 0 {
		return errors.New("a Kubernetes node needs root")
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		return errors.New("a Kubernetes node needs the kernel's module br_netfilter: modprobe br_netfilter")
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return errors.New("a Kubernetes node needs cgroups, which are not mounted here")
	}
	try := exec.Command("true")
	try.SysProcAttr = namespaces()
	if err := try.Run(); err != nil {
		return fmt.Errorf("a Kubernetes node needs namespaces of its own: %w", err)
	}
	return nil
}

// namespaces are what process 1 of a node is started with. The new session keeps a terminal's signals from the node.
func namespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
}

// lock takes a folder for this process, and those that it shares the file with.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("a node is up in %s already", dir)
	}
	return f, nil
}

// within calls f on a thread in the node's network. Sockets stay in the network that they were made in.
func (n *Node) within(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(n.network.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the node's network: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// CgroupRoot is the path of the cgroup of the node with a folder, in every hierarchy of cgroups.
func CgroupRoot(dir string) string {
	return fmt.Sprintf("/lanyard-node-%.6x", sha256.Sum256([]byte(dir)))
}

type cgroupMount struct {
	path    string
	version int
}

// cgroupMounts lists the hierarchies of cgroups: one for all controllers (version 2), or one for each (version 1), or both.
func cgroupMounts() ([]cgroupMount, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []cgroupMount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) < 3 || !strings.HasPrefix(fields[1], "/sys/fs/cgroup"):
		case fields[2] == "cgroup":
			mounts = append(mounts, cgroupMount{fields[1], 1})
		case fields[2] == "cgroup2":
			mounts = append(mounts, cgroupMount{fields[1], 2})
		}
	}
	return mounts, lines.Err()
}

// makeCgroups makes the node's cgroup in every hierarchy, for containers' to be made below, and returns their folders. What a node that
// was not stopped has left of them goes first.
func makeCgroups(root string) (dirs []string, err error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		dirs = append(dirs, filepath.Join(m.path, root))
	}
	if err := removeCgroups(dirs); err != nil {
		return nil, err
	}
	for i, m := range mounts {
		if err := os.Mkdir(dirs[i], 0o755); err != nil {
			return dirs, fmt.Errorf("make a cgroup: %w", err)
		}
		if m.version == 2 {
			if err := delegate(m.path); err != nil {
				return dirs, err
			}
			continue
		}
		// A new cgroup has no processors and no memory, but for what it is told.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			set, err := os.ReadFile(filepath.Join(m.path, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // not the hierarchy of cpuset
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dirs[i], name), set, 0)
			}
			if err != nil {
				return dirs, fmt.Errorf("give a cgroup the machine's processors: %w", err)
			}
		}
	}
	return dirs, nil
}

// delegate has the cgroups below a version 2 hierarchy's root use all its controllers. The kubelet does the same further below.
func delegate(root string) error {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("use the controller %s in cgroups: %w", name, err)
		}
	}
	return nil
}

// removeCgroups removes cgroups and those below. One of a process that has just ended may be busy for a moment.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(10 * time.Second)
	for _, dir := range dirs {
		for {
			err := removeCgroup(dir)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove a cgroup: %w", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

func removeCgroup(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range below {
		if d.IsDir() {
			if err := removeCgroup(filepath.Join(dir, d.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
