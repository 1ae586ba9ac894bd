//go:build e2e

package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cache is where clients/install.sh puts what the client programs need.
func cache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LANYARD_CLIENTS")
	if dir == "" {
		dir = "../.cache/clients"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// client is an unmodified AWS client and how it is started.
type client struct {
	name    string
	install string // the name clients/install.sh knows it by
	command []string
	// intercepted takes the endpoint variables away, so that only the proxy of `lanyard run --intercept` leads to Lanyard.
	intercepted bool
}

// awsCLI prints what the client programs print, by the AWS CLI.
const awsCLI = `aws=$1
buckets=$("$aws" s3api list-buckets --query 'Buckets[].Name' --output json) || exit 1
arn=$("$aws" sts get-caller-identity --query Arn --output json) || exit 1
denied=$("$aws" ec2 describe-instances 2>&1 >/dev/null)
printf '%s' "$denied" | "$2" -c 'import json,sys; print(json.dumps({"arn": json.loads(sys.argv[1]), "buckets": json.loads(sys.argv[2]), "denied": sys.stdin.read()}))' "$arn" "$buckets"
`

func clients(dir string) []client {
	in := func(path ...string) string { return filepath.Join(append([]string{dir}, path...)...) }
	goV1, goV2 := []string{in("gov1", "client")}, []string{in("gov2", "client")}
	boto3 := []string{in("python", "bin", "python"), "clients/python/client.py"}
	cli := []string{"sh", "-c", awsCLI, "sh", in("python", "bin", "aws"), in("python", "bin", "python")}
	java := []string{"java", "-cp", in("java", "target", "classes") + ":" + in("java", "target", "dependency", "*"), "Client"}
	return []client{
		{name: "AWS SDK for Go v2", install: "gov2", command: goV2},
		{name: "AWS SDK for Go v2, intercepted", install: "gov2", command: goV2, intercepted: true},
		{name: "AWS SDK for Go v1, intercepted", install: "gov1", command: goV1, intercepted: true}, // it knows no endpoint variables
		{name: "boto3", install: "python", command: boto3},
		{name: "boto3, intercepted", install: "python", command: boto3, intercepted: true},
		{name: "AWS CLI", install: "python", command: cli},
		{name: "AWS CLI, intercepted", install: "python", command: cli, intercepted: true},
		{name: "AWS SDK for JavaScript v3", install: "js", command: []string{"node", in("js", "client.mjs")}}, // it knows no proxies
		{name: "AWS SDK for Java v2", install: "java", command: java},
		{name: "AWS SDK for Java v2, intercepted", install: "java", command: java, intercepted: true},
	}
}

func TestUnmodifiedClients(t *testing.T) {
	dir := cache(t)
	missing, err := os.ReadFile(filepath.Join(dir, "missing"))
	if err != nil {
		t.Fatalf("the clients are not installed (run make e2e, or test/clients/install.sh): %v", err)
	}
	s := startDev(t, dataDir(t))
	slots := make(chan struct{}, 2) // virtual machines and interpreters are heavy, whatever the machine
	for _, c := range clients(dir) {
		for _, way := range []struct{ via, serviceAccount, role string }{
			{"irsa", "my-sa", "dev-my-sa"},
			{"pod-identity", "s3-sa", "dev-s3-sa"},
		} {
			t.Run(c.name+" by "+way.via, func(t *testing.T) {
				if slices.Contains(strings.Fields(string(missing)), c.install) {
					leftOut(t, "its toolchain is not on this machine")
				}
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				args := []string{"run", "--via", way.via, "-n", "default", "-s", way.serviceAccount, "--pod", "client"}
				if c.intercepted {
					args = append(args, "--intercept", "--", "env", "-u", "AWS_ENDPOINT_URL", "-u", "AWS_ENDPOINT_URL_STS")
				} else {
					args = append(args, "--")
				}
				cmd := s.command(append(args, c.command...)...)
				var errs strings.Builder
				cmd.Stderr = &errs
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("run: %v\n%s%s", err, out, errs.String())
				}
				check(t, out, "arn:aws:sts::"+account+":assumed-role/"+way.role)
			})
		}
	}
}

