package iam

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// The kinds of jobs.
const (
	lastAccessedJob = "last-accessed"
	deletionJob     = "role-deletion"
)

// The bounds of the jobs that are kept for their callers to ask about.
const (
	jobLifetime = 24 * time.Hour
	maxJobs     = 100 // per account; a new one takes the oldest one's place
)

// job is work that AWS does in the background and Lanyard at once: what is left of it is that it was done. It is keyed by
// account and ID.
type job struct {
	Kind    string
	Subject string // ARN of what it was about
	Created time.Time
}

func jobKey(account, id string) string { return account + "/" + id }

// addJob stores a job and returns its ID.
func (s *Service) addJob(ctx context.Context, account string, j job) (id string, err error) {
	id = awsapi.NewUUID()
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		s.putJob(tx, account, id, j)
		return nil
	})
	return id, err
}

// putJob stores a job as part of tx, and removes those whose time is over.
func (s *Service) putJob(tx *kv.Tx, account, id string, j job) {
	j.Created = s.time()
	type kept struct {
		key     string
		created time.Time
	}
	var old []kept
	for key, other := range s.jobs.Scan(account+"/", "") {
		old = append(old, kept{key, other.Created})
	}
	slices.SortFunc(old, func(a, b kept) int { return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.key, b.key)) })
	for i, o := range old {
		if len(old)-i >= maxJobs || j.Created.Sub(o.created) > jobLifetime {
			s.jobs.Remove(tx, o.key)
		}
	}
	s.jobs.Write(tx, jobKey(account, id), &j)
}
