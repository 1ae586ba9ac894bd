package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

// TokenReview says which clusters are asked whether they still honour the service account tokens that they issued, and how long
// an answer counts. The zero value asks none.
type TokenReview struct {
	// Every is how long a token may count after its cluster has ceased to honour it: tokenreview.MinEvery or more, or zero for off.
	Every time.Duration
	// Servers are the API servers by their clusters: a name, of a cluster in the first account and Region, or an ARN.
	Servers map[string]*tokenreview.APIServer
}

// reviews finds the cluster that a token is of, and asks it.
type reviews struct {
	clusters *eks.Service
	servers  []reviewer
	answers  *tokenreview.Reviews
	now      func() time.Time
}

// reviewer is a cluster with its API server.
type reviewer struct {
	account, region, name string
	server                *tokenreview.APIServer
}

// newReviews returns nil when reviews are off.
func newReviews(c Config, clusters *eks.Service) (*reviews, error) {
	if c.TokenReview.Every == 0 {
		return nil, nil
	}
	if len(c.TokenReview.Servers) == 0 {
		return nil, errors.New("tokens cannot be reviewed without a cluster's API server")
	}
	r := &reviews{clusters: clusters, now: c.Now}
	for _, key := range slices.Sorted(maps.Keys(c.TokenReview.Servers)) {
		at := reviewer{account: c.Account, region: c.Region, name: key, server: c.TokenReview.Servers[key]}
		if strings.HasPrefix(key, "arn:") {
			a, err := arn.Parse(key)
			if err != nil {
				return nil, fmt.Errorf("cluster of token reviews: %w", err)
			}
			name, ok := strings.CutPrefix(a.Resource(), "cluster/")
			if !ok || a.Service() != "eks" || a.Partition() != c.Partition {
				return nil, fmt.Errorf("cluster of token reviews: %s is not the ARN of a cluster in %s", key, c.Partition)
			}
			at.account, at.region, at.name = a.Account(), a.Region(), name
		}
		r.servers = append(r.servers, at)
	}
	var err error
	r.answers, err = tokenreview.New(tokenreview.Config{Every: c.TokenReview.Every, Ask: r.ask})
	return r, err
}

// review is what STS and EKS Auth are given; nil when reviews are off.
func (r *reviews) review() func(context.Context, string, *idtoken.Claims) error {
	if r == nil {
		return nil
	}
	return r.check
}

// check has a token that was verified reviewed, if it is of a cluster that is asked.
func (r *reviews) check(ctx context.Context, token string, claims *idtoken.Claims) error {
	if !slices.ContainsFunc(r.servers, func(at reviewer) bool { return r.of(at, claims.Issuer) != nil }) {
		return nil
	}
	start := time.Now()
	remembered, err := r.answers.Review(ctx, token, claims)
	outcome := "honoured"
	switch {
	case errors.Is(err, idtoken.ErrRevoked):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	}
	awsapi.Annotate(ctx, slog.String("token_review", outcome), slog.Bool("remembered", remembered), slog.Duration("review_took", time.Since(start)))
	return err
}

// ask asks the cluster whose keys verify the token. That its issuer has the same name does not make a cluster the token's: many
// have Kubernetes' own default. A token of none of these clusters counts as it is.
func (r *reviews) ask(ctx context.Context, token string, claims *idtoken.Claims) error {
	for _, at := range r.servers {
		cluster := r.of(at, claims.Issuer)
		if cluster == nil {
			continue
		}
		signed, err := r.signed(ctx, cluster, token)
		if err != nil {
			return fmt.Errorf("find out whether cluster %s signed the token: %w", cluster.Name, err)
		}
		if signed {
			return at.server.Review(ctx, token, claims)
		}
	}
	return nil
}

// of returns the cluster if it is registered, and has the issuer.
func (r *reviews) of(at reviewer, issuer string) *eks.Cluster {
	cluster, ok := r.clusters.Cluster(at.account, at.region, at.name)
	if !ok || cluster.Issuer != issuer {
		return nil
	}
	return cluster
}

// signed reports whether the cluster's keys verify a token that others have verified: with keys of the same issuer's name, and by
// their own rules for its times.
func (r *reviews) signed(ctx context.Context, cluster *eks.Cluster, token string) (bool, error) {
	const leeway = 5 * time.Minute // STS's, the largest
	keys := r.clusters.Keys(cluster)
	_, err := idtoken.Verify(ctx, token, idtoken.Expect{Issuer: cluster.Issuer, Now: r.now(), Leeway: leeway}, keys)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, idtoken.ErrSignature), errors.Is(err, idtoken.ErrAlgorithm):
		return false, nil
	case errors.Is(err, idtoken.ErrKeys):
		if _, none := keys.Keys(ctx, ""); none == nil {
			return false, nil // they are at hand, and none of them has the token's ID
		}
	}
	return false, err
}

// warn names the clusters that are asked for nobody's sake, since they are not registered: their tokens count unasked.
func (r *reviews) warn(log *slog.Logger) {
	for _, at := range r.servers {
		if _, ok := r.clusters.Cluster(at.account, at.region, at.name); !ok {
			log.Warn("cluster of token reviews is not registered", "account", at.account, "region", at.region, "cluster", at.name)
		}
	}
}
