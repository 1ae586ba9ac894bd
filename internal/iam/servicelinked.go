package iam

import (
	"context"
	"fmt"
	"strings"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// linkedName returns what the names of a service's linked roles have behind AWSServiceRoleFor, and whether there may be
// several of them, told apart by suffixes. It is empty for services that have none, as far as Lanyard knows.
func linkedName(service string) (name string, suffixed bool) {
	switch service {
	case "eks.amazonaws.com":
		return "AmazonEKS", false
	case "eks-nodegroup.amazonaws.com":
		return "AmazonEKSNodegroup", false
	case "eks-fargate.amazonaws.com":
		return "AmazonEKSForFargate", false
	case "eks-connector.amazonaws.com":
		return "AmazonEKSConnector", false
	case "elasticloadbalancing.amazonaws.com":
		return "ElasticLoadBalancing", false
	case "autoscaling.amazonaws.com":
		return "AutoScaling", true
	case "spot.amazonaws.com":
		return "EC2Spot", false
	case "spotfleet.amazonaws.com":
		return "EC2SpotFleet", false
	case "ecs.amazonaws.com":
		return "ECS", false
	case "rds.amazonaws.com":
		return "RDS", false
	case "elasticache.amazonaws.com":
		return "ElastiCache", false
	case "opensearchservice.amazonaws.com":
		return "AmazonOpenSearchService", false
	case "organizations.amazonaws.com":
		return "Organizations", false
	case "support.amazonaws.com":
		return "Support", false
	case "trustedadvisor.amazonaws.com":
		return "TrustedAdvisor", false
	case "guardduty.amazonaws.com":
		return "AmazonGuardDuty", false
	case "config.amazonaws.com":
		return "Config", false
	case "cloudtrail.amazonaws.com":
		return "CloudTrail", false
	}
	return "", false
}

type createLinkedIn struct {
	AWSServiceName string
	CustomSuffix   string
	Description    string
}

// role returns the name and path of the role that is asked for.
func (in *createLinkedIn) role() (name, path string) {
	name, _ = linkedName(in.AWSServiceName)
	name = "AWSServiceRoleFor" + name
	if in.CustomSuffix != "" {
		name += "_" + in.CustomSuffix
	}
	return name, serviceLinkedPath + in.AWSServiceName + "/"
}

func (in *createLinkedIn) target(s *Service, c *awsapi.Caller) (target, error) {
	name, path := in.role()
	return target{arn: s.iamARN(c.Account, "role"+path+name)}, nil
}

func (in *createLinkedIn) conditions(p *policy.Context, _ target) {
	p.Set("iam:AWSServiceName", in.AWSServiceName)
}

// createLinked makes a role that only the service may assume. It has no permissions: no AWS service acts in Lanyard's accounts.
func (s *Service) createLinked(ctx context.Context, c *awsapi.Caller, in *createLinkedIn) (*roleOut, error) {
	known, suffixed := linkedName(in.AWSServiceName)
	name, path := in.role()
	switch {
	case known == "":
		return nil, invalidInput("This server knows no service-linked role for the service %s.", in.AWSServiceName)
	case in.CustomSuffix != "" && !suffixed:
		return nil, invalidInput("Custom suffix is not allowed for %s", in.AWSServiceName)
	case len(name) > maxRoleName:
		return nil, invalidInput("The name %s is longer than %d characters.", name, maxRoleName)
	}
	e, err := s.newEntity(c, arn.RoleID, name, path, nil, "Role")
	if err != nil {
		return nil, err
	}
	made := &roleRow{role: role{entity: e, Description: in.Description, MaxSession: defaultMaxSession, Trust: fmt.Sprintf(
		`{"Version":"2012-10-17","Statement":[{"Action":["sts:AssumeRole"],"Effect":"Allow","Principal":{"Service":[%q]}}]}`, in.AWSServiceName)}}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		return add(s, tx, s.roles, e.key(), made, rolesQuota,
			invalidInput("Service role name %s has been taken in this account, please try a different suffix.", name))
	})
	if err != nil {
		return nil, err
	}
	shape, err := s.createdRole(made)
	return &roleOut{shape}, err
}

type deletionTaskOut struct{ DeletionTaskID string }

// deleteLinked deletes at once what AWS deletes in the background; its task is over when it is made.
func (s *Service) deleteLinked(ctx context.Context, c *awsapi.Caller, in *roleName) (*deletionTaskOut, error) {
	key, id := nameKey(c.Account, in.RoleName), awsapi.NewUUID()
	out := &deletionTaskOut{}
	err := s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.roles.Read(tx, key)
		if !ok || r.modifiable() == nil {
			return noSuchRole(in.RoleName)
		}
		s.roles.Remove(tx, key)
		s.usage.Remove(tx, r.ID)
		s.release(tx, c.Account, rolesQuota)
		out.DeletionTaskID = "task" + r.Path + r.Name + "/" + id
		s.putJob(tx, c.Account, id, job{Kind: deletionJob, Subject: s.roleARN(&r.entity)})
		return nil
	})
	return out, err
}

type deletionStatusIn struct{ DeletionTaskID string }

// role returns what an ARN has for the role of a task, and the job's ID.
func (in *deletionStatusIn) role() (resource, jobID string, err error) {
	rest, ok := strings.CutPrefix(in.DeletionTaskID, "task"+serviceLinkedPath)
	role, jobID := splitPath(rest)
	if !ok || strings.Count(rest, "/") != 2 || jobID == "" {
		return "", "", invalidInput("The deletion task ID %s is not of the form task/aws-service-role/SERVICE/ROLE/ID.", in.DeletionTaskID)
	}
	return "role" + serviceLinkedPath + strings.TrimSuffix(role, "/"), jobID, nil
}

func (in *deletionStatusIn) target(s *Service, c *awsapi.Caller) (target, error) {
	resource, _, err := in.role()
	if err != nil {
		return target{}, err
	}
	return target{arn: s.iamARN(c.Account, resource)}, nil
}

type deletionStatusOut struct{ Status string }

func (s *Service) deletionStatus(_ context.Context, c *awsapi.Caller, in *deletionStatusIn) (*deletionStatusOut, error) {
	resource, id, err := in.role()
	if err != nil {
		return nil, err
	}
	j, ok := s.jobs.Get(jobKey(c.Account, id))
	if !ok || j.Kind != deletionJob || j.Subject != s.iamARN(c.Account, resource) {
		return nil, awsapi.Errorf("NoSuchEntity", "The deletion task %s cannot be found.", in.DeletionTaskID)
	}
	return &deletionStatusOut{"SUCCEEDED"}, nil
}
