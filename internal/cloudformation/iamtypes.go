package cloudformation

import (
	"context"
	"maps"
	"net/url"
	"slices"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// The properties, attributes and replacement rules of this file are those of the CloudFormation Template Reference, "AWS::IAM". What
// Lanyard's IAM does not have (login profiles) the types do not have either.

// put adds to an input a property that is there, under the name that the operation has for it.
func put(to members, name string, p properties, property string) {
	if v, ok := p[property]; ok {
		to[name] = v
	}
}

// putSome is put for what operations take only when something is in it.
func putSome(to members, name string, p properties, property string) {
	if len(p.byName(property)) > 0 {
		put(to, name, p, property)
	}
}

// tagList is a resource's tags as IAM takes them.
func tagList(p properties) []any {
	tags := p.byName("Tags")
	list := []any{}
	for _, key := range sortedKeys(tags) {
		list = append(list, members{"Key": key, "Value": tags[key]})
	}
	return list
}

// setTags changes the tags of something of IAM that an input names.
func (x *actor) setTags(ctx context.Context, noun string, target members, from, to properties) error {
	var gone []any
	for _, key := range sortedKeys(from.byName("Tags")) {
		if _, stays := to.byName("Tags")[key]; !stays {
			gone = append(gone, key)
		}
	}
	if len(gone) > 0 {
		if _, err := x.iam(ctx, "Untag"+noun, with(target, "TagKeys", gone)); err != nil {
			return err
		}
	}
	if from.same(to, "Tags") || len(to.byName("Tags")) == 0 {
		return nil
	}
	_, err := x.iam(ctx, "Tag"+noun, with(target, "Tags", tagList(to)))
	return err
}

// with is a copy of an input with one more member.
func with(target members, name string, v any) members {
	in := maps.Clone(target)
	in[name] = v
	return in
}

// setPermissions changes what users and roles have in common: attached policies, inline policies and the boundary.
func (x *actor) setPermissions(ctx context.Context, noun string, target members, from, to properties) error {
	if !from.same(to, "PermissionsBoundary") {
		var err error
		if boundary := to.text("PermissionsBoundary"); boundary != "" {
			_, err = x.iam(ctx, "Put"+noun+"PermissionsBoundary", with(target, "PermissionsBoundary", boundary))
		} else {
			err = quietly(x.iam(ctx, "Delete"+noun+"PermissionsBoundary", target))
		}
		if err != nil {
			return err
		}
	}
	if !from.same(to, "ManagedPolicyArns") {
		for _, arn := range to.texts("ManagedPolicyArns") {
			if _, err := x.iam(ctx, "Attach"+noun+"Policy", with(target, "PolicyArn", arn)); err != nil {
				return err
			}
		}
		for _, arn := range without(from.texts("ManagedPolicyArns"), to.texts("ManagedPolicyArns")) {
			if err := quietly(x.iam(ctx, "Detach"+noun+"Policy", with(target, "PolicyArn", arn))); err != nil {
				return err
			}
		}
	}
	was, is := from.byName("Policies"), to.byName("Policies")
	for _, name := range sortedKeys(is) {
		if was[name] != is[name] {
			if err := x.putInline(ctx, noun, target, name, is[name]); err != nil {
				return err
			}
		}
	}
	for _, name := range without(sortedKeys(was), sortedKeys(is)) {
		if err := x.deleteInline(ctx, noun, target, name); err != nil {
			return err
		}
	}
	return nil
}

func (x *actor) putInline(ctx context.Context, noun string, target members, name, document string) error {
	_, err := x.iam(ctx, "Put"+noun+"Policy", with(with(target, "PolicyName", name), "PolicyDocument", document))
	return err
}

func (x *actor) deleteInline(ctx context.Context, noun string, target members, name string) error {
	return quietly(x.iam(ctx, "Delete"+noun+"Policy", with(target, "PolicyName", name)))
}

// without returns the items of a list that another does not have.
func without(list, other []string) []string {
	var left []string
	for _, item := range list {
		if !slices.Contains(other, item) {
			left = append(left, item)
		}
	}
	return left
}

func roleType() *resourceType {
	target := func(s *state) members { return members{"RoleName": s.Physical} }
	stateOf := func(out members) *state {
		name := in(out, "Role", "RoleName")
		return &state{Physical: name, Reference: name, Attributes: map[string]string{
			"Arn": in(out, "Role", "Arn"), "RoleId": in(out, "Role", "RoleId"),
		}}
	}
	return &resourceType{
		name: "AWS::IAM::Role",
		properties: []property{
			{name: "AssumeRolePolicyDocument", kind: documentKind, required: true},
			{name: "Description", kind: textKind},
			{name: "ManagedPolicyArns", kind: textsKind},
			{name: "MaxSessionDuration", kind: numberKind},
			{name: "Path", kind: textKind, replaces: true},
			{name: "PermissionsBoundary", kind: textKind},
			{name: "Policies", kind: policiesKind},
			{name: "RoleName", kind: textKind, replaces: true},
			{name: "Tags", kind: tagsKind},
		},
		attributes: []string{"Arn", "RoleId"},
		iam:        true, nameProperty: "RoleName", nameLength: 64, tagged: true,
		made: []string{"AssumeRolePolicyDocument", "Description", "MaxSessionDuration", "Path", "PermissionsBoundary", "RoleName", "Tags"},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			p := begun.Properties
			call := members{"RoleName": begun.Name, "AssumeRolePolicyDocument": p["AssumeRolePolicyDocument"], "Tags": tagList(p)}
			for _, name := range []string{"Description", "MaxSessionDuration", "Path", "PermissionsBoundary"} {
				put(call, name, p, name)
			}
			out, err := x.iam(ctx, "CreateRole", call)
			if err != nil {
				return nil, err
			}
			return stateOf(out), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			out, err := x.iam(ctx, "GetRole", members{"RoleName": begun.Name})
			if err != nil || !madeSince(out["Role"], begun) {
				return nil, quietly(nil, err)
			}
			return stateOf(out), nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if !from.same(to, "AssumeRolePolicyDocument") {
				call := with(target(s), "PolicyDocument", to["AssumeRolePolicyDocument"])
				if _, err := x.iam(ctx, "UpdateAssumeRolePolicy", call); err != nil {
					return err
				}
			}
			if !from.same(to, "Description") || !from.same(to, "MaxSessionDuration") {
				call := with(target(s), "Description", to.text("Description"))
				call["MaxSessionDuration"] = float64(3600) // IAM's own when a role is made without
				put(call, "MaxSessionDuration", to, "MaxSessionDuration")
				if _, err := x.iam(ctx, "UpdateRole", call); err != nil {
					return err
				}
			}
			if err := x.setTags(ctx, "Role", target(s), from, to); err != nil {
				return err
			}
			return x.setPermissions(ctx, "Role", target(s), from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return x.removeEntity(ctx, "Role", target(s), s)
		},
	}
}

// removeEntity removes a user or role together with the policies that the template gave it. What others attached keeps it.
func (x *actor) removeEntity(ctx context.Context, noun string, target members, s *state) error {
	for _, arn := range s.Properties.texts("ManagedPolicyArns") {
		if err := quietly(x.iam(ctx, "Detach"+noun+"Policy", with(target, "PolicyArn", arn))); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(s.Properties.byName("Policies")) {
		if err := x.deleteInline(ctx, noun, target, name); err != nil {
			return err
		}
	}
	return quietly(x.iam(ctx, "Delete"+noun, target))
}

func userType() *resourceType {
	target := func(s *state) members { return members{"UserName": s.Physical} }
	stateOf := func(out members) *state {
		name := in(out, "User", "UserName")
		return &state{Physical: name, Reference: name, Attributes: map[string]string{"Arn": in(out, "User", "Arn")}}
	}
	return &resourceType{
		name: "AWS::IAM::User",
		properties: []property{
			{name: "Groups", kind: textsKind},
			{name: "ManagedPolicyArns", kind: textsKind},
			{name: "Path", kind: textKind, replaces: true},
			{name: "PermissionsBoundary", kind: textKind},
			{name: "Policies", kind: policiesKind},
			{name: "Tags", kind: tagsKind},
			{name: "UserName", kind: textKind, replaces: true},
		},
		attributes: []string{"Arn"},
		iam:        true, nameProperty: "UserName", nameLength: 64, tagged: true,
		made: []string{"Path", "PermissionsBoundary", "Tags", "UserName"},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			call := members{"UserName": begun.Name, "Tags": tagList(begun.Properties)}
			put(call, "Path", begun.Properties, "Path")
			put(call, "PermissionsBoundary", begun.Properties, "PermissionsBoundary")
			out, err := x.iam(ctx, "CreateUser", call)
			if err != nil {
				return nil, err
			}
			return stateOf(out), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			out, err := x.iam(ctx, "GetUser", members{"UserName": begun.Name})
			if err != nil || !madeSince(out["User"], begun) {
				return nil, quietly(nil, err)
			}
			return stateOf(out), nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if err := x.setTags(ctx, "User", target(s), from, to); err != nil {
				return err
			}
			if err := x.setGroups(ctx, target(s), from, to); err != nil {
				return err
			}
			return x.setPermissions(ctx, "User", target(s), from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			if err := x.setGroups(ctx, target(s), s.Properties, properties{}); err != nil {
				return err
			}
			return x.removeEntity(ctx, "User", target(s), s)
		},
	}
}

// setGroups changes which groups a user is in.
func (x *actor) setGroups(ctx context.Context, user members, from, to properties) error {
	was, is := from.texts("Groups"), to.texts("Groups")
	for _, group := range without(is, was) {
		if _, err := x.iam(ctx, "AddUserToGroup", with(user, "GroupName", group)); err != nil {
			return err
		}
	}
	for _, group := range without(was, is) {
		if err := quietly(x.iam(ctx, "RemoveUserFromGroup", with(user, "GroupName", group))); err != nil {
			return err
		}
	}
	return nil
}

func accessKeyType() *resourceType {
	list := func(ctx context.Context, x *actor, user string) ([]string, error) {
		out, err := x.iam(ctx, "ListAccessKeys", members{"UserName": user})
		if err != nil {
			return nil, err
		}
		var ids []string
		keys, _ := out["AccessKeyMetadata"].([]any)
		for _, k := range keys {
			if m, ok := k.(members); ok {
				ids = append(ids, in(m, "AccessKeyId"))
			}
		}
		return ids, nil
	}
	return &resourceType{
		name: "AWS::IAM::AccessKey",
		properties: []property{
			{name: "Serial", kind: numberKind, replaces: true},
			{name: "Status", kind: textKind},
			{name: "UserName", kind: textKind, required: true, replaces: true},
		},
		attributes: []string{"SecretAccessKey"},
		iam:        true,
		made:       []string{"Serial", "UserName"},
		prepare: func(ctx context.Context, x *actor, begun *intent) (err error) {
			begun.Known, err = list(ctx, x, begun.Properties.text("UserName"))
			return err
		},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			out, err := x.iam(ctx, "CreateAccessKey", members{"UserName": begun.Properties["UserName"]})
			if err != nil {
				return nil, err
			}
			id := in(out, "AccessKey", "AccessKeyId")
			return &state{Physical: id, Reference: id, Attributes: map[string]string{
				"SecretAccessKey": in(out, "AccessKey", "SecretAccessKey"),
			}}, nil
		},
		// A key whose secret was lost with the answer is of no use: it goes, and another one is made.
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			user := begun.Properties.text("UserName")
			ids, err := list(ctx, x, user)
			if err != nil {
				return nil, quietly(nil, err)
			}
			for _, id := range without(ids, begun.Known) {
				if err := quietly(x.iam(ctx, "DeleteAccessKey", members{"UserName": user, "AccessKeyId": id})); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if from.same(to, "Status") {
				return nil
			}
			status := to.text("Status")
			if status == "" {
				status = "Active"
			}
			_, err := x.iam(ctx, "UpdateAccessKey", members{"UserName": to["UserName"], "AccessKeyId": s.Physical, "Status": status})
			return err
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return quietly(x.iam(ctx, "DeleteAccessKey", members{"UserName": s.Properties["UserName"], "AccessKeyId": s.Physical}))
		},
	}
}

// policyHolders are what inline and managed policies can be for: IAM's names of them. The property of a type that lists them has an s more.
var policyHolders = [...]string{"Group", "Role", "User"}

// targets are the groups, roles and users that an inline or managed policy is for.
func targets(p properties, visit func(noun string, target members) error) error {
	for _, noun := range policyHolders {
		for _, name := range p.texts(noun + "s") {
			if err := visit(noun, members{noun + "Name": name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone returns the properties with only those groups, roles and users that others do not have.
func gone(from, to properties) properties {
	left := properties{}
	for _, noun := range policyHolders {
		left[noun+"s"] = anys(without(from.texts(noun+"s"), to.texts(noun+"s")))
	}
	return left
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, item := range list {
		out[i] = item
	}
	return out
}

// policyType is an inline policy that several groups, roles and users may have. Nothing but the policies themselves is made, so that
// its physical ID is only a name for it.
func policyType() *resourceType {
	remove := func(ctx context.Context, x *actor, p properties, name string) error {
		return targets(p, func(noun string, target members) error { return x.deleteInline(ctx, noun, target, name) })
	}
	return &resourceType{
		name: "AWS::IAM::Policy",
		properties: []property{
			{name: "Groups", kind: textsKind},
			{name: "PolicyDocument", kind: documentKind, required: true},
			{name: "PolicyName", kind: textKind, required: true},
			{name: "Roles", kind: textsKind},
			{name: "Users", kind: textsKind},
		},
		attributes: []string{"Id"},
		iam:        true, nameLength: 128,
		make: func(_ context.Context, _ *actor, begun *intent) (*state, error) {
			holders := 0
			for _, noun := range policyHolders {
				holders += len(begun.Properties.texts(noun + "s"))
			}
			if holders == 0 {
				return nil, invalid("At least one of [Groups,Roles,Users] must be non-empty.")
			}
			return &state{Physical: begun.Name, Reference: begun.Name, Attributes: map[string]string{"Id": begun.Name}}, nil
		},
		set: func(ctx context.Context, x *actor, _ *state, from, to properties) error {
			err := targets(to, func(noun string, target members) error {
				return x.putInline(ctx, noun, target, to.text("PolicyName"), to.text("PolicyDocument"))
			})
			if err != nil {
				return err
			}
			if from.text("PolicyName") != to.text("PolicyName") {
				return remove(ctx, x, from, from.text("PolicyName"))
			}
			return remove(ctx, x, gone(from, to), from.text("PolicyName"))
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return remove(ctx, x, s.Properties, s.Properties.text("PolicyName"))
		},
	}
}

func rolePolicyType() *resourceType {
	target := func(p properties) members { return members{"RoleName": p["RoleName"]} }
	return &resourceType{
		name: "AWS::IAM::RolePolicy",
		properties: []property{
			{name: "PolicyDocument", kind: documentKind, required: true},
			{name: "PolicyName", kind: textKind, required: true, replaces: true},
			{name: "RoleName", kind: textKind, required: true, replaces: true},
		},
		iam: true,
		// A policy of that name that somebody else put there is not to be overwritten, nor removed afterwards.
		prepare: func(ctx context.Context, x *actor, begun *intent) error {
			name := begun.Properties.text("PolicyName")
			_, err := x.iam(ctx, "GetRolePolicy", with(target(begun.Properties), "PolicyName", name))
			if err == nil {
				return awsapi.Errorf("EntityAlreadyExists", "The role %s has a policy with name %s already.",
					begun.Properties.text("RoleName"), name)
			}
			return quietly(nil, err)
		},
		make: func(_ context.Context, _ *actor, begun *intent) (*state, error) {
			id := begun.Properties.text("PolicyName") + "|" + begun.Properties.text("RoleName")
			return &state{Physical: id, Reference: id}, nil
		},
		set: func(ctx context.Context, x *actor, _ *state, _, to properties) error {
			return x.putInline(ctx, "Role", target(to), to.text("PolicyName"), to.text("PolicyDocument"))
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return x.deleteInline(ctx, "Role", target(s.Properties), s.Properties.text("PolicyName"))
		},
	}
}

func managedPolicyType() *resourceType {
	target := func(s *state) members { return members{"PolicyArn": s.Physical} }
	stateOf := func(out members) *state {
		arn := in(out, "Policy", "Arn")
		return &state{Physical: arn, Reference: arn, Attributes: map[string]string{"PolicyArn": arn, "PolicyId": in(out, "Policy", "PolicyId")}}
	}
	attach := func(ctx context.Context, x *actor, s *state, p properties) error {
		return targets(p, func(noun string, who members) error {
			_, err := x.iam(ctx, "Attach"+noun+"Policy", with(who, "PolicyArn", s.Physical))
			return err
		})
	}
	detach := func(ctx context.Context, x *actor, s *state, p properties) error {
		return targets(p, func(noun string, who members) error {
			return quietly(x.iam(ctx, "Detach"+noun+"Policy", with(who, "PolicyArn", s.Physical)))
		})
	}
	return &resourceType{
		name: "AWS::IAM::ManagedPolicy",
		properties: []property{
			{name: "Description", kind: textKind, replaces: true},
			{name: "Groups", kind: textsKind},
			{name: "ManagedPolicyName", kind: textKind, replaces: true},
			{name: "Path", kind: textKind, replaces: true},
			{name: "PolicyDocument", kind: documentKind, required: true},
			{name: "Roles", kind: textsKind},
			{name: "Users", kind: textsKind},
		},
		attributes: []string{"PolicyArn", "PolicyId"},
		iam:        true, nameProperty: "ManagedPolicyName", nameLength: 128,
		made: []string{"Description", "ManagedPolicyName", "Path", "PolicyDocument"},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			call := members{"PolicyName": begun.Name, "PolicyDocument": begun.Properties["PolicyDocument"]}
			put(call, "Path", begun.Properties, "Path")
			put(call, "Description", begun.Properties, "Description")
			out, err := x.iam(ctx, "CreatePolicy", call)
			if err != nil {
				return nil, err
			}
			return stateOf(out), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			path := begun.Properties.text("Path")
			if path == "" {
				path = "/"
			}
			arn := "arn:" + x.stack.Partition + ":iam::" + x.stack.Account + ":policy" + path + begun.Name
			out, err := x.iam(ctx, "GetPolicy", members{"PolicyArn": arn})
			if err != nil || !madeSince(out["Policy"], begun) {
				return nil, quietly(nil, err)
			}
			return stateOf(out), nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if !from.same(to, "PolicyDocument") {
				if err := x.setVersion(ctx, target(s), to.text("PolicyDocument")); err != nil {
					return err
				}
			}
			if err := attach(ctx, x, s, gone(to, from)); err != nil {
				return err
			}
			return detach(ctx, x, s, gone(from, to))
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			if err := detach(ctx, x, s, s.Properties); err != nil {
				return err
			}
			versions, err := x.versions(ctx, target(s))
			if err != nil {
				return quietly(nil, err)
			}
			for _, v := range versions {
				if v["IsDefaultVersion"] == true {
					continue
				}
				if err := quietly(x.iam(ctx, "DeletePolicyVersion", with(target(s), "VersionId", v["VersionId"]))); err != nil {
					return err
				}
			}
			return quietly(x.iam(ctx, "DeletePolicy", target(s)))
		},
	}
}

// versions are a managed policy's versions, the newest first.
func (x *actor) versions(ctx context.Context, target members) ([]members, error) {
	out, err := x.iam(ctx, "ListPolicyVersions", target)
	if err != nil {
		return nil, err
	}
	list, _ := out["Versions"].([]any)
	versions := make([]members, 0, len(list))
	for _, v := range list {
		if m, ok := v.(members); ok {
			versions = append(versions, m)
		}
	}
	return versions, nil
}

// maxVersions is how many versions a managed policy may have (IAM User Guide, "IAM and AWS STS quotas").
const maxVersions = 5

// setVersion makes a document a managed policy's default version. When there is no room, the oldest other version goes.
func (x *actor) setVersion(ctx context.Context, target members, document string) error {
	versions, err := x.versions(ctx, target)
	if err != nil {
		return err
	}
	for i, v := range slices.Backward(versions) {
		if v["IsDefaultVersion"] == true {
			out, err := x.iam(ctx, "GetPolicyVersion", with(target, "VersionId", v["VersionId"]))
			if err != nil {
				return err
			}
			if have, err := url.PathUnescape(in(out, "PolicyVersion", "Document")); err == nil && have == document {
				return nil // an earlier attempt has come so far
			}
			continue
		}
		if len(versions) < maxVersions {
			continue
		}
		if _, err := x.iam(ctx, "DeletePolicyVersion", with(target, "VersionId", v["VersionId"])); err != nil {
			return err
		}
		versions = slices.Delete(versions, i, i+1)
	}
	call := with(target, "PolicyDocument", document)
	call["SetAsDefault"] = true
	_, err = x.iam(ctx, "CreatePolicyVersion", call)
	return err
}

func instanceProfileType() *resourceType {
	target := func(s *state) members { return members{"InstanceProfileName": s.Physical} }
	stateOf := func(out members) *state {
		name := in(out, "InstanceProfile", "InstanceProfileName")
		return &state{Physical: name, Reference: name, Attributes: map[string]string{"Arn": in(out, "InstanceProfile", "Arn")}}
	}
	leave := func(ctx context.Context, x *actor, s *state, roles []string) error {
		for _, role := range roles {
			if err := quietly(x.iam(ctx, "RemoveRoleFromInstanceProfile", with(target(s), "RoleName", role))); err != nil {
				return err
			}
		}
		return nil
	}
	return &resourceType{
		name: "AWS::IAM::InstanceProfile",
		properties: []property{
			{name: "InstanceProfileName", kind: textKind, replaces: true},
			{name: "Path", kind: textKind, replaces: true},
			{name: "Roles", kind: textsKind, required: true},
		},
		attributes: []string{"Arn"},
		iam:        true, nameProperty: "InstanceProfileName", nameLength: 128,
		made: []string{"InstanceProfileName", "Path"},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			call := members{"InstanceProfileName": begun.Name}
			put(call, "Path", begun.Properties, "Path")
			out, err := x.iam(ctx, "CreateInstanceProfile", call)
			if err != nil {
				return nil, err
			}
			return stateOf(out), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			out, err := x.iam(ctx, "GetInstanceProfile", members{"InstanceProfileName": begun.Name})
			if err != nil || !madeSince(out["InstanceProfile"], begun) {
				return nil, quietly(nil, err)
			}
			return stateOf(out), nil
		},
		// A profile has room for one role: the old one leaves before the other comes. One that an earlier attempt has put there
		// is found there.
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			if err := leave(ctx, x, s, without(from.texts("Roles"), to.texts("Roles"))); err != nil {
				return err
			}
			out, err := x.iam(ctx, "GetInstanceProfile", target(s))
			if err != nil {
				return err
			}
			profile, _ := out["InstanceProfile"].(members)
			inside, _ := profile["Roles"].([]any)
			for _, role := range to.texts("Roles") {
				there := slices.ContainsFunc(inside, func(r any) bool {
					m, _ := r.(members)
					return in(m, "RoleName") == role
				})
				if there {
					continue
				}
				if _, err := x.iam(ctx, "AddRoleToInstanceProfile", with(target(s), "RoleName", role)); err != nil {
					return err
				}
			}
			return nil
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			if err := leave(ctx, x, s, s.Properties.texts("Roles")); err != nil {
				return err
			}
			return quietly(x.iam(ctx, "DeleteInstanceProfile", target(s)))
		},
	}
}

func oidcProviderType() *resourceType {
	target := func(s *state) members { return members{"OpenIDConnectProviderArn": s.Physical} }
	stateOf := func(arn string) *state {
		return &state{Physical: arn, Reference: arn, Attributes: map[string]string{"Arn": arn}}
	}
	return &resourceType{
		name: "AWS::IAM::OIDCProvider",
		properties: []property{
			{name: "ClientIdList", kind: textsKind},
			{name: "Tags", kind: tagsKind},
			{name: "ThumbprintList", kind: textsKind},
			{name: "Url", kind: textKind, required: true, replaces: true},
		},
		attributes: []string{"Arn"},
		tagged:     true,
		made:       []string{"ClientIdList", "Tags", "ThumbprintList", "Url"},
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			call := members{"Url": begun.Properties["Url"], "Tags": tagList(begun.Properties)}
			put(call, "ClientIDList", begun.Properties, "ClientIdList")
			put(call, "ThumbprintList", begun.Properties, "ThumbprintList")
			out, err := x.iam(ctx, "CreateOpenIDConnectProvider", call)
			if err != nil {
				return nil, err
			}
			return stateOf(in(out, "OpenIDConnectProviderArn")), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			u, err := url.Parse(begun.Properties.text("Url"))
			if err != nil {
				return nil, nil // IAM has refused it
			}
			arn := "arn:" + x.stack.Partition + ":iam::" + x.stack.Account + ":oidc-provider/" + u.Hostname() + u.EscapedPath()
			out, err := x.iam(ctx, "GetOpenIDConnectProvider", members{"OpenIDConnectProviderArn": arn})
			if err != nil || !madeSince(out, begun) {
				return nil, quietly(nil, err)
			}
			return stateOf(arn), nil
		},
		set: func(ctx context.Context, x *actor, s *state, from, to properties) error {
			for _, id := range without(to.texts("ClientIdList"), from.texts("ClientIdList")) {
				if _, err := x.iam(ctx, "AddClientIDToOpenIDConnectProvider", with(target(s), "ClientID", id)); err != nil {
					return err
				}
			}
			for _, id := range without(from.texts("ClientIdList"), to.texts("ClientIdList")) {
				if _, err := x.iam(ctx, "RemoveClientIDFromOpenIDConnectProvider", with(target(s), "ClientID", id)); err != nil {
					return err
				}
			}
			if list := to.texts("ThumbprintList"); len(list) > 0 && !from.same(to, "ThumbprintList") {
				if _, err := x.iam(ctx, "UpdateOpenIDConnectProviderThumbprint", with(target(s), "ThumbprintList", anys(list))); err != nil {
					return err
				}
			}
			return x.setTags(ctx, "OpenIDConnectProvider", target(s), from, to)
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			return quietly(x.iam(ctx, "DeleteOpenIDConnectProvider", target(s)))
		},
	}
}
