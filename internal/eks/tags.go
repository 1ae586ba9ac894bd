package eks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// checkTags refuses, with an error code, tags that a resource cannot be given (Tagging AWS Resources, "Tag naming limits and
// requirements"; their lengths are the model's).
func checkTags(code string, tags map[string]string) error {
	if err := checkKeys(code, slices.Sorted(maps.Keys(tags))); err != nil {
		return err
	}
	return checkNumber(code, tags)
}

// checkKeys refuses the keys that are reserved for services.
func checkKeys(code string, keys []string) error {
	if i := slices.IndexFunc(keys, awsapi.IsSystemTag); i >= 0 {
		return awsapi.Errorf(code, "The tag key %q is reserved: it begins with aws:.", keys[i])
	}
	return nil
}

// checkNumber refuses more tags than a resource may have. Those of services do not count.
func checkNumber(code string, tags map[string]string) error {
	n := 0
	for key := range tags {
		if !awsapi.IsSystemTag(key) {
			n++
		}
	}
	if n > maxTags {
		return awsapi.Errorf(code, "A resource has at most %d tags.", maxTags)
	}
	return nil
}

// tagsOfNew are the tags of a resource that a request makes: those that it brings, and those of the service that makes it for its
// caller.
func tagsOfNew(c *awsapi.Caller, given map[string]string) map[string]string {
	if len(c.SystemTags) == 0 {
		return given
	}
	tags := make(map[string]string, len(given)+len(c.SystemTags))
	for _, t := range c.SystemTags {
		tags[t.Key] = t.Value
	}
	maps.Copy(tags, given) // which has none of these keys: checkTags refuses them
	return tags
}

// tagMap makes missing tags an empty map, which is printed.
func tagMap(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

// tagged is what a resource ARN names: a cluster, or one of its associations, add-ons or access entries.
type tagged struct {
	arn     arn.ARN
	kind    string // of the ARN
	cluster string
	name    string // an add-on's
	id      string // of what is no cluster
}

func (s *Service) parseTagged(c *awsapi.Caller, text string) (tagged, error) {
	a, err := arn.Parse(text)
	if err != nil {
		return tagged{}, awsapi.Errorf("BadRequestException", "The resource ARN %q is not an ARN.", text)
	}
	t := tagged{arn: a}
	parts := strings.Split(a.Resource(), "/")
	t.kind = parts[0]
	ok := a.Service() == "eks" && a.Partition() == s.partition && !slices.Contains(parts, "")
	switch {
	case t.kind == "cluster" && len(parts) == 2:
		t.cluster = parts[1]
	case t.kind == "podidentityassociation" && len(parts) == 3:
		t.cluster, t.id = parts[1], parts[2]
	case t.kind == "addon" && len(parts) == 4:
		t.cluster, t.name, t.id = parts[1], parts[2], parts[3]
	case t.kind == "access-entry" && len(parts) == 6:
		t.cluster, t.id = parts[1], parts[5]
	default:
		ok = false
	}
	if !ok {
		return tagged{}, awsapi.Errorf("BadRequestException",
			"The resource ARN %s is not that of a cluster, a pod identity association, an add-on or an access entry.", text)
	}
	if a.Account() != c.Account || a.Region() != c.Region {
		return tagged{}, awsapi.Errorf("BadRequestException", "The resource ARN %s is not of the account %s and the region %s.",
			text, c.Account, c.Region)
	}
	return t, nil
}

func (t tagged) notFound() error {
	return awsapi.Errorf("NotFoundException", "No resource found with ARN %s.", t.arn)
}

// taggable is a record whose resource has tags.
type taggable[R any] interface {
	*R
	resource() (id string, tags map[string]string) // a cluster has no ID
	retagged(tags map[string]string) *R
}

func (r *clusterRecord) resource() (string, map[string]string)     { return "", r.Tags }
func (r *addonRecord) resource() (string, map[string]string)       { return r.ID, r.Tags }
func (r *entryRecord) resource() (string, map[string]string)       { return r.ID, r.Tags }
func (r *associationRecord) resource() (string, map[string]string) { return r.ID, r.detail().Tags }

func (r *clusterRecord) retagged(tags map[string]string) *clusterRecord {
	changed := *r
	changed.Tags = tags
	return &changed
}

func (r *addonRecord) retagged(tags map[string]string) *addonRecord {
	changed := *r
	changed.Tags = tags
	return &changed
}

func (r *entryRecord) retagged(tags map[string]string) *entryRecord {
	changed := *r
	changed.Tags = tags
	return &changed
}

func (r *associationRecord) retagged(tags map[string]string) *associationRecord {
	d := r.detail()
	d.Tags = tags
	return r.with(d)
}

// tagsIn returns the tags of what a row holds, if that is the resource.
func tagsIn[R any, P taggable[R]](table *kv.Table[R], key string, t tagged) (map[string]string, bool) {
	r, ok := table.Get(key)
	if !ok {
		return nil, false
	}
	id, tags := P(r).resource()
	return tags, id == t.id
}

// changeIn replaces the tags of what a row holds, if that is the resource.
func changeIn[R any, P taggable[R]](tx *kv.Tx, table *kv.Table[R], key string, t tagged, change func(map[string]string)) error {
	r, ok := table.Read(tx, key)
	if !ok {
		return t.notFound()
	}
	id, tags := P(r).resource()
	if id != t.id {
		return t.notFound()
	}
	changed := maps.Clone(tagMap(tags))
	change(changed)
	if err := checkNumber("BadRequestException", changed); err != nil {
		return err
	}
	table.Write(tx, key, P(r).retagged(changed))
	return nil
}

// tags returns a resource's tags, and its key in its table.
func (s *Service) tags(c *awsapi.Caller, t tagged) (key string, tags map[string]string, ok bool) {
	key = clusterKey(c.Account, c.Region, t.cluster)
	switch t.kind {
	case "addon":
		key = addonKey(key, t.name)
		tags, ok = tagsIn(s.addons, key, t)
	case "access-entry":
		for entry, r := range s.entries.Scan(key+"/", "") {
			if r.ID == t.id {
				return entry, r.Tags, true
			}
		}
	case "podidentityassociation":
		if key, _, ok = s.byAssociationID(key, t.id); ok {
			tags, ok = tagsIn(s.associations, key, t)
		}
	default:
		tags, ok = tagsIn(s.clusters, key, t)
	}
	return key, tags, ok
}

func (s *Service) tagAccess(c *awsapi.Caller, action, resource string, request map[string]string, keys []string) ([]awsapi.Access, error) {
	t, err := s.parseTagged(c, resource)
	if err != nil {
		return nil, err
	}
	_, have, _ := s.tags(c, t)
	return []awsapi.Access{{Action: action, Resource: resource, Context: tagContext(have, request, keys)}}, nil
}

// changeTags replaces a resource's tags by what change makes of a copy of them. keys are those that it changes.
func (s *Service) changeTags(ctx context.Context, c *awsapi.Caller, resource string, keys []string, change func(tags map[string]string)) error {
	t, err := s.parseTagged(c, resource)
	if err != nil {
		return err
	}
	key, _, err := s.findTags(ctx, c, t)
	if err != nil {
		return err
	}
	if err := checkKeys("BadRequestException", keys); err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		switch t.kind {
		case "addon":
			return changeIn(tx, s.addons, key, t, change)
		case "access-entry":
			return changeIn(tx, s.entries, key, t, change)
		case "podidentityassociation":
			return changeIn(tx, s.associations, key, t, change)
		}
		return changeIn(tx, s.clusters, key, t, change)
	})
}

