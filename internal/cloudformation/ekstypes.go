package cloudformation

import (
	"cmp"
	"context"
)

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
			putSome(call, "tags", p, "Tags")
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

// versionMade is an attribute of add-ons that templates do not see: the version that EKS chose, or was given, when it was made.
const versionMade = "AddonVersion"

// podRoles are an add-on's associations, whose roles come by service account, as EKS takes them.
func podRoles(roles map[string]string) []any {
	list := []any{}
	for _, account := range sortedKeys(roles) {
		list = append(list, members{"serviceAccount": account, "roleArn": roles[account]})
	}
	return list
}

// addonType follows the CloudFormation Template Reference, "AWS::EKS::Addon".
func addonType() *resourceType {
	target := func(p properties) members {
		return members{"clusterName": p["ClusterName"], "addonName": p["AddonName"]}
	}
	give := func(ctx context.Context, x *actor, p properties, token string) (attributes map[string]string, err error) {
		call := target(p)
		if token != "" {
			call["clientRequestToken"] = token
		}
		put(call, "addonVersion", p, "AddonVersion")
		put(call, "configurationValues", p, "ConfigurationValues")
		put(call, "resolveConflicts", p, "ResolveConflicts")
		put(call, "serviceAccountRoleArn", p, "ServiceAccountRoleArn")
		putSome(call, "tags", p, "Tags")
		if roles := p.byName("PodIdentityAssociations"); len(roles) > 0 {
			call["podIdentityAssociations"] = podRoles(roles)
		}
		out, err := x.eks(ctx, "CreateAddon", call)
		return map[string]string{"Arn": in(out, "addon", "addonArn"), versionMade: in(out, "addon", "addonVersion")}, err
	}
	return &resourceType{
		name: "AWS::EKS::Addon",
		properties: []property{
			{name: "AddonName", kind: textKind, required: true, replaces: true},
			{name: "AddonVersion", kind: textKind},
			{name: "ClusterName", kind: textKind, required: true, replaces: true},
			{name: "ConfigurationValues", kind: textKind},
			{name: "PodIdentityAssociations", kind: podRolesKind},
			{name: "PreserveOnDelete", kind: flagKind},
			{name: "ResolveConflicts", kind: textKind},
			{name: "ServiceAccountRoleArn", kind: textKind},
			{name: "Tags", kind: tagsKind},
		},
		attributes: []string{"Arn"},
		tagged:     true,
		made: []string{
			"AddonName", "AddonVersion", "ClusterName", "ConfigurationValues", "PodIdentityAssociations", "PreserveOnDelete", "ResolveConflicts",
			"ServiceAccountRoleArn", "Tags",
		},
		// The token makes a repeated call answer what the first one made.
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			attributes, err := give(ctx, x, begun.Properties, begun.Token)
			if err != nil {
				return nil, err
			}
			id := begun.Properties.text("ClusterName") + "|" + begun.Properties.text("AddonName")
			return &state{Physical: id, Reference: id, Attributes: attributes}, nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if from.text("ServiceAccountRoleArn") != "" && to.text("ServiceAccountRoleArn") == "" {
				// UpdateAddon can give an add-on another role, but not take it away.
				if err := quietly(x.eks(ctx, "DeleteAddon", target(to))); err != nil {
					return err
				}
				attributes, err := give(ctx, x, to, "")
				if err == nil {
					s.Attributes = attributes
				}
				return err
			}
			call := target(to)
			if !from.same(to, "AddonVersion") {
				// Without a version, EKS leaves the add-on as it is; here it gets the one that it was made with.
				call["addonVersion"] = cmp.Or(to.text("AddonVersion"), s.Attributes[versionMade])
			}
			if !from.same(to, "ConfigurationValues") {
				call["configurationValues"] = to.text("ConfigurationValues")
			}
			if !from.same(to, "PodIdentityAssociations") {
				call["podIdentityAssociations"] = podRoles(to.byName("PodIdentityAssociations"))
			}
			if !from.same(to, "ServiceAccountRoleArn") {
				call["serviceAccountRoleArn"] = to["ServiceAccountRoleArn"]
			}
			if len(call) > len(target(to)) {
				put(call, "resolveConflicts", to, "ResolveConflicts")
				if _, err := x.eks(ctx, "UpdateAddon", call); err != nil {
					return err
				}
			}
			return x.setEKSTags(ctx, s.Attributes["Arn"], from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			call := target(s.Properties)
			put(call, "preserve", s.Properties, "PreserveOnDelete")
			return quietly(x.eks(ctx, "DeleteAddon", call))
		},
	}
}

