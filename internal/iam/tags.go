package iam

import (
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// mergeTags adds tags to those that something has: a key that differs only by case is the same key.
func mergeTags(have, add []awsapi.Tag, quota string) ([]awsapi.Tag, error) {
	for i, t := range add {
		if hasFold(t.Key, "aws:") {
			return nil, awsapi.Errorf("InvalidInput", "Tag keys that begin with aws: are reserved for system use: %s", t.Key)
		}
		if slices.ContainsFunc(add[:i], func(o awsapi.Tag) bool { return strings.EqualFold(o.Key, t.Key) }) {
			return nil, awsapi.Errorf("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
	}
	merged := slices.DeleteFunc(slices.Clone(have), func(o awsapi.Tag) bool {
		return slices.ContainsFunc(add, func(t awsapi.Tag) bool { return strings.EqualFold(o.Key, t.Key) })
	})
	merged = append(merged, add...)
	if len(merged) > maxTags {
		return nil, overQuota(quota, maxTags)
	}
	slices.SortFunc(merged, func(a, b awsapi.Tag) int { return strings.Compare(a.Key, b.Key) })
	return merged, nil
}

// removeTags takes tags away by key; keys that are not there do not matter.
func removeTags(have []awsapi.Tag, keys []string) []awsapi.Tag {
	return slices.DeleteFunc(slices.Clone(have), func(t awsapi.Tag) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(t.Key, k) })
	})
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// requestTags sets the condition keys of tags that a request brings.
func requestTags(p *policy.Context, tags []awsapi.Tag) {
	if len(tags) == 0 {
		return
	}
	keys := make([]string, len(tags))
	for i, t := range tags {
		keys[i] = t.Key
		p.Set("aws:RequestTag/"+t.Key, t.Value)
	}
	p.SetList("aws:TagKeys", keys)
}

type listTagsOut struct {
	Tags        []awsapi.Tag
	IsTruncated bool
	Marker      string
}

func (s *Service) pageOfTags(c *awsapi.Caller, tags []awsapi.Tag, marker string, maxItems int32) (*listTagsOut, error) {
	page, next, err := paginate(s, c, marker, maxItems, sorted(tags, func(t awsapi.Tag) string { return t.Key }), all)
	if err != nil {
		return nil, err
	}
	return &listTagsOut{Tags: page, IsTruncated: next != "", Marker: next}, nil
}
