package policy

import (
	"fmt"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
)

// A severity orders a document's faults as IAM does: it prints the text of the gravest one only.
type severity int

const (
	bySyntax severity = iota
	byLegacyParsing
	bySid
	byMissingActions
	byMissingResources
	byResource
	byAction
)

// wording holds IAM's texts where they differ between trust policies and all others.
type wording struct{ syntax, value, duplicateSid string }

const (
	sidCharset       = "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*"
	organizationText = "The provided policy document does not meet the requirements of the specified policy type."
	iamResourceTypes = "user/, federated-user/, role/, group/, instance-profile/, mfa/, server-certificate/, policy/, sms-mfa/, " +
		"saml-provider/, oidc-provider/, report/, access-report/"
)

// A compiler turns a document into statements and notes what is wrong with it. Each of its methods that compiles an
// element takes the element's node.
type compiler struct {
	kind      Kind
	variables bool // the version has policy variables
	problem   *Error
	severity  severity // of problem
}

// fail notes a fault. Of several the gravest counts, and of those the first.
func (c *compiler) fail(s severity, at *node, message, detail string, args ...any) {
	if c.problem == nil || s < c.severity {
		c.severity = s
		c.problem = &Error{message, fmt.Sprintf(detail, args...), at.start.line, at.start.column}
	}
}

// failSyntax notes that an element has no meaning.
func (c *compiler) failSyntax(at *node, detail string, args ...any) {
	c.fail(bySyntax, at, c.wording().syntax, detail, args...)
}

func (c *compiler) wording() wording {
	if c.kind == Trust {
		return trustWording()
	}
	return identityWording()
}

// document compiles the whole document.
func (c *compiler) document(root *node) []statement {
	if root.typ != objectNode {
		c.failSyntax(root, "the document is not an object")
		return nil
	}
	for i := range root.members {
		name, value := &root.members[i].name, &root.members[i].value
		switch name.text {
		case "Version":
			c.version(value)
		case "Id":
			if value.typ != stringNode {
				c.failSyntax(value, "Id is not a string")
			}
		case "Statement":
		default:
			c.unknown(name)
		}
	}
	statement := root.member("Statement")
	if statement == nil {
		c.missing(root, "Statement", bySyntax, identityWording().syntax)
		return nil
	}
	return c.statements(statement)
}

func (c *compiler) version(n *node) {
	switch {
	case n.typ == stringNode && n.text == "2012-10-17":
		c.variables = true
	case n.typ == stringNode && n.text == "2008-10-17":
	default:
		c.failSyntax(n, "Version is neither 2012-10-17 nor 2008-10-17")
	}
}

// unknown notes an element that the kind of policy does not have.
func (c *compiler) unknown(name *node) {
	message := c.wording().syntax
	if c.kind == Trust {
		message = "Unknown field " + name.text
	}
	c.fail(bySyntax, name, message, "unknown element %q", name.text)
}

// missing notes an element that must be there. Trust policies have one text for all of them.
func (c *compiler) missing(at *node, element string, s severity, message string) {
	if c.kind == Trust {
		s, message = bySyntax, "Missing required field "+element
	}
	c.fail(s, at, message, "%s is missing", element)
}

func (c *compiler) statements(n *node) []statement {
	list := n.list()
	if len(list) == 0 {
		message := c.wording().syntax
		if c.kind == Trust {
			message = "Could not parse the policy: Statement is empty!"
		}
		c.fail(bySyntax, n, message, "there is no statement")
	}
	statements := make([]statement, len(list))
	sids := make(map[string]bool)
	for i := range list {
		statements[i] = c.statement(&list[i])
		statements[i].index = i
		sid := statements[i].sid
		if sid != "" && sids[sid] {
			c.fail(bySid, list[i].member("Sid"), c.wording().duplicateSid, "the Sid %s occurs twice", sid)
		}
		sids[sid] = true
	}
	return statements
}

