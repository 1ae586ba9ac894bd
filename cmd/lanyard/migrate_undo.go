package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/service/eks"

	"github.com/lanyard-id/lanyard/policy"
)

// undo plans the way back: the service accounts have their roles by web identity alone when it is done. Only what the command itself has
// done is undone. The statement in Pod Identity stays in the trust policy: whether it was there before, or serves another cluster, the
// command cannot know, and without an association it lets nobody in.
func (s *migrationScene) undo() (*migrationPlan, error) {
	p := s.start("undo")
	roles, accounts := s.byRole(func(a annotatedAccount) string {
		if a.Role != "" {
			return a.Role
		}
		return a.Was
	})
	for _, arn := range roles {
		var undone []annotatedAccount
		var deletions []migrationStep
		for _, a := range accounts[arn] {
			why, err := s.keepsAssociation(arn, a)
			if err != nil {
				return nil, fmt.Errorf("plan for role %s: %w", arn, err)
			}
			if a.Was == arn {
				mark := migrationStep{Do: doMark, State: stateDone, Namespace: a.Namespace, ServiceAccount: a.Name, RoleARN: arn}
				if a.Role == "" {
					mark.State, mark.Why = stateSkipped, why
					if why == "" {
						mark.State = stateToDo
						mark.Change = []string{"- " + migratedAnnotation + ": " + arn, "+ " + roleAnnotation + ": " + arn}
					}
				}
				p.Steps = append(p.Steps, mark)
			}
			deletion := migrationStep{Do: doDissociate, State: stateDone, Namespace: a.Namespace, ServiceAccount: a.Name, RoleARN: arn}
			switch have, ok := s.associations[a.String()]; {
			case !ok:
			case why != "":
				deletion.State, deletion.Why = stateSkipped, why
			case have.RoleARN != arn:
				deletion.State, deletion.Why = stateSkipped, fmt.Sprintf("association %s gives it %s, and this command makes none with another role", have.ID, have.RoleARN)
			case have.Tags[migratedTag] != "true":
				deletion.State, deletion.Why = stateSkipped, fmt.Sprintf("association %s has no tag %s, so this command did not make it: "+
					"delete it with `lanyard association delete` if it is to go", have.ID, migratedTag)
			default:
				deletion.State, deletion.AssociationID = stateToDo, have.ID
				undone = append(undone, a)
			}
			deletions = append(deletions, deletion)
		}
		p.Steps = append(p.Steps, deletions...)
		if len(undone) > 0 {
			p.restartPods(s.agentPods, undone)
			p.warn("%s: it goes on trusting Pod Identity, which gives it to nobody without an association: "+
				"take the statement out of its trust policy if no other cluster needs it", arn)
		}
	}
	return p, nil
}

// keepsAssociation says why a service account cannot do without its association; empty if it can: the role must let it in by web identity.
func (s *migrationScene) keepsAssociation(arn string, a annotatedAccount) (string, error) {
	role := s.roles[arn]
	if role.problem != "" {
		return role.problem, nil
	}
	trust, err := policy.New("trust policy", policy.Trust, []byte(role.trust))
	if err != nil {
		return "", err
	}
	audience := a.Annotations["eks.amazonaws.com/audience"]
	if audience == "" {
		audience = stsAudience
	}
	key := providerKey(s.provider)
	var keys policy.Context
	keys.Set("aws:FederatedProvider", s.provider)
	keys.Set(key+":aud", audience)
	keys.Set(key+":sub", serviceAccountSubject(a.Namespace, a.Name))
	request := policy.Request{
		Principal: policy.Principal{Kind: policy.WebIdentity, Name: s.provider}, Action: "sts:AssumeRoleWithWebIdentity", Resource: arn, Context: &keys,
	}
	if policy.EvaluateTrust(&request, trust, nil).Allowed {
		return "", nil
	}
	document, err := irsaTrust(s.provider, a.Namespace, a.Name)
	if err != nil {
		return "", err
	}
	example, err := readTrust(document)
	if err != nil {
		return "", err
	}
	return "its role's trust policy does not let it in by web identity, and what it said before --finish is not kept: " +
		"add a statement such as " + string(example.Statement[0]) + ", and run this again", nil
}

// mark gives a service account back the role that unmark has taken off.
func (m *migrator) mark(ctx context.Context, s *migrationStep) error {
	return m.editAnnotations(ctx, s, func(annotations map[string]any) error {
		if _, marked := annotations[roleAnnotation]; marked || annotations[migratedAnnotation] != s.RoleARN {
			return errors.New("its annotations were changed in the meantime")
		}
		delete(annotations, migratedAnnotation)
		annotations[roleAnnotation] = s.RoleARN
		return nil
	})
}

// editAnnotations changes the annotations of a step's service account. The object is written as it was read but for that; the API
// server refuses it if it was changed in between.
func (m *migrator) editAnnotations(ctx context.Context, s *migrationStep, edit func(map[string]any) error) error {
	path := "/api/v1/namespaces/" + url.PathEscape(s.Namespace) + "/serviceaccounts/" + url.PathEscape(s.ServiceAccount)
	data, err := m.api.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	var account map[string]any
	if err := json.Unmarshal(data, &account); err != nil {
		return fmt.Errorf("read the API server's answer: %w", err)
	}
	metadata, _ := account["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if err := edit(annotations); err != nil {
		return err
	}
	body, err := json.Marshal(account)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	_, err = m.api.do(ctx, http.MethodPut, path, body)
	return err
}

// dissociate deletes the association that the plan was made for.
func (m *migrator) dissociate(ctx context.Context, cluster string, s *migrationStep) error {
	_, err := m.eks.DeletePodIdentityAssociation(ctx, &eks.DeletePodIdentityAssociationInput{ClusterName: &cluster, AssociationId: &s.AssociationID})
	return err
}
