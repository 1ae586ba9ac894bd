package kubenode

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/lanyard-id/lanyard/test/kubenode/internal/pid1"
)

// files are those of every node, as they are.
//
//go:embed files
var files embed.FS

const server = "https://" + NodeAddress + ":443"

// The programs' command lines. Where a flag is there for more than the obvious, it says why.

func etcd() []string {
	const clients, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return []string{"etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync",
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers}
}

func apiServer(c Config) []string {
	return append([]string{"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port=443", "--bind-address=0.0.0.0", "--advertise-address=" + NodeAddress,
		"--tls-cert-file=" + pki("server.crt"), "--tls-private-key-file=" + pki("server.key"),
		"--client-ca-file=" + pki("ca.crt"), "--token-auth-file=" + pki("tokens.csv"),
		// Nobody has such a certificate. But those who ask the API server whom to trust complain until it says.
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + c.Issuer, "--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range=" + ServiceNetwork,
	}, c.APIServerFlags...)
}

func controllerManager() []string {
	return append(controller("kube-controller-manager"),
		"--service-account-private-key-file="+pki("sa.key"), "--root-ca-file="+pki("ca.crt"),
		"--use-service-account-credentials", // one for each controller: the node stays tainted without
		"--flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins",
		"--controllers=*,-node-ipam-controller,-service-lb-controller",
	)
}

func scheduler() []string { return controller("kube-scheduler") }

func controller(name string) []string {
	kubeconfig := filepath.Join(pid1.NodeDir, name+".kubeconfig")
	return []string{name, "--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--cert-dir=/var/lib/" + name,
		// At the rates that they have by default, the start of all the controllers takes some 5 s.
		"--kube-api-qps=500", "--kube-api-burst=1000",
	}
}

func kubelet(c Config, cgroupRoot string) []string {
	return []string{"kubelet", "--config=" + pid1.NodeDir + "/kubelet.yaml", "--kubeconfig=" + pid1.NodeDir + "/kubelet.kubeconfig",
		"--hostname-override=" + c.Name, "--node-ip=" + NodeAddress, "--cgroup-root=" + cgroupRoot,
		"--tls-cert-file=" + pki("kubelet.crt"), "--tls-private-key-file=" + pki("kubelet.key")}
}

func kubeProxy(c Config) []string {
	return []string{"kube-proxy", "--config=" + pid1.NodeDir + "/kube-proxy.yaml", "--hostname-override=" + c.Name}
}

// pki names a file of the node's keys and certificates, as the node's programs do.
func pki(name string) string { return filepath.Join(KeysDir, name) }

// prepare makes the node's folder, with all that its programs read, and its cgroups.
func (n *Node) prepare() (err error) {
	c := n.config
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	lock, err := lock(c.Dir)
	if err != nil {
		return err
	}
	if err := empty(c.Dir); err != nil {
		return errors.Join(err, lock.Close())
	}
	n.lock = lock
	for _, dir := range []string{"pki", "lib", "log"} {
		if err := os.Mkdir(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	own, err := fs.Sub(files, "files")
	if err != nil {
		return err
	}
	if err := os.CopyFS(c.Dir, own); err != nil {
		return err
	}
	ca, err := writeKeys(filepath.Join(c.Dir, "pki"), c.Name)
	if err != nil {
		return fmt.Errorf("make the node's keys: %w", err)
	}
	if err := n.writeUsers(ca); err != nil {
		return err
	}
	n.cgroups, err = makeCgroups(CgroupRoot(c.Dir))
	return err
}

// empty removes what another node has left of its folder.
func empty(dir string) error {
	left, err := os.ReadDir(dir)
	if err != nil || len(left) == 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "pki")); err != nil {
		return fmt.Errorf("%s holds other things than a node's: remove them, or name another folder", dir)
	}
	for _, f := range left {
		if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// writeUsers makes the users that the API server knows by tokens, and kubeconfigs for them.
func (n *Node) writeUsers(ca []byte) error {
	var tokens strings.Builder
	for _, u := range []struct{ kubeconfig, name, groups string }{
		{"admin", "admin", "system:masters"},
		{"kubelet", "system:node:" + n.config.Name, "system:nodes"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	} {
		token := newToken()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token, u.name, u.name, u.groups)
		file := filepath.Join(n.config.Dir, u.kubeconfig+".kubeconfig")
		if err := os.WriteFile(file, kubeconfig(token, ca), 0o600); err != nil {
			return err
		}
		if u.kubeconfig == "admin" {
			n.kubeconfig = file
			n.rest = &rest.Config{Host: server, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, Dial: n.DialContext, QPS: -1}
		}
	}
	return os.WriteFile(filepath.Join(n.config.Dir, "pki", "tokens.csv"), []byte(tokens.String()), 0o600)
}

// writeScripts writes kubectl and ctr for people at another terminal.
func (n *Node) writeScripts() error {
	for name, command := range map[string]string{
		"kubectl": fmt.Sprintf("env KUBECONFIG=%q KUBECACHEDIR=%q %q exec %d %q",
			n.kubeconfig, filepath.Join(n.config.Dir, "kubecache"), n.config.bin("cluster"), n.process.Process.Pid, n.config.bin("kubectl")),
		"ctr": fmt.Sprintf("%q --address %s --namespace k8s.io", n.ctr(), n.inside(containerdSocket)),
	} {
		if err := os.WriteFile(filepath.Join(n.config.Dir, name), []byte("#!/bin/sh\nexec "+command+" \"$@\"\n"), 0o755); err != nil {
			return err
		}
	}
	return nil
}