func (c *compiler) statement(n *node) statement {
	s := statement{start: n.start, end: n.end}
	if n.typ != objectNode {
		c.failSyntax(n, "a statement is not an object")
		return s
	}
	c.alternatives(n, "Action", "NotAction")
	c.alternatives(n, "Resource", "NotResource")
	c.alternatives(n, "Principal", "NotPrincipal")
	c.effect(n, &s)
	for i := range n.members {
		name, value := &n.members[i].name, &n.members[i].value
		switch name.text {
		case "Effect":
		case "Sid":
			s.sid = c.sid(value)
		case "Principal", "NotPrincipal":
			s.principals = c.principals(name, value, s.deny)
		case "Action", "NotAction":
			s.actions = c.actions(value, name.text == "NotAction")
		case "Resource", "NotResource":
			s.resources = c.resources(name, value)
		case "Condition":
			s.conditions = c.conditions(value)
		default:
			c.unknown(name)
		}
	}
	if len(s.actions.list) == 0 {
		c.missing(n, "Action", byMissingActions, "Policy statement must contain actions.")
	}
	if c.kind != Trust && (s.resources == nil || len(s.resources.list) == 0) {
		c.fail(byMissingResources, n, "Policy statement must contain resources.", "Resource is missing")
	}
	if c.kind.takesPrincipals() && s.principals == nil {
		c.missing(n, "Principal", bySyntax, "Missing required field Principal")
	}
	return s
}

// alternatives notes two elements of which a statement may have only one.
func (c *compiler) alternatives(n *node, one, other string) {
	if second := n.member(other); second != nil && n.member(one) != nil {
		c.failSyntax(second, "a statement has both %s and %s", one, other)
	}
}

func (c *compiler) effect(n *node, s *statement) {
	effect := n.member("Effect")
	if effect == nil {
		c.missing(n, "Effect", bySyntax, identityWording().syntax)
		return
	}
	switch {
	case effect.typ == stringNode && effect.text == "Allow":
	case effect.typ == stringNode && effect.text == "Deny":
		s.deny = true
	case c.kind == Trust:
		c.fail(bySyntax, effect, "Invalid effect: "+effect.text, "Effect is neither Allow nor Deny")
	case strings.EqualFold(effect.text, "Allow") || strings.EqualFold(effect.text, "Deny"):
		c.fail(byLegacyParsing, effect, c.wording().value, "Effect is case-sensitive: Allow or Deny")
	default:
		c.failSyntax(effect, "Effect is neither Allow nor Deny")
	}
}

// sid compiles a statement's ID. Policies of resources may name statements freely, those of IAM may not.
func (c *compiler) sid(n *node) string {
	if n.typ != stringNode {
		c.failSyntax(n, "Sid is not a string")
		return ""
	}
	for _, b := range []byte(n.text) {
		if letter := b|0x20 >= 'a' && b|0x20 <= 'z'; !letter && !isDigit(b) && c.kind != Resource {
			c.fail(bySid, n, sidCharset, "the Sid %q has other characters than letters and digits", n.text)
			break
		}
	}
	return n.text
}

// strings returns the nodes of an element that is a string or a list of strings.
func (c *compiler) strings(n *node, element string) []node {
	list := n.list()
	for i := range list {
		if list[i].typ != stringNode {
			c.failSyntax(&list[i], "%s is neither a string nor a list of strings", element)
			return nil
		}
	}
	return list
}

func (c *compiler) actions(n *node, not bool) actionSet {
	set := actionSet{not: not}
	list := c.strings(n, "Action")
	for i := range list {
		set.list = append(set.list, c.action(&list[i]))
	}
	return set
}

func (c *compiler) action(n *node) actionPattern {
	if n.text == "*" && c.kind != Trust {
		return makeActionPattern("*", "*")
	}
	vendor, name, found := strings.Cut(n.text, ":")
	switch {
	case c.kind == Trust && (!strings.EqualFold(vendor, "sts") || name == "" || strings.Contains(name, ":")):
		c.fail(bySyntax, n, "AssumeRole policy may only specify STS AssumeRole actions.", "%q is not an action of STS", n.text)
	case !found || vendor == "":
		c.fail(byAction, n, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
			"the action %q is not of the form vendor:name", n.text)
	case strings.Contains(name, ":"):
		c.fail(byAction, n, "Actions/Condition can contain only one colon.", "the action %q has more", n.text)
	case name == "":
		c.failSyntax(n, "the action %q has no name", n.text)
	case !isVendorPattern(vendor):
		c.fail(byAction, n, fmt.Sprintf("Vendor %s is not valid", vendor), "the action %q names no service", n.text)
	}
	return makeActionPattern(vendor, name)
}

// isVendorPattern reports whether s could match the prefix of a service's actions.
func isVendorPattern(s string) bool {
	for _, b := range []byte(s) {
		letter := b|0x20 >= 'a' && b|0x20 <= 'z'
		if !letter && !isDigit(b) && !strings.ContainsRune("-.*?", rune(b)) {
			return false
		}
	}
	return true
}

