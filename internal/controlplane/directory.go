package controlplane

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Directory is where a control plane on one machine keeps what it has:
//
//	etcd/         the embedded store
//	objects/      the embedded S3 store
//	master.key    the master key, in hex; without it the store cannot be read
//	root.key      the root access key of the first account: ID and secret, a line each
//	audit.jsonl   one line per credential decision
//
// The directory has mode 0700, its files 0600.
type Directory struct{ path string }

// OpenDirectory makes the directory unless it is there, and refuses one that others may read.
func OpenDirectory(path string) (Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Directory{}, fmt.Errorf("open data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return Directory{}, fmt.Errorf("make data directory: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Directory{}, fmt.Errorf("open data directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Directory{}, fmt.Errorf("data directory %s may be read by others (mode %o): run chmod 700 %s", path, info.Mode().Perm(), path)
	}
	return Directory{path}, nil
}

// Path returns the absolute path of a file in the directory.
func (d Directory) Path(name string) string { return filepath.Join(d.path, name) }

// Write replaces a file, readable by the owner only, in one step: a crash leaves the old file or the new one.
func (d Directory) Write(name string, data []byte) error {
	f, err := os.CreateTemp(d.path, name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name()) // fails once the file has its name
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), d.Path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// MasterKey reads the master key. It makes one only where there is no store yet that another key would be needed for.
func (d Directory) MasterKey() (keyring.MasterKey, error) {
	var key keyring.MasterKey
	path := d.Path("master.key")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(d.Path("etcd")); err == nil {
			return key, fmt.Errorf("%s is missing, and the store in %s cannot be read without it: restore the file, or remove the directory to start anew", path, d.path)
		}
		rand.Read(key[:])
		return key, d.Write("master.key", []byte(hex.EncodeToString(key[:])+"\n"))
	case err != nil:
		return key, fmt.Errorf("read master key: %w", err)
	}
	return ParseMasterKey(path, text)
}

// ParseMasterKey reads a master key from the text of the file that is named in errors: 64 hex digits.
func ParseMasterKey(file string, text []byte) (keyring.MasterKey, error) {
	var key keyring.MasterKey
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != len(key) {
		return key, fmt.Errorf("%s does not hold a master key (64 hex digits): restore the file from a backup", file)
	}
	copy(key[:], raw)
	return key, nil
}

// RootKey reads the root access key of the first account.
func (d Directory) RootKey() (sigv4.Credentials, error) {
	path := d.Path("root.key")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sigv4.Credentials{}, fmt.Errorf("%s is missing; the root key is shown only once: restore the file, or remove the directory to start anew", path)
	}
	if err != nil {
		return sigv4.Credentials{}, fmt.Errorf("read root key: %w", err)
	}
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		return sigv4.Credentials{}, fmt.Errorf("%s does not hold an access key (ID and secret, a line each): restore the file from a backup", path)
	}
	return sigv4.Credentials{AccessKeyID: lines[0], SecretAccessKey: sigv4.Secret(lines[1])}, nil
}

// WriteRootKey keeps the root access key.
func (d Directory) WriteRootKey(c sigv4.Credentials) error {
	return d.Write("root.key", []byte(c.AccessKeyID+"\n"+string(c.SecretAccessKey)+"\n"))
}
