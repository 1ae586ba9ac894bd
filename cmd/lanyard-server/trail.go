package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/audit/postgres"
	"github.com/lanyard-id/lanyard/internal/controlplane"
)

// auditConfig says where the audit trail is kept.
type auditConfig struct {
	// Store is the URL of a PostgreSQL database that all replicas share, or of "file": dataDir/audit, each replica's own; that when
	// empty. The flag --audit-store takes its place.
	Store string `yaml:"store"`
	// StoreFile holds the URL, with the password in it, in place of Store.
	StoreFile string `yaml:"storeFile"`
	// Mode says what becomes of calls that cannot be recorded: required (they are refused) or best-effort; required when empty. The
	// flag --audit takes its place.
	Mode string `yaml:"mode"`
	// Retention is how long records are kept; 90 days when 0.
	Retention time.Duration `yaml:"retention"`
	// MaxSize is the most that the records on disk may have, in bytes; 1 GiB when 0. The oldest go first.
	MaxSize int64 `yaml:"maxSize"`
	// Bucket is where the records are delivered to, as CloudTrail does.
	Bucket bucketConfig `yaml:"bucket"`
}

func (a *auditConfig) inDatabase() bool {
	return a.StoreFile != "" || a.Store != "" && a.Store != "file"
}

// auditFlags take the place of the configuration's values when they are not empty.
type auditFlags struct{ store, mode string }

func (f *auditFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&f.store, "audit-store", "",
		"`URL` of the audit trail's PostgreSQL database, or \"file\", in place of the configuration's audit.store")
	flags.Func("audit", "what becomes of calls that cannot be recorded, in place of the configuration's audit.mode: required or best-effort",
		func(text string) error {
			mode, err := audit.ParseMode(text)
			f.mode = string(mode)
			return err
		})
}

// apply changes the settings, and says what is wrong with them then.
func (f *auditFlags) apply(a *auditConfig) error {
	if f.store != "" {
		a.Store, a.StoreFile = f.store, ""
	}
	if f.mode != "" {
		a.Mode = f.mode
	}
	return errors.Join(a.faults()...)
}

// faults are what is wrong with the settings.
func (a *auditConfig) faults() (faults []error) {
	_, badMode := audit.ParseMode(a.Mode)
	for _, f := range []struct {
		bad     bool
		message string
	}{
		{badMode != nil, "audit.mode: must be required or best-effort"},
		{a.Store != "" && a.StoreFile != "", "audit: store and storeFile exclude each other"},
		{a.Store != "" && a.Store != "file" && !isPostgres(a.Store), "audit.store: must be file, or a URL that begins with postgres://"},
		{a.Retention < 0, "audit.retention: must not be negative"},
		{a.MaxSize != 0 && a.MaxSize < audit.MinSize, "audit.maxSize: must be 1048576 (1 MiB) or more"},
		{a.MaxSize != 0 && a.inDatabase(), "audit.maxSize: is for records on disk; a database keeps them for audit.retention"},
	} {
		if f.bad {
			faults = append(faults, errors.New("  "+f.message))
		}
	}
	return append(faults, a.Bucket.faults()...)
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// recordStore is where the records are, until they are too old, and from where they are delivered.
type recordStore interface {
	audit.Store
	audit.Outbox
}

// openTrail opens the audit trail. The store is the caller's to close.
func openTrail(ctx context.Context, a auditConfig, dir controlplane.Directory, log *slog.Logger) (*audit.Trail, recordStore, error) {
	mode, err := audit.ParseMode(a.Mode)
	if err != nil {
		return nil, nil, err
	}
	store, err := openRecords(ctx, a, dir, log)
	if err != nil {
		return nil, nil, err
	}
	return audit.NewTrail(store, mode, log), store, nil
}

func openRecords(ctx context.Context, a auditConfig, dir controlplane.Directory, log *slog.Logger) (recordStore, error) {
	deliver := a.Bucket.Name != ""
	if !a.inDatabase() {
		return audit.OpenFiles(audit.FilesConfig{Dir: dir.Path("audit"), Retention: a.Retention, MaxSize: a.MaxSize, Deliver: deliver, Log: log})
	}
	url := a.Store
	if a.StoreFile != "" {
		text, err := os.ReadFile(a.StoreFile)
		if err != nil {
			return nil, fmt.Errorf("read the URL of the audit trail's database: %w", err)
		}
		url = trim(text)
	}
	return postgres.Open(ctx, postgres.Config{URL: url, Retention: a.Retention, Deliver: deliver, Log: log})
}
