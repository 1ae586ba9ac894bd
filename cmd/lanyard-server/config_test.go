package main

import (
	"strings"
	"testing"
	"time"
)

const good = `
dataDir: /data
issuerURL: https://issuer.example.com
listen: 127.0.0.1:4566
`

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name, text string
		faults     []string // parts of the error; none when the configuration is good
	}{
		{"the least that is needed", good, nil},
		{"a fleet", good + "masterKeyFile: /key\netcd: {endpoints: [https://a:2379, https://b:2379], caFile: /ca}\n", nil},
		{"an unknown key is refused", good + "listne: x\n", []string{"listne"}},
		{"all faults are reported at once", "account: '1'\nregion: nowhere\n", []string{"account:", "region:", "issuerURL:", "listen"}},
		{"replicas need one master key", good + "etcd: {endpoints: [https://a:2379]}\n", []string{"masterKeyFile:"}},
		{"HTTPS needs a certificate", good + "listenTLS: :443\n", []string{"tls:"}},
		{"a certificate by an authority", good + "listenTLS: :443\ntls: {caCertFile: a, caKeyFile: b, hosts: [a.example.com, '*.a.example.com', '::1']}\n", nil},
		{"an authority without hosts", good + "listenTLS: :443\ntls: {caCertFile: a, caKeyFile: b}\n", []string{"tls: either"}},
		{"a certificate and an authority", good + "listenTLS: :443\ntls: {certFile: c, keyFile: d, caCertFile: a, caKeyFile: b, hosts: [a]}\n", []string{"tls: either"}},
		{"hosts that are none", good + "listenTLS: :443\ntls: {caCertFile: a, caKeyFile: b, hosts: ['*', 'https://a']}\n", []string{"tls.hosts:"}},
		{"an issuer is served over HTTPS", strings.Replace(good, "https:", "http:", 1), []string{"issuerURL:"}},
		{"an upstream needs a key", good + "s3: {upstream: {endpoint: https://s3.example.com}}\n", []string{"s3.upstream:"}},
		{"a stop before it is told", good + "stopDelay: -1s\n", []string{"stopDelay: must not be negative"}},
		{"a trust guard", good + "trustGuard: deny\n", nil},
		{"a trust guard that is none", good + "trustGuard: maybe\n", []string{"trustGuard: must be off, warn or deny"}},
		{"token reviews", good + "tokenReview: {every: 30s, clusters: {one: {kubeconfig: /k}, two: {inCluster: true}}}\n", nil},
		{"token reviews that only the flag turns on", good + "tokenReview: {clusters: {one: {kubeconfig: /k}}}\n", nil},
		{"token reviews more often than can be kept", good + "tokenReview: {every: 1s, clusters: {one: {kubeconfig: /k}}}\n",
			[]string{"tokenReview.every: must be 0, or 15s or more"}},
		{"token reviews by nobody", good + "tokenReview: {every: 30s}\n", []string{"tokenReview.clusters: must be set"}},
		{"a cluster that is reached in two ways", good + "tokenReview: {clusters: {one: {kubeconfig: /k, inCluster: true}}}\n",
			[]string{"tokenReview.clusters: each must have either"}},
		{"a cluster that is reached in none", good + "tokenReview: {clusters: {one: {}}}\n", []string{"tokenReview.clusters: each must have either"}},
		{"one store of objects", good + "s3: {embedded: true, upstream: {endpoint: https://s3, region: r, accessKeyID: a, secretAccessKeyFile: f}}\n",
			[]string{"exclude"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig("server.yaml", []byte(c.text))
			if (err != nil) != (c.faults != nil) {
				t.Fatalf("got error %v, want faults %v", err, c.faults)
			}
			for _, f := range c.faults {
				if !strings.Contains(err.Error(), f) {
					t.Errorf("the error does not name %q: %v", f, err)
				}
			}
		})
	}
}

// Where there may be other replicas they are given time to be turned to.
func TestStopDelay(t *testing.T) {
	shared := good + "masterKeyFile: /key\netcd: {endpoints: [https://a:2379]}\n"
	for text, want := range map[string]time.Duration{
		good: 0, good + "stopDelay: 8s\n": 8 * time.Second,
		shared: 5 * time.Second, shared + "stopDelay: 0s\n": 0,
	} {
		c, err := parseConfig("server.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if *c.StopDelay != want {
			t.Errorf("%s\nstops %v late, want %v", text, *c.StopDelay, want)
		}
	}
}
