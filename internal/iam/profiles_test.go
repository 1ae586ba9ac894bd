package iam_test

import (
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

func TestAnInstanceProfileHoldsARole(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	in.role(t, "app")
	in.role(t, "second")
	created, err := in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{
		InstanceProfileName: of("Node"), Path: of("/k8s/"), Tags: []types.Tag{{Key: of("a"), Value: of("b")}},
	})
	check(t, err)
	if p := created.InstanceProfile; *p.Arn != "arn:aws:iam::111122223333:instance-profile/k8s/Node" || len(p.Roles) != 0 || len(p.Tags) != 1 {
		t.Errorf("created %+v", p)
	}
	add := func(role string) error {
		return failure(in.root.AddRoleToInstanceProfile(ctx, &awsiam.AddRoleToInstanceProfileInput{
			InstanceProfileName: of("node"), RoleName: &role,
		}))
	}
	refused(t, add("no"), "NoSuchEntity", "The role with name no cannot be found.")
	check(t, add("app"))
	refused(t, add("second"), "LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
	got, err := in.root.GetInstanceProfile(ctx, &awsiam.GetInstanceProfileInput{InstanceProfileName: of("NODE")})
	check(t, err)
	if p := got.InstanceProfile; len(p.Roles) != 1 || *p.Roles[0].RoleName != "app" || p.Roles[0].AssumeRolePolicyDocument == nil {
		t.Errorf("GetInstanceProfile = %+v", p)
	}
	for role, want := range map[string]int{"app": 1, "second": 0} {
		list, err := in.root.ListInstanceProfilesForRole(ctx, &awsiam.ListInstanceProfilesForRoleInput{RoleName: &role})
		check(t, err)
		if len(list.InstanceProfiles) != want {
			t.Errorf("%s is in %d profiles, want %d", role, len(list.InstanceProfiles), want)
		}
	}
	remove := func() error {
		return failure(in.root.DeleteInstanceProfile(ctx, &awsiam.DeleteInstanceProfileInput{InstanceProfileName: of("node")}))
	}
	refused(t, remove(), "DeleteConflict", "Cannot delete entity, must remove roles from instance profile first.")
	take := func(role string) error {
		return failure(in.root.RemoveRoleFromInstanceProfile(ctx, &awsiam.RemoveRoleFromInstanceProfileInput{
			InstanceProfileName: of("node"), RoleName: &role,
		}))
	}
	refused(t, take("second"), "NoSuchEntity", "The role with name second cannot be found.")
	check(t, take("app"))
	_, err = in.root.TagInstanceProfile(ctx, &awsiam.TagInstanceProfileInput{
		InstanceProfileName: of("node"), Tags: []types.Tag{{Key: of("c"), Value: of("d")}},
	})
	check(t, err)
	_, err = in.root.UntagInstanceProfile(ctx, &awsiam.UntagInstanceProfileInput{InstanceProfileName: of("node"), TagKeys: []string{"a"}})
	check(t, err)
	tags, err := in.root.ListInstanceProfileTags(ctx, &awsiam.ListInstanceProfileTagsInput{InstanceProfileName: of("node")})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "c" {
		t.Errorf("tags = %+v", tags.Tags)
	}
	list, err := in.root.ListInstanceProfiles(ctx, &awsiam.ListInstanceProfilesInput{PathPrefix: of("/k8s/")})
	check(t, err)
	if len(list.InstanceProfiles) != 1 || list.InstanceProfiles[0].Tags != nil {
		t.Errorf("list = %+v", list.InstanceProfiles)
	}
	refused(t, failure(in.root.CreateInstanceProfile(ctx, &awsiam.CreateInstanceProfileInput{InstanceProfileName: of("node")})),
		"EntityAlreadyExists", "Instance Profile node already exists.")
	check(t, remove())
	refused(t, remove(), "NoSuchEntity", "Instance Profile node cannot be found.")
}
