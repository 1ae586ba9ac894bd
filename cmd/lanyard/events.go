package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
)

// eventFilter says which records of the audit trail are shown.
type eventFilter struct {
	name, user, resource, accessKey string
	namespace, pod, subject         string
	since                           time.Duration
	errors                          bool
	limit                           int
}

func newEventsCommand(c *cli) *cobra.Command {
	var f eventFilter
	var follow bool
	cmd := &cobra.Command{
		Use:   "events [POD]",
		Short: "Show the audit trail: who asked for what, what was answered, and why",
		Long: `Show the records of CloudTrail's event history, oldest first: Lanyard's audit trail, or AWS's.

  lanyard events -f                          # as they come
  lanyard events -n team-a web-1             # what one pod was given and did with it
  lanyard events --errors --since 1h         # what was refused
  lanyard events --access-key ASIA…          # how a session was made, and what it did

Lookups of the trail itself are left out, unless --name asks for them. IAM's records are all in one Region; those are shown too. Lanyard's records say which statement of which policy decided.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.pod = args[0]
			}
			if err := f.check(); err != nil {
				return err
			}
			return c.events(cmd.Context(), &f, follow)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with records as they come")
	flags.StringVar(&f.name, "name", "", "only this operation, such as AssumeRoleWithWebIdentity")
	flags.StringVar(&f.user, "user", "", "only of this user, or this role session name")
	flags.StringVar(&f.resource, "resource", "", "only with this resource: a role's or a session's ARN, a cluster's name, …")
	flags.StringVar(&f.accessKey, "access-key", "", "only with this access key: how it was made, and what was done with it")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "namespace of POD")
	flags.StringVar(&f.subject, "subject", "", "only of this service account: system:serviceaccount:NAMESPACE:NAME")
	flags.DurationVar(&f.since, "since", 15*time.Minute, "only of the time since then")
	flags.BoolVar(&f.errors, "errors", false, "only what was refused or failed")
	flags.IntVar(&f.limit, "limit", 200, "at most so many records, the newest")
	return cmd
}

func (f *eventFilter) check() error {
	switch {
	case (f.pod == "") != (f.namespace == ""):
		return withHint(errors.New("a pod is named by its namespace and its name"), "give -n NAMESPACE and POD")
	case f.subject != "" && !strings.HasPrefix(f.subject, "system:serviceaccount:"):
		return withHint(fmt.Errorf("%q is no service account", f.subject), "give --subject system:serviceaccount:NAMESPACE:NAME")
	case f.since <= 0:
		return withHint(errors.New("--since must be positive"), "give a time such as --since 1h")
	case f.limit <= 0:
		return withHint(errors.New("--limit must be positive"), "give a number such as --limit 100")
	}
	return nil
}

// attributes are the ways in which the server is asked; what is found by any of them is then held to the whole filter.
func (f *eventFilter) attributes() [][]types.LookupAttribute {
	one := func(key types.LookupAttributeKey, value string) []types.LookupAttribute {
		return []types.LookupAttribute{{AttributeKey: key, AttributeValue: aws.String(value)}}
	}
	switch {
	case f.accessKey != "":
		return [][]types.LookupAttribute{
			one(types.LookupAttributeKeyAccessKeyId, f.accessKey), one(types.LookupAttributeKeyResourceName, f.accessKey),
		}
	case f.pod != "":
		return [][]types.LookupAttribute{one(types.LookupAttributeKeyResourceName, f.namespace+"/"+f.pod)}
	case f.subject != "":
		return [][]types.LookupAttribute{
			one(types.LookupAttributeKeyResourceName, f.subject), one(types.LookupAttributeKeyUsername, f.subject),
		}
	case f.resource != "":
		return [][]types.LookupAttribute{one(types.LookupAttributeKeyResourceName, f.resource)}
	case f.user != "":
		return [][]types.LookupAttribute{one(types.LookupAttributeKeyUsername, f.user)}
	case f.name != "":
		return [][]types.LookupAttribute{one(types.LookupAttributeKeyEventName, f.name)}
	}
	return [][]types.LookupAttribute{nil}
}

// cloudTrailRecord is what is shown of a record.
type cloudTrailRecord struct {
	ErrorCode, ErrorMessage string
	SourceIPAddress         string
	UserIdentity            struct{ Type, InvokedBy string }
	Lanyard                 struct{ Decision, Subject, Pod string }
}

// auditEvent is a record that was found, in both forms.
type auditEvent struct {
	types.Event
	record cloudTrailRecord
}

func (f *eventFilter) matches(e *auditEvent) bool {
	resource := f.resource == "" || slices.ContainsFunc(e.Resources, func(r types.Resource) bool { return aws.ToString(r.ResourceName) == f.resource })
	name := aws.ToString(e.EventName)
	return resource &&
		(f.name == name || f.name == "" && name != "LookupEvents") && // else who looks would see little but that
		(f.user == "" || aws.ToString(e.Username) == f.user) &&
		(f.pod == "" || e.record.Lanyard.Pod == f.namespace+"/"+f.pod) &&
		(f.subject == "" || e.record.Lanyard.Subject == f.subject || aws.ToString(e.Username) == f.subject) &&
		(!f.errors || e.record.ErrorCode != "")
}

// The pace is what CloudTrail allows of an account: two lookups a second. A pause is left between rounds, since others look too.
const (
	lookupPause = 550 * time.Millisecond
	followPause = 2 * time.Second
	followLag   = 30 * time.Second // records of several servers do not come in the order of their times
)

// events shows what is there, and goes on with what comes.
func (c *cli) events(ctx context.Context, f *eventFilter, follow bool) error {
	cfg, err := c.aws(ctx)
	if err != nil {
		return err
	}
	clients := []*cloudtrail.Client{cloudtrail.NewFromConfig(cfg)}
	if p, ok := arn.PartitionOfRegion(cfg.Region); ok && p.GlobalRegion != cfg.Region {
		clients = append(clients, cloudtrail.NewFromConfig(cfg, func(o *cloudtrail.Options) { o.Region = p.GlobalRegion }))
	}
	from := time.Now().Add(-f.since)
	seen := map[string]time.Time{} // by event ID
	for first := true; ; first = false {
		found, err := f.find(ctx, clients, from)
		if err != nil && ctx.Err() != nil && follow {
			return nil // who follows ends it so
		}
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(e auditEvent) bool {
			_, ok := seen[aws.ToString(e.EventId)]
			return ok
		})
		for _, e := range found {
			seen[aws.ToString(e.EventId)] = aws.ToTime(e.EventTime)
		}
		if err := c.printEvents(found, first, follow); err != nil || !follow {
			return err
		}
		from = time.Now().Add(-followLag)
		for id, at := range seen {
			if at.Before(from.Add(-followLag)) {
				delete(seen, id)
			}
		}
		if !pause(ctx, followPause) {
			return nil
		}
	}
}

// pause waits, and reports whether it may go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// find returns the newest records from a time on, oldest first.
func (f *eventFilter) find(ctx context.Context, clients []*cloudtrail.Client, from time.Time) ([]auditEvent, error) {
	var found []auditEvent // newest first, of each way to ask
	seen := map[string]bool{}
	requests := 0
	for _, client := range clients {
		for _, attributes := range f.attributes() {
			pages := cloudtrail.NewLookupEventsPaginator(client, &cloudtrail.LookupEventsInput{StartTime: &from, LookupAttributes: attributes})
			for matched := 0; pages.HasMorePages() && matched < f.limit; requests++ {
				if requests > 1 && !pause(ctx, lookupPause) {
					return nil, ctx.Err()
				}
				page, err := pages.NextPage(ctx)
				if err != nil {
					return nil, fmt.Errorf("look up events: %w", err)
				}
				for _, e := range page.Events {
					one := auditEvent{Event: e}
					if err := json.Unmarshal([]byte(aws.ToString(e.CloudTrailEvent)), &one.record); err != nil {
						return nil, fmt.Errorf("read the record of event %s: %w", aws.ToString(e.EventId), err)
					}
					if id := aws.ToString(e.EventId); f.matches(&one) && !seen[id] {
						seen[id] = true
						found = append(found, one)
						matched++
					}
				}
			}
		}
	}
	// Within a second, the order is the trail's own.
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b auditEvent) int { return aws.ToTime(a.EventTime).Compare(aws.ToTime(b.EventTime)) })
	return found[max(0, len(found)-f.limit):], nil
}

// printEvents prints records: JSON and YAML as CloudTrail has them. Of records that come one by one, each is a line or a document.
func (c *cli) printEvents(events []auditEvent, first, follow bool) error {
	if c.output != "table" {
		records := make([]json.RawMessage, len(events))
		for i, e := range events {
			records[i] = json.RawMessage(aws.ToString(e.CloudTrailEvent))
		}
		if !follow {
			return c.print(map[string]any{"Records": records}, nil)
		}
		for _, r := range records {
			if _, err := fmt.Fprintf(c.out, "%s\n", r); err != nil {
				return err
			}
		}
		return nil
	}
	var rows [][]string
	if first {
		rows = append(rows, []string{"TIME", "OPERATION", "WHO", "ANSWER", "WHAT", "WHY"})
	}
	for _, e := range events {
		rows = append(rows, e.row())
	}
	return c.print(nil, rows)
}

func (e *auditEvent) row() []string {
	who := cmp.Or(e.record.Lanyard.Pod, strings.TrimPrefix(e.record.Lanyard.Subject, "system:serviceaccount:"), aws.ToString(e.Username),
		e.record.UserIdentity.InvokedBy, e.record.UserIdentity.Type)
	what := ""
	if len(e.Resources) > 0 { // the last one is what the others are of
		what = aws.ToString(e.Resources[len(e.Resources)-1].ResourceName)
	}
	return []string{
		aws.ToTime(e.EventTime).UTC().Format(time.RFC3339), aws.ToString(e.EventName), who, cmp.Or(e.record.ErrorCode, "ok"), what,
		cmp.Or(e.record.Lanyard.Decision, e.record.ErrorMessage),
	}
}
