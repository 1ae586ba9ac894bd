package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
)

// migration is what `lanyard migrate` is asked.
type migration struct {
	cluster, namespace, selector string
	kubeconfig, kubeContext      string
	restrict                     bool
	finish, force                bool
	undo                         bool
	approve                      bool
}

func newMigrateCommand(c *cli) *cobra.Command {
	var q migration
	cmd := &cobra.Command{
		Use:   "migrate --cluster NAME [-n NAMESPACE] [--finish | --undo] [--approve]",
		Short: "Move service accounts from IRSA to Pod Identity, in two phases",
		Long: `Move the service accounts that are annotated with eks.amazonaws.com/role-arn from IRSA to EKS Pod Identity, with the roles that they have.

The first phase lets their roles trust Pod Identity besides, and makes the associations. Both ways work then, and pods change over when they
are restarted. The second, --finish, takes the annotations off, and the trust in web identities of this cluster out of the roles that
no service account of it is annotated with any more.

The way back is --undo: it restores annotations that --finish has taken off, and deletes the associations that the first phase has made.
After --finish the trust in web identities must be put back into the roles first; the plan says which statement is missing.

Without --approve nothing is changed: the plan is printed. What is done already is left as it is, so that a run that was broken
off is taken up by another. A step that fails does not keep those of other roles from being done.

The exit status is 0 if there is nothing left to do, 3 if there is, and 1 if a step failed or the plan could not be made.`,
		Example: `  lanyard migrate --cluster prod -n web
  lanyard migrate --cluster prod -n web --approve
  lanyard migrate --cluster prod -n web --finish --approve
  lanyard migrate --cluster prod -n web --undo`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.migrate(cmd.Context(), q) },
	}
	flags := cmd.Flags()
	flags.StringVar(&q.cluster, "cluster", "dev", "cluster")
	flags.StringVarP(&q.namespace, "namespace", "n", "", "namespace (default: all)")
	flags.StringVarP(&q.selector, "selector", "l", "", "labels that the service accounts have, as kubectl takes them")
	flags.StringVar(&q.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default: kubectl's)")
	flags.StringVar(&q.kubeContext, "kube-context", "", "context of the kubeconfig (default: its current one)")
	flags.BoolVar(&q.restrict, "restrict", false, "let the roles trust Pod Identity for this cluster alone, by aws:SourceArn and aws:SourceAccount")
	flags.BoolVar(&q.finish, "finish", false, "the second phase: take annotations and the trust in web identities away")
	flags.BoolVar(&q.force, "force", false, "with --finish, do not wait for pods that go the web identity's way")
	flags.BoolVar(&q.undo, "undo", false, "go back to web identities: restore annotations, and delete the associations that this command has made")
	flags.BoolVar(&q.approve, "approve", false, "carry the plan out")
	cmd.MarkFlagsMutuallyExclusive("finish", "restrict", "undo")
	return cmd
}

func (c *cli) migrate(ctx context.Context, q migration) error {
	if q.force && !q.finish {
		return withHint(errors.New("--force is for the second phase"), "give --finish with it, or leave it out")
	}
	selector, err := labels.Parse(q.selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	cfg, err := c.aws(ctx)
	if err != nil {
		return err
	}
	api, err := openKubernetes(q.kubeconfig, q.kubeContext)
	if err != nil {
		return withHint(err, "name the cluster with --kubeconfig and --kube-context")
	}
	m := &migrator{api: api, eks: eks.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg)}
	scene, err := m.read(ctx, q.cluster, q.namespace, selector)
	if err != nil {
		return err
	}
	var plan *migrationPlan
	switch {
	case q.undo:
		plan, err = scene.undo()
	case q.finish:
		plan, err = scene.finish(q.force)
	default:
		plan, err = scene.associate(q.restrict)
	}
	if err != nil {
		return err
	}
	failed := 0
	if q.approve {
		if c.output == "table" && plan.open() {
			// The plan goes first, so that it can be read whatever happens then.
			if err := c.printPlan(plan); err != nil {
				return err
			}
			fmt.Fprint(c.out, "\nCarried out:\n\n")
		}
		failed = m.carryOut(ctx, plan)
	}
	switch {
	case q.approve && c.output == "table":
		err = c.print(plan, plan.rows())
	default:
		err = c.printPlan(plan)
	}
	switch {
	case err != nil:
		return err
	case failed > 0:
		return withHint(fmt.Errorf("%d of %d steps failed", failed, len(plan.Steps)),
			"run the command again when the cause is mended: what is done stays done")
	case plan.open():
		return exitNo
	}
	return nil
}

// rows are the plan's steps as a table.
func (p *migrationPlan) rows() [][]string {
	rows := [][]string{{"STATE", "STEP", "SERVICE ACCOUNT", "ROLE", "WHY"}}
	for _, s := range p.Steps {
		who := strings.Join(s.SharedBy, ",")
		if s.ServiceAccount != "" {
			who = s.Namespace + "/" + s.ServiceAccount
		}
		rows = append(rows, []string{s.State, s.Do, who, s.RoleARN, s.Why})
	}
	return rows
}

