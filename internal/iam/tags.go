package iam

import (
	"context"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// tagsOfNew are the tags of something, called noun, that a request makes: those that it brings, and those of the service that makes it
// for its caller.
func tagsOfNew(c *awsapi.Caller, add []awsapi.Tag, noun string) ([]awsapi.Tag, error) {
	tags, err := mergeTags(nil, add, noun)
	if err != nil || len(c.SystemTags) == 0 {
		return tags, err
	}
	return sortTags(append(tags, c.SystemTags...)), nil
}

func sortTags(tags []awsapi.Tag) []awsapi.Tag {
	slices.SortFunc(tags, func(a, b awsapi.Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags
}

func reservedTag(key string) error {
	return awsapi.Errorf("InvalidInput", "Tag keys that begin with aws: are reserved for system use: %s", key)
}

// mergeTags adds tags to those that something, called noun, has: a key that differs only by case is the same key.
func mergeTags(have, add []awsapi.Tag, noun string) ([]awsapi.Tag, error) {
	for i, t := range add {
		if awsapi.IsSystemTag(t.Key) {
			return nil, reservedTag(t.Key)
		}
		if slices.ContainsFunc(add[:i], func(o awsapi.Tag) bool { return strings.EqualFold(o.Key, t.Key) }) {
			return nil, awsapi.Errorf("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
	}
	merged := slices.DeleteFunc(slices.Clone(have), func(o awsapi.Tag) bool {
		return slices.ContainsFunc(add, func(t awsapi.Tag) bool { return strings.EqualFold(o.Key, t.Key) })
	})
	merged = append(merged, add...)
	own := 0
	for _, t := range merged {
		if !awsapi.IsSystemTag(t.Key) {
			own++
		}
	}
	if own > maxTags {
		return nil, overQuota("TagsPer"+noun, maxTags)
	}
	return sortTags(merged), nil
}

// removeTags takes tags away by key; keys that are not there do not matter.
func removeTags(have []awsapi.Tag, keys []string) ([]awsapi.Tag, error) {
	if i := slices.IndexFunc(keys, awsapi.IsSystemTag); i >= 0 {
		return nil, reservedTag(keys[i])
	}
	return slices.DeleteFunc(slices.Clone(have), func(t awsapi.Tag) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(t.Key, k) })
	}), nil
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

// tagged is what has tags, as a request names it.
type tagged interface {
	subject
	// noun is what errors call it: TagsPerNOUN.
	noun() string
	tags(s *Service, c *awsapi.Caller) ([]awsapi.Tag, error)
	// retag puts what edit makes of the tags in their place.
	retag(ctx context.Context, s *Service, c *awsapi.Caller, edit func(have []awsapi.Tag) ([]awsapi.Tag, error)) error
}

// newTags are the tags that a request adds.
type newTags struct{ Tags []awsapi.Tag }

func (t newTags) added() []awsapi.Tag { return t.Tags }

func (t newTags) conditions(p *policy.Context, _ target) { requestTags(p, t.Tags) }

// oldTags are the keys of the tags that a request takes away.
type oldTags struct{ TagKeys []string }

func (t oldTags) removed() []string { return t.TagKeys }

func (t oldTags) conditions(p *policy.Context, _ target) { p.SetList("aws:TagKeys", t.TagKeys) }

// tag makes the operations that add tags.
func tag[In any, P interface {
	*In
	tagged
	added() []awsapi.Tag
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).retag(ctx, s, c, func(have []awsapi.Tag) ([]awsapi.Tag, error) {
			return mergeTags(have, P(in).added(), P(in).noun())
		})
	}
}

// untag makes the operations that take tags away.
func untag[In any, P interface {
	*In
	tagged
	removed() []string
}](s *Service) func(context.Context, *awsapi.Caller, *In) error {
	return func(ctx context.Context, c *awsapi.Caller, in *In) error {
		return P(in).retag(ctx, s, c, func(have []awsapi.Tag) ([]awsapi.Tag, error) {
			return removeTags(have, P(in).removed())
		})
	}
}

type listTagsOut struct {
	Tags []awsapi.Tag
	truncated
}

// listTags makes the operations that list tags.
func listTags[In any, P interface {
	*In
	tagged
	paged
}](s *Service) func(context.Context, *awsapi.Caller, *In) (*listTagsOut, error) {
	return func(_ context.Context, c *awsapi.Caller, in *In) (*listTagsOut, error) {
		tags, err := P(in).tags(s, c)
		if err != nil {
			return nil, err
		}
		items, rest, err := paginate(s, c, P(in).window(), sorted(tags, func(t awsapi.Tag) string { return t.Key }), all)
		return &listTagsOut{items, rest}, err
	}
}
