package test

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// quietTest is a test that leaves out what servers log about every request.
type quietTest struct{ *testing.T }

// Output implements testing.TB.
func (quietTest) Output() io.Writer { return io.Discard }

// A server is killed while it makes credentials for pods as fast as it can: the trail has both records of every answer, which the next server
// finds. The log has the rate.
func TestEveryDecisionHasItsRecords(t *testing.T) {
	const callers, killAfter = 16, 10_000
	k := newKubernetes(t)
	dir := dataDir(t)
	s := startServerIn(quietTest{t}, dir, "")
	s.cluster(k)
	requests := s.podRequests(k.tokens(t, 1000))
	var (
		mu       sync.Mutex
		answered []string // the IDs of the access keys
		group    sync.WaitGroup
		enough   = make(chan struct{})
	)
	begun := time.Now()
	for caller := range callers {
		c, err := dial(t, s.address())
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			for i := caller; ; i += callers {
				body, err := c.roundTrip(requests[i%len(requests)])
				if err != nil {
					return // not answered: there may be records or not
				}
				var out struct {
					Credentials struct{ AccessKeyID string }
				}
				if err := json.Unmarshal(body, &out); err != nil || out.Credentials.AccessKeyID == "" {
					t.Errorf("the answer is %q, %v", body, err)
					return
				}
				mu.Lock()
				if answered = append(answered, out.Credentials.AccessKeyID); len(answered) == killAfter {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	rate := killAfter / time.Since(begun).Seconds()
	s.kill()
	group.Wait()

	made, asked := map[string]int{}, 0 // records by the key that was made
	for line := range strings.Lines(s.trailText()) {
		e, err := audit.Decode(line)
		if err != nil {
			continue // the last line, at most, which no answer waits for
		}
		switch e.Name {
		case "AssumeRoleForPodIdentity":
			asked++
		case "AssumeRole":
			for _, r := range e.Lanyard.Resources {
				if r.Type == "AWS::IAM::AccessKey" {
					made[r.Name]++
				}
			}
		}
	}
	for _, key := range answered {
		if made[key] != 1 {
			t.Fatalf("the access key %s, which a pod was given, has %d records", key, made[key])
		}
	}
	if asked < len(answered) || asked > len(answered)+callers {
		t.Errorf("%d answers have %d records of what EKS Auth was asked", len(answered), asked)
	}
	t.Logf("%d decisions were answered at %.0f a second before the kill, and all have their records", len(answered), rate)

	s = startServerIn(quietTest{t}, dir, "")
	last := answered[len(answered)-1]
	out, err := cloudtrail.NewFromConfig(s.aws()).LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{
		LookupAttributes: []types.LookupAttribute{{AttributeKey: types.LookupAttributeKeyResourceName, AttributeValue: &last}},
	})
	if err != nil || len(out.Events) != 1 || aws.ToString(out.Events[0].EventName) != "AssumeRole" {
		t.Errorf("the next server finds %+v of the last key, %v", out, err)
	}
}
