package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/lanyard-id/lanyard/internal/credcache"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// How the agent's own credentials are kept.
const (
	ownRetention = 30 * time.Minute // the age at which they are renewed
	rereadEvery  = time.Minute      // with --rotate-credentials, as AWS's agent does
	ownLife      = 24 * time.Hour   // of those that do not say when they expire
)

// identity gives the credentials that the agent's own calls are signed with.
type identity struct {
	cache *credcache.Cache[struct{}, sigv4.Credentials]
}

// identity chooses where the agent's own credentials come from: a role for its own service account's token, or what the AWS
// SDKs' default chain finds, which may be read again every minute. They are renewed ahead, and the old ones serve as long as
// they live when that fails.
func (c *serverConfig) identity(cfg aws.Config) *identity {
	retrieve := cfg.Credentials.Retrieve
	retain := ownRetention
	switch {
	case c.roleARN != "":
		retrieve = stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(cfg), c.roleARN, stscreds.IdentityTokenFile(c.tokenFile),
			func(o *stscreds.WebIdentityRoleOptions) { o.RoleSessionName = sessionName() }).Retrieve
	case c.rotateCredentials:
		retrieve, retain = reread, rereadEvery
	}
	return &identity{credcache.New(credcache.Config[struct{}, sigv4.Credentials]{
		Fetch: func(ctx context.Context, _ credcache.Ticket) (sigv4.Credentials, time.Time, error) {
			own, err := retrieve(ctx)
			if err != nil {
				return sigv4.Credentials{}, time.Time{}, err
			}
			expires := own.Expires
			if !own.CanExpire {
				expires = time.Now().Add(ownLife)
			}
			return sigv4.Credentials{
				AccessKeyID: own.AccessKeyID, SecretAccessKey: sigv4.Secret(own.SecretAccessKey), SessionToken: own.SessionToken,
			}, expires, nil
		},
		Judge:      func(error) credcache.Verdict { return credcache.Verdict{Remember: time.Second} },
		Retain:     retain,
		MaxEntries: 1,
	})}
}

func (i *identity) get(ctx context.Context) (sigv4.Credentials, error) {
	own, _, err := i.cache.Get(ctx, struct{}{}, credcache.Ticket{})
	return own, err
}

// run renews ahead until ctx ends.
func (i *identity) run(ctx context.Context) { i.cache.Run(ctx) }

// reread looks credentials up anew, so that a shared credentials file may be replaced.
func reread(ctx context.Context) (aws.Credentials, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("load AWS configuration: %w", err)
	}
	return cfg.Credentials.Retrieve(ctx)
}

// sessionName names the node in the role session, in the characters that STS takes.
func sessionName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("=,.@-_", r) {
			return r
		}
		return '-'
	}, "lanyard-agent-"+host)
	return name[:min(len(name), 64)]
}

// maxKeys bounds a JWK set, in bytes.
const maxKeys = 1 << 20

// keys returns what gets the cluster's JWK set, or nil if it is not to be had.
func (c *serverConfig) keys() (func(context.Context) ([]byte, error), error) {
	switch {
	case c.jwksFile != "":
		return func(context.Context) ([]byte, error) { return readFile(c.jwksFile) }, nil
	case c.jwksURL == "":
		return nil, nil
	}
	var settings *tls.Config
	if c.jwksCA != "" {
		var err error
		if settings, err = daemon.ClientTLS(c.jwksCA, "", ""); err != nil {
			return nil, err
		}
	}
	client := &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings, ForceAttemptHTTP2: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) ([]byte, error) { return c.fetchKeys(ctx, client) }, nil
}

func (c *serverConfig) fetchKeys(ctx context.Context, client *http.Client) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.jwksURL, nil)
	if err != nil {
		return nil, err
	}
	if c.jwksToken != "" {
		token, err := readFile(c.jwksToken)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", r.URL.Redacted(), response.Status)
	}
	return readAll(response.Body, c.jwksURL)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name)
}

// readAll reads what is not longer than a key set may be.
func readAll(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeys+1))
	if err == nil && len(data) > maxKeys {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxKeys)
	}
	return data, err
}
