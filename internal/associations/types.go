// Package associations keeps pod identity associations as Kubernetes resources say: it follows the PodIdentityAssociations of a
// cluster, and has the EKS API, AWS's or Lanyard's, have what they say.
package associations

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource returns the group, version and name of the resources. Their definition is deploy/chart/files/podidentityassociations.yaml.
func Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "lanyard.dev", Version: "v1alpha1", Resource: "podidentityassociations"}
}

// Finalizer is on each resource that may have an association: it goes when the association has gone, or is to stay.
const Finalizer = "lanyard.dev/association"

// The tags of an association that say whose it is. The first decides: who sets it to another resource's UID hands the association
// over to that. Specs cannot have such tags.
const (
	UIDTag  = "lanyard.dev/uid"  // metadata.uid of the resource
	NameTag = "lanyard.dev/name" // its name, for people
)

// PodIdentityAssociation gives the pods of a service account in its namespace the credentials of an IAM role.
type PodIdentityAssociation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status,omitempty"`
}

// Spec is the association as it is to be. The API server holds it to the definition's rules; what only the EKS API can tell, such
// as whether the role exists, it tells in the status.
type Spec struct {
	// ServiceAccountName names a service account, which need not exist yet. It cannot be changed.
	ServiceAccountName string `json:"serviceAccountName"`
	// RoleARN is a role of the cluster's account, which trusts pods.eks.amazonaws.com.
	RoleARN string `json:"roleARN"`
	// TargetRoleARN is a role, of whatever account, that RoleARN's session assumes in turn; empty for none.
	TargetRoleARN string `json:"targetRoleARN,omitempty"`
	// DisableSessionTags leaves out the session tags that say which pod has the session.
	DisableSessionTags bool `json:"disableSessionTags,omitempty"`
	// Policy limits what the sessions may do: an IAM policy in JSON, of at most 2,048 characters; empty for none. It requires
	// DisableSessionTags.
	Policy string `json:"policy,omitempty"`
	// Tags are the association's, without UIDTag and NameTag: at most 48.
	Tags map[string]string `json:"tags,omitempty"`
	// DeletionPolicy says what becomes of the association when the resource is deleted; empty means Delete.
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
}

// DeletionPolicy says what becomes of an association whose resource is deleted.
type DeletionPolicy string

// The deletion policies.
const (
	Delete DeletionPolicy = "Delete" // the association is deleted, too
	Retain DeletionPolicy = "Retain" // the association stays, with its tags
)

// Status is the association as it was seen last.
type Status struct {
	AssociationARN string `json:"associationARN,omitempty"`
	AssociationID  string `json:"associationID,omitempty"` // a-…
	RoleARN        string `json:"roleARN,omitempty"`
	// ExternalID is what the target role is assumed with; empty without one.
	ExternalID string `json:"externalID,omitempty"`
	// ObservedGeneration is the generation of the spec that the status tells of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions has one, Ready.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Ready is the type of the condition which says that the association is as the spec says. It is Unknown while the EKS API cannot be
// reached: what it has stays as it is then.
const Ready = "Ready"

// Reason is that of a Ready condition.
type Reason string

// The reasons. The condition's message is the EKS API's own where it refuses.
const (
	Created                 Reason = "Created"  // the association is there, and as the spec says
	Conflict                Reason = "Conflict" // the service account has an association that is not this resource's
	RoleNotFound            Reason = "RoleNotFound"
	InvalidTrustPolicy      Reason = "InvalidTrustPolicy" // the role does not trust pods.eks.amazonaws.com
	InvalidParameter        Reason = "InvalidParameter"
	AccessDenied            Reason = "AccessDenied"    // to the program that keeps the associations
	ClusterNotFound         Reason = "ClusterNotFound" // the EKS API knows no cluster of the name
	LimitExceeded           Reason = "LimitExceeded"
	Throttled               Reason = "Throttled"
	ControlPlaneUnreachable Reason = "ControlPlaneUnreachable"
)

// decode reads a resource as the API server gives it.
func decode(o *unstructured.Unstructured) (*PodIdentityAssociation, error) {
	var a PodIdentityAssociation
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &a); err != nil {
		return nil, fmt.Errorf("read resource %s/%s: %w", o.GetNamespace(), o.GetName(), err)
	}
	return &a, nil
}

// withStatus returns a copy of a resource with another status.
func withStatus(o *unstructured.Unstructured, s Status) (*unstructured.Unstructured, error) {
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return nil, fmt.Errorf("write the status of %s/%s: %w", o.GetNamespace(), o.GetName(), err)
	}
	changed := o.DeepCopy()
	changed.Object["status"] = status
	return changed, nil
}
