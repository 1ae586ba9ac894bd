package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/policy"
)

// inquiry is what `lanyard explain` is asked.
type inquiry struct {
	roleChoice
	pod            string
	action         string
	resource       string
	resourcePolicy string
	targetProfile  string
	context        []string
	verbose        bool
}

func newExplainCommand(c *cli) *cobra.Command {
	var q inquiry
	cmd := &cobra.Command{
		Use:   "explain -n NAMESPACE -s SERVICE_ACCOUNT --action ACTION [--resource ARN]",
		Short: "Explain why the pods of a service account may do something, or may not",
		Long: `Go the way of a pod's credentials step by step, from its service account to one action on one resource, and say which statement of which
policy decides: the association or the role by web identity, the provider, the trust policy with what the token or EKS brings along, the
target role, and in the end the role's policies with the session's tags. Only EKS and IAM are asked, and nothing is changed or assumed.

The role is found as "lanyard run" finds it. Below a step that fails stands why; -v prints that for all steps. Condition keys that policies
ask for and nobody can know beforehand, such as aws:SourceIp or the pod's name, are listed: give them with --context, which counts for
every step. Resource-based policies other than --resource-policy, and those of an organization, are not looked at.

The exit status is 0 if the action is allowed, 3 if it is denied, and 1 if it cannot be told.`,
		Example: `  lanyard explain -n default -s s3-sa --action s3:GetObject --resource arn:aws:s3:::team-data/default/report.csv
  lanyard explain -n web -s api --via irsa --role-arn arn:aws:iam::111122223333:role/web --action sqs:SendMessage -v
  lanyard explain -n web -s api --kubeconfig ~/.kube/config --action s3:PutObject --resource arn:aws:s3:::logs/x --context aws:SourceIp=192.0.2.1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.explain(cmd.Context(), q) },
	}
	q.flags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&q.action, "action", "a", "", "action, such as s3:GetObject")
	flags.StringVarP(&q.resource, "resource", "r", "*", "ARN of the resource")
	flags.StringVar(&q.resourcePolicy, "resource-policy", "", "file with the policy of the resource")
	flags.StringArrayVar(&q.context, "context", nil, "condition key, as KEY=VALUE; repeated for one key, its values are a list")
	flags.StringVar(&q.pod, "pod", "", "name of the pod, which is a session tag")
	flags.StringVar(&q.kubeconfig, "kubeconfig", "", "read the role for IRSA from the service account in this cluster")
	flags.StringVar(&q.targetProfile, "target-profile", "", "profile that may read a target role in another account")
	flags.BoolVarP(&q.verbose, "verbose", "v", false, "print how each decision came about, statement by statement")
	required(cmd, "namespace", "service-account", "action")
	return cmd
}

// chain is the way from a service account to a verdict, as it is printed.
type chain struct {
	Cluster        string      `json:"cluster"`
	Namespace      string      `json:"namespace"`
	ServiceAccount string      `json:"serviceAccount"`
	Way            string      `json:"way"`
	RoleARN        string      `json:"roleArn"` // whose credentials the pod gets
	Action         string      `json:"action"`
	Resource       string      `json:"resource"`
	Allowed        bool        `json:"allowed"`
	Steps          []chainStep `json:"steps"`
	Missing        []string    `json:"missingContextKeys"`
}

// chainStep is one step of the way.
type chainStep struct {
	Step        string              `json:"step"`
	OK          bool                `json:"ok"`
	Text        string              `json:"text"`
	Error       string              `json:"error,omitempty"` // what the pod is told where it fails
	Hint        string              `json:"hint,omitempty"`  // what to do about it
	Explanation *policy.Explanation `json:"explanation,omitempty"`
}

// explanation is a chain in the making, with what the steps need of each other.
type explanation struct {
	chain
	q       inquiry
	iam     *iam.Client
	eks     *eks.Client
	cluster clusterView
	account string // the cluster's
	region  string
	refusal string // what the pod is told when it does not get the role
	entries []contextEntry
	now     time.Time
}

func (c *cli) explain(ctx context.Context, q inquiry) error {
	if err := checkAction(q.action); err != nil {
		return err
	}
	if _, err := resourceOwner(q.resource, "", ""); err != nil {
		return err
	}
	entries, err := parseContext(q.context)
	if err != nil {
		return err
	}
	var resourcePolicy *policy.Policy
	if q.resourcePolicy != "" {
		if resourcePolicy, err = c.loader()(q.resourcePolicy, policy.Resource); err != nil {
			return err
		}
	}
	cfg, err := c.aws(ctx)
	if err != nil {
		return err
	}
	e := &explanation{
		chain: chain{
			Cluster: q.subject.cluster, Namespace: q.namespace, ServiceAccount: q.serviceAccount, Action: q.action, Resource: q.resource, Missing: []string{},
		},
		q: q, iam: iam.NewFromConfig(cfg), eks: eks.NewFromConfig(cfg), entries: entries, now: time.Now(),
	}
	session, err := c.walk(ctx, cfg, e)
	if err == nil && session != nil {
		err = e.permission(session, resourcePolicy)
	}
	if err != nil {
		if c.output == "table" { // how far it went is part of the answer
			e.print(c.out)
		}
		return err
	}
	e.Allowed = !slices.ContainsFunc(e.Steps, func(s chainStep) bool { return !s.OK })
	slices.Sort(e.Missing)
	e.Missing = slices.Compact(e.Missing)
	if c.output != "table" {
		err = c.print(e.chain, nil)
	} else {
		e.print(c.out)
		e.printVerdict(c.out)
		c.printMissing(e.Missing)
	}
	if err == nil && !e.Allowed {
		return exitNo
	}
	return err
}

// podSession is a session that a pod gets, as far as it is known.
type podSession struct {
	role      *roleView
	principal policy.Principal
	policies  *policy.Policies // identity policies and boundary, compiled, and the session policy
	context   *policy.Context  // what each of its requests brings along
}

// walk goes from the service account to the session. Without one, a step says why there is none.
func (c *cli) walk(ctx context.Context, cfg aws.Config, e *explanation) (*podSession, error) {
	var err error
	if e.cluster, err = describeCluster(ctx, e.eks, e.q.subject.cluster); err != nil {
		return nil, err
	}
	a, err := arn.Parse(e.cluster.ARN)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's ARN: %w", err)
	}
	e.account, e.region = a.Account(), a.Region()
	e.step("cluster", "%s, issuer %s", e.cluster.ARN, cmp.Or(e.cluster.Issuer, "none"))
	said := e.q.roleARN
	way, err := e.q.way(ctx, cfg)
	if err != nil {
		return nil, err
	}
	e.Way = way.String()
	if way == podspec.WebIdentity {
		return e.webIdentity(ctx, said != "")
	}
	return e.podIdentity(ctx, c, cfg)
}

// webIdentity goes the way of IRSA. The role was said or has been found.
func (e *explanation) webIdentity(ctx context.Context, said bool) (*podSession, error) {
	e.refusal = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
	how := "the only role whose trust policy names the service account; the pod needs the annotation " + roleAnnotation + " with it"
	switch {
	case said:
		how = "as --role-arn says"
	case e.q.kubeconfig != "":
		how = "as the service account's annotation says"
	}
	e.step("web identity", "%s, %s", e.q.roleARN, how)
	role, err := e.role(ctx, e.iam, e.q.roleARN)
	if err != nil || role == nil {
		return nil, err
	}
	provider, err := e.provider(ctx, role)
	if err != nil {
		return nil, err
	}
	_, prefix, _ := strings.Cut(provider, ":oidc-provider/")
	claims := []contextEntry{
		{prefix + ":sub", []string{serviceAccountSubject(e.q.namespace, e.q.serviceAccount)}},
		{prefix + ":aud", []string{stsAudience}},
	}
	caller := policy.Principal{Kind: policy.WebIdentity, Name: provider}
	keys := e.context(callerContext(caller), claims)
	hint := fmt.Sprintf("the trust policy must allow sts:AssumeRoleWithWebIdentity to %s where %s is %s and %s is %s",
		provider, claims[0].key, claims[0].values[0], claims[1].key, claims[1].values[0])
	if err := e.trust(role, caller, "sts:AssumeRoleWithWebIdentity", keys, nil, hint); err != nil {
		return nil, err
	}
	return e.session(role, append(claims, contextEntry{"aws:FederatedProvider", []string{provider}}), "")
}

// provider looks up the issuer's provider in the role's account, and whether it takes STS's audience.
func (e *explanation) provider(ctx context.Context, role *roleView) (string, error) {
	provider, err := providerARN(role.arn.String(), e.cluster.Issuer)
	if err != nil {
		return "", err
	}
	remedy := fmt.Sprintf("`lanyard irsa create --cluster %s -n %s -s %s` makes it", e.cluster.Name, e.q.namespace, e.q.serviceAccount)
	out, err := e.iam.GetOpenIDConnectProvider(ctx, &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: &provider})
	missing := (*types.NoSuchEntityException)(nil)
	switch {
	case errors.As(err, &missing):
		e.fail("provider", "InvalidIdentityToken: No OpenIDConnect provider found in your account for "+e.cluster.Issuer, remedy,
			"%s is not there", provider)
	case err != nil:
		return "", fmt.Errorf("look up the provider of %s: %w", e.cluster.Issuer, err)
	case !slices.Contains(out.ClientIDList, stsAudience):
		e.fail("provider", "InvalidIdentityToken: Incorrect token audience", "`aws iam add-client-id-to-open-id-connect-provider` adds it",
			"%s does not take the audience %s; those that it takes: %s", provider, stsAudience, cmp.Or(strings.Join(out.ClientIDList, ", "), "none"))
	default:
		e.step("provider", "%s takes the audience %s", provider, stsAudience)
	}
	return provider, nil
}

// podIdentity goes the way of EKS Pod Identity.
func (e *explanation) podIdentity(ctx context.Context, c *cli, cfg aws.Config) (*podSession, error) {
	e.refusal = "AccessDeniedException: Unauthorized Exception! EKS does not have permissions to assume the associated role."
	if e.q.association == "" { // --via pod-identity has not asked for it
		if err := e.q.findAssociation(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if e.q.association == "" {
		return nil, withHint(fmt.Errorf("%s/%s has no association in cluster %s", e.q.namespace, e.q.serviceAccount, e.cluster.Name),
			"make one: `lanyard association create --cluster %s -n %s -s %s --role-arn ARN`", e.cluster.Name, e.q.namespace, e.q.serviceAccount)
	}
	in := &eks.DescribePodIdentityAssociationInput{ClusterName: &e.cluster.Name, AssociationId: &e.q.association}
	out, err := e.eks.DescribePodIdentityAssociation(ctx, in)
	if err != nil {
		return nil, explainAssociation(fmt.Errorf("describe association %s: %w", e.q.association, err), "")
	}
	a := viewAssociation(out.Association)
	e.step("association", "%s of %s/%s: %s", a.ID, a.Namespace, a.ServiceAccount, associationText(a))
	role, err := e.role(ctx, e.iam, a.RoleARN)
	if err != nil || role == nil {
		return nil, err
	}
	tags := e.sessionTags(a)
	service := policy.Principal{Kind: policy.Service, Name: podspec.PodIdentity.Projection().Audience}
	keys := e.context(callerContext(service), tags, []contextEntry{
		{"aws:SourceArn", []string{e.cluster.ARN}}, {"aws:SourceAccount", []string{e.account}},
	})
	hint := fmt.Sprintf("the trust policy must allow the service %s both sts:AssumeRole and sts:TagSession", service.Name)
	if err := e.assume(role, service, keys, nil, tags, hint); err != nil {
		return nil, err
	}
	if a.TargetRoleARN == "" {
		return e.session(role, principalTags(tags), a.Policy)
	}
	first, err := e.session(role, principalTags(tags), "")
	if err != nil {
		return nil, err
	}
	return e.target(ctx, c, first, a, tags)
}

// target goes on from the association's role to its target role.
func (e *explanation) target(ctx context.Context, c *cli, first *podSession, a associationView, tags []contextEntry) (*podSession, error) {
	client := e.iam
	if e.q.targetProfile != "" {
		other := *c
		other.profile = e.q.targetProfile
		cfg, err := other.aws(ctx)
		if err != nil {
			return nil, err
		}
		client = iam.NewFromConfig(cfg)
	}
	role, err := e.role(ctx, client, a.TargetRoleARN)
	if err != nil || role == nil {
		return nil, err
	}
	// Of the pod's own names, also where the association is for a pattern.
	external := strings.Join([]string{e.region, e.account, e.cluster.Name, e.q.namespace, e.q.serviceAccount}, "/")
	keys := e.context(first.context.Clone(), tags, []contextEntry{{"sts:ExternalId", []string{external}}})
	hint := fmt.Sprintf("the trust policy of %s must allow %s, and a policy of that role must allow, both sts:AssumeRole and sts:TagSession",
		role.arn, first.role.arn)
	if err := e.assume(role, first.principal, keys, first.policies, tags, hint); err != nil {
		return nil, err
	}
	return e.session(role, principalTags(tags), a.Policy)
}

// associationText says what an association gives.
func associationText(a associationView) string {
	text := "role " + a.RoleARN
	if a.TargetRoleARN != "" {
		text += ", target role " + a.TargetRoleARN
	}
	if a.DisableSessionTags {
		text += ", no session tags"
	}
	if a.Policy != "" {
		text += ", a session policy"
	}
	return text
}

// sessionTags are the condition keys of the tags that EKS passes (EKS User Guide, "Grant Pods access to AWS resources based on
// tags"). A pod's name is known if it was given, and its UID is not.
func (e *explanation) sessionTags(a associationView) []contextEntry {
	if a.DisableSessionTags {
		return nil
	}
	tags := []contextEntry{
		{"eks-cluster-arn", []string{e.cluster.ARN}}, {"eks-cluster-name", []string{e.cluster.Name}}, {"kubernetes-namespace", []string{e.q.namespace}},
		{"kubernetes-service-account", []string{e.q.serviceAccount}}, {"kubernetes-pod-name", []string{e.q.pod}}, {"kubernetes-pod-uid", []string{""}},
	}
	var names []string
	for i := range tags {
		names = append(names, tags[i].key)
		tags[i].key = "aws:RequestTag/" + tags[i].key
	}
	tags = slices.DeleteFunc(tags, func(t contextEntry) bool { return t.values[0] == "" })
	return append(tags, contextEntry{"aws:TagKeys", names}, contextEntry{"sts:TransitiveTagKeys", names})
}

// principalTags are the tags of a session by those that it was assumed with.
func principalTags(request []contextEntry) []contextEntry {
	var tags []contextEntry
	for _, t := range request {
		if name, ok := strings.CutPrefix(t.key, "aws:RequestTag/"); ok {
			tags = append(tags, contextEntry{"aws:PrincipalTag/" + name, t.values})
		}
	}
	return tags
}

// role reads a role. One that is not there, or that the credentials may not look for, ends the way.
func (e *explanation) role(ctx context.Context, client *iam.Client, text string) (*roleView, error) {
	a, err := arn.Parse(text)
	if err != nil || roleName(text) == text {
		return nil, withHint(fmt.Errorf("%q is not the ARN of a role", text), "it looks like arn:aws:iam::%s:role/NAME", e.account)
	}
	if client == e.iam && a.Account() != e.account {
		return nil, withHint(fmt.Errorf("role %s is of another account than the cluster, whose credentials cannot read it", text),
			"name a profile of account %s with --target-profile, if it is an association's target role; else use `lanyard simulate` there", a.Account())
	}
	role, err := readRole(ctx, client, roleName(text))
	if missing := (*types.NoSuchEntityException)(nil); errors.As(err, &missing) {
		e.fail("role", e.refusal, "make the role, or name another one", "%s: %s", text, missing.ErrorMessage())
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if role.arn != a {
		e.fail("role", e.refusal, "the ARN must be the role's own, with its path", "%s is not there; the role of that name is %s", text, role.arn)
		return nil, nil
	}
	e.step("role", "%s, %s", text, policiesText(role))
	e.RoleARN = text
	return role, nil
}

// policiesText says what policies a role has.
func policiesText(r *roleView) string {
	count := make(map[documentUse]int)
	for _, d := range r.documents {
		count[d.use]++
	}
	text := fmt.Sprintf("inline policies: %d, managed policies: %d", count[inlineUse], count[attachedUse])
	if count[boundaryUse] > 0 {
		text += ", with a permissions boundary"
	}
	return text
}

// assume asks the trust policy for all that assuming the role with the tags amounts to.
func (e *explanation) assume(role *roleView, caller policy.Principal, keys *policy.Context, own *policy.Policies, tags []contextEntry, hint string) error {
	if err := e.trust(role, caller, "sts:AssumeRole", keys, own, hint); err != nil || len(tags) == 0 {
		return err
	}
	return e.trust(role, caller, "sts:TagSession", keys, own, hint)
}

// trust asks a role's trust policy, and the caller's own policies where it has some.
func (e *explanation) trust(role *roleView, caller policy.Principal, action string, keys *policy.Context, own *policy.Policies, hint string) error {
	trust, err := role.trust()
	if err != nil {
		return err
	}
	keys = keys.Clone()
	keys.Set("aws:ResourceAccount", role.arn.Account())
	for k, v := range role.tags {
		keys.Set("aws:ResourceTag/"+k, v)
		keys.Set("iam:ResourceTag/"+k, v)
	}
	setContext(keys, e.entries)
	r := policy.Request{Principal: caller, Action: action, Resource: role.arn.String(), ResourceAccount: role.arn.Account(), Context: keys}
	e.decided("trust", policy.ExplainTrust(&r, trust, own), e.refusal, hint)
	return nil
}

// session is what the pod gets of a role, with what its requests bring along besides the role's tags, and the association's policy.
func (e *explanation) session(role *roleView, entries []contextEntry, sessionPolicy string) (*podSession, error) {
	policies, err := role.policies()
	if err != nil {
		return nil, err
	}
	if sessionPolicy != "" {
		p, err := compile(e.q.association, "association/"+e.q.association+"/policy", policy.Session, []byte(sessionPolicy))
		if err != nil {
			return nil, err
		}
		policies.Session = []*policy.Policy{p}
	}
	s := &podSession{role: role, principal: role.session(), policies: policies}
	s.context = callerContext(s.principal)
	for k, v := range role.tags {
		s.context.Set("aws:PrincipalTag/"+k, v)
	}
	s.context.Set("aws:TokenIssueTime", e.now.UTC().Format(time.RFC3339))
	s.context = e.context(s.context, entries) // session tags go before the role's
	return s, nil
}

// context adds to what a caller brings along: what is known of the request, and the entries.
func (e *explanation) context(c *policy.Context, entries ...[]contextEntry) *policy.Context {
	requestTime(c, e.now)
	c.Set("aws:RequestedRegion", e.region) // the webhook sets it in pods
	for _, list := range entries {
		setContext(c, list)
	}
	return c
}

// permission asks the session's policies for the action.
func (e *explanation) permission(s *podSession, resourcePolicy *policy.Policy) error {
	owner, err := resourceOwner(e.Resource, "", s.principal.Account)
	if err != nil {
		return err
	}
	s.policies.Resource = resourcePolicy
	s.context.Set("aws:ResourceAccount", owner)
	setContext(s.context, e.entries)
	r := policy.Request{Principal: s.principal, Action: e.Action, Resource: e.Resource, ResourceAccount: owner, Context: s.context}
	hint := ""
	if owner != s.principal.Account && resourcePolicy == nil {
		hint = fmt.Sprintf("the resource is of account %s: its policy must allow too, give it with --resource-policy", owner)
	}
	d := policy.Explain(&r, s.policies)
	e.decided("permission", d, d.Message(&r), hint)
	return nil
}

// step adds a step that is as it must be.
func (e *explanation) step(name, format string, args ...any) {
	e.Steps = append(e.Steps, chainStep{Step: name, OK: true, Text: fmt.Sprintf(format, args...)})
}

// fail adds a step that is not.
func (e *explanation) fail(name, told, hint, format string, args ...any) {
	e.Steps = append(e.Steps, chainStep{Step: name, Text: fmt.Sprintf(format, args...), Error: told, Hint: hint})
}

// decided adds a step that policies decide. What the pod is told, and the hint, are for a denial.
func (e *explanation) decided(name string, d policy.Decision, told, hint string) {
	step := chainStep{Step: name, OK: d.Allowed, Explanation: d.Explanation}
	verb := "allowed"
	if !d.Allowed {
		verb, step.Error, step.Hint = "denied", told, hint
	}
	switch {
	case d.Line == 0:
		step.Text = fmt.Sprintf("%s %s: %s", d.Action, verb, by(d))
	case d.Layer == policy.TrustLayer: // of the role that the steps are about
		d.Policy = d.Layer.String()
		step.Text = fmt.Sprintf("%s %s by %s", d.Action, verb, by(d))
	default:
		step.Text = fmt.Sprintf("%s %s by %s %s", d.Action, verb, d.Layer, by(d))
	}
	e.Steps = append(e.Steps, step)
	e.Missing = append(e.Missing, d.Explanation.Missing...)
}

// print prints the steps, and below those that fail, or below all of them, why.
func (e *explanation) print(w io.Writer) {
	width := 0
	for _, s := range e.Steps {
		width = max(width, len(s.Step))
	}
	for _, s := range e.Steps {
		mark := "ok"
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%-4s  %-*s  %s\n", mark, width, s.Step, s.Text)
		if s.Explanation != nil && (e.q.verbose || !s.OK) {
			_, why, _ := strings.Cut(s.Explanation.Tree(), "\n") // the first line says what the step's does
			for line := range strings.Lines(why) {
				fmt.Fprint(w, "        ", line)
			}
		}
		if s.Hint != "" {
			fmt.Fprintf(w, "        hint: %s\n", s.Hint)
		}
	}
}

// printVerdict prints the answer: for a denial with what the pod is told, which the first step that fails decides.
func (e *explanation) printVerdict(w io.Writer) {
	what := e.Action
	if e.Resource != "*" {
		what += " on " + e.Resource
	}
	if i := slices.IndexFunc(e.Steps, func(s chainStep) bool { return !s.OK }); i >= 0 {
		fmt.Fprintf(w, "\ndenied: pods of %s/%s in cluster %s may not do %s\n", e.q.namespace, e.q.serviceAccount, e.cluster.Name, what)
		fmt.Fprintf(w, "they are told: %s\n", e.Steps[i].Error)
		return
	}
	fmt.Fprintf(w, "\nallowed: pods of %s/%s in cluster %s may do %s\n", e.q.namespace, e.q.serviceAccount, e.cluster.Name, what)
}
