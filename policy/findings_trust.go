package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// An issuer is an OIDC provider that a trust policy names.
type issuer struct {
	url        string // without https://
	prefix     string // of its condition keys: the URL, folded
	at         *node
	registered bool // as a provider of the account, rather than one of those that IAM knows by itself
}

const (
	webIdentityAction = "assumerolewithwebidentity"
	subjectSuffix     = ":sub"
	audienceSuffix    = ":aud"
)

// issuers returns the OIDC providers among the clause's principals.
func (c *clause) issuers() (found []issuer) {
	for _, p := range c.named {
		if p.typ != "Federated" {
			continue
		}
		if provider, err := arn.Parse(p.value.text); err == nil {
			if url, ok := strings.CutPrefix(provider.Resource(), "oidc-provider/"); ok {
				found = append(found, issuer{url, foldKey(url), p.value, true})
			}
		} else if isDomainName(p.value.text) {
			found = append(found, issuer{p.value.text, foldKey(p.value.text), p.value, false})
		}
	}
	return found
}

// issuerOf returns the issuer whose key a folded name is: what stands before the last colon, if its host has a dot, which
// the prefixes of AWS's services do not have.
func issuerOf(folded string) (string, bool) {
	i := strings.LastIndexByte(folded, ':')
	if i < 0 {
		return "", false
	}
	host, _, _ := strings.Cut(folded[:i], "/")
	return folded[:i], strings.Contains(host, ".") || strings.HasPrefix(host, "localhost")
}

// webIdentity looks at who may come with a token of an OIDC provider.
func (a *analysis) webIdentity(c *clause) {
	issuers := c.issuers()
	if len(issuers) == 0 || !c.may("sts", webIdentityAction) {
		return
	}
	own := func(prefix string) bool {
		return slices.ContainsFunc(issuers, func(p issuer) bool { return p.prefix == prefix })
	}
	required := make(map[string]bool) // issuers whose tokens alone can meet the conditions
	for i := range c.comparisons {
		x := &c.comparisons[i]
		prefix, ok := issuerOf(x.folded)
		if !ok {
			continue
		}
		switch {
		case !x.known:
		case !x.requires():
			if !own(prefix) {
				a.reportOn(c, "trust-other-issuer", x, "%s is not a key of %s; the condition always holds",
					quoted(x.key.text), quoted(issuers[0].at.text))
			}
		case !own(prefix):
			a.reportOn(c, "trust-other-issuer", x, "%s is not a key of %s; the condition never holds",
				quoted(x.key.text), quoted(issuers[0].at.text))
		case len(required) > 0 && !required[prefix]:
			a.reportOn(c, "trust-other-issuer", x, "no token has %s and the key of another issuer that a condition requires", quoted(x.key.text))
		}
		if x.requires() {
			required[prefix] = true
		}
	}
	for i := range issuers {
		p := &issuers[i]
		if len(required) > 1 || len(required) == 1 && !required[p.prefix] {
			continue // its tokens lack a key that must be there
		}
		if p.registered {
			a.subject(c, p)
			a.audience(c, p)
		} else if !required[p.prefix] {
			a.reportAt(c, "trust-without-subject", p.at, "any token of %s can take the role: no condition requires one of its keys", quoted(p.at.text))
		}
	}
}

// A subjectBound is a comparison that only certain subjects get past.
type subjectBound struct {
	clause *clause
	*comparison
}

