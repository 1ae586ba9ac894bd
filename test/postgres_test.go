//go:build e2e && linux

package test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/jackc/pgx/v5"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// nobody is who runs PostgreSQL when the tests are run by root, whom it refuses.
const nobody = 65534

// startPostgres runs a database server that listens at a Unix socket, until the test ends, and returns its URL.
func startPostgres(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("../.cache/postgres/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		leftOut(t, "there is no PostgreSQL in .cache/postgres: run make e2e")
	}
	programs, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	// Not in t.TempDir, where nobody else may go; and a socket's path must be short.
	dir, err := os.MkdirTemp("", "lanyard-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(programs, name), args...)
		libraries, _ := filepath.Glob(filepath.Join(programs, "../../../*-linux-gnu*"))
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"), "LC_ALL=C")
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, t.Output(), t.Output()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if os.Getuid() == 0 {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		}
		return cmd
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	if err := run("initdb", "-D", data, "-U", "lanyard", "-A", "trust", "--no-sync", "--no-instructions").Run(); err != nil {
		t.Fatalf("initdb: %v", err)
	}
	server := run("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT)
		server.Wait()
	})
	address := "postgres://lanyard@/postgres?host=" + url.QueryEscape(dir)
	eventually(t, "PostgreSQL answers", func(ctx context.Context) error {
		db, err := pgx.Connect(ctx, address)
		if err != nil {
			return err
		}
		return db.Close(ctx)
	})
	return address
}

// Three servers keep one trail. One is killed while many ask all of them: every request that was answered has its record, and what one
// server records the others find.
func TestServersShareATrail(t *testing.T) {
	database := startPostgres(t)
	settings := sharedStore(t) + fmt.Sprintf("audit: {store: %q}\n", database)
	var servers [3]*server
	for i := range servers {
		servers[i] = startServer(quietTest{t}, settings)
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
			servers[i].env[name] = servers[0].env[name]
		}
	}

	if _, err := iam.NewFromConfig(servers[0].aws()).CreateUser(t.Context(), &iam.CreateUserInput{UserName: aws.String("alice")}); err != nil {
		t.Fatal(err)
	}
	for i, s := range servers {
		var out *cloudtrail.LookupEventsOutput
		eventually(t, "the trail is looked up", func(ctx context.Context) (err error) {
			out, err = cloudtrail.NewFromConfig(s.aws()).LookupEvents(ctx, &cloudtrail.LookupEventsInput{LookupAttributes: []types.LookupAttribute{
				{AttributeKey: types.LookupAttributeKeyResourceName, AttributeValue: aws.String("alice")},
			}})
			return err
		})
		if len(out.Events) != 1 || aws.ToString(out.Events[0].EventName) != "CreateUser" {
			t.Errorf("server %d finds %d events of what the first recorded", i, len(out.Events))
		}
	}

	const callers, killAfter, inAll = 16, 1000, 3000
	var (
		mu       sync.Mutex
		answered []string
		group    sync.WaitGroup
		enough   = make(chan struct{})
	)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, s := range servers {
		cfg := s.aws()
		cfg.HTTPClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
		client := sts.NewFromConfig(cfg)
		for range callers {
			group.Go(func() {
				for {
					out, err := client.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("load")})
					if err != nil {
						return // not answered: there may be a record or not
					}
					id, _ := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
					mu.Lock()
					answered = append(answered, id)
					switch len(answered) {
					case killAfter:
						close(enough)
					case inAll:
						cancel()
					}
					mu.Unlock()
				}
			})
		}
	}
	<-enough
	servers[1].kill()
	group.Wait()
	if len(answered) < inAll {
		t.Errorf("%d requests were answered in all, want %d: the others do not go on without the one that was killed", len(answered), inAll)
	}

	db, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	rows, err := db.Query(t.Context(), "SELECT record FROM lanyard_audit")
	if err != nil {
		t.Fatal(err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]int{}
	for _, text := range texts {
		e, err := audit.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		recorded[e.RequestID]++
	}
	for _, id := range answered {
		if recorded[id] != 1 {
			t.Fatalf("the answered request %s has %d records", id, recorded[id])
		}
	}
	t.Logf("%d answered requests have their records, one server of three being killed", len(answered))

	// Page by page, and no record twice.
	names := map[string]bool{}
	pages := cloudtrail.NewLookupEventsPaginator(cloudtrail.NewFromConfig(servers[2].aws()), &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyUsername, AttributeValue: aws.String("root")}},
	})
	for range 5 {
		eventually(t, "a page is looked up", func(ctx context.Context) error {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return err
			}
			for _, e := range page.Events {
				if names[*e.EventId] {
					t.Errorf("event %s is there twice", *e.EventId)
				}
				names[*e.EventId] = true
			}
			return nil
		})
	}
	if len(names) != 250 {
		t.Errorf("five pages have %d records, want 250", len(names))
	}

	// Without its database, no server answers; when it is back, they do.
	if _, err := db.Exec(t.Context(), "ALTER TABLE lanyard_audit RENAME TO gone"); err != nil {
		t.Fatal(err)
	}
	client := sts.NewFromConfig(servers[0].aws())
	if _, err := client.GetFederationToken(t.Context(), &sts.GetFederationTokenInput{Name: aws.String("load")}); err == nil {
		t.Error("a request was answered whose record cannot be kept")
	}
	if _, err := db.Exec(t.Context(), "ALTER TABLE gone RENAME TO lanyard_audit"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests are answered again", func(ctx context.Context) error {
		_, err := client.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("load")})
		return err
	})
}
