package deploy_test

import (
	"context"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/deploy"
	"github.com/lanyard-id/lanyard/internal/localca"
)

// cluster holds the objects that templates look up.
type cluster struct{ objects []runtime.Object }

// GetClientFor implements engine.ClientProvider.
func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, false, err
	}
	resource := version.WithResource(strings.ToLower(kind) + "s")
	return fake.NewSimpleDynamicClient(scheme.Scheme, c.objects...).Resource(resource), true, nil
}

func renderIn(t *testing.T, c cluster, values string) objects {
	t.Helper()
	all, _, err := deploy.Render(deploy.Release{Values: parse(t, values), Cluster: c})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestKeysAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	const values = "clusterName: demo"
	first := of[*corev1.Secret](renderIn(t, cluster{}, values))["lanyard-server"]
	if first == nil {
		t.Fatal("there is no Secret")
	}
	if key, err := hex.DecodeString(string(first.Data["master.key"])); err != nil || len(key) != 32 {
		t.Errorf("the master key has %d bytes, %v", len(key), err)
	}
	if _, err := localca.Load(first.Data["ca.crt"], first.Data["ca.key"]); err != nil {
		t.Errorf("the server does not take the authority: %v", err)
	}
	other := of[*corev1.Secret](renderIn(t, cluster{}, values))["lanyard-server"]
	for key := range first.Data {
		if string(first.Data[key]) == string(other.Data[key]) {
			t.Errorf("two installations have the same %s", key)
		}
	}
	upgraded := renderIn(t, cluster{[]runtime.Object{first}}, values)
	same(t, "after an upgrade, the keys", first.Data, of[*corev1.Secret](upgraded)["lanyard-server"].Data)
	same(t, "and what clients trust", strings.TrimSpace(string(first.Data["ca.crt"])), strings.TrimSpace(of[*corev1.ConfigMap](upgraded)["lanyard-server-ca"].Data["ca.pem"]))

	half := first.DeepCopy()
	delete(half.Data, "ca.crt")
	delete(half.Data, "ca.key")
	completed := of[*corev1.Secret](renderIn(t, cluster{[]runtime.Object{half}}, values))["lanyard-server"]
	same(t, "with an authority that came later, the master key", string(first.Data["master.key"]), string(completed.Data["master.key"]))
	if _, err := localca.Load(completed.Data["ca.crt"], completed.Data["ca.key"]); err != nil {
		t.Errorf("the authority that came later: %v", err)
	}
}

func TestKeysAreKeptAsLongAsWhatTheyOpen(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"all of it": "keep", "a trial": ""} {
		same(t, name, want, of[*corev1.Secret](render(t, releases[name]))["lanyard-server"].Annotations["helm.sh/resource-policy"])
	}
	if s := of[*corev1.Secret](render(t, releases["keys of one's own"])); len(s) > 0 {
		t.Errorf("beside keys of one's own there are %v", s)
	}
	secret := of[*corev1.Secret](render(t, releases["a certificate of cert-manager's"]))["lanyard-server"]
	if _, ok := secret.Data["ca.key"]; ok || len(secret.Data["master.key"]) != 64 {
		t.Error("with a certificate of cert-manager's, there is an authority too, or no master key")
	}
}

// serverConfig is what the tests look at in the server's configuration file.
type serverConfig struct {
	IssuerURL string
	TLS       struct{ Hosts []string }
	Listen    string
	Log       struct{ Level, Format string }
}

func configOf(t *testing.T, all objects) (c serverConfig) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(of[*corev1.ConfigMap](all)["lanyard-server"].Data["server.yaml"]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheServerHasCertificatesForItsNames(t *testing.T) {
	t.Parallel()
	plain := []string{
		"lanyard-server", "lanyard-server.lanyard", "lanyard-server.lanyard.svc", "lanyard-server.lanyard.svc.cluster.local",
		"*.lanyard-server.lanyard.svc", "*.lanyard-server.lanyard.svc.cluster.local", "localhost", "127.0.0.1", "::1",
	}
	c := configOf(t, render(t, releases["all of it"]))
	same(t, "of a server in its cluster", plain, c.TLS.Hosts)
	same(t, "its issuers' URL", "https://lanyard-server.lanyard.svc", c.IssuerURL)
	c = configOf(t, render(t, "clusterName: demo\nendpoint: https://id.example.com:8443\nserver: {tls: {hosts: [\"*.example.org\"]}}"))
	same(t, "of one with an endpoint", append(slices.Clone(plain), "id.example.com", "*.example.org"), c.TLS.Hosts)
	same(t, "its issuers' URL", "https://id.example.com:8443", c.IssuerURL)
	c = configOf(t, render(t, "clusterName: demo\nserver: {issuerURL: https://id.example.com}"))
	same(t, "an issuers' URL of its own", "https://id.example.com", c.IssuerURL)
	c = configOf(t, render(t, releases["more configuration"]))
	same(t, "what is merged over the rest", []string{":8080", "debug", "json"}, []string{c.Listen, c.Log.Level, c.Log.Format})
}

// sdkHosts returns the names by which AWS's SDK reaches the services in a region.
func sdkHosts(t *testing.T, region string) (hosts []string) {
	t.Helper()
	ctx := context.Background()
	add := func(e smithyendpoints.Endpoint, err error) {
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, e.URI.Host)
	}
	r, no := aws.String(region), aws.Bool(false)
	add(sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{Region: r, UseDualStack: no, UseFIPS: no, UseGlobalEndpoint: no}))
	add(iam.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, iam.EndpointParameters{Region: r, UseDualStack: no, UseFIPS: no}))
	add(eks.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, eks.EndpointParameters{Region: r, UseDualStack: no, UseFIPS: no}))
	add(s3.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, s3.EndpointParameters{Region: r, UseDualStack: no, UseFIPS: no}))
	return hosts
}

