package test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A command under `lanyard run` has what a pod has: the token where only its owner reads it, the webhook's variables, and nothing
// of whoever runs it. When it has ended, the token is gone.
func TestRunIsAPod(t *testing.T) {
	s := startDev(t, dataDir(t))
	for _, c := range []struct {
		via, serviceAccount, tokenFile string
		variables                      []string // beside those for the region and the endpoints
	}{
		{"irsa", "my-sa", "AWS_WEB_IDENTITY_TOKEN_FILE", []string{"AWS_ROLE_ARN=arn:aws:iam::" + account + ":role/dev-my-sa"}},
		{"pod-identity", "s3-sa", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:"}},
	} {
		t.Run(c.via, func(t *testing.T) {
			cmd := s.command("run", "--via", c.via, "-n", "default", "-s", c.serviceAccount, "--", "sh", "-c", "env; echo ready; read line; exit 7")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			lines, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			env := map[string]string{}
			for out := bufio.NewScanner(lines); out.Scan() && out.Text() != "ready"; {
				name, val, _ := strings.Cut(out.Text(), "=")
				env[name] = val
			}
			file := env[c.tokenFile]
			for path, want := range map[string]fs.FileMode{file: 0o600, filepath.Dir(file): fs.ModeDir | 0o700} {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != want {
					t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
				}
			}
			token, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(token), ".") != 2 || strings.TrimSpace(string(token)) != string(token) {
				t.Errorf("the token file holds %q, want a token and no newline", token)
			}
			for _, v := range append(c.variables, "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
				"AWS_ENDPOINT_URL="+s.env["AWS_ENDPOINT_URL"], "AWS_ENDPOINT_URL_STS="+s.env["AWS_ENDPOINT_URL"]) {
				name, want, _ := strings.Cut(v, "=")
				if !strings.HasPrefix(env[name], want) {
					t.Errorf("%s is %q, want %q", name, env[name], want)
				}
			}
			for name, val := range env {
				if name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" || strings.Contains(val, s.env["AWS_SECRET_ACCESS_KEY"]) {
					t.Errorf("the caller's credentials came through: %s", name)
				}
			}
			in.Close()
			wantStatus(t, cmd.Wait(), 7)
			if _, err := os.Stat(filepath.Dir(file)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the token's directory is still there: %v", err)
			}
		})
	}
}

func wantStatus(t *testing.T, err error, want int) {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		t.Errorf("it ended with %v, want status %d", err, want)
	}
}

func TestRunPassesSignalsAndStatus(t *testing.T) {
	s := startDev(t, dataDir(t))
	run := func(script string) *exec.Cmd {
		return s.command("run", "-n", "default", "-s", "my-sa", "--", "sh", "-c", script)
	}
	if out, err := run("exit 0").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("a command that succeeds: %v, %q", err, out)
	}
	out, err := run("exit 7").CombinedOutput()
	wantStatus(t, err, 7)
	if len(out) > 0 {
		t.Errorf("lanyard spoke for the command: %q", out)
	}
	wantStatus(t, run("kill -KILL $$").Run(), 128+int(syscall.SIGKILL))

	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		// The shell takes a signal when its own child has ended, or in wait.
		cmd := run(`trap 'kill $!; exit 3' TERM INT HUP USR1; sleep 60 & echo ready; wait; exit 4`)
		lines, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(lines).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		t.Run(signal.String(), func(t *testing.T) { wantStatus(t, cmd.Wait(), 3) })
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	s := startDev(t, dataDir(t))
	for _, c := range []struct {
		name, hint string
		args       []string
	}{
		{"a command that is not there", "after --", []string{"-n", "default", "-s", "my-sa", "--", "no-such-command"}},
		{"a service account without a role", "lanyard irsa create --cluster dev -n default -s nobody", []string{"-n", "default", "-s", "nobody", "--", "true"}},
		{"a way that is none", "--via irsa", []string{"-n", "default", "-s", "my-sa", "--via", "magic", "--", "true"}},
		{"a cluster that is not there", "", []string{"--cluster", "elsewhere", "-n", "default", "-s", "my-sa", "--", "true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, errs, err := s.lanyard(append([]string{"run"}, c.args...)...)
			wantStatus(t, err, 1)
			if !strings.HasPrefix(errs, "error: ") || !strings.Contains(errs, "\nhint: ") || !strings.Contains(errs, c.hint) {
				t.Errorf("it said %q, want a hint with %q", errs, c.hint)
			}
		})
	}
}
