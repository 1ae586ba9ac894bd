package controlplane_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lanyard-id/lanyard/internal/controlplane"
)

func open(t *testing.T) controlplane.Directory {
	t.Helper()
	dir, err := controlplane.OpenDirectory(filepath.Join(t.TempDir(), "state", "lanyard"))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDirectoriesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	if info, err := os.Stat(open(t).Path(".")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a new directory has mode %v, %v", info.Mode(), err)
	}
	for mode, ok := range map[fs.FileMode]bool{0o700: true, 0o500: true, 0o701: false, 0o710: false, 0o740: false, 0o755: false, 0o777: false} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := controlplane.OpenDirectory(dir)
		if (err == nil) != ok {
			t.Errorf("mode %o: got error %v, want success %v", mode, err, ok)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 700 "+dir) {
			t.Errorf("mode %o: the error does not say what to do: %v", mode, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := controlplane.OpenDirectory(file); err == nil {
		t.Error("a file is taken for a directory")
	}
}

func TestWriteReplacesInOneStep(t *testing.T) {
	t.Parallel()
	dir := open(t)
	if err := dir.Write("file", []byte("first")); err != nil {
		t.Fatal(err)
	}
	// Who has the old file open goes on reading it.
	old, err := os.Open(dir.Path("file"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := dir.Write("file", []byte("second")); err != nil {
		t.Fatal(err)
	}
	for text, read := range map[string]func([]byte) (int, error){
		"first": old.Read,
		"second": func(b []byte) (int, error) {
			text, err := os.ReadFile(dir.Path("file"))
			return copy(b, text), err
		},
	} {
		b := make([]byte, 100)
		if n, err := read(b); err != nil || string(b[:n]) != text {
			t.Errorf("read %q, %v; want %q", b[:n], err, text)
		}
	}
	onlyFile(t, dir, "file")
}

// onlyFile checks that the directory has one file, and that nobody else may read it.
func onlyFile(t *testing.T, dir controlplane.Directory, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir.Path("."))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("the directory holds %v", entries)
	}
	if info, err := os.Stat(dir.Path(name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
	}
}

func TestKeepMakesAFileOnce(t *testing.T) {
	t.Parallel()
	dir := open(t)
	broken := errors.New("broken")
	if _, err := dir.Keep("file", func() ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
	const writers = 20
	got := make([]string, writers)
	var group sync.WaitGroup
	var together sync.WaitGroup // all of them find no file
	together.Add(writers)
	for i := range writers {
		group.Go(func() {
			made := false
			text, err := dir.Keep("file", func() ([]byte, error) {
				made = true
				together.Done()
				together.Wait()
				return []byte(strings.Repeat("x", i+1)), nil
			})
			if err != nil || !made {
				t.Errorf("writer %d: %v, made %v", i, err, made)
			}
			got[i] = string(text)
		})
	}
	group.Wait()
	again, err := dir.Keep("file", func() ([]byte, error) { return nil, broken })
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range got {
		if text != string(again) {
			t.Errorf("writer %d has %q, but the file holds %q", i, text, again)
		}
	}
	onlyFile(t, dir, "file")
}

func TestMasterKey(t *testing.T) {
	t.Parallel()
	dir := open(t)
	first, err := dir.MasterKey()
	if err != nil {
		t.Fatal(err)
	}
	onlyFile(t, dir, "master.key")
	if err := os.Mkdir(dir.Path("etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	second, err := dir.MasterKey()
	if err != nil || second != first {
		t.Errorf("the second time it is another key, or %v", err)
	}
	if err := os.Remove(dir.Path("master.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.MasterKey(); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("beside a store, a lost key gives %v", err)
	}
	if _, err := os.Stat(dir.Path("master.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a new key was made beside a store")
	}
}

func TestParseMasterKey(t *testing.T) {
	t.Parallel()
	const hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for text, ok := range map[string]bool{
		hex: true, hex + "\n": true, " " + strings.ToUpper(hex) + "\r\n": true,
		"": false, hex[2:]: false, hex + "20": false, hex[:62] + "zz": false, hex[:32] + "\n" + hex[32:]: false,
	} {
		key, err := controlplane.ParseMasterKey("the-file", []byte(text))
		if (err == nil) != ok {
			t.Errorf("%q: got error %v, want success %v", text, err, ok)
		}
		if ok && (key[0] != 0 || key[31] != 0x1f) {
			t.Errorf("%q: got another key", text)
		}
		if err != nil && (!strings.Contains(err.Error(), "the-file") || text != "" && strings.Contains(err.Error(), text)) {
			t.Errorf("%q: the error names the file, and never what it holds: %v", text, err)
		}
	}
}

func TestRootKey(t *testing.T) {
	t.Parallel()
	dir := open(t)
	if _, err := dir.RootKey(); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("without the file: %v", err)
	}
	for text, ok := range map[string]bool{
		"AKIAEXAMPLE\nsecret\n": true, "AKIAEXAMPLE\r\nsecret": true,
		"": false, "AKIAEXAMPLE\n": false, "AKIAEXAMPLE\nsecret\nmore\n": false,
	} {
		if err := dir.Write("root.key", []byte(text)); err != nil {
			t.Fatal(err)
		}
		key, err := dir.RootKey()
		if (err == nil) != ok || ok && (key.AccessKeyID != "AKIAEXAMPLE" || key.SecretAccessKey != "secret") {
			t.Errorf("%q: got %s, %v", text, key.AccessKeyID, err)
		}
	}
}
