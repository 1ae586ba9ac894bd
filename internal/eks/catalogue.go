package eks

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

//go:embed addons.json
var catalogueJSON []byte

// addonKind is an add-on that clusters can have. Lanyard installs none of them: an add-on is a record, the owner of associations, and
// for the agent what is known of its health.
type addonKind struct {
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	Publisher  string          `json:"publisher"`
	Owner      string          `json:"owner"`
	Namespace  string          `json:"namespace"`  // of its service accounts, unless an add-on says otherwise
	Versions   []string        `json:"versions"`   // newest first; the first is the default of every version of Kubernetes
	Identities []addonIdentity `json:"identities"` // service accounts that need a role
	Schema     json.RawMessage `json:"schema"`     // of its configuration, a JSON Schema

	configuration *jsonschema.Schema
}

// addonIdentity is a service account of an add-on, with the managed policies that its role should have.
type addonIdentity struct {
	ServiceAccount string   `json:"serviceAccount"`
	Policies       []string `json:"policies"` // paths and names
}

// catalogue is the add-ons that there are, in the order of AWS's list.
type catalogue []*addonKind

func readCatalogue() (catalogue, error) {
	var all catalogue
	if err := json.Unmarshal(catalogueJSON, &all); err != nil {
		return nil, fmt.Errorf("read the catalogue of add-ons: %w", err)
	}
	for _, k := range all {
		if len(k.Versions) == 0 {
			return nil, fmt.Errorf("add-on %s has no version", k.Name)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(k.Schema))
		if err != nil {
			return nil, fmt.Errorf("read the configuration schema of %s: %w", k.Name, err)
		}
		url := "urn:lanyard:addon:" + k.Name
		compiler := jsonschema.NewCompiler()
		compiler.UseLoader(jsonschema.SchemeURLLoader{}) // nothing is fetched
		if err := compiler.AddResource(url, document); err != nil {
			return nil, fmt.Errorf("read the configuration schema of %s: %w", k.Name, err)
		}
		if k.configuration, err = compiler.Compile(url); err != nil {
			return nil, fmt.Errorf("compile the configuration schema of %s: %w", k.Name, err)
		}
	}
	return all, nil
}

