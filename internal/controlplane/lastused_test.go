package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
)

// What keys were last used for outlives the process, since the control plane has IAM save it.
func TestLastUsesAreSaved(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	synctest.Test(t, func(t *testing.T) {
		store := kv.NewMemory()
		p := start(t, config(t, store), dir)
		root, err := dir.RootKey()
		if err != nil {
			t.Fatal(err)
		}
		saved := func() bool {
			entries, _, err := store.List(t.Context(), "/lanyard/iam-last-used/"+root.AccessKeyID)
			if err != nil {
				t.Fatal(err)
			}
			return len(entries) > 0
		}
		const body = "Action=ListRoles&Version=2010-05-08"
		sum := sha256.Sum256([]byte(body))
		r := sign(t, root, "iam", "POST", "http://localhost/", strings.NewReader(body), hex.EncodeToString(sum[:]))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		if saved() {
			t.Error("the use was written on the way of the request")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if !saved() {
			t.Error("the use was not saved")
		}
	})
}
