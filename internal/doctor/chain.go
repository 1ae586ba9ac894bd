package doctor

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// setting is a variable of a container: where it comes from, and its value as far as the pod's specification has it. Values of secrets
// and config maps are never known.
type setting struct {
	value string
	known bool
	from  string // empty for the specification itself
}

// environment returns a container's variables. Where some could not be read, why says so.
func (f *Facts) environment(c corev1.Container) (env map[string]setting, why []string) {
	env = map[string]setting{}
	for _, e := range c.EnvFrom {
		kind, name, optional := "", "", false
		switch {
		case e.SecretRef != nil:
			kind, name, optional = "secret", e.SecretRef.Name, value(e.SecretRef.Optional)
		case e.ConfigMapRef != nil:
			kind, name, optional = "configmap", e.ConfigMapRef.Name, value(e.ConfigMapRef.Optional)
		default:
			continue
		}
		source := f.Sources[kind+"/"+name]
		switch {
		case source.Value != nil:
			for _, key := range *source.Value {
				env[e.Prefix+key] = setting{from: kind + " " + name}
			}
		case source.Absent && !optional:
			why = append(why, fmt.Sprintf("%s %s is not there", kind, name))
		case source.Absent:
		default:
			why = append(why, fmt.Sprintf("%s %s: %s", kind, name, source.Why))
		}
	}
	for _, v := range c.Env {
		s := setting{value: v.Value, known: !strings.Contains(v.Value, "$(")} // such a reference the kubelet resolves
		if from := v.ValueFrom; from != nil {
			s = setting{from: "the pod's fields"}
			switch {
			case from.SecretKeyRef != nil:
				s.from = "secret " + from.SecretKeyRef.Name
			case from.ConfigMapKeyRef != nil:
				s.from = "configmap " + from.ConfigMapKeyRef.Name
			}
		}
		if s.known && s.value == "" {
			delete(env, v.Name) // SDKs take an empty variable for none
			continue
		}
		env[v.Name] = s
	}
	return env, why
}

// first returns the first of the names that is set; empty for none.
func first(env map[string]setting, names ...string) string {
	for _, n := range names {
		if _, set := env[n]; set {
			return n
		}
	}
	return ""
}

// origin says where a variable comes from.
func (s setting) origin() string {
	if s.from == "" {
		return "the pod's specification"
	}
	return s.from
}

