package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/lanyard-id/lanyard/deploy/image"
)

// hello builds testdata/hello.
func hello(t *testing.T, arch string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hello-"+arch)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./testdata/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func config(t *testing.T) image.Config {
	return image.Config{
		Name:     "hello",
		Programs: map[string]string{"amd64": hello(t, "amd64"), "arm64": hello(t, "arm64")},
		User:     image.Nonroot,
		Labels:   map[string]string{"org.opencontainers.image.title": "Hello"},
		Links:    map[string]string{"/bin": "usr/bin"},
	}
}

func newIndex(t *testing.T, c image.Config) v1.ImageIndex {
	t.Helper()
	index, err := image.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func digest(t *testing.T, i interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestImagesOfEachArchitecture(t *testing.T) {
	t.Parallel()
	c := config(t)
	index := newIndex(t, c)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		im, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		file, err := im.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := file.OS + "/" + file.Architecture; got != m.Platform.String() {
			t.Errorf("the index says %s, the image %s", m.Platform, got)
		}
		if file.Created.Unix() != 0 {
			t.Errorf("the image is of %s", file.Created)
		}
		want := v1.Config{
			User:       "65532:65532",
			Env:        []string{"PATH=/:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: []string{"/hello"},
			WorkingDir: "/",
			Labels:     c.Labels,
		}
		if diff := cmp.Diff(want, file.Config); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}

		contents := unpack(t, mutate.Extract(im))
		program, err := os.ReadFile(c.Programs[file.Architecture])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents["hello"].data, program) {
			t.Errorf("/hello for %s is another program", file.Architecture)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(contents["etc/ssl/certs/ca-certificates.crt"].data) {
			t.Error("no certificate authorities")
		}
		got := make(map[string]string)
		for name, e := range contents {
			got[name] = e.mode
		}
		if diff := cmp.Diff(map[string]string{
			"bin": "Lrwxrwxrwx usr/bin", "etc": "drwxr-xr-x", "etc/group": "-rw-r--r--", "etc/passwd": "-rw-r--r--", "etc/ssl": "drwxr-xr-x",
			"etc/ssl/certs": "drwxr-xr-x", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r--", "hello": "-rwxr-xr-x", "tmp": "dtrwxrwxrwx",
		}, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

type file struct {
	mode string
	data []byte
}

func unpack(t *testing.T, r io.ReadCloser) map[string]file {
	t.Helper()
	defer r.Close()
	files := make(map[string]file)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s belongs to %d:%d, and is of %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		mode := h.FileInfo().Mode().String()
		if h.Linkname != "" {
			mode += " " + h.Linkname
		}
		files[strings.TrimSuffix(h.Name, "/")] = file{mode, data}
	}
}

func TestTheSameProgramsGiveTheSameArchive(t *testing.T) {
	t.Parallel()
	write := func() (digests string, archive []byte) {
		index := newIndex(t, config(t)) // compiled anew, in another folder
		path := filepath.Join(t.TempDir(), "hello.tar")
		if err := image.WriteArchive(path, index, "registry.test/hello:1"); err != nil {
			t.Fatal(err)
		}
		archive, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return digest(t, index), archive
	}
	one, archiveOne := write()
	two, archiveTwo := write()
	if one != two {
		t.Errorf("got %s and then %s", one, two)
	}
	if !bytes.Equal(archiveOne, archiveTwo) {
		t.Error("the archives differ")
	}
	other := config(t)
	other.Labels = map[string]string{"org.opencontainers.image.title": "Good day"}
	if digest(t, newIndex(t, other)) == one {
		t.Error("another title gives the same image")
	}
}

func TestArchiveIsALayoutThatNamesTheImage(t *testing.T) {
	t.Parallel()
	index := newIndex(t, config(t))
	dir := t.TempDir()
	archive := filepath.Join(dir, "hello.tar")
	if err := image.WriteArchive(archive, index, "registry.test/team/hello:1"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the archive there are %v, %v", left, err)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	unpacked := t.TempDir()
	for name, e := range unpack(t, f) {
		path := filepath.Join(unpacked, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, e.data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(whole); err != nil {
		t.Error(err)
	}
	var marker struct{ ImageLayoutVersion string }
	text, err := os.ReadFile(filepath.Join(unpacked, "oci-layout"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &marker); err != nil || marker.ImageLayoutVersion != "1.0.0" {
		t.Errorf("oci-layout: %q, %v", text, err)
	}
	manifest, err := whole.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest.String() != digest(t, index) {
		t.Errorf("the archive holds %v, not the index alone", manifest.Manifests)
	}
	if diff := cmp.Diff(map[string]string{
		"io.containerd.image.name":          "registry.test/team/hello:1",
		"org.opencontainers.image.ref.name": "1",
	}, manifest.Manifests[0].Annotations); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	amd64 := hello(t, "amd64")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		config image.Config
		want   string
	}{
		{"a program for another architecture", image.Config{Name: "hello", Programs: map[string]string{"arm64": amd64}}, "is for EM_X86_64"},
		{"a script", image.Config{Name: "hello", Programs: map[string]string{"amd64": script}}, "is no program for Linux"},
		{"no program", image.Config{Name: "hello"}, "no programs"},
		{"a file that is not there", image.Config{Name: "hello", Programs: map[string]string{"amd64": script + "2"}}, "no such file"},
		{"an architecture that is not known", image.Config{Name: "hello", Programs: map[string]string{"pdp11": amd64}}, "unknown architecture"},
		{"a name that is a path", image.Config{Name: "../hello", Programs: map[string]string{"amd64": amd64}}, "is no name for a program"},
	} {
		if _, err := image.New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	index := newIndex(t, image.Config{Name: "hello", Programs: map[string]string{"amd64": amd64}})
	for _, reference := range []string{"", "hello", "registry.test/hello", "registry.test/Hello:1", "registry.test/hello@sha256:00"} {
		path := filepath.Join(t.TempDir(), "hello.tar")
		if err := image.WriteArchive(path, index, reference); err == nil {
			t.Errorf("an archive was written for the reference %q", reference)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("a file was left for the reference %q", reference)
		}
	}
}

// A program that needs a loader would find none.
func TestProgramsMustBeStatic(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "hello")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildmode=pie", "-o", out, "./testdata/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	_, err := image.New(image.Config{Name: "hello", Programs: map[string]string{"amd64": out}})
	if err == nil || !strings.Contains(err.Error(), "is not static") {
		t.Errorf("got %v", err)
	}
}