// subject looks at which subjects of an issuer may come. Of several bounds all must be met, so the narrowest counts.
func (a *analysis) subject(c *clause, p *issuer) {
	key := p.prefix + subjectSuffix
	var bounds []subjectBound
	var negated *comparison
	explained := false // another rule says why a comparison is no bound
	for i := range c.comparisons {
		x := &c.comparisons[i]
		switch {
		case x.folded != key || x.meaning.null:
		case !x.known:
			explained = true
		case x.meaning.negated:
			negated = x
		case !c.bounds(x):
			explained = true
			a.ifExists(c, x)
		default:
			bounds = append(bounds, subjectBound{c, x})
		}
	}
	bounds = append(bounds, a.deniedElse(p)...)
	switch {
	case len(bounds) > 0:
		narrowest := slices.MinFunc(bounds, func(x, y subjectBound) int { return cmp.Compare(a.width(p, x), a.width(p, y)) })
		for _, x := range bounds {
			a.subjects(p, x, x == narrowest)
		}
	case explained:
	case negated != nil:
		a.reportOn(c, "trust-negated-subject", negated, "%s on %s only says which subjects may not take the role",
			negated.operator.text, quoted(negated.key.text))
	default:
		a.reportAt(c, "trust-without-subject", p.at, "any identity of %s can take the role: no condition on %s",
			quoted(p.at.text), quoted(p.url+subjectSuffix))
	}
}

// ifExists notes a comparison of a token's claim that holds when the token lacks it, unless another one needs the claim.
func (a *analysis) ifExists(c *clause, x *comparison) {
	if x.meaning.ifExists && !c.present(x.folded) {
		a.reportOn(c, "trust-if-exists", x, "%s on %s holds for a token without the claim", x.operator.text, quoted(x.key.text))
	}
}

// deniedElse returns the comparisons of those Denies that keep out all subjects of the issuer but the ones that they list.
func (a *analysis) deniedElse(p *issuer) (found []subjectBound) {
	for i := range a.clauses {
		c := &a.clauses[i]
		if !c.deny || c.notPrincipal || !c.may("sts", webIdentityAction) || len(c.comparisons) != 1 {
			continue
		}
		x := &c.comparisons[0]
		if x.folded != p.prefix+subjectSuffix || !x.known || !x.meaning.negated || x.meaning.quantifier == forAnyValue {
			continue
		}
		if len(c.anyone) > 0 || slices.ContainsFunc(c.issuers(), func(q issuer) bool { return q.prefix == p.prefix }) {
			found = append(found, subjectBound{c, x})
		}
	}
	return found
}

// subjects looks at the subjects that a bound lists, and at its wildcards if they count.
func (a *analysis) subjects(p *issuer, x subjectBound, counts bool) {
	switch strings.Replace(x.base, "Not", "", 1) {
	case "StringEquals", "StringEqualsIgnoreCase":
		for _, v := range x.values {
			if a.literalStar(v.text) {
				a.reportAt(x.clause, "trust-subject-literal-wildcard", v, "no subject is %s: in %s the * is not a wildcard",
					quoted(v.text), x.operator.text)
			}
		}
	case "StringLike":
		if !a.hasWildcard(x.comparison) {
			a.report(x.clause, "like-without-wildcard", x.key.start, x.value.end, a.useStringEquals(x.clause, x.comparison),
				"%s on %s has no wildcard; %s says the same", x.operator.text, quoted(x.key.text), exactOperator(x.operator.text))
		}
	}
	for _, v := range x.values {
		switch scope := a.subjectScope(p, x, v); {
		case !counts:
		case scope == anySubject:
			a.reportAt(x.clause, "trust-any-subject", v, "%s stands for subjects of more than one namespace or tenant", quoted(v.text))
		case scope == oneNamespace:
			a.reportAt(x.clause, "trust-any-service-account", v, "%s stands for more than one service account of a namespace", quoted(v.text))
		}
	}
}

// A subjectScope says how many subjects a value stands for.
type subjectScope int

const (
	oneSubject   subjectScope = iota // or those of one tenant of an issuer that is not a cluster
	oneNamespace                     // service accounts of a namespace
	anySubject                       // subjects that others can choose
)

// width returns the widest scope of a bound's values.
func (a *analysis) width(p *issuer, x subjectBound) (widest subjectScope) {
	for _, v := range x.values {
		widest = max(widest, a.subjectScope(p, x, v))
	}
	return widest
}

