package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/controlplane"
)

func TestAuditSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config auditConfig
		fault  string // "" for none
	}{
		{"the defaults", auditConfig{}, ""},
		{"a trail on disk", auditConfig{Store: "file", Mode: "required", MaxSize: 1 << 20, Retention: time.Hour}, ""},
		{"a database", auditConfig{Store: "postgres://u@h/d", Mode: "best-effort"}, ""},
		{"a database by its other name", auditConfig{Store: "postgresql://u@h/d"}, ""},
		{"a database's URL in a file", auditConfig{StoreFile: "/x"}, ""},
		{"another mode", auditConfig{Mode: "off"}, "audit.mode"},
		{"another database", auditConfig{Store: "mysql://h/d"}, "audit.store"},
		{"two stores", auditConfig{Store: "file", StoreFile: "/x"}, "exclude each other"},
		{"a time before", auditConfig{Retention: -1}, "audit.retention"},
		{"a tiny trail", auditConfig{MaxSize: 1}, "audit.maxSize"},
		{"the size of a database", auditConfig{Store: "postgres://u@h/d", MaxSize: 1 << 20}, "audit.maxSize"},
	} {
		err := errors.Join(c.config.faults()...)
		if (c.fault == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", c.name, err, c.fault)
		}
	}
}

func TestAuditFlagsTakeThePlaceOfTheConfiguration(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) (auditFlags, error) {
		var f auditFlags
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		f.register(flags)
		return f, flags.Parse(args)
	}
	f, err := parse("--audit", "best-effort", "--audit-store", "file")
	if err != nil {
		t.Fatal(err)
	}
	config := auditConfig{StoreFile: "/x", Mode: "required"}
	if err := f.apply(&config); err != nil || config != (auditConfig{Store: "file", Mode: "best-effort"}) {
		t.Errorf("%+v, %v", config, err)
	}
	if _, err := parse("--audit", "off"); err == nil {
		t.Error("--audit=off was accepted")
	}
	f, err = parse("--audit-store", "postgres://h/d")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.apply(&auditConfig{MaxSize: 1 << 20}); err == nil || !strings.Contains(err.Error(), "audit.maxSize") {
		t.Errorf("a database with a size: %v", err)
	}
}

// A URL that cannot be used is told without the password in it.
func TestDatabaseThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte("postgres://u:hunter2@127.0.0.1:port/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := controlplane.OpenDirectory(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []auditConfig{{StoreFile: file}, {Store: "postgres://u:hunter2@/d?host=/nowhere"}, {StoreFile: file + "2"}} {
		_, store, err := openTrail(t.Context(), config, dir, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, %v", store, err)
		}
	}
}
