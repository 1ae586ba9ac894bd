//go:build e2e

package test

import (
	"os"
	"testing"
)

// kubernetesSide is the API server that scripts ask.
type kubernetesSide = apiServer

// startKubernetesSide runs an API server if there is one: without it, scripts leave out what they would ask it.
func startKubernetesSide(t testing.TB) *kubernetesSide {
	t.Helper()
	if _, err := os.Stat("../.cache/kubenode/bin/kube-apiserver"); err != nil && os.Getenv("CI") != "true" {
		t.Log("the calls of the Kubernetes API are left out: kube-apiserver is not built: run make e2e")
		return nil
	}
	return startKubernetes(t)
}