// check compares what a client printed with what it must have seen. Some SDKs take a session for each of their service clients, so
// that the refusal names another than the identity.
func check(t *testing.T, out []byte, role string) {
	t.Helper()
	var got struct {
		ARN     string
		Buckets []string
		Denied  string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("the client printed %q: %v", out, err)
	}
	session := regexp.QuoteMeta(role) + `/[\w+=,.@-]{2,64}`
	if !regexp.MustCompile("^" + session + "$").MatchString(got.ARN) {
		t.Errorf("its identity is %s, want a session of %s", got.ARN, role)
	}
	if diff := cmp.Diff([]string{"app-data", "logs", "team-data"}, got.Buckets); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
	refusal := regexp.MustCompile(`You are not authorized to perform this operation\. User: ` + session +
		` is not authorized to perform: ec2:DescribeInstances because no identity-based policy allows the ec2:DescribeInstances action`)
	if !refusal.MatchString(got.Denied) {
		t.Errorf("EC2's refusal:\n got %s\nwant %s", got.Denied, refusal)
	}
	// SDKs print the code, or the status.
	if !strings.Contains(got.Denied, "UnauthorizedOperation") && !strings.Contains(got.Denied, "Status Code: 403") {
		t.Errorf("EC2's refusal has neither its code nor its status: %s", got.Denied)
	}
}

// leftOut skips a test, unless this is CI, where nothing may be left out.
func leftOut(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("left out: %s", why)
	}
	t.Skipf("left out: %s", why)
}

// The AWS CLI on S3 in full: what a user of the embedded store does by hand.
func TestAWSCLIOnBuckets(t *testing.T) {
	cli := filepath.Join(cache(t), "python", "bin", "aws")
	if _, err := os.Stat(cli); err != nil {
		leftOut(t, "the AWS CLI is not installed")
	}
	s := startDev(t, dataDir(t))
	cmd := exec.Command("sh", "-c", bucketsScript, "sh", cli, t.TempDir())
	cmd.Env = s.command().Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// bucketsScript is given the AWS CLI and an empty directory. The large file goes and comes in parts.
const bucketsScript = `set -eux
cd "$2"
aws() { "$cli" "$@"; }
cli=$1
head -c 20000000 /dev/urandom >big
echo hello >small
aws s3 mb s3://made-by-cli
aws s3 cp --no-progress small s3://made-by-cli/a/small.txt
aws s3 cp --no-progress big s3://made-by-cli/big
aws s3 cp --no-progress s3://made-by-cli/big s3://made-by-cli/copy
aws s3 cp --no-progress s3://made-by-cli/copy back
cmp big back
[ "$(aws s3 ls s3://made-by-cli/a/ | awk '{ print $3, $4 }')" = '6 small.txt' ]
[ "$(aws s3 ls s3://made-by-cli | awk '{ print $NF }' | tr '\n' ' ')" = 'a/ big copy ' ]
[ "$(aws s3api head-object --bucket made-by-cli --key a/small.txt --query ContentLength)" = 6 ]
aws s3api put-object-tagging --bucket made-by-cli --key a/small.txt --tagging 'TagSet=[{Key=team,Value=one}]'
[ "$(aws s3api get-object-tagging --bucket made-by-cli --key a/small.txt --query 'TagSet[0].Value' --output text)" = one ]
if aws s3 rb s3://made-by-cli 2>refusal; then exit 1; fi
grep BucketNotEmpty refusal
aws s3 rm --recursive s3://made-by-cli
aws s3 rb s3://made-by-cli
if aws s3 ls s3://made-by-cli 2>refusal; then exit 1; fi
grep NoSuchBucket refusal
`
