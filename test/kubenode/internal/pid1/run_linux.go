package pid1

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// path is where a node's programs find others, the cache's before the machine's.
const path = CacheDir + "/bin:" + CacheDir + "/root/usr/bin:" + CacheDir + "/root/usr/sbin:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

// Run is process 1: it sets the namespaces up, says so on its standard output, and then starts the programs that it reads, until the
// end of its input, or that of one of them. The namespaces (process IDs, mounts, network, host name, IPC) must be new, and its own.
// Node and cache are folders of the machine.
func Run(hostname, node, cache string) error {
	if os.Getpid() != 1 {
		return errors.New("this is for process 1 of a node's namespaces")
	}
	if err := mounts(node, cache); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := network(); err != nil {
		return err
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	fmt.Println(Ready)
	err := supervise(os.Stdin)
	if err != nil {
		fmt.Println(err)
	}
	return err
}

// mounts gives the node places with fixed names of its own, so that nothing is left in the machine's.
func mounts(node, cache string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Opened before anything is mounted, as any of it may hide them.
	binds := []struct {
		from string
		to   string
		dir  *os.File
	}{{from: node, to: NodeDir}, {from: cache, to: CacheDir}, {from: filepath.Join(node, "log"), to: "/var/log"}, {from: filepath.Join(node, "lib"), to: "/var/lib"}}
	for i := range binds {
		dir, err := os.Open(binds[i].from)
		if err != nil {
			return err
		}
		defer dir.Close()
		binds[i].dir = dir
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, dir := range []string{NodeDir, CacheDir, "/run/lock"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, b := range binds {
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(b.dir.Fd())), b.to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", b.from, b.to, err)
		}
	}
	// The kubelet wants to set these, which are the whole machine's. It sees files that already hold what it wants.
	for name, value := range map[string]string{
		"kernel/keys/root_maxbytes": "25000000",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
	} {
		file := filepath.Join(NodeDir, "sysctl", strings.ReplaceAll(name, "/", "_"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount a file on /proc/sys/%s: %w", name, err)
		}
	}
	return nil
}

// network gives the node its address and a route to the addresses of Services.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback link up: %w", err)
	}
	address := net.ParseIP(NodeAddress)
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(address)}); err != nil {
		return fmt.Errorf("add the node's address: %w", err)
	}
	// Without any route connect() fails before kube-proxy's rules see a packet. On a route by the loopback link the rules' rejections
	// get lost, and a call to a Service without pods hangs instead of being refused. The link is an empty bridge because not every
	// kernel has dummy links.
	services := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "services0"}}
	if err := netlink.LinkAdd(services); err != nil {
		return fmt.Errorf("add a link for Services: %w", err)
	}
	if err := netlink.LinkSetUp(services); err != nil {
		return fmt.Errorf("set the link for Services up: %w", err)
	}
	_, destination, err := net.ParseCIDR(ServiceNetwork)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: services.Index, Dst: destination, Src: address}); err != nil {
		return fmt.Errorf("add a route to Services: %w", err)
	}
	for name, why := range map[string]string{
		"ipv4/ip_forward": "pods reach the node and Services",
		// Or a pod's answer to another pod on the same bridge would bypass the translation of a Service's address.
		"bridge/bridge-nf-call-iptables": "pods reach each other by Services; the kernel's module br_netfilter has it",
	} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return fmt.Errorf("so that %s: %w", why, err)
		}
	}
	return nil
}

// running is a program that was started.
type running struct {
	name     string
	pid      int
	replaced bool          // and so may end
	ended    chan struct{} // closed then
}

// supervise starts the programs that it reads until the end of its input or of one of them. It buries the processes of others, too,
// which the kernel leaves to process 1.
func supervise(input io.Reader) error {
	var mu sync.Mutex // held while a program starts, so that it is known when it is buried
	programs := make(map[int]*running)
	over := make(chan error)

	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	go func() {
		for range children {
			mu.Lock()
			for {
				var status unix.WaitStatus
				pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
				if err != nil || pid <= 0 {
					break
				}
				p := programs[pid]
				delete(programs, pid)
				switch {
				case p == nil: // not a program of ours
				case p.replaced:
					close(p.ended)
				default:
					over <- fmt.Errorf("%s ended: exit status %d, signal %d", p.name, status.ExitStatus(), max(0, status.Signal()))
				}
			}
			mu.Unlock()
		}
	}()
	go func() {
		byName := make(map[string]*running)
		for d := json.NewDecoder(bufio.NewReader(input)); ; {
			var p Program
			if err := d.Decode(&p); err == io.EOF {
				over <- nil
				return
			} else if err != nil {
				over <- fmt.Errorf("read programs: %w", err)
				return
			}
			if last := byName[p.Name]; last != nil {
				mu.Lock()
				last.replaced = true
				mu.Unlock()
				if err := unix.Kill(last.pid, unix.SIGKILL); err != nil {
					over <- fmt.Errorf("end %s: %w", p.Name, err)
					return
				}
				<-last.ended
			}
			mu.Lock()
			pid, err := start(p)
			programs[pid] = &running{name: p.Name, pid: pid, ended: make(chan struct{})}
			byName[p.Name] = programs[pid]
			mu.Unlock()
			if err != nil {
				over <- fmt.Errorf("start %s: %w", p.Name, err)
				return
			}
			fmt.Println(Started + p.Name)
		}
	}()
	return <-over
}

func start(p Program) (pid int, err error) {
	log, err := os.OpenFile(filepath.Join("/var/log", p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env = append([]string{"PATH=" + path}, p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// It is not waited for by this handle, but buried with all others.
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// Exec becomes a program that runs in the network of a process, and in nothing else of it: the process ID stays, and so do files.
func Exec(pid int, args []string) error {
	if len(args) == 0 {
		return errors.New("no program given")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the new program gets the network of the thread that calls for it
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the node's network: %w", err)
	}
	return unix.Exec(program, args, os.Environ())
}
