package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The token in a pod is read by kubectl, whatever the pod has in the token's place.
func TestReadInside(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, c := range []struct {
		name, kubectl string
		want          string
		fault         string // part of the error
	}{
		{"a token", `echo "a.b.c $*"`, "a.b.c exec --namespace web worker-0 --container app --kubeconfig /kube --context prod -- cat /token\n", ""},
		{"nothing is there", `echo "cat: /token: No such file or directory" >&2; exit 1`, "", "kubectl exec: cat: /token: No such file or directory"},
		{"kubectl fails without a word", "exit 7", "", "kubectl exec: exit status 7"},
		{"the complaint has no end", `echo no >&2; head -c 1000000 /dev/zero >&2; exit 1`, "", "kubectl exec: no"},
		{"it has no end", "exec cat /dev/zero", "", "read /token in container app: longer than 65536 bytes"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte("#!/bin/sh\n"+c.kubectl+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		q := consultation{kubeconfig: "/kube", kubeContext: "prod"}
		got, err := q.readInside(t.Context(), "web", "worker-0", "app", "/token")
		if string(got) != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
	}
}
