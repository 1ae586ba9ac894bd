package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// Accounts knows the service accounts of a cluster; both functions are required, and return nil for one that is not there. What
// they return must not be modified.
type Accounts struct {
	// Memory answers at once, from what may be behind the cluster by moments.
	Memory func(namespace, name string) *corev1.ServiceAccount
	// Live asks the cluster.
	Live func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
}

// finding is what is known of a pod's service account.
type finding struct {
	way        podspec.Way            // zero for none
	account    *corev1.ServiceAccount // nil if it is not there, or if it could not be looked up
	configured map[string]string      // what counts in place of its annotations, if these name no role
	err        error                  // of the lookups; way is what is known without them
	unknown    string                 // what could not be looked up, in words for whoever makes the pod
}

// annotations are those that count for a way: what is configured has a role, and for Pod Identity the service account's own count.
func (f finding) annotations(w podspec.Way) map[string]string {
	switch {
	case w == podspec.WebIdentity && f.configured != nil:
		return f.configured
	case f.account == nil:
		return nil
	}
	return f.account.Annotations
}

// find finds what a service account has. An association goes before a role, and an annotation before what is configured, as with AWS's
// webhook. Memory is believed where it has something; where it has not, that is confirmed before it is believed.
func (h *Handler) find(ctx context.Context, namespace, name string) finding {
	f := finding{account: h.Accounts.Memory(namespace, name)}
	associated := h.Associations != nil && h.Associations.Memory(namespace, name)
	annotated := f.account != nil && h.Settings.Role(f.account.Annotations) != ""
	if !annotated && h.Configured.Memory != nil {
		f.configured = h.Configured.Memory(namespace, name)
	}
	lookUpAccount := f.account == nil || !annotated && !associated
	lookUpAssociation := h.Associations != nil && !associated
	lookUpConfigured := h.Configured.Live != nil && !annotated && !associated && f.configured == nil
	var group sync.WaitGroup
	var accountErr, associationErr, configuredErr error
	if lookUpAccount {
		group.Go(func() {
			var live *corev1.ServiceAccount
			if live, accountErr = h.Accounts.Live(ctx, namespace, name); accountErr == nil {
				f.account = live
			}
		})
	}
	if lookUpAssociation {
		group.Go(func() {
			associated, associationErr = h.Associations.Live(ctx, namespace, name)
		})
	}
	if lookUpConfigured {
		group.Go(func() {
			f.configured, configuredErr = h.Configured.Live(ctx, namespace, name)
		})
	}
	group.Wait()
	if accountErr == nil && f.account == nil {
		h.Metrics.missing.Inc()
	}
	if accountErr != nil {
		f.err, f.unknown = fmt.Errorf("look up service account: %w", accountErr), "its annotations"
	}
	if associationErr != nil {
		f.err, f.unknown = errors.Join(f.err, fmt.Errorf("look up associations: %w", associationErr)), "its associations"
	}
	if configuredErr != nil {
		f.err, f.unknown = errors.Join(f.err, fmt.Errorf("look up configured roles: %w", configuredErr)), "what the ConfigMap "+ConfiguredConfigMap+" says of it"
	}
	if h.Settings.Role(f.annotations(podspec.PodIdentity)) != "" {
		f.configured = nil
	}
	switch {
	case associated:
		f.way = podspec.PodIdentity
	case h.Settings.Role(f.annotations(podspec.WebIdentity)) != "":
		f.way = podspec.WebIdentity
	}
	return f
}
