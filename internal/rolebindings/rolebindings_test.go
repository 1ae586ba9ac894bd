package rolebindings

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awstest"
	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

const (
	account = "111122223333"
	region  = "us-east-1"
)

// plane is a control plane with a cluster, one; it can fall silent.
type plane struct {
	t      *testing.T
	config aws.Config
	eks    *eks.Client
	down   atomic.Bool
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func start(t *testing.T) *plane {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	records := must(audit.OpenFiles(audit.FilesConfig{Dir: filepath.Join(t.TempDir(), "audit"), Log: log}))(t)
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	made := must(controlplane.New(controlplane.Config{
		Store: kv.NewMemory(), MasterKey: keyring.MasterKey{1}, Partition: "aws", Region: region, Account: account, IssuerURL: "https://id.example.com",
		Audit: audit.NewTrail(records, audit.Required, log), Log: log,
	}))(t)
	dir := must(controlplane.OpenDirectory(t.TempDir() + "/data"))(t)
	if err := made.Start(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	root := must(dir.RootKey())(t)
	p := &plane{t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		made.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	body := `{"name": "one"}`
	r := must(http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/lanyard/clusters", strings.NewReader(body)))(t)
	sigv4.Sign(r, root, "lanyard", region, fmt.Sprintf("%x", sha256.Sum256([]byte(body))), time.Now())
	reply := must(http.DefaultClient.Do(r))(t)
	defer reply.Body.Close()
	if text := must(io.ReadAll(reply.Body))(t); reply.StatusCode != http.StatusOK {
		t.Fatalf("register: %s", text)
	}
	p.config = aws.Config{
		Region: region, BaseEndpoint: &server.URL, HTTPClient: awstest.HTTPClient(), Retryer: func() aws.Retryer { return aws.NopRetryer{} },
		Credentials: credentials.NewStaticCredentialsProvider(root.AccessKeyID, string(root.SecretAccessKey), ""),
	}
	p.eks = eks.NewFromConfig(p.config)
	return p
}

// entry makes a user with an access entry.
func (p *plane) entry(name string) {
	p.t.Helper()
	must(iam.NewFromConfig(p.config).CreateUser(p.t.Context(), &iam.CreateUserInput{UserName: &name}))(p.t)
	must(p.eks.CreateAccessEntry(p.t.Context(), &eks.CreateAccessEntryInput{ClusterName: aws.String("one"), PrincipalArn: principal(name)}))(p.t)
}

func principal(name string) *string { return aws.String("arn:aws:iam::" + account + ":user/" + name) }

func policyARN(name string) *string {
	return aws.String("arn:aws:eks::aws:cluster-access-policy/" + name)
}

// give gives a user a policy: in namespaces, or in the whole cluster.
func (p *plane) give(name, policy string, namespaces ...string) {
	p.t.Helper()
	scope := &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeCluster}
	if len(namespaces) > 0 {
		scope = &ekstypes.AccessScope{Type: ekstypes.AccessScopeTypeNamespace, Namespaces: namespaces}
	}
	must(p.eks.AssociateAccessPolicy(p.t.Context(), &eks.AssociateAccessPolicyInput{
		ClusterName: aws.String("one"), PrincipalArn: principal(name), PolicyArn: policyARN(policy), AccessScope: scope,
	}))(p.t)
}

// cluster is a Kubernetes cluster with namespaces, and a keeper for it.
func (p *plane) cluster(namespaces ...string) (*fake.Clientset, *Keeper) {
	p.t.Helper()
	cluster := fake.NewClientset()
	for _, n := range namespaces {
		must(cluster.CoreV1().Namespaces().Create(p.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{}))(p.t)
	}
	return cluster, New(Config{
		Namespaces: cluster.CoreV1(), Bindings: cluster.RbacV1(), EKS: p.eks, Cluster: "one", Every: time.Minute,
		Metrics: must(NewMetrics(prometheus.NewRegistry()))(p.t), Log: slog.New(slog.DiscardHandler),
	})
}

// bindings are a cluster's RoleBindings, as NAMESPACE NAME → CLUSTERROLE GROUP…
func bindings(t *testing.T, cluster *fake.Clientset) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, b := range must(cluster.RbacV1().RoleBindings("").List(t.Context(), metav1.ListOptions{}))(t).Items {
		var groups []string
		for _, s := range b.Subjects {
			groups = append(groups, s.Name)
		}
		all[b.Namespace+" "+b.Name] = strings.Join(append([]string{b.RoleRef.Name}, groups...), " ")
	}
	return all
}

func wantBindings(t *testing.T, when string, cluster *fake.Clientset, want map[string]string) {
	t.Helper()
	if diff := gocmp.Diff(want, bindings(t, cluster)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestRoleBindingsFollowTheAccessPolicies(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, name := range []string{"alice", "bob", "carol"} {
		p.entry(name)
	}
	p.give("alice", "AmazonEKSEditPolicy", "web", "team-*")
	p.give("alice", "AmazonEKSViewPolicy") // the chart's to bind
	p.give("bob", "AmazonEKSEditPolicy", "*-a")
	p.give("carol", "AmazonEKSClusterAdminPolicy", "team-b")
	p.give("carol", "AmazonEKSAdminViewPolicy", "elsewhere")
	cluster, k := p.cluster("web", "team-a", "team-b", "kube-system")
	others := map[string]*rbacv1.RoleBinding{
		"one of a person's":                     {ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "people"}},
		"another program's, with half the mark": {ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "half", Labels: map[string]string{managedLabel: managedBy}}},
		"another program's, with the other": {
			ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "other", Labels: map[string]string{managedLabel: "Helm", policyLabel: "AmazonEKSEditPolicy"}},
		},
	}
	theirs := map[string]string{}
	for _, b := range others {
		b.RoleRef = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
		must(cluster.RbacV1().RoleBindings(b.Namespace).Create(t.Context(), b, metav1.CreateOptions{}))(t)
		theirs[b.Namespace+" "+b.Name] = "view"
	}
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(theirs)
		maps.Copy(all, more)
		return all
	}
	round := func() {
		t.Helper()
		if err := k.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	full := map[string]string{
		"web lanyard:AmazonEKSEditPolicy":            "edit lanyard:AmazonEKSEditPolicy:web",
		"team-a lanyard:AmazonEKSEditPolicy":         "edit lanyard:AmazonEKSEditPolicy:*-a lanyard:AmazonEKSEditPolicy:team-*",
		"team-b lanyard:AmazonEKSEditPolicy":         "edit lanyard:AmazonEKSEditPolicy:team-*",
		"team-b lanyard:AmazonEKSClusterAdminPolicy": "cluster-admin lanyard:AmazonEKSClusterAdminPolicy:team-b",
	}
	round()
	wantBindings(t, "at first", cluster, with(full))
	cluster.ClearActions()
	round()
	for _, a := range cluster.Actions() {
		if a.GetVerb() != "list" {
			t.Errorf("where nothing has changed: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}

	// What is tampered with is mended.
	roles := cluster.RbacV1()
	name := "lanyard:AmazonEKSEditPolicy"
	stray := must(roles.RoleBindings("web").Get(t.Context(), name, metav1.GetOptions{}))(t)
	stray.Subjects = append(stray.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: "mallory"})
	must(roles.RoleBindings("web").Update(t.Context(), stray, metav1.UpdateOptions{}))(t)
	raised := must(roles.RoleBindings("team-a").Get(t.Context(), name, metav1.GetOptions{}))(t)
	raised.RoleRef.Name = "cluster-admin"
	must(roles.RoleBindings("team-a").Update(t.Context(), raised, metav1.UpdateOptions{}))(t)
	if err := roles.RoleBindings("team-b").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	round()
	wantBindings(t, "after others' changes", cluster, with(full))

	// While nobody can be asked, nothing changes.
	p.down.Store(true)
	if err := k.round(t.Context()); err == nil {
		t.Error("a round without the EKS API does not fail")
	}
	wantBindings(t, "without the EKS API", cluster, with(full))
	p.down.Store(false)

	// Policies, entries and namespaces come and go.
	p.give("alice", "AmazonEKSEditPolicy", "web")
	must(p.eks.DeleteAccessEntry(t.Context(), &eks.DeleteAccessEntryInput{ClusterName: aws.String("one"), PrincipalArn: principal("carol")}))(t)
	must(cluster.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new-a"}}, metav1.CreateOptions{}))(t)
	round()
	wantBindings(t, "after changes", cluster, with(map[string]string{
		"web lanyard:AmazonEKSEditPolicy":    "edit lanyard:AmazonEKSEditPolicy:web",
		"team-a lanyard:AmazonEKSEditPolicy": "edit lanyard:AmazonEKSEditPolicy:*-a",
		"new-a lanyard:AmazonEKSEditPolicy":  "edit lanyard:AmazonEKSEditPolicy:*-a",
	}))

	if err := DeleteAll(t.Context(), roles, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	wantBindings(t, "after the end", cluster, theirs)
}

// A name that somebody else has taken is theirs; all others are kept.
func TestWhatIsSomebodyElsesIsNotTouched(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.entry("alice")
	p.give("alice", "AmazonEKSViewPolicy", "web", "team")
	cluster, k := p.cluster("web", "team")
	taken := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "lanyard:AmazonEKSViewPolicy"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
	}
	must(cluster.RbacV1().RoleBindings("web").Create(t.Context(), taken, metav1.CreateOptions{}))(t)
	if err := k.round(t.Context()); err == nil || !strings.Contains(err.Error(), "web/lanyard:AmazonEKSViewPolicy") {
		t.Errorf("the round says %v", err)
	}
	wantBindings(t, "beside another's", cluster, map[string]string{
		"web lanyard:AmazonEKSViewPolicy": "edit", "team lanyard:AmazonEKSViewPolicy": "view lanyard:AmazonEKSViewPolicy:team",
	})
}

// More entries than a page has are all looked at.
func TestAllPagesCount(t *testing.T) {
	t.Parallel()
	p := start(t)
	want := map[string]string{}
	for i := range page + 5 {
		name := fmt.Sprintf("u%03d", i)
		p.entry(name)
		want["n"+name+" lanyard:AmazonEKSViewPolicy"] = "view lanyard:AmazonEKSViewPolicy:n" + name
		p.give(name, "AmazonEKSViewPolicy", "n"+name)
	}
	var namespaces []string
	for at := range want {
		namespace, _, _ := strings.Cut(at, " ")
		namespaces = append(namespaces, namespace)
	}
	slices.Sort(namespaces)
	cluster, k := p.cluster(namespaces...)
	if err := k.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantBindings(t, "of all pages", cluster, want)
}
