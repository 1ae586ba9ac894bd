// Package iam keeps accounts, users, roles, policies and identity providers, and decides who may do what.
package iam

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/keyring"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// Config is what the service needs.
type Config struct {
	DB        *kv.DB           // required, not yet started
	Keyring   *keyring.Keyring // required; wraps secret access keys
	Partition string           // aws, aws-cn, aws-us-gov, …
	// TrustGuard says what becomes of trust policies that let in whom nobody meant to let in; TrustWarn when empty.
	TrustGuard TrustGuard
	Now        func() time.Time // time.Now when nil
	Log        *slog.Logger     // required
}

// Service is IAM.
type Service struct {
	guard     TrustGuard
	partition string
	now       func() time.Time
	log       *slog.Logger
	keyring   *keyring.Keyring

	db           *kv.DB
	installation *kv.Table[installation]
	accounts     *kv.Table[accountRow]
	aliases      *kv.Table[alias]
	users        *kv.Table[userRow]
	groups       *kv.Table[groupRow]
	roles        *kv.Table[roleRow]
	keys         *kv.Table[accessKeyRow]
	managed      *kv.Table[managedRow]
	providers    *kv.Table[providerRow]
	profiles     *kv.Table[instanceProfile]
	saml         *kv.Table[samlProvider]
	usage        *kv.Table[usage]
	jobs         *kv.Table[job]
	reports      *kv.Table[credentialReport]

	usersByID      *kv.Index[userRow]
	groupsByID     *kv.Index[groupRow]
	rolesByID      *kv.Index[roleRow]
	usersByPolicy  *kv.Index[userRow] // "ACCOUNT/POLICY ARN", attached or boundary
	groupsByPolicy *kv.Index[groupRow]
	rolesByPolicy  *kv.Index[roleRow]
	managedByARN   *kv.Index[managedRow]
	usersByGroup   *kv.Index[userRow] // group's unique ID

	aws             map[string]*managedRow // AWS's managed policies by ARN; never changes
	sessionPolicies sessionPolicies
	uses            uses
}

