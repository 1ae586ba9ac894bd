package sts

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// The limits of STS (AWS STS API Reference, "AssumeRole"). Requests have been held to their model before they get here;
// what comes from a token's claims or from another service of this process has not.
const (
	minDuration     = 15 * time.Minute
	maxDuration     = 12 * time.Hour
	defaultDuration = time.Hour
	maxChained      = time.Hour
	maxTags         = 50
	maxPolicyARNs   = 10
	maxPlainPolicy  = 2048 // characters of the inline policy and the policy ARNs together
)

// invalid is STS's text for a value that breaks a constraint of the model.
func invalid(field, value, constraint string) *awsapi.Error {
	return awsapi.Errorf("ValidationError", "1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s",
		value, field, constraint)
}

// checkName holds a session name or a source identity to its length and character set. The set has no colon, so that
// neither can begin with the reserved "aws:".
func checkName(field, value string) error {
	const set = `[\w+=,.@-]*`
	if len(value) < 2 {
		return invalid(field, value, "Member must have length greater than or equal to 2")
	}
	if len(value) > 64 {
		return invalid(field, value, "Member must have length less than or equal to 64")
	}
	for i := range len(value) {
		if c := value[i]; !isWord(c) && strings.IndexByte("+=,.@-", c) < 0 {
			return invalid(field, value, "Member must satisfy regular expression pattern: "+set)
		}
	}
	return nil
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// checkDuration holds a duration to STS's bounds for roles, whatever the role allows.
func checkDuration(d time.Duration) error {
	seconds := strconv.FormatInt(int64(d/time.Second), 10)
	if d < minDuration {
		return invalid("durationSeconds", seconds, "Member must have value greater than or equal to 900")
	}
	if d > maxDuration {
		return invalid("durationSeconds", seconds, "Member must have value less than or equal to 43200")
	}
	return nil
}

// checkTags holds session tags, and the keys of those that shall be transitive, to STS's rules (IAM User Guide, "Pass
// session tags in AWS STS").
func checkTags(tags []awsapi.Tag, transitive []string) error {
	if len(tags) > maxTags {
		return awsapi.Errorf("ValidationError",
			"1 validation error detected: Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to %d", maxTags)
	}
	for i, t := range tags {
		if broken := tagConstraint(t.Key, 1, 128, `[\p{L}\p{Z}\p{N}_.:/=+\-@]+`); broken != "" {
			return invalid(fmt.Sprintf("tags.%d.member.key", i+1), t.Key, broken)
		}
		if broken := tagConstraint(t.Value, 0, 256, `[\p{L}\p{Z}\p{N}_.:/=+\-@]*`); broken != "" {
			return invalid(fmt.Sprintf("tags.%d.member.value", i+1), t.Value, broken)
		}
		if len(t.Key) >= 4 && strings.EqualFold(t.Key[:4], "aws:") {
			return awsapi.Errorf("InvalidParameterValue", "Tag keys that begin with the reserved prefix aws: can't be set: %s", t.Key)
		}
		for _, earlier := range tags[:i] {
			if strings.EqualFold(earlier.Key, t.Key) {
				return awsapi.Errorf("InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
			}
		}
	}
	for _, key := range transitive {
		if _, ok := tagNamed(tags, key); !ok {
			return awsapi.Errorf("InvalidParameterValue", "The specified transitive tag key must be included in the requested tags.")
		}
	}
	return nil
}

// tagConstraint returns the constraint that a tag's key or value breaks, or nothing.
func tagConstraint(text string, shortest, longest int, pattern string) string {
	n := utf8.RuneCountInString(text)
	if n < shortest {
		return "Member must have length greater than or equal to " + strconv.Itoa(shortest)
	}
	if n > longest {
		return "Member must have length less than or equal to " + strconv.Itoa(longest)
	}
	for _, r := range text { // what is not UTF-8 comes as U+FFFD, which is in none of the sets
		if r < utf8.RuneSelf && isWord(byte(r)) || strings.ContainsRune("_.:/=+-@", r) {
			continue
		}
		if !unicode.In(r, unicode.L, unicode.Z, unicode.N) {
			return "Member must satisfy regular expression pattern: " + pattern
		}
	}
	return ""
}

// tagNamed finds a tag by its key, without regard to case.
func tagNamed(tags []awsapi.Tag, key string) (awsapi.Tag, bool) {
	for _, t := range tags {
		if strings.EqualFold(t.Key, key) {
			return t, true
		}
	}
	return awsapi.Tag{}, false
}

// The packed size of a session's policies and tags, in percent of what STS allots (IAM User Guide, "IAM and AWS STS
// quotas"). AWS's packed form is private. This estimate has a tag cost its bytes and two more, and policies a quarter of
// their bytes, as text that repeats well; it agrees with the size that AWS reports for the six tags of EKS Pod Identity
// (114 characters of keys and 126 of values are 56 %).
const (
	packedAllotted   = 450
	packedPerTag     = 2
	packedPolicyRate = 4
)

func packedSize(document string, arns []string, tags []awsapi.Tag) int32 {
	policies := 0
	for i := range len(document) {
		if strings.IndexByte(" \t\r\n", document[i]) < 0 {
			policies++
		}
	}
	for _, a := range arns {
		policies += len(a)
	}
	cost := (policies + packedPolicyRate - 1) / packedPolicyRate
	for _, t := range tags {
		cost += len(t.Key) + len(t.Value) + packedPerTag
	}
	return int32((cost*100 + packedAllotted - 1) / packedAllotted)
}

// checkPacked returns the packed size, or the error for one that is too large.
func checkPacked(document string, arns []string, tags []awsapi.Tag) (int32, error) {
	size := packedSize(document, arns, tags)
	switch {
	case size <= 100:
		return size, nil
	case document == "" && len(arns) == 0:
		return 0, awsapi.Errorf("PackedPolicyTooLarge", "Packed size of session tags consumes %d%% of allotted space.", size)
	}
	return 0, awsapi.Errorf("PackedPolicyTooLarge", "Packed policy consumes %d%% of allotted space, please use smaller policy.", size)
}
