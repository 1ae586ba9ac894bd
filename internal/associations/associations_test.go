package associations

import (
	"context"
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

const (
	reader = "arn:aws:iam::111122223333:role/reader"
	writer = "arn:aws:iam::111122223333:role/writer"
)

func TestOnlyWhatDiffersIsUpdated(t *testing.T) {
	t.Parallel()
	plain := ekstypes.PodIdentityAssociation{RoleArn: aws.String(reader), DisableSessionTags: aws.Bool(false)}
	full := ekstypes.PodIdentityAssociation{
		RoleArn: aws.String(reader), TargetRoleArn: aws.String(writer), DisableSessionTags: aws.Bool(true), Policy: aws.String(`{"a":1}`),
	}
	for _, c := range []struct {
		name string
		have ekstypes.PodIdentityAssociation
		want Spec
		in   eks.UpdatePodIdentityAssociationInput
		what []string
	}{
		{"nothing", plain, Spec{RoleARN: reader}, eks.UpdatePodIdentityAssociationInput{}, nil},
		{"nothing, where EKS leaves out what is false", ekstypes.PodIdentityAssociation{RoleArn: aws.String(reader)}, Spec{RoleARN: reader},
			eks.UpdatePodIdentityAssociationInput{}, nil},
		{"the white space of a policy", full, Spec{RoleARN: reader, TargetRoleARN: writer, DisableSessionTags: true, Policy: `{ "a": 1 }`},
			eks.UpdatePodIdentityAssociationInput{}, nil},
		{"the role", plain, Spec{RoleARN: writer}, eks.UpdatePodIdentityAssociationInput{RoleArn: aws.String(writer)}, []string{"roleARN"}},
		{"a target, tags and a policy that are added", plain, Spec{RoleARN: reader, TargetRoleARN: writer, DisableSessionTags: true, Policy: `{}`},
			eks.UpdatePodIdentityAssociationInput{TargetRoleArn: aws.String(writer), DisableSessionTags: aws.Bool(true), Policy: aws.String(`{}`)},
			[]string{"targetRoleARN", "disableSessionTags", "policy"}},
		{"those that are taken away", full, Spec{RoleARN: reader},
			eks.UpdatePodIdentityAssociationInput{TargetRoleArn: aws.String(""), DisableSessionTags: aws.Bool(false), Policy: aws.String("")},
			[]string{"targetRoleARN", "disableSessionTags", "policy"}},
		{"what a policy says", full, Spec{RoleARN: reader, TargetRoleARN: writer, DisableSessionTags: true, Policy: `{"a": 2}`},
			eks.UpdatePodIdentityAssociationInput{Policy: aws.String(`{"a": 2}`)}, []string{"policy"}},
	} {
		in, what := changes(&c.have, c.want)
		if diff := cmp.Diff(&c.in, in, cmpopts.IgnoreUnexported(eks.UpdatePodIdentityAssociationInput{})); diff != "" || !slices.Equal(what, c.what) {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, what, diff)
		}
	}
}

func TestTagsAreThoseOfTheSpecAndAWSs(t *testing.T) {
	t.Parallel()
	a := &PodIdentityAssociation{ObjectMeta: metav1.ObjectMeta{Name: "reader", UID: "1"}}
	a.Spec.Tags = map[string]string{"same": "a", "changed": "b", "added": "c"}
	set, unset := tagChanges(map[string]string{"same": "a", "changed": "x", "stray": "y", "aws:cloudformation:stack-name": "z"}, tags(a))
	if diff := cmp.Diff(map[string]string{"changed": "b", "added": "c", UIDTag: "1", NameTag: "reader"}, set); diff != "" {
		t.Errorf("set (-want +got):\n%s", diff)
	}
	if !slices.Equal(unset, []string{"stray"}) {
		t.Errorf("unset: %q", unset)
	}
	if set, unset = tagChanges(tags(a), tags(a)); len(set)+len(unset) > 0 {
		t.Errorf("of the same tags %v are set, and %q unset", set, unset)
	}
}

func TestOnlyTheResourcesOwnAssociationIsTouched(t *testing.T) {
	t.Parallel()
	a := &PodIdentityAssociation{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "reader", UID: "1"}, Spec: Spec{ServiceAccountName: "reader"}}
	for name, c := range map[string]struct {
		have  ekstypes.PodIdentityAssociation
		owned bool
	}{
		"its own":                       {ekstypes.PodIdentityAssociation{Tags: map[string]string{UIDTag: "1", NameTag: "reader"}}, true},
		"one that was handed over":      {ekstypes.PodIdentityAssociation{Tags: map[string]string{UIDTag: "1"}}, true},
		"one that a person made":        {ekstypes.PodIdentityAssociation{}, false},
		"that of one of the same name":  {ekstypes.PodIdentityAssociation{Tags: map[string]string{UIDTag: "2", NameTag: "reader"}}, false},
		"an add-on's, whatever its tag": {ekstypes.PodIdentityAssociation{Tags: map[string]string{UIDTag: "1"}, OwnerArn: aws.String("arn:aws:eks:x")}, false},
	} {
		if err := owned(&c.have, a); (err == nil) != c.owned {
			t.Errorf("%s: %v", name, err)
		} else if err != nil {
			if reason, message := explain(err); reason != Conflict || !strings.Contains(message, "web/reader") {
				t.Errorf("%s: %s %s", name, reason, message)
			}
		}
	}
}

