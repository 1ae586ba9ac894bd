package controlplane

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

var update = flag.Bool("update", false, "write the list of operations")

const operationsPage = "../../docs/operations.md"

const operationsHead = `# Operations

Every operation of the APIs whose models Lanyard has, and whether it is served. One that is not served answers 501 with its own
name, after the caller was authenticated. S3 and EC2 are not described by models: the gateway serves what authorizes a request,
see [divergences.md](divergences.md), which also says how what is served departs from AWS.

This page is made by asking a control plane for each operation: ` + "`go test ./internal/controlplane -run Operations -update`" + `.
`

// A described is what the list needs of a service's model.
type described struct {
	Metadata   struct{ APIVersion, EndpointPrefix, Protocol, ServiceFullName, SigningName, TargetPrefix string }
	Operations map[string]struct {
		HTTP struct{ Method, RequestURI string }
	}
}

// request asks for an operation and says nothing else.
func (d *described) request(t *testing.T, key sigv4.Credentials, operation string) *http.Request {
	t.Helper()
	method, path, body, header := "POST", "/", "{}", http.Header{}
	switch d.Metadata.Protocol {
	case "query":
		body = url.Values{"Action": {operation}, "Version": {d.Metadata.APIVersion}}.Encode()
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	case "json":
		header.Set("Content-Type", "application/x-amz-json-1.1")
		header.Set("X-Amz-Target", d.Metadata.TargetPrefix+"."+operation)
	default:
		of := d.Operations[operation].HTTP
		method, path = of.Method, regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(of.RequestURI, "x")
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	sum := sha256.Sum256([]byte(body))
	sigv4.Sign(r, key, cmp.Or(d.Metadata.SigningName, d.Metadata.EndpointPrefix), "us-east-1", hex.EncodeToString(sum[:]), time.Now())
	return r
}

func TestTheListOfOperationsIsTrue(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	p := start(t, config(t, kv.NewMemory()), dir)
	root, err := dir.RootKey()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../awsapi/models/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("models: %v, %v", files, err)
	}
	page := new(strings.Builder)
	page.WriteString(operationsHead)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d described
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		served, rows := 0, new(strings.Builder)
		for _, operation := range slices.Sorted(maps.Keys(d.Operations)) {
			w := httptest.NewRecorder()
			p.Handler().ServeHTTP(w, d.request(t, root, operation))
			state := "served"
			switch body := w.Body.String(); {
			case w.Code == http.StatusNotImplemented && strings.Contains(body, "This server does not implement "+operation+"."):
				state = "not served"
			case strings.Contains(body, "InvalidAction") || w.Header().Get("X-Amzn-Errortype") == "UnknownOperationException":
				state = "not served: the service is unknown"
			case w.Code >= http.StatusInternalServerError:
				t.Errorf("%s answers %d: %s", operation, w.Code, body)
			default:
				served++
			}
			fmt.Fprintf(rows, "| `%s` | %s |\n", operation, state)
		}
		fmt.Fprintf(page, "\n## %s\n\n%d of %d operations are served.\n\n| operation | state |\n|---|---|\n%s",
			d.Metadata.ServiceFullName, served, len(d.Operations), rows)
	}
	if *update {
		if err := os.WriteFile(operationsPage, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(operationsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != page.String() {
		t.Errorf("%s is not what the control plane answers: run the test with -update", operationsPage)
	}
}
