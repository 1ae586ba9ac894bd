package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/policy"
)

// The steps of a migration, in the order in which they are done.
const (
	doTrust     = "trust Pod Identity"
	doAssociate = "associate"
	doUnmark    = "remove annotation"
	doDistrust  = "distrust web identity"
)

// The steps of the way back.
const (
	doMark       = "restore annotation"
	doDissociate = "delete association"
)

// The states of a step.
const (
	stateToDo    = "to do"
	stateDone    = "done"
	stateSkipped = "skipped" // something stands against it, which the step says
	stateFailed  = "failed"
)

// migrationStep is one change, and what has become of it.
type migrationStep struct {
	Do             string   `json:"do"`
	State          string   `json:"state"`
	Namespace      string   `json:"namespace,omitempty"` // of steps that are about one service account
	ServiceAccount string   `json:"serviceAccount,omitempty"`
	SharedBy       []string `json:"sharedBy,omitempty"` // of steps that are about a role: the service accounts of the plan that have it
	RoleARN        string   `json:"roleArn"`
	Why            string   `json:"why,omitempty"`           // of steps that are skipped or have failed
	Change         []string `json:"change,omitempty"`        // line by line, as diffDocuments has it
	After          string   `json:"after,omitempty"`         // the trust policy that is written
	AssociationID  string   `json:"associationId,omitempty"` // of steps that delete one
}

// migrationPlan is what `lanyard migrate` would do, or has done.
type migrationPlan struct {
	Cluster     string          `json:"cluster"`
	ProviderARN string          `json:"providerArn"`
	Phase       string          `json:"phase"` // associate, finish or undo
	Steps       []migrationStep `json:"steps"`
	Warnings    []string        `json:"warnings,omitempty"`
	Restart     []string        `json:"restart,omitempty"` // commands, for pods that go the way that is left
}

// open reports whether there is something to do, by the command or by people.
func (p *migrationPlan) open() bool {
	return slices.ContainsFunc(p.Steps, func(s migrationStep) bool { return s.State != stateDone })
}

// maxAssociations is how many associations a cluster may have, and maxTrust how many characters a trust policy, unless the quota was
// raised (EKS and IAM User Guides, quotas).
const (
	maxAssociations = 5000
	maxTrust        = 2048
)

func (p *migrationPlan) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.Warnings, text) {
		p.Warnings = append(p.Warnings, text)
	}
}

// start begins a plan with what the scene says whatever the phase.
func (s *migrationScene) start(phase string) *migrationPlan {
	return &migrationPlan{Cluster: s.cluster.Name, ProviderARN: s.provider, Phase: phase, Steps: []migrationStep{}, Warnings: slices.Clone(s.notes)}
}

// restartPods adds the commands that make the pods of service accounts anew.
func (p *migrationPlan) restartPods(pods []identityPod, accounts []annotatedAccount) {
	for _, pod := range pods {
		ours := slices.ContainsFunc(accounts, func(a annotatedAccount) bool { return a.Namespace == pod.Namespace && a.Name == pod.ServiceAccount })
		if ours && !slices.Contains(p.Restart, pod.restart) {
			p.Restart = append(p.Restart, pod.restart)
		}
	}
}

// byRole returns the selected accounts of each role, in the order in which the roles come first.
func (s *migrationScene) byRole(role func(annotatedAccount) string) (roles []string, accounts map[string][]annotatedAccount) {
	accounts = map[string][]annotatedAccount{}
	for _, a := range s.accounts {
		r := role(a)
		if !a.Selected || r == "" {
			continue
		}
		if accounts[r] == nil {
			roles = append(roles, r)
		}
		accounts[r] = append(accounts[r], a)
	}
	return roles, accounts
}

func accountNames(accounts []annotatedAccount) (names []string) {
	for _, a := range accounts {
		names = append(names, a.String())
	}
	return names
}

// associate plans the first phase: both ways work when it is done. With restrict, only pods of this cluster may have the roles.
func (s *migrationScene) associate(restrict bool) (*migrationPlan, error) {
	p := s.start("associate")
	created := 0
	roles, accounts := s.byRole(func(a annotatedAccount) string { return a.Role })
	for _, arn := range roles {
		role := s.roles[arn]
		var movable []annotatedAccount
		var steps []migrationStep
		for _, a := range accounts[arn] {
			step := migrationStep{Do: doAssociate, State: stateToDo, Namespace: a.Namespace, ServiceAccount: a.Name, RoleARN: arn}
			have, ok := s.associations[a.String()]
			switch {
			case role.problem != "":
				step.State, step.Why = stateSkipped, role.problem
			case ok && have.RoleARN != arn:
				step.State, step.Why = stateSkipped, fmt.Sprintf("association %s gives it %s: take away the annotation or the association", have.ID, have.RoleARN)
			case ok:
				step.State = stateDone
			default:
				created++
			}
			if step.State != stateSkipped {
				movable = append(movable, a)
				p.warnAnnotations(a)
			}
			steps = append(steps, step)
		}
		if len(movable) > 0 {
			trust, err := s.trustStep(p, arn, movable, restrict)
			if err != nil {
				return nil, fmt.Errorf("plan for role %s: %w", arn, err)
			}
			p.Steps = append(p.Steps, trust)
			for _, note := range role.notes {
				p.warn("%s: %s", arn, note)
			}
			if trust.State == stateSkipped {
				for i := range steps {
					if steps[i].State == stateToDo {
						steps[i].State, steps[i].Why = stateSkipped, "its role does not trust Pod Identity for it"
						created--
					}
				}
			} else {
				p.restartPods(s.pods, movable)
			}
		}
		p.Steps = append(p.Steps, steps...)
	}
	if created > 0 && s.count+created > maxAssociations {
		p.warn("the cluster would have %d associations, and EKS lets it have %d", s.count+created, maxAssociations)
	}
	return p, nil
}

