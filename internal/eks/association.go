package eks

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"
	"time"
	"unique"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/subject"
	"github.com/lanyard-id/lanyard/policy"
)

// podsService is the service principal of EKS Pod Identity, in every partition.
const podsService = "pods.eks.amazonaws.com"

// requestTokenLife is how long a clientRequestToken is remembered.
const requestTokenLife = 24 * time.Hour

// associationRecord is an association as it is stored. There may be hundreds of thousands, so that nothing is in it that
// its key tells (the cluster, whom it is for, and the account of the role), and what few have takes no room in the others.
type associationRecord struct {
	ID      string             `json:"id"`
	Role    roleName           `json:"role"`    // path and name
	Created int64              `json:"created"` // Unix milliseconds
	More    *associationDetail `json:"more,omitempty"`
}

// associationDetail is what most associations do not have.
type associationDetail struct {
	Modified int64             `json:"modified,omitempty"` // Unix milliseconds; 0 for never
	Target   string            `json:"target,omitempty"`   // ARN of the target role
	NoTags   bool              `json:"noTags,omitempty"`   // session tags are disabled
	Policy   string            `json:"policy,omitempty"`
	Owner    string            `json:"owner,omitempty"` // ARN of the add-on that it belongs to
	Tags     map[string]string `json:"tags,omitempty"`
}

// detail returns a copy of what the association has besides.
func (r *associationRecord) detail() associationDetail {
	if r.More == nil {
		return associationDetail{}
	}
	return *r.More
}

// with returns the association with another detail.
func (r *associationRecord) with(d associationDetail) *associationRecord {
	changed := *r
	changed.More = &d
	if d.Modified == 0 && d.Target == "" && !d.NoTags && d.Policy == "" && d.Owner == "" && len(d.Tags) == 0 {
		changed.More = nil
	}
	return &changed
}

// roleName is a role's path and name, kept once for all the associations that have it.
type roleName struct{ handle unique.Handle[string] }

func newRoleName(s string) roleName { return roleName{unique.Make(s)} }

// String returns the name; it is empty for the zero roleName.
func (n roleName) String() string {
	if n == (roleName{}) {
		return ""
	}
	return n.handle.Value()
}

// MarshalText implements encoding.TextMarshaler.
func (n roleName) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *roleName) UnmarshalText(text []byte) error {
	*n = newRoleName(string(text))
	return nil
}

// Association is a pod identity association as others see it; it must not be modified.
type Association struct {
	ID             string // a-…
	ARN            string
	Cluster        string
	Namespace      string // may be a pattern
	ServiceAccount string // may be a pattern
	RoleARN        string
	TargetRoleARN  string // empty for none
	// ExternalID is what the target role is assumed with; empty without one. For a pattern it is the pattern of it.
	ExternalID         string
	DisableSessionTags bool
	Policy             string // session policy; empty for none
	OwnerARN           string
	Tags               map[string]string
	Created            time.Time
	Modified           time.Time
}

// IsPattern reports whether the association is for more than one service account.
func (a *Association) IsPattern() bool {
	return subject.Subject{Namespace: a.Namespace, ServiceAccount: a.ServiceAccount}.IsPattern()
}

// ExternalID is what EKS sends when it assumes a target role for a service account (EKS User Guide, "Access AWS
// resources using EKS Pod Identity Target IAM Roles").
func ExternalID(c *Cluster, namespace, serviceAccount string) string {
	return externalID(c.Region, c.Account, c.Name, subject.Subject{Namespace: namespace, ServiceAccount: serviceAccount})
}

func externalID(region, account, cluster string, who subject.Subject) string {
	return strings.Join([]string{region, account, cluster, who.Namespace, who.ServiceAccount}, "/")
}

// associationKey is an association's place in its table. There is one per cluster and subject, which the table's
// compare-and-swap therefore guarantees.
func associationKey(cluster string, who subject.Subject) string {
	return cluster + "/" + who.Namespace + "/" + who.ServiceAccount
}

// splitAssociationKey is the inverse of associationKey.
func splitAssociationKey(key string) (cluster string, who subject.Subject) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return key, subject.Subject{}
	}
	cluster, who.ServiceAccount = key[:i], key[i+1:]
	if i = strings.LastIndexByte(cluster, '/'); i >= 0 {
		cluster, who.Namespace = cluster[:i], cluster[i+1:]
	}
	return cluster, who
}

