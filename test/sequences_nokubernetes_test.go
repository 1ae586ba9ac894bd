//go:build !e2e

package test

import (
	"errors"
	"testing"
)

// kubernetesSide is what there is of an API server without the build tag e2e: none.
type kubernetesSide struct{}

func (*kubernetesSide) do(_, _, _ string) ([]byte, error) {
	return nil, errors.New("there is no API server")
}

func startKubernetesSide(t testing.TB) *kubernetesSide {
	t.Helper()
	t.Log("the calls of the Kubernetes API are left out: they take the build tag e2e")
	return nil
}
