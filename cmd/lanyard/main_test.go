package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lanyard": main})
}

// The scripts in testdata run the program as people do. Besides testscript's own commands they have:
//
//	dev [FLAG]…              start `lanyard dev` with the data directory $DATA on free ports, and source its env
//	halt [SIGNAL]            stop it: by TERM, after which it must end with status 0, or by KILL
//	capture NAME FILE        set a variable to what the file holds
//	role NAME TRUST POLICY   make a role with the trust policy and the inline policy "own" of two files
//	drop-audience            let no OpenID Connect provider take STS's audience
//	object-header BUCKET KEY print the Content-Type and the Cache-Control of an object in S3
//
// and the condition [ipv6], which holds on machines that have it.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("AWS_CONFIG_FILE", os.DevNull)
			env.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else the race detector lets every process wait a second at its end
			env.Values[runningDev{}] = new(*exec.Cmd)
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if condition != "ipv6" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			l, err := net.Listen("tcp", "[::1]:0")
			if err != nil {
				return false, nil
			}
			return true, l.Close()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dev": scriptDev, "halt": scriptHalt, "capture": scriptCapture, "role": scriptRole, "drop-audience": scriptDropAudience,
			"object-header": scriptObjectHeader,
		},
	})
}

// runningDev is the key of a script's *exec.Cmd of `lanyard dev`, nil while none runs.
type runningDev struct{}

func scriptDev(ts *testscript.TestScript, neg bool, args []string) {
	running := ts.Value(runningDev{}).(**exec.Cmd)
	if neg || *running != nil {
		ts.Fatalf("usage: dev [FLAG]…, while none runs; one that does not start is for exec")
	}
	data := ts.Getenv("DATA")
	cmd := exec.Command("lanyard", append([]string{"dev", "--data-dir", data, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"}, args...)...)
	cmd.Env = environment(ts)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	*running = cmd
	ts.Defer(func() {
		if *running == cmd {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		ts.Logf("dev: %s", line)
		if err != nil {
			ts.Fatalf("it ended before it was ready")
		}
		if strings.HasPrefix(line, "ready") {
			break
		}
	}
	go io.Copy(io.Discard, lines)
	shell := exec.Command("sh", "-c", `. "$DATA/env" && env`)
	shell.Env = append(environment(ts), "DATA="+data)
	out, err := shell.Output()
	ts.Check(err)
	for line := range strings.Lines(string(out)) {
		name, val, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if strings.HasPrefix(name, "AWS_") || name == "NODE_EXTRA_CA_CERTS" {
			ts.Setenv(name, val)
		}
	}
}

// environment is what a dev server gets: nothing of what the script has sourced of an earlier one.
func environment(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED", "GORACE"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

func scriptHalt(ts *testscript.TestScript, neg bool, args []string) {
	running := ts.Value(runningDev{}).(**exec.Cmd)
	if neg || *running == nil || len(args) > 1 {
		ts.Fatalf("usage: halt [TERM|KILL], while one runs")
	}
	cmd := *running
	*running = nil
	if len(args) == 1 && args[0] == "KILL" {
		ts.Check(cmd.Process.Kill())
		cmd.Wait() // tells that it was killed
		return
	}
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("dev after SIGTERM: %v", err)
	}
}

func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

func scriptRole(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: role NAME TRUST POLICY")
	}
	client := scriptIAM(ts)
	create := &iam.CreateRoleInput{RoleName: &args[0], AssumeRolePolicyDocument: aws.String(ts.ReadFile(args[1]))}
	_, err := client.CreateRole(context.Background(), create)
	ts.Check(err)
	put := &iam.PutRolePolicyInput{RoleName: &args[0], PolicyName: aws.String("own"), PolicyDocument: aws.String(ts.ReadFile(args[2]))}
	_, err = client.PutRolePolicy(context.Background(), put)
	ts.Check(err)
}

func scriptDropAudience(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: drop-audience")
	}
	client := scriptIAM(ts)
	list, err := client.ListOpenIDConnectProviders(context.Background(), &iam.ListOpenIDConnectProvidersInput{})
	ts.Check(err)
	for _, p := range list.OpenIDConnectProviderList {
		in := &iam.RemoveClientIDFromOpenIDConnectProviderInput{OpenIDConnectProviderArn: p.Arn, ClientID: aws.String(stsAudience)}
		_, err := client.RemoveClientIDFromOpenIDConnectProvider(context.Background(), in)
		ts.Check(err)
	}
}

func scriptObjectHeader(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: object-header BUCKET KEY")
	}
	client := s3.New(s3.Options{
		Region: ts.Getenv("AWS_REGION"), BaseEndpoint: aws.String(ts.Getenv("AWS_ENDPOINT_URL")), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(ts.Getenv("AWS_ACCESS_KEY_ID"), ts.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
	out, err := client.HeadObject(context.Background(), &s3.HeadObjectInput{Bucket: &args[0], Key: &args[1]})
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "Content-Type: %s\nCache-Control: %s\n", aws.ToString(out.ContentType), aws.ToString(out.CacheControl))
}

// scriptIAM is the IAM of the script's dev server.
func scriptIAM(ts *testscript.TestScript) *iam.Client {
	return iam.New(iam.Options{
		Region: ts.Getenv("AWS_REGION"), BaseEndpoint: aws.String(ts.Getenv("AWS_ENDPOINT_URL")),
		Credentials: credentials.NewStaticCredentialsProvider(ts.Getenv("AWS_ACCESS_KEY_ID"), ts.Getenv("AWS_SECRET_ACCESS_KEY"), ""),
	})
}
