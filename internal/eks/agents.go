package eks

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
)

const (
	agentAddon = "eks-pod-identity-agent"
	// agentWindow is how long an agent counts after it was last heard of. Agents ask again for pods that they serve after three hours
	// at most.
	agentWindow = 4 * time.Hour
	// agentNote is how often it is written down that an agent of a node was heard of.
	agentNote = 15 * time.Minute
	// addonGrace is how long a new add-on has for its agents to be heard of, before it is degraded.
	addonGrace = 20 * time.Minute
	// maxAgents bounds the nodes that a process remembers; a cluster has 5,000 at most (Kubernetes, "Considerations for large clusters").
	maxAgents = 100_000
	// noteTimeout bounds the write.
	noteTimeout = 5 * time.Second
)

// agentRecord is when an agent was last heard of.
type agentRecord struct {
	Seen int64 `json:"seen"` // Unix milliseconds
}

// agents remembers when it was last written down that an agent was heard of, so that most requests write nothing.
type agents struct {
	mu    sync.Mutex
	noted map[string]time.Time // by ACCOUNT/REGION/CLUSTER/NODE
}

// due reports whether it is time to write down that the agent was heard of; then it is taken as done.
func (a *agents) due(key string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if last, ok := a.noted[key]; ok && now.Sub(last) < agentNote {
		return false
	}
	if a.noted == nil || len(a.noted) >= maxAgents {
		a.noted = map[string]time.Time{}
	}
	a.noted[key] = now
	return true
}

// forget has the agent be noted again with its next request.
func (a *agents) forget(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.noted, key)
}

// AgentAsked notes that the agent of a node has asked for a pod's credentials: by such the health of the agent's add-on is told. The
// node is that of the pod's token. It returns at once; what fails to be written is written with a later request.
func (s *Service) AgentAsked(c *Cluster, node string) {
	if c.HostedID != "" || !validName(node, maxServiceAccount, true) {
		return // hosted clusters have no nodes
	}
	key := clusterKey(c.Account, c.Region, c.Name) + "/" + node
	now := s.now()
	if !s.seen.due(key, now) {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), noteTimeout)
		defer cancel()
		if err := s.noteAgent(ctx, c, key, now); err != nil {
			s.seen.forget(key)
			s.log.Warn("agent not noted", "node", node, "cluster", c.ARN, "err", err)
		}
	}()
}

// noteAgent writes down when an agent was heard of, and forgets those of the cluster that have been silent for long.
func (s *Service) noteAgent(ctx context.Context, c *Cluster, key string, now time.Time) error {
	cluster := clusterKey(c.Account, c.Region, c.Name)
	return s.db.Update(ctx, func(tx *kv.Tx) error {
		if r, ok := s.clusters.Read(tx, cluster); !ok || r.Deleting {
			return nil
		}
		s.heard.Write(tx, key, &agentRecord{Seen: now.UnixMilli()})
		n := 0
		for old, r := range s.heard.Scan(cluster+"/", "") {
			if old != key && now.Sub(time.UnixMilli(r.Seen)) > 2*agentWindow {
				s.heard.Remove(tx, old)
				if n++; n == deleteBatch {
					break
				}
			}
		}
		return nil
	})
}

// addonHealth returns an add-on's status and what is wrong with it. Of software in clusters Lanyard knows only whether agents ask.
func (s *Service) addonHealth(cluster, name string, r *addonRecord) (status string, issues []addonIssueShape) {
	issues = []addonIssueShape{}
	c, ok := s.clusters.Get(cluster)
	if name != agentAddon || !ok || c.HostedID != "" {
		return "ACTIVE", issues
	}
	now := s.now()
	for _, a := range s.heard.Scan(cluster+"/", "") {
		if now.Sub(time.UnixMilli(a.Seen)) < agentWindow {
			return "ACTIVE", issues
		}
	}
	issues = append(issues, addonIssueShape{
		Code:        "InsufficientNumberOfReplicas",
		Message:     fmt.Sprintf("The add-on is unhealthy because no agent of the cluster has asked for credentials in the last %d hours.", int(agentWindow.Hours())),
		ResourceIds: []string{},
	})
	if now.Sub(time.UnixMilli(r.Created)) < addonGrace {
		return "ACTIVE", issues
	}
	return "DEGRADED", issues
}
