//go:build e2e

package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// lookupByBoto3 is given attributes and their values, and prints what each finds. Two lookups are allowed a second: botocore tries again.
const lookupByBoto3 = `import boto3, json, sys
from botocore.config import Config
trail = boto3.client("cloudtrail", config=Config(retries={"mode": "standard", "total_max_attempts": 10}))
found = []
for key, value in zip(sys.argv[1::2], sys.argv[2::2]):
    pages = trail.get_paginator("lookup_events").paginate(
        LookupAttributes=[{"AttributeKey": key, "AttributeValue": value}], PaginationConfig={"PageSize": 2})
    found.append([e for page in pages for e in page["Events"]])
print(json.dumps(found, default=str))
`

// lookupByCLI is given the AWS CLI first.
const lookupByCLI = `aws=$1
shift
export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=10
separator='['
while [ $# -gt 0 ]; do
	printf '%s' "$separator"
	separator=,
	"$aws" cloudtrail lookup-events --page-size 2 --lookup-attributes "AttributeKey=$1,AttributeValue=$2" --query Events --output json || exit 1
	shift 2
done
printf ']'
`

// The clients of everybody else find the records of the three pods, page by page.
func TestUnmodifiedClientsLookUpEvents(t *testing.T) {
	python := filepath.Join(cache(t), "python", "bin")
	if _, err := os.Stat(filepath.Join(python, "aws")); err != nil {
		leftOut(t, "boto3 and the AWS CLI are not installed")
	}
	s := startDev(t, dataDir(t))
	key := s.threePods(s.secure())
	lookups := []struct {
		key, value string
		want       []string // event, user, and the error's code
	}{
		{"EventName", "AssumeRoleWithWebIdentity", []string{
			"AssumeRoleWithWebIdentity system:serviceaccount:default:my-sa AccessDenied", "AssumeRoleWithWebIdentity system:serviceaccount:default:my-sa ",
		}},
		{"Username", "irsa-pod", []string{"CreateRole irsa-pod AccessDenied"}},
		{"ResourceName", "more", []string{"CreateRole root ", "CreateRole irsa-pod AccessDenied"}},
		{"ResourceName", "default/s3-sa-0", []string{"AssumeRoleForPodIdentity root ", "AssumeRole  "}},
		{"AccessKeyId", key, []string{"CreateRole irsa-pod AccessDenied"}},
		{"EventName", "DeleteRole", []string{}},
	}
	var args []string
	var want [][]string
	for _, l := range lookups {
		args = append(args, l.key, l.value)
		want = append(want, l.want)
	}
	for name, command := range map[string][]string{
		"boto3":       {filepath.Join(python, "python"), "-c", lookupByBoto3},
		"the AWS CLI": {"sh", "-c", lookupByCLI, "sh", filepath.Join(python, "aws")},
	} {
		cmd := exec.Command(command[0], append(command[1:], args...)...)
		cmd.Env, cmd.Stderr = s.command().Env, t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var found [][]struct{ EventName, Username, CloudTrailEvent string }
		if err := json.Unmarshal(out, &found); err != nil {
			t.Errorf("%s printed %q: %v", name, out, err)
			continue
		}
		var got [][]string
		for _, events := range found {
			texts := []string{}
			for _, e := range events {
				record, err := audit.Decode(e.CloudTrailEvent)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, e.EventName+" "+e.Username+" "+record.ErrorCode)
			}
			got = append(got, texts)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}
