// Package kubenode runs a real Kubernetes node for tests: etcd, the API server, the controller manager, the scheduler, the kubelet,
// kube-proxy, containerd, runc and CoreDNS, in namespaces of their own on a Linux machine, without a container engine. Pods are real:
// their tokens are projected and rotated by the kubelet, they reach Services by address and by name, and webhooks are called.
//
// It needs root. Nothing is installed on the machine, and nothing is left there when the node stops: what is built lies in a cache.
package kubenode

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/lanyard-id/lanyard/test/kubenode/internal/pid1"
)

// Addresses of a node's network. Nodes that run at once have the same, each in a network of its own.
const (
	NodeAddress    = pid1.NodeAddress    // the node's, and the API server's, at port 443
	PodNetwork     = pid1.PodNetwork     // its first address is the node's
	ServiceNetwork = pid1.ServiceNetwork // its first address is the API server's
	DNSAddress     = "10.125.0.10"       // CoreDNS's, within ServiceNetwork
)

// Images that a node has, for containers that say "imagePullPolicy: Never". Their program waits for the end; a pod of HostImage that
// mounts the machine's /usr has the machine's programs.
const (
	PauseImage = "kubenode.test/pause:1"
	HostImage  = "kubenode.test/host:1"
)

const coreDNSImage = "kubenode.test/coredns:1"

// apiService is the first address of ServiceNetwork.
const apiService = "10.125.0.1"

// KeysDir is the folder of a node's keys and certificates as its own programs see it: ca.crt, sa.key and sa.pub, which sign service
// accounts' tokens, and others. Elsewhere it is the folder pki of Config.Dir.
const KeysDir = pid1.NodeDir + "/pki"

// startTime bounds how long a node takes to be ready. It takes some 6 s where nothing else runs.
const startTime = 3 * time.Minute

// Config says what a node is like. All of it may be left out.
type Config struct {
	Repository     string    // the folder of the repository; the nearest above the working directory if empty
	Dir            string    // for this node's files, and for nothing else; .cache/kubenode/run of the repository if empty
	Name           string    // the node's; "node" if empty
	Issuer         string    // of service accounts' tokens; Issuer if empty
	APIServerFlags []string  // more flags for kube-apiserver, or others
	Out            io.Writer // where progress is told; nowhere if nil
}

// Issuer is the issuer of service accounts' tokens if a Config names none.
const Issuer = "https://oidc.kubernetes.test/clusters/node"

// withDefaults fills in what was left out.
func (c Config) withDefaults() (Config, error) {
	if c.Repository == "" {
		dir, err := repository()
		if err != nil {
			return c, err
		}
		c.Repository = dir
	}
	if c.Dir == "" {
		c.Dir = filepath.Join(c.cache(), "run")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, err
	}
	c.Dir = dir
	if c.Name == "" {
		c.Name = "node"
	}
	if c.Issuer == "" {
		c.Issuer = Issuer
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c, nil
}

// repository finds the folder of Lanyard's module at or above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/lanyard-id/lanyard\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the working directory is not in Lanyard's repository")
		}
		dir = filepath.Dir(dir)
	}
}

// cache is where Build keeps what it builds.
func (c Config) cache() string { return filepath.Join(c.Repository, ".cache", "kubenode") }

// bin is the file of one of the programs that Build builds.
func (c Config) bin(name string) string { return filepath.Join(c.cache(), "bin", name) }

// Node is a running node, or a cluster that somebody else runs. It is safe for concurrent use.
type Node struct {
	config     Config
	kubeconfig string
	rest       *rest.Config

	// What a cluster has that somebody else runs.
	existing *Existing
	life     context.Context // of the programs below; it ends with Stop
	forwards sync.WaitGroup  // programs that forward connections

	// What a node that Start started has besides.
	process  *exec.Cmd      // process 1 of the namespaces
	running  sync.Mutex     // held while a program is started
	programs io.WriteCloser // those that process 1 is to start; the namespaces end with it
	started  chan struct{}  // a word for each that it has started
	network  *os.File       // the network namespace
	lock     *os.File       // of the node's folder
	cgroups  []string
	ended    chan struct{} // closed when process 1 ended, and err is set
	err      error         // why it ended
	stop     func() error
}

