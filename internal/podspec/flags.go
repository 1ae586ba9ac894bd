package podspec

import "flag"

// Flags defines the flags by which a webhook is told its Settings, with their defaults: AWS's own names, and those that lead to
// Lanyard. That for Compose is not among them, since it takes more than one.
func (s *Settings) Flags(flags *flag.FlagSet) {
	flags.StringVar(&s.AnnotationPrefix, "annotation-prefix", AnnotationPrefix, "`prefix` of the annotations")
	irsa, pods := WebIdentity.Projection(), PodIdentity.Projection()
	flags.StringVar(&s.WebIdentity.Audience, "token-audience", irsa.Audience, "`audience` of IRSA's tokens, unless a service account says otherwise")
	flags.StringVar(&s.WebIdentity.MountPath, "token-mount-path", irsa.MountPath, "`path` to mount IRSA's tokens at")
	flags.Int64Var(&s.TokenExpiration, "token-expiration", TokenExpiration, "`seconds` that tokens are valid, unless a service account or a pod says otherwise")
	flags.StringVar(&s.Region, "aws-default-region", "", "`region` to set in containers")
	flags.BoolVar(&s.RegionalSTS, "sts-regional-endpoint", false, "set AWS_STS_REGIONAL_ENDPOINTS=regional in containers")
	flags.StringVar(&s.PodIdentity.Audience, "container-credentials-audience", pods.Audience, "`audience` of Pod Identity's tokens")
	flags.StringVar(&s.PodIdentity.MountPath, "container-credentials-token-mount-path", pods.MountPath, "`path` to mount Pod Identity's tokens at")
	flags.StringVar(&s.PodIdentity.Volume, "container-credentials-token-volume-name", pods.Volume, "`name` of the volume of Pod Identity's tokens")
	flags.StringVar(&s.PodIdentity.File, "container-credentials-token-path", pods.File, "`file` of Pod Identity's tokens below their mount path")
	flags.StringVar(&s.AgentURI, "container-credentials-full-uri", AgentURI, "`URL` of the agent, as containers see it")
	flags.StringVar(&s.Endpoint, "pod-endpoint-url", "", "`URL` of Lanyard, as containers see it, where it is the issuer of credentials")
	flags.StringVar(&s.CA.Name, "pod-ca-config-map", "", "`name` of a ConfigMap in each pod's namespace that has the certificates to trust then")
	flags.StringVar(&s.CA.Key, "pod-ca-key", "ca.pem", "`key` of the certificates in it")
}
