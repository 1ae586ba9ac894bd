package associations

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/smithy-go"
)

// association is what the status says of an association.
type association struct{ arn, id, role, externalID string }

func seen(p *ekstypes.PodIdentityAssociation) *association {
	return &association{aws.ToString(p.AssociationArn), aws.ToString(p.AssociationId), aws.ToString(p.RoleArn), aws.ToString(p.ExternalId)}
}

// deed is something that was done, for an event.
type deed struct{ reason, message string }

// ensure sees to it that the association of a resource is there, and as the resource says.
func (c *Controller) ensure(ctx context.Context, a *PodIdentityAssociation) (*association, []deed, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	have, err := c.find(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	if have == nil {
		out, err := c.c.EKS.CreatePodIdentityAssociation(ctx, c.creation(a))
		if err != nil {
			return nil, nil, err
		}
		made := seen(out.Association)
		return made, []deed{{"AssociationCreated", fmt.Sprintf("Created association %s of %s.", made.id, made.role)}}, nil
	}
	if err := owned(have, a); err != nil {
		return nil, nil, err
	}
	return c.repair(ctx, have, a)
}

// find returns the association of a resource's service account, whosever it is; nil for none.
func (c *Controller) find(ctx context.Context, a *PodIdentityAssociation) (*ekstypes.PodIdentityAssociation, error) {
	if id := a.Status.AssociationID; id != "" {
		have, err := c.describe(ctx, id)
		if err != nil || have != nil && aws.ToString(have.Namespace) == a.Namespace && aws.ToString(have.ServiceAccount) == a.Spec.ServiceAccountName {
			return have, err
		}
	}
	pages := eks.NewListPodIdentityAssociationsPaginator(c.c.EKS, &eks.ListPodIdentityAssociationsInput{
		ClusterName: &c.c.Cluster, Namespace: &a.Namespace, ServiceAccount: &a.Spec.ServiceAccountName,
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range page.Associations {
			if aws.ToString(s.Namespace) == a.Namespace && aws.ToString(s.ServiceAccount) == a.Spec.ServiceAccountName {
				return c.describe(ctx, aws.ToString(s.AssociationId))
			}
		}
	}
	return nil, nil
}

// describe returns an association; nil for one that is not there.
func (c *Controller) describe(ctx context.Context, id string) (*ekstypes.PodIdentityAssociation, error) {
	out, err := c.c.EKS.DescribePodIdentityAssociation(ctx, &eks.DescribePodIdentityAssociationInput{ClusterName: &c.c.Cluster, AssociationId: &id})
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return out.Association, nil
}

func notFound(err error) bool {
	missing := (*ekstypes.ResourceNotFoundException)(nil)
	return errors.As(err, &missing)
}

// creation is the request for an association. Its token is that of the resource, so that the request may be sent again; where an
// association has gone that the resource had, it is another, since the first has had its answer.
func (c *Controller) creation(a *PodIdentityAssociation) *eks.CreatePodIdentityAssociationInput {
	token := string(a.UID)
	if a.Status.AssociationID != "" {
		token += "/" + a.Status.AssociationID
	}
	in := &eks.CreatePodIdentityAssociationInput{
		ClusterName: &c.c.Cluster, Namespace: &a.Namespace, ServiceAccount: &a.Spec.ServiceAccountName, RoleArn: &a.Spec.RoleARN,
		ClientRequestToken: &token, Tags: tags(a),
	}
	if a.Spec.DisableSessionTags {
		in.DisableSessionTags = aws.Bool(true)
	}
	if a.Spec.TargetRoleARN != "" {
		in.TargetRoleArn = &a.Spec.TargetRoleARN
	}
	if a.Spec.Policy != "" {
		in.Policy = &a.Spec.Policy
	}
	return in
}

// tags are those that the association of a resource is to have.
func tags(a *PodIdentityAssociation) map[string]string {
	all := map[string]string{}
	maps.Copy(all, a.Spec.Tags)
	all[UIDTag], all[NameTag] = string(a.UID), a.Name
	return all
}

// conflictError is an association that is not the resource's.
type conflictError struct{ message string }

func (e *conflictError) Error() string { return e.message }

// owned returns an error for an association that is not the resource's: nothing is done to it.
func owned(have *ekstypes.PodIdentityAssociation, a *PodIdentityAssociation) error {
	who := a.Namespace + "/" + a.Spec.ServiceAccountName
	switch {
	case aws.ToString(have.OwnerArn) != "":
		return &conflictError{fmt.Sprintf("The service account %s has the association %s, which is managed by %s.",
			who, aws.ToString(have.AssociationId), aws.ToString(have.OwnerArn))}
	case have.Tags[UIDTag] != string(a.UID):
		return &conflictError{fmt.Sprintf("The service account %s has the association %s, which this resource has not made: "+
			"delete it, or hand it over by its tag %s=%s.", who, aws.ToString(have.AssociationId), UIDTag, a.UID)}
	}
	return nil
}

// repair brings an association that is there to what the resource says.
func (c *Controller) repair(ctx context.Context, have *ekstypes.PodIdentityAssociation, a *PodIdentityAssociation) (*association, []deed, error) {
	var did []deed
	if in, what := changes(have, a.Spec); len(what) > 0 {
		in.ClusterName, in.AssociationId = &c.c.Cluster, have.AssociationId
		out, err := c.c.EKS.UpdatePodIdentityAssociation(ctx, in)
		if err != nil {
			return seen(have), nil, err
		}
		text := fmt.Sprintf("Updated %s of association %s.", strings.Join(what, ", "), aws.ToString(have.AssociationId))
		did = append(did, deed{"AssociationUpdated", text})
		have = out.Association
	}
	set, unset := tagChanges(have.Tags, tags(a))
	if len(unset) > 0 {
		if _, err := c.c.EKS.UntagResource(ctx, &eks.UntagResourceInput{ResourceArn: have.AssociationArn, TagKeys: unset}); err != nil {
			return seen(have), did, err
		}
	}
	if len(set) > 0 {
		if _, err := c.c.EKS.TagResource(ctx, &eks.TagResourceInput{ResourceArn: have.AssociationArn, Tags: set}); err != nil {
			return seen(have), did, err
		}
	}
	if len(set)+len(unset) > 0 {
		did = append(did, deed{"AssociationUpdated", fmt.Sprintf("Updated the tags of association %s.", aws.ToString(have.AssociationId))})
	}
	return seen(have), did, nil
}

// changes returns the update that makes an association what a spec says, without its name, and what it changes.
func changes(have *ekstypes.PodIdentityAssociation, want Spec) (*eks.UpdatePodIdentityAssociationInput, []string) {
	in := &eks.UpdatePodIdentityAssociationInput{}
	var what []string
	if aws.ToString(have.RoleArn) != want.RoleARN {
		in.RoleArn = &want.RoleARN
		what = append(what, "roleARN")
	}
	if aws.ToString(have.TargetRoleArn) != want.TargetRoleARN {
		in.TargetRoleArn = &want.TargetRoleARN // empty takes it away
		what = append(what, "targetRoleARN")
	}
	if aws.ToBool(have.DisableSessionTags) != want.DisableSessionTags {
		in.DisableSessionTags = &want.DisableSessionTags
		what = append(what, "disableSessionTags")
	}
	if !samePolicy(aws.ToString(have.Policy), want.Policy) {
		in.Policy = &want.Policy // empty takes it away
		what = append(what, "policy")
	}
	return in, what
}

// samePolicy reports whether two policies are the same but for white space, which EKS need not keep.
func samePolicy(a, b string) bool {
	if a == b {
		return true
	}
	var x, y bytes.Buffer
	return json.Compact(&x, []byte(a)) == nil && json.Compact(&y, []byte(b)) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// tagChanges returns the tags to set, and the keys of those to take away. AWS's own stay.
func tagChanges(have, want map[string]string) (set map[string]string, unset []string) {
	set = map[string]string{}
	for key, value := range want {
		if v, ok := have[key]; !ok || v != value {
			set[key] = value
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok && !strings.HasPrefix(strings.ToLower(key), "aws:") {
			unset = append(unset, key)
		}
	}
	slices.Sort(unset)
	return set, unset
}

// release deletes the association of a resource that is being deleted, if it is the resource's and is not to stay.
func (c *Controller) release(ctx context.Context, a *PodIdentityAssociation) error {
	if a.Spec.DeletionPolicy == Retain {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	have, err := c.find(ctx, a)
	if notFound(err) {
		return nil // the cluster has gone, and its associations with it
	}
	if err != nil || have == nil || owned(have, a) != nil {
		return err
	}
	_, err = c.c.EKS.DeletePodIdentityAssociation(ctx, &eks.DeletePodIdentityAssociationInput{
		ClusterName: &c.c.Cluster, AssociationId: have.AssociationId,
	})
	if notFound(err) {
		return nil
	}
	return err
}

// explain returns the reason of a failure and what to say of it: the API's own words, where it has said something.
func explain(err error) (Reason, string) {
	if conflict := (*conflictError)(nil); errors.As(err, &conflict) {
		return Conflict, conflict.message
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		var unreachable *url.Error // says less of what is different each time, such as ports
		if errors.As(err, &unreachable) {
			err = unreachable.Err
		}
		return ControlPlaneUnreachable, "The EKS API cannot be reached: " + err.Error()
	}
	return reasonOf(api), api.ErrorMessage()
}

// reasonOf tells apart what the EKS API answers, and STS before it. EKS has one code for all that is wrong with a role, so that its
// texts must tell these apart.
func reasonOf(api smithy.APIError) Reason {
	switch code := api.ErrorCode(); code {
	case "InvalidParameterException":
		switch {
		case strings.Contains(api.ErrorMessage(), "does not exist"):
			return RoleNotFound
		case strings.HasPrefix(api.ErrorMessage(), "Trust policy"):
			return InvalidTrustPolicy
		}
		return InvalidParameter
	case "AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException",
		"InvalidClientTokenId", "InvalidIdentityToken", "MissingAuthenticationToken", "MissingAuthenticationTokenException":
		return AccessDenied
	case "ResourceInUseException":
		return Conflict
	case "ResourceNotFoundException":
		return ClusterNotFound
	case "ResourceLimitExceededException":
		return LimitExceeded
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded":
		return Throttled
	case "ServerException", "ServiceUnavailableException", "InternalFailure", "ServiceUnavailable":
		return ControlPlaneUnreachable
	default:
		if api.ErrorFault() == smithy.FaultServer {
			return ControlPlaneUnreachable
		}
		return InvalidParameter
	}
}
