package podspec

import (
	"encoding/csv"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// PodIdentityLabel is set to "enabled" on pods that get their credentials by Pod Identity.
const PodIdentityLabel = "eks.amazonaws.com/pod-identity"

// Where a pod finds the certificates to trust.
const (
	caVolume    = "lanyard-ca"
	caMountPath = "/var/run/secrets/lanyard.dev/ca"
	caFile      = "ca.pem"
)

// Operation is one of a JSON patch (RFC 6902). All that is done to a pod is to add.
type Operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func add(at string, value any) Operation { return Operation{"add", at, value} }

// Patch returns what has to be added to a pod, on its creation, so that its containers get the identity: nothing if they have
// it all. Only what is missing is named, so that members which this version of Kubernetes' types does not know are kept. The
// error says why the pod cannot have the identity, which leaves it as it is.
func (s Settings) Patch(pod *corev1.Pod, id Identity) ([]Operation, error) {
	p := s.plan(pod, id)
	have, err := p.volumes(pod)
	if err != nil {
		return nil, err
	}
	var patch []Operation
	if id.Way == PodIdentity && pod.Labels[PodIdentityLabel] != "enabled" {
		if len(pod.Labels) == 0 {
			patch = append(patch, add("/metadata/labels", map[string]string{PodIdentityLabel: "enabled"}))
		} else {
			patch = append(patch, add("/metadata/labels/"+strings.ReplaceAll(PodIdentityLabel, "/", "~1"), "enabled"))
		}
	}
	var missing []corev1.Volume
	for i, m := range p.mounts {
		if !have[m.Name] {
			missing = append(missing, p.sources[i])
		}
	}
	if len(pod.Spec.Volumes) == 0 && len(missing) > 0 {
		patch = append(patch, add("/spec/volumes", missing))
	} else {
		for _, v := range slices.Backward(missing) {
			patch = append(patch, add("/spec/volumes/0", v))
		}
	}
	skip := s.Skipped(pod)
	for _, list := range []struct {
		at         string
		containers []corev1.Container
	}{{"/spec/initContainers/", pod.Spec.InitContainers}, {"/spec/containers/", pod.Spec.Containers}} {
		for i := range list.containers {
			if c := &list.containers[i]; !skip[c.Name] {
				patch = append(patch, p.container(list.at+strconv.Itoa(i), c)...)
			}
		}
	}
	return patch, nil
}

// PatchEphemeral returns what has to be added to the ephemeral containers that pod has and old has not, so that they get what
// the others of the pod got when it was created. Nothing else of a pod can be changed then: a pod that was created without the
// identity stays so.
func (s Settings) PatchEphemeral(pod, old *corev1.Pod, id Identity) ([]Operation, error) {
	p := s.plan(pod, id)
	have, err := p.volumes(pod)
	if err != nil || !have[s.Projection(id.Way).Volume] {
		return nil, err
	}
	if !have[caVolume] {
		p.mounts = p.mounts[:1]
		p.env = Env(id.Way, p.options(""))
	}
	skip := s.Skipped(pod)
	for _, c := range old.Spec.EphemeralContainers {
		skip[c.Name] = true
	}
	var patch []Operation
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if !skip[c.Name] {
			patch = append(patch, p.container("/spec/ephemeralContainers/"+strconv.Itoa(i), &c)...)
		}
	}
	return patch, nil
}

// Mutated reports whether a pod has the volume of a way's token.
func (s Settings) Mutated(pod *corev1.Pod, w Way) bool {
	name := s.Projection(w).Volume
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
}

// TrustsConfigMap reports whether a pod has the volume of the certificates to trust, and so cannot start a container without their
// ConfigMap.
func (s Settings) TrustsConfigMap(pod *corev1.Pod) bool {
	want := corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: s.CA.Name}}}
	return s.CA.Name != "" && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Name == caVolume && provides(&v, want)
	})
}

// plan is what each container of a pod is to have.
type plan struct {
	settings  Settings
	id        Identity
	tokenFile string
	env       []EnvVar
	mounts    []corev1.VolumeMount // the token's first
	sources   []corev1.Volume      // of the mounts
}

func (s Settings) plan(pod *corev1.Pod, id Identity) *plan {
	windows := pod.Spec.NodeSelector["kubernetes.io/os"] == "windows" || pod.Spec.NodeSelector["beta.kubernetes.io/os"] == "windows" ||
		pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows
	token := s.Projection(id.Way)
	expiration := id.Expiration
	if n, ok := readExpiration(pod.Annotations[s.annotation(expirationAnnotation)]); ok {
		expiration = n
	}
	if id.Way == PodIdentity && expiration == TokenExpiration {
		expiration -= id.Jitter
	}
	p := &plan{settings: s, id: id, tokenFile: file(token.MountPath, token.File, windows)}
	p.mount(token.Volume, token.MountPath, corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
		Audience: id.Audience, ExpirationSeconds: &expiration, Path: token.File,
	}})
	bundle := ""
	if s.CA.Name != "" {
		bundle = file(caMountPath, caFile, windows)
		p.mount(caVolume, caMountPath, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: s.CA.Name},
			Items:                []corev1.KeyToPath{{Key: s.CA.Key, Path: caFile}},
		}})
	}
	p.env = Env(id.Way, p.options(bundle))
	return p
}