// printPlan prints a plan: for people the steps, the exact changes, and what to heed.
func (c *cli) printPlan(p *migrationPlan) error {
	if err := c.print(p, p.rows()); err != nil || c.output != "table" {
		return err
	}
	for _, s := range p.Steps {
		if s.State != stateToDo || len(s.Change) == 0 {
			continue
		}
		of := s.RoleARN
		if s.ServiceAccount != "" {
			of = s.Namespace + "/" + s.ServiceAccount
		}
		fmt.Fprintf(c.out, "\n%s: %s\n", s.Do, of)
		for _, line := range s.Change {
			fmt.Fprintf(c.out, "  %s\n", line)
		}
	}
	for _, part := range []struct {
		title string
		lines []string
	}{{"Warnings", p.Warnings}, {"Pods change over when they are restarted", p.Restart}} {
		if len(part.lines) == 0 {
			continue
		}
		fmt.Fprintf(c.out, "\n%s:\n", part.title)
		for _, line := range part.lines {
			fmt.Fprintf(c.out, "  %s\n", line)
		}
	}
	return nil
}

// carryOut does what there is to do, says in the plan what became of it, and returns how many steps failed. What depends on a step that
// failed is skipped.
func (m *migrator) carryOut(ctx context.Context, p *migrationPlan) (failed int) {
	broken := map[string]string{} // by role: the step that failed
	trusted := map[string]bool{}  // the roles whose trust was changed just now
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.State != stateToDo {
			continue
		}
		// Associations need their role's trust, and a role's web identities can go when none of its annotations is left; annotations
		// do not depend on each other. On the way back an association goes when the annotations are there again.
		if earlier := broken[s.RoleARN]; earlier == doTrust || earlier != "" && s.Do == doDistrust || earlier == doMark && s.Do == doDissociate {
			s.State, s.Why = stateSkipped, fmt.Sprintf("the step %q of its role failed", earlier)
			continue
		}
		var err error
		switch s.Do {
		case doTrust, doDistrust:
			name := roleName(s.RoleARN)
			_, err = m.iam.UpdateAssumeRolePolicy(ctx, &iam.UpdateAssumeRolePolicyInput{RoleName: &name, PolicyDocument: &s.After})
		case doAssociate:
			err = m.associate(ctx, p.Cluster, s, trusted[s.RoleARN])
		case doUnmark:
			err = m.unmark(ctx, s)
		case doMark:
			err = m.mark(ctx, s)
		case doDissociate:
			err = m.dissociate(ctx, p.Cluster, s)
		}
		s.State = stateDone
		if err != nil {
			s.State, s.Why = stateFailed, message(err)
			broken[s.RoleARN] = s.Do
			failed++
		}
		if s.Do == doTrust && err == nil {
			trusted[s.RoleARN] = true
		}
	}
	return failed
}

// settleAttempts is how often an association is tried for whose role the trust was changed just now, with pauses that double from a
// second: AWS's EKS refuses such a role for some seconds.
const settleAttempts = 6

// associate makes an association. One that somebody made in the meantime is as good if it is the same.
func (m *migrator) associate(ctx context.Context, cluster string, s *migrationStep, justTrusted bool) error {
	_, err := m.eks.CreatePodIdentityAssociation(ctx, &eks.CreatePodIdentityAssociationInput{
		ClusterName: &cluster, Namespace: &s.Namespace, ServiceAccount: &s.ServiceAccount, RoleArn: &s.RoleARN,
		Tags: map[string]string{migratedTag: "true"},
	}, func(o *eks.Options) {
		if justTrusted {
			o.Retryer = retry.AddWithErrorCodes(retry.AddWithMaxAttempts(o.Retryer, settleAttempts), "InvalidParameterException")
		}
	})
	if inUse := (*types.ResourceInUseException)(nil); !errors.As(err, &inUse) {
		return err
	}
	list, listErr := listAssociations(ctx, m.eks, subject{cluster, s.Namespace, s.ServiceAccount})
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	for _, v := range list {
		if v.Namespace != s.Namespace || v.ServiceAccount != s.ServiceAccount {
			continue
		}
		out, describeErr := m.eks.DescribePodIdentityAssociation(ctx, &eks.DescribePodIdentityAssociationInput{ClusterName: &cluster, AssociationId: &v.ID})
		if describeErr != nil {
			return errors.Join(err, describeErr)
		}
		if value(out.Association.RoleArn) == s.RoleARN {
			return nil
		}
	}
	return err
}

// unmark takes the role off a service account, and keeps it in an annotation of Lanyard's.
func (m *migrator) unmark(ctx context.Context, s *migrationStep) error {
	return m.editAnnotations(ctx, s, func(annotations map[string]any) error {
		if annotations[roleAnnotation] != s.RoleARN {
			return errors.New("its annotation was changed in the meantime")
		}
		delete(annotations, roleAnnotation)
		annotations[migratedAnnotation] = s.RoleARN
		return nil
	})
}