// Association finds the association that applies to a service account: the most specific one (see subject.Compare). A miss
// in memory is confirmed against the store before it is believed. A hit is not, not even a pattern's: memory is behind
// the store by moments, and an association more specific than a pattern counts from when it arrives. nil without an error means
// that there is none; errors wrap kv.ErrUnavailable.
func (s *Service) Association(ctx context.Context, c *Cluster, namespace, serviceAccount string) (*Association, error) {
	who := subject.Subject{Namespace: namespace, ServiceAccount: serviceAccount}
	if who.IsPattern() || strings.Contains(namespace+serviceAccount, "/") {
		return nil, nil // not names; they must not be taken for the pattern of that text
	}
	cluster := clusterKey(c.Account, c.Region, c.Name)
	if a := s.lookup(cluster, who); a != nil {
		return a, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return nil, fmt.Errorf("confirm that %s/%s has no association: %w", namespace, serviceAccount, err)
	}
	return s.lookup(cluster, who), nil
}

func (s *Service) lookup(cluster string, who subject.Subject) *Association {
	key := associationKey(cluster, who)
	if a, ok := s.associations.Get(key); ok {
		return s.association(key, a)
	}
	var best *associationRecord
	var bestKey string
	var bestSubject subject.Subject
	for key, a := range s.patterns.Get(cluster) {
		_, pattern := splitAssociationKey(key)
		if pattern.Covers(who) && (best == nil || subject.Compare(pattern, bestSubject) < 0) {
			best, bestKey, bestSubject = a, key, pattern
		}
	}
	if best == nil {
		return nil
	}
	return s.association(bestKey, best)
}

// association is a record together with what its key tells.
func (s *Service) association(key string, r *associationRecord) *Association {
	cluster, who := splitAssociationKey(key)
	account, rest, _ := strings.Cut(cluster, "/")
	region, name, _ := strings.Cut(rest, "/")
	d := r.detail()
	a := &Association{
		ID:                 r.ID,
		ARN:                s.associationARN(region, account, name, r.ID),
		Cluster:            name,
		Namespace:          who.Namespace,
		ServiceAccount:     who.ServiceAccount,
		RoleARN:            "arn:" + s.partition + ":iam::" + account + ":role/" + r.Role.String(),
		TargetRoleARN:      d.Target,
		DisableSessionTags: d.NoTags,
		Policy:             d.Policy,
		OwnerARN:           d.Owner,
		Tags:               d.Tags,
		Created:            time.UnixMilli(r.Created).UTC(),
		Modified:           time.UnixMilli(max(r.Created, d.Modified)).UTC(),
	}
	if d.Target != "" {
		a.ExternalID = externalID(region, account, name, who)
	}
	return a
}

func (s *Service) associationARN(region, account, cluster, id string) string {
	return s.arnOf(region, account, "podidentityassociation/"+cluster+"/"+id)
}

// An ID is a- and 17 characters of a-z and 0-9. Of an association that was made with a clientRequestToken, the first 10
// of them are the token's hash, and so the index that finds associations by ID also finds those of a token.
const (
	idAlphabet   = "abcdefghijklmnopqrstuvwxyz0123456789"
	idLength     = len("a-") + 17
	idHeadLength = len("a-") + 10
)

// idHead is the part of an ID that it is indexed by; of what is no ID, the whole.
func idHead(id string) string { return id[:min(len(id), idHeadLength)] }

// newID makes an ID. token is empty when the caller gave none.
func newID(cluster, token string) string {
	var random [sha256.Size]byte
	rand.Read(random[:])
	head := random
	if token != "" {
		head = sha256.Sum256([]byte(cluster + "\x00" + token))
	}
	return "a-" + idText(head[:], idHeadLength-len("a-")) + idText(random[sha256.Size/2:], idLength-idHeadLength)
}

// idText turns bytes into characters. That 256 is no multiple of 36 costs a fraction of a bit of each.
func idText(b []byte, n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = idAlphabet[int(b[i])%len(idAlphabet)]
	}
	return string(text)
}

