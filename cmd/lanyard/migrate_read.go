package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	// migratedAnnotation keeps the role of a service account whose annotation was taken off: its trust policy is found by it
	// when the run was broken off before the end, and so is the way back.
	migratedAnnotation = "lanyard.dev/migrated-role-arn"
	// migratedTag marks the associations that `lanyard migrate` made.
	migratedTag = "lanyard.dev/migrated"
	// tokenFileVariable is what makes SDKs take the web identity's way, which they look for before the agent's.
	tokenFileVariable = "AWS_WEB_IDENTITY_TOKEN_FILE"
	// agentVariable makes SDKs take the agent's way.
	agentVariable = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	// agentAddon is the name of the EKS add-on that runs the agent.
	agentAddon = "eks-pod-identity-agent"
	// pageSize is how many objects an API server is asked for at once: so many, with all that is in a pod, stay below maxReply.
	pageSize = 100
)

// annotatedAccount is a service account that has a role by web identity, or had one.
type annotatedAccount struct {
	Namespace, Name string
	Role            string // of the annotation; empty when it was taken off
	Was             string // the role before that
	Annotations     map[string]string
	Selected        bool
}

func (a annotatedAccount) String() string { return a.Namespace + "/" + a.Name }

// roleScene is a role as IAM has it.
type roleScene struct {
	trust   string
	problem string // why the role cannot be used; the rest is empty then
	notes   []string
}

// identityPod is a pod that has credentials.
type identityPod struct {
	Namespace, Name, ServiceAccount string
	Role                            string // that its containers are given, if it can be told: by the web identity's way alone
	restart                         string // the command that makes it anew
}

// migrationScene is all that a plan depends on.
type migrationScene struct {
	cluster      clusterView
	account      string // that the cluster is in
	provider     string // ARN of the OIDC provider of the cluster's issuer
	accounts     []annotatedAccount
	roles        map[string]roleScene // by ARN: those of the accounts that are selected
	associations map[string]associationView
	count        int           // associations of the whole cluster
	pods         []identityPod // that go the web identity's way
	agentPods    []identityPod // of the accounts that are selected, that go the agent's way
	notes        []string
}

// migrator reads what is there, and carries steps out.
type migrator struct {
	api *kubernetesAPI
	eks *eks.Client
	iam *iam.Client
}

