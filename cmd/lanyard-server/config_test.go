package main

import (
	"strings"
	"testing"
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
		{"an issuer is served over HTTPS", strings.Replace(good, "https:", "http:", 1), []string{"issuerURL:"}},
		{"an upstream needs a key", good + "s3: {upstream: {endpoint: https://s3.example.com}}\n", []string{"s3.upstream:"}},
		{"a trust guard", good + "trustGuard: deny\n", nil},
		{"a trust guard that is none", good + "trustGuard: maybe\n", []string{"trustGuard: must be off, warn or deny"}},
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