func (c *compiler) resources(name, n *node) *resourceSet {
	if c.kind == Trust {
		message := "Has prohibited field Resource"
		if name.text == "NotResource" {
			message = "AssumeRole policy must not contain resources."
		}
		c.fail(bySyntax, name, message, "the resource of a trust policy is its role")
		return nil
	}
	set := &resourceSet{not: name.text == "NotResource"}
	list := c.strings(n, name.text)
	for i := range list {
		set.list = append(set.list, c.resource(&list[i]))
	}
	return set
}

// resource compiles the pattern of an ARN. IAM completes a pattern of fewer than six fields with wildcards, unless one
// of them is empty: then a colon was forgotten.
func (c *compiler) resource(n *node) (p resourcePattern) {
	text := n.text
	if text == "*" {
		p.all = true
		return p
	}
	fields, count := splitARN(text)
	for i := count; i < arnFields; i++ {
		fields[i] = "*"
	}
	switch {
	case count == 1:
		c.failResource(n, fmt.Sprintf(`Resource %s must be in ARN format or "*".`, text))
	case !isPartitionPattern(fields[arnPartition]):
		c.failResource(n, fmt.Sprintf("Partition %q is not valid for resource %q.", fields[arnPartition],
			"arn:"+strings.Join(fields[arnPartition:], ":")))
	case fields[arnPrefix] != "arn":
		c.failResource(n, fmt.Sprintf(`Resource %s must be in ARN format or "*".`, text))
	case count <= arnService || strings.ContainsAny(fields[arnService], "*?"):
		c.failResource(n, "Resource vendor must be fully qualified and cannot contain regexes.")
	case fields[arnService] == "" || count < arnFields && strings.Contains(text, "::") || fields[arnResource] == "":
		c.fail(byLegacyParsing, n, c.wording().value, "the resource %q is not of the form of an ARN", text)
	case c.variables && strings.Contains(strings.Join(fields[:arnResource], ":"), "${"):
		c.failSyntax(n, "the resource %q has a policy variable before its fifth colon", text)
	case fields[arnService] == "iam" && count > arnRegion && fields[arnRegion] != "":
		c.failResource(n, fmt.Sprintf("IAM resource %s cannot contain region information.", text))
	case fields[arnService] == "iam" && c.kind != Resource && !isIAMResourcePattern(fields[arnResource]):
		c.failResource(n, fmt.Sprintf(`IAM resource path must either be "*" or start with %s.`, iamResourceTypes))
	}
	for i := range p.fields {
		p.fields[i] = makePattern(fields[i])
	}
	resource, err := grammar{variables: c.variables, wildcards: true}.template(fields[arnResource])
	if err != nil {
		c.failSyntax(n, "the resource %q: %v", text, err)
	}
	p.resource = resource
	return p
}

func (c *compiler) failResource(n *node, message string) {
	c.fail(byResource, n, message, "the resource %q", n.text)
}

// isPartitionPattern reports whether s names a partition or has a wildcard that may match one.
func isPartitionPattern(s string) bool {
	if strings.ContainsAny(s, "*?") {
		return true
	}
	_, ok := arn.PartitionNamed(s)
	return ok
}

// isIAMResourcePattern reports whether s is the resource field of a pattern for things that IAM keeps.
func isIAMResourcePattern(s string) bool {
	if s == "*" {
		return true
	}
	for typ := range strings.SplitSeq(iamResourceTypes, ", ") {
		if strings.HasPrefix(s, typ) {
			return true
		}
	}
	return false
}

