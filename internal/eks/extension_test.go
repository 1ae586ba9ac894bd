package eks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/idtoken"
)

// Two public keys on P-256, whose private halves nobody has.
const (
	jwks1 = `{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"one",` +
		`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`
	jwks2 = `{"keys":[{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"two",` +
		`"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}`
)

func register(name, issuer, jwks string) string {
	text, err := json.Marshal(map[string]string{"name": name, "issuer": issuer, "jwks": jwks})
	if err != nil {
		panic(err)
	}
	if jwks == "" {
		text, _ = json.Marshal(map[string]string{"name": name, "issuer": issuer})
	}
	return string(text)
}

func TestRegisterHostedCluster(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	out := must(r.call(t, "POST", "/lanyard/clusters", `{"name":"demo","tags":{"a":"b"}}`))(t)["cluster"].(map[string]any)
	issuer := out["identity"].(map[string]any)["oidc"].(map[string]any)["issuer"].(string)
	if out["name"] != "demo" || out["arn"] != "arn:aws:eks:us-east-1:111122223333:cluster/demo" || out["status"] != "ACTIVE" ||
		!strings.HasPrefix(issuer, "https://oidc.example.com/id/") || fmt.Sprint(out["tags"]) != "map[a:b]" {
		t.Errorf("registered: %v", out)
	}
	described := must(r.client().DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: aws.String("demo")}))(t).Cluster
	if *described.Identity.Oidc.Issuer != issuer || *described.Version == "" || described.CertificateAuthority.Data == nil ||
		*described.Endpoint != out["endpoint"] || described.ResourcesVpcConfig == nil || described.Status != "ACTIVE" {
		t.Errorf("described: %+v", described)
	}
	_, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"demo"}`)
	wantRefused(t, err, "ResourceInUseException", "Cluster already exists with name: demo")
	_, err = r.call(t, "PUT", "/lanyard/clusters/demo/keys", `{"jwks":`+fmt.Sprintf("%q", jwks1)+`}`)
	wantRefused(t, err, "InvalidRequestException", "")
	_, err = r.call(t, "POST", "/lanyard/clusters", register("thief", issuer, jwks1))
	wantRefused(t, err, "InvalidParameterException", "The issuer "+issuer+" is hosted here, for another cluster.")
}

func TestRegisterClusterWithItsOwnIssuer(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	const issuer = "https://kubernetes.example.com:6443/issuer"
	if _, err := r.call(t, "POST", "/lanyard/clusters", register("mine", issuer, jwks1)); err != nil {
		t.Fatal(err)
	}
	c, ok := r.eks.Cluster(account, region, "mine")
	if !ok || c.Issuer != issuer || c.HostedID != "" || string(c.JWKS) != jwks1 {
		t.Fatalf("cluster = %+v", c)
	}
	keyIDs := func(source idtoken.KeySource, ok bool) (ids []string) {
		if !ok {
			return nil
		}
		for _, k := range must(source.Keys(t.Context(), ""))(t) {
			ids = append(ids, k.KeyID)
		}
		return ids
	}
	if diff := cmp.Diff([]string{"one"}, keyIDs(r.eks.Keys(c), true)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"one"}, keyIDs(r.eks.RegisteredKeys(account, issuer))); diff != "" {
		t.Error(diff)
	}
	if got := keyIDs(r.eks.RegisteredKeys(other, issuer)); got != nil {
		t.Errorf("another account's keys: %v", got)
	}
	if got := keyIDs(r.eks.RegisteredKeys(account, issuer+"/")); got != nil {
		t.Errorf("another issuer's keys: %v", got)
	}

	out := must(r.call(t, "PUT", "/lanyard/clusters/mine/keys", `{"jwks":`+fmt.Sprintf("%q", jwks2)+`}`))(t)
	if fmt.Sprint(out["keyIds"], out["previousKeyIds"]) != "[two] [one]" {
		t.Errorf("updated: %v", out)
	}
	if diff := cmp.Diff([]string{"two"}, keyIDs(r.eks.RegisteredKeys(account, issuer))); diff != "" {
		t.Error(diff)
	}
	_, err := r.call(t, "POST", "/lanyard/clusters", register("mine-too", issuer, jwks2))
	wantRefused(t, err, "ResourceInUseException", "A cluster of the account is registered with the issuer "+issuer+" already.")
	_, err = r.call(t, "POST", "/lanyard/clusters/mine/service-account-tokens", `{"namespace":"default","serviceAccount":"app","audiences":["x"]}`)
	wantRefused(t, err, "InvalidRequestException", "")

	stranger := r.withAccount(t, other)
	if _, err := stranger.call(t, "POST", "/lanyard/clusters", register("mine", issuer, jwks1)); err != nil {
		t.Errorf("another account cannot register the issuer: %v", err)
	}
	if diff := cmp.Diff([]string{"two"}, keyIDs(r.eks.RegisteredKeys(account, issuer))); diff != "" {
		t.Errorf("another account's registration counts: %s", diff)
	}

	must(r.client().DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("mine")}))(t)
	if got := keyIDs(r.eks.RegisteredKeys(account, issuer)); got != nil {
		t.Errorf("keys of a deleted cluster: %v", got)
	}
	if _, err := r.call(t, "POST", "/lanyard/clusters", register("mine-too", issuer, jwks2)); err != nil {
		t.Errorf("the issuer cannot be registered again: %v", err)
	}
}

// An issuer that nobody can be asked at is good enough for tokens whose keys are registered.
func TestRegisterClusterWithAPlainIssuer(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	if _, err := r.call(t, "POST", "/lanyard/clusters", register("mine", "http://kubernetes.example.com", jwks1)); err != nil {
		t.Fatal(err)
	}
	c, ok := r.eks.Cluster(account, region, "mine")
	if !ok || c.Issuer != "http://kubernetes.example.com" {
		t.Fatalf("cluster = %+v", c)
	}
	if keys := must(r.eks.Keys(c).Keys(t.Context(), "one"))(t); len(keys) != 1 {
		t.Errorf("keys = %v", keys)
	}
}

func TestRegisterClusterRefusals(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	long := "https://example.com/" + strings.Repeat("a", 236)
	private := strings.Replace(jwks1, `"kid"`, `"d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI","kid"`, 1)
	for _, e := range []struct{ name, body string }{
		{"no https, and keys to be fetched", register("c", "http://example.com", "")},
		{"another scheme", register("c", "ftp://example.com", jwks1)},
		{"a query", register("c", "https://example.com/?a=b", jwks1)},
		{"an empty query", register("c", "https://example.com/?", jwks1)},
		{"a fragment", register("c", "https://example.com/#a", jwks1)},
		{"an empty fragment", register("c", "https://example.com/#", jwks1)},
		{"a user", register("c", "https://me@example.com/", jwks1)},
		{"no host", register("c", "https:///x", jwks1)},
		{"only a port", register("c", "https://:443/x", jwks1)},
		{"a host in capitals", register("c", "https://Example.com", jwks1)},
		{"256 characters", register("c", long, jwks1)},
		{"keys that are none", register("c", "https://example.com", "{}")},
		{"no keys", register("c", "https://example.com", `{"keys":[]}`)},
		{"private keys", register("c", "https://example.com", private)},
		{"keys without an issuer", `{"name":"c","jwks":` + fmt.Sprintf("%q", jwks1) + `}`},
		{"a reserved tag", `{"name":"c","tags":{"aws:a":"b"}}`},
		{"a name with a slash", `{"name":"a/b"}`},
		{"no name", `{}`},
	} {
		t.Run(e.name, func(t *testing.T) {
			_, err := r.call(t, "POST", "/lanyard/clusters", e.body)
			wantRefused(t, err, "InvalidParameterException", "")
		})
	}
	if _, err := r.call(t, "POST", "/lanyard/clusters", register("c", long[:255], "")); err != nil {
		t.Errorf("255 characters, and keys to be fetched: %v", err)
	}
}

// endpoint is what RegisterCluster and UpdateClusterEndpoint are told of an API server.
func endpoint(url, certificates string) string {
	return fmt.Sprintf(`"endpoint":%q,"certificateAuthority":{"data":%q}`, url, base64.StdEncoding.EncodeToString([]byte(certificates)))
}

// certificate returns one that is nobody's, in PEM.
func certificate(t testing.TB) string {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestEndpointsOfRegisteredClusters(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	one, two := certificate(t), certificate(t)
	wantEndpoint := func(name, url, certificates string) {
		t.Helper()
		c := must(r.client().DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: &name}))(t).Cluster
		data := must(base64.StdEncoding.DecodeString(aws.ToString(c.CertificateAuthority.Data)))(t)
		if aws.ToString(c.Endpoint) != url || string(data) != certificates {
			t.Errorf("cluster %s is at %s with\n%s\nwant %s with\n%s", name, aws.ToString(c.Endpoint), data, url, certificates)
		}
	}
	issuer := `"issuer":"https://example.com","jwks":` + fmt.Sprintf("%q", jwks1)
	out := must(r.call(t, "POST", "/lanyard/clusters", `{"name":"mine",`+issuer+`,`+endpoint("https://10.0.0.1:6443/", "a note\n"+one+two)+`}`))(t)
	if got := out["cluster"].(map[string]any)["endpoint"]; got != "https://10.0.0.1:6443" {
		t.Errorf("registered at %v", got)
	}
	wantEndpoint("mine", "https://10.0.0.1:6443", one+two)
	const path = "/lanyard/clusters/mine/endpoint"
	owner := r.user(t, "owner", `{"Effect":"Allow","Action":"lanyard:UpdateClusterEndpoint","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/mine"}`)
	out = must(owner.call(t, "PUT", path, `{`+endpoint("https://kubernetes.example.com/clusters/mine", two)+`}`))(t)
	if got := out["cluster"].(map[string]any)["endpoint"]; got != "https://kubernetes.example.com/clusters/mine" {
		t.Errorf("updated to %v", got)
	}
	wantEndpoint("mine", "https://kubernetes.example.com/clusters/mine", two)
	keeper := r.user(t, "keeper", `{"Effect":"Allow","Action":"lanyard:UpdateClusterKeys","Resource":"*"}`)
	_, err := keeper.call(t, "PUT", path, `{`+endpoint("https://thief.example.com", two)+`}`)
	wantRefused(t, err, "AccessDeniedException", "")
	_, err = r.call(t, "PUT", "/lanyard/clusters/nope/endpoint", `{`+endpoint("https://10.0.0.1", one)+`}`)
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: nope.")
	r.hosted(t, "hosted")
	_, err = r.call(t, "PUT", "/lanyard/clusters/hosted/endpoint", `{`+endpoint("https://10.0.0.1", one)+`}`)
	wantRefused(t, err, "InvalidRequestException", "The issuer of the cluster hosted is hosted here: it has no API server.")
	_, err = r.call(t, "POST", "/lanyard/clusters", `{"name":"c",`+endpoint("https://10.0.0.1", one)+`}`)
	wantRefused(t, err, "InvalidParameterException", "An endpoint can be registered only for a cluster with an issuer of its own.")

	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for name, body := range map[string]string{
		"plain HTTP":                    endpoint("http://10.0.0.1", one),
		"a user":                        endpoint("https://me@10.0.0.1", one),
		"a query":                       endpoint("https://10.0.0.1/?a=b", one),
		"a fragment":                    endpoint("https://10.0.0.1/#a", one),
		"no host":                       endpoint("https:///x", one),
		"no certificate":                endpoint("https://10.0.0.1", "x"),
		"no data":                       `"endpoint":"https://10.0.0.1","certificateAuthority":{}`,
		"no authority":                  `"endpoint":"https://10.0.0.1"`,
		"no endpoint":                   strings.TrimPrefix(endpoint("", one), `"endpoint":"",`),
		"a certificate that is none":    endpoint("https://10.0.0.1", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))),
		"a private key beside it":       endpoint("https://10.0.0.1", one+key),
		"what is not base64":            `"endpoint":"https://10.0.0.1","certificateAuthority":{"data":"!"}`,
		"more certificates than fit in": endpoint("https://10.0.0.1", strings.Repeat(one, 200)),
	} {
		_, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"c","issuer":"https://c.example.com",`+body+`}`)
		wantRefused(t, err, "InvalidParameterException", "")
		_, err = r.call(t, "PUT", path, `{`+body+`}`)
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	wantEndpoint("mine", "https://kubernetes.example.com/clusters/mine", two)
}