func TestACreationIsRepeatedWithTheSameTokenOnlyWhileNothingWasMade(t *testing.T) {
	t.Parallel()
	c := New(Config{Cluster: "one"})
	a := &PodIdentityAssociation{ObjectMeta: metav1.ObjectMeta{UID: types.UID(strings.Repeat("u", 36))}}
	first := aws.ToString(c.creation(a).ClientRequestToken)
	if again := aws.ToString(c.creation(a).ClientRequestToken); again != first || first != string(a.UID) {
		t.Errorf("the token is %q, and then %q", first, again)
	}
	a.Status.AssociationID = "a-" + strings.Repeat("i", 17)
	if next := aws.ToString(c.creation(a).ClientRequestToken); next == first || len(next) > 64 {
		t.Errorf("after one that has gone the token is %q", next)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	api := func(code, message string) error {
		return &smithy.OperationError{ServiceID: "EKS", Err: &smithy.GenericAPIError{Code: code, Message: message}}
	}
	for _, c := range []struct {
		err     error
		reason  Reason
		message string
	}{
		{api("InvalidParameterException", "Role provided in the request does not exist."), RoleNotFound, "Role provided in the request does not exist."},
		{api("InvalidParameterException", "Trust policy of the role provided is invalid."), InvalidTrustPolicy, "Trust policy of the role provided is invalid."},
		{api("InvalidParameterException", "The policy is not valid: x"), InvalidParameter, "The policy is not valid: x"},
		{api("InvalidRequestException", "x"), InvalidParameter, "x"},
		{api("AccessDeniedException", "User: x is not authorized to perform: iam:PassRole"), AccessDenied, "User: x is not authorized to perform: iam:PassRole"},
		{api("InvalidIdentityToken", "x"), AccessDenied, "x"},
		{api("ResourceInUseException", "Association already exists: a-1"), Conflict, "Association already exists: a-1"},
		{api("ResourceNotFoundException", "No cluster found for name: one."), ClusterNotFound, "No cluster found for name: one."},
		{api("ResourceLimitExceededException", "x"), LimitExceeded, "x"},
		{api("ThrottlingException", "Rate exceeded"), Throttled, "Rate exceeded"},
		{api("ServerException", "x"), ControlPlaneUnreachable, "x"},
		{&smithy.GenericAPIError{Code: "Unheard", Message: "x", Fault: smithy.FaultServer}, ControlPlaneUnreachable, "x"},
		{&smithy.OperationError{Err: &url.Error{Op: "Get", URL: "http://127.0.0.1:1/?token=2", Err: errors.New("connection refused")}}, ControlPlaneUnreachable,
			"The EKS API cannot be reached: connection refused"},
		{context.DeadlineExceeded, ControlPlaneUnreachable, "The EKS API cannot be reached: context deadline exceeded"},
	} {
		reason, message := explain(c.err)
		if reason != c.reason || message != c.message {
			t.Errorf("%v: got %s %q, want %s %q", c.err, reason, message, c.reason, c.message)
		}
	}
}

func TestChangesOfTheStatusAreNoReasonToLook(t *testing.T) {
	t.Parallel()
	object := func(uid types.UID, generation int64, finalizers ...string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{}}
		o.SetUID(uid)
		o.SetGeneration(generation)
		o.SetFinalizers(finalizers)
		return o
	}
	old := object("1", 1, Finalizer)
	status, err := withStatus(old, Status{AssociationID: "a-1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		changed *unstructured.Unstructured
		want    bool
	}{
		"the status":                   {status, false},
		"the spec, or its deletion":    {object("1", 2, Finalizer), true},
		"a finalizer":                  {object("1", 1), true},
		"another one of the same name": {object("2", 1, Finalizer), true},
	} {
		if got := concerns(old, c.changed); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

// A resource that uses all that the definition has is read whole, and its status is written as the definition has it.
func TestTypesAgreeWithTheDefinition(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/chart/files/podidentityassociations.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties map[string]schema
	}
	var definition struct {
		Spec struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema schema }
			}
		}
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		t.Fatal(err)
	}
	version := definition.Spec.Versions[0]
	if r := Resource(); definition.Spec.Group != r.Group || version.Name != r.Version || definition.Spec.Names.Plural != r.Resource {
		t.Errorf("the definition is not of %v", r)
	}
	members := func(name string) (all []string) {
		for m := range version.Schema.OpenAPIV3Schema.Properties[name].Properties {
			all = append(all, m)
		}
		slices.Sort(all)
		return all
	}
	whole := Spec{"a", "b", "c", true, "d", map[string]string{"e": "f"}, Retain}
	status := Status{"a", "b", "c", "d", 1, []metav1.Condition{{Type: Ready}}}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"serviceAccountName": "a", "roleARN": "b", "targetRoleARN": "c", "disableSessionTags": true, "policy": "d",
		"tags": map[string]any{"e": "f"}, "deletionPolicy": "Retain",
	}}}
	if o, err = withStatus(o, status); err != nil {
		t.Fatal(err)
	}
	a, err := decode(o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&PodIdentityAssociation{Spec: whole, Status: status}, a); diff != "" {
		t.Errorf("it is read as (-want +got):\n%s", diff)
	}
	for _, name := range []string{"spec", "status"} {
		var have []string
		for m := range o.Object[name].(map[string]any) {
			have = append(have, m)
		}
		slices.Sort(have)
		if diff := cmp.Diff(members(name), have); diff != "" {
			t.Errorf("members of the %s (-definition +types):\n%s", name, diff)
		}
	}
	if _, err := decode(&unstructured.Unstructured{Object: map[string]any{"spec": "x"}}); err == nil {
		t.Error("a resource that is none is read")
	}
}
