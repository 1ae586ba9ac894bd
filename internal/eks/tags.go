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

// checkTags refuses, with an error code, tags that a resource cannot have (Tagging AWS Resources, "Tag naming limits and
// requirements"; their lengths are the model's).
func checkTags(code string, tags map[string]string) error {
	if len(tags) > maxTags {
		return awsapi.Errorf(code, "A resource has at most %d tags.", maxTags)
	}
	for k := range tags {
		if len(k) >= 4 && strings.EqualFold(k[:4], "aws:") {
			return awsapi.Errorf(code, "The tag key %q is reserved: it begins with aws:.", k)
		}
	}
	return nil
}

// tagMap makes missing tags an empty map, which is printed.
func tagMap(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

// tagged is what a resource ARN names: a cluster, or one of its associations.
type tagged struct {
	arn         arn.ARN
	cluster     string
	association string // ID; empty for the cluster itself
}

func (s *Service) parseTagged(c *awsapi.Caller, text string) (tagged, error) {
	a, err := arn.Parse(text)
	if err != nil {
		return tagged{}, awsapi.Errorf("BadRequestException", "The resource ARN %q is not an ARN.", text)
	}
	t := tagged{arn: a}
	kind, name, _ := strings.Cut(a.Resource(), "/")
	ok := a.Service() == "eks" && a.Partition() == s.partition && name != ""
	switch kind {
	case "cluster":
		t.cluster = name
	case "podidentityassociation":
		t.cluster, t.association, _ = strings.Cut(name, "/")
		ok = ok && t.association != ""
	default:
		ok = false
	}
	if !ok || strings.Contains(t.cluster, "/") || strings.Contains(t.association, "/") {
		return tagged{}, awsapi.Errorf("BadRequestException", "The resource ARN %s is not that of a cluster or a pod identity association.", text)
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

// tags returns a resource's tags, and its key in its table.
func (s *Service) tags(c *awsapi.Caller, t tagged) (key string, tags map[string]string, ok bool) {
	cluster := clusterKey(c.Account, c.Region, t.cluster)
	if t.association == "" {
		r, ok := s.clusters.Get(cluster)
		if !ok {
			return "", nil, false
		}
		return cluster, r.Tags, true
	}
	key, r, ok := s.byAssociationID(cluster, t.association)
	if !ok {
		return "", nil, false
	}
	return key, r.detail().Tags, true
}

func (s *Service) tagAccess(c *awsapi.Caller, action, resource string, request map[string]string, keys []string) ([]awsapi.Access, error) {
	t, err := s.parseTagged(c, resource)
	if err != nil {
		return nil, err
	}
	_, have, _ := s.tags(c, t)
	return []awsapi.Access{{Action: action, Resource: resource, Context: tagContext(have, request, keys)}}, nil
}

// changeTags replaces a resource's tags by what change makes of a copy of them.
func (s *Service) changeTags(ctx context.Context, c *awsapi.Caller, resource string, change func(tags map[string]string)) error {
	t, err := s.parseTagged(c, resource)
	if err != nil {
		return err
	}
	key, _, err := s.findTags(ctx, c, t)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		if t.association == "" {
			r, ok := s.clusters.Read(tx, key)
			if !ok {
				return t.notFound()
			}
			changed := *r
			if changed.Tags, err = changedTags(r.Tags, change); err != nil {
				return err
			}
			s.clusters.Write(tx, key, &changed)
			return nil
		}
		r, ok := s.associations.Read(tx, key)
		if !ok || r.ID != t.association {
			return t.notFound()
		}
		d := r.detail()
		if d.Tags, err = changedTags(d.Tags, change); err != nil {
			return err
		}
		s.associations.Write(tx, key, r.with(d))
		return nil
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

func changedTags(tags map[string]string, change func(map[string]string)) (map[string]string, error) {
	changed := maps.Clone(tagMap(tags))
	change(changed)
	if err := checkTags("BadRequestException", changed); err != nil {
		return nil, err
	}
	return changed, nil
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
	return &emptyOut{}, s.changeTags(ctx, c, in.ResourceArn, func(tags map[string]string) { maps.Copy(tags, in.Tags) })
}

func (s *Service) untagResourceAccess(c *awsapi.Caller, in *untagResourceIn) ([]awsapi.Access, error) {
	return s.tagAccess(c, "eks:UntagResource", in.ResourceArn, nil, in.TagKeys)
}

func (s *Service) untagResource(ctx context.Context, c *awsapi.Caller, in *untagResourceIn) (*emptyOut, error) {
	return &emptyOut{}, s.changeTags(ctx, c, in.ResourceArn, func(tags map[string]string) {
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
