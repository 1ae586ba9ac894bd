package kubenode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/lanyard-id/lanyard/deploy/image"
	"github.com/lanyard-id/lanyard/test/kubenode/internal/pid1"
)

// kubernetesPrograms are those of the module test/kubernetes, which says their version. The first is of use without a node, too.
var kubernetesPrograms = []string{"kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"}

// packages are those of Debian that the container runtime and kube-proxy come from, with the libraries that they need besides C's.
var packages = []string{"containerd", "runc", "containernetworking-plugins",
	"nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libxtables12", "libedit2", "libbsd0", "libmd0"}

// archive is the file of one of the images that every node has.
func (c Config) archive(name string) string { return filepath.Join(c.cache(), "images", name+".tar") }

// libraries is where packages' libraries were unpacked, as a node's programs see it.
func libraries(cache string) string {
	dirs, _ := filepath.Glob(filepath.Join(cache, "root/usr/lib/*-linux-gnu")) // the pattern is well formed
	if len(dirs) == 0 {
		return ""
	}
	return filepath.Join(pid1.CacheDir, "root/usr/lib", filepath.Base(dirs[0]))
}

// Built says what is missing of all that [Build] builds.
func Built(c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	needed := []string{c.bin("etcd"), c.bin("coredns"), c.bin("cluster"), c.archive("pause"), c.archive("host"), c.archive("coredns"),
		filepath.Join(c.cache(), "root/usr/bin/containerd"), filepath.Join(c.cache(), "root/usr/sbin/nft")}
	for _, name := range kubernetesPrograms {
		needed = append(needed, c.bin(name))
	}
	for _, file := range needed {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("the Kubernetes node is not built, run make e2e: %w", err)
		}
	}
	return nil
}

