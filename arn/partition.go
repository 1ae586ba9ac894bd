package arn

import "strings"

// A Partition is a group of regions with its own ARN prefix and DNS suffixes.
type Partition struct {
	Name            string // the ARN's second field
	DNSSuffix       string // amazonaws.com and its sisters
	DualStackSuffix string // api.aws and its sisters
	GlobalRegion    string // the region that global services sign for
}

// Partitions returns every partition of the AWS endpoint data, the commercial one first.
func Partitions() []Partition {
	return []Partition{
		{"aws", "amazonaws.com", "api.aws", "us-east-1"},
		{"aws-cn", "amazonaws.com.cn", "api.amazonwebservices.com.cn", "cn-northwest-1"},
		{"aws-us-gov", "amazonaws.com", "api.aws", "us-gov-west-1"},
		{"aws-iso", "c2s.ic.gov", "api.aws.ic.gov", "us-iso-east-1"},
		{"aws-iso-b", "sc2s.sgov.gov", "api.aws.scloud", "us-isob-east-1"},
		{"aws-iso-e", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk", "eu-isoe-west-1"},
		{"aws-iso-f", "csp.hci.ic.gov", "api.aws.hci.ic.gov", "us-isof-south-1"},
		{"aws-eusc", "amazonaws.eu", "api.amazonwebservices.eu", "eusc-de-east-1"},
	}
}

// PartitionOfRegion finds the partition that a region's name belongs to. The name need not be one of today's regions:
// it must have the partition's form, AREA-WORD-NUMBER, as in the partitions' region patterns of the endpoint data.
func PartitionOfRegion(region string) (Partition, bool) {
	rest, number, ok := cutLast(region)
	if !ok || number == "" || strings.Trim(number, digits) != "" {
		return Partition{}, false
	}
	area, word, ok := cutLast(rest)
	if !ok || word == "" || strings.Trim(word, wordCharacters) != "" {
		return Partition{}, false
	}
	name, ok := partitionOfArea(area)
	if !ok {
		return Partition{}, false
	}
	return PartitionNamed(name)
}

// partitionOfArea maps what stands before the last two parts of a region's name to the partition's name.
func partitionOfArea(area string) (name string, ok bool) {
	switch area {
	case "us", "eu", "ap", "sa", "ca", "me", "af", "il", "mx":
		return "aws", true
	case "cn":
		return "aws-cn", true
	case "us-gov":
		return "aws-us-gov", true
	case "us-iso":
		return "aws-iso", true
	case "us-isob":
		return "aws-iso-b", true
	case "eu-isoe":
		return "aws-iso-e", true
	case "us-isof":
		return "aws-iso-f", true
	case "eusc-de":
		return "aws-eusc", true
	}
	return "", false
}

// PartitionNamed finds a partition by its name.
func PartitionNamed(name string) (Partition, bool) {
	for _, p := range Partitions() {
		if p.Name == name {
			return p, true
		}
	}
	return Partition{}, false
}

const wordCharacters = digits + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"

// cutLast splits s at its last hyphen.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}
