package iam

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

const (
	// useGranularity is the span of which only the first use of something is kept (IAM User Guide, "Getting credential
	// reports": 15 minutes). So it is also how seldom one row of uses is written.
	useGranularity = 15 * time.Minute
	// saveEvery is how long a use may be known to one replica only.
	saveEvery = time.Minute
	// maxSaved bounds the rows of one transaction that saves uses.
	maxSaved = 50
)

// use is when, and from which region, a service was last used.
type use struct {
	At     time.Time
	Region string
}

// usage is keyed by the ID of an access key, or the unique ID of a user or role.
type usage struct {
	Services map[string]use // by the service's signing name
}

func (u *usage) clone() *usage { return &usage{maps.Clone(u.Services)} }

// uses are what this process saw since it last saved: the times of each service, by the IDs of usage.
type uses struct {
	mu   sync.Mutex
	byID map[string]map[string]use
}

// NoteUse remembers that the caller's long-term access key, user or role is used. It is on the way of every request: it
// writes nothing, and of most requests it notes nothing, since the use is known already.
func (s *Service) NoteUse(c *awsapi.Caller) {
	if c.Session == nil {
		s.note(c, c.AccessKeyID)
	}
	s.note(c, c.EntityID)
}

func (s *Service) note(c *awsapi.Caller, id string) {
	if id == "" {
		return
	}
	if row, ok := s.usage.Get(id); ok && c.Time.Sub(row.Services[c.Service].At) < useGranularity {
		return
	}
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	services := s.uses.byID[id]
	if known, ok := services[c.Service]; ok && c.Time.Sub(known.At) < useGranularity {
		return
	}
	if services == nil {
		services = make(map[string]use)
		s.uses.byID[id] = services
	}
	services[c.Service] = use{c.Time.UTC().Truncate(time.Second), c.Region}
}

// usesByService returns the last use of each service by its signing name.
func (s *Service) usesByService(id string) map[string]use {
	known := make(map[string]use)
	if row, ok := s.usage.Get(id); ok {
		maps.Copy(known, row.Services)
	}
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	merge(known, s.uses.byID[id])
	return known
}

// merge adds the uses that are later than what is known of their service, and reports whether there were any.
func merge(known, add map[string]use) (later bool) {
	for service, u := range add {
		if u.At.After(known[service].At) {
			known[service], later = u, true
		}
	}
	return later
}

// lastUse returns the last use of all, and of which service it was.
func (s *Service) lastUse(id string) (last use, service string, ok bool) {
	for name, u := range s.usesByService(id) {
		if !ok || u.At.After(last.At) || u.At.Equal(last.At) && name < service {
			last, service, ok = u, name, true
		}
	}
	return last, service, ok
}

// Run saves, every minute and until ctx ends, when keys, users and roles were last used, for other replicas and the next
// start to know. Uses of the last minute are lost when the process ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.saveUses(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "last uses cannot be saved; trying again", slog.Any("err", err))
		}
	}
}