// Build builds the node's programs and images, and fetches Debian's packages, unless they are in the cache already. The first time takes
// some ten minutes on two processors, and the next a second. Where no node can run (see [Supported]) it builds the API server only,
// which other tests use, and says so.
func Build(ctx context.Context, c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.bin(""), 0o755); err != nil {
		return err
	}
	if err := Supported(); err != nil {
		fmt.Fprintf(c.Out, "left out: all of Kubernetes but its API server (%v)\n", err)
		return buildKubernetes(ctx, c, kubernetesPrograms[:1])
	}
	if err := buildKubernetes(ctx, c, kubernetesPrograms); err != nil {
		return err
	}
	for _, build := range []func(context.Context, Config) error{buildEtcd, buildCoreDNS, unpackPackages, buildOwn, buildImages} {
		if err := build(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// once makes a file if it is not there, or was made of other inputs (files' contents, or else words) or by another version of Go.
func (c Config) once(file string, inputs []string, make func() error) error {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version())
	for _, in := range inputs {
		data, err := os.ReadFile(in)
		if errors.Is(err, fs.ErrNotExist) {
			data = []byte(in)
		} else if err != nil {
			return err
		}
		fmt.Fprintf(h, "%x\n", sha256.Sum256(data))
	}
	stamp := filepath.Join(c.cache(), "made", filepath.Base(file))
	sum := fmt.Sprintf("%x\n", h.Sum(nil))
	last, err := os.ReadFile(stamp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(file); err == nil && string(last) == sum {
		return nil
	}
	fmt.Fprintf(c.Out, "make %s\n", file)
	if err := make(); err != nil {
		return fmt.Errorf("make %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(stamp), 0o755); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(sum), 0o644)
}

// goBuild builds a static program of the module in a folder of the repository.
func goBuild(ctx context.Context, c Config, module, pkg, out, ldflags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w "+ldflags, "-o", out, pkg)
	cmd.Dir = filepath.Join(c.Repository, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run(cmd, c.Out)
}

// run runs a command that tells its progress.
func run(cmd *exec.Cmd, out io.Writer) error {
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// moduleFiles are what says which versions a module is built of.
func (c Config) moduleFiles(module string) []string {
	return []string{filepath.Join(c.Repository, module, "go.mod"), filepath.Join(c.Repository, module, "go.sum")}
}

const kubernetesModule = "test/kubernetes"

func buildKubernetes(ctx context.Context, c Config, programs []string) error {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	list.Dir = filepath.Join(c.Repository, kubernetesModule)
	version, err := output(list)
	if err != nil {
		return err
	}
	// Programs that do not know their version do not work with each other.
	release := strings.TrimSpace(string(version))
	numbers := strings.Split(strings.TrimPrefix(release, "v"), ".")
	if len(numbers) != 3 {
		return fmt.Errorf("%q is no version of Kubernetes", release)
	}
	const variable = "-X k8s.io/component-base/version."
	ldflags := fmt.Sprintf("%[1]sgitVersion=%[2]s %[1]sgitMajor=%[3]s %[1]sgitMinor=%[4]s", variable, release, numbers[0], numbers[1])
	for _, name := range programs {
		if err := c.once(c.bin(name), c.moduleFiles(kubernetesModule), func() error {
			return goBuild(ctx, c, kubernetesModule, "k8s.io/kubernetes/cmd/"+name, c.bin(name), ldflags)
		}); err != nil {
			return err
		}
	}
	return nil
}

func buildEtcd(ctx context.Context, c Config) error {
	return c.once(c.bin("etcd"), c.moduleFiles(kubernetesModule), func() error {
		return goBuild(ctx, c, kubernetesModule, "go.etcd.io/etcd/server/v3", c.bin("etcd"), "")
	})
}

func buildCoreDNS(ctx context.Context, c Config) error {
	const module = "test/kubenode/coredns"
	inputs := append(c.moduleFiles(module), filepath.Join(c.Repository, module, "main.go"))
	return c.once(c.bin("coredns"), inputs, func() error { return goBuild(ctx, c, module, ".", c.bin("coredns"), "") })
}

// unpackPackages fetches Debian's packages and unpacks them into the cache. Nothing is installed.
func unpackPackages(ctx context.Context, c Config) error {
	root, packed := filepath.Join(c.cache(), "root"), filepath.Join(c.cache(), "packages")
	return c.once(root, packages, func() error {
		if err := errors.Join(os.RemoveAll(root), os.RemoveAll(packed), os.MkdirAll(packed, 0o755)); err != nil {
			return err
		}
		download := func() error {
			// apt's own user cannot write into the folder, and says so for each package unless root downloads.
			cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)...)
			cmd.Dir = packed
			return run(cmd, c.Out)
		}
		if err := download(); err != nil {
			// What apt knows of the archive may be old, or nothing.
			if err := run(exec.CommandContext(ctx, "apt-get", "-q", "update"), c.Out); err != nil {
				return err
			}
			if err := download(); err != nil {
				return err
			}
		}
		files, err := os.ReadDir(packed)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := run(exec.CommandContext(ctx, "dpkg", "-x", filepath.Join(packed, f.Name()), root), c.Out); err != nil {
				return err
			}
		}
		return nil
	})
}

// buildOwn builds the programs of this module, which change with it.
func buildOwn(ctx context.Context, c Config) error {
	for _, name := range []string{"cluster", "pause"} {
		if err := goBuild(ctx, c, ".", "./test/kubenode/"+name, c.bin(name), ""); err != nil {
			return err
		}
	}
	return nil
}

func buildImages(_ context.Context, c Config) error {
	if err := os.MkdirAll(filepath.Dir(c.archive("")), 0o755); err != nil {
		return err
	}
	for _, i := range []struct {
		archive, program, reference string
		links                       map[string]string
	}{
		{"pause", "pause", PauseImage, nil},
		{"coredns", "coredns", coreDNSImage, nil},
		{"host", "pause", HostImage, map[string]string{"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}},
	} {
		if err := c.once(c.archive(i.archive), []string{c.bin(i.program), i.reference, fmt.Sprint(i.links)}, func() error {
			index, err := image.New(image.Config{Name: i.program, Programs: map[string]string{runtime.GOARCH: c.bin(i.program)}, Links: i.links})
			if err != nil {
				return err
			}
			return image.WriteArchive(c.archive(i.archive), index, i.reference)
		}); err != nil {
			return err
		}
	}
	return nil
}
