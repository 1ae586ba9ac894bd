package eks_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/google/go-cmp/cmp"
)

func TestTags(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	r.hosted(t, "demo")
	c := r.client()
	a := r.associate(t, "demo", "default", "app", r.role(t, "app", trustPods))
	for _, resource := range []string{"arn:aws:eks:us-east-1:111122223333:cluster/demo", *a.AssociationArn} {
		t.Run(resource, func(t *testing.T) {
			tags := func() map[string]string {
				t.Helper()
				return must(c.ListTagsForResource(t.Context(), &awseks.ListTagsForResourceInput{ResourceArn: &resource}))(t).Tags
			}
			if diff := cmp.Diff(map[string]string{}, tags()); diff != "" {
				t.Error(diff)
			}
			for _, more := range []map[string]string{{"a": "1", "b": "2"}, {"b": "3", "c": ""}} {
				must(c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: &resource, Tags: more}))(t)
			}
			must(c.UntagResource(t.Context(), &awseks.UntagResourceInput{ResourceArn: &resource, TagKeys: []string{"a", "never"}}))(t)
			if diff := cmp.Diff(map[string]string{"b": "3", "c": ""}, tags()); diff != "" {
				t.Error(diff)
			}
			_, err := c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: &resource, Tags: map[string]string{"aws:x": "y"}})
			wantRefused(t, err, "BadRequestException", "")
			many := map[string]string{}
			for i := range 49 {
				many[fmt.Sprint("k", i)] = "v"
			}
			_, err = c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: &resource, Tags: many})
			wantRefused(t, err, "BadRequestException", "A resource has at most 50 tags.")
		})
	}
	if got := r.describe(t, "demo", *a.AssociationId).Tags; got["b"] != "3" {
		t.Errorf("the association's tags are %v", got)
	}
	if got := must(c.DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: aws.String("demo")}))(t).Cluster.Tags; got["b"] != "3" {
		t.Errorf("the cluster's tags are %v", got)
	}
	for _, e := range []struct{ resource, code string }{
		{"arn:aws:eks:us-east-1:111122223333:cluster/nope", "NotFoundException"},
		{"arn:aws:eks:us-east-1:111122223333:podidentityassociation/demo/a-nope", "NotFoundException"},
		{strings.Replace(*a.AssociationArn, "/demo/", "/nope/", 1), "NotFoundException"},
		{"arn:aws:eks:us-east-1:111122223333:nodegroup/demo/x/y", "BadRequestException"},
		{"arn:aws:eks:us-east-1:111122223333:cluster/demo/x", "BadRequestException"},
		{"arn:aws:eks:us-east-1:111122223333:podidentityassociation/demo", "BadRequestException"},
		{"arn:aws:eks:eu-west-1:111122223333:cluster/demo", "BadRequestException"},
		{"arn:aws:eks:us-east-1:444455556666:cluster/demo", "BadRequestException"},
		{"arn:aws-cn:eks:us-east-1:111122223333:cluster/demo", "BadRequestException"},
		{"arn:aws:iam::111122223333:role/app", "BadRequestException"},
		{"demo", "BadRequestException"},
	} {
		_, err := c.ListTagsForResource(t.Context(), &awseks.ListTagsForResourceInput{ResourceArn: &e.resource})
		wantRefused(t, err, e.code, "")
		_, err = c.TagResource(t.Context(), &awseks.TagResourceInput{ResourceArn: &e.resource, Tags: map[string]string{"a": "b"}})
		wantRefused(t, err, e.code, "")
		_, err = c.UntagResource(t.Context(), &awseks.UntagResourceInput{ResourceArn: &e.resource, TagKeys: []string{"a"}})
		wantRefused(t, err, e.code, "")
	}
}

func TestTagsAreConditionKeys(t *testing.T) {
	t.Parallel()
	r := newReplica(t)
	for _, name := range []string{"red", "blue"} {
		if _, err := r.call(t, "POST", "/lanyard/clusters", `{"name":"`+name+`","tags":{"color":"`+name+`"}}`); err != nil {
			t.Fatal(err)
		}
	}
	red := r.user(t, "red", `{"Effect":"Allow","Action":["eks:DescribeCluster","eks:ListTagsForResource"],"Resource":"*",
		"Condition":{"StringEquals":{"aws:ResourceTag/color":"red"}}},
		{"Effect":"Allow","Action":"eks:TagResource","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/size":"small"},
		"ForAllValues:StringEquals":{"aws:TagKeys":["size"]}}},
		{"Effect":"Allow","Action":"eks:UntagResource","Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["size"]}}}`)
	describe := func(name string) error {
		_, err := red.client().DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: &name})
		return err
	}
	tag := func(tags map[string]string) error {
		_, err := red.client().TagResource(t.Context(), &awseks.TagResourceInput{
			ResourceArn: aws.String("arn:aws:eks:us-east-1:111122223333:cluster/red"), Tags: tags,
		})
		return err
	}
	untag := func(keys ...string) error {
		_, err := red.client().UntagResource(t.Context(), &awseks.UntagResourceInput{
			ResourceArn: aws.String("arn:aws:eks:us-east-1:111122223333:cluster/red"), TagKeys: keys,
		})
		return err
	}
	for _, e := range []struct {
		name    string
		err     error
		allowed bool
	}{
		{"describe red", describe("red"), true},
		{"describe blue", describe("blue"), false},
		{"describe what is missing", describe("green"), false},
		{"tag with small", tag(map[string]string{"size": "small"}), true},
		{"tag with large", tag(map[string]string{"size": "large"}), false},
		{"tag with more", tag(map[string]string{"size": "small", "color": "blue"}), false},
		{"untag size", untag("size"), true},
		{"untag color", untag("color"), false},
	} {
		t.Run(e.name, func(t *testing.T) {
			if e.allowed {
				if e.err != nil {
					t.Error(e.err)
				}
				return
			}
			wantRefused(t, e.err, "AccessDeniedException", "")
		})
	}
}
