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
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: r.kubeconfig}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("use kubeconfig: %w", err)
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	host, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("read the API server's address: %w", err)
	}
	address := strings.TrimSuffix(host.String(), "/") + "/api/v1/namespaces/" + url.PathEscape(r.namespace) + path
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the API server's answer: %w", err)
	}
	if reply.StatusCode >= 300 {
		var status metav1.Status
		if json.Unmarshal(data, &status) != nil || status.Message == "" {
			status.Message = reply.Status
		}
		return errors.New(status.Message)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read the API server's answer: %w", err)
	}
	return nil
}
