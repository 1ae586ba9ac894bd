package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// roleAnnotation is how a service account names its IRSA role.
const roleAnnotation = "eks.amazonaws.com/role-arn"

// fromKubernetes gets tokens by the API server's TokenRequest. For Pod Identity they must be bound to a pod that is there.
func (r *runConfig) fromKubernetes(ctx context.Context, way podspec.Way) (tokenSource, error) {
	seconds := int64(r.duration.Seconds())
	request := authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	switch {
	case r.pod != "":
		var pod corev1.Pod
		if err := r.kubernetes(ctx, http.MethodGet, "/pods/"+url.PathEscape(r.pod), nil, &pod); err != nil {
			return nil, fmt.Errorf("look up pod %s/%s: %w", r.namespace, r.pod, err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	case way == podspec.PodIdentity:
		return nil, withHint(errors.New("a token for Pod Identity must be bound to a pod"), "name a running pod of the service account with --pod")
	}
	return func(ctx context.Context, audience string) (token, error) {
		request.Spec.Audiences = []string{audience}
		var reply authenticationv1.TokenRequest
		path := "/serviceaccounts/" + url.PathEscape(r.serviceAccount) + "/token"
		if err := r.kubernetes(ctx, http.MethodPost, path, request, &reply); err != nil {
			return token{}, fmt.Errorf("request a token of %s/%s: %w", r.namespace, r.serviceAccount, err)
		}
		return token{reply.Status.Token, reply.Status.ExpirationTimestamp.Time}, nil
	}, nil
}

// annotatedRole reads the role from the service account.
func (r *roleChoice) annotatedRole(ctx context.Context) (string, error) {
	var account corev1.ServiceAccount
	if err := r.kubernetes(ctx, http.MethodGet, "/serviceaccounts/"+url.PathEscape(r.serviceAccount), nil, &account); err != nil {
		return "", fmt.Errorf("look up service account %s/%s: %w", r.namespace, r.serviceAccount, err)
	}
	role := account.Annotations[roleAnnotation]
	if role == "" {
		return "", withHint(fmt.Errorf("service account %s/%s has no annotation %s", r.namespace, r.serviceAccount, roleAnnotation), "annotate it, or give --role-arn")
	}
	return role, nil
}

// kubernetes asks the API server below the pod's namespace.
func (r *roleChoice) kubernetes(ctx context.Context, method, path string, in, out any) error {
	api, err := openKubernetes(r.kubeconfig, "")
	if err != nil {
		return err
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	data, err := api.do(ctx, method, "/api/v1/namespaces/"+url.PathEscape(r.namespace)+path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read the API server's answer: %w", err)
	}
	return nil
}

// acceptKeys is the media types of what an issuer serves: API servers give out their keys as nothing but the second (RFC 7517, section 8.5.2).
const acceptKeys = "application/json, application/jwk-set+json"

// kubernetesTimeout bounds a request to an API server, with the exec plugin that may come before it.
const kubernetesTimeout = 30 * time.Second

// kubernetesAPI is an API server as a kubeconfig reaches it: with its CA, and with the client certificate, token or exec plugin of
// its user.
type kubernetesAPI struct {
	address string // without a slash at the end
	client  *http.Client
	// authority has the certificates in PEM that the kubeconfig knows the server by; nil where it has none, as with those of public authorities.
	authority []byte
}

// openKubernetes reads a kubeconfig: the one that kubectl would take if the file's name is empty, and its current context if that of
// the context is.
func openKubernetes(file, kubeContext string) (*kubernetesAPI, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: kubeContext}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.Timeout = kubernetesTimeout
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("use kubeconfig: %w", err)
	}
	host, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("read the API server's address: %w", err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("read the API server's certificate authority: %w", err)
	}
	return &kubernetesAPI{address: strings.TrimSuffix(host.String(), "/"), client: client, authority: config.CAData}, nil
}

// refusedError is an API server's refusal.
type refusedError struct {
	code    int // HTTP status
	message string
}

func (e *refusedError) Error() string { return e.message }

// maxReply bounds an answer of an API server, in bytes.
const maxReply = 4 << 20

// do makes a request and returns the answer's body. Refusals are a *refusedError.
func (k *kubernetesAPI) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, k.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", acceptKeys)
	reply, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the API server's answer: %w", err)
	case len(data) > maxReply:
		return nil, fmt.Errorf("the API server's answer is longer than %d bytes", maxReply)
	case reply.StatusCode >= 300:
		var status metav1.Status
		if json.Unmarshal(data, &status) != nil || status.Message == "" {
			status.Message = reply.Status
		}
		return nil, &refusedError{reply.StatusCode, status.Message}
	}
	return data, nil
}

// issuer reads the issuer of the API server's tokens, and its public keys as the API server itself serves them: the address in the
// discovery document is for strangers, and need not lead anywhere (Kubernetes, "Service account issuer discovery").
func (k *kubernetesAPI) issuer(ctx context.Context) (issuer string, jwks []byte, err error) {
	document, err := k.do(ctx, http.MethodGet, "/.well-known/openid-configuration", nil)
	if err != nil {
		return "", nil, k.explain(fmt.Errorf("read the issuer of %s: %w", k.address, err))
	}
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(document, &discovery); err != nil {
		return "", nil, fmt.Errorf("read the issuer of %s: %w", k.address, err)
	}
	if discovery.Issuer == "" {
		return "", nil, fmt.Errorf("read the issuer of %s: its discovery document names none", k.address)
	}
	if jwks, err = k.do(ctx, http.MethodGet, "/openid/v1/jwks", nil); err != nil {
		return "", nil, k.explain(fmt.Errorf("read the public keys of %s: %w", k.address, err))
	}
	return discovery.Issuer, jwks, nil
}

func (k *kubernetesAPI) explain(err error) error {
	var refused *refusedError
	if !errors.As(err, &refused) {
		return withHint(err, "the API server must answer as the kubeconfig says: does `kubectl get --raw /openid/v1/jwks` work?")
	}
	switch refused.code {
	case http.StatusNotFound:
		return withHint(err, "an API server whose --service-account-issuer is no https URL publishes neither its issuer nor its keys: "+
			"give them with --issuer, and --public-key with the file of its --service-account-key-file")
	case http.StatusUnauthorized:
		return withHint(err, "the kubeconfig's credentials are not valid: does `kubectl get --raw /openid/v1/jwks` work?")
	case http.StatusForbidden:
		return withHint(err, "the kubeconfig's user needs the ClusterRole system:service-account-issuer-discovery")
	}
	return err
}