// ForTest returns a node for a test: the cluster that the environment names (see [FromEnvironment]), or one that it starts and stops
// when the test ends. If neither can be had the test is skipped, or fails where CI=true: there nothing may be left out. When the test has
// failed, it is told the ends of the node's logs.
func ForTest(t testing.TB, c Config) *Node {
	t.Helper()
	if e, named := FromEnvironment(); named {
		n, err := Use(e)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Stop(); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	err := Supported()
	if err == nil {
		err = Built(c)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.LogTails())
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Start starts a node and waits until it is ready for pods and its DNS answers, which takes some 6 s. The folder that the Config
// names is the node's alone: what another node has left there goes, other files are an error, and so is a node that is up. If this
// process ends without [Node.Stop], so does the node.
func Start(ctx context.Context, c Config) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(Supported(), Built(c)); err != nil {
		return nil, err
	}
	n := &Node{config: c, started: make(chan struct{}), ended: make(chan struct{})}
	n.stop = sync.OnceValue(n.end)
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a node: %w\n%s", err, n.LogTails()), n.Stop())
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	began := time.Now()
	done := func(what string) { fmt.Fprintf(n.config.Out, "%4.1f s  %s\n", time.Since(began).Seconds(), what) }
	if err := n.prepare(); err != nil {
		return err
	}
	if err := n.launch(); err != nil {
		return err
	}
	if err := n.run(
		pid1.Program{Name: "etcd", Args: etcd()},
		pid1.Program{Name: "containerd", Args: []string{"containerd", "--config", pid1.NodeDir + "/containerd.toml"}},
		pid1.Program{Name: "kube-apiserver", Args: apiServer(n.config)},
	); err != nil {
		return err
	}
	images := make(chan error, 1)
	go func() { images <- n.importOwn(ctx) }()

	if err := n.apiServerReady(ctx); err != nil {
		return err
	}
	done("the API server is ready")
	if err := n.run(
		pid1.Program{Name: "kube-controller-manager", Args: controllerManager()},
		pid1.Program{Name: "kube-scheduler", Args: scheduler()},
		pid1.Program{Name: "kubelet", Args: kubelet(n.config, CgroupRoot(n.config.Dir))},
		// It calls nft.
		pid1.Program{Name: "kube-proxy", Args: kubeProxy(n.config), Env: []string{"LD_LIBRARY_PATH=" + libraries(n.config.cache())}},
	); err != nil {
		return err
	}
	if _, err := n.Kubectl(ctx, "create", "--validate=false", "-f", filepath.Join(n.config.Dir, "coredns.yaml")); err != nil {
		return err
	}
	if err := <-images; err != nil {
		return err
	}
	done("the images are imported")
	client, err := kubernetes.NewForConfig(n.rest)
	if err != nil {
		return err
	}
	if err := n.poll(ctx, "the node to be ready", func(ctx context.Context) error { return ready(ctx, client, n.config.Name) }); err != nil {
		return err
	}
	done("the node is ready")
	// A connection that began before kube-proxy wrote its first rules is lost, and so all are short.
	if err := n.poll(ctx, "DNS to answer", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := n.resolver().LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	}); err != nil {
		return err
	}
	done("DNS answers")
	return nil
}

// ready says what is missing for pods to run.
func ready(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}) {
		return errors.New("its condition is not Ready")
	}
	if len(node.Spec.Taints) > 0 {
		return fmt.Errorf("it is tainted: %s", node.Spec.Taints[0].Key)
	}
	_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	return err
}