// warnAnnotations says what of the webhook's annotations Pod Identity has nothing for.
func (p *migrationPlan) warnAnnotations(a annotatedAccount) {
	for _, name := range []string{"audience", "sts-regional-endpoints", "token-expiration"} {
		switch set := a.Annotations["eks.amazonaws.com/"+name]; {
		case set == "" || name == "audience" && set == stsAudience:
		case name == "token-expiration":
			p.warn("%s: the annotation eks.amazonaws.com/token-expiration: %s is about the token alone: sessions by Pod Identity last 6 hours", a, set)
		default:
			p.warn("%s: the annotation eks.amazonaws.com/%s: %s has no counterpart in Pod Identity", a, name, set)
		}
	}
}

// trustStep plans the change of a role's trust policy that lets its service accounts have it by Pod Identity.
func (s *migrationScene) trustStep(p *migrationPlan, arn string, accounts []annotatedAccount, restrict bool) (migrationStep, error) {
	step := migrationStep{Do: doTrust, State: stateDone, RoleARN: arn, SharedBy: accountNames(accounts)}
	trust, err := readTrust(s.roles[arn].trust)
	if err != nil {
		return step, err
	}
	if err := s.warnShared(p, arn, trust, step.SharedBy); err != nil {
		return step, err
	}
	least, conditioned := podsTrusted, ""
	for _, a := range accounts {
		t, err := trust.trustOfPods(arn, s.cluster, s.account, a)
		if err != nil {
			return step, err
		}
		if t == podsConditioned {
			conditioned = a.String()
		}
		least = min(least, t)
	}
	if restrict && least == podsTrusted {
		other := clusterView{Name: s.cluster.Name, ARN: s.cluster.ARN + "-another"}
		if t, err := trust.trustOfPods(arn, other, s.account, accounts[0]); err != nil {
			return step, err
		} else if t == podsTrusted {
			p.warn("%s: it trusts Pod Identity of other clusters already, and --restrict does not change that", arn)
		}
	}
	switch {
	case least == podsTrusted:
		return step, nil
	case least == podsConditioned && !restrict:
		step.State = stateSkipped
		step.Why = "it trusts Pod Identity on conditions that do not hold for " + conditioned +
			": change them, or let --restrict add a statement for this cluster"
		return step, nil
	}
	only := ""
	if restrict {
		only = s.cluster.ARN
	}
	statement, err := podIdentityStatement(only, s.account)
	if err != nil {
		return step, err
	}
	after := trust.with(statement)
	for _, a := range accounts {
		if t, err := after.trustOfPods(arn, s.cluster, s.account, a); err != nil {
			return step, err
		} else if t != podsTrusted {
			step.State, step.Why = stateSkipped, fmt.Sprintf("a Deny statement of its trust policy keeps Pod Identity from %s", a)
			return step, nil
		}
	}
	return step, step.change(p, s.roles[arn].trust, after)
}

// change fills in what the step does to a trust policy.
func (step *migrationStep) change(p *migrationPlan, before string, after trustDocument) (err error) {
	step.State = stateToDo
	if step.After, err = after.text(); err != nil {
		return err
	}
	if n := policy.Size([]byte(step.After)); n > maxTrust {
		p.warn("%s: its trust policy comes to %d characters, and IAM takes %d unless the quota was raised", step.RoleARN, n, maxTrust)
	}
	step.Change, err = diffDocuments(before, step.After)
	return err
}

// warnShared says who may have a role that does not name its service accounts: under Pod Identity the associations alone decide.
func (s *migrationScene) warnShared(p *migrationPlan, arn string, trust trustDocument, accounts []string) error {
	for _, statement := range trust.Statement {
		w, err := readWebIdentity(statement, s.provider)
		if err != nil {
			return err
		}
		if w.only && !w.bound {
			subs := "names no :sub"
			if len(w.subs) > 0 {
				subs = "has :sub " + strings.Join(w.subs, ", ")
			}
			p.warn("%s: its trust policy %s: of those that it is for, %s will have it by Pod Identity, and others only with an association", arn, subs,
				strings.Join(accounts, ", "))
		}
	}
	return nil
}

