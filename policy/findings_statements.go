package policy

import (
	"slices"
	"strings"
)

// negatedElements looks for NotPrincipal, NotAction and NotResource.
func (a *analysis) negatedElements(c *clause) {
	switch {
	case c.principal == nil || !c.notPrincipal:
	case c.allow:
		a.reportAt(c, "allow-not-principal", c.principal, "everybody but the listed principals is let in")
	case c.deny:
		a.reportAt(c, "deny-not-principal", c.principal,
			"everybody but the listed principals is denied; a condition on aws:PrincipalArn says it without surprises for roles' sessions")
	}
	if c.allow && c.action != nil && c.notAction {
		a.reportAt(c, "allow-not-action", c.action, "every action but those listed is allowed")
	}
	if c.allow && c.resource != nil && c.notResource {
		a.reportAt(c, "allow-not-resource", c.resource, "every resource but those listed is allowed")
	}
}

// everything looks for statements that allow everything. In policies that only limit what others allow they are usual.
func (a *analysis) everything(c *clause) {
	if !c.allow || c.notAction || c.notResource || a.kind != Identity && a.kind != Resource {
		return
	}
	all := func(x actionText) bool { return x.node.text == "*" || x.node.text == "*:*" }
	if i := slices.IndexFunc(c.actions, all); i >= 0 && slices.ContainsFunc(c.resources, func(r resourceText) bool { return r.all }) {
		a.reportAt(c, "full-access", c.actions[i].node, "every action on every resource is allowed")
	}
}

// passRole looks for roles that may be passed all. It is about actions that name IAM; a lone * is for another rule.
func (a *analysis) passRole(c *clause) {
	if !c.allow || c.notAction || c.notResource || a.kind != Identity {
		return
	}
	i := slices.IndexFunc(c.actions, func(x actionText) bool {
		return string(x.pattern.vendor) == "iam" && x.pattern.name.matches("passrole")
	})
	j := slices.IndexFunc(c.resources, func(r resourceText) bool {
		resource := r.fields[arnResource]
		w := resource.wildcard()
		return r.all || r.isARN && string(r.fields[arnService]) == "iam" && w >= 0 && strings.HasPrefix("role/", string(resource[:w]))
	})
	if i < 0 || j < 0 {
		return
	}
	for k := range c.comparisons {
		x := &c.comparisons[k]
		anything := func(v *node) bool { return strings.HasSuffix(x.base, "Like") && strings.Trim(v.text, "*?") == "" }
		if x.folded == "iam:passedtoservice" && c.bounds(x) && !slices.ContainsFunc(x.values, anything) {
			a.reportAt(c, "pass-role-wildcard", c.resources[j].node,
				"%s lets every role be passed to the services of iam:PassedToService", quoted(c.actions[i].node.text))
			return
		}
	}
	a.reportAt(c, "pass-role-any", c.resources[j].node, "%s lets every role be passed to every service", quoted(c.actions[i].node.text))
}

// mismatches looks for actions that are never about the clause's resources.
func (a *analysis) mismatches(c *clause) {
	if c.notAction || c.notResource || len(c.resources) == 0 {
		return
	}
	services := make(map[string]bool)
	var buckets, objects bool
	var one *node // of the resources of S3
	for i := range c.resources {
		r := &c.resources[i]
		if r.all || !r.isARN || r.fields[arnService].wildcard() >= 0 {
			return
		}
		services[string(r.fields[arnService])] = true
		if string(r.fields[arnService]) == "s3" {
			one = r.node
			bucket, object := s3Levels(r)
			buckets, objects = buckets || bucket, objects || object
		}
	}
	for i := range c.actions {
		x := &c.actions[i]
		vendor := string(x.pattern.vendor)
		own := actionResources(vendor)
		if own == nil {
			continue
		}
		if !slices.ContainsFunc(own, func(s string) bool { return services[s] }) {
			a.reportAt(c, "action-resource-mismatch", x.node, "%s is never about a resource such as %s",
				quoted(x.node.text), quoted(c.resources[0].node.text))
			continue
		}
		if vendor != "s3" {
			continue
		}
		switch level := s3ActionLevel(string(x.pattern.name)); {
		case level == s3Object && !objects:
			a.reportAt(c, "action-resource-mismatch", x.node, "%s is about objects, and %s is a bucket", quoted(x.node.text), quoted(one.text))
		case level == s3Bucket && !buckets:
			a.reportAt(c, "action-resource-mismatch", x.node, "%s is about a bucket, and %s is in one", quoted(x.node.text), quoted(one.text))
		}
	}
}

// s3Levels reports whether a pattern of S3 may fit buckets and objects. A bucket's name has no slash. It says yes when in
// doubt, and of ARNs with a region or account, such as those of access points.
func s3Levels(r *resourceText) (bucket, object bool) {
	if len(r.fields[arnRegion])+len(r.fields[arnAccount]) > 0 {
		return true, true
	}
	resource := r.fields[arnResource]
	slash := slices.Contains(resource, '/')
	return !slash, slash || resource.wildcard() >= 0
}

// maxCoverSteps bounds the search for covered statements, which compares each with each other, to some hundredths of a second.
// A document of usual size needs a small part of it; in one that needs more, the search ends where the steps do.
const maxCoverSteps = 1 << 22

