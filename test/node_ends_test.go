//go:build e2e && linux

package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lanyard-id/lanyard/internal/doctor"
)

// reviewed has the server ask the API server about tokens, within reviewEvery.
const reviewed = "server: {tokenReview: 15s}"

// deletedTokens shows STS tokens whose pod, or whose service account, was deleted: they are refused within the time that is promised.
func (in *installation) deletedTokens() {
	in.upgrade(intercepted, reviewed)
	role := "arn:aws:iam::" + account + ":role/one-web-ends"
	in.mustLanyard("irsa", "create", "--cluster", "one", "-n", web, "-s", "ends", "--policy-arn", s3ReadOnly)
	for _, what := range []string{"pod", "serviceaccount"} {
		in.account("ends", role)
		name := "ends-" + what
		in.start(in.programs(pod(name, "ends", "sh", "-c", `cat "$AWS_WEB_IDENTITY_TOKEN_FILE" && echo && exec sleep infinity`)))
		var token string
		in.eventually("the token of "+name, func(ctx context.Context) error {
			out, err := in.api.CoreV1().Pods(web).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
			if token = strings.TrimSpace(string(out)); err == nil && strings.Count(token, ".") != 2 {
				err = errors.New("not yet")
			}
			return err
		})
		if err := in.assume(role, token); err != nil {
			in.Fatalf("before the %s is deleted: %v", what, err)
		}
		switch what {
		case "pod":
			in.remove(name)
		default:
			in.kubectl("delete", "serviceaccount", "-n", web, "ends")
		}
		gone := time.Now()
		in.eventually("the refusal", func(context.Context) error {
			switch err := in.assume(role, token); {
			case err == nil:
				return errors.New("it is still honoured")
			case !strings.Contains(err.Error(), "InvalidIdentityToken"):
				return err
			}
			return nil
		})
		if took := time.Since(gone); took > reviewEvery+patience/10 { // what a busy machine may take besides
			in.Errorf("the token of a deleted %s was honoured for %v", what, took)
		} else {
			in.Logf("the token of a deleted %s was refused after %v", what, took.Round(time.Millisecond))
		}
		if what != "pod" {
			in.remove(name)
		}
	}
	if err := in.assume("arn:aws:iam::"+account+":role/"+irsaRole, "none"); err == nil {
		in.Error("what is no token was honoured")
	}
}

// doctor asks about healthy pods of both ways, and then about one whose node has no agent.
func (in *installation) doctor() {
	for way := range ways {
		p := pod("patient-"+way, way, "sleep", "infinity")
		in.start(in.programs(p))
		in.kubectl("wait", "-n", web, "pod/"+p.Name, "--for=condition=Ready", "--timeout="+patience.String())
		if report, printed, status := in.ask(p.Name); status != 0 || report.Cause != "" {
			in.Errorf("of %s doctor says %d, %q:\n%s", p.Name, status, report.Cause, printed)
		}
	}
	in.kubectl("delete", "daemonset", "-n", release, "lanyard-agent", "--timeout="+patience.String())
	in.eventually("the agent is to go", func(ctx context.Context) error {
		agents, err := in.api.CoreV1().Pods(release).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=lanyard-agent"})
		if err == nil && len(agents.Items) > 0 {
			err = fmt.Errorf("%s is there", agents.Items[0].Name)
		}
		return err
	})
	report, printed, status := in.ask("patient-pods")
	if status != 3 || report.Cause != "agent" || !strings.Contains(printed, "No agent runs in the cluster") {
		in.Errorf("without an agent doctor says %d, %q:\n%s", status, report.Cause, printed)
	}
	if report, printed, status := in.ask("patient-irsa"); status != 0 || report.Cause != "" {
		in.Errorf("without an agent doctor says of IRSA %d, %q:\n%s", status, report.Cause, printed)
	}
	in.upgrade(intercepted, reviewed)
}

// ask runs doctor about a pod.
func (in *installation) ask(name string) (r doctor.Report, printed string, status int) {
	in.Helper()
	out, errs, err := in.lanyard("doctor", "--cluster", "one", "-n", web, name, "-o", "json")
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status = exit.ExitCode()
	} else if err != nil {
		in.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		in.Fatalf("doctor: %v\n%s%s", err, out, errs)
	}
	return r, out + errs, status
}