// find returns the add-on of that name; nil if there is none.
func (c catalogue) find(name string) *addonKind {
	i := slices.IndexFunc(c, func(k *addonKind) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return c[i]
}

// checkConfiguration refuses values that the add-on does not take: they are one object, in JSON or YAML.
func (k *addonKind) checkConfiguration(values string) error {
	if strings.TrimSpace(values) == "" {
		return nil
	}
	refuse := func(err error) error {
		e := invalidParameter("ConfigurationValue provided in request is not supported: %v", err)
		e.Cause = err
		return e
	}
	text, err := yaml.YAMLToJSONStrict([]byte(values))
	if err != nil {
		return refuse(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return refuse(err)
	}
	if err := k.configuration.Validate(value); err != nil {
		return refuse(err)
	}
	return nil
}

type describeAddonVersionsIn struct {
	AddonName         string
	KubernetesVersion string
	MaxResults        int32
	NextToken         string
	Owners            []string
	Publishers        []string
	Types             []string
}

type describeAddonVersionsOut struct {
	Addons    []addonInfoShape
	NextToken string
}

type addonInfoShape struct {
	AddonName        string
	AddonVersions    []addonVersionShape
	DefaultNamespace string
	Owner            string
	Publisher        string
	Type             string
}

type addonVersionShape struct {
	AddonVersion           string
	Architecture           []string
	Compatibilities        []compatibilityShape
	ComputeTypes           []string
	RequiresConfiguration  bool
	RequiresIamPermissions bool
}

type compatibilityShape struct {
	ClusterVersion   string
	DefaultVersion   bool
	PlatformVersions []string
}

func describeAddonVersionsAccess(*awsapi.Caller, *describeAddonVersionsIn) ([]awsapi.Access, error) {
	return []awsapi.Access{{Action: "eks:DescribeAddonVersions", Resource: "*"}}, nil
}

func (s *Service) describeAddonVersions(_ context.Context, _ *awsapi.Caller, in *describeAddonVersionsIn) (*describeAddonVersionsOut, error) {
	after, err := readPageToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	kinds, err := s.catalogue()
	if err != nil {
		return nil, err
	}
	if in.AddonName != "" && kinds.find(in.AddonName) == nil {
		return nil, noSuchKind(in.AddonName)
	}
	out := &describeAddonVersionsOut{Addons: []addonInfoShape{}}
	skip := after != ""
	for _, k := range kinds {
		if skip {
			skip = k.Name != after
			continue
		}
		among := func(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }
		if in.AddonName != "" && k.Name != in.AddonName || !among(in.Owners, k.Owner) || !among(in.Publishers, k.Publisher) || !among(in.Types, k.Type) {
			continue
		}
		info := k.info(in.KubernetesVersion)
		if len(info.AddonVersions) == 0 { // nothing for that version of Kubernetes
			continue
		}
		if len(out.Addons) == pageSize(in.MaxResults) {
			out.NextToken = pageToken(out.Addons[len(out.Addons)-1].AddonName)
			break
		}
		out.Addons = append(out.Addons, info)
	}
	return out, nil
}

// info is the add-on as DescribeAddonVersions prints it, for one version of Kubernetes or, if that is empty, for all.
func (k *addonKind) info(kubernetes string) addonInfoShape {
	info := addonInfoShape{
		AddonName: k.Name, DefaultNamespace: k.Namespace, Owner: k.Owner, Publisher: k.Publisher, Type: k.Type, AddonVersions: []addonVersionShape{},
	}
	for i, version := range k.Versions {
		v := addonVersionShape{
			AddonVersion:           version,
			Architecture:           []string{"amd64", "arm64"},
			ComputeTypes:           []string{"ec2", "hybrid"},
			RequiresIamPermissions: len(k.Identities) > 0,
		}
		for _, c := range clusterVersions() {
			if kubernetes == "" || kubernetes == c.version {
				v.Compatibilities = append(v.Compatibilities, compatibilityShape{ClusterVersion: c.version, DefaultVersion: i == 0, PlatformVersions: []string{"*"}})
			}
		}
		if len(v.Compatibilities) > 0 {
			info.AddonVersions = append(info.AddonVersions, v)
		}
	}
	return info
}

// kind finds an add-on in the catalogue.
func (s *Service) kind(name string) (*addonKind, error) {
	kinds, err := s.catalogue()
	if err != nil {
		return nil, err
	}
	k := kinds.find(name)
	if k == nil {
		return nil, noSuchKind(name)
	}
	return k, nil
}

func noSuchKind(name string) *awsapi.Error {
	return invalidParameter("Addon %s specified is not supported", name)
}

func noSuchVersion() *awsapi.Error {
	return invalidParameter("Addon version specified is not supported")
}

type describeAddonConfigurationIn struct{ AddonName, AddonVersion string }

type describeAddonConfigurationOut struct {
	AddonName                string
	AddonVersion             string
	ConfigurationSchema      string
	PodIdentityConfiguration []podIdentityConfigurationShape
}

type podIdentityConfigurationShape struct {
	ServiceAccount             string
	RecommendedManagedPolicies []string
}

func describeAddonConfigurationAccess(*awsapi.Caller, *describeAddonConfigurationIn) ([]awsapi.Access, error) {
	return []awsapi.Access{{Action: "eks:DescribeAddonConfiguration", Resource: "*"}}, nil
}

func (s *Service) describeAddonConfiguration(
	_ context.Context, _ *awsapi.Caller, in *describeAddonConfigurationIn,
) (*describeAddonConfigurationOut, error) {
	k, err := s.kind(in.AddonName)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(k.Versions, in.AddonVersion) {
		return nil, noSuchVersion()
	}
	var schema bytes.Buffer
	if err := json.Compact(&schema, k.Schema); err != nil {
		return nil, fmt.Errorf("print the configuration schema of %s: %w", k.Name, err)
	}
	out := &describeAddonConfigurationOut{
		AddonName: k.Name, AddonVersion: in.AddonVersion, ConfigurationSchema: schema.String(), PodIdentityConfiguration: []podIdentityConfigurationShape{},
	}
	for _, id := range k.Identities {
		shape := podIdentityConfigurationShape{ServiceAccount: id.ServiceAccount}
		for _, name := range id.Policies {
			shape.RecommendedManagedPolicies = append(shape.RecommendedManagedPolicies, "arn:"+s.partition+":iam::aws:policy/"+name)
		}
		out.PodIdentityConfiguration = append(out.PodIdentityConfiguration, shape)
	}
	return out, nil
}