// finish plans the second phase: only Pod Identity works when it is done.
func (s *migrationScene) finish(force bool) (*migrationPlan, error) {
	p := s.start("finish")
	roles, accounts := s.byRole(func(a annotatedAccount) string {
		if a.Role != "" {
			return a.Role
		}
		return a.Was
	})
	for _, arn := range roles {
		role := s.roles[arn]
		if role.problem != "" {
			for _, a := range accounts[arn] {
				if a.Role != "" {
					p.Steps = append(p.Steps, migrationStep{Do: doUnmark, State: stateSkipped, Namespace: a.Namespace, ServiceAccount: a.Name, RoleARN: arn, Why: role.problem})
				}
			}
			continue
		}
		trust, err := readTrust(role.trust)
		if err != nil {
			return nil, fmt.Errorf("plan for role %s: %w", arn, err)
		}
		gone := map[string]bool{}
		p.restartPods(s.pods, accounts[arn])
		for _, a := range accounts[arn] {
			step := migrationStep{Do: doUnmark, State: stateDone, Namespace: a.Namespace, ServiceAccount: a.Name, RoleARN: arn}
			if a.Role != "" {
				step.Why, err = s.keepsAnnotation(a, trust, force)
				if err != nil {
					return nil, fmt.Errorf("plan for role %s: %w", arn, err)
				}
				step.State = stateSkipped
				if step.Why == "" {
					step.State = stateToDo
					step.Change = []string{"- " + roleAnnotation + ": " + arn, "+ " + migratedAnnotation + ": " + arn}
				}
			}
			gone[a.String()] = step.State != stateSkipped
			p.Steps = append(p.Steps, step)
		}
		step, err := s.distrustStep(p, arn, trust, accounts[arn], gone, force)
		if err != nil {
			return nil, fmt.Errorf("plan for role %s: %w", arn, err)
		}
		p.Steps = append(p.Steps, step)
	}
	return p, nil
}

// keepsAnnotation says why a service account is not ready for the second phase; empty if it is.
func (s *migrationScene) keepsAnnotation(a annotatedAccount, trust trustDocument, force bool) (string, error) {
	have, ok := s.associations[a.String()]
	switch t, err := trust.trustOfPods(a.Role, s.cluster, s.account, a); {
	case err != nil:
		return "", err
	case !ok:
		return "it has no association: run this without --finish first", nil
	case have.RoleARN != a.Role:
		return fmt.Sprintf("association %s gives it %s", have.ID, have.RoleARN), nil
	case t != podsTrusted:
		return "its role does not trust Pod Identity for it: run this without --finish first", nil
	case force:
		return "", nil
	}
	return usedBy(s.pods, func(p identityPod) bool { return p.Namespace == a.Namespace && p.ServiceAccount == a.Name }), nil
}

// usedBy says which pods stand against a step; empty if none does.
func usedBy(pods []identityPod, concerned func(identityPod) bool) string {
	const most = 3
	var names []string
	for _, p := range pods {
		if concerned(p) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	switch n := len(names); {
	case n == 0:
		return ""
	case n > most:
		names = append(names[:most], fmt.Sprintf("%d more", n-most))
	}
	return "pods go the web identity's way until they are restarted: " + strings.Join(names, ", ")
}

// distrustStep plans the removal of the web identity statements from a role; gone are the accounts that do without them.
func (s *migrationScene) distrustStep(p *migrationPlan, arn string, trust trustDocument, accounts []annotatedAccount, gone map[string]bool, force bool) (migrationStep, error) {
	step := migrationStep{Do: doDistrust, State: stateDone, RoleARN: arn, SharedBy: accountNames(accounts)}
	after, removed, left, err := trust.withoutWebIdentity(s.provider)
	if err != nil {
		return step, err
	}
	if left > 0 {
		p.warn("%s: %d of its trust policy's statements name the provider besides others, or do more than let its web identities in, and are left", arn, left)
	}
	if len(removed) == 0 {
		return step, nil
	}
	step.State = stateSkipped
	var need []string
	for _, a := range s.accounts {
		if a.Role == arn && !gone[a.String()] {
			need = append(need, a.String())
		}
	}
	if len(need) > 0 {
		step.Why = "still needed by " + strings.Join(need, ", ")
		return step, nil
	}
	if !force {
		if step.Why = usedBy(s.pods, func(p identityPod) bool { return p.Role == arn }); step.Why != "" {
			return step, nil
		}
	}
	if len(after.Statement) == 0 {
		step.Why = "nothing else is in its trust policy: its service accounts have no association"
		return step, nil
	}
	for _, w := range removed {
		for _, sub := range w.subs {
			if !slices.ContainsFunc(accounts, func(a annotatedAccount) bool { return serviceAccountSubject(a.Namespace, a.Name) == sub }) {
				p.warn("%s: its trust policy also lets %s in, which is none of the service accounts that are annotated with it: that ends", arn, sub)
			}
		}
	}
	return step, step.change(p, s.roles[arn].trust, after)
}
