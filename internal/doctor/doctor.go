// Package doctor follows the chain that gives a pod its AWS credentials, link by link, and says which one is broken and what mends
// it. What is known of a pod, its cluster and its role is gathered first, into Facts; the checks are plain functions of those, so that
// all that doctor says can be had without asking anybody. Nothing is changed, and no token, secret or credential is ever in a text.
package doctor

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// Status is what a check found.
type Status string

// What checks find.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, or may, and is not as it should be
	Broken  Status = "broken"  // the pod has no credentials because of this, or not those that it should have
	Skipped Status = "skipped" // an earlier link is broken, so that there is nothing to look at
	Unknown Status = "unknown" // it cannot be told
)

// Result is what was found about one link.
type Result struct {
	Link   string   `json:"link"`
	Status Status   `json:"status"`
	Text   string   `json:"text"`
	Fix    string   `json:"fix,omitempty"`   // the command or the change that mends it
	Notes  []string `json:"notes,omitempty"` // what else was seen

	stops bool // it is not broken, and yet there is nothing to look at behind it
}

// Report is the whole chain of one pod, or of what the pods of one service account would have.
type Report struct {
	Namespace      string   `json:"namespace"`
	Pod            string   `json:"pod,omitempty"`
	ServiceAccount string   `json:"serviceAccount,omitempty"`
	Cluster        string   `json:"cluster"`
	Way            string   `json:"way,omitempty"` // irsa or pod-identity
	RoleARN        string   `json:"roleArn,omitempty"`
	Status         Status   `json:"status"`          // Broken, Unknown, Warning or OK: the worst of the links
	Cause          string   `json:"cause,omitempty"` // the first link that is broken
	Results        []Result `json:"links"`
}

// First returns the first result with a status, or nil.
func (r *Report) First(s Status) *Result {
	if i := slices.IndexFunc(r.Results, func(one Result) bool { return one.Status == s }); i >= 0 {
		return &r.Results[i]
	}
	return nil
}

// check is one link.
type check struct {
	link  string
	part  func(*Facts) bool // whether it is part of the chain
	after []string          // links without which there is nothing to look at
	run   func(*Facts) Result
}

// The links that others hang on.
const (
	linkServer       = "API server"
	linkControlPlane = "control plane"
	linkPod          = "pod"
	linkAccount      = "service account"
	linkCluster      = "cluster"
	linkWay          = "way"
	linkRoleARN      = "role ARN"
	linkWebhook      = "webhook"
	linkChoice       = "webhook's choice"
	linkService      = "webhook's service"
	linkServing      = "webhook's certificate"
	linkContainers   = "containers"
	linkProjection   = "token volume"
	linkToken        = "token"
	linkIssuer       = "issuer"
	linkAssociation  = "association"
	linkProvider     = "provider"
	linkKeys         = "keys"
	linkRole         = "role"
	linkTrust        = "trust policy"
	linkTarget       = "target role"
	linkSession      = "session"
	linkAddress      = "agent's address"
	linkEndpoint     = "endpoint"
)

// checks returns the chain, in the order in which credentials come about.
func checks() []check {
	after := func(links ...string) []string { return links }
	return []check{
		{linkServer, always, nil, checkServer},
		{linkControlPlane, always, nil, checkControlPlane},
		{"clock", always, nil, checkClock},
		{linkPod, ofPod, after(linkServer), checkPod},
		{linkAccount, always, after(linkServer, linkPod), checkAccount},
		{linkCluster, always, after(linkControlPlane), checkCluster},
		{linkWay, always, after(linkAccount, linkPod), checkWay},
		{linkRoleARN, byWebIdentity, after(linkWay), checkRoleARN},
		{linkWebhook, byWebhook, after(linkServer, linkWay, linkRoleARN), checkRegistration},
		{linkChoice, registered, after(linkWebhook), checkSelectors},
		{linkService, byService, after(linkWebhook, linkChoice), checkService},
		{linkServing, registered, after(linkWebhook, linkChoice, linkService), checkServing},
		{"next pod", byWebhook, after(linkServer, linkWay, linkRoleARN, linkWebhook, linkChoice, linkService, linkServing), checkDryRun},
		{linkContainers, ofPod, after(linkPod, linkWay, linkRoleARN), checkContainers},
		{linkProjection, mutated, after(linkPod, linkWay, linkRoleARN), checkProjection},
		{linkToken, hasWay, after(linkAccount, linkWay, linkRoleARN, linkProjection), checkToken},
		{linkIssuer, hasWay, after(linkWay, linkToken), checkIssuer},
		{linkAssociation, byPodIdentity, after(linkWay, linkCluster, linkControlPlane), checkAssociation},
		{linkProvider, byWebIdentity, after(linkWay, linkRoleARN, linkIssuer, linkControlPlane), checkProvider},
		{linkKeys, hasWay, after(linkWay, linkToken, linkIssuer), checkKeys},
		{linkRole, hasWay, after(linkWay, linkRoleARN, linkAssociation, linkControlPlane), checkRole},
		{linkTrust, hasWay, after(linkRole, linkProvider), checkTrust},
		{linkTarget, chained, after(linkRole, linkTrust), checkTarget},
		{linkSession, hasWay, after(linkRole, linkTrust), checkSession},
		{"credentials", hasWay, after(linkWay, linkControlPlane, linkToken, linkIssuer, linkKeys, linkAssociation, linkProvider, linkRole, linkTrust,
			linkTarget, linkSession), checkCall},
		{linkAddress, asksAgent, after(linkPod, linkWay, linkContainers), checkAgentAddress},
		{"agent", besideAgent, after(linkPod, linkWay, linkAddress), checkAgent},
		{"proxy", proxied, after(linkPod, linkWay), checkProxy},
		{"network policies", besideAgent, after(linkPod, linkWay), checkNetwork},
		{"SDK's choice", ofPodWithWay, after(linkPod, linkWay), checkChain},
		{linkEndpoint, ofLanyardsPod, after(linkPod, linkWay, linkContainers), checkEndpoint},
		{"certificates", overTLS, after(linkPod, linkWay, linkContainers, linkEndpoint), checkCertificates},
		{"region", ofPodWithWay, after(linkPod, linkWay), checkRegion},
	}
}