// byAssociationID finds a cluster's association by its ID.
func (s *Service) byAssociationID(cluster, id string) (key string, r *associationRecord, ok bool) {
	for key, r := range s.byID.Get(idHead(id)) {
		if of, _ := splitAssociationKey(key); of == cluster && r.ID == id {
			return key, r, true
		}
	}
	return "", nil, false
}

// findAssociation finds a cluster's association by its ID, and confirms that it does not exist before it says so.
func (s *Service) findAssociation(ctx context.Context, c *awsapi.Caller, cluster, id string) (key string, r *associationRecord, err error) {
	of, err := s.liveCluster(ctx, c, cluster)
	if err != nil {
		return "", nil, err
	}
	key, r, ok := s.byAssociationID(of, id)
	if ok {
		return key, r, nil
	}
	if err := s.db.Sync(ctx); err != nil {
		return "", nil, fmt.Errorf("confirm that association %s does not exist: %w", id, err)
	}
	if key, r, ok = s.byAssociationID(of, id); !ok {
		return "", nil, noSuchAssociation(cluster, id)
	}
	return key, r, nil
}

func noSuchAssociation(cluster, id string) *awsapi.Error {
	e := awsapi.Errorf("ResourceNotFoundException", "The association ID %s does not exist in cluster %s.", id, cluster)
	e.Fields = map[string]any{"clusterName": cluster}
	return e
}

type associationOut struct{ Association *associationShape }

type associationShape struct {
	ClusterName        string
	Namespace          string
	ServiceAccount     string
	RoleArn            string
	AssociationArn     string
	AssociationId      string
	Tags               map[string]string
	CreatedAt          time.Time
	ModifiedAt         time.Time
	OwnerArn           string
	DisableSessionTags bool
	TargetRoleArn      string
	ExternalId         string
	Policy             string
}

func (s *Service) associationOut(key string, r *associationRecord) *associationOut {
	a := s.association(key, r)
	return &associationOut{Association: &associationShape{
		ClusterName:        a.Cluster,
		Namespace:          a.Namespace,
		ServiceAccount:     a.ServiceAccount,
		RoleArn:            a.RoleARN,
		AssociationArn:     a.ARN,
		AssociationId:      a.ID,
		Tags:               tagMap(a.Tags),
		CreatedAt:          a.Created,
		ModifiedAt:         a.Modified,
		OwnerArn:           a.OwnerARN,
		DisableSessionTags: a.DisableSessionTags,
		TargetRoleArn:      a.TargetRoleARN,
		ExternalId:         a.ExternalID,
		Policy:             a.Policy,
	}}
}

type createAssociationIn struct {
	ClusterName        string
	Namespace          string
	ServiceAccount     string
	RoleArn            string
	ClientRequestToken string
	Tags               map[string]string
	DisableSessionTags bool
	TargetRoleArn      string
	Policy             string
}

func (s *Service) createAssociationAccess(c *awsapi.Caller, in *createAssociationIn) ([]awsapi.Access, error) {
	pass, err := s.passRole(c, in.RoleArn, podsService)
	if err != nil {
		return nil, err
	}
	return []awsapi.Access{s.clusterAccess(c, "eks:CreatePodIdentityAssociation", in.ClusterName, in.Tags), pass}, nil
}