// covered looks for statements that another one covers, in a document that New takes: of one that is not understood in full
// nobody can tell. It corrects nothing, since the wider statement may be the mistake.
func (a *analysis) covered() {
	s := search{analysis: a, steps: maxCoverSteps}
	for i := range a.clauses {
		c := &a.clauses[i]
		for j := range a.clauses {
			d := &a.clauses[j]
			if i == j || !s.covers(d, c) {
				continue
			}
			if d.deny && c.allow {
				a.reportAt(c, "denied-allow", c.node, "statement %d%s denies all that it allows", d.index, named(d))
				break
			}
			if d.deny != c.deny || j > i && s.covers(c, d) {
				continue // of two that are the same, the later one is reported
			}
			a.reportAt(c, "covered-statement", c.node, "statement %d%s covers it", d.index, named(d))
			break
		}
	}
}

func named(c *clause) string {
	if c.sid == "" {
		return ""
	}
	return " (Sid " + quoted(c.sid) + ")"
}

// A search is for statements that cover others. All of its answers are no once it has no steps left.
type search struct {
	*analysis
	steps int
}

// covers reports whether d applies to every request that c applies to. It says no when in doubt.
func (s *search) covers(d, c *clause) bool {
	s.steps--
	return s.steps > 0 && (d.deny || c.allow) &&
		s.coversPrincipals(d, c) && s.coversConditions(d, c) && s.coversResources(d, c) && s.coversActions(d, c)
}

// coversPrincipals takes * to cover other principals in a Deny only: in an Allow it is not the same to name a principal,
// since what a resource's policy allows to a session itself is not held against the session's boundary.
func (s *search) coversPrincipals(d, c *clause) bool {
	switch {
	case c.notPrincipal || d.notPrincipal:
		return false
	case len(d.anyone) > 0 && d.deny:
		return true
	case len(c.anyone) > 0 && len(d.anyone) == 0:
		return false
	}
	for _, p := range c.named {
		found := false
		for _, q := range d.named {
			s.steps--
			if p.typ == q.typ && p.value.text == q.value.text {
				found = true
				break
			}
		}
		if !found || s.steps <= 0 {
			return false
		}
	}
	return true
}

func (s *search) coversActions(d, c *clause) bool {
	covers := func(x, y actionText) bool {
		return s.coversPattern(x.pattern.vendor, y.pattern.vendor) && s.coversPattern(x.pattern.name, y.pattern.name)
	}
	switch {
	case !d.notAction && !c.notAction:
		return coversAll(d.actions, c.actions, covers)
	case d.notAction && c.notAction:
		return coversAll(c.actions, d.actions, covers)
	case c.notAction:
		return slices.ContainsFunc(d.actions, func(x actionText) bool { return x.node.text == "*" })
	}
	return false
}

func (s *search) coversResources(d, c *clause) bool {
	covers := func(x, y resourceText) bool {
		switch {
		case x.all || y.all:
			return x.all
		case x.variable:
			return x.node.text == y.node.text
		}
		for i := range x.fields {
			if !s.coversPattern(x.fields[i], y.fields[i]) {
				return false
			}
		}
		return true
	}
	switch {
	case s.kind == Trust:
		return true
	case !d.notResource && slices.ContainsFunc(d.resources, func(r resourceText) bool { return r.all }):
		return true
	case !d.notResource && !c.notResource:
		return coversAll(d.resources, c.resources, covers)
	case d.notResource && c.notResource:
		variable := func(r resourceText) bool { return r.variable }
		return !slices.ContainsFunc(d.resources, variable) && !slices.ContainsFunc(c.resources, variable) &&
			coversAll(c.resources, d.resources, covers)
	}
	return false
}

// coversAll reports whether each of the smaller ones has one that covers it.
func coversAll[T any](large, small []T, covers func(large, small T) bool) bool {
	for _, y := range small {
		if !slices.ContainsFunc(large, func(x T) bool { return covers(x, y) }) {
			return false
		}
	}
	return true
}

// coversConditions reports whether each of d's conditions is one of c's too, which may have more.
func (s *search) coversConditions(d, c *clause) bool {
	return coversAll(c.comparisons, d.comparisons, func(x, y comparison) bool {
		s.steps -= 1 + len(x.values)
		return s.steps > 0 && x.operator.text == y.operator.text && x.folded == y.folded &&
			slices.EqualFunc(x.values, y.values, func(v, w *node) bool { return v.text == w.text })
	})
}

// coversPattern reports whether all that fits q fits p: p matches q's text, in which ? fits a ? and nothing but a * fits a *.
// When that comes to a dead end it goes back to p's last * only, as whatever an earlier one could take, the last could too.
func (s *search) coversPattern(p, q pattern) bool {
	i, j := 0, 0
	star, mark := -1, 0 // behind the last * in p, and the end of what it has taken
	for j < len(q) {
		if s.steps--; s.steps <= 0 {
			return false
		}
		switch {
		case i < len(p) && p[i] == anyRun:
			i++
			star, mark = i, j
		case i < len(p) && p[i] == anyOne && q[j] != anyRun:
			i++
			j += characterSize(string(q[j:min(j+4, len(q))]))
		case i < len(p) && p[i] == q[j]:
			i++
			j++
		case star >= 0:
			mark += characterSize(string(q[mark:min(mark+4, len(q))]))
			i, j = star, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == anyRun {
		i++
	}
	return i == len(p)
}