// accessEntryType follows the CloudFormation Template Reference, "AWS::EKS::AccessEntry".
func accessEntryType() *resourceType {
	target := func(p properties) members {
		return members{"clusterName": p["ClusterName"], "principalArn": p["PrincipalArn"]}
	}
	return &resourceType{
		name: "AWS::EKS::AccessEntry",
		properties: []property{
			{name: "AccessPolicies", kind: scopesKind},
			{name: "ClusterName", kind: textKind, required: true, replaces: true},
			{name: "KubernetesGroups", kind: textsKind},
			{name: "PrincipalArn", kind: textKind, required: true, replaces: true},
			{name: "Tags", kind: tagsKind},
			{name: "Type", kind: textKind, replaces: true},
			{name: "Username", kind: textKind},
		},
		attributes: []string{"AccessEntryArn"},
		tagged:     true,
		made:       []string{"ClusterName", "KubernetesGroups", "PrincipalArn", "Tags", "Type", "Username"},
		// The token makes a repeated call answer what the first one made.
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			p := begun.Properties
			call := with(target(p), "clientRequestToken", begun.Token)
			put(call, "kubernetesGroups", p, "KubernetesGroups")
			put(call, "type", p, "Type")
			put(call, "username", p, "Username")
			putSome(call, "tags", p, "Tags")
			out, err := x.eks(ctx, "CreateAccessEntry", call)
			if err != nil {
				return nil, err
			}
			id := p.text("PrincipalArn") + "|" + p.text("ClusterName")
			return &state{Physical: id, Reference: id, Attributes: map[string]string{"AccessEntryArn": in(out, "accessEntry", "accessEntryArn")}}, nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if !from.same(to, "KubernetesGroups") || !from.same(to, "Username") {
				call := with(target(to), "kubernetesGroups", anys(to.texts("KubernetesGroups")))
				call["username"] = to.text("Username")
				if _, err := x.eks(ctx, "UpdateAccessEntry", call); err != nil {
					return err
				}
			}
			if err := x.setAccessPolicies(ctx, target(to), from, to); err != nil {
				return err
			}
			return x.setEKSTags(ctx, s.Attributes["AccessEntryArn"], from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return quietly(x.eks(ctx, "DeleteAccessEntry", target(s.Properties)))
		},
	}
}

// setAccessPolicies changes where which access policies apply to an access entry.
func (x *actor) setAccessPolicies(ctx context.Context, target members, from, to properties) error {
	was, _ := from["AccessPolicies"].(map[string]any)
	is, _ := to["AccessPolicies"].(map[string]any)
	for _, arn := range sortedKeys(is) {
		if canonical(was[arn]) == canonical(is[arn]) {
			continue
		}
		scope, _ := is[arn].(map[string]any)
		where := members{"type": scope["Type"]}
		put(where, "namespaces", scope, "Namespaces")
		if _, err := x.eks(ctx, "AssociateAccessPolicy", with(with(target, "policyArn", arn), "accessScope", where)); err != nil {
			return err
		}
	}
	for _, arn := range without(sortedKeys(was), sortedKeys(is)) {
		if err := quietly(x.eks(ctx, "DisassociateAccessPolicy", with(target, "policyArn", arn))); err != nil {
			return err
		}
	}
	return nil
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
