package podspec_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

func TestEnv(t *testing.T) {
	for _, c := range []struct {
		name    string
		way     podspec.Way
		options podspec.Options
		want    []podspec.EnvVar
	}{
		{
			"IRSA on EKS: what AWS's webhook sets, in its order",
			podspec.WebIdentity,
			podspec.Options{RoleARN: "arn:aws:iam::111122223333:role/r", Region: "us-west-2", RegionalSTS: true},
			[]podspec.EnvVar{
				{"AWS_STS_REGIONAL_ENDPOINTS", "regional"},
				{"AWS_DEFAULT_REGION", "us-west-2"},
				{"AWS_REGION", "us-west-2"},
				{"AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/r"},
				{"AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"},
			},
		},
		{
			"Pod Identity on EKS",
			podspec.PodIdentity,
			podspec.Options{Region: "us-west-2"},
			[]podspec.EnvVar{
				{"AWS_DEFAULT_REGION", "us-west-2"},
				{"AWS_REGION", "us-west-2"},
				{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"},
				{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token"},
			},
		},
		{
			"a pod elsewhere is led to Lanyard, its agent and its certificates",
			podspec.PodIdentity,
			podspec.Options{TokenFile: "/run/token", AgentURI: "http://127.0.0.1:8080/v1/credentials", Endpoint: "https://lanyard.example", CABundle: "/run/ca.pem"},
			[]podspec.EnvVar{
				{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:8080/v1/credentials"},
				{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/run/token"},
				{"AWS_ENDPOINT_URL", "https://lanyard.example"},
				{"AWS_ENDPOINT_URL_STS", "https://lanyard.example"},
				{"AWS_CA_BUNDLE", "/run/ca.pem"},
				{"SSL_CERT_FILE", "/run/ca.pem"},
				{"REQUESTS_CA_BUNDLE", "/run/ca.pem"},
				{"NODE_EXTRA_CA_CERTS", "/run/ca.pem"},
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, podspec.Env(c.way, c.options)); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
		})
	}
}