// What chains have which links.
func always(*Facts) bool { return true }

func hasWay(f *Facts) bool { return f.way() != 0 }

func byWebIdentity(f *Facts) bool { return f.way() == podspec.WebIdentity }

func byPodIdentity(f *Facts) bool { return f.way() == podspec.PodIdentity }

func chained(f *Facts) bool {
	return byPodIdentity(f) && f.Association.Value != nil && f.Association.Value.TargetARN != ""
}

func byWebhook(f *Facts) bool { return !f.selfMade() }

func registered(f *Facts) bool { return byWebhook(f) && f.Registration.Value != nil }

func ofPod(f *Facts) bool { return f.PodName != "" }

func ofPodWithWay(f *Facts) bool { return ofPod(f) && hasWay(f) }

func mutated(f *Facts) bool { return ofPodWithWay(f) && f.given() == f.way() }

func asksAgent(f *Facts) bool {
	return ofPod(f) && byPodIdentity(f) && slices.ContainsFunc(f.containers(),
		func(c corev1.Container) bool { _, set := variable(c, agentVariable); return set })
}

func besideAgent(f *Facts) bool { return ofPod(f) && byPodIdentity(f) && !f.agentless() }

func ofLanyardsPod(f *Facts) bool { return ofPodWithWay(f) && f.Lanyard }

// Diagnose goes through the chain.
func Diagnose(f *Facts) *Report {
	report := &Report{Namespace: f.Namespace, Pod: f.PodName, ServiceAccount: f.account(), Cluster: f.Cluster, Status: OK}
	if w := f.way(); w != 0 {
		report.Way = w.String()
		report.RoleARN = f.roleARN()
	}
	because := map[string]string{} // of links that there is nothing to look at behind: the one because of which that is so
	for _, c := range checks() {
		if !c.part(f) {
			continue
		}
		if i := slices.IndexFunc(c.after, func(l string) bool { return because[l] != "" }); i >= 0 {
			because[c.link] = because[c.after[i]]
			report.Results = append(report.Results, Result{Link: c.link, Status: Skipped,
				Text: fmt.Sprintf("This was not looked at, because of the %s.", because[c.link])})
			continue
		}
		r := c.run(f)
		r.Link = c.link
		if r.Status == Broken || r.stops {
			because[c.link] = c.link
		}
		report.Results = append(report.Results, r)
	}
	for _, s := range []Status{Broken, Unknown, Warning} {
		if first := report.First(s); first != nil {
			report.Status = s
			if s == Broken {
				report.Cause = first.Link
			}
			break
		}
	}
	return report
}

func ok(format string, args ...any) Result {
	return Result{Status: OK, Text: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Result {
	return Result{Status: Warning, Text: fmt.Sprintf(format, args...), Fix: fix}
}

func broken(fix, format string, args ...any) Result {
	return Result{Status: Broken, Text: fmt.Sprintf(format, args...), Fix: fix}
}

func unknown(fix, format string, args ...any) Result {
	return Result{Status: Unknown, Text: fmt.Sprintf(format, args...), Fix: fix}
}

// note adds what else was seen.
func (r Result) note(format string, args ...any) Result {
	r.Notes = append(slices.Clip(r.Notes), fmt.Sprintf(format, args...))
	return r
}

// stop says that there is nothing to look at behind this link.
func (r Result) stop() Result {
	r.stops = true
	return r
}
