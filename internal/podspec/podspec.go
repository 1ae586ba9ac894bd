// Package podspec says what a pod gets so that the SDKs in it find its credentials: which token is projected to where,
// and which variables are set, in the names and the order of AWS's own webhook (amazon-eks-pod-identity-webhook). It
// is plain data, for everything that makes a pod or stands in for one, and the patch that makes a pod so.
package podspec

import "path"

// Way is one of the two ways in which a pod gets credentials.
type Way int

// The ways.
const (
	WebIdentity Way = iota + 1 // IRSA: the SDK trades the token at STS
	PodIdentity                // EKS Pod Identity: the SDK asks the agent on its node
)

// String returns the way's name as the CLI has it.
func (w Way) String() string {
	switch w {
	case WebIdentity:
		return "irsa"
	case PodIdentity:
		return "pod-identity"
	}
	return "no way"
}

// Projection is the service account token that is projected into a pod.
type Projection struct {
	Volume    string // name of the volume
	MountPath string
	File      string // below MountPath
	Audience  string
}

// TokenExpiration is how long projected tokens are valid unless an annotation says otherwise, in seconds; MinTokenExpiration
// and MaxTokenExpiration are the least and the most that Kubernetes takes. MaxJitter is the most that is taken off the former
// for Pod Identity, so that the tokens of pods that came together are not renewed together.
const (
	TokenExpiration    = 86400
	MinTokenExpiration = 600
	MaxTokenExpiration = 1 << 32
	MaxJitter          = 7200
)

// AgentURI is where the agent on each node serves credentials.
const AgentURI = "http://169.254.170.23/v1/credentials"

// Projection returns the token that the way needs.
func (w Way) Projection() Projection {
	switch w {
	case WebIdentity:
		return Projection{
			Volume:    "aws-iam-token",
			MountPath: "/var/run/secrets/eks.amazonaws.com/serviceaccount",
			File:      "token",
			Audience:  "sts.amazonaws.com",
		}
	case PodIdentity:
		return Projection{
			Volume:    "eks-pod-identity-token",
			MountPath: "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount",
			File:      "eks-pod-identity-token",
			Audience:  "pods.eks.amazonaws.com",
		}
	}
	return Projection{}
}

// EnvVar is an environment variable.
type EnvVar struct{ Name, Value string }

// Options are what the variables depend on.
type Options struct {
	TokenFile string // the projected token's path; below the way's mount path when empty
	RoleARN   string // WebIdentity: the role
	AgentURI  string // PodIdentity: where the agent is; AgentURI when empty
	// Region sets AWS_DEFAULT_REGION and AWS_REGION; empty leaves them out.
	Region string
	// RegionalSTS sets AWS_STS_REGIONAL_ENDPOINTS, for SDKs that would ask the global endpoint.
	RegionalSTS bool
	// Endpoint is Lanyard's URL where it is the issuer of the credentials; empty where AWS is.
	Endpoint string
	// CABundle is the path of the certificates to trust: the system's and Lanyard's; empty leaves the variables out.
	CABundle string
}

// Env returns the variables of a pod: those of AWS's webhook in its order, then those that lead to Lanyard.
func Env(w Way, o Options) []EnvVar {
	var env []EnvVar
	set := func(name, value string) { env = append(env, EnvVar{name, value}) }
	if o.RegionalSTS {
		set("AWS_STS_REGIONAL_ENDPOINTS", "regional")
	}
	if o.Region != "" {
		set("AWS_DEFAULT_REGION", o.Region)
		set("AWS_REGION", o.Region)
	}
	tokenFile := o.TokenFile
	if tokenFile == "" {
		p := w.Projection()
		tokenFile = path.Join(p.MountPath, p.File)
	}
	switch w {
	case WebIdentity:
		set("AWS_ROLE_ARN", o.RoleARN)
		set("AWS_WEB_IDENTITY_TOKEN_FILE", tokenFile)
	case PodIdentity:
		uri := o.AgentURI
		if uri == "" {
			uri = AgentURI
		}
		set("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
		set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", tokenFile)
	}
	if o.Endpoint != "" {
		// Both, because aws-sdk-go-v2 makes its STS client for web identities before it reads the general one.
		set("AWS_ENDPOINT_URL", o.Endpoint)
		set("AWS_ENDPOINT_URL_STS", o.Endpoint)
	}
	if o.CABundle != "" {
		set("AWS_CA_BUNDLE", o.CABundle)
		set("SSL_CERT_FILE", o.CABundle)
		set("REQUESTS_CA_BUNDLE", o.CABundle)
		set("NODE_EXTRA_CA_CERTS", o.CABundle)
	}
	return env
}
