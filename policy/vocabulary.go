package policy

import "strings"

// A globalKey is one of the condition keys that begin with aws: (IAM User Guide, "AWS global condition context keys").
type globalKey struct {
	name   string
	always bool // in every request
	multi  bool // may have several values
}

// globalKeys lists them all; a name that ends in a slash takes the key of a tag behind it.
func globalKeys() []globalKey {
	return []globalKey{
		{name: "aws:AssumedRoot"},
		{name: "aws:CalledVia", multi: true},
		{name: "aws:CalledViaAWSMCP"},
		{name: "aws:CalledViaFirst"},
		{name: "aws:CalledViaLast"},
		{name: "aws:ChatbotSourceArn"},
		{name: "aws:CurrentTime", always: true},
		{name: "aws:Ec2InstanceSourcePrivateIPv4"},
		{name: "aws:Ec2InstanceSourceVpc"},
		{name: "aws:EpochTime", always: true},
		{name: "aws:FederatedProvider"},
		{name: "aws:IsMcpServiceAction"},
		{name: "aws:MultiFactorAuthAge"},
		{name: "aws:MultiFactorAuthPresent"},
		{name: "aws:PrincipalAccount"},
		{name: "aws:PrincipalArn"},
		{name: "aws:PrincipalIsAWSService"},
		{name: "aws:PrincipalOrgID"},
		{name: "aws:PrincipalOrgPaths", multi: true},
		{name: "aws:PrincipalServiceName"},
		{name: "aws:PrincipalServiceNamesList", multi: true},
		{name: "aws:PrincipalTag/"},
		{name: "aws:PrincipalType"},
		{name: "aws:Referer"},
		{name: "aws:RequestedRegion", always: true},
		{name: "aws:RequestTag/"},
		{name: "aws:ResourceAccount"},
		{name: "aws:ResourceOrgID"},
		{name: "aws:ResourceOrgPaths", multi: true},
		{name: "aws:ResourceTag/"},
		{name: "aws:SecureTransport", always: true},
		{name: "aws:SignInSessionArn"},
		{name: "aws:SourceAccount"},
		{name: "aws:SourceArn"},
		{name: "aws:SourceIdentity"},
		{name: "aws:SourceIp"},
		{name: "aws:SourceOrgID"},
		{name: "aws:SourceOrgPaths", multi: true},
		{name: "aws:SourceOwner"},
		{name: "aws:SourceVpc"},
		{name: "aws:SourceVpcArn"},
		{name: "aws:SourceVpce"},
		{name: "aws:TagKeys", multi: true},
		{name: "aws:TokenIssueTime"},
		{name: "aws:UserAgent"},
		{name: "aws:userid"},
		{name: "aws:username"},
		{name: "aws:ViaAWSMCPService"},
		{name: "aws:ViaAWSService", always: true},
		{name: "aws:VpceAccount"},
		{name: "aws:VpceOrgID"},
		{name: "aws:VpceOrgPaths", multi: true},
		{name: "aws:VpcSourceIp"},
	}
}

// findGlobalKey looks up a folded name.
func findGlobalKey(folded string) (globalKey, bool) {
	for _, k := range globalKeys() {
		name := foldKey(k.name)
		if folded == name || strings.HasSuffix(name, "/") && strings.HasPrefix(folded, name) && folded != name {
			return k, true
		}
	}
	return globalKey{}, false
}

// A keyScope says which requests have condition keys of a service; all of it in lower case. What the table does not
// list may be in any request. Sources: the Service Authorization Reference's pages for the services.
type keyScope struct {
	key     string   // or, with a slash or colon at its end, the beginning of keys
	vendors string   // pattern of the prefixes of the actions whose requests may have it
	actions []string // patterns of the actions' names; nil for all
}

