package kubenode

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
)

// Environment variables that name a cluster of somebody else's, which tests may use and change at will instead of a node of their own.
// docs/testing.md has an example.
const (
	KubeconfigVariable = "LANYARD_TEST_KUBECONFIG" // see Existing.Kubeconfig
	LoadVariable       = "LANYARD_TEST_LOAD"       // see Existing.Load; words between spaces
	MachineVariable    = "LANYARD_TEST_MACHINE"    // see Existing.Machine
)

// KindCluster is the name of a cluster of kind's that KUBECONFIG may lead tests to. Its name is its owner's leave: no other cluster is used
// because KUBECONFIG names it, for that may be one that somebody works with.
const KindCluster = "lanyard-test"

// Existing is a cluster that somebody else runs.
type Existing struct {
	Kubeconfig string   // the file of an administrator's kubeconfig
	Load       []string // the command that gives the cluster an image, given an OCI archive as its last argument
	Machine    string   // the folder where the cluster's nodes have this machine's root; empty if they do not have it
}

// FromEnvironment is the cluster that the environment names, if it does.
func FromEnvironment() (e Existing, named bool) {
	if e.Kubeconfig = os.Getenv(KubeconfigVariable); e.Kubeconfig == "" {
		if e, named = kind(os.Getenv(clientcmd.RecommendedConfigPathEnvVar)); !named {
			return Existing{}, false
		}
	}
	if load := strings.Fields(os.Getenv(LoadVariable)); len(load) > 0 {
		e.Load = load
	}
	e.Machine = cmp.Or(os.Getenv(MachineVariable), e.Machine)
	return e, true
}

// kind is the cluster of that name, made as docs/testing.md says, if the kubeconfig leads to it.
func kind(kubeconfig string) (Existing, bool) {
	if kubeconfig == "" {
		return Existing{}, false
	}
	config, err := clientcmd.LoadFromFile(kubeconfig) // not if there are several files, of which a context may be of any
	if err != nil || config.CurrentContext != "kind-"+KindCluster {
		return Existing{}, false
	}
	return Existing{Kubeconfig: kubeconfig, Load: []string{"kind", "load", "image-archive", "--name", KindCluster}, Machine: "/machine"}, true
}

// Use returns a cluster that somebody else runs. What would need its node itself, such as [Node.RestartAPIServer], fails, and [Node.Stop]
// ends nothing but what goes through the API server.
func Use(e Existing) (*Node, error) {
	c, err := Config{}.withDefaults()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Kubeconfig, err)
	}
	config.QPS = -1
	n := &Node{config: c, kubeconfig: e.Kubeconfig, rest: config, existing: &e}
	var end context.CancelFunc
	n.life, end = context.WithCancel(context.Background())
	n.stop = func() error {
		end()
		n.forwards.Wait()
		return nil
	}
	return n, nil
}

// Own tells whether this is a node of [Start]. The programs of somebody else's cluster cannot be restarted.
func (n *Node) Own() bool { return n.existing == nil }

// load has the cluster's own tool give it images.
func (n *Node) load(ctx context.Context, archives []string) error {
	if len(n.existing.Load) == 0 {
		return fmt.Errorf("%s: %s must be the command that gives this cluster an image, such as \"kind load image-archive\"", n.kubeconfig, LoadVariable)
	}
	for _, archive := range archives {
		archive, err := filepath.Abs(archive)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, n.existing.Load[0], append(n.existing.Load[1:len(n.existing.Load):len(n.existing.Load)], archive)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	return nil
}

// forward connects to a Service by its name, NAME.NAMESPACE.svc and what follows, through the API server.
func (n *Node) forward(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	name := strings.Split(host, ".")
	if len(name) < 3 || name[2] != "svc" {
		return nil, fmt.Errorf("%s: only Services are reached in somebody else's cluster, as NAME.NAMESPACE.svc, not %s", n.kubeconfig, host)
	}
	life, end := context.WithCancel(n.life)
	said, says := io.Pipe()
	var complaints strings.Builder
	cmd := n.Command(life, "kubectl", "port-forward", "--address=127.0.0.1", "-n", name[1], "service/"+name[0], ":"+port)
	cmd.Stdout, cmd.Stderr = says, &complaints
	if err := cmd.Start(); err != nil {
		end()
		return nil, err
	}
	f := &forwarded{end: end, ended: make(chan struct{})}
	n.forwards.Go(func() {
		says.CloseWithError(fmt.Errorf("kubectl port-forward: %w: %s", cmd.Wait(), complaints.String()))
		close(f.ended)
	})
	undo := context.AfterFunc(ctx, end)
	lines := bufio.NewReader(said)
	line, err := lines.ReadString('\n') // "Forwarding from 127.0.0.1:40321 -> 443"
	if words := strings.Fields(line); err == nil && undo() && len(words) > 2 {
		go io.Copy(io.Discard, lines) // it tells of every connection, and this ends with it
		f.Conn, err = new(net.Dialer).DialContext(ctx, network, words[2])
	} else if err == nil {
		err = errors.Join(fmt.Errorf("kubectl port-forward: it said %q", line), ctx.Err())
	}
	if err != nil {
		f.stop()
		said.Close()
		return nil, err
	}
	return f, nil
}

// forwarded is a connection through a kubectl of its own.
type forwarded struct {
	net.Conn
	end   context.CancelFunc
	ended chan struct{}
}

// Close ends the connection and the program. It may be called again.
func (f *forwarded) Close() error {
	defer f.stop()
	return f.Conn.Close()
}

func (f *forwarded) stop() {
	f.end()
	<-f.ended
}

// ImportHostImage gives somebody else's cluster HostImage, which others have.
func (n *Node) ImportHostImage(ctx context.Context) error {
	if n.Own() {
		return nil
	}
	archive := n.config.archive("host")
	if _, err := os.Stat(archive); err != nil {
		return fmt.Errorf("the images are not built, run make e2e: %w", err)
	}
	return n.Import(ctx, archive)
}

// MachinePath is where pods that mount a folder of their node's find a path of this machine. The error says how somebody else's cluster
// must be set up for it.
func (n *Node) MachinePath(path string) (string, error) {
	switch {
	case n.Own():
		return path, nil
	case n.existing.Machine == "":
		return "", fmt.Errorf("%s: %s must be the folder where this cluster's nodes have this machine's root", n.kubeconfig, MachineVariable)
	}
	return filepath.Join(n.existing.Machine, path), nil
}
