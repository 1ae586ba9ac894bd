// Package accesspolicy says what EKS's access policies are in a Kubernetes cluster that EKS does not run: each is a ClusterRole, bound
// to a group that those who have the policy are in. The control plane puts people into the groups; the cluster has the bindings.
package accesspolicy

// Policy is an access policy (EKS User Guide, "Review access policy permissions").
type Policy struct {
	// Name is the last part of its ARN.
	Name string
	// ClusterRole gives the permissions. Kubernetes has it from the start, but for AdminView, which the chart makes.
	ClusterRole string
}

// ClusterAdmin is the name of the policy that a cluster's creator is given.
const ClusterAdmin = "AmazonEKSClusterAdminPolicy"

// AdminView is the name of the ClusterRole that reads everything, secrets too, and changes nothing.
const AdminView = "lanyard-admin-view"

// All returns the policies, ordered by name.
func All() []Policy {
	return []Policy{
		{"AmazonEKSAdminPolicy", "admin"},
		{"AmazonEKSAdminViewPolicy", AdminView},
		{ClusterAdmin, "cluster-admin"},
		{"AmazonEKSEditPolicy", "edit"},
		{"AmazonEKSViewPolicy", "view"},
	}
}

// Named returns the policy of a name.
func Named(name string) (Policy, bool) {
	for _, p := range All() {
		if p.Name == name {
			return p, true
		}
	}
	return Policy{}, false
}

// prefix begins the names of all groups here. Access entries cannot have groups that begin so.
const prefix = "lanyard:"

// Group is the Kubernetes group of those who have the policy in the whole cluster, or, unless the namespace is empty, in that namespace. It
// may be a pattern, in which every * stands for any characters, also none; the group of a pattern has that as it is.
func (p Policy) Group(namespace string) string {
	if namespace == "" {
		return prefix + p.Name
	}
	return prefix + p.Name + ":" + namespace
}

// Binding is the name of the policy's ClusterRoleBinding, and of its RoleBinding in each namespace that has one.
func (p Policy) Binding() string { return prefix + p.Name }