func (s *Service) createAssociation(ctx context.Context, c *awsapi.Caller, in *createAssociationIn) (*associationOut, error) {
	cluster, err := s.liveCluster(ctx, c, in.ClusterName)
	if err != nil {
		return nil, err
	}
	who := subject.Subject{Namespace: in.Namespace, ServiceAccount: in.ServiceAccount}
	if err := checkSubject(who); err != nil {
		return nil, err
	}
	if err := checkTags("InvalidParameterException", in.Tags); err != nil {
		return nil, err
	}
	role, err := s.podRole(ctx, c, in.RoleArn)
	if err != nil {
		return nil, err
	}
	detail := associationDetail{Target: in.TargetRoleArn, NoTags: in.DisableSessionTags, Policy: in.Policy, Tags: tagsOfNew(c, in.Tags)}
	if err := s.checkDetail(&detail); err != nil {
		return nil, err
	}
	made := &associationRecord{ID: newID(cluster, in.ClientRequestToken), Role: newRoleName(role), Created: s.now().UnixMilli()}
	made = made.with(detail)

	key := associationKey(cluster, who)
	var stored *associationRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		if r, ok := s.clusters.Read(tx, cluster); !ok || r.Deleting {
			return noSuchCluster(in.ClusterName)
		}
		if in.ClientRequestToken != "" {
			if of, r, ok := s.byRequestToken(cluster, made); ok && of != key {
				_, who := splitAssociationKey(of)
				return invalidRequest("The clientRequestToken was used for the association %s of %s/%s.", r.ID, who.Namespace, who.ServiceAccount)
			}
		}
		if have, ok := s.associations.Read(tx, key); ok {
			stored = have
			switch {
			case in.ClientRequestToken == "" || !sameRequestToken(have, made):
				e := awsapi.Errorf("ResourceInUseException", "Association already exists: %s", have.ID)
				e.Fields = map[string]any{"clusterName": in.ClusterName}
				return e
			case !sameAssociation(have, made):
				return invalidRequest("The clientRequestToken was used with other parameters, for the association %s.", have.ID)
			}
			return nil
		}
		if s.full(cluster) {
			return s.tooMany(in.ClusterName)
		}
		stored = made
		s.associations.Write(tx, key, made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.associationOut(key, stored), nil
}

// podRole checks that a role is one that EKS can assume for pods, and returns its path and name. That the role exists
// is checked before everything else about it.
func (s *Service) podRole(ctx context.Context, c *awsapi.Caller, roleARN string) (string, error) {
	a, err := s.parseRoleARN("roleArn", roleARN)
	if err != nil {
		return "", err
	}
	if a.Account() != c.Account {
		return "", invalidParameter("The role %s is not of the account %s, which the cluster is in.", roleARN, c.Account)
	}
	role, ok, err := s.findRole(ctx, a)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", invalidParameter("Role provided in the request does not exist.")
	}
	if !trustsPods(role) {
		return "", invalidParameter("Trust policy of the role provided is invalid.")
	}
	return roleResource(a), nil
}

// roleResource is a role's path (without its leading slash) and name; empty for other ARNs.
func roleResource(a arn.ARN) string {
	name, ok := strings.CutPrefix(a.Resource(), "role/")
	if !ok {
		return ""
	}
	return name
}

// checkDetail checks what can be checked without the association that it is of.
func (s *Service) checkDetail(d *associationDetail) error {
	if d.Target != "" {
		if _, err := s.parseRoleARN("targetRoleArn", d.Target); err != nil {
			return err
		}
	}
	if d.Policy == "" {
		return nil
	}
	if !d.NoTags {
		return invalidParameter("A policy requires that disableSessionTags is true.")
	}
	if _, err := policy.New("policy", policy.Session, []byte(d.Policy)); err != nil {
		e := invalidParameter("The policy is not valid: %s", err)
		e.Cause = err
		return e
	}
	return nil
}

// byRequestToken finds an association of the cluster that was made with the same clientRequestToken lately.
func (s *Service) byRequestToken(cluster string, made *associationRecord) (key string, r *associationRecord, ok bool) {
	for key, r := range s.byID.Get(idHead(made.ID)) {
		if of, _ := splitAssociationKey(key); of == cluster && sameRequestToken(r, made) {
			return key, r, true
		}
	}
	return "", nil, false
}

// sameRequestToken reports whether an association was made with the clientRequestToken of a new one, and not too long ago.
func sameRequestToken(have, made *associationRecord) bool {
	return idHead(have.ID) == idHead(made.ID) && time.UnixMilli(made.Created).Sub(time.UnixMilli(have.Created)) < requestTokenLife
}

// sameAssociation reports whether an association is what a new one would be.
func sameAssociation(have, made *associationRecord) bool {
	a, b := have.detail(), made.detail()
	return have.Role == made.Role && a.Target == b.Target && a.NoTags == b.NoTags && a.Policy == b.Policy && maps.Equal(a.Tags, b.Tags)
}