// checkChain finds out which credentials the SDKs take in each container. All look at keys in the environment first, then most at web
// identity, then at shared files, then at containers' credentials, and at the node's at last.
func checkChain(f *Facts) Result {
	var doubts, unread, without []string
	fix := ""
	skipped := f.skippedContainers()
	doubt := func(mend, format string, args ...any) {
		doubts = append(doubts, fmt.Sprintf(format, args...))
		if fix == "" {
			fix = mend
		}
	}
	for _, c := range f.containers() {
		if slices.Contains(skipped, c.Name) {
			continue
		}
		env, why := f.environment(c)
		for _, w := range why {
			unread = append(unread, fmt.Sprintf("of container %s, %s", c.Name, w))
		}
		if name := first(env, "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"); name != "" {
			return broken(fmt.Sprintf("Take AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN out of container %s (they come "+
				"from %s), and make the pod again.", c.Name, env[name].origin()),
				"Container %s has %s, from %s: all SDKs take such keys before anything else, so that it does not use its role.", c.Name, name,
				env[name].origin())
		}
		// It is the token's file that SDKs go by: a role's ARN alone, which programs have for purposes of their own, they pass over.
		if name := first(env, "AWS_WEB_IDENTITY_TOKEN_FILE"); f.way() == podspec.PodIdentity && name != "" {
			return broken(fmt.Sprintf("Take AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE out of container %s (they come from %s), and make "+
				"the pod again.", c.Name, env[name].origin()),
				"Container %s has %s beside Pod Identity, from %s: web identity goes before containers' credentials in the SDKs for Go, "+
					"Python, Java and JavaScript.",
				c.Name, name, env[name].origin())
		}
		if has, lacks := f.half(env); has != "" {
			return broken(fmt.Sprintf("Take %s out of container %s (it comes from %s), so that the webhook sets both, and make the pod again.", has, c.Name, env[has].origin()),
				"Container %s has %s of its own and no %s: a webhook gives neither where there is one of them, and SDKs need both for %s.",
				c.Name, has, lacks, wayName(f.way()))
		}
		if !f.hasVariables(env) {
			without = append(without, fmt.Sprintf("container %s %s", c.Name, otherwise(env)))
		}
		if name := first(env, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); name != "" && f.way() == podspec.PodIdentity {
			return broken(fmt.Sprintf("Take %s out of container %s, and make the pod again.", name, c.Name),
				"Container %s has %s, which most SDKs take before %s: they ask an agent of ECS.", c.Name, name, agentVariable)
		}
		if name := first(env, "AWS_CONTAINER_AUTHORIZATION_TOKEN"); name != "" && f.way() == podspec.PodIdentity {
			doubt(fmt.Sprintf("Take %s out of container %s.", name, c.Name),
				"container %s has %s, which the SDK for Java takes before the token's file", c.Name, name)
		}
		if name := first(env, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"); name != "" {
			before := "the SDKs for Python and JavaScript may take what it leads to before the role, and those for Go and Java not"
			if f.way() == podspec.PodIdentity {
				before = "all SDKs take credentials that it leads to before the agent's"
			}
			doubt(fmt.Sprintf("Take %s out of container %s unless its profile has no credentials.", name, c.Name),
				"container %s has %s, from %s: %s", c.Name, name, env[name].origin(), before)
		}
		for _, m := range c.VolumeMounts {
			if strings.HasSuffix(strings.TrimSuffix(m.MountPath, "/"), "/.aws") || strings.Contains(m.MountPath, "/.aws/") {
				doubt(fmt.Sprintf("Take the mount of volume %s out of container %s unless it holds no credentials.", m.Name, c.Name),
					"container %s has volume %s at %s, where SDKs look for profiles with credentials", c.Name, m.Name, m.MountPath)
			}
		}
	}
	switch {
	case len(unread) > 0:
		return unknown(f.sourceGrant(), "It cannot be told whether there are keys in the environment: %s.", strings.Join(unread, "; "))
	case len(without) > 0:
		return broken(recreate(f), "Nothing leads the SDKs to %s: %s.", wayName(f.way()), strings.Join(without, "; "))
	case len(doubts) > 0:
		return warn(fix, "%s.", capital(strings.Join(doubts, "; ")))
	}
	r := ok("Nothing in the containers goes before the credentials of %s.", wayName(f.way()))
	for _, c := range f.containers() {
		env, why := f.environment(c)
		if slices.Contains(skipped, c.Name) && len(why) == 0 && !f.hasVariables(env) && first(env, "AWS_ACCESS_KEY_ID") == "" {
			r = r.note("%s container %s alone, which %s.", f.leaver(), c.Name, otherwise(env))
		} else if env["AWS_EC2_METADATA_DISABLED"].value == "true" {
			r = r.note("Container %s has AWS_EC2_METADATA_DISABLED, which only keeps SDKs from the node's role.", c.Name)
		}
	}
	return r
}

// leaver is who leaves containers without the pod's identity.
func (f *Facts) leaver() string {
	if f.selfMade() {
		return "The pod's own specification leaves"
	}
	return "The webhook leaves"
}

// hasVariables reports whether a container has either variable of the way, by whomever.
func (f *Facts) hasVariables(env map[string]setting) bool {
	names := podspec.Env(f.way(), podspec.Options{})
	return first(env, names[0].Name, names[1].Name) != ""
}

// half returns which of the way's two variables a container has if it has one alone, and the other one; empty otherwise.
func (f *Facts) half(env map[string]setting) (has, lacks string) {
	names := podspec.Env(f.way(), podspec.Options{})
	a, b := names[0].Name, names[1].Name
	switch {
	case first(env, a) != "" && first(env, b, "AWS_CONTAINER_AUTHORIZATION_TOKEN") == "":
		return a, b
	case first(env, a) == "" && first(env, b) != "":
		return b, a
	}
	return "", ""
}

// otherwise says what SDKs do in a container that leads them to no credentials of the pod's.
func otherwise(env map[string]setting) string {
	if env["AWS_EC2_METADATA_DISABLED"].value == "true" {
		return "has no credentials at all, since AWS_EC2_METADATA_DISABLED keeps it from the node's role"
	}
	return "takes its node's role at last, where the node's metadata service (IMDS) answers pods"
}

// sourceGrant is the right that is missing to read a source of variables.
func (f *Facts) sourceGrant() string {
	for _, c := range f.containers() {
		for _, e := range c.EnvFrom {
			for _, key := range []string{"secret/" + value(e.SecretRef).Name, "configmap/" + value(e.ConfigMapRef).Name} {
				if g := f.Sources[key].Grant; g != "" {
					return g
				}
			}
		}
	}
	return ""
}

