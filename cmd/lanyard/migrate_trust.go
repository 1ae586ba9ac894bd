package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/policy"
)

// podsService is the service principal of EKS Pod Identity.
const podsService = "pods.eks.amazonaws.com"

// trustDocument is a role's trust policy as a list of statements: those that are not touched stay as they are, byte for byte.
type trustDocument struct {
	Version   json.RawMessage `json:",omitempty"`
	ID        json.RawMessage `json:"Id,omitempty"`
	Statement []json.RawMessage
}

// readTrust reads a trust policy. What is none is refused: a document that is not understood is not changed.
func readTrust(text string) (trustDocument, error) {
	if _, err := policy.New("trust policy", policy.Trust, []byte(text)); err != nil {
		return trustDocument{}, err
	}
	var d struct {
		Version, Statement json.RawMessage
		ID                 json.RawMessage `json:"Id"`
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return trustDocument{}, err
	}
	t := trustDocument{Version: d.Version, ID: d.ID}
	if bytes.HasPrefix(d.Statement, []byte("{")) {
		t.Statement = []json.RawMessage{d.Statement}
		return t, nil
	}
	return t, json.Unmarshal(d.Statement, &t.Statement)
}

// text writes the document as IAM takes it.
func (t trustDocument) text() (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(t); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// with returns the document with a statement at its end.
func (t trustDocument) with(statement string) trustDocument {
	t.Statement = append(slices.Clip(t.Statement), json.RawMessage(statement))
	return t
}

// podIdentityStatement is the statement by which EKS Pod Identity may give a role to pods, as eksctl writes it; with a cluster's
// ARN and account, to pods of that cluster alone.
func podIdentityStatement(clusterARN, account string) (string, error) {
	type equals map[string]string
	statement := struct {
		Effect    string
		Principal map[string][]string
		Action    []string
		Condition map[string]equals `json:",omitempty"`
	}{Effect: "Allow", Principal: map[string][]string{"Service": {podsService}}, Action: []string{"sts:AssumeRole", "sts:TagSession"}}
	if clusterARN != "" {
		statement.Condition = map[string]equals{"ArnEquals": {"aws:SourceArn": clusterARN}, "StringEquals": {"aws:SourceAccount": account}}
	}
	text, err := json.Marshal(statement)
	return string(text), err
}

// trustInPods is what a trust policy says of EKS Pod Identity.
type trustInPods int

const (
	podsUntrusted   trustInPods = iota
	podsConditioned             // a statement names it, but does not let this service account's pods have the role
	podsTrusted
)

// trustOfPods finds out whether EKS Pod Identity may assume the role for a service account of the cluster, and tag the session. What
// is known of a pod only when it asks, such as its name, is no part of the question.
func (t trustDocument) trustOfPods(role string, cluster clusterView, account string, a annotatedAccount) (trustInPods, error) {
	text, err := t.text()
	if err != nil {
		return podsUntrusted, err
	}
	trust, err := policy.New("trust policy", policy.Trust, []byte(text))
	if err != nil {
		return podsUntrusted, err
	}
	pods := policy.Principal{Kind: policy.Service, Name: podsService}
	var keys policy.Context
	keys.Set("aws:SourceArn", cluster.ARN)
	keys.Set("aws:SourceAccount", account)
	for name, value := range map[string]string{
		"eks-cluster-arn": cluster.ARN, "eks-cluster-name": cluster.Name,
		"kubernetes-namespace": a.Namespace, "kubernetes-service-account": a.Name,
	} {
		keys.Set("aws:RequestTag/"+name, value)
	}
	allowed, named := true, true
	for _, action := range []string{"sts:AssumeRole", "sts:TagSession"} {
		request := policy.Request{Principal: pods, Action: action, Resource: role, Context: &keys}
		allowed = allowed && policy.EvaluateTrust(&request, trust, nil).Allowed
		named = named && trust.MayAllow(&pods, action)
	}
	switch {
	case allowed:
		return podsTrusted, nil
	case named:
		return podsConditioned, nil
	}
	return podsUntrusted, nil
}

// webIdentityStatement is what a statement has to do with an OIDC provider.
type webIdentityStatement struct {
	names bool // the provider is among its principals
	only  bool // it lets web identities of the provider have the role, and does nothing else
	subs  []string
	bound bool // a condition on :sub is there that names service accounts without wildcards
}

func readWebIdentity(statement json.RawMessage, provider string) (webIdentityStatement, error) {
	var s struct {
		Effect    string
		Principal json.RawMessage
		Action    oneOrMore
		NotAction json.RawMessage
		Condition map[string]map[string]oneOrMore
	}
	if err := json.Unmarshal(statement, &s); err != nil {
		return webIdentityStatement{}, fmt.Errorf("read statement: %w", err)
	}
	var principals map[string]oneOrMore
	if !bytes.HasPrefix(s.Principal, []byte("{")) || json.Unmarshal(s.Principal, &principals) != nil {
		return webIdentityStatement{}, nil // "*", or NotPrincipal: nothing that is about this provider alone
	}
	federated := principals["Federated"]
	w := webIdentityStatement{names: slices.Contains(federated, provider)}
	w.only = w.names && len(principals) == 1 && !slices.ContainsFunc(federated, func(p string) bool { return p != provider }) &&
		s.Effect == "Allow" && len(s.NotAction) == 0 && !slices.ContainsFunc(s.Action, func(a string) bool {
		return !strings.EqualFold(a, "sts:AssumeRoleWithWebIdentity") && !strings.EqualFold(a, "sts:TagSession")
	})
	for operator, keys := range s.Condition {
		like := strings.Contains(strings.ToLower(operator), "like")
		for key, values := range keys {
			if !strings.EqualFold(key, providerKey(provider)+":sub") {
				continue
			}
			w.subs = append(w.subs, values...)
			wild := like && slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "*?") })
			exact := strings.EqualFold(operator, "StringEquals") || strings.EqualFold(operator, "StringLike")
			w.bound = w.bound || exact && !wild
		}
	}
	slices.Sort(w.subs)
	return w, nil
}