// tooMany refuses an association more than the cluster may have.
func (s *Service) tooMany(cluster string) *awsapi.Error {
	e := awsapi.Errorf("ResourceLimitExceededException", "The cluster %s has the most pod identity associations that it may have: %d.",
		cluster, s.maxAssociations)
	e.Fields = map[string]any{"clusterName": cluster}
	return e
}

// full reports whether the cluster has reached its quota. Only when the whole table has so many rows need they be counted.
func (s *Service) full(cluster string) bool {
	if s.associations.Len() < s.maxAssociations {
		return false
	}
	n := 0
	for range s.associations.Scan(cluster+"/", "") {
		if n++; n >= s.maxAssociations {
			return true
		}
	}
	return false
}

type associationIn struct{ ClusterName, AssociationId string }

// associationAccess asks for an action on an association, which need not exist.
func (s *Service) associationAccess(c *awsapi.Caller, action, cluster, id string) awsapi.Access {
	var tags map[string]string
	if _, r, ok := s.byAssociationID(clusterKey(c.Account, c.Region, cluster), id); ok {
		tags = r.detail().Tags
	}
	return awsapi.Access{Action: action, Resource: s.associationARN(c.Region, c.Account, cluster, id), Context: tagContext(tags, nil, nil)}
}

func (s *Service) describeAssociationAccess(c *awsapi.Caller, in *associationIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.associationAccess(c, "eks:DescribePodIdentityAssociation", in.ClusterName, in.AssociationId)}, nil
}

func (s *Service) describeAssociation(ctx context.Context, c *awsapi.Caller, in *associationIn) (*associationOut, error) {
	key, r, err := s.findAssociation(ctx, c, in.ClusterName, in.AssociationId)
	if err != nil {
		return nil, err
	}
	return s.associationOut(key, r), nil
}

type listAssociationsIn struct {
	ClusterName    string
	Namespace      string
	ServiceAccount string
	MaxResults     int32
	NextToken      string
}

type listAssociationsOut struct {
	Associations []associationSummary
	NextToken    string
}

type associationSummary struct {
	ClusterName    string
	Namespace      string
	ServiceAccount string
	AssociationArn string
	AssociationId  string
	OwnerArn       string
}

// listAssociations compares the filters with an association's text: a pattern is found by its own text only.
func (s *Service) listAssociations(ctx context.Context, c *awsapi.Caller, in *listAssociationsIn) (*listAssociationsOut, error) {
	if have, err := s.findCluster(ctx, c.Account, c.Region, in.ClusterName); err != nil {
		return nil, err
	} else if have == nil || have.Deleting {
		return nil, noSuchCluster(in.ClusterName)
	}
	after, err := readPageToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	out := s.pageOfAssociations(c, in, after)
	if in.Namespace == "" || in.ServiceAccount == "" || after != "" || len(out.Associations) > 0 {
		return out, nil
	}
	// Who asks for one service account, as the webhook does, leaves a pod without credentials if the answer is none.
	if err := s.db.Sync(ctx); err != nil {
		return nil, fmt.Errorf("confirm that service account %s has no association: %w", in.ServiceAccount, err)
	}
	return s.pageOfAssociations(c, in, after), nil
}

// pageOfAssociations lists from memory what comes behind a key without the cluster's part.
func (s *Service) pageOfAssociations(c *awsapi.Caller, in *listAssociationsIn, after string) *listAssociationsOut {
	all := clusterKey(c.Account, c.Region, in.ClusterName) + "/"
	prefix := all
	if in.Namespace != "" {
		prefix += in.Namespace + "/"
	}
	if after != "" {
		after = all + after
	}
	out := &listAssociationsOut{Associations: []associationSummary{}}
	last := ""
	for key, r := range s.associations.Scan(prefix, after) {
		_, who := splitAssociationKey(key)
		if in.Namespace != "" && who.Namespace != in.Namespace || in.ServiceAccount != "" && who.ServiceAccount != in.ServiceAccount {
			continue
		}
		if len(out.Associations) == pageSize(in.MaxResults) {
			out.NextToken = pageToken(last)
			break
		}
		last = strings.TrimPrefix(key, all)
		out.Associations = append(out.Associations, associationSummary{
			ClusterName:    in.ClusterName,
			Namespace:      who.Namespace,
			ServiceAccount: who.ServiceAccount,
			AssociationArn: s.associationARN(c.Region, c.Account, in.ClusterName, r.ID),
			AssociationId:  r.ID,
			OwnerArn:       r.detail().Owner,
		})
	}
	return out
}