// keyScopes is searched from its beginning, so a key comes before the beginning of its name.
func keyScopes() []keyScope {
	prefix := []string{"listbucket", "listbucketversions", "listbucketmultipartuploads"}
	assume := []string{"assumerole*", "tagsession", "setsourceidentity", "setcontext"}
	return []keyScope{
		// Keys that the session's credentials bring to all services.
		{"ec2:roledelivery", "*", nil},
		{"ec2:sourceinstancearn", "*", nil},
		{"ec2:resourcetag/", "*", nil},

		// AssumeRoleWithWebIdentity and AssumeRoleWithSAML take no external ID; a role that is assumed with tags is tested with
		// the same keys for TagSession.
		{"sts:externalid", "sts", []string{"assumerole", "tagsession", "setsourceidentity", "setcontext"}},
		{"sts:rolesessionname", "sts", assume},
		{"sts:sourceidentity", "sts", assume},
		{"sts:transitivetagkeys", "sts", assume},
		{"sts:", "sts", nil},

		{"iam:passedtoservice", "iam", []string{"passrole"}},
		{"iam:associatedresourcearn", "iam", []string{"passrole"}},
		{"iam:awsservicename", "iam", []string{"*servicelinkedrole*"}},
		{"iam:policyarn", "iam", []string{"attach*policy", "detach*policy"}},
		{"iam:resourcetag/", "*", nil}, // AssumeRole has it too
		{"iam:", "iam", nil},

		{"s3:prefix", "s3*", prefix},
		{"s3:delimiter", "s3*", prefix},
		{"s3:max-keys", "s3*", prefix},
		{"s3:", "s3*", nil},

		{"eks:", "eks*", nil},
		{"eks-auth:", "eks*", nil},
		{"ec2:", "ec2*", nil},
	}
}

// findKeyScope looks up a folded name.
func findKeyScope(folded string) (keyScope, bool) {
	for _, s := range keyScopes() {
		last := s.key[len(s.key)-1]
		if folded == s.key || (last == ':' || last == '/') && strings.HasPrefix(folded, s.key) {
			return s, true
		}
	}
	return keyScope{}, false
}

// has reports whether the requests of some action that fits the pattern may have the keys. It says yes when in doubt.
func (s *keyScope) has(p actionPattern) bool {
	return mayOverlap(p.vendor, s.vendors) && (s.actions == nil || mayOverlapAny(p.name, s.actions))
}

// mayOverlapAny reports whether something may fit both the pattern and one of the others.
func mayOverlapAny(p pattern, others []string) bool {
	for _, other := range others {
		if mayOverlap(p, other) {
			return true
		}
	}
	return false
}

// mayOverlap reports whether something may fit both patterns. Of two with wildcards it only looks at what stands before
// the first wildcard of each, and says yes when in doubt.
func mayOverlap(p pattern, other string) bool {
	o := makePattern(other)
	switch {
	case o.wildcard() < 0:
		return p.matches(other)
	case p.wildcard() < 0:
		return o.matches(string(p))
	}
	n := min(p.wildcard(), o.wildcard())
	return string(p[:n]) == string(o[:n])
}

// wildcard returns the place of the first wildcard, or -1.
func (p pattern) wildcard() int {
	for i, b := range p {
		if b == anyRun || b == anyOne {
			return i
		}
	}
	return -1
}

// actionResources lists, for services whose actions are about resources of their own kind only, the service field of
// those ARNs. Of sts, the resources of AssumeRole are roles of IAM.
func actionResources(vendor string) []string {
	switch vendor {
	case "sts":
		return []string{"sts", "iam"}
	case "s3", "sqs", "sns", "iam", "kms", "lambda", "dynamodb", "secretsmanager", "eks":
		return []string{vendor}
	}
	return nil
}

// A s3Level says what an action of S3 is about.
type s3Level int

const (
	s3Unknown s3Level = iota
	s3Bucket
	s3Object
)