// poll calls f until it succeeds, the context ends, or the node.
func (n *Node) poll(ctx context.Context, what string, f func(context.Context) error) error {
	for tick := time.Tick(50 * time.Millisecond); ; {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick:
		case <-n.ended:
			return fmt.Errorf("wait for %s: %w", what, n.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// launch starts process 1 of new namespaces, and waits for its word that they are set up.
func (n *Node) launch() error {
	c := n.config
	log, err := os.Create(filepath.Join(n.Logs(), "pid1.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	process := exec.Command(c.bin("cluster"), "init", c.Name, c.Dir, c.cache())
	process.Env = []string{}
	process.Dir = "/"
	process.Stderr = log
	process.SysProcAttr = namespaces()
	process.ExtraFiles = []*os.File{n.lock} // the folder is locked as long as there is any process of the node
	if n.programs, err = process.StdinPipe(); err != nil {
		return err
	}
	words, err := process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := process.Start(); err != nil {
		return fmt.Errorf("start process 1: %w", err)
	}
	n.process = process
	lines := bufio.NewScanner(words)
	up := lines.Scan() && lines.Text() == pid1.Ready
	go func() {
		n.err = errors.New("process 1 ended")
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), pid1.Started) {
				n.started <- struct{}{}
			} else {
				n.err = errors.New(lines.Text())
			}
		}
		if err := process.Wait(); err != nil {
			n.err = fmt.Errorf("%w (%w)", n.err, err)
		}
		close(n.ended)
	}()
	if !up {
		<-n.ended
		return n.err
	}
	if n.network, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid)); err != nil {
		return err
	}
	return n.writeScripts()
}

// run has programs started in the node, one after the other.
func (n *Node) run(programs ...pid1.Program) error {
	n.running.Lock()
	defer n.running.Unlock()
	for _, p := range programs {
		if err := json.NewEncoder(n.programs).Encode(p); err != nil {
			return fmt.Errorf("start %s: %w", p.Name, err)
		}
		select {
		case <-n.started:
		case <-n.ended:
			return fmt.Errorf("start %s: %w", p.Name, n.err)
		}
	}
	return nil
}

// RestartAPIServer kills the API server, starts it again with flags besides those of the node's Config, and waits until it is ready. It
// sees the machine's files, but for those below /run, /var/lib and /var/log. Its own files, such as the key that signs tokens, are in
// the folder [KeysDir] as it sees them. It cannot be done to somebody else's cluster.
func (n *Node) RestartAPIServer(ctx context.Context, flags ...string) error {
	if !n.Own() {
		return fmt.Errorf("%s: the API server of somebody else's cluster cannot be restarted", n.kubeconfig)
	}
	if err := n.run(pid1.Program{Name: "kube-apiserver", Args: append(apiServer(n.config), flags...)}); err != nil {
		return err
	}
	return n.apiServerReady(ctx)
}

// RestartKubelet kills the kubelet and starts it again. Pods go on meanwhile. It cannot be done to somebody else's cluster.
func (n *Node) RestartKubelet() error {
	if !n.Own() {
		return fmt.Errorf("%s: the kubelet of somebody else's cluster cannot be restarted", n.kubeconfig)
	}
	return n.run(pid1.Program{Name: "kubelet", Args: kubelet(n.config, CgroupRoot(n.config.Dir))})
}

func (n *Node) apiServerReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(n.rest)
	if err != nil {
		return err
	}
	return n.poll(ctx, "the API server to be ready", func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// Kubeconfig is the file of a kubeconfig for an administrator. A node's is of use within its network only: see [Node.Command].
func (n *Node) Kubeconfig() string { return n.kubeconfig }

// RESTConfig returns what clients written in Go need to talk to the API server as an administrator, from anywhere in this process.
func (n *Node) RESTConfig() *rest.Config { return rest.CopyConfig(n.rest) }

// Command returns a command that is to run in the node's network, with KUBECONFIG set, and kubectl in its PATH. Its process is the
// program's own, and sees the machine's files. Its names are resolved as the machine does, not as pods do.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if n.Own() {
		args = append([]string{"exec", strconv.Itoa(n.process.Process.Pid), name}, args...)
		name = n.config.bin("cluster")
	}
	cmd := exec.CommandContext(ctx, name, args...)
	for _, v := range os.Environ() {
		variable, value, _ := strings.Cut(v, "=")
		switch lower := strings.ToLower(variable); {
		case n.Own() && strings.HasSuffix(lower, "_proxy"): // there is nothing of the kind in the node's network
		case lower == "path":
			cmd.Env = append(cmd.Env, v+string(os.PathListSeparator)+n.config.bin(""))
		default:
			cmd.Env = append(cmd.Env, variable+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+n.kubeconfig)
	if n.Own() {
		cmd.Env = append(cmd.Env, "KUBECACHEDIR="+filepath.Join(n.config.Dir, "kubecache"))
	}
	return cmd
}

// Kubectl runs kubectl and returns what it printed. The error holds what it complained of.
func (n *Node) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return output(n.Command(ctx, "kubectl", args...))
}