// New makes the service and its tables.
func New(c Config) *Service {
	aws, err := loadAWSPolicies(c.Partition)
	if err != nil {
		panic(fmt.Sprintf("iam: read the embedded policies: %v", err)) // they are part of the program
	}
	s := &Service{
		guard: cmp.Or(c.TrustGuard, TrustWarn), partition: c.Partition, now: c.Now, log: c.Log, keyring: c.Keyring,
		db:              c.DB,
		installation:    kv.NewTable[installation](c.DB, "iam-installation"),
		accounts:        kv.NewTable[accountRow](c.DB, "iam-accounts"),
		aliases:         kv.NewTable[alias](c.DB, "iam-aliases"),
		users:           kv.NewTable[userRow](c.DB, "iam-users"),
		groups:          kv.NewTable[groupRow](c.DB, "iam-groups"),
		roles:           kv.NewTable[roleRow](c.DB, "iam-roles"),
		keys:            kv.NewTable[accessKeyRow](c.DB, "iam-access-keys"),
		managed:         kv.NewTable[managedRow](c.DB, "iam-policies"),
		providers:       kv.NewTable[providerRow](c.DB, "iam-oidc-providers"),
		profiles:        kv.NewTable[instanceProfile](c.DB, "iam-instance-profiles"),
		saml:            kv.NewTable[samlProvider](c.DB, "iam-saml-providers"),
		usage:           kv.NewTable[usage](c.DB, "iam-last-used"),
		jobs:            kv.NewTable[job](c.DB, "iam-jobs"),
		reports:         kv.NewTable[credentialReport](c.DB, "iam-credential-reports"),
		uses:            uses{byID: make(map[string]map[string]use)},
		aws:             aws,
		sessionPolicies: sessionPolicies{byText: make(map[string]*policy.Policy)},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.usersByID = kv.NewIndex(s.users, func(_ string, r *userRow) []string { return []string{r.ID} })
	s.groupsByID = kv.NewIndex(s.groups, func(_ string, r *groupRow) []string { return []string{r.ID} })
	s.rolesByID = kv.NewIndex(s.roles, func(_ string, r *roleRow) []string { return []string{r.ID} })
	s.usersByPolicy = kv.NewIndex(s.users, func(_ string, r *userRow) []string { return r.policiesOf() })
	s.groupsByPolicy = kv.NewIndex(s.groups, func(_ string, r *groupRow) []string { return r.policiesOf() })
	s.rolesByPolicy = kv.NewIndex(s.roles, func(_ string, r *roleRow) []string { return r.policiesOf() })
	s.managedByARN = kv.NewIndex(s.managed, func(_ string, m *managedRow) []string { return []string{m.ARN} })
	s.usersByGroup = kv.NewIndex(s.users, func(_ string, r *userRow) []string { return r.Groups })
	return s
}

// API returns the operations of the IAM API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("iam"), Operations: []awsapi.Operation{
		on(s, "CreateUser", s.createUser),
		on(s, "GetUser", s.getUser),
		on(s, "ListUsers", s.listUsers),
		awsapi.Op("UpdateUser", s.updateUser, s.accessUpdateUser),
		act(s, "DeleteUser", s.deleteUser),
		act(s, "TagUser", tag[tagUserIn](s)),
		act(s, "UntagUser", untag[untagUserIn](s)),
		on(s, "ListUserTags", listTags[listOfUserIn](s)),
		act(s, "PutUserPolicy", putInline[putUserPolicyIn](s)),
		on(s, "GetUserPolicy", s.getUserPolicy),
		on(s, "ListUserPolicies", listInline[listOfUserIn](s)),
		act(s, "DeleteUserPolicy", deleteInline[userPolicyIn](s)),
		act(s, "AttachUserPolicy", attach[userAttachmentIn](s)),
		act(s, "DetachUserPolicy", detach[userAttachmentIn](s)),
		on(s, "ListAttachedUserPolicies", listAttached[listAttachedUserPoliciesIn](s)),
		act(s, "PutUserPermissionsBoundary", putBoundary[putUserBoundaryIn](s)),
		act(s, "DeleteUserPermissionsBoundary", deleteBoundary[userIn](s)),

		on(s, "CreateGroup", s.createGroup),
		on(s, "GetGroup", s.getGroup),
		on(s, "ListGroups", s.listGroups),
		on(s, "ListGroupsForUser", s.listGroupsForUser),
		awsapi.Op("UpdateGroup", s.updateGroup, s.accessUpdateGroup),
		act(s, "DeleteGroup", s.deleteGroup),
		act(s, "AddUserToGroup", s.addUserToGroup),
		act(s, "RemoveUserFromGroup", s.removeUserFromGroup),
		act(s, "PutGroupPolicy", putInline[putGroupPolicyIn](s)),
		on(s, "GetGroupPolicy", s.getGroupPolicy),
		on(s, "ListGroupPolicies", listInline[getGroupIn](s)),
		act(s, "DeleteGroupPolicy", deleteInline[groupPolicyIn](s)),
		act(s, "AttachGroupPolicy", attach[groupAttachmentIn](s)),
		act(s, "DetachGroupPolicy", detach[groupAttachmentIn](s)),
		on(s, "ListAttachedGroupPolicies", listAttached[listAttachedGroupPoliciesIn](s)),

		on(s, "CreateAccessKey", s.createAccessKey),
		act(s, "DeleteAccessKey", s.deleteAccessKey),
		act(s, "UpdateAccessKey", s.updateAccessKey),
		on(s, "ListAccessKeys", s.listAccessKeys),
		on(s, "GetAccessKeyLastUsed", s.getAccessKeyLastUsed),

		on(s, "GetLoginProfile", s.getLoginProfile),
		act(s, "DeleteLoginProfile", s.deleteLoginProfile),
		on(s, "ListMFADevices", s.listDevices),
		on(s, "ListVirtualMFADevices", s.listVirtualDevices),
		on(s, "ListSSHPublicKeys", s.listSSHKeys),
		on(s, "ListSigningCertificates", s.listCertificates),
		on(s, "ListServiceSpecificCredentials", s.listServiceCredentials),

		on(s, "CreateRole", s.createRole),
		on(s, "GetRole", s.getRole),
		on(s, "ListRoles", s.listRoles),
		act(s, "UpdateRole", s.updateRole),
		on(s, "UpdateRoleDescription", s.updateRoleDescription),
		act(s, "UpdateAssumeRolePolicy", s.updateAssumeRolePolicy),
		act(s, "DeleteRole", s.deleteRole),
		act(s, "TagRole", tag[tagRoleIn](s)),
		act(s, "UntagRole", untag[untagRoleIn](s)),
		on(s, "ListRoleTags", listTags[listOfRoleIn](s)),
		act(s, "PutRolePolicy", putInline[putRolePolicyIn](s)),
		on(s, "GetRolePolicy", s.getRolePolicy),
		on(s, "ListRolePolicies", listInline[listOfRoleIn](s)),
		act(s, "DeleteRolePolicy", deleteInline[rolePolicyIn](s)),
		act(s, "AttachRolePolicy", attach[roleAttachmentIn](s)),
		act(s, "DetachRolePolicy", detach[roleAttachmentIn](s)),
		on(s, "ListAttachedRolePolicies", listAttached[listAttachedRolePoliciesIn](s)),
		act(s, "PutRolePermissionsBoundary", putBoundary[putRoleBoundaryIn](s)),
		act(s, "DeleteRolePermissionsBoundary", deleteBoundary[roleIn](s)),
		on(s, "ListInstanceProfilesForRole", s.listInstanceProfilesForRole),

		on(s, "CreateServiceLinkedRole", s.createLinked),
		on(s, "DeleteServiceLinkedRole", s.deleteLinked),
		on(s, "GetServiceLinkedRoleDeletionStatus", s.deletionStatus),

		on(s, "CreatePolicy", s.createPolicy),
		on(s, "GetPolicy", s.getPolicy),
		on(s, "ListPolicies", s.listPolicies),
		act(s, "DeletePolicy", s.deletePolicy),
		on(s, "CreatePolicyVersion", s.createPolicyVersion),
		on(s, "GetPolicyVersion", s.getPolicyVersion),
		on(s, "ListPolicyVersions", s.listPolicyVersions),
		act(s, "DeletePolicyVersion", s.deletePolicyVersion),
		act(s, "SetDefaultPolicyVersion", s.setDefaultPolicyVersion),
		on(s, "ListEntitiesForPolicy", s.listEntitiesForPolicy),
		act(s, "TagPolicy", tag[tagPolicyIn](s)),
		act(s, "UntagPolicy", untag[untagPolicyIn](s)),
		on(s, "ListPolicyTags", listTags[listOfPolicyIn](s)),

		on(s, "CreateOpenIDConnectProvider", s.createProvider),
		on(s, "GetOpenIDConnectProvider", s.getProvider),
		on(s, "ListOpenIDConnectProviders", s.listProviders),
		act(s, "DeleteOpenIDConnectProvider", s.deleteProvider),
		act(s, "AddClientIDToOpenIDConnectProvider", s.addClientID),
		act(s, "RemoveClientIDFromOpenIDConnectProvider", s.removeClientID),
		act(s, "UpdateOpenIDConnectProviderThumbprint", s.updateThumbprint),
		act(s, "TagOpenIDConnectProvider", tag[tagProviderIn](s)),
		act(s, "UntagOpenIDConnectProvider", untag[untagProviderIn](s)),
		on(s, "ListOpenIDConnectProviderTags", listTags[listOfProviderIn](s)),

		on(s, "CreateSAMLProvider", s.createSAML),
		on(s, "GetSAMLProvider", s.getSAML),
		on(s, "ListSAMLProviders", s.listSAML),
		on(s, "UpdateSAMLProvider", s.updateSAML),
		act(s, "DeleteSAMLProvider", s.deleteSAML),
		act(s, "TagSAMLProvider", tag[tagSAMLIn](s)),
		act(s, "UntagSAMLProvider", untag[untagSAMLIn](s)),
		on(s, "ListSAMLProviderTags", listTags[listOfSAMLIn](s)),

		on(s, "CreateInstanceProfile", s.createProfile),
		on(s, "GetInstanceProfile", s.getProfile),
		on(s, "ListInstanceProfiles", s.listProfiles),
		act(s, "DeleteInstanceProfile", s.deleteProfile),
		awsapi.Op("AddRoleToInstanceProfile", s.addRoleToProfile, s.accessAddRole),
		act(s, "RemoveRoleFromInstanceProfile", s.removeRoleFromProfile),
		act(s, "TagInstanceProfile", tag[tagProfileIn](s)),
		act(s, "UntagInstanceProfile", untag[untagProfileIn](s)),
		on(s, "ListInstanceProfileTags", listTags[listOfProfileIn](s)),

		on(s, "SimulateCustomPolicy", s.simulateCustomPolicy),
		on(s, "SimulatePrincipalPolicy", s.simulatePrincipalPolicy),
		on(s, "GetContextKeysForCustomPolicy", s.contextKeysForCustomPolicy),
		on(s, "GetContextKeysForPrincipalPolicy", s.contextKeysForPrincipalPolicy),

		on(s, "GenerateServiceLastAccessedDetails", s.generateLastAccessed),
		on(s, "GetServiceLastAccessedDetails", s.getLastAccessed),
		on(s, "GetServiceLastAccessedDetailsWithEntities", s.getLastAccessedEntities),
		on(s, "ListPoliciesGrantingServiceAccess", s.listPoliciesGranting),
		on(s, "GenerateCredentialReport", s.generateCredentialReport),
		on(s, "GetCredentialReport", s.getCredentialReport),
		on(s, "GetAccountAuthorizationDetails", s.getAuthorizationDetails),

		act(s, "CreateAccountAlias", s.createAccountAlias),
		act(s, "DeleteAccountAlias", s.deleteAccountAlias),
		on(s, "ListAccountAliases", s.listAccountAliases),
		on(s, "GetAccountSummary", s.getAccountSummary),
	}}
}

