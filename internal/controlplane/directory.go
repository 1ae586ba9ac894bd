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

	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// Directory is where a control plane on one machine keeps what it has:
//
//	etcd/         the embedded store
//	objects/      the embedded S3 store
//	master.key    the master key, in hex; without it the store cannot be read
//	root.key      the root access key of the first account: ID and secret, a line each
//	root.key.new  the same, until it is known that the account has it
//	audit/        the audit trail
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
		return Directory{}, fmt.Errorf("data directory %s may be read by others (mode %o): run chmod 700 %[1]s", path, info.Mode().Perm())
	}
	return Directory{path}, nil
}

// Path returns the absolute path of a file in the directory.
func (d Directory) Path(name string) string { return filepath.Join(d.path, name) }

// Write replaces a file, readable by the owner only, in one step: a crash leaves the old file or the new one.
func (d Directory) Write(name string, data []byte) error { return d.write(name, data, os.Rename) }

// Keep returns what a file holds, and makes the file at first, in one step. Of processes that make it at the same time
// one prevails, and all return what that one made.
func (d Directory) Keep(name string, make func() ([]byte, error)) ([]byte, error) {
	data, err := os.ReadFile(d.Path(name))
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = make(); err != nil {
		return nil, err
	}
	err = d.write(name, data, os.Link) // which, unlike Rename, fails if there is a file
	if errors.Is(err, fs.ErrExist) {
		return os.ReadFile(d.Path(name))
	}
	return data, err
}

// write puts data on the disk under another name, and then gives it its own.
func (d Directory) write(name string, data []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(d.path, name+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name()) // fails if it has been renamed
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := place(f.Name(), d.Path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return d.sync()
}

// sync puts the directory's names on the disk.
func (d Directory) sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}

// MasterKey reads the master key. It makes one only where there is no store yet that another key would be needed for.
func (d Directory) MasterKey() (keyring.MasterKey, error) {
	path := d.Path("master.key")
	text, err := d.Keep("master.key", func() ([]byte, error) {
		if _, err := os.Stat(d.Path("etcd")); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing, and the store in %s cannot be read without it: restore the file from a backup, "+
				"or remove the directory to start anew", path, d.path)
		}
		var key keyring.MasterKey
		rand.Read(key[:])
		return []byte(hex.EncodeToString(key[:]) + "\n"), nil
	})
	if err != nil {
		return keyring.MasterKey{}, fmt.Errorf("read master key: %w", err)
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

const (
	rootKeyFile    = "root.key"
	newRootKeyFile = "root.key.new"
)

// RootKey reads the root access key of the first account.
func (d Directory) RootKey() (sigv4.Credentials, error) {
	path := d.Path(rootKeyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sigv4.Credentials{}, fmt.Errorf("%s is missing, and Lanyard does not show a root key twice: restore the file from a backup, "+
			"or remove the directory to start anew", path)
	}
	if err != nil {
		return sigv4.Credentials{}, fmt.Errorf("read root key: %w", err)
	}
	return parseRootKey(path, text)
}

func parseRootKey(file string, text []byte) (sigv4.Credentials, error) {
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		return sigv4.Credentials{}, fmt.Errorf("%s does not hold an access key (ID and secret, a line each): restore the file from a backup", file)
	}
	return sigv4.Credentials{AccessKeyID: lines[0], SecretAccessKey: sigv4.Secret(lines[1])}, nil
}

// rootKeyFor returns the root key, or while there is none, one that the account may get. That is on the disk already, so
// that no crash between here and settleRootKey loses it.
func (d Directory) rootKeyFor(account string) (sigv4.Credentials, error) {
	if _, err := os.Stat(d.Path(rootKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return d.RootKey()
	}
	text, err := d.Keep(newRootKeyFile, func() ([]byte, error) {
		key := iam.NewRootKey(account)
		return []byte(key.AccessKeyID + "\n" + string(key.SecretAccessKey) + "\n"), nil
	})
	if err != nil {
		return sigv4.Credentials{}, fmt.Errorf("make root key: %w", err)
	}
	return parseRootKey(d.Path(newRootKeyFile), text)
}

// settleRootKey gives a new root key its name, or removes it if it did not become the account's. It reports whether there
// was one that did.
func (d Directory) settleRootKey(kept bool) (made bool, err error) {
	from := d.Path(newRootKeyFile)
	if kept {
		err = os.Rename(from, d.Path(rootKeyFile))
	} else {
		err = os.Remove(from)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("settle the root key: %w", err)
	}
	return kept, d.sync()
}
