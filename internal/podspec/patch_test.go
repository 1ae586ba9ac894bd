package podspec_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

var update = flag.Bool("update", false, "write the golden files")

// testCase is the first document of a file in testdata; a service account and a pod follow. Beside NAME.yaml there is
// NAME.golden.yaml, the pod as it becomes.
type testCase struct {
	Way       string
	Settings  podspec.Settings
	Jitter    int64
	Ephemeral *[]string // ephemeral containers are added to a pod that has these
	Error     string    // part of the error; the pod stays as it is
}

func readDocument(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// apply applies a patch as the API server does, to the pod as it was sent.
func apply(t *testing.T, object []byte, patch []podspec.Operation) []byte {
	t.Helper()
	text, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	if patch == nil {
		text = []byte("[]")
	}
	decoded, err := jsonpatch.DecodePatch(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	patched, err := decoded.Apply(object)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return patched
}

func object(t *testing.T, text []byte) (o map[string]any) {
	t.Helper()
	readDocument(t, text, &o)
	return o
}

// patch runs a test case on a pod.
func (c *testCase) patch(t *testing.T, annotations map[string]string, raw []byte) ([]podspec.Operation, error) {
	t.Helper()
	way := podspec.WebIdentity
	if c.Way != way.String() {
		way = podspec.PodIdentity
	}
	if c.Way != way.String() {
		t.Fatalf("unknown way %q", c.Way)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	id, err := c.Settings.Identity(way, annotations)
	if err != nil {
		return nil, err
	}
	id.Jitter = c.Jitter
	if c.Ephemeral == nil {
		return c.Settings.Patch(&pod, id)
	}
	var old corev1.Pod
	for _, name := range *c.Ephemeral {
		old.Spec.EphemeralContainers = append(old.Spec.EphemeralContainers,
			corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name}})
	}
	return c.Settings.PatchEphemeral(&pod, &old, id)
}

func TestPatch(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".golden.yaml") {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			documents := bytes.Split(text, []byte("---\n"))
			if len(documents) != 3 {
				t.Fatalf("got %d documents, want 3", len(documents))
			}
			var c testCase
			if err := yaml.UnmarshalStrict(documents[0], &c); err != nil {
				t.Fatal(err)
			}
			var account corev1.ServiceAccount
			readDocument(t, documents[1], &account)
			pod, err := yaml.YAMLToJSON(documents[2])
			if err != nil {
				t.Fatal(err)
			}

			patch, err := c.patch(t, account.Annotations, pod)
			if (err != nil) != (c.Error != "") || err != nil && !strings.Contains(err.Error(), c.Error) {
				t.Errorf("got error %v, want %q", err, c.Error)
			}
			if err != nil && patch != nil {
				t.Errorf("it has both an error and a patch")
			}
			patched := apply(t, pod, patch)
			golden := strings.TrimSuffix(file, ".yaml") + ".golden.yaml"
			if *update {
				text, err := yaml.JSONToYAML(patched)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(object(t, want), object(t, patched)); diff != "" {
				t.Errorf("the pod (-want +got):\n%s", diff)
			}
			if again, _ := c.patch(t, account.Annotations, patched); len(again) > 0 {
				t.Errorf("asked once more, it adds %v", again)
			}
		})
	}
}

// What the two ways put into a pod never meets in one.
func TestWaysDoNotShareNames(t *testing.T) {
	t.Parallel()
	a, b := podspec.WebIdentity.Projection(), podspec.PodIdentity.Projection()
	if a.Volume == b.Volume || a.MountPath == b.MountPath || a.Audience == b.Audience {
		t.Errorf("both have something of %+v", a)
	}
}

func TestRoleARN(t *testing.T) {
	t.Parallel()
	var s podspec.Settings
	for role, ok := range map[string]bool{
		"arn:aws:iam::111122223333:role/r":        true,
		"arn:aws:iam::111122223333:role/team/a/r": true,
		"arn:aws-cn:iam::111122223333:role/r":     true,
		"arn:aws-us-gov:iam::111122223333:role/r": true,
		"arn:aws:iam::111122223333:role/r+=,.@-_": true,
		"":                                 false,
		"r":                                false,
		"role/r":                           false,
		"arn:aws:iam::111122223333:role/":  false,
		"arn:aws:iam::11112222333:role/r":  false,
		"arn:aws:iam::111122223333:user/u": false,
		"arn:aws:sts::111122223333:assumed-role/r/s":      false,
		"arn:gcp:iam::111122223333:role/r":                false,
		"arn:aws:iam::111122223333:role/r ":               false,
		" arn:aws:iam::111122223333:role/r":               false,
		"arn:aws:iam::111122223333:role/r\n":              false,
		"arn:aws:iam::111122223333:role/$(AWS_REGION)":    false,
		"arn:aws:iam::111122223333:role/r\narn:aws:x":     false,
		"arn:aws:iam::111122223333:role/" + "\u00e4":      false,
		"arn:aws:iam:us-east-1:111122223333:role/regions": false,
	} {
		id, err := s.Identity(podspec.WebIdentity, map[string]string{"eks.amazonaws.com/role-arn": role})
		if (err == nil) != ok || ok && id.RoleARN != role {
			t.Errorf("%q: got %q, %v", role, id.RoleARN, err)
		}
	}
}