// saveUses writes what was noted. What was written is no longer noted; the rest is tried again the next time.
func (s *Service) saveUses(ctx context.Context) error {
	s.uses.mu.Lock()
	noted := make(map[string]map[string]use, len(s.uses.byID))
	for id, services := range s.uses.byID {
		noted[id] = maps.Clone(services)
	}
	s.uses.mu.Unlock()
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(noted)), maxSaved) {
		err := s.db.Update(ctx, func(tx *kv.Tx) error {
			for _, id := range ids {
				s.saveUse(tx, id, noted[id])
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("save the last uses of %d entities: %w", len(ids), err)
		}
		s.settle(ids, noted)
	}
	return nil
}

// saveUse adds to a row what another replica has not saved within the granularity, as part of tx. The uses of what has been
// deleted meanwhile go.
func (s *Service) saveUse(tx *kv.Tx, id string, noted map[string]use) {
	if !s.isUsed(id) {
		return
	}
	next := &usage{make(map[string]use)}
	if row, ok := s.usage.Read(tx, id); ok {
		next = row.clone()
	}
	later := maps.Clone(noted)
	maps.DeleteFunc(later, func(service string, u use) bool { return u.At.Sub(next.Services[service].At) < useGranularity })
	if merge(next.Services, later) {
		s.usage.Write(tx, id, next)
	}
}

// isUsed reports whether an access key, user or role exists.
func (s *Service) isUsed(id string) bool {
	_, isKey := s.keys.Get(id)
	return isKey || s.arnOfID(id) != ""
}

// settle drops what was saved from the notes, unless it was noted anew meanwhile.
func (s *Service) settle(ids []string, saved map[string]map[string]use) {
	s.uses.mu.Lock()
	defer s.uses.mu.Unlock()
	for _, id := range ids {
		services := s.uses.byID[id]
		maps.DeleteFunc(services, func(service string, u use) bool { return u == saved[id][service] })
		if len(services) == 0 {
			delete(s.uses.byID, id)
		}
	}
}

// serviceTitle is the name that reports have for a service, by its signing name. Other services have their signing name.
func serviceTitle(namespace string) string {
	switch namespace {
	case "iam":
		return "AWS Identity and Access Management"
	case "sts":
		return "AWS Security Token Service"
	case "eks":
		return "Amazon Elastic Kubernetes Service"
	case "eks-auth":
		return "Amazon EKS Auth"
	case "s3":
		return "Amazon S3"
	case "ec2":
		return "Amazon EC2"
	case "cloudtrail":
		return "AWS CloudTrail"
	case "lanyard":
		return "Lanyard"
	}
	return namespace
}

// servedNamespaces are the services whose use Lanyard sees.
func servedNamespaces() []string {
	return []string{"cloudtrail", "ec2", "eks", "eks-auth", "iam", "lanyard", "s3", "sts"}
}

// reported is a user, group, role or managed policy that a report on last uses is about.
type reported struct {
	arn       string
	documents []document
	entities  []entityInfo    // whose uses count
	seen      map[string]bool // their IDs
}

type entityInfo struct {
	Arn  string
	Name string
	Type string
	ID   string
	Path string
}

// reportOn finds what a report is about. The uses of a group are those of its members, those of a policy its holders'.
func (s *Service) reportOn(c *awsapi.Caller, text string) (*reported, error) {
	r := &reported{arn: text, seen: make(map[string]bool)}
	a, err := arn.Parse(text)
	if err == nil && a.Service() == "iam" && strings.HasPrefix(a.Resource(), "policy/") {
		m, err := s.findManaged(c.Account, text)
		if err != nil {
			return nil, err
		}
		v, _ := m.version(m.Default)
		r.documents = []document{{m.ARN, v.Document}}
		s.eachUse(c.Account, m.ARN, func(kind string, e *entity) {
			if slices.Contains(e.Attached, m.ARN) {
				r.add(s, kind, e)
			}
		})
		return r, nil
	}
	of, err := s.sourceOf(c, text)
	if err != nil {
		return nil, err
	}
	if r.documents, _, err = s.policiesOfSource(of, nil); err != nil {
		return nil, err
	}
	r.add(s, nounOf(of.kind), of.entity)
	return r, nil
}

// nounOf is the way from the kind of an ARN to the noun of an entity.
func nounOf(kind string) string { return strings.ToUpper(kind[:1]) + kind[1:] }

// add counts the uses of a user or role, or of a group's members.
func (r *reported) add(s *Service, noun string, e *entity) {
	switch noun {
	case "User":
		r.addOne(entityInfo{s.userARN(e), e.Name, "USER", e.ID, e.Path})
	case "Role":
		r.addOne(entityInfo{s.roleARN(e), e.Name, "ROLE", e.ID, e.Path})
	case "Group":
		for _, u := range s.usersByGroup.Get(e.ID) {
			r.add(s, "User", &u.entity)
		}
	}
}

func (r *reported) addOne(info entityInfo) {
	if !r.seen[info.ID] {
		r.seen[info.ID] = true
		r.entities = append(r.entities, info)
	}
}

// reportTarget is what the permission for a report is asked for.
func (s *Service) reportTarget(c *awsapi.Caller, text string) (target, error) {
	if a, err := arn.Parse(text); err == nil && a.Service() == "iam" && strings.HasPrefix(a.Resource(), "policy/") {
		return s.policyTarget(c, text)
	}
	return s.sourceTarget(text)
}

type lastAccessedIn struct {
	Arn         string
	Granularity string
}

func (in *lastAccessedIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.reportTarget(c, in.Arn)
}

type jobOut struct{ JobID string }

func (s *Service) generateLastAccessed(ctx context.Context, c *awsapi.Caller, in *lastAccessedIn) (*jobOut, error) {
	if in.Granularity == "ACTION_LEVEL" {
		return nil, invalidInput("This server keeps when services were last used, not actions: the granularity must be SERVICE_LEVEL.")
	}
	if _, err := s.reportOn(c, in.Arn); err != nil {
		return nil, err
	}
	id, err := s.addJob(ctx, c.Account, job{Kind: lastAccessedJob, Subject: in.Arn})
	return &jobOut{id}, err
}

// lastAccessedJob finds the job and what it is about. A report tells what is known when it is fetched.
func (s *Service) lastAccessedJob(c *awsapi.Caller, id string) (*job, *reported, error) {
	j, ok := s.jobs.Get(jobKey(c.Account, id))
	if !ok || j.Kind != lastAccessedJob {
		return nil, nil, awsapi.Errorf("NoSuchEntity", "The job with id %s cannot be found.", id)
	}
	r, err := s.reportOn(c, j.Subject)
	return j, r, err
}

type getLastAccessedIn struct {
	JobID string
	page
}

func (in *getLastAccessedIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type serviceUseShape struct {
	ServiceName                string
	ServiceNamespace           string
	LastAuthenticated          time.Time
	LastAuthenticatedEntity    string
	LastAuthenticatedRegion    string
	TotalAuthenticatedEntities int32
}

type getLastAccessedOut struct {
	JobStatus            string
	JobType              string
	JobCreationDate      time.Time
	JobCompletionDate    time.Time
	ServicesLastAccessed []serviceUseShape
	truncated
}

func (s *Service) getLastAccessed(_ context.Context, c *awsapi.Caller, in *getLastAccessedIn) (*getLastAccessedOut, error) {
	j, r, err := s.lastAccessedJob(c, in.JobID)
	if err != nil {
		return nil, err
	}
	uses := make([]map[string]use, len(r.entities))
	for i, e := range r.entities {
		uses[i] = s.usesByService(e.ID)
	}
	shapes, rest, err := paginate(s, c, in.page, sorted(r.namespaces(), func(n string) string { return n }), func(namespace string) (serviceUseShape, bool) {
		shape := serviceUseShape{ServiceName: serviceTitle(namespace), ServiceNamespace: namespace}
		for i, e := range r.entities {
			u, used := uses[i][namespace]
			if !used {
				continue
			}
			shape.TotalAuthenticatedEntities++
			if u.At.After(shape.LastAuthenticated) {
				shape.LastAuthenticated, shape.LastAuthenticatedEntity, shape.LastAuthenticatedRegion = u.At, e.Arn, u.Region
			}
		}
		return shape, true
	})
	return &getLastAccessedOut{"COMPLETED", "SERVICE_LEVEL", j.Created, j.Created, shapes, rest}, err
}

// namespaces are the services that a report lists, in order.
func (r *reported) namespaces() []string {
	var list []string
	for _, d := range r.documents {
		list = append(list, readGrants(d.text).services()...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

type lastAccessedEntitiesIn struct {
	JobID            string
	ServiceNamespace string
	page
}

func (in *lastAccessedEntitiesIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type entityDetails struct {
	EntityInfo        entityInfo
	LastAuthenticated time.Time
}

type lastAccessedEntitiesOut struct {
	JobStatus         string
	JobCreationDate   time.Time
	JobCompletionDate time.Time
	EntityDetailsList []entityDetails
	truncated
}

func (s *Service) getLastAccessedEntities(
	_ context.Context, c *awsapi.Caller, in *lastAccessedEntitiesIn,
) (*lastAccessedEntitiesOut, error) {
	j, r, err := s.lastAccessedJob(c, in.JobID)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(r.namespaces(), in.ServiceNamespace) {
		return nil, awsapi.Errorf("NoSuchEntity", "The policies of %s do not grant access to the service %s.", r.arn, in.ServiceNamespace)
	}
	from := sorted(r.entities, func(e entityInfo) string { return e.Type + e.ID })
	details, rest, err := paginate(s, c, in.page, from, func(e entityInfo) (entityDetails, bool) {
		return entityDetails{e, s.usesByService(e.ID)[in.ServiceNamespace].At}, true
	})
	return &lastAccessedEntitiesOut{"COMPLETED", j.Created, j.Created, details, rest}, err
}

type grantingPoliciesIn struct {
	Arn               string
	Marker            string
	ServiceNamespaces []string
}

func (in *grantingPoliciesIn) target(s *Service, _ *awsapi.Caller) (target, error) {
	return s.sourceTarget(in.Arn)
}

type grantingPolicy struct {
	PolicyName string
	PolicyType string
	PolicyArn  string
	EntityType string
	EntityName string
}

type grantingEntry struct {
	ServiceNamespace string
	Policies         []grantingPolicy
}

type grantingPoliciesOut struct {
	PoliciesGrantingServiceAccess []grantingEntry
	truncated
}

func (s *Service) listPoliciesGranting(_ context.Context, c *awsapi.Caller, in *grantingPoliciesIn) (*grantingPoliciesOut, error) {
	of, err := s.sourceOf(c, in.Arn)
	if err != nil {
		return nil, err
	}
	policies := s.grantsOf(of)
	for _, g := range of.groups {
		policies = append(policies, s.grantsOf(source{kind: "group", entity: &g.entity})...)
	}
	entries, rest, err := paginate(s, c, page{Marker: in.Marker}, numbered(in.ServiceNamespaces), func(namespace string) (grantingEntry, bool) {
		entry := grantingEntry{namespace, []grantingPolicy{}}
		for _, p := range policies {
			if p.reaches(namespace) && !slices.Contains(entry.Policies, p.grantingPolicy) {
				entry.Policies = append(entry.Policies, p.grantingPolicy)
			}
		}
		return entry, true
	})
	return &grantingPoliciesOut{entries, rest}, err
}

// grants is a policy and what it grants.
type grants struct {
	grantingPolicy
	granted
}

// grantsOf returns the policies that a user, group or role has itself.
func (s *Service) grantsOf(of source) []grants {
	var list []grants
	for _, p := range of.Inline {
		list = append(list, grants{
			grantingPolicy{PolicyName: p.Name, PolicyType: "INLINE", EntityType: strings.ToUpper(of.kind), EntityName: of.Name},
			readGrants(p.Document),
		})
	}
	for _, a := range of.Attached {
		if m, ok := s.lookupManaged(of.Account, a); ok {
			v, _ := m.version(m.Default)
			list = append(list, grants{grantingPolicy{PolicyName: m.Name, PolicyType: "MANAGED", PolicyArn: m.ARN}, readGrants(v.Document)})
		}
	}
	return list
}
