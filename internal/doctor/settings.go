package doctor

import (
	"cmp"
	"context"
	"flag"
	"io"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/webhook"
)

// settings finds out what the webhook gives to pods, since pods that have that are healthy: by its registration, by the arguments of a pod
// behind its service, and by the ConfigMap that it reads if it is told to. AWS's own, which EKS runs outside of the cluster, has none that matter.
func (d *Doctor) settings(ctx context.Context, f *Facts) {
	const group = "admissionregistration.k8s.io"
	f.Registration = read[admissionv1.MutatingWebhookConfiguration](ctx, d, group, "mutatingwebhookconfigurations", "",
		"/apis/"+group+"/v1/mutatingwebhookconfigurations/"+url.PathEscape(d.c.Webhook))
	if f.Registration.Value == nil {
		return
	}
	all := podWebhooks(f)
	i := slices.IndexFunc(all, func(w admissionv1.MutatingWebhook) bool { return w.ClientConfig.Service != nil })
	if i < 0 {
		return
	}
	s := all[i].ClientConfig.Service
	in := "/api/v1/namespaces/" + url.PathEscape(s.Namespace)
	service := read[corev1.Service](ctx, d, "", "services", s.Namespace, in+"/services/"+url.PathEscape(s.Name))
	if service.Value == nil || len(service.Value.Spec.Selector) == 0 {
		f.Unseen = service.Why
		return
	}
	selector := labels.SelectorFromSet(service.Value.Spec.Selector).String()
	pods := as[corev1.PodList](d.get(ctx, in+"/pods?labelSelector="+url.QueryEscape(selector)), right{"list", "", "pods", s.Namespace})
	if pods.Value == nil {
		f.Unseen = cmp.Or(pods.Why, "there are no such objects")
		return
	}
	arguments := argumentsOf(pods.Value.Items)
	watches := false
	f.Settings, watches = readFlags(arguments)
	if !watches {
		return
	}
	m := read[corev1.ConfigMap](ctx, d, "", "configmaps", s.Namespace, in+"/configmaps/"+webhook.ConfiguredConfigMap)
	f.Configured = Read[podspec.ConfiguredAccounts]{Why: m.Why, Grant: m.Grant}
	if m.unread() {
		return
	}
	accounts, err := podspec.ParseConfiguredAccounts([]byte(value(m.Value).Data[webhook.ConfiguredKey]))
	if err != nil {
		f.Configured.Why = err.Error()
		return
	}
	f.Configured = found(accounts)
}

// argumentsOf returns the command and the arguments of the containers of a pod that is ready, or else of any.
func argumentsOf(pods []corev1.Pod) (all []string) {
	if len(pods) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(pods, func(p corev1.Pod) bool { return ready(&p) }))
	for _, c := range pods[i].Spec.Containers {
		all = slices.Concat(all, c.Command, c.Args)
	}
	return all
}

// readFlags returns what a webhook is told by its arguments, Lanyard's or AWS's, and whether it reads the ConfigMap: what pods must have, and not
// what they may have besides. What is not known of the arguments is passed over.
func readFlags(arguments []string) (s podspec.Settings, watches bool) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	s.Flags(flags)
	flags.BoolVar(&watches, "watch-config-map", false, "")
	compose := flags.Bool("compose-role-arn", false, "")
	account := flags.String("account-id", "", "")
	for i, argument := range arguments {
		name, said, joined := strings.Cut(strings.TrimLeft(argument, "-"), "=")
		known := flags.Lookup(name)
		if known == nil || !strings.HasPrefix(argument, "-") {
			continue
		}
		boolean, is := known.Value.(interface{ IsBoolFlag() bool })
		switch {
		case joined:
		case is && boolean.IsBoolFlag():
			said = "true"
		case i+1 < len(arguments):
			said = arguments[i+1]
		}
		if strings.Contains(said, "$(") { // a variable of the container's, which is not known
			continue
		}
		flags.Set(name, said) //nolint:errcheck // a webhook would not have started with it
	}
	if partition, ok := arn.PartitionOfRegion(s.Region); ok && *compose && arn.ValidAccountID(*account) {
		s.Compose = &podspec.Account{Partition: partition.Name, ID: *account}
	}
	s.Region, s.RegionalSTS, s.Endpoint, s.CA = "", false, "", podspec.ConfigMapKey{}
	return s, watches
}