// subjectScope judges by what stands before the first wildcard of a value.
func (a *analysis) subjectScope(p *issuer, x subjectBound, v *node) subjectScope {
	if !strings.HasSuffix(x.base, "Like") && !strings.HasPrefix(x.base, "Arn") {
		return oneSubject
	}
	pattern := a.pattern(v.text, '$')
	w := pattern.wildcard()
	if w < 0 {
		return oneSubject
	}
	const serviceAccount = "system:serviceaccount:"
	head := string(pattern[:w])
	host, _, _ := strings.Cut(p.prefix, "/")
	switch name, ok := strings.CutPrefix(head, serviceAccount); {
	case ok && strings.Contains(name, ":"):
		return oneNamespace
	case ok, strings.HasPrefix(serviceAccount, head), strings.IndexByte(head, ':') == len(head)-1,
		needsTenant(host) && !strings.Contains(head, "/"):
		return anySubject
	}
	return oneSubject
}

// hasWildcard reports whether a value of the comparison has a wildcard where its operator takes one.
func (a *analysis) hasWildcard(x *comparison) bool {
	return slices.ContainsFunc(x.values, func(v *node) bool { return a.pattern(v.text, '$').wildcard() >= 0 })
}

// audience looks at which audiences' tokens may come.
func (a *analysis) audience(c *clause, p *issuer) {
	key := p.prefix + audienceSuffix
	bound := false
	for i := range c.comparisons {
		x := &c.comparisons[i]
		if x.folded != key || x.known && !x.selects() {
			continue
		}
		bound = true // or another rule reports why it is not
		a.ifExists(c, x)
	}
	if !bound {
		a.reportAt(c, "trust-without-audience", p.at, "tokens of %s for any audience are taken: no condition on %s",
			quoted(p.at.text), quoted(p.url+audienceSuffix))
	}
}

// wholeAccounts looks for accounts that are trusted as a whole. It cannot tell a foreign account from the role's own.
func (a *analysis) wholeAccounts(c *clause) {
	for i := range c.comparisons {
		if x := &c.comparisons[i]; narrowsAccount(x.folded) && c.bounds(x) {
			return
		}
	}
	for _, p := range c.named {
		if name, ok := parseAWSPrincipal(p.value.text); p.typ == "AWS" && ok && name.typ == wholeAccount {
			a.reportAt(c, "trust-whole-account", p.value,
				"whoever account %s allows can take the role; if the account is not your own, require a value of sts:ExternalId", name.name)
		}
	}
}

const podIdentityService = "pods.eks.amazonaws.com"

// podIdentity looks at what lets EKS assume the role for pods.
func (a *analysis) podIdentity() {
	var clauses []*clause
	tagged := false
	for i := range a.clauses {
		c := &a.clauses[i]
		if c.allow && c.service(podIdentityService) != nil {
			tagged = tagged || c.may("sts", "tagsession")
			if c.may("sts", "assumerole") {
				clauses = append(clauses, c)
			}
		}
	}
	for _, c := range clauses {
		at := c.service(podIdentityService)
		if !tagged {
			var edits []edit
			if len(clauses) == 1 && len(c.named) == 1 && len(c.anyone) == 0 && !c.notAction && len(c.actions) > 0 {
				edits = a.appendString(c.action, "sts:TagSession")
			}
			a.report(c, "pod-identity-without-tag-session", at.start, at.end, edits,
				"%s may assume the role but not tag the session: sts:TagSession is not allowed", podIdentityService)
		}
		if !slices.ContainsFunc(c.comparisons, func(x comparison) bool { return boundsCluster(x.folded) && c.bounds(&x) }) {
			a.reportAt(c, "pod-identity-open", at,
				"no condition says for which cluster or pods: aws:SourceArn, aws:SourceAccount or a tag of the session")
		}
	}
}

// service returns the principal that is the service, or nil.
func (c *clause) service(name string) *node {
	for _, p := range c.named {
		if p.typ == "Service" && p.value.text == name && !c.notPrincipal {
			return p.value
		}
	}
	return nil
}
