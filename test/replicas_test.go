package test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/lanyard-id/lanyard/internal/kv/etcd/embedded"
)

// startServers runs lanyard-server twice over one etcd, which is a third process's to both, and returns them as the first
// account's root.
func startServers(t testing.TB) (a, b *server) {
	t.Helper()
	settings := sharedStore(t)
	a, b = startServer(t, settings), startServer(t, settings)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		b.env[name] = a.env[name]
	}
	return a, b
}

// sharedStore runs an etcd until the test ends, and returns the settings of servers that share it.
func sharedStore(t testing.TB) (settings string) {
	t.Helper()
	shared := t.TempDir()
	etcd, err := embedded.Serve(t.Context(), filepath.Join(shared, "etcd"), "127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := etcd.Close(); err != nil {
			t.Error(err)
		}
	})
	key := filepath.Join(shared, "master.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("5a", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("etcd: {endpoints: [%s]}\nmasterKeyFile: %s\n", etcd.Endpoint, key)
}

// startServer runs one lanyard-server, with settings besides those that every server has here, until the test ends. If it made the
// account, it is returned as its root.
func startServer(t testing.TB, settings string) *server {
	t.Helper()
	return startServerIn(t, dataDir(t), settings)
}

// startServerIn does the same with a data directory that may have been another server's.
func startServerIn(t testing.TB, dir, settings string) *server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "server.yaml")
	config := fmt.Sprintf(`
dataDir: %s
issuerURL: https://issuer.test
listen: 127.0.0.1:0
listenProbes: 127.0.0.1:0
log: {level: info, format: text}
%s`, dir, settings)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary("lanyard-server"), "-config", file)
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
	addresses := s.waitFor(stderr, "msg=listening server=http address=", "msg=listening server=probes address=")
	address := addresses[0]
	s.probes = addresses[1]
	s.env = map[string]string{"AWS_ENDPOINT_URL": "http://" + address, "AWS_ENDPOINT_URL_STS": "http://" + address, "AWS_REGION": "us-east-1"}
	root, err := os.ReadFile(filepath.Join(dir, "root.key"))
	if os.IsNotExist(err) {
		return s
	}
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(root))
	if len(fields) != 2 {
		t.Fatalf("the root key is %q", root)
	}
	s.env["AWS_ACCESS_KEY_ID"], s.env["AWS_SECRET_ACCESS_KEY"] = fields[0], fields[1]
	return s
}

// Two servers over one etcd: what one writes, the other serves; what one mints, the other honours; what one deletes is gone at both.
func TestReplicas(t *testing.T) {
	a, b := startServers(t)
	first, second := iam.NewFromConfig(a.aws()), iam.NewFromConfig(b.aws())
	const trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:user/deploy"},"Action":"sts:AssumeRole"}]}`
	if _, err := first.CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("deploy")}); err != nil {
		t.Fatal(err)
	}
	key, err := first.CreateAccessKey(t.Context(), &iam.CreateAccessKeyInput{UserName: aws.String("deploy")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("r"), AssumeRolePolicyDocument: aws.String(trust)}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	eventually(t, "the second server serves what the first wrote", func(ctx context.Context) error {
		_, err := second.GetRole(ctx, &iam.GetRoleInput{RoleName: aws.String("r")})
		return err
	})
	t.Logf("served by the second server %v after the first had answered", time.Since(begun))

	user := aws.Credentials{AccessKeyID: aws.ToString(key.AccessKey.AccessKeyId), SecretAccessKey: aws.ToString(key.AccessKey.SecretAccessKey)}
	session, err := sts.NewFromConfig(b.as(user)).AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String("arn:aws:iam::111122223333:role/r"), RoleSessionName: aws.String("test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	minted := aws.Credentials{
		AccessKeyID: aws.ToString(session.Credentials.AccessKeyId), SecretAccessKey: aws.ToString(session.Credentials.SecretAccessKey),
		SessionToken: aws.ToString(session.Credentials.SessionToken),
	}
	for name, s := range map[string]*server{"first": a, "second": b} {
		who, err := sts.NewFromConfig(s.as(minted)).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil {
			t.Fatalf("the %s server does not honour what the second minted: %v", name, err)
		}
		if got := aws.ToString(who.Arn); got != "arn:aws:sts::111122223333:assumed-role/r/test" {
			t.Errorf("at the %s server the session is %s", name, got)
		}
	}
	if _, err := second.DeleteRole(t.Context(), &iam.DeleteRoleInput{RoleName: aws.String("r")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first server refuses sessions of a role that the second deleted", func(ctx context.Context) error {
		if _, err := sts.NewFromConfig(a.as(minted)).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err == nil {
			return fmt.Errorf("still honoured")
		}
		return nil
	})
}

// A replica that is told to stop says so at its probe, and goes on serving: others may still send it what is new. Told again, it ends.
func TestReplicasGoOnServingWhenToldToStop(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharedStore(t)+"stopDelay: 1h\n")
	ready := func(ctx context.Context) (string, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.probes+"/readyz", nil)
		if err != nil {
			return "", err
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		return fmt.Sprintf("%d %s", reply.StatusCode, strings.TrimSpace(string(text))), err
	}
	is := func(want string) {
		t.Helper()
		eventually(t, "the probe's "+want, func(ctx context.Context) error {
			got, err := ready(ctx)
			if err == nil && got != want {
				err = fmt.Errorf("it says %q", got)
			}
			return err
		})
	}
	is("200 ok")
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	is("503 stopping")
	if _, err := sts.NewFromConfig(s.aws()).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil {
		t.Errorf("while it lingers: %v", err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.log.Wait()
	if err := s.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "signal: terminated") {
		t.Errorf("told twice, it ended with %v", err)
	}
}

// eventually repeats f until it succeeds; the bound is for a test that would never end, not a measure.
func eventually(t testing.TB, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		err := f(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
