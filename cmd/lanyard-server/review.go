package main

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lanyard-id/lanyard/internal/controlplane"
	"github.com/lanyard-id/lanyard/internal/tokenreview"
)

// clusterAccess is how a cluster's API server is reached.
type clusterAccess struct {
	// Kubeconfig is a file, whose current context counts. It is read at the start; files that it names are read again when they change.
	Kubeconfig string `yaml:"kubeconfig"`
	// InCluster takes the cluster that the server itself runs in, as the service account that its pod has.
	InCluster bool `yaml:"inCluster"`
}

func (a clusterAccess) unclear() bool { return (a.Kubeconfig != "") == a.InCluster }

// server returns the API server. Credentials that rotate, plugins and proxies are client-go's affair.
func (a clusterAccess) server() (*tokenreview.APIServer, error) {
	find := rest.InClusterConfig
	if !a.InCluster {
		find = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", a.Kubeconfig) }
	}
	config, err := find()
	if err != nil {
		return nil, err
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	if url.Scheme != "https" || config.Insecure {
		return nil, fmt.Errorf("%s is not known by a certificate: anybody could be shown tokens in its place", url)
	}
	config.UserAgent = "lanyard-server"
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return tokenreview.NewAPIServer(url.String(), client), nil
}

// tokenReview makes the clients of the clusters that are asked about tokens, unless that is off.
func (c *config) tokenReview() (controlplane.TokenReview, error) {
	review := controlplane.TokenReview{Every: c.TokenReview.Every, Servers: map[string]*tokenreview.APIServer{}}
	if review.Every == 0 {
		return controlplane.TokenReview{}, nil
	}
	for name, access := range c.TokenReview.Clusters {
		server, err := access.server()
		if err != nil {
			return controlplane.TokenReview{}, fmt.Errorf("find the API server of cluster %s: %w", name, err)
		}
		review.Servers[name] = server
	}
	return review, nil
}
