package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newDemoCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show both ways at work, on free ports and checked step by step",
		Long: `Start Lanyard with a directory of its own, run an AWS SDK program as several pods, and check what each may do and may not. The
exit status is not zero when a step does not hold.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), c) },
	}
	cmd.AddCommand(newDemoPod())
	return cmd
}

// podReport is what the demo's pod found out about itself.
type podReport struct {
	ARN     string            `json:"arn,omitempty"`
	Buckets []string          `json:"buckets,omitempty"`
	Objects map[string]string `json:"objects,omitempty"` // by s3://bucket/key: "ok", or why not
	Error   string            `json:"error,omitempty"`   // why there are no credentials
}

// newDemoPod is the program that the demo runs as pods: the AWS SDK's defaults and nothing of Lanyard.
func newDemoPod() *cobra.Command {
	return &cobra.Command{
		Use:    "pod [s3://BUCKET/KEY]…",
		Short:  "Print who one is, which buckets there are, and which of the objects can be written",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(reportPod(cmd.Context(), args))
		},
	}
}

func reportPod(ctx context.Context, objects []string) podReport {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRetryMaxAttempts(1))
	if err != nil {
		return podReport{Error: err.Error()}
	}
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return podReport{Error: err.Error()}
	}
	report := podReport{ARN: aws.ToString(who.Arn), Objects: map[string]string{}}
	client := s3.NewFromConfig(cfg)
	if list, err := client.ListBuckets(ctx, &s3.ListBucketsInput{}); err != nil {
		report.Error = err.Error()
	} else {
		for _, b := range list.Buckets {
			report.Buckets = append(report.Buckets, aws.ToString(b.Name))
		}
	}
	for _, o := range objects {
		bucket, key, _ := strings.Cut(strings.TrimPrefix(o, "s3://"), "/")
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader("demo")})
		report.Objects[o] = "ok"
		if err != nil {
			report.Objects[o] = err.Error()
		}
	}
	return report
}

// demoStep is one thing that must hold.
type demoStep struct {
	title string
	run   []string // arguments of `lanyard run`, before the pod's own
	pod   []string // objects that the pod tries to write
	check func(podReport) error
}

func demo(ctx context.Context, c *cli) (err error) {
	dir, err := os.MkdirTemp("", "lanyard-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	begun := time.Now()
	const account, region = "111122223333", "us-east-1"
	s, err := startDev(ctx, devConfig{
		listen: "127.0.0.1:0", listenTLS: "127.0.0.1:0", dir: dir, account: account, region: region, log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	fmt.Fprintf(c.out, "Lanyard answers at %s after %d ms, with a cluster, two roles, an association and three buckets.\n\n",
		s.endpoint, time.Since(begun).Milliseconds())

	environment := append(withoutAWS(os.Environ()), s.environment(region)...)
	lanyard := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Env = environment
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("lanyard %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
		}
		return out, nil
	}
	// A second cluster, whose issuer is a provider too: its tokens are genuine, and still another cluster's. And a namespace with an
	// association of its own for the same role.
	for _, args := range [][]string{
		{"cluster", "register", "other"},
		{"irsa", "create", "--cluster", "other", "-n", "default", "-s", "someone"},
		{"association", "create", "-n", "team-b", "-s", "s3-sa", "--role-arn", "arn:aws:iam::" + account + ":role/" + samplePodRole},
	} {
		if _, err := lanyard(args...); err != nil {
			return err
		}
	}
	ok, fail := "ok  ", "FAIL"
	if f, isFile := c.out.(*os.File); isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		ok, fail = "\x1b[32mok  \x1b[0m", "\x1b[31mFAIL\x1b[0m"
	}
	failed := 0
	for _, step := range demoSteps(account) {
		args := append([]string{"run", "--pod", "demo"}, step.run...)
		args = append(append(args, "--", self, "demo", "pod"), step.pod...)
		var report podReport
		out, err := lanyard(args...)
		if err == nil {
			err = json.Unmarshal(out, &report)
		}
		if err == nil {
			err = step.check(report)
		}
		if err != nil {
			failed++
			fmt.Fprintf(c.out, "%s  %s\n      %v\n", fail, step.title, err)
			continue
		}
		fmt.Fprintf(c.out, "%s  %s\n", ok, step.title)
		for _, line := range report.lines() {
			fmt.Fprintf(c.out, "      %s\n", line)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d steps do not hold", failed)
	}
	fmt.Fprintln(c.out, "\nEvery step holds.")
	return nil
}

// lines is the report for people.
func (r podReport) lines() []string {
	var lines []string
	if r.ARN != "" {
		lines = append(lines, "it is "+r.ARN)
	}
	if len(r.Buckets) > 0 {
		lines = append(lines, "it sees "+strings.Join(r.Buckets, ", "))
	}
	for _, o := range slices.Sorted(maps.Keys(r.Objects)) {
		lines = append(lines, o+": "+sdkMessage(r.Objects[o]))
	}
	if r.Error != "" {
		lines = append(lines, sdkMessage(r.Error))
	}
	return lines
}

// sdkMessage is the end of an SDK's chain of errors: the service's own words.
func sdkMessage(text string) string {
	if i := strings.LastIndex(text, "api error "); i >= 0 {
		return text[i+len("api error "):]
	}
	return text
}

func demoSteps(account string) []demoStep {
	irsaRole := "arn:aws:iam::" + account + ":role/" + sampleIRSARole
	session := func(role string) string { return "arn:aws:sts::" + account + ":assumed-role/" + role + "/" }
	isPod := func(role string) func(podReport) error {
		return func(r podReport) error {
			if r.Error != "" || !strings.HasPrefix(r.ARN, session(role)) || !slices.Equal(r.Buckets, sampleBuckets) {
				return fmt.Errorf("want a session of %s that sees %v, got %+v", role, sampleBuckets, r)
			}
			return nil
		}
	}
	refused := func(text string) func(podReport) error {
		return func(r podReport) error {
			if r.ARN != "" || !strings.Contains(r.Error, text) {
				return fmt.Errorf("want the refusal %q, got %+v", text, r)
			}
			return nil
		}
	}
	writes := func(role string, want map[string]string) func(podReport) error {
		return func(r podReport) error {
			errs := []error{isPod(role)(r)}
			for o, text := range want {
				if !strings.Contains(r.Objects[o], text) {
					errs = append(errs, fmt.Errorf("writing %s: want %q, got %q", o, text, r.Objects[o]))
				}
			}
			return errors.Join(errs...)
		}
	}
	const noRole = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
	const noPermission = "is not authorized to perform: s3:PutObject"
	return []demoStep{
		{
			title: "IRSA: default/my-sa gets its role and lists the buckets, but may not write",
			run:   []string{"-n", "default", "-s", "my-sa", "--via", "irsa"}, pod: []string{"s3://app-data/file"},
			check: writes(sampleIRSARole, map[string]string{"s3://app-data/file": noPermission}),
		},
		{
			title: "IRSA: default/other asks for the same role and is refused",
			run:   []string{"-n", "default", "-s", "other", "--via", "irsa", "--role-arn", irsaRole}, check: refused(noRole),
		},
		{
			title: "IRSA: my-sa of another namespace is refused",
			run:   []string{"-n", "kube-system", "-s", "my-sa", "--via", "irsa", "--role-arn", irsaRole}, check: refused(noRole),
		},
		{
			title: "IRSA: default/my-sa of another cluster is refused",
			run:   []string{"--cluster", "other", "-n", "default", "-s", "my-sa", "--via", "irsa", "--role-arn", irsaRole}, check: refused(noRole),
		},
		{
			title: "Pod Identity: default/s3-sa gets its role, and writes below its own namespace only",
			run:   []string{"-n", "default", "-s", "s3-sa", "--via", "pod-identity"},
			pod:   []string{"s3://team-data/default/file", "s3://team-data/team-b/file"},
			check: writes(samplePodRole, map[string]string{"s3://team-data/default/file": "ok", "s3://team-data/team-b/file": noPermission}),
		},
		{
			title: "Pod Identity: the same role in namespace team-b has the other prefix",
			run:   []string{"-n", "team-b", "-s", "s3-sa", "--via", "pod-identity"},
			pod:   []string{"s3://team-data/default/file", "s3://team-data/team-b/file"},
			check: writes(samplePodRole, map[string]string{"s3://team-data/default/file": noPermission, "s3://team-data/team-b/file": "ok"}),
		},
		{
			title: "Pod Identity: a service account without an association gets nothing",
			run:   []string{"-n", "default", "-s", "other", "--via", "pod-identity"}, check: refused("ResourceNotFoundException"),
		},
	}
}
