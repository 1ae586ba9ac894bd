package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseInitialize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want *initializeConfig // nil: refused
	}{
		{"", &initializeConfig{link: "pod-id-link0", verbosity: "info"}},
		{"-v debug", &initializeConfig{link: "pod-id-link0", verbosity: "debug"}},
		{"--verbosity error --cleanup", &initializeConfig{link: "pod-id-link0", cleanup: true, verbosity: "error"}},
		{"--link lo", &initializeConfig{link: "lo", verbosity: "info"}},
		{"--link=", nil},
		{"pod-id-link0", nil},
		{"--unknown", nil},
	} {
		got, err := parseInitialize(strings.Fields(c.args), io.Discard)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%q: got error %v", c.args, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(initializeConfig{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.args, diff)
		}
	}
	var errs bytes.Buffer
	if _, err := parseInitialize([]string{"-h"}, &errs); !errors.Is(err, flag.ErrHelp) || !strings.Contains(errs.String(), "-cleanup") {
		t.Errorf("-h: %v, %s", err, &errs)
	}
}

// Neither reaches the node's links.
func TestInitializeRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"extra", "-v loud"} {
		if err := initialize(strings.Fields(args), io.Discard, io.Discard); err == nil {
			t.Errorf("initialize %s succeeds", args)
		}
	}
}
