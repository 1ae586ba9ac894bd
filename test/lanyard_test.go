package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/lanyard-id/lanyard/internal/awstest"
)

// binaries is where TestMain puts the programs.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lanyard-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", append(append([]string{"build"}, buildFlags...), "-o", dir, "../cmd/...")...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the programs:", err)
			return 1
		}
		binaries = dir
		return m.Run()
	}())
}

// binary returns the path of a program.
func binary(name string) string { return filepath.Join(binaries, name) }

// server is a running `lanyard dev` or lanyard-server.
type server struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	env    map[string]string // the variables of the file env
	probes string            // lanyard-server's address of its probes
	log    sync.WaitGroup    // until the end of its log
}

// startDev runs `lanyard dev` on free ports with the data directory until the test ends.
func startDev(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	args = append([]string{"dev", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--data-dir", dir}, args...)
	cmd := exec.Command(binary("lanyard"), args...)
	cmd.Env = cleanEnvironment()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, cmd: cmd}
	t.Cleanup(s.kill)
	s.waitFor(stderr, "ready")
	s.readEnvironment()
	return s
}

// kill ends the server as `kill -9` does.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.log.Wait()
	s.cmd.Wait()
}

// readEnvironment reads the file env by the shell that users source it with.
func (s *server) readEnvironment() {
	s.t.Helper()
	shell := exec.Command("sh", "-c", `. "$1" && env`, "sh", filepath.Join(s.dir, "env"))
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := shell.Output()
	if err != nil {
		s.t.Fatalf("source env: %v", err)
	}
	s.env = map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, val, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if strings.HasPrefix(name, "AWS_") || name == "NODE_EXTRA_CA_CERTS" {
			s.env[name] = val
		}
	}
}

// aws returns the SDK's configuration for the server's root.
func (s *server) aws() aws.Config {
	return s.as(aws.Credentials{AccessKeyID: s.env["AWS_ACCESS_KEY_ID"], SecretAccessKey: s.env["AWS_SECRET_ACCESS_KEY"]})
}

// as returns the SDK's configuration for other credentials.
func (s *server) as(c aws.Credentials) aws.Config {
	return aws.Config{
		Region:       s.env["AWS_REGION"],
		BaseEndpoint: aws.String(s.env["AWS_ENDPOINT_URL"]),
		Credentials:  credentials.StaticCredentialsProvider{Value: c},
		HTTPClient:   awstest.HTTPClient(),
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// lanyard runs the CLI as the server's root and returns what it printed on standard output and standard error.
func (s *server) lanyard(args ...string) (stdout, stderr string, err error) {
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (s *server) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary("lanyard"), args...)
	cmd.Env = cleanEnvironment()
	for k, v := range s.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// must runs the CLI and fails the test when it fails.
func (s *server) must(args ...string) string {
	s.t.Helper()
	out, errs, err := s.lanyard(args...)
	if err != nil {
		s.t.Fatalf("lanyard %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	return out
}

// cleanEnvironment is this process's without anything that AWS's tools heed.
func cleanEnvironment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") && !strings.HasPrefix(strings.ToLower(v), "https_proxy=") {
			env = append(env, v)
		}
	}
	return append(env, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"GORACE=halt_on_error=1 atexit_sleep_ms=0") // of programs that are built with the race detector: what it finds ends them
}

// waitFor reads the program's log until its lines have held all texts, one after the other, and returns the words that followed them there.
// The rest of the log goes to the test's output.
func (s *server) waitFor(log io.Reader, texts ...string) (words []string) {
	s.t.Helper()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), texts[len(words)]); ok {
			word, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			words = append(words, word)
			if len(words) == len(texts) {
				s.log.Go(func() {
					for lines.Scan() {
						fmt.Fprintln(s.t.Output(), lines.Text())
					}
				})
				return words
			}
		}
		fmt.Fprintln(s.t.Output(), lines.Text())
	}
	s.t.Fatalf("the program ended before it wrote %q", texts[len(words)])
	return nil
}

// dataDir returns a path for a server's state that is not there yet: the server makes it, for itself alone.
func dataDir(t testing.TB) string { return filepath.Join(t.TempDir(), "data") }
