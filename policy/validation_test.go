package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lanyard-id/lanyard/policy"
)

// TestValidation compares what compiling documents says with the golden files; testdata/validation/README.md tells their form.
func TestValidation(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/validation/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("there are no golden files: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			checkValidation(t, name)
		})
	}
}

func checkValidation(t *testing.T, name string) {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		document, want := archive.Files[i], &archive.Files[i+1]
		base, ok := strings.CutSuffix(document.Name, ".json")
		if !ok || want.Name != base+".want" {
			t.Fatalf("%s: %s is followed by %s", name, document.Name, want.Name)
		}
		for kind := range strings.SplitSeq(path.Dir(base), "+") {
			got := validation(t, kindOf(t, kind), document.Data)
			if *update {
				want.Data = []byte(got)
			}
			if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Errorf("%s: %s as the kind %s: (-want +got)\n%s", name, base, kind, diff)
			}
		}
	}
	if len(archive.Files)%2 != 0 {
		t.Fatalf("%s: the last document has no answer", name)
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(archive), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// validation is the text of a golden file for the document.
func validation(t *testing.T, kind policy.Kind, document []byte) string {
	t.Helper()
	_, err := policy.New("p", kind, document)
	if err == nil {
		return "accepted\n"
	}
	var e *policy.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: %T is no *policy.Error", document, err)
	}
	const shown = 30 // characters
	rest := []rune(strings.Split(string(document), "\n")[e.Line-1])[e.Column-1:]
	at := fmt.Sprintf("%d:%d %s", e.Line, e.Column, string(rest[:min(shown, len(rest))]))
	return fmt.Sprintf("at       %s\nmessage  %s\ndetail   %s\n", strings.TrimSpace(at), e.Message, e.Detail)
}

func kindOf(t *testing.T, name string) policy.Kind {
	t.Helper()
	for kind := policy.Identity; kind <= policy.ResourceControl; kind++ {
		if kindName(kind) == name {
			return kind
		}
	}
	t.Fatalf("%q is no kind of policy", name)
	return 0
}

// TestEveryTextOfIAM holds the texts that IAM is known to have for malformed documents against the golden files.
func TestEveryTextOfIAM(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/validation/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var golden strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		golden.Write(text)
	}
	for _, text := range []string{
		`This policy contains invalid Json`,

		`Invalid principal in policy: "AWS":"arn:aws:iam::111122223333:group/x"`,
		`Has prohibited field Resource`,
		`AssumeRolepolicy contained an invalid principal: "STAR":"*".`,
		`AssumeRole policy may only specify STS AssumeRole actions.`,
		`Missing required field Effect`,
		`Missing required field Principal`,
		`Missing required field Action`,
		`Missing required field Principal cannot be empty!`,
		`Could not parse the policy: Statement is empty!`,
		`The Statement Ids in the policy are not unique`,
		`AssumeRole policy must not contain NotPrincipal field.`,
		`Allow with NotPrincipal is not allowed.`,
		`Invalid effect: allow`,
		`Syntax error in policy.`,
		`Federated principals must be valid domain names or SAML metadata ARNs`,
		`Unknown field Extra`,

		`Syntax errors in policy.`,
		`The policy failed legacy parsing`,
		`Statement IDs (SID) in a single policy must be unique.`,
		`Policy statement must contain actions.`,
		`Policy statement must contain resources.`,
		`Policy document should not specify a principal.`,
		`Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.`,
		`Actions/Condition can contain only one colon.`,
		`Vendor s 3 is not valid`,
		`Resource reports must be in ARN format or "*".`,
		`Resource vendor must be fully qualified and cannot contain regexes.`,
		`Partition "moon" is not valid for resource "arn:moon:s3:::x".`,
		`IAM resource arn:aws:iam:us-east-1:111122223333:role/x cannot contain region information.`,
		`IAM resource path must either be "*" or start with user/, federated-user/, role/, group/, `,
	} {
		if !strings.Contains(golden.String(), "\nmessage  "+text) {
			t.Errorf("no document is answered with: %s", text)
		}
	}
}
