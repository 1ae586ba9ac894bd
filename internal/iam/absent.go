package iam

import (
	"context"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
)

// This file answers for what nobody has here: passwords, MFA devices, signing certificates, SSH keys and credentials for one service cannot be
// made. Clients look for them before they delete a user (IAM User Guide, "Delete an IAM user"), and take a refusal for a failure.

// absent is something of a kind that there is none of.
type absent struct{}

// absentOf is the list of what a user has of such a kind. The user has to be there.
func (s *Service) absentOf(c *awsapi.Caller, in *selfPageIn) ([]absent, truncated, error) {
	if _, err := s.knownOwner(c, in.UserName); err != nil {
		return nil, truncated{}, err
	}
	return s.nothing(c, in.page)
}

// nothing is an empty list. It takes no marker, since none was given out.
func (s *Service) nothing(c *awsapi.Caller, p page) ([]absent, truncated, error) {
	return paginate(s, c, p, sorted([]absent{}, func(absent) string { return "" }), all)
}

// knownOwner finds whom an optional UserName means, as owner does, and that there is such a user.
func (s *Service) knownOwner(c *awsapi.Caller, userName string) (name string, err error) {
	if name, err = s.owner(c, userName); err == nil && name != "" {
		_, err = s.user(c.Account, name)
	}
	return name, err
}

// selfPageIn asks for a page of what a user has, who is the caller when the name is absent.
type selfPageIn struct {
	UserName string
	page
}

func (in *selfPageIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.ownerTarget(c, in.UserName)
}

type listDevicesOut struct {
	MFADevices []absent
	truncated
}

func (s *Service) listDevices(_ context.Context, c *awsapi.Caller, in *selfPageIn) (*listDevicesOut, error) {
	none, rest, err := s.absentOf(c, in)
	return &listDevicesOut{none, rest}, err
}

type listSSHKeysOut struct {
	SSHPublicKeys []absent
	truncated
}

func (s *Service) listSSHKeys(_ context.Context, c *awsapi.Caller, in *selfPageIn) (*listSSHKeysOut, error) {
	none, rest, err := s.absentOf(c, in)
	return &listSSHKeysOut{none, rest}, err
}

type listCertificatesOut struct {
	Certificates []absent
	truncated
}

func (s *Service) listCertificates(_ context.Context, c *awsapi.Caller, in *selfPageIn) (*listCertificatesOut, error) {
	none, rest, err := s.absentOf(c, in)
	return &listCertificatesOut{none, rest}, err
}

type listServiceCredentialsIn struct {
	ServiceName string
	selfPageIn
}

type listServiceCredentialsOut struct {
	ServiceSpecificCredentials []absent
	truncated
}

func (s *Service) listServiceCredentials(_ context.Context, c *awsapi.Caller, in *listServiceCredentialsIn) (*listServiceCredentialsOut, error) {
	none, rest, err := s.absentOf(c, &in.selfPageIn)
	return &listServiceCredentialsOut{none, rest}, err
}

type listVirtualDevicesIn struct {
	AssignmentStatus string
	page
}

func (in *listVirtualDevicesIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type listVirtualDevicesOut struct {
	VirtualMFADevices []absent
	truncated
}

func (s *Service) listVirtualDevices(_ context.Context, c *awsapi.Caller, in *listVirtualDevicesIn) (*listVirtualDevicesOut, error) {
	none, rest, err := s.nothing(c, in.page)
	return &listVirtualDevicesOut{none, rest}, err
}

type loginProfileOut struct {
	LoginProfile struct {
		UserName   string
		CreateDate time.Time
	}
}

func (s *Service) getLoginProfile(ctx context.Context, c *awsapi.Caller, in *selfIn) (*loginProfileOut, error) {
	return nil, s.deleteLoginProfile(ctx, c, in)
}

// deleteLoginProfile finds none to delete.
func (s *Service) deleteLoginProfile(_ context.Context, c *awsapi.Caller, in *selfIn) error {
	name, err := s.knownOwner(c, in.UserName)
	if err != nil {
		return err
	}
	return awsapi.Errorf("NoSuchEntity", "Login Profile for User %s cannot be found.", name)
}
