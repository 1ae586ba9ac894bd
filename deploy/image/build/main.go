// Command build makes the images of Lanyard's programs: it compiles them and writes an OCI archive of each, for one or more
// architectures, and pushes them to a registry if it is told to. It needs neither privileges nor a container engine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-id/lanyard/deploy/image"
)

// programs are those that images are made of, each with what its image is called by those who list images.
var programs = []struct{ name, title string }{
	{"lanyard", "Lanyard's command line"},
	{"lanyard-agent", "Lanyard's EKS Pod Identity Agent for any cluster"},
	{"lanyard-server", "Lanyard: AWS identities for workloads anywhere"},
	{"lanyard-webhook", "Lanyard's webhook, which gives pods their identities' settings"},
}

const module = "github.com/lanyard-id/lanyard"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("out", "bin/images", "the `folder` for the archives, which are called NAME.tar")
	registry := flags.String("registry", "ghcr.io/lanyard-id", "what stands before the images' `names`")
	tag := flags.String("tag", "dev", "the images' `tag`, and the version that their labels tell")
	architectures := flags.String("arch", "amd64,arm64", "the `architectures` to build for")
	push := flags.Bool("push", false, "push the images to the registry, with the credentials that docker or podman log in with")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	created, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lanyard-images")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, p := range programs {
		files := make(map[string]string)
		for arch := range strings.SplitSeq(*architectures, ",") {
			files[arch] = filepath.Join(dir, p.name+"-"+arch)
			if err := compile(ctx, stderr, arch, module+"/cmd/"+p.name, files[arch]); err != nil {
				return err
			}
		}
		index, err := image.New(image.Config{Name: p.name, Programs: files, User: image.Nonroot, Created: created, Labels: map[string]string{
			"org.opencontainers.image.title":    p.title,
			"org.opencontainers.image.source":   "https://" + module,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  *tag,
		}})
		if err != nil {
			return err
		}
		reference := *registry + "/" + p.name + ":" + *tag
		if err := image.WriteArchive(filepath.Join(*out, p.name+".tar"), index, reference); err != nil {
			return err
		}
		if *push {
			if err := image.Push(ctx, index, reference); err != nil {
				return err
			}
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s@%s\n", reference, digest)
	}
	return nil
}

// compile builds a static program, the same from the same source wherever it lies.
func compile(ctx context.Context, stderr io.Writer, arch, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s for %s: %w", pkg, arch, err)
	}
	return nil
}

// sourceDate reads the time that an image says it was made at, in seconds since 1970 (reproducible-builds.org/specs/source-date-epoch).
// Without one it is 1970.
func sourceDate(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