// listKubernetes reads all objects of a path, page by page.
func listKubernetes[T any](ctx context.Context, k *kubernetesAPI, path string, each func(*T) error) error {
	for next := ""; ; {
		query := url.Values{"limit": {fmt.Sprint(pageSize)}}
		if next != "" {
			query.Set("continue", next)
		}
		data, err := k.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil)
		if err != nil {
			return fmt.Errorf("list %s: %w", path, err)
		}
		var page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []T             `json:"items"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return fmt.Errorf("list %s: read the API server's answer: %w", path, err)
		}
		for i := range page.Items {
			if err := each(&page.Items[i]); err != nil {
				return err
			}
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// read finds out all that a plan for the service accounts of a namespace depends on, or of all if it is empty.
func (m *migrator) read(ctx context.Context, name, namespace string, selector labels.Selector) (*migrationScene, error) {
	s := &migrationScene{roles: map[string]roleScene{}, associations: map[string]associationView{}}
	var err error
	if s.cluster, err = describeCluster(ctx, m.eks, name); err != nil {
		return nil, err
	}
	clusterARN, err := arn.Parse(s.cluster.ARN)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's ARN: %w", err)
	}
	s.account = clusterARN.Account()
	if s.provider, err = providerARN(s.cluster.ARN, s.cluster.Issuer); err != nil {
		return nil, err
	}
	issuer, _, err := m.api.issuer(ctx)
	if err != nil {
		return nil, err
	}
	if issuer != s.cluster.Issuer {
		return nil, withHint(fmt.Errorf("the kubeconfig leads to the cluster with the issuer %s, and %s has %s", issuer, name, s.cluster.Issuer),
			"give the kubeconfig of cluster %s with --kubeconfig and --kube-context", name)
	}
	err = listKubernetes(ctx, m.api, "/api/v1/serviceaccounts", func(a *corev1.ServiceAccount) error {
		one := annotatedAccount{
			Namespace: a.Namespace, Name: a.Name, Role: a.Annotations[roleAnnotation], Was: a.Annotations[migratedAnnotation], Annotations: a.Annotations,
			Selected: (namespace == "" || a.Namespace == namespace) && selector.Matches(labels.Set(a.Labels)),
		}
		if one.Role != "" || one.Was != "" {
			s.accounts = append(s.accounts, one)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := m.readAssociations(ctx, s); err != nil {
		return nil, err
	}
	agents, err := m.readWorkloads(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := m.readAgent(ctx, s, agents); err != nil {
		return nil, err
	}
	if err := m.readPods(ctx, s); err != nil {
		return nil, err
	}
	for _, a := range s.accounts {
		role := a.Role
		if role == "" {
			role = a.Was
		}
		if _, ok := s.roles[role]; !a.Selected || ok {
			continue
		}
		if s.roles[role], err = m.readRole(ctx, s, role); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (m *migrator) readAssociations(ctx context.Context, s *migrationScene) error {
	list, err := listAssociations(ctx, m.eks, subject{cluster: s.cluster.Name})
	if err != nil {
		return explainCluster(err, s.cluster.Name, "list associations of")
	}
	s.count = len(list)
	for _, v := range list {
		id := v.Namespace + "/" + v.ServiceAccount
		if s.selected(v.Namespace, v.ServiceAccount) == nil {
			continue
		}
		in := &eks.DescribePodIdentityAssociationInput{ClusterName: &s.cluster.Name, AssociationId: &v.ID}
		out, err := m.eks.DescribePodIdentityAssociation(ctx, in)
		if err != nil {
			return fmt.Errorf("describe the association of %s: %w", id, err)
		}
		s.associations[id] = viewAssociation(out.Association)
	}
	return nil
}

// selected returns an account that the plan is for, or nil.
func (s *migrationScene) selected(namespace, name string) *annotatedAccount {
	for i := range s.accounts {
		if a := &s.accounts[i]; a.Selected && a.Namespace == namespace && a.Name == name {
			return a
		}
	}
	return nil
}

// workload is what Deployments, StatefulSets, DaemonSets and CronJobs have in common.
type workload struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Template    corev1.PodTemplateSpec `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// readWorkloads looks for templates that set the way themselves, and for an agent.
func (m *migrator) readWorkloads(ctx context.Context, s *migrationScene) (agents bool, err error) {
	for _, kind := range []struct{ path, name string }{
		{"/apis/apps/v1/deployments", "deployment"}, {"/apis/apps/v1/statefulsets", "statefulset"},
		{"/apis/apps/v1/daemonsets", "daemonset"}, {"/apis/batch/v1/cronjobs", "cronjob"},
	} {
		err := listKubernetes(ctx, m.api, kind.path, func(w *workload) error {
			spec := &w.Spec.Template.Spec
			if kind.name == "cronjob" {
				spec = &w.Spec.JobTemplate.Spec.Template.Spec
			}
			app := w.Metadata.Labels["app.kubernetes.io/name"]
			if kind.name == "daemonset" && (w.Metadata.Name == agentAddon || app == agentAddon || app == "lanyard-agent") {
				agents = true
			}
			if _, ok := variable(spec, tokenFileVariable); ok && s.selected(w.Metadata.Namespace, accountOf(spec)) != nil {
				s.notes = append(s.notes, fmt.Sprintf("%s %s/%s sets %s in its template: take it out, or its pods go on by web identity, restarted or not",
					kind.name, w.Metadata.Namespace, w.Metadata.Name, tokenFileVariable))
			}
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return agents, nil
}

// accountOf is the service account that pods run as.
func accountOf(spec *corev1.PodSpec) string {
	if spec.ServiceAccountName == "" {
		return "default"
	}
	return spec.ServiceAccountName
}

// variable returns the value that the first container with the variable has for it.
func variable(spec *corev1.PodSpec, name string) (string, bool) {
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, e := range c.Env {
			if e.Name == name {
				return e.Value, true
			}
		}
	}
	return "", false
}

func (m *migrator) readAgent(ctx context.Context, s *migrationScene, daemonSet bool) error {
	if daemonSet {
		return nil
	}
	_, err := m.eks.DescribeAddon(ctx, &eks.DescribeAddonInput{ClusterName: &s.cluster.Name, AddonName: aws.String(agentAddon)})
	if missing := (*ekstypes.ResourceNotFoundException)(nil); errors.As(err, &missing) {
		s.notes = append(s.notes, "no agent is seen in the cluster, neither the add-on "+agentAddon+
			" nor a DaemonSet of Lanyard's: without one on their nodes, restarted pods get no credentials")
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the add-on %s: %w", agentAddon, err)
	}
	return nil
}

// readPods finds the pods that go the web identity's way: those of the accounts, and others that have one of their roles; and those of
// the accounts that go the agent's way.
func (m *migrator) readPods(ctx context.Context, s *migrationScene) error {
	controllers := map[string]string{}
	return listKubernetes(ctx, m.api, "/api/v1/pods", func(p *corev1.Pod) error {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return nil
		}
		account := accountOf(&p.Spec)
		ours := s.selected(p.Namespace, account) != nil
		if where := unservedBy(p); ours && where != "" {
			s.notes = append(s.notes, fmt.Sprintf("pod %s/%s runs on %s, where EKS Pod Identity does not reach", p.Namespace, p.Name, where))
		}
		role, _ := variable(&p.Spec, "AWS_ROLE_ARN")
		_, byToken := variable(&p.Spec, tokenFileVariable)
		_, byAgent := variable(&p.Spec, agentVariable)
		if !byToken && !(byAgent && ours) {
			return nil
		}
		one := identityPod{Namespace: p.Namespace, Name: p.Name, ServiceAccount: account, Role: role}
		if ours {
			var err error
			if one.restart, err = m.restart(ctx, p, controllers); err != nil {
				return err
			}
		}
		if byToken { // which SDKs look for first
			s.pods = append(s.pods, one)
		} else {
			s.agentPods = append(s.agentPods, one)
		}
		return nil
	})
}

// unservedBy says what kind of node a pod is on if AWS's Pod Identity is not there (EKS User Guide, "EKS Pod Identity", restrictions).
func unservedBy(p *corev1.Pod) string {
	switch {
	case p.Labels["eks.amazonaws.com/fargate-profile"] != "" || p.Spec.SchedulerName == "fargate-scheduler":
		return "Fargate"
	case p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows || p.Spec.NodeSelector[corev1.LabelOSStable] == "windows":
		return "Windows"
	}
	return ""
}

// restart returns the command that makes a pod anew by its controller.
func (m *migrator) restart(ctx context.Context, p *corev1.Pod, controllers map[string]string) (string, error) {
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return fmt.Sprintf("kubectl delete pod -n %s %s   # it has no controller: make it again", p.Namespace, p.Name), nil
	}
	kind, name := strings.ToLower(owner.Kind), owner.Name
	if kind == "replicaset" {
		path := "/apis/apps/v1/namespaces/" + url.PathEscape(p.Namespace) + "/replicasets/" + url.PathEscape(name)
		if _, ok := controllers[path]; !ok {
			data, err := m.api.do(ctx, http.MethodGet, path, nil)
			if err != nil {
				return "", fmt.Errorf("look up the controller of pod %s/%s: %w", p.Namespace, p.Name, err)
			}
			var set metav1.PartialObjectMetadata
			if err := json.Unmarshal(data, &set); err != nil {
				return "", fmt.Errorf("look up the controller of pod %s/%s: %w", p.Namespace, p.Name, err)
			}
			controllers[path] = ""
			if above := metav1.GetControllerOf(&set); above != nil && above.Kind == "Deployment" {
				controllers[path] = above.Name
			}
		}
		if deployment := controllers[path]; deployment != "" {
			kind, name = "deployment", deployment
		}
	}
	switch kind {
	case "deployment", "statefulset", "daemonset":
		return fmt.Sprintf("kubectl rollout restart -n %s %s/%s", p.Namespace, kind, name), nil
	}
	return fmt.Sprintf("kubectl delete pod -n %s %s   # of %s %s", p.Namespace, p.Name, kind, name), nil
}

// readRole reads a role and what in its policies holds for web identities alone. A role that is not there, or not for this cluster, is
// no error: the plan goes on without it.
func (m *migrator) readRole(ctx context.Context, s *migrationScene, roleARN string) (roleScene, error) {
	a, err := arn.Parse(roleARN)
	if err != nil || a.Service() != "iam" || !strings.HasPrefix(a.Resource(), "role/") {
		return roleScene{problem: fmt.Sprintf("%q is no role's ARN", roleARN)}, nil
	}
	if a.Account() != s.account {
		return roleScene{problem: fmt.Sprintf("the role is in account %s: let a role of account %s assume it, and give that one with "+
			"`lanyard association create --cluster %s -n NAMESPACE -s SERVICE_ACCOUNT --role-arn ROLE --target-role-arn %s`",
			a.Account(), s.account, s.cluster.Name, roleARN)}, nil
	}
	name := roleName(roleARN)
	out, err := m.iam.GetRole(ctx, &iam.GetRoleInput{RoleName: &name})
	if missing := (*iamtypes.NoSuchEntityException)(nil); errors.As(err, &missing) {
		return roleScene{problem: "the role does not exist"}, nil
	}
	if err != nil {
		return roleScene{}, fmt.Errorf("look up role %s: %w", name, err)
	}
	if value(out.Role.Arn) != roleARN {
		return roleScene{problem: "the role of this name is " + value(out.Role.Arn)}, nil
	}
	trust, err := url.PathUnescape(value(out.Role.AssumeRolePolicyDocument))
	if err != nil {
		return roleScene{}, fmt.Errorf("read the trust policy of role %s: %w", name, err)
	}
	document, err := readTrust(trust)
	if err != nil {
		return roleScene{problem: "its trust policy is not understood, and is not changed: " + err.Error()}, nil
	}
	r := roleScene{trust: trust}
	documents, err := m.policiesOf(ctx, name, a.Partition())
	if err != nil {
		return roleScene{}, err
	}
	for _, statement := range document.Statement {
		w, err := readWebIdentity(statement, s.provider)
		if err != nil {
			return roleScene{}, err
		}
		if !w.only {
			text, err := trustDocument{Version: document.Version}.with(string(statement)).text()
			if err != nil {
				return roleScene{}, err
			}
			documents["its trust policy"] = append(documents["its trust policy"], text)
		}
	}
	for _, title := range slices.Sorted(maps.Keys(documents)) {
		r.notes = append(r.notes, webIdentityNotes(title, documents[title], s.provider)...)
	}
	return r, nil
}

// webIdentityNotes says which keys of policies sessions by Pod Identity do not have.
func webIdentityNotes(title string, documents []string, provider string) (notes []string) {
	for _, text := range documents {
		kind := policy.Identity
		if title == "its trust policy" {
			kind = policy.Trust
		}
		p, err := policy.New(title, kind, []byte(text))
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s is not understood: see yourself whether it uses keys of web identities: %v", title, err))
			continue
		}
		if keys := webIdentityKeys(p, provider); len(keys) > 0 {
			notes = append(notes, fmt.Sprintf("%s uses %s, which sessions by Pod Identity do not have: compare the session tags instead, such as "+
				"aws:PrincipalTag/kubernetes-service-account", title, strings.Join(keys, ", ")))
		}
	}
	return notes
}

