// Package arn holds the names that AWS gives to things: Amazon Resource Names, partitions, and the unique IDs that
// encode their account. They are comparable values that are made only by parsing or from parts that were parsed.
package arn

import (
	"fmt"
	"strings"
)

// MaxLength is the longest ARN that Parse accepts, in bytes (the limit of the STS and IAM service models).
const MaxLength = 2048

// ARN is an Amazon Resource Name, arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE. The zero ARN is invalid and prints
// as the empty string. Two ARNs are equal (==) when their texts are.
type ARN struct{ partition, service, region, account, resource string }

// Parse reads an ARN. It must have six fields, begin with "arn", and have a partition, a service and a resource;
// region and account may be empty. At most 2,048 bytes are accepted.
func Parse(s string) (ARN, error) {
	if len(s) > MaxLength {
		return ARN{}, fmt.Errorf("parse ARN: %d bytes, more than %d", len(s), MaxLength)
	}
	fields := strings.SplitN(s, ":", 6)
	if len(fields) < 6 || fields[0] != "arn" {
		return ARN{}, fmt.Errorf("parse ARN %q: not of the form arn:partition:service:region:account:resource", s)
	}
	a := ARN{partition: fields[1], service: fields[2], region: fields[3], account: fields[4], resource: fields[5]}
	if a.partition == "" || a.service == "" || a.resource == "" {
		return ARN{}, fmt.Errorf("parse ARN %q: partition, service and resource must not be empty", s)
	}
	return a, nil
}

// New makes an ARN from parts that the caller has validated.
func New(partition, service, region, account, resource string) ARN {
	return ARN{partition, service, region, account, resource}
}

// String returns the ARN's text.
func (a ARN) String() string {
	if a.IsZero() {
		return ""
	}
	return "arn:" + a.partition + ":" + a.service + ":" + a.region + ":" + a.account + ":" + a.resource
}

// IsZero reports whether a is the invalid zero ARN.
func (a ARN) IsZero() bool { return a == ARN{} }

// Partition returns the second field, such as aws, aws-cn or aws-us-gov.
func (a ARN) Partition() string { return a.partition }

// Service returns the third field, such as iam.
func (a ARN) Service() string { return a.service }

// Region returns the fourth field; it is empty for global services.
func (a ARN) Region() string { return a.region }

// Account returns the fifth field: 12 digits, "aws" for what AWS owns, or empty.
func (a ARN) Account() string { return a.account }

// Resource returns everything after the fifth colon.
func (a ARN) Resource() string { return a.resource }

// ValidAccountID reports whether s is an account ID: 12 decimal digits.
func ValidAccountID(s string) bool {
	return len(s) == 12 && strings.Trim(s, digits) == ""
}

const digits = "0123456789"