// s3ActionLevel takes an action's name in lower case. It knows the usual ones.
func s3ActionLevel(name string) s3Level {
	switch name {
	case "abortmultipartupload", "deleteobject", "deleteobjecttagging", "deleteobjectversion", "deleteobjectversiontagging",
		"getobject", "getobjectacl", "getobjectattributes", "getobjectlegalhold", "getobjectretention", "getobjecttagging",
		"getobjectversion", "getobjectversionacl", "getobjectversiontagging", "listmultipartuploadparts", "putobject",
		"putobjectacl", "putobjectlegalhold", "putobjectretention", "putobjecttagging", "putobjectversionacl",
		"putobjectversiontagging", "restoreobject":
		return s3Object
	case "createbucket", "deletebucket", "deletebucketpolicy", "getbucketacl", "getbucketcors", "getbucketlocation", "getbucketlogging",
		"getbucketnotification", "getbucketpolicy", "getbuckettagging", "getbucketversioning", "getencryptionconfiguration",
		"getlifecycleconfiguration", "listbucket", "listbucketmultipartuploads", "listbucketversions", "putbucketacl", "putbucketcors",
		"putbucketpolicy", "putbuckettagging", "putbucketversioning", "putencryptionconfiguration", "putlifecycleconfiguration":
		return s3Bucket
	}
	return s3Unknown
}

// boundsCaller reports whether a condition key, in folded form, says who makes a request or for whom, so that a statement
// for everybody that requires certain values of it is not for everybody. The tags of a principal are not among them: any
// account may give its own principals any tag.
func boundsCaller(folded string) bool {
	switch folded {
	case "aws:principalaccount", "aws:principalarn", "aws:principalorgid", "aws:principalorgpaths", "aws:userid", "aws:principalservicename",
		"aws:principalservicenameslist", "aws:principalisawsservice", "aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid",
		"aws:sourceorgpaths", "aws:sourceowner", "aws:sourceip", "aws:vpcsourceip", "aws:sourcevpc", "aws:sourcevpcarn", "aws:sourcevpce",
		"aws:vpceaccount", "aws:vpceorgid", "aws:vpceorgpaths", "aws:federatedprovider", "aws:ec2instancesourcevpc", "kms:calleraccount",
		"lambda:sourcefunctionarn", "ec2:sourceinstancearn", "s3:dataaccesspointaccount", externalIDKey:
		return true
	}
	return false
}

const externalIDKey = "sts:externalid"

// narrowsAccount reports whether a condition key, in folded form, says who of an account is meant.
func narrowsAccount(folded string) bool {
	switch folded {
	case externalIDKey, "aws:principalarn", "aws:userid", "aws:username", "aws:principaltype", "aws:multifactorauthpresent",
		"aws:multifactorauthage", "aws:sourceidentity", "sts:sourceidentity", "sts:rolesessionname":
		return true
	}
	return strings.HasPrefix(folded, "aws:principaltag/")
}

// boundsCluster reports whether a condition key, in folded form, says for which cluster or pods EKS assumes a role.
func boundsCluster(folded string) bool {
	switch folded {
	case "aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths", "aws:requesttag/eks-cluster-arn",
		"aws:requesttag/eks-cluster-name", "aws:requesttag/kubernetes-namespace", "aws:requesttag/kubernetes-service-account":
		return true
	}
	return false
}

// ownersVariable reports whether a policy variable, by its folded key, is of the resource's owner. A value that is made of
// anything else may be the caller's choice.
func ownersVariable(folded string) bool {
	switch folded {
	case "aws:resourceaccount", "aws:resourceorgid", "aws:resourceorgpaths":
		return true
	}
	return false
}

// needsTenant reports whether an issuer, by the host of its URL in lower case, serves the public, so that what stands before
// the first slash of a subject does not tell whose it is.
func needsTenant(host string) bool {
	switch host {
	case "token.actions.githubusercontent.com", "gitlab.com":
		return true
	}
	return false
}