// output runs a command. The error holds what it wrote to its standard error.
func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return out, nil
}

// Import gives the node images, from OCI archives such as deploy/image writes.
func (n *Node) Import(ctx context.Context, archives ...string) error {
	if !n.Own() {
		return n.load(ctx, archives)
	}
	for _, archive := range archives {
		ctr := exec.CommandContext(ctx, n.ctr(), "--address", n.inside(containerdSocket), "--namespace", "k8s.io", "images", "import", archive)
		if out, err := ctr.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

// importOwn imports the images that every node has as soon as containerd takes them.
func (n *Node) importOwn(ctx context.Context) error {
	if err := n.poll(ctx, "containerd", func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", n.inside(containerdSocket))
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		return err
	}
	return n.Import(ctx, n.config.archive("pause"), n.config.archive("host"), n.config.archive("coredns"))
}

// containerdSocket is where a node's containerd listens, in the node.
const containerdSocket = "/run/containerd/containerd.sock"

// ctr is the file of containerd's own client.
func (n *Node) ctr() string { return filepath.Join(n.config.cache(), "root/usr/bin/ctr") }

// inside names a file of the node's by the machine's path.
func (n *Node) inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(n.process.Process.Pid), "root", path)
}

// DialContext connects from within the node's network, where names of hosts are resolved by its DNS, as pods do with a name that ends in a
// dot. In somebody else's cluster it reaches Services only, by their names.
func (n *Node) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if !n.Own() {
		return n.forward(ctx, network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		addresses, err := n.resolver().LookupHost(ctx, strings.TrimSuffix(host, ".")+".")
		if err != nil {
			return nil, err
		}
		host = addresses[0]
	}
	return n.dial(ctx, network, net.JoinHostPort(host, port))
}

// Listen listens in the node's network, where pods and the API server reach it at NodeAddress. It cannot be done in somebody else's
// cluster.
func (n *Node) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if !n.Own() {
		return nil, fmt.Errorf("%s: there is no listening in somebody else's cluster", n.kubeconfig)
	}
	var l net.Listener
	err := n.within(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// dial connects to an IP address from the node's network.
func (n *Node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var c net.Conn
	err := n.within(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// resolver asks the node's DNS.
func (n *Node) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.dial(ctx, network, net.JoinHostPort(DNSAddress, "53"))
	}}
}

// Logs is the folder of the node's logs: a file NAME.log for each of its programs, and those of pods in the folder pods. It is empty
// for somebody else's cluster.
func (n *Node) Logs() string {
	if !n.Own() {
		return ""
	}
	return filepath.Join(n.config.Dir, "log")
}

// LogTails returns the last lines of each of the node's programs' logs.
func (n *Node) LogTails() string {
	const size = 2000
	var b strings.Builder
	if n.Logs() == "" {
		return ""
	}
	files, err := filepath.Glob(filepath.Join(n.Logs(), "*.log"))
	if err != nil {
		return err.Error()
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		if len(text) > size {
			text = text[len(text)-size:]
		}
		fmt.Fprintf(&b, "== %s\n%s\n", file, text)
	}
	return b.String()
}

// Stop ends the node, every process in it, and removes its folder. It may be called again, and says the same.
func (n *Node) Stop() error { return n.stop() }

// Done is closed when the node has ended, by Stop or because one of its programs did. It is nil for somebody else's cluster.
func (n *Node) Done() <-chan struct{} { return n.ended }

// end is Stop, once.
func (n *Node) end() error {
	var errs []error
	if n.process != nil {
		select {
		case <-n.ended:
			errs = append(errs, n.err)
		default:
			// The kernel ends all processes of the namespaces before process 1 is gone.
			errs = append(errs, n.process.Process.Kill())
			<-n.ended
		}
	}
	if n.network != nil {
		errs = append(errs, n.network.Close())
	}
	if n.lock != nil {
		errs = append(errs, removeCgroups(n.cgroups), os.RemoveAll(n.config.Dir), n.lock.Close())
	}
	return errors.Join(errs...)
}
