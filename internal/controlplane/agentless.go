package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/eksauth"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/sigv4"
	"github.com/lanyard-id/lanyard/policy"
)

// agentless answers pods that no agent can be beside: the SDKs take credentials from any host by HTTPS. It is the node's agent
// but for what it asks, which is EKS Auth in this process.
type agentless struct {
	clusters *eks.Service
	pods     *eksauth.Service
	reviewed bool         // tokens have to be asked about, so that nothing may be kept for them
	fresh    func() error // nil while what is known here is fresh enough to honour anybody
	now      func() time.Time
}

const (
	agentlessRetain  = 3 * time.Hour // as long as AWS's agent keeps credentials
	agentlessEntries = 20_000        // pods whose credentials are kept
)

// newAgent makes the agent; what was kept is handed out also while nothing can be fetched, unless tokens are reviewed.
func (a *agentless) newAgent(log *slog.Logger) (*agent.Agent, error) {
	metrics, err := agent.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return nil, fmt.Errorf("make the metrics of credentials for pods: %w", err)
	}
	entries := agentlessEntries
	if a.reviewed {
		entries = 0
	}
	return agent.New(agent.Config{
		AnyHost: true, Fetch: a.fetch, Verify: a.verify, Retain: agentlessRetain, MaxEntries: entries, Metrics: metrics, Log: log,
	}), nil
}

// isPodRequest tells a pod's request for credentials from one to an API. Those are signed, and pods' bear a token. Over plain
// HTTP nobody asks: no SDK would, but on loopback.
func isPodRequest(r *http.Request) bool {
	token := r.Header.Get("Authorization")
	return r.URL.Path == agent.Path && r.TLS != nil && token != "" && !strings.HasPrefix(token, "AWS4-")
}

// verify checks a token with the keys of the one cluster whose issuer it names. The keys of clusters are never mixed: one tenant
// could then sign as another's pod. What is known of no cluster here may be known elsewhere, and is left to fetch.
func (a *agentless) verify(ctx context.Context, token string) (*idtoken.Claims, error) {
	said, err := idtoken.ParseInsecure(token)
	if err != nil {
		return nil, err
	}
	cluster, err := a.clusters.ClusterOfIssuer(said.Issuer)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return nil, fmt.Errorf("issuer %s: %w", said.Issuer, idtoken.ErrKeys)
	}
	expect := idtoken.Expect{Issuer: cluster.Issuer, Audiences: []string{eksauth.Audience}, Now: a.now()}
	return idtoken.Verify(ctx, token, expect, a.clusters.Keys(cluster))
}

// fetch has EKS Auth make credentials. It checks the token once more, since tables and keys may have changed.
func (a *agentless) fetch(ctx context.Context, token string) (agent.Credentials, error) {
	c := &awsapi.Caller{
		Identity: awsapi.Identity{Kind: policy.Service}, RequestID: awsapi.NewUUID(), Service: "eks-auth", Operation: "AssumeRoleForPodIdentity",
		Secure: true, Time: a.now(),
	}
	made, err := a.exchange(ctx, c, token)
	if err != nil {
		fault := awsapi.ModelNamed("eks-auth").Fault(err, c.RequestID)
		return agent.Credentials{}, fmt.Errorf("unable to fetch credentials from EKS Auth: %w", &agent.APIError{
			Status: fault.Status, Code: fault.Code, Message: fault.Message, RequestID: c.RequestID,
		})
	}
	return made, nil
}

func (a *agentless) exchange(ctx context.Context, c *awsapi.Caller, token string) (agent.Credentials, error) {
	if err := a.fresh(); err != nil {
		return agent.Credentials{}, err
	}
	said, err := idtoken.ParseInsecure(token)
	if err != nil {
		return agent.Credentials{}, &awsapi.Error{Code: "InvalidTokenException", Message: "The token is not valid.", Cause: err}
	}
	cluster, err := a.clusters.FindClusterOfIssuer(ctx, said.Issuer)
	if err != nil {
		return agent.Credentials{}, err
	}
	if cluster == nil {
		return agent.Credentials{}, awsapi.Errorf("ResourceNotFoundException", "No cluster found whose issuer is the token's.")
	}
	c.Account, c.Region = cluster.Account, cluster.Region
	made, err := a.pods.Exchange(ctx, c, cluster.Name, token)
	if err != nil {
		return agent.Credentials{}, err
	}
	return agent.Credentials{
		AccessKeyID: made.Credentials.AccessKeyID, SecretAccessKey: made.Credentials.SecretAccessKey,
		SessionToken: sigv4.Secret(made.Credentials.SessionToken), AccountID: made.Identity.Account, Expires: made.Expires,
	}, nil
}
