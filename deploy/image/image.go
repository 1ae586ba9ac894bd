// Package image makes OCI images of single static programs, without a container engine and without privileges. An image holds the
// program, the certificate authorities of the public web, two users and an empty /tmp: nothing that could be run beside the program.
//
// The same program gives the same image, byte for byte.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Nonroot is the user and group that an image's program should run as unless it needs more.
const Nonroot = "65532:65532"

// Config says what is in an image.
type Config struct {
	Name     string            // the program's: it is /NAME in the image, and the image's entry point
	Programs map[string]string // the program's file by architecture, as GOARCH names it; the system is always Linux
	User     string            // who runs it, as "UID:GID"; root if it is empty
	Labels   map[string]string // of the image; the index has them as annotations as well
	Links    map[string]string // symbolic links by their path in the image, such as "/lib" to "usr/lib"
	Created  time.Time         // what the image says of itself; 1970 if it is zero
}

// machines are the architectures that images are made for, by their names in GOARCH.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// New makes an image for each of the programs, and an index of them. It refuses a program that is not a static one for Linux on its
// architecture: the image would not run.
func New(c Config) (v1.ImageIndex, error) {
	if c.Name == "" || strings.ContainsAny(c.Name, "/.") {
		return nil, fmt.Errorf("%q is no name for a program", c.Name)
	}
	if len(c.Programs) == 0 {
		return nil, fmt.Errorf("image of %s: no programs", c.Name)
	}
	base, err := c.base()
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", c.Name, err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(maps.Keys(c.Programs)) {
		image, err := c.image(base, arch)
		if err != nil {
			return nil, fmt.Errorf("image of %s for %s: %w", c.Name, arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(index, c.Labels).(v1.ImageIndex), nil
}

// base is the layer that is the same for all programs.
func (c Config) base() (v1.Layer, error) {
	entries := []entry{
		{path: "etc", mode: 0o755},
		{path: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnonroot:x:65532:\n")},
		{path: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
		{path: "etc/ssl", mode: 0o755},
		{path: "etc/ssl/certs", mode: 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: roots()},
		{path: "tmp", mode: 0o1777},
	}
	for path, target := range c.Links {
		entries = append(entries, entry{path: strings.TrimPrefix(path, "/"), mode: 0o777, link: target})
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	return layer(entries)
}

// roots returns the certificate authorities of Mozilla's list, but for those that it trusts within limits which a file cannot say.
func roots() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return out.Bytes()
}

func (c Config) image(base v1.Layer, arch string) (v1.Image, error) {
	program, err := readProgram(c.Programs[arch], arch)
	if err != nil {
		return nil, err
	}
	own, err := layer([]entry{{path: c.Name, mode: 0o755, data: program}})
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: c.Created}
	if created.IsZero() {
		created.Time = time.Unix(0, 0).UTC()
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image,
		mutate.Addendum{Layer: base, History: v1.History{Created: created, CreatedBy: "the base of all programs"}},
		mutate.Addendum{Layer: own, History: v1.History{Created: created, CreatedBy: c.Name}},
	)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, created
	file.Config = v1.Config{
		User:       c.User,
		Env:        []string{"PATH=/:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint: []string{"/" + c.Name},
		WorkingDir: "/",
		Labels:     c.Labels,
	}
	return mutate.ConfigFile(image, file)
}

// readProgram reads a program that needs nothing beside itself, and none but its architecture.
func readProgram(path, arch string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	machine, known := machines[arch]
	if !known {
		return nil, errors.New("unknown architecture")
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	if file.Machine != machine {
		return nil, fmt.Errorf("%s is for %s", path, file.Machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is not static: build it with CGO_ENABLED=0", path)
		}
	}
	return data, nil
}

// entry is a file in a layer, a symbolic link if it has one, and a folder if it has neither data nor a link.
type entry struct {
	path string
	mode int64 // the permissions, as chmod takes them
	data []byte
	link string
}

// layer packs entries, which belong to root and are as old as Unix.
func layer(entries []entry) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := tar.Header{Name: e.path, Mode: e.mode, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.data == nil:
			h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// WriteArchive writes an index to a file as a tar of an OCI image layout, which `ctr images import`, `k3s ctr images import`,
// `kind load image-archive`, `podman load` and `skopeo copy oci-archive:` read. They name the image by reference, a full one with a
// tag such as "registry.example/lanyard-agent:1.0".
func WriteArchive(path string, index v1.ImageIndex, reference string) error {
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// The image's blobs are there under their digests, and so in the same order always.
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	files, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = files.AppendIndex(index, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name":          tag.Name(),
			"org.opencontainers.image.ref.name": tag.TagStr(),
		}))
	}
	if err == nil {
		err = writeTar(path, dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// writeTar writes the folder's files to an archive, which is there whole or not at all.
func writeTar(path, dir string) error {
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := tar.Header{Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(w, in)
		return err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(w.Close(), out.Chmod(0o644), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}