func (c *compiler) principals(name, n *node, deny bool) *principalSet {
	set := &principalSet{not: name.text == "NotPrincipal"}
	switch {
	case !c.kind.takesPrincipals():
		c.fail(bySyntax, name, "Policy document should not specify a principal.", "its principal is what it is attached to")
		return set
	case set.not && c.kind == Trust:
		c.fail(bySyntax, name, "AssumeRole policy must not contain NotPrincipal field.", "NotPrincipal")
		return set
	case set.not && !deny:
		c.fail(bySyntax, name, "Allow with NotPrincipal is not allowed.", "it would allow everybody else")
		return set
	case n.typ == stringNode && n.text == "*" && c.kind == Trust:
		c.fail(bySyntax, n, `AssumeRolepolicy contained an invalid principal: "STAR":"*".`, `write {"AWS":"*"} for everybody`)
		return set
	case n.typ == stringNode && n.text == "*":
		set.list = []principalName{{typ: anyone}}
	case n.typ != objectNode:
		c.failSyntax(n, `the principal is neither an object nor "*"`)
		return set
	}
	for i := range n.members {
		typ, value := n.members[i].name, &n.members[i].value
		list := c.strings(value, "Principal")
		for j := range list {
			set.list = append(set.list, c.principal(&typ, &list[j], deny))
		}
	}
	if len(set.list) == 0 {
		c.fail(bySyntax, n, "Missing required field Principal cannot be empty!", "the principal is empty")
	}
	for i := range set.list {
		if c.kind == ResourceControl && (set.not || set.list[i].typ != anyone) {
			c.fail(bySyntax, n, organizationText, `the principal of a resource control policy must be "*"`)
		}
	}
	return set
}

func (c *compiler) principal(typ, n *node, deny bool) principalName {
	var name principalName
	var ok bool
	switch typ.text {
	case "AWS":
		switch {
		case n.text == "*" && c.kind == Trust && !deny:
			return principalName{typ: anyOfAccount}
		case n.text == "*":
			return principalName{typ: anyone}
		}
		name, ok = parseAWSPrincipal(n.text)
	case "Service":
		name, ok = principalName{byService, n.text}, isDomainName(n.text)
	case "Federated":
		if name, ok = parseProvider(n.text); !ok {
			c.fail(bySyntax, n, "Federated principals must be valid domain names or SAML metadata ARNs", "the principal %q", n.text)
			return name
		}
	}
	if !ok {
		c.fail(bySyntax, n, fmt.Sprintf(`Invalid principal in policy: "%s":"%s"`, strings.ToUpper(typ.text), n.text),
			"the principal %q of the type %s", n.text, typ.text)
	}
	return name
}

func (c *compiler) conditions(n *node) (list []condition) {
	if n.typ != objectNode {
		c.failSyntax(n, "Condition is not an object")
		return nil
	}
	for i := range n.members {
		name, block := &n.members[i].name, &n.members[i].value
		o, err := parseOperator(name.text)
		if err != nil {
			c.failSyntax(name, "%v", err)
			continue
		}
		if block.typ != objectNode {
			c.failSyntax(block, "the condition %s is not an object", name.text)
			continue
		}
		for j := range block.members {
			key, values := &block.members[j].name, &block.members[j].value
			if key.text == "" {
				c.failSyntax(key, "a condition key has no name")
			}
			list = append(list, c.condition(name.text, o, key.text, values))
		}
	}
	return list
}

func (c *compiler) condition(name string, o operator, key string, n *node) condition {
	result := condition{
		operator: name, key: key, folded: foldKey(key),
		quantifier: o.quantifier, ifExists: o.ifExists, negated: o.negated,
	}
	if o.null {
		result.null = &nullTest{}
	}
	values := n.list()
	if len(values) == 0 {
		c.failSyntax(n, "the condition %s on %s has no values", name, key)
	}
	for i := range values {
		value := &values[i]
		if value.typ != stringNode && value.typ != numberNode && value.typ != booleanNode {
			c.failSyntax(value, "a value of the condition %s on %s is not a string, number or boolean", name, key)
			continue
		}
		if o.null {
			absent, ok := parseBool(value.text)
			result.null.absent = result.null.absent || absent
			result.null.present = result.null.present || !absent
			if !ok {
				c.failValue(value, name, key, fmt.Errorf("%q is neither true nor false", value.text))
			}
			continue
		}
		operand, err := o.operand(value.text, c.variables)
		if err != nil {
			c.failValue(value, name, key, err)
			continue
		}
		result.operands = append(result.operands, operand)
	}
	return result
}

// failValue notes a condition's value that its operator cannot compare with.
func (c *compiler) failValue(n *node, name, key string, err error) {
	c.fail(byLegacyParsing, n, c.wording().value, "the condition %s on %s: %v", name, key, err)
}

func identityWording() wording {
	return wording{
		syntax:       "Syntax errors in policy.",
		value:        "The policy failed legacy parsing",
		duplicateSid: "Statement IDs (SID) in a single policy must be unique.",
	}
}

func trustWording() wording {
	return wording{
		syntax:       "Syntax error in policy.",
		value:        "Syntax error in policy.",
		duplicateSid: "The Statement Ids in the policy are not unique",
	}
}
