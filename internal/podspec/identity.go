package podspec

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// AnnotationPrefix is what AWS's annotations on pods and service accounts begin with.
const AnnotationPrefix = "eks.amazonaws.com"

// The annotations of AWS's webhook, below the prefix.
const (
	roleAnnotation           = "role-arn"               // on service accounts
	audienceAnnotation       = "audience"               // on service accounts
	regionalSTSAnnotation    = "sts-regional-endpoints" // on service accounts
	expirationAnnotation     = "token-expiration"       // on service accounts and pods
	skipContainersAnnotation = "skip-containers"        // on pods
)

// Settings are what all the pods of a cluster have in common. The zero Settings are those of AWS's webhook without flags.
type Settings struct {
	AnnotationPrefix string // AnnotationPrefix when empty
	// WebIdentity and PodIdentity say where the tokens go; members that are empty are the way's own.
	WebIdentity, PodIdentity Projection
	TokenExpiration          int64  // seconds; TokenExpiration when zero
	RegionalSTS              bool   // unless a service account says otherwise
	Region                   string // none is set when empty
	AgentURI                 string // AgentURI when empty
	// Compose completes roles that are annotated without "arn:", as with the webhook's --compose-role-arn; nil does not.
	Compose *Account
	// Endpoint is Lanyard's URL where it is the issuer of the credentials, and CA has the certificates to trust then. Both
	// are empty where AWS is the issuer.
	Endpoint string
	CA       ConfigMapKey
}

// Account is where a role is that is named without its account.
type Account struct{ Partition, ID string }

// ConfigMapKey is a key of a ConfigMap in each pod's namespace.
type ConfigMapKey struct{ Name, Key string }

// Identity is what the pods of one service account get.
type Identity struct {
	Way         Way
	RoleARN     string // WebIdentity: the role
	Audience    string // of the token
	Expiration  int64  // of the token, in seconds, unless the pod says otherwise
	RegionalSTS bool
	// Jitter is taken off the expiration if that is TokenExpiration, for PodIdentity: up to MaxJitter, drawn for each pod.
	Jitter int64
}

// Projection returns the token that a way's pods are given, and where it goes.
func (s Settings) Projection(w Way) Projection {
	p, set := w.Projection(), s.PodIdentity
	if w == WebIdentity {
		set = s.WebIdentity
	}
	for _, f := range []struct{ into, from *string }{
		{&p.Volume, &set.Volume}, {&p.MountPath, &set.MountPath}, {&p.File, &set.File}, {&p.Audience, &set.Audience},
	} {
		if *f.from != "" {
			*f.into = *f.from
		}
	}
	return p
}

func (s Settings) annotation(name string) string {
	prefix := s.AnnotationPrefix
	if prefix == "" {
		prefix = AnnotationPrefix
	}
	return prefix + "/" + name
}

// RoleAnnotation returns the name of the annotation by which a service account names its role.
func (s Settings) RoleAnnotation() string { return s.annotation(roleAnnotation) }

// SkipAnnotation returns the name of the annotation by which a pod keeps the webhook from containers.
func (s Settings) SkipAnnotation() string { return s.annotation(skipContainersAnnotation) }

// Role returns the role that a service account is annotated with, whatever it is; empty without one.
func (s Settings) Role(annotations map[string]string) string {
	return annotations[s.annotation(roleAnnotation)]
}

// roleARN is what AWS's webhook takes for a role's ARN.
var roleARN = regexp.MustCompile(`^arn:aws[a-z0-9-]*:iam::[0-9]{12}:role/[\w\-/.@+=,]+$`)

// Identity returns what the pods of a service account with these annotations get by a way. The error says that the role of
// WebIdentity is missing or no role's ARN.
func (s Settings) Identity(w Way, annotations map[string]string) (Identity, error) {
	id := Identity{Way: w, Audience: s.Projection(w).Audience, Expiration: s.TokenExpiration, RegionalSTS: s.RegionalSTS}
	if id.Expiration == 0 {
		id.Expiration = TokenExpiration
	}
	if n, ok := readExpiration(annotations[s.annotation(expirationAnnotation)]); ok {
		id.Expiration = n
	}
	if regional, err := strconv.ParseBool(annotations[s.annotation(regionalSTSAnnotation)]); err == nil {
		id.RegionalSTS = regional
	}
	if w != WebIdentity {
		return id, nil
	}
	if audience := annotations[s.annotation(audienceAnnotation)]; audience != "" {
		id.Audience = audience
	}
	id.RoleARN = s.Role(annotations)
	if s.Compose != nil && id.RoleARN != "" && !strings.HasPrefix(id.RoleARN, "arn:") {
		id.RoleARN = fmt.Sprintf("arn:%s:iam::%s:role/%s", s.Compose.Partition, s.Compose.ID, strings.TrimPrefix(id.RoleARN, "/"))
	}
	if !roleARN.MatchString(id.RoleARN) {
		return id, fmt.Errorf("annotation %s is no role's ARN: %q", s.annotation(roleAnnotation), cut(id.RoleARN))
	}
	return id, nil
}

// cut shortens a text of any length for a message.
func cut(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// readExpiration reads an annotation. What is not a number does not count, and what Kubernetes would refuse is brought to the
// nearest that it takes.
func readExpiration(text string) (seconds int64, ok bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, false
	}
	return ClampExpiration(n), true
}

// ClampExpiration brings a token's life, in seconds, to the nearest that Kubernetes takes.
func ClampExpiration(seconds int64) int64 {
	return min(max(seconds, MinTokenExpiration), MaxTokenExpiration)
}

// file returns the path of a file in a container; Windows has its own way to write it.
func file(mountPath, name string, windows bool) string {
	p := path.Join(mountPath, name)
	if windows {
		return "C:" + strings.ReplaceAll(p, "/", `\`)
	}
	return p
}