// Extension returns the operations of Lanyard's own API that concern accounts.
func (s *Service) Extension() []awsapi.Operation {
	return []awsapi.Operation{
		awsapi.Op("CreateAccount", s.createAccount, func(c *awsapi.Caller, _ *createAccountIn) ([]awsapi.Access, error) {
			return s.accessManagement("lanyard:CreateAccount", c)
		}),
		awsapi.Op("ListAccounts", s.listAccounts, func(c *awsapi.Caller, _ *listAccountsIn) ([]awsapi.Access, error) {
			return s.accessManagement("lanyard:ListAccounts", c)
		}),
	}
}

// Role is a role as others see it; it must not be modified.
type Role struct {
	Account            string
	Name               string
	Path               string
	ID                 string // AROA…
	Description        string
	MaxSessionDuration time.Duration
	Tags               []awsapi.Tag
	Created            time.Time
	Trust              *policy.Policy // compiled, principals by unique ID; never nil
}

// Provider is an OIDC provider as others see it; it must not be modified.
type Provider struct {
	Account     string
	ARN         arn.ARN
	URL         string // host and path, as in the ARN: without scheme and port
	FetchURL    string // the https URL to reach it by: with the port it was registered with, unless that is 443
	ClientIDs   []string
	Thumbprints []string // lower-case hex SHA-1
}

// Sync returns once lookups show all that was acknowledged, by any replica, before it was called. Errors wrap
// kv.ErrUnavailable.
func (s *Service) Sync(ctx context.Context) error { return s.db.Sync(ctx) }