// checkEndpoint looks for the variables that lead to Lanyard, where it is the issuer: without them SDKs ask AWS, which knows nothing
// of what Lanyard made.
func checkEndpoint(f *Facts) Result {
	fix := "Start lanyard-webhook with --pod-endpoint-url and Lanyard's URL as pods reach it, and make the pod again."
	var doubts []string
	for _, c := range f.containers() {
		env, why := f.environment(c)
		if slices.Contains(f.skippedContainers(), c.Name) || len(why) > 0 {
			continue
		}
		general, sts := first(env, "AWS_ENDPOINT_URL") != "", first(env, "AWS_ENDPOINT_URL_STS") != ""
		switch {
		case env["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"].value == "true":
			return broken(fmt.Sprintf("Take AWS_IGNORE_CONFIGURED_ENDPOINT_URLS out of container %s.", c.Name),
				"Container %s has AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, so that its SDK asks AWS instead of Lanyard.", c.Name)
		case !general && !sts && f.way() == podspec.WebIdentity:
			return broken(fix, "Container %s has neither AWS_ENDPOINT_URL nor AWS_ENDPOINT_URL_STS, so that its SDK asks AWS's STS, which "+
				"does not know the role.", c.Name)
		case !general:
			doubts = append(doubts, fmt.Sprintf("container %s has no AWS_ENDPOINT_URL, so that it uses Lanyard's credentials at AWS's "+
				"services, which refuse them", c.Name))
		case !sts && f.way() == podspec.WebIdentity:
			doubts = append(doubts, fmt.Sprintf("container %s has AWS_ENDPOINT_URL but not AWS_ENDPOINT_URL_STS, without which the SDK for "+
				"Go asks AWS's STS for web identities", c.Name))
		}
	}
	if len(doubts) > 0 {
		return warn(fix, "%s.", capital(strings.Join(doubts, "; ")))
	}
	return ok("The containers have Lanyard's URL.")
}

// asksOverTLS reports whether a container is led to Lanyard by an https URL.
func (f *Facts) asksOverTLS(c corev1.Container) bool {
	env, why := f.environment(c)
	name := first(env, "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL")
	return len(why) == 0 && strings.HasPrefix(env[name].value, "https://") && !slices.Contains(f.skippedContainers(), c.Name)
}

func overTLS(f *Facts) bool {
	return ofLanyardsPod(f) && slices.ContainsFunc(f.containers(), f.asksOverTLS)
}

// checkCertificates looks for the certificates that SDKs must trust where Lanyard's are not signed by a public authority.
func checkCertificates(f *Facts) Result {
	for _, c := range f.containers() {
		if !f.asksOverTLS(c) {
			continue
		}
		env, _ := f.environment(c)
		if bundle := first(env, "AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"); bundle == "" && f.PrivateCA {
			return broken("Start lanyard-webhook with --pod-ca-file and --pod-ca-config-map, and make the pod again.",
				"Container %s asks Lanyard over TLS and trusts only the certificates of its image, but Lanyard's are signed by an authority "+
					"of its own, as AWS_CA_BUNDLE here says.",
				c.Name)
		}
	}
	if f.PrivateCA {
		return ok("The containers are given the certificates to trust.")
	}
	return ok("Lanyard's certificates are trusted here without further ado.")
}

func checkRegion(f *Facts) Result {
	fix := "Start lanyard-webhook with --aws-default-region, or set AWS_REGION and AWS_DEFAULT_REGION in the container; then make the pod again."
	var without []string
	for _, c := range f.containers() {
		env, why := f.environment(c)
		if slices.Contains(f.skippedContainers(), c.Name) || len(why) > 0 {
			continue
		}
		switch {
		case first(env, "AWS_REGION", "AWS_DEFAULT_REGION") == "":
			without = append(without, fmt.Sprintf("container %s has neither AWS_REGION nor AWS_DEFAULT_REGION, without which most SDKs ask "+
				"nobody unless the program names a region", c.Name))
		case first(env, "AWS_REGION") == "":
			without = append(without, fmt.Sprintf("container %s has AWS_DEFAULT_REGION but not AWS_REGION, which the SDKs for Java and "+
				"JavaScript want", c.Name))
		case first(env, "AWS_DEFAULT_REGION") == "":
			without = append(without, fmt.Sprintf("container %s has AWS_REGION but not AWS_DEFAULT_REGION, which the AWS CLI and the SDK for "+
				"Python want", c.Name))
		}
	}
	if len(without) > 0 {
		return warn(fix, "%s.", capital(strings.Join(without, "; ")))
	}
	return ok("The containers have a region.")
}
