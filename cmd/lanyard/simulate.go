package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

// exitNo is the exit status of a command that was asked a question and found the answer to be no: an action is denied,
// a document has faults. It is neither that of success nor that of failing to answer, which is 1.
const exitNo exitError = 3

// simulation is what `lanyard simulate` is asked.
type simulation struct {
	identity         []string // files, like all that follow
	boundary         string
	session          []string
	resource         string
	trust            string
	serviceControls  []string // a level of the organization each, of files between commas
	resourceControls []string
	role             string // whose policies are read from IAM

	caller        string
	actions       []string
	resources     []string
	resourceOwner string
	context       []string
	verbose       bool
}

func newSimulateCommand(c *cli) *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use:   "simulate {--policy FILE | --trust FILE | --role NAME}… --action ACTION… [--resource ARN]… [--context KEY=VALUE]…",
		Short: "Ask policy documents what they allow, without a server",
		Long: `Ask policy documents what they allow, and which statement decides. No server is needed, and nothing is called, except with --role, which
reads a role's policies and tags from IAM.

Each action is asked for on each resource. The caller is a session of a role in account 111122223333 unless --caller names another: a
role, role session, user or root by ARN, a service such as pods.eks.amazonaws.com, or an OIDC provider by ARN. What the caller's ARN
tells is in the request's context, as is the time; all other condition keys are as --context says, and those that the policies asked
for in vain are listed. With --trust the actions are STS's, on the role that has the trust policy.

A file named - is standard input. The exit status is 0 if everything is allowed, 3 if something is denied, and 1 if it cannot be told.`,
		Example: `  lanyard simulate --policy reader.json --action s3:GetObject --resource arn:aws:s3:::app-data/key
  lanyard simulate --policy tagged.json --action ec2:CreateTags --context aws:TagKeys=team --context aws:TagKeys=stage -v
  lanyard simulate --trust trust.json --caller arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/A \
    --context oidc.example.com/id/A:sub=system:serviceaccount:default:my-sa --context oidc.example.com/id/A:aud=sts.amazonaws.com
  lanyard simulate --role dev-s3-sa --action s3:PutObject --resource arn:aws:s3:::logs/key -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.simulate(cmd.Context(), s) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&s.identity, "policy", nil, "file with a policy of the caller's; may be repeated")
	flags.StringVar(&s.boundary, "boundary", "", "file with the caller's permissions boundary")
	flags.StringArrayVar(&s.session, "session-policy", nil, "file with a session policy; may be repeated")
	flags.StringVar(&s.resource, "resource-policy", "", "file with the policy of the resource")
	flags.StringVar(&s.trust, "trust", "", "file with the trust policy of a role, for actions of STS")
	flags.StringArrayVar(&s.serviceControls, "scp", nil,
		"file with a service control policy; repeat it for each level of the organization, and give those of one level with commas between")
	flags.StringArrayVar(&s.resourceControls, "rcp", nil, "file with a resource control policy, as for --scp")
	flags.StringVar(&s.role, "role", "", "name of a role: take its policies, boundary and tags from IAM; --policy adds to them, --boundary takes its boundary's place")
	flags.StringVar(&s.caller, "caller", "", "who asks: an ARN or a service (default: a session of a role)")
	flags.StringSliceVarP(&s.actions, "action", "a", nil, "action, such as s3:GetObject; may be repeated (default with --trust: that of the kind of caller)")
	flags.StringArrayVarP(&s.resources, "resource", "r", nil, "ARN of a resource; may be repeated (default: *; with --trust: a role)")
	flags.StringVar(&s.resourceOwner, "resource-owner", "", "account that owns the resources (default: that of the ARN, else the caller's)")
	flags.StringArrayVar(&s.context, "context", nil, "condition key, as KEY=VALUE; repeated for one key, its values are a list")
	flags.BoolVarP(&s.verbose, "verbose", "v", false, "print how each decision came about, statement by statement")
	cmd.MarkFlagsOneRequired("policy", "boundary", "session-policy", "resource-policy", "trust", "scp", "rcp", "role")
	cmd.MarkFlagsOneRequired("action", "trust")
	cmd.MarkFlagsMutuallyExclusive("trust", "resource-policy")
	cmd.MarkFlagsMutuallyExclusive("role", "caller")
	return cmd
}

func (c *cli) simulate(ctx context.Context, s simulation) error {
	entries, err := parseContext(s.context)
	if err != nil {
		return err
	}
	var trust *policy.Policy
	load := c.loader()
	policies, err := s.load(load)
	if err != nil {
		return err
	}
	if s.trust != "" {
		if trust, err = load(s.trust, policy.Trust); err != nil {
			return err
		}
	}
	caller, known, err := c.simulated(ctx, s, policies)
	if err != nil {
		return err
	}
	requestTime(known, time.Now())
	requests, err := s.requests(caller, known, entries)
	if err != nil {
		return err
	}
	explanations := []*policy.Explanation{}
	rows := [][]string{{"ACTION", "RESOURCE", "DECISION", "BY"}}
	var missing []string
	denied := false
	for _, r := range requests {
		var d policy.Decision
		if trust != nil {
			d = policy.ExplainTrust(&r, trust, policies)
		} else {
			d = policy.Explain(&r, policies)
		}
		explanations = append(explanations, d.Explanation)
		rows = append(rows, []string{r.Action, r.Resource, string(d.Verdict()), by(d)})
		missing = append(missing, d.Explanation.Missing...)
		denied = denied || !d.Allowed
	}
	if err := c.print(explanations, rows); err != nil {
		return err
	}
	if c.output == "table" {
		for i := range explanations {
			if s.verbose {
				fmt.Fprintf(c.out, "\n%s", explanations[i].Tree())
			}
		}
		c.printMissing(missing)
	}
	if denied {
		return exitNo
	}
	return nil
}

// by says which statement decided, or which type of policy did without one.
func by(d policy.Decision) string {
	switch {
	case d.Line > 0:
		return strings.TrimSuffix(fmt.Sprintf("%s:%d:%d %s", d.Policy, d.Line, d.Column, d.Sid), " ")
	case d.Allowed:
		return "the root user may do everything"
	}
	return fmt.Sprintf("no %s allows it", d.Layer)
}

// printMissing lists the condition keys that policies asked for and requests did not have.
func (c *cli) printMissing(keys []string) {
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) > 0 {
		fmt.Fprintf(c.out, "\nnot known: %s; give them with --context KEY=VALUE\n", strings.Join(keys, ", "))
	}
}

// simulated returns the caller and what is known of it. The policies of a role that is read from IAM are added to those
// that were given.
func (c *cli) simulated(ctx context.Context, s simulation, policies *policy.Policies) (policy.Principal, *policy.Context, error) {
	if s.role == "" {
		caller, err := parseCaller(s.caller)
		return caller, callerContext(caller), err
	}
	cfg, err := c.aws(ctx)
	if err != nil {
		return policy.Principal{}, nil, err
	}
	role, err := readRole(ctx, iam.NewFromConfig(cfg), s.role)
	if err != nil {
		return policy.Principal{}, nil, explainRole(err, s.role)
	}
	own, err := role.policies()
	if err != nil {
		return policy.Principal{}, nil, err
	}
	policies.Identity = append(own.Identity, policies.Identity...)
	if policies.Boundary == nil {
		policies.Boundary = own.Boundary
	}
	caller := role.session()
	known := callerContext(caller)
	for k, v := range role.tags {
		known.Set("aws:PrincipalTag/"+k, v)
	}
	return caller, known, nil
}

// requests are all actions on all resources.
func (s *simulation) requests(caller policy.Principal, known *policy.Context, entries []contextEntry) ([]policy.Request, error) {
	actions, resources := s.actions, s.resources
	if len(actions) == 0 {
		actions = []string{"sts:AssumeRole"}
		if caller.Kind == policy.WebIdentity {
			actions = []string{"sts:AssumeRoleWithWebIdentity"}
		}
	}
	if len(resources) == 0 {
		resources = []string{"*"}
		if s.trust != "" {
			resources = []string{"arn:" + partition(caller) + ":iam::" + cmp.Or(caller.Account, simulatedAccount) + ":role/trusting"}
		}
	}
	if s.resourceOwner != "" && !arn.ValidAccountID(s.resourceOwner) {
		return nil, withHint(fmt.Errorf("%q is not an account ID", s.resourceOwner), "an account ID has 12 digits")
	}
	var all []policy.Request
	for _, action := range actions {
		if err := checkAction(action); err != nil {
			return nil, err
		}
		for _, resource := range resources {
			owner, err := resourceOwner(resource, s.resourceOwner, caller.Account)
			if err != nil {
				return nil, err
			}
			r := policy.Request{Principal: caller, Action: action, Resource: resource, ResourceAccount: owner, Context: known.Clone()}
			if owner != "" {
				r.Context.Set("aws:ResourceAccount", owner)
			}
			setContext(r.Context, entries)
			all = append(all, r)
		}
	}
	return all, nil
}

// checkAction refuses what is not the name of an action: it would be denied for that reason alone.
func checkAction(action string) error {
	vendor, name, ok := strings.Cut(action, ":")
	if !ok || vendor == "" || name == "" || strings.ContainsAny(action, "*? \t") {
		return withHint(fmt.Errorf("%q is not an action", action), "give the name of one action, such as s3:GetObject; patterns are for policies")
	}
	return nil
}

// resourceOwner returns the account that owns a resource: the one that is said, that of the ARN, or the caller's.
func resourceOwner(resource, said, caller string) (string, error) {
	if resource == "*" {
		return cmp.Or(said, caller), nil
	}
	a, err := arn.Parse(resource)
	if err != nil {
		return "", withHint(err, "give the resource's ARN, such as arn:aws:s3:::bucket/key, or * for actions that have none")
	}
	if arn.ValidAccountID(a.Account()) {
		caller = a.Account()
	}
	return cmp.Or(said, caller), nil
}

// load reads the documents but the trust policy.
func (s *simulation) load(load loadPolicy) (*policy.Policies, error) {
	var p policy.Policies
	var err error
	if p.Identity, err = load.all(s.identity, policy.Identity); err != nil {
		return nil, err
	}
	if p.Session, err = load.all(s.session, policy.Session); err != nil {
		return nil, err
	}
	if s.boundary != "" {
		if p.Boundary, err = load(s.boundary, policy.Boundary); err != nil {
			return nil, err
		}
	}
	if s.resource != "" {
		if p.Resource, err = load(s.resource, policy.Resource); err != nil {
			return nil, err
		}
	}
	if p.ServiceControl, err = load.levels(s.serviceControls, policy.ServiceControl); err != nil {
		return nil, err
	}
	p.ResourceControl, err = load.levels(s.resourceControls, policy.ResourceControl)
	return &p, err
}

// loadPolicy reads and compiles a policy of a file.
type loadPolicy func(file string, kind policy.Kind) (*policy.Policy, error)

func (l loadPolicy) all(files []string, kind policy.Kind) ([]*policy.Policy, error) {
	var all []*policy.Policy
	for _, f := range files {
		p, err := l(f, kind)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// levels reads the policies of each level of an organization.
func (l loadPolicy) levels(files []string, kind policy.Kind) ([][]*policy.Policy, error) {
	var levels [][]*policy.Policy
	for _, f := range files {
		level, err := l.all(strings.Split(f, ","), kind)
		if err != nil {
			return nil, err
		}
		levels = append(levels, level)
	}
	return levels, nil
}

// loader reads policies for one command: standard input once.
func (c *cli) loader() loadPolicy {
	read := c.reader()
	return func(file string, kind policy.Kind) (*policy.Policy, error) {
		name, text, err := read(file)
		if err != nil {
			return nil, err
		}
		return compile(name, name, kind, text)
	}
}

// compile compiles a document, and tells of its faults by their place in what it is called for people.
func compile(name, called string, kind policy.Kind, text []byte) (*policy.Policy, error) {
	p, err := policy.New(name, kind, text)
	var bad *policy.Error
	if !errors.As(err, &bad) {
		return p, err
	}
	detail := ""
	if bad.Detail != "" {
		detail = " (" + bad.Detail + ")"
	}
	return nil, withHint(fmt.Errorf("%s:%d:%d: %w%s", called, bad.Line, bad.Column, bad, detail),
		"it is read as %s; `lanyard lint --kind %s` lists its faults", kindText(kind), kindName(kind))
}

// readDocument reads a document, and says what it is called for people.
type readDocument func(file string) (name string, text []byte, err error)

// reader reads documents for one command: standard input once, and none longer than a policy can be.
func (c *cli) reader() readDocument {
	taken := false
	return func(file string) (string, []byte, error) {
		if file == "-" {
			if taken {
				return "", nil, withHint(errors.New("standard input is asked for twice"), "name a file for all documents but one")
			}
			taken = true
			text, err := readBounded("stdin", c.in)
			return "stdin", text, err
		}
		f, err := os.Open(file)
		if err != nil {
			return "", nil, fmt.Errorf("read policy: %w", err)
		}
		defer f.Close()
		text, err := readBounded(file, f)
		return file, text, err
	}
}

func readBounded(name string, from io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, policy.MaxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if len(text) > policy.MaxDocument {
		return nil, fmt.Errorf("%s is longer than a policy can be: more than %d bytes", name, policy.MaxDocument)
	}
	return text, nil
}

// contextEntry is a condition key with its values: a list if they are several.
type contextEntry struct {
	key    string
	values []string
}

// parseContext reads KEY=VALUE, where a key may come several times.
func parseContext(args []string) ([]contextEntry, error) {
	var entries []contextEntry
	for _, a := range args {
		key, val, ok := strings.Cut(a, "=")
		if !ok || !strings.Contains(key, ":") {
			return nil, withHint(fmt.Errorf("%q is not a condition key with a value", a), "write it as in aws:SourceIp=192.0.2.1")
		}
		if i := slices.IndexFunc(entries, func(e contextEntry) bool { return strings.EqualFold(e.key, key) }); i >= 0 {
			entries[i].values = append(entries[i].values, val)
			continue
		}
		entries = append(entries, contextEntry{key, []string{val}})
	}
	return entries, nil
}

func setContext(c *policy.Context, entries []contextEntry) {
	for _, e := range entries {
		if len(e.values) == 1 {
			c.Set(e.key, e.values[0])
		} else {
			c.SetList(e.key, e.values)
		}
	}
}

// requestTime sets the keys that tell when a request is made.
func requestTime(c *policy.Context, now time.Time) {
	c.Set("aws:CurrentTime", now.UTC().Format(time.RFC3339))
	c.Set("aws:EpochTime", strconv.FormatInt(now.Unix(), 10))
}
