package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
)

func TestParse(t *testing.T) {
	defaults := config{
		logLevel: "info", port: 443, metricsPort: 9999, inCluster: true,
		tlsCert: "/etc/webhook/certs/tls.crt", tlsKey: "/etc/webhook/certs/tls.key",
		namespace: "eks", service: "pod-identity-webhook", tlsSecret: "pod-identity-webhook", webhookName: "pod-identity-webhook",
		syncPeriod: 15 * time.Second, firstSync: time.Minute, lookupTimeout: 3 * time.Second, stopDelay: 5 * time.Second, reportPeriod: time.Minute, reportExcept: "kube-system",
		keyPeriod: 5 * time.Second, keyRetention: 24 * time.Hour, keysSecret: "lanyard-webhook-keys", reconcilePeriod: 5 * time.Minute, accessPeriod: 15 * time.Second, lease: "lanyard-webhook",
		settings: podspec.Settings{
			AnnotationPrefix: "eks.amazonaws.com", TokenExpiration: 86400, AgentURI: "http://169.254.170.23/v1/credentials",
			WebIdentity: podspec.Projection{MountPath: "/var/run/secrets/eks.amazonaws.com/serviceaccount", Audience: "sts.amazonaws.com"},
			PodIdentity: podspec.Projection{
				Volume: "eks-pod-identity-token", MountPath: "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount",
				File: "eks-pod-identity-token", Audience: "pods.eks.amazonaws.com",
			},
			CA: podspec.ConfigMapKey{Key: "ca.pem"},
		},
	}
	for _, c := range []struct {
		args string
		want func(*config) // nil: refused
	}{
		{"", func(*config) {}},
		{ // AWS's own manifest
			"--in-cluster=false --namespace=eks --service-name=pod-identity-webhook --annotation-prefix=eks.amazonaws.com " +
				"--token-audience=sts.amazonaws.com --resync-period 30s --service-account-lookup-grace-period 100ms",
			func(c *config) { c.inCluster = false },
		},
		{"--port 8443 --metrics-port 0 --address 127.0.0.1", func(c *config) { c.port, c.metricsPort, c.address = 8443, 0, "127.0.0.1" }},
		{"--aws-default-region eu-west-1 --sts-regional-endpoint", func(c *config) { c.settings.Region, c.settings.RegionalSTS = "eu-west-1", true }},
		{"--token-expiration 60", func(c *config) { c.settings.TokenExpiration = 600 }},
		{"--compose-role-arn --account-id 111122223333 --aws-default-region cn-north-1", func(c *config) {
			c.composeRole, c.account, c.settings.Region = true, "111122223333", "cn-north-1"
			c.settings.Compose = &podspec.Account{Partition: "aws-cn", ID: "111122223333"}
		}},
		{"--pod-endpoint-url https://lanyard.example --pod-ca-config-map lanyard-ca", func(c *config) {
			c.settings.Endpoint, c.settings.CA.Name = "https://lanyard.example", "lanyard-ca"
		}},
		{"--pod-endpoint-url https://lanyard.example --pod-ca-config-map x --pod-ca-file a --pod-ca-file b", func(c *config) {
			c.settings.Endpoint, c.settings.CA.Name, c.caFiles = "https://lanyard.example", "x", []string{"a", "b"}
		}},
		{"--cluster-name one --fail-closed -v 4", func(c *config) { c.cluster, c.failClosed, c.logLevel = "one", true, "debug" }},
		{"--cluster-name one --push-keys --key-push-period 1s --key-retention 1h", func(c *config) {
			c.cluster, c.pushKeys, c.keyPeriod, c.keyRetention = "one", true, time.Second, time.Hour
		}},
		{"--cluster-name one --reconcile-associations --reconcile-period 1m --lease mine", func(c *config) {
			c.cluster, c.reconcile, c.reconcilePeriod, c.lease = "one", true, time.Minute, "mine"
		}},
		{"--cluster-name one --keep-access --access-period 1s", func(c *config) { c.cluster, c.keepAccess, c.accessPeriod = "one", true, time.Second }},
		{"--watch-config-map=true", func(c *config) { c.watchConfigMap = true }},
		{"--v=2", func(*config) {}},
		{"-v loud", nil},
		{"--log-level warn", func(c *config) { c.logLevel = "warn" }},
		{"--version", func(c *config) { c.version = true }},
		{"extra", nil},
		{"--unknown", nil},
		{"--port 65536", nil},
		{"--cluster-name one --watch-container-credentials-config /file", nil},
		{"--compose-role-arn", nil},
		{"--compose-role-arn --account-id 1111 --aws-default-region eu-west-1", nil},
		{"--compose-role-arn --account-id 111122223333 --aws-default-region nowhere", nil},
		{"--pod-ca-config-map lanyard-ca", nil},
		{"--pod-endpoint-url https://lanyard.example --pod-ca-file /ca.pem", nil},
		{"--report-period -1s", nil},
		{"--lookup-timeout 0s", nil},
		{"--push-keys", nil},
		{"--reconcile-associations", nil},
		{"--keep-access", nil},
		{"--cluster-name one --keep-access --access-period 0s", nil},
		{"--reconcile-associations --watch-container-credentials-config /file", nil},
		{"--key-push-period 0s", nil},
		{"--key-retention -1s", nil},
		{"--reconcile-period 0s", nil},
		{"--association-sync-period -1s", nil},
		{"--association-first-sync 0s", func(c *config) { c.firstSync = 0 }},
		{"--association-first-sync -1s", nil},
		{"--stop-delay -1s", nil},
	} {
		got, err := parse(strings.Fields(c.args), io.Discard)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%q: got error %v", c.args, err)
			continue
		}
		if c.want == nil {
			continue
		}
		want := defaults
		c.want(&want)
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(config{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.args, diff)
		}
	}
}