// policiesOf reads a role's permission policies by their titles: inline ones, and managed ones that are not AWS's, which know nothing of
// anybody's provider.
func (m *migrator) policiesOf(ctx context.Context, role, partition string) (map[string][]string, error) {
	documents := map[string][]string{}
	keep := func(title, escaped string) error {
		text, err := url.PathUnescape(escaped)
		documents[title] = []string{text}
		return err
	}
	for pages := iam.NewListRolePoliciesPaginator(m.iam, &iam.ListRolePoliciesInput{RoleName: &role}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the policies of role %s: %w", role, err)
		}
		for _, name := range page.PolicyNames {
			out, err := m.iam.GetRolePolicy(ctx, &iam.GetRolePolicyInput{RoleName: &role, PolicyName: &name})
			if err != nil {
				return nil, fmt.Errorf("read policy %s of role %s: %w", name, role, err)
			}
			if err := keep("its policy "+name, value(out.PolicyDocument)); err != nil {
				return nil, fmt.Errorf("read policy %s of role %s: %w", name, role, err)
			}
		}
	}
	for pages := iam.NewListAttachedRolePoliciesPaginator(m.iam, &iam.ListAttachedRolePoliciesInput{RoleName: &role}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the policies attached to role %s: %w", role, err)
		}
		for _, p := range page.AttachedPolicies {
			policyARN := value(p.PolicyArn)
			if strings.HasPrefix(policyARN, "arn:"+partition+":iam::aws:policy/") {
				continue
			}
			about, err := m.iam.GetPolicy(ctx, &iam.GetPolicyInput{PolicyArn: &policyARN})
			if err != nil {
				return nil, fmt.Errorf("look up %s: %w", policyARN, err)
			}
			out, err := m.iam.GetPolicyVersion(ctx, &iam.GetPolicyVersionInput{PolicyArn: &policyARN, VersionId: about.Policy.DefaultVersionId})
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", policyARN, err)
			}
			if err := keep("its policy "+policyARN, value(out.PolicyVersion.Document)); err != nil {
				return nil, fmt.Errorf("read %s: %w", policyARN, err)
			}
		}
	}
	return documents, nil
}