type updateAssociationIn struct {
	ClusterName        string
	AssociationId      string
	ClientRequestToken string // not kept: an update can be repeated as it is
	RoleArn            *string
	DisableSessionTags *bool
	TargetRoleArn      *string // empty removes it
	Policy             *string // empty removes it
}

func (s *Service) updateAssociationAccess(c *awsapi.Caller, in *updateAssociationIn) ([]awsapi.Access, error) {
	access := []awsapi.Access{s.associationAccess(c, "eks:UpdatePodIdentityAssociation", in.ClusterName, in.AssociationId)}
	if in.RoleArn != nil {
		pass, err := s.passRole(c, *in.RoleArn, podsService)
		if err != nil {
			return nil, err
		}
		access = append(access, pass)
	}
	return access, nil
}

func (s *Service) updateAssociation(ctx context.Context, c *awsapi.Caller, in *updateAssociationIn) (*associationOut, error) {
	if in.RoleArn == nil && in.DisableSessionTags == nil && in.TargetRoleArn == nil && in.Policy == nil {
		return nil, invalidParameter("At least one of roleArn, targetRoleArn, disableSessionTags and policy is required.")
	}
	key, _, err := s.findAssociation(ctx, c, in.ClusterName, in.AssociationId)
	if err != nil {
		return nil, err
	}
	role := ""
	if in.RoleArn != nil {
		if role, err = s.podRole(ctx, c, *in.RoleArn); err != nil {
			return nil, err
		}
	}
	now := s.now().UnixMilli()
	var changed *associationRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.associations.Read(tx, key)
		if !ok || r.ID != in.AssociationId {
			return noSuchAssociation(in.ClusterName, in.AssociationId)
		}
		if err := notOwned(r); err != nil {
			return err
		}
		d := r.detail()
		d.Modified = now
		if in.DisableSessionTags != nil {
			d.NoTags = *in.DisableSessionTags
		}
		if in.TargetRoleArn != nil {
			d.Target = *in.TargetRoleArn
		}
		if in.Policy != nil {
			d.Policy = *in.Policy
		}
		if err := s.checkDetail(&d); err != nil {
			return err
		}
		changed = r.with(d)
		if role != "" {
			changed.Role = newRoleName(role)
		}
		s.associations.Write(tx, key, changed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.associationOut(key, changed), nil
}

// notOwned refuses to touch what an add-on manages (EKS User Guide, "Attach an IAM Role to an Amazon EKS add-on using
// Pod Identity").
func notOwned(r *associationRecord) error {
	owner := r.detail().Owner
	if owner == "" {
		return nil
	}
	return invalidRequest("The association %s is managed by %s; change it there.", r.ID, owner)
}

func (s *Service) deleteAssociationAccess(c *awsapi.Caller, in *associationIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.associationAccess(c, "eks:DeletePodIdentityAssociation", in.ClusterName, in.AssociationId)}, nil
}

func (s *Service) deleteAssociation(ctx context.Context, c *awsapi.Caller, in *associationIn) (*associationOut, error) {
	key, _, err := s.findAssociation(ctx, c, in.ClusterName, in.AssociationId)
	if err != nil {
		return nil, err
	}
	var deleted *associationRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.associations.Read(tx, key)
		if !ok || r.ID != in.AssociationId {
			return noSuchAssociation(in.ClusterName, in.AssociationId)
		}
		if err := notOwned(r); err != nil {
			return err
		}
		deleted = r
		s.associations.Remove(tx, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.associationOut(key, deleted), nil
}

// trustsPods reports whether a role's trust policy lets EKS Pod Identity assume it and tag the session. Conditions are
// not looked at: whether they hold is known only when a pod asks.
func trustsPods(r *iam.Role) bool {
	pods := &policy.Principal{Kind: policy.Service, Name: podsService}
	return r.Trust.MayAllow(pods, "sts:AssumeRole") && r.Trust.MayAllow(pods, "sts:TagSession")
}