func TestCommand(t *testing.T) {
	var out, errs bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, &out, &errs); err != nil || out.Len() < 2 {
		t.Errorf("--version: %v, %s", err, &out)
	}
	if err := run(t.Context(), []string{"-h"}, &out, &errs); !errors.Is(err, flag.ErrHelp) || !strings.Contains(errs.String(), "-cluster-name") {
		t.Errorf("-h: %v, %s", err, &errs)
	}
	if err := run(t.Context(), []string{"cleanup", "-h"}, &out, &errs); !errors.Is(err, flag.ErrHelp) || !strings.Contains(errs.String(), "-timeout") {
		t.Errorf("cleanup -h: %v, %s", err, &errs)
	}
	for _, args := range [][]string{{"cleanup", "--timeout", "0s"}, {"cleanup", "--port", "443"}, {"cleanup", "everything"}} {
		if err := run(t.Context(), args, &out, &errs); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	if err := run(t.Context(), []string{"--port", "x"}, &out, &errs); !errors.Is(err, daemon.ErrUsage) {
		t.Errorf("a port that is none: %v", err)
	}
	if err := run(t.Context(), []string{"--kubeconfig", "/nowhere"}, &out, &errs); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
}

func TestIdentitiesFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identities")
	f := identitiesFile(path)
	if _, err := f.list(t.Context()); err == nil {
		t.Error("a file that is not there is taken")
	}
	reader, writer := subject.Subject{Namespace: "web", ServiceAccount: "reader"}, subject.Subject{Namespace: "web", ServiceAccount: "writer"}
	for _, c := range []struct {
		text string
		want []subject.Subject
		ok   bool
	}{
		{`{"identities": [{"namespace": "web", "serviceAccount": "reader"}]}`, []subject.Subject{reader}, true},
		{`{"identities": []}`, []subject.Subject{}, true},
		{`{"identities": [`, nil, false},
		{strings.Repeat(" ", maxIdentities+1), nil, false},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := f.list(t.Context())
		if (err == nil) != c.ok {
			t.Errorf("%.80q: %v", c.text, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%.80q (-want +got):\n%s", c.text, diff)
		}
		for who, want := range map[subject.Subject]bool{reader: len(c.want) > 0, writer: false} {
			if found, err := f.find(t.Context(), who); found != want || (err == nil) != c.ok {
				t.Errorf("%.80q: %v: got %v, %v", c.text, who, found, err)
			}
		}
	}
}
