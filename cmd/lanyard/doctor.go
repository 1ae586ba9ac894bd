package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/doctor"
)

// consultation is what `lanyard doctor` is asked.
type consultation struct {
	subject
	pod         string
	all         bool
	kubeconfig  string
	kubeContext string
	webhook     string
	exec        bool
	call        bool
	duration    time.Duration
	verbose     bool
}

func newDoctorCommand(c *cli) *cobra.Command {
	var q consultation
	cmd := &cobra.Command{
		Use:   "doctor -n NAMESPACE {POD | -s SERVICE_ACCOUNT | --all}",
		Short: "Say which link between a pod and its AWS credentials is broken, and what mends it",
		Long: `Follow the chain that gives a pod its credentials, link by link: its service account, the webhook, what the containers were given, the token,
the association or the OIDC provider, the role and its trust policy, the agent on its node, and what else is in the pod that SDKs would take
instead. For the first link that is broken it says what mends it. With -s the chain is that of a pod that does not exist yet; with --all, there is
a line for each pod that should have an identity, in the namespace or in all of them.

Nothing is changed. What a pod would be given today is found out by a dry run, which the API server does not keep. A short-lived token of the
service account is asked for, and credentials with it, which are thrown away; --call=false leaves that out. With --exec, the token in the pod is
read instead, by kubectl. Tokens, credentials and the values of secrets are never printed.

What the caller may not read is told, with the right that is missing. All that is needed: at the Kubernetes API server to get the pod, the service
account, the namespace, its node, services, the MutatingWebhookConfiguration, secrets and config maps that containers take their environment from,
and the config map that the webhook may take roles from; to list pods, endpointslices and networkpolicies; to create pods (for the dry run
alone) and serviceaccounts/token; and to get pods/proxy of the agent's namespace. At AWS or Lanyard: eks:DescribeCluster,
eks:ListPodIdentityAssociations, eks:DescribePodIdentityAssociation, iam:GetRole, iam:GetOpenIDConnectProvider and
eks-auth:AssumeRoleForPodIdentity.

The exit status is 0 if no link is broken, 3 if one is, and 1 if it cannot be told.`,
		Example: `  lanyard doctor -n web worker-0 --cluster prod
  lanyard doctor -n web -s worker --kube-context prod --cluster prod
  lanyard doctor --all --cluster prod -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.pod = args[0]
			}
			if err := q.check(); err != nil {
				return err
			}
			cfg, err := c.aws(cmd.Context())
			if err != nil {
				return err
			}
			return c.doctor(cmd.Context(), cfg, q)
		},
	}
	q.flags(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&q.all, "all", "A", false, "all pods that should have an identity: of the namespace, or without -n of all")
	flags.StringVar(&q.kubeconfig, "kubeconfig", "", "kubeconfig of the pod's cluster (default: kubectl's)")
	flags.StringVar(&q.kubeContext, "kube-context", "", "context of the kubeconfig (default: its current one)")
	flags.StringVar(&q.webhook, "webhook-configuration", "pod-identity-webhook", "name of the webhook's MutatingWebhookConfiguration")
	flags.BoolVar(&q.exec, "exec", false, "read the token in the pod, by `kubectl exec`, instead of asking for one like it")
	flags.BoolVar(&q.call, "call", true, "ask for credentials, and throw them away")
	flags.DurationVar(&q.duration, "duration", time.Hour, "how long the sessions are that the program asks for by web identity")
	flags.BoolVarP(&q.verbose, "verbose", "v", false, "print what else was seen of the links that are as they must be")
	return cmd
}

func (q *consultation) check() error {
	named := 0
	for _, given := range []bool{q.pod != "", q.serviceAccount != "", q.all} {
		if given {
			named++
		}
	}
	switch {
	case named != 1:
		return withHint(errors.New("which pod?"), "name a pod, or a service account with -s, or give --all")
	case q.namespace == "" && !q.all:
		return withHint(errors.New("the namespace is not known"), "give it with -n")
	case q.duration < 15*time.Minute || q.duration > 12*time.Hour:
		return withHint(fmt.Errorf("a session cannot last %s", q.duration), "STS gives sessions of 15m to 12h")
	case q.exec && q.pod == "":
		return withHint(errors.New("--exec needs a pod"), "name one")
	}
	return nil
}

func (c *cli) doctor(ctx context.Context, cfg aws.Config, q consultation) error {
	api, err := openKubernetes(q.kubeconfig, q.kubeContext)
	if err != nil {
		return withHint(err, "name the pod's cluster with --kubeconfig and --kube-context")
	}
	log, err := daemon.NewLogger(c.err, "error", "text")
	if err != nil {
		return err
	}
	auth, err := eksAuth(log, cfg, q.cluster)
	if err != nil {
		return err
	}
	endpoint := serviceEndpoint(cfg, "AWS_ENDPOINT_URL_STS")
	lanyard := endpoint != ""
	if !lanyard {
		partition, _ := arn.PartitionOfRegion(cfg.Region) // eksAuth has refused what is none
		endpoint = fmt.Sprintf("https://sts.%s.%s", cfg.Region, partition.DNSSuffix)
	}
	config := doctor.Config{
		Address: api.address, Client: api.client, AWS: cfg, Endpoint: endpoint, Plain: plainClient(cfg), Cluster: q.cluster, Webhook: q.webhook,
		Lanyard: lanyard, PrivateCA: os.Getenv("AWS_CA_BUNDLE") != "", Duration: q.duration, NoCall: !q.call,
		PodIdentity: func(ctx context.Context, token string) (time.Time, error) {
			given, err := auth.AssumeRoleForPodIdentity(ctx, token)
			return given.Expires, err
		},
		Published: func(ctx context.Context, issuer string) doctor.Published {
			return publishedBy(ctx, issuer, !lanyard, cfg)
		},
	}
	if q.exec {
		config.Exec = q.readInside
	}
	d := doctor.New(config)
	if !q.all {
		report := doctor.Diagnose(d.Gather(ctx, q.namespace, q.pod, q.serviceAccount))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("look at %s/%s: %w", q.namespace, cmp.Or(q.pod, q.serviceAccount), err)
		}
		if c.output != "table" {
			err = c.print(report, nil)
		} else {
			printReport(c.out, report, q.verbose, colored(c.out))
		}
		return cmp.Or(err, verdict(report.Status))
	}
	return c.doctorAll(ctx, d, q)
}

// doctorAll prints a line for each pod.
func (c *cli) doctorAll(ctx context.Context, d *doctor.Doctor, q consultation) error {
	pods, err := d.PodsWithIdentity(ctx, q.namespace)
	if unread := (*doctor.UnreadError)(nil); errors.As(err, &unread) && unread.Grant != "" {
		return withHint(err, "%s", unread.Grant)
	}
	if err != nil {
		return err
	}
	reports := []*doctor.Report{}
	rows := [][]string{{"NAMESPACE", "POD", "SERVICE ACCOUNT", "WAY", "STATUS", "LINK", "WHY"}}
	worst := doctor.OK
	for _, pod := range pods {
		r := doctor.Diagnose(d.Gather(ctx, pod[0], pod[1], ""))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("look at %s/%s: %w", pod[0], pod[1], err)
		}
		reports = append(reports, r)
		link, why := "", ""
		if first := r.First(r.Status); first != nil && r.Status != doctor.OK {
			link, why = first.Link, first.Text
		}
		rows = append(rows, []string{r.Namespace, r.Pod, r.ServiceAccount, cmp.Or(r.Way, "none"), string(r.Status), link, why})
		if r.Status == doctor.Broken || worst != doctor.Broken && r.Status == doctor.Unknown {
			worst = r.Status
		}
	}
	if err := c.print(reports, rows); err != nil {
		return err
	}
	return verdict(worst)
}

// verdict is the exit status for what was found.
func verdict(s doctor.Status) error {
	switch s {
	case doctor.Broken:
		return exitNo
	case doctor.Unknown:
		return exitError(1)
	}
	return nil
}

// plainClient returns a client that trusts what the SDK's does, and follows nothing.
func plainClient(cfg aws.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = sdkTLS(cfg)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// publishedBy looks at an issuer as STS does.
func publishedBy(ctx context.Context, issuer string, asAWS bool, cfg aws.Config) doctor.Published {
	k := issuerCheck{issuer: issuer, aws: asAWS, client: plainClient(cfg), timeout: 5 * time.Second, now: time.Now()}
	var p doctor.Published
	for _, key := range k.run(ctx) {
		p.KeyIDs = append(p.KeyIDs, key.KeyID)
	}
	for _, r := range k.results {
		if r.Result == checkFail {
			p.Fault, p.Fix = r.Check+": "+r.Found, r.Hint
			break
		}
	}
	return p
}

// maxToken bounds what is read of a file in a pod, in bytes.
const maxToken = 64 << 10

// beginning is a writer that keeps the first maxToken bytes.
type beginning struct{ text strings.Builder }

func (b *beginning) Write(p []byte) (int, error) {
	b.text.Write(p[:min(len(p), maxToken-b.text.Len())])
	return len(p), nil
}

// readInside reads a file in a container by kubectl, which has the streaming protocols and the plugins for it. What the file is the pod
// says, so that it may have no end, or nothing to read.
func (q *consultation) readInside(ctx context.Context, namespace, pod, container, file string) ([]byte, error) {
	args := []string{"exec", "--namespace", namespace, pod, "--container", container}
	if q.kubeconfig != "" {
		args = append(args, "--kubeconfig", q.kubeconfig)
	}
	if q.kubeContext != "" {
		args = append(args, "--context", q.kubeContext)
	}
	ctx, cancel := context.WithTimeout(ctx, kubernetesTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append(args, "--", "cat", file)...)
	var errs beginning
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run kubectl: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run kubectl: %w", err)
	}
	text, readErr := readAtMost(out, maxToken)
	if readErr != nil {
		cancel() // kubectl may wait for somebody to read the rest
	}
	err = cmd.Wait()
	if readErr != nil {
		return nil, fmt.Errorf("read %s in container %s: %w", file, container, readErr)
	}
	if err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(errs.text.String()), "\n")
		return nil, fmt.Errorf("kubectl exec: %s", cmp.Or(line, err.Error()))
	}
	return text, nil
}

// colored reports whether to print in colour, as `lanyard demo` does.
func colored(w io.Writer) bool {
	f, isFile := w.(*os.File)
	return isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}

// mark is what a line begins with.
func mark(s doctor.Status, color bool) string {
	text, code := "✓", "32"
	switch s {
	case doctor.Broken:
		text, code = "✗", "31"
	case doctor.Warning:
		text, code = "!", "33"
	case doctor.Unknown:
		text, code = "?", "33"
	case doctor.Skipped:
		text, code = "–", "2"
	}
	if color {
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	return text
}

// printReport prints the chain for people: a line for each link, and below those that are not as they must be what to do.
func printReport(w io.Writer, r *doctor.Report, verbose, color bool) {
	who := fmt.Sprintf("service account %s/%s", r.Namespace, r.ServiceAccount)
	if r.Pod != "" {
		who = fmt.Sprintf("pod %s/%s", r.Namespace, r.Pod)
		if r.ServiceAccount != "" {
			who += ", service account " + r.ServiceAccount
		}
	}
	fmt.Fprintf(w, "%s, cluster %s\n\n", who, r.Cluster)
	width := 0
	for _, one := range r.Results {
		width = max(width, len(one.Link))
	}
	for _, one := range r.Results {
		fmt.Fprintf(w, "%s  %-*s  %s\n", mark(one.Status, color), width, one.Link, one.Text)
		indent := strings.Repeat(" ", width+5)
		if one.Status != doctor.OK || verbose {
			for _, n := range one.Notes {
				fmt.Fprintf(w, "%s%s\n", indent, n)
			}
		}
		if one.Fix != "" {
			fmt.Fprintf(w, "%s→ %s\n", indent, one.Fix)
		}
	}
	switch first := r.First(r.Status); {
	case r.Status == doctor.Broken:
		fmt.Fprintf(w, "\nThe first link that is broken: %s.\n", first.Link)
	case r.Status == doctor.Unknown:
		fmt.Fprintf(w, "\nNothing is seen to be broken, but not all could be told; the first of it: %s.\n", first.Link)
	case r.Status == doctor.Warning:
		fmt.Fprintln(w, "\nNo link is broken.")
	default:
		fmt.Fprintln(w, "\nAll links are as they must be.")
	}
}