// The names that are answered for are those that SDKs ask by, in every partition; the chart has the partitions' names a second time.
func TestInterceptionKnowsAWSsNames(t *testing.T) {
	t.Parallel()
	for _, region := range []string{
		"us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1", "us-isof-south-1", "eusc-de-east-1",
	} {
		all := render(t, "clusterName: demo\nintercept: {enabled: true, corednsCustom: true}\nserver: {s3: {embedded: true}}\nregion: "+region)
		partition, ok := arn.PartitionOfRegion(region)
		if !ok {
			t.Fatal(region)
		}
		got := configOf(t, all).TLS.Hosts
		want := append(sdkHosts(t, region), "eks-auth."+region+"."+partition.DualStackSuffix, "*.s3."+region+"."+partition.DNSSuffix)
		if partition.Name == "aws" {
			want = append(want, "sts.amazonaws.com", "s3.amazonaws.com", "*.s3.amazonaws.com")
		}
		for _, host := range want {
			if !slices.Contains(got, host) {
				t.Errorf("in %s there is no certificate for %s, but for %q", region, host, got)
			}
		}
		// CoreDNS sends the same names.
		lines := strings.Split(strings.TrimSpace(of[*corev1.ConfigMap](all)["coredns-custom"].Data["lanyard.override"]), "\n")
		for _, host := range want {
			asked := strings.Replace(host, "*", "bucket", 1) + "."
			if !slices.ContainsFunc(lines, func(line string) bool { return rewrites(t, line, asked) }) {
				t.Errorf("in %s, %s is not sent to Lanyard by\n%s", region, asked, strings.Join(lines, "\n"))
			}
			if other := "other." + asked; !strings.HasPrefix(host, "*") && !slices.Contains(want, "*."+host) &&
				slices.ContainsFunc(lines, func(line string) bool { return rewrites(t, line, other) }) {
				t.Errorf("in %s, %s is sent to Lanyard by\n%s", region, other, strings.Join(lines, "\n"))
			}
		}
		for _, d := range all {
			if strings.Contains(d.Text, "role-arn=arn:") && !strings.Contains(d.Text, "arn:"+partition.Name+":iam::111122223333:role/demo-lanyard-lanyard-") {
				t.Errorf("in %s, the role is of another partition in\n%s", region, d.Text)
			}
		}
	}
	if hosts := configOf(t, render(t, "clusterName: demo\nintercept: {enabled: true}")).TLS.Hosts; slices.ContainsFunc(hosts, func(h string) bool { return strings.Contains(h, "s3.") }) {
		t.Errorf("without a store there are certificates for S3: %q", hosts)
	}
}

// rewrites reports whether a rule of CoreDNS' plugin rewrite (coredns.io/plugins/rewrite) sends a name to the server.
func rewrites(t *testing.T, line, name string) bool {
	t.Helper()
	fields := strings.Fields(line)
	if len(fields) < 5 || fields[0] != "rewrite" || fields[1] != "name" || fields[4] != "lanyard-server.lanyard.svc.cluster.local" {
		t.Errorf("%q is no rule that sends something to the server", line)
		return false
	}
	switch fields[2] {
	case "exact":
		return name == fields[3]+"."
	case "regex":
		return regexp.MustCompile(fields[3]).MatchString(name)
	}
	t.Errorf("%q is of a kind that these tests do not know", line)
	return false
}

func TestNotesSayWhatIsToBeDone(t *testing.T) {
	t.Parallel()
	const (
		register = "lanyard cluster register demo --kubeconfig ~/.kube/config --namespace lanyard\n"
		root     = "kubectl exec -n lanyard lanyard-server-0 -- /lanyard-server root-key"
		trust    = "kubectl get configmap -n lanyard lanyard-server-ca -o 'jsonpath={.data.ca\\.pem}'"
		volumes  = "the volumes stay"
		corefile = "rewrite name exact sts.us-east-1.amazonaws.com lanyard-server.lanyard.svc.cluster.local"
		roles    = "docs/install.md has the policies"
	)
	all := []string{register, root, trust, volumes, corefile, roles}
	for release, want := range map[string][]string{
		"all of it":                    {register, root, trust, volumes},
		"a trial":                      {register, root, trust},
		"a cluster that joins Lanyard": {register},
		"credentials of AWS":           {roles},
		"a public certificate":         {register, root, volumes},
		"a Corefile by hand":           {register, root, trust, volumes, corefile},
		"interception":                 {register, root, trust, volumes},
	} {
		_, notes, err := deploy.Render(deploy.Release{Values: parse(t, releases[release])})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range all {
			if strings.Contains(notes, text) != slices.Contains(want, text) {
				t.Errorf("%s: that the notes say %q is %v:\n%s", release, text, !slices.Contains(want, text), notes)
			}
		}
	}
}