// oneOrMore is a value or a list of values, as policies have it. What is no string is kept as it is written.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var list []json.RawMessage
	if !bytes.HasPrefix(text, []byte("[")) {
		list = []json.RawMessage{text}
	} else if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*o = nil
	for _, raw := range list {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw)
		}
		*o = append(*o, s)
	}
	return nil
}

// providerKey is what the condition keys of a provider begin with: its URL without the scheme.
func providerKey(provider string) string {
	_, key, _ := strings.Cut(provider, ":oidc-provider/")
	return key
}

// withoutWebIdentity returns the document without the statements that are about the provider and nothing else, those, and how many
// are left that name the provider besides others.
func (t trustDocument) withoutWebIdentity(provider string) (rest trustDocument, removed []webIdentityStatement, left int, err error) {
	rest = trustDocument{Version: t.Version, ID: t.ID}
	for _, s := range t.Statement {
		w, err := readWebIdentity(s, provider)
		if err != nil {
			return trustDocument{}, nil, 0, err
		}
		if w.only {
			removed = append(removed, w)
			continue
		}
		if w.names {
			left++
		}
		rest.Statement = append(rest.Statement, s)
	}
	return rest, removed, left, nil
}

// webIdentityKeys returns the condition keys of a policy that only sessions by web identity of the provider have.
func webIdentityKeys(p *policy.Policy, provider string) []string {
	key := providerKey(provider)
	return slices.DeleteFunc(policy.ContextKeys(p), func(name string) bool {
		return !slices.ContainsFunc([]string{"aws:FederatedProvider", key + ":sub", key + ":aud", key + ":amr"},
			func(k string) bool { return strings.EqualFold(k, name) })
	})
}

// diffDocuments returns what a change does to a policy, in its canonical form, line by line: those that go begin with "-", those that
// come with "+", the others with a space.
func diffDocuments(before, after string) ([]string, error) {
	var sides [2][]string
	for i, text := range []string{before, after} {
		canonical, err := policy.Print([]byte(text))
		if err != nil {
			return nil, err
		}
		sides[i] = strings.Split(strings.TrimSuffix(string(canonical), "\n"), "\n")
	}
	a, b := sides[0], sides[1]
	// common[i][j] is how many lines of a[i:] and b[j:] can stay.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, "  "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			lines = append(lines, "- "+a[i])
			i++
		default:
			lines = append(lines, "+ "+b[j])
			j++
		}
	}
	return lines, nil
}