// findTags is tags, but confirms that the resource does not exist before it says so.
func (s *Service) findTags(ctx context.Context, c *awsapi.Caller, t tagged) (key string, tags map[string]string, err error) {
	key, tags, ok := s.tags(c, t)
	if ok {
		return key, tags, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return "", nil, fmt.Errorf("confirm that %s does not exist: %w", t.arn, err)
	}
	if key, tags, ok = s.tags(c, t); !ok {
		return "", nil, t.notFound()
	}
	return key, tags, nil
}

type tagResourceIn struct {
	ResourceArn string
	Tags        map[string]string
}

type untagResourceIn struct {
	ResourceArn string
	TagKeys     []string
}

type listTagsIn struct{ ResourceArn string }

type listTagsOut struct{ Tags map[string]string }

type emptyOut struct{}

func (s *Service) tagResourceAccess(c *awsapi.Caller, in *tagResourceIn) ([]awsapi.Access, error) {
	return s.tagAccess(c, "eks:TagResource", in.ResourceArn, in.Tags, slices.Sorted(maps.Keys(in.Tags)))
}

func (s *Service) tagResource(ctx context.Context, c *awsapi.Caller, in *tagResourceIn) (*emptyOut, error) {
	keys := slices.Sorted(maps.Keys(in.Tags))
	return &emptyOut{}, s.changeTags(ctx, c, in.ResourceArn, keys, func(tags map[string]string) { maps.Copy(tags, in.Tags) })
}

func (s *Service) untagResourceAccess(c *awsapi.Caller, in *untagResourceIn) ([]awsapi.Access, error) {
	return s.tagAccess(c, "eks:UntagResource", in.ResourceArn, nil, in.TagKeys)
}

func (s *Service) untagResource(ctx context.Context, c *awsapi.Caller, in *untagResourceIn) (*emptyOut, error) {
	return &emptyOut{}, s.changeTags(ctx, c, in.ResourceArn, in.TagKeys, func(tags map[string]string) {
		for _, k := range in.TagKeys {
			delete(tags, k)
		}
	})
}

func (s *Service) listTagsForResourceAccess(c *awsapi.Caller, in *listTagsIn) ([]awsapi.Access, error) {
	return s.tagAccess(c, "eks:ListTagsForResource", in.ResourceArn, nil, nil)
}

func (s *Service) listTagsForResource(ctx context.Context, c *awsapi.Caller, in *listTagsIn) (*listTagsOut, error) {
	t, err := s.parseTagged(c, in.ResourceArn)
	if err != nil {
		return nil, err
	}
	_, tags, err := s.findTags(ctx, c, t)
	if err != nil {
		return nil, err
	}
	return &listTagsOut{Tags: tagMap(tags)}, nil
}