func (p *plan) mount(volume, at string, source corev1.VolumeProjection) {
	p.mounts = append(p.mounts, corev1.VolumeMount{Name: volume, MountPath: at, ReadOnly: true})
	p.sources = append(p.sources, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}},
	}})
}

func (p *plan) options(bundle string) Options {
	return Options{
		TokenFile: p.tokenFile, RoleARN: p.id.RoleARN, AgentURI: p.settings.AgentURI, Region: p.settings.Region,
		RegionalSTS: p.id.RegionalSTS, Endpoint: p.settings.Endpoint, CABundle: bundle,
	}
}

// volumes tells which of the volumes the pod has. One of the same name that is something else is an error: what points to it
// would not find a token.
func (p *plan) volumes(pod *corev1.Pod) (have map[string]bool, err error) {
	have = map[string]bool{}
	for _, want := range p.sources {
		i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == want.Name })
		if i < 0 {
			continue
		}
		if !provides(&pod.Spec.Volumes[i], want.Projected.Sources[0]) {
			return nil, fmt.Errorf("the pod's volume %s is another one than that of its identity", want.Name)
		}
		have[want.Name] = true
	}
	return have, nil
}

// provides reports whether a volume has the file of a projection, with a token for the same audience.
func provides(v *corev1.Volume, want corev1.VolumeProjection) bool {
	if v.Projected == nil {
		return false
	}
	return slices.ContainsFunc(v.Projected.Sources, func(have corev1.VolumeProjection) bool {
		switch {
		case want.ServiceAccountToken != nil:
			t := have.ServiceAccountToken
			return t != nil && t.Audience == want.ServiceAccountToken.Audience && t.Path == want.ServiceAccountToken.Path
		case want.ConfigMap != nil:
			return have.ConfigMap != nil && have.ConfigMap.Name == want.ConfigMap.Name
		}
		return false
	})
}

// container returns what is to be added to one container, which is at a path of the pod.
func (p *plan) container(at string, c *corev1.Container) []Operation {
	set := map[string]bool{}
	for _, v := range c.Env {
		set[v.Name] = true
	}
	way := Env(p.id.Way, Options{}) // the two variables of the way
	if (set[way[0].Name] || set[way[1].Name]) && (set["AWS_REGION"] || set["AWS_DEFAULT_REGION"]) && set["AWS_STS_REGIONAL_ENDPOINTS"] {
		return nil // the container has its own configuration
	}
	var mounts []corev1.VolumeMount
	for _, m := range p.mounts {
		if slices.ContainsFunc(c.VolumeMounts, func(have corev1.VolumeMount) bool { return have.Name == m.Name }) {
			continue
		}
		if slices.ContainsFunc(c.VolumeMounts, func(have corev1.VolumeMount) bool { return path.Clean(have.MountPath) == path.Clean(m.MountPath) }) {
			return nil // Kubernetes would refuse the pod, and what is there is not the token
		}
		mounts = append(mounts, m)
	}
	var env []corev1.EnvVar
	for _, v := range p.env {
		if !slices.ContainsFunc(Together(v.Name), func(name string) bool { return set[name] }) {
			env = append(env, corev1.EnvVar{Name: v.Name, Value: v.Value})
		}
	}
	return append(appendTo(at+"/env", len(c.Env), env), appendTo(at+"/volumeMounts", len(c.VolumeMounts), mounts)...)
}

// appendTo returns the operations that append items to a list which has some already.
func appendTo[T any](at string, have int, items []T) (patch []Operation) {
	if have == 0 && len(items) > 0 {
		return []Operation{add(at, items)}
	}
	for _, item := range items {
		patch = append(patch, add(at+"/-", item))
	}
	return patch
}

// Together returns the variables that are set together with one, itself among them: a container that has one of them gets none.
func Together(name string) []string {
	for _, names := range [][]string{
		{"AWS_DEFAULT_REGION", "AWS_REGION"},
		{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"},
		{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"},
		{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS"},
	} {
		if slices.Contains(names, name) {
			return names
		}
	}
	return []string{name}
}

// Skipped returns the names of containers that a pod's annotation wants to be left alone. It is a line of CSV, in which blanks count: a
// list that cannot be read is none.
func (s Settings) Skipped(pod *corev1.Pod) map[string]bool {
	skip := map[string]bool{}
	names, err := csv.NewReader(strings.NewReader(pod.Annotations[s.annotation(skipContainersAnnotation)])).Read()
	if err != nil {
		return skip
	}
	for _, name := range names {
		skip[name] = true
	}
	return skip
}
