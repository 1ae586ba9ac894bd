package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/lanyard-id/lanyard/internal/lanyardapi"
	"github.com/lanyard-id/lanyard/internal/subject"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// associations returns those of the source that the flags name; nil for none.
func (c *config) associations(ctx context.Context, metrics *webhook.Metrics, log *slog.Logger) (*webhook.Associations, error) {
	settings := webhook.AssociationsConfig{
		Every: c.syncPeriod, Patience: c.firstSync, Answered: answered, ListTimeout: listTimeout, FindTimeout: c.lookupTimeout, Metrics: metrics, Log: log,
	}
	switch {
	case c.identitiesFile != "":
		f := identitiesFile(c.identitiesFile)
		if _, err := f.list(ctx); err != nil {
			return nil, err
		}
		settings.List, settings.Find = f.list, f.find
	case c.cluster != "":
		cfg, err := loadAWS(ctx, awsconfig.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts, o.MaxBackoff = 2, 100*time.Millisecond // pods wait
			})
		}))
		if err != nil {
			return nil, err
		}
		e := eksAssociations{client: eks.NewFromConfig(cfg), lanyard: newLanyard(cfg), cluster: c.cluster}
		settings.List, settings.Find = e.list, e.find
	default:
		return nil, nil
	}
	return webhook.NewAssociations(settings), nil
}

// loadAWS loads the SDK's usual configuration, of which a region is a part.
func loadAWS(ctx context.Context, options ...func(*awsconfig.LoadOptions) error) (aws.Config, error) {
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return cfg, fmt.Errorf("load AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return cfg, errors.New("no region: set AWS_REGION")
	}
	return cfg, nil
}

// eksAssociations asks the EKS API, AWS's or Lanyard's.
type eksAssociations struct {
	client  *eks.Client
	lanyard lanyardapi.Client // without an endpoint where AWS is asked
	cluster string
}

func (e eksAssociations) list(ctx context.Context) ([]subject.Subject, error) {
	return e.all(ctx, &eks.ListPodIdentityAssociationsInput{ClusterName: &e.cluster, MaxResults: aws.Int32(100)})
}

// newLanyard is the client of Lanyard's own API. It has no endpoint where AWS is asked.
func newLanyard(cfg aws.Config) lanyardapi.Client {
	return lanyardapi.Client{Config: cfg, Endpoint: cmp.Or(os.Getenv("AWS_ENDPOINT_URL_LANYARD"), aws.ToString(cfg.BaseEndpoint))}
}

// find asks Lanyard which association applies, which may be a pattern. AWS has none of these, and can only be asked for those of a name.
func (e eksAssociations) find(ctx context.Context, who subject.Subject) (bool, error) {
	if e.lanyard.Endpoint != "" {
		query := url.Values{"namespace": {who.Namespace}, "serviceAccount": {who.ServiceAccount}}
		var answer struct {
			Association *struct{ AssociationID string }
		}
		err := e.lanyard.Do(ctx, http.MethodGet, lanyardapi.ClusterPath(e.cluster, "/effective-association?"+query.Encode()), nil, &answer)
		if !unasked(err) {
			return answer.Association != nil, err
		}
	}
	list, err := e.all(ctx, &eks.ListPodIdentityAssociationsInput{ClusterName: &e.cluster, Namespace: &who.Namespace, ServiceAccount: &who.ServiceAccount})
	return slices.Contains(list, who), err
}

// answered reports whether an error is what an API says of a request, rather than that it cannot be reached or is out of order.
func answered(err error) bool {
	response, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok {
		return false
	}
	status := response.HTTPStatusCode() // 0 where there is none
	return status >= 400 && status < 500 && status != http.StatusTooManyRequests
}

// unasked reports whether an error may be the answer of something that does not know the question: of AWS, or of an earlier version of Lanyard.
func unasked(err error) bool {
	answer, ok := errors.AsType[*lanyardapi.AnswerError](err)
	return ok && (answer.Status < 500 && answer.Status != http.StatusTooManyRequests || answer.Status == http.StatusNotImplemented)
}

func (e eksAssociations) all(ctx context.Context, in *eks.ListPodIdentityAssociationsInput) (list []subject.Subject, err error) {
	for pages := eks.NewListPodIdentityAssociationsPaginator(e.client, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range page.Associations {
			list = append(list, subject.Subject{Namespace: aws.ToString(a.Namespace), ServiceAccount: aws.ToString(a.ServiceAccount)})
		}
	}
	return list, nil
}

// identitiesFile is a file that names the service accounts which use Pod Identity, as AWS's webhook reads it:
//
//	{"identities": [{"namespace": "web", "serviceAccount": "reader"}]}
type identitiesFile string

// maxIdentities bounds the file, in bytes.
const maxIdentities = 16 << 20

func (f identitiesFile) list(context.Context) ([]subject.Subject, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	if info.Size() > maxIdentities {
		return nil, fmt.Errorf("read identities: %s has more than %d bytes", f, maxIdentities)
	}
	text, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	var file struct{ Identities []subject.Subject }
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read identities in %s: %w", f, err)
	}
	return file.Identities, nil
}

func (f identitiesFile) find(ctx context.Context, who subject.Subject) (bool, error) {
	list, err := f.list(ctx)
	return slices.Contains(list, who), err
}
