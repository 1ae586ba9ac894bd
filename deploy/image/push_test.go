package image_test

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/lanyard-id/lanyard/deploy/image"
)

func TestPush(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	index := newIndex(t, config(t))
	reference := strings.TrimPrefix(server.URL, "http://") + "/team/hello:1"
	if err := image.Push(t.Context(), index, reference); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Error(err)
	}
	if got, want := digest(t, pulled), digest(t, index); got != want {
		t.Errorf("pulled %s, pushed %s", got, want)
	}
	if err := image.Push(t.Context(), index, "127.0.0.1:1/team/hello:1"); err == nil { // a port that nobody is given, unlike one that was closed
		t.Error("pushed where nobody listens")
	}
	if err := image.Push(t.Context(), index, "hello"); err == nil {
		t.Error("pushed without a tag")
	}
}