func TestTheEffectiveAssociation(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	role := r.role(t, "app", trustPods)
	named := r.associate(t, "demo", "team-a", "app", role)
	pattern := r.associate(t, "demo", "team-*", "*", role)
	webhook := r.user(t, "webhook", `{"Effect":"Allow","Action":"eks:ListPodIdentityAssociations","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/demo"}`)
	const path = "/lanyard/clusters/demo/effective-association"
	for query, want := range map[string]string{
		"?namespace=team-a&serviceAccount=app":   "team-a app " + *named.AssociationArn + " " + *named.AssociationId,
		"?namespace=team-a&serviceAccount=other": "team-* * " + *pattern.AssociationArn + " " + *pattern.AssociationId,
		"?namespace=web&serviceAccount=app":      "",
	} {
		out := must(webhook.call(t, "GET", path+query, ""))(t)
		got := ""
		if a, ok := out["association"].(map[string]any); ok {
			got = fmt.Sprint(a["namespace"], " ", a["serviceAccount"], " ", a["associationArn"], " ", a["associationId"])
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{
		"", "?namespace=web", "?serviceAccount=app", "?namespace=team-*&serviceAccount=*", "?namespace=a/b&serviceAccount=app", "?namespace=&serviceAccount=app",
	} {
		_, err := webhook.call(t, "GET", path+query, "")
		wantRefused(t, err, "InvalidParameterException", "")
	}
	_, err := r.call(t, "GET", "/lanyard/clusters/nope/effective-association?namespace=web&serviceAccount=app", "")
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: nope.")
	stranger := r.user(t, "stranger", `{"Effect":"Allow","Action":"lanyard:*","Resource":"*"}`)
	_, err = stranger.call(t, "GET", path+"?namespace=team-a&serviceAccount=app", "")
	wantRefused(t, err, "AccessDeniedException", "")
}

func TestUpdateClusterKeysRefusals(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	if _, err := r.call(t, "POST", "/lanyard/clusters", register("mine", "https://example.com", "")); err != nil {
		t.Fatal(err)
	}
	body := `{"jwks":` + fmt.Sprintf("%q", jwks1) + `}`
	_, err := r.call(t, "PUT", "/lanyard/clusters/nope/keys", body)
	wantRefused(t, err, "ResourceNotFoundException", "No cluster found for name: nope.")
	_, err = r.call(t, "PUT", "/lanyard/clusters/mine/keys", `{"jwks":"{}"}`)
	wantRefused(t, err, "InvalidParameterException", "")
	stranger := r.user(t, "stranger", `{"Effect":"Allow","Action":"lanyard:*","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/other"}`)
	_, err = stranger.call(t, "PUT", "/lanyard/clusters/mine/keys", body)
	wantRefused(t, err, "AccessDeniedException", "")
	webhook := r.user(t, "webhook", `{"Effect":"Allow","Action":"lanyard:UpdateClusterKeys","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/mine"}`)
	out, err := webhook.call(t, "PUT", "/lanyard/clusters/mine/keys", body)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(out["keyIds"], out["previousKeyIds"]) != "[one] []" { // the keys were fetched from the issuer so far
		t.Errorf("updated: %v", out)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	const path = "/lanyard/clusters/demo/service-account-tokens"
	cluster, _ := r.eks.Cluster(account, region, "demo")
	create := func(body string) (*idtoken.Claims, float64) {
		t.Helper()
		out := must(r.call(t, "POST", path, body))(t)
		claims, err := idtoken.Verify(t.Context(), out["token"].(string), idtoken.Expect{
			Issuer: cluster.Issuer, Audiences: []string{"pods.eks.amazonaws.com"}, Now: r.w.time(),
		}, r.eks.Keys(cluster))
		if err != nil {
			t.Fatal(err)
		}
		return claims, out["expiration"].(float64)
	}
	const pod = `{"namespace":"team-a","serviceAccount":"app","podName":"app-1","audiences":["pods.eks.amazonaws.com","x"],"durationSeconds":600}`
	got, expiration := create(pod)
	k := got.Kubernetes
	uid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, id := range []string{got.ID, k.Pod.UID, k.ServiceAccount.UID, k.Node.UID} {
		if !uid.MatchString(id) {
			t.Errorf("%q is no UUID", id)
		}
	}
	issued := r.w.time().Truncate(time.Second)
	if got.Subject != "system:serviceaccount:team-a:app" || k.Namespace != "team-a" || k.ServiceAccount.Name != "app" || k.Pod.Name != "app-1" ||
		k.Node.Name == "" || len(got.Audience) != 2 || !got.IssuedAt.Equal(issued) || !got.NotBefore.Equal(issued) ||
		!got.Expires.Equal(issued.Add(10*time.Minute)) || int64(expiration) != got.Expires.Unix() {
		t.Errorf("claims = %+v %+v, expiration %v", got, k, expiration)
	}
	again, _ := create(pod)
	if again.ID == got.ID || again.Kubernetes.Pod.UID != k.Pod.UID || again.Kubernetes.ServiceAccount.UID != k.ServiceAccount.UID {
		t.Errorf("again: %+v %+v", again, again.Kubernetes)
	}
	elsewhere, _ := create(strings.Replace(pod, "team-a", "team-b", 1))
	if elsewhere.Kubernetes.Pod.UID == k.Pod.UID || elsewhere.Kubernetes.ServiceAccount.UID == k.ServiceAccount.UID {
		t.Error("objects of two namespaces have one UID")
	}
	free, _ := create(`{"namespace":"team-a","serviceAccount":"app","audiences":["pods.eks.amazonaws.com"]}`)
	if free.Kubernetes.Pod != nil || free.Kubernetes.Node != nil || !free.Expires.Equal(issued.Add(time.Hour)) {
		t.Errorf("without a pod: %+v %+v", free, free.Kubernetes)
	}

	for _, e := range []struct{ name, path, body, code string }{
		{"a missing cluster", "/lanyard/clusters/nope/service-account-tokens", pod, "ResourceNotFoundException"},
		{"9 minutes", path, strings.Replace(pod, "600", "599", 1), "InvalidParameterException"},
		{"more than a day", path, strings.Replace(pod, "600", "86401", 1), "InvalidParameterException"},
		{"no audience", path, `{"namespace":"a","serviceAccount":"b","audiences":[]}`, "InvalidParameterException"},
		{"a pattern", path, strings.Replace(pod, "team-a", "team-*", 1), "InvalidParameterException"},
		{"a colon", path, strings.Replace(pod, `"app"`, `"app:x"`, 1), "InvalidParameterException"},
		{"no service account", path, `{"namespace":"a","audiences":["x"]}`, "InvalidParameterException"},
	} {
		t.Run(e.name, func(t *testing.T) {
			_, err := r.call(t, "POST", e.path, e.body)
			wantRefused(t, err, e.code, "")
		})
	}
	day, _ := create(strings.Replace(pod, "600", "86400", 1))
	if !day.Expires.Equal(issued.Add(24 * time.Hour)) {
		t.Errorf("a day's token expires %v", day.Expires)
	}
	stranger := r.user(t, "stranger", `{"Effect":"Allow","Action":["eks:*","lanyard:RegisterCluster"],"Resource":"*"}`)
	_, err := stranger.call(t, "POST", path, pod)
	wantRefused(t, err, "AccessDeniedException", "")
}
