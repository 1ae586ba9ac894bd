package cloudformation

import "context"

// associationType follows the CloudFormation Template Reference, "AWS::EKS::PodIdentityAssociation".
func associationType() *resourceType {
	target := func(s *state) members {
		return members{"clusterName": s.Properties["ClusterName"], "associationId": s.Attributes["AssociationId"]}
	}
	return &resourceType{
		name: "AWS::EKS::PodIdentityAssociation",
		properties: []property{
			{name: "ClusterName", kind: textKind, required: true, replaces: true},
			{name: "DisableSessionTags", kind: flagKind},
			{name: "Namespace", kind: textKind, required: true, replaces: true},
			{name: "Policy", kind: textKind},
			{name: "RoleArn", kind: textKind, required: true},
			{name: "ServiceAccount", kind: textKind, required: true, replaces: true},
			{name: "Tags", kind: tagsKind},
			{name: "TargetRoleArn", kind: textKind},
		},
		attributes: []string{"AssociationArn", "AssociationId", "ExternalId"},
		tagged:     true,
		made: []string{
			"ClusterName", "DisableSessionTags", "Namespace", "Policy", "RoleArn", "ServiceAccount", "Tags", "TargetRoleArn",
		},
		// The token makes a repeated call answer what the first one made.
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			p := begun.Properties
			call := members{
				"clusterName": p["ClusterName"], "namespace": p["Namespace"], "serviceAccount": p["ServiceAccount"], "roleArn": p["RoleArn"],
				"clientRequestToken": begun.Token,
			}
			put(call, "disableSessionTags", p, "DisableSessionTags")
			put(call, "targetRoleArn", p, "TargetRoleArn")
			put(call, "policy", p, "Policy")
			put(call, "tags", p, "Tags")
			out, err := x.eks(ctx, "CreatePodIdentityAssociation", call)
			if err != nil {
				return nil, err
			}
			arn := in(out, "association", "associationArn")
			return &state{Physical: arn, Reference: arn, Attributes: map[string]string{
				"AssociationArn": arn, "AssociationId": in(out, "association", "associationId"), "ExternalId": in(out, "association", "externalId"),
			}}, nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			call := target(s)
			for property, member := range map[string]string{
				"RoleArn": "roleArn", "TargetRoleArn": "targetRoleArn", "Policy": "policy", "DisableSessionTags": "disableSessionTags",
			} {
				if from.same(to, property) {
					continue
				}
				call[member] = to[property]
				if to[property] == nil && property == "DisableSessionTags" {
					call[member] = false
				} else if to[property] == nil {
					call[member] = ""
				}
			}
			if len(call) > len(target(s)) {
				out, err := x.eks(ctx, "UpdatePodIdentityAssociation", call)
				if err != nil {
					return err
				}
				s.Attributes["ExternalId"] = in(out, "association", "externalId")
			}
			return x.setEKSTags(ctx, s.Attributes["AssociationArn"], from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return quietly(x.eks(ctx, "DeletePodIdentityAssociation", target(s)))
		},
	}
}

// setEKSTags changes the tags of something of EKS.
func (x *actor) setEKSTags(ctx context.Context, arn string, from, to properties) error {
	was, is := from.byName("Tags"), to.byName("Tags")
	if left := without(sortedKeys(was), sortedKeys(is)); len(left) > 0 {
		if _, err := x.eks(ctx, "UntagResource", members{"resourceArn": arn, "tagKeys": anys(left)}); err != nil {
			return err
		}
	}
	if from.same(to, "Tags") || len(is) == 0 {
		return nil
	}
	_, err := x.eks(ctx, "TagResource", members{"resourceArn": arn, "tags": to["Tags"]})
	return err
}
