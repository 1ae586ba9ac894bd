package iam

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// errAccountExists reports that an account is there already.
var errAccountExists = errors.New("iam: account exists")

// NewRootKey makes a root access key for an account that is yet to be made. It panics when account is not an account ID.
func NewRootKey(account string) sigv4.Credentials {
	return sigv4.Credentials{AccessKeyID: arn.NewID(arn.AccessKeyID, account), SecretAccessKey: newSecret()}
}

// EnsureFirstAccount makes the installation's first account, the management account, which may make others, unless it
// exists. Its root gets the key, which is stored wrapped and never shown again. kept reports whether the key is that
// root's, from now on or from before: a caller that has put the key in safety first can call again after a crash, and
// loses it in no case. It is an error when the first account is another one.
func (s *Service) EnsureFirstAccount(ctx context.Context, id, name string, root sigv4.Credentials) (kept bool, err error) {
	key, err := s.accountKey(id, root)
	if err != nil {
		return false, fmt.Errorf("make account %s: %w", id, err)
	}
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		first, later := s.installation.Read(tx, installationKey)
		if !later {
			kept = true
			_, err := s.addAccount(tx, id, name, key)
			return err
		}
		if first.ManagementAccount != id {
			return fmt.Errorf("the first account of this store is %s", first.ManagementAccount)
		}
		a, _ := s.accounts.Read(tx, id)
		kept = a != nil && slices.Contains(a.AccessKeys, key.ID)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("make account %s: %w", id, err)
	}
	return kept, nil
}

// EnsureAccount makes the account, with a root access key, unless it exists. The key is returned only when it was
// made; it is stored wrapped and never shown again. The first account that is made is the management account, which may
// make others.
func (s *Service) EnsureAccount(ctx context.Context, id, name string) (root *sigv4.Credentials, err error) {
	_, root, err = s.makeAccount(ctx, id, name)
	if errors.Is(err, errAccountExists) {
		return nil, nil
	}
	return root, err
}

func (s *Service) makeAccount(ctx context.Context, id, name string) (*accountRow, *sigv4.Credentials, error) {
	if err := checkAccountID(id); err != nil {
		return nil, nil, fmt.Errorf("make account %q: %w", id, err)
	}
	root := NewRootKey(id)
	key, err := s.accountKey(id, root)
	if err != nil {
		return nil, nil, fmt.Errorf("make account %s: %w", id, err)
	}
	var made *accountRow
	err = s.db.Update(ctx, func(tx *kv.Tx) (err error) {
		made, err = s.addAccount(tx, id, name, key)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make account %s: %w", id, err)
	}
	return made, &root, nil
}

// accountKey wraps the root key of a new account.
func (s *Service) accountKey(id string, root sigv4.Credentials) (*accessKeyRow, error) {
	if err := checkAccountID(id); err != nil {
		return nil, err
	}
	return s.wrapAccessKey(id, "", root)
}

func checkAccountID(id string) error {
	if !arn.ValidAccountID(id) {
		return errors.New("an account ID is 12 decimal digits")
	}
	return nil
}

// addAccount makes an account as part of tx. The first one becomes the management account.
func (s *Service) addAccount(tx *kv.Tx, id, name string, key *accessKeyRow) (*accountRow, error) {
	if _, exists := s.accounts.Read(tx, id); exists {
		return nil, errAccountExists
	}
	if _, later := s.installation.Read(tx, installationKey); !later {
		s.installation.Write(tx, installationKey, &installation{ManagementAccount: id})
	}
	made := &accountRow{account: account{
		ID: id, Name: name, Created: s.time(), AccessKeys: []string{key.ID}, Usage: map[string]int{},
	}}
	s.accounts.Write(tx, id, made)
	return made, s.putAccessKey(tx, key)
}

type accountShape struct {
	ID        string
	Name      string
	Arn       string
	CreatedAt time.Time
}

func (s *Service) accountOf(a *accountRow) accountShape {
	return accountShape{a.ID, a.Name, s.rootARN(a.ID), a.Created}
}

// accessManagement is the access of operations on the installation's accounts: they belong to the management account,
// and no policy of another account can open them.
func (s *Service) accessManagement(action string, c *awsapi.Caller) ([]awsapi.Access, error) {
	i, ok := s.installation.Get(installationKey)
	if !ok || c.Account != i.ManagementAccount {
		return nil, awsapi.Errorf("AccessDeniedException",
			"User: %s is not authorized to perform: %s because only the management account may", c.ARN, action)
	}
	return []awsapi.Access{{Action: action, Resource: "*"}}, nil
}

type createAccountIn struct{ AccountID, Name string }

type createAccountOut struct {
	Account         accountShape
	AccessKeyID     string
	SecretAccessKey string
}

func (s *Service) createAccount(ctx context.Context, _ *awsapi.Caller, in *createAccountIn) (*createAccountOut, error) {
	id := in.AccountID
	if id == "" {
		n, err := rand.Int(rand.Reader, big.NewInt(1_000_000_000_000))
		if err != nil {
			return nil, fmt.Errorf("choose an account ID: %w", err)
		}
		id = fmt.Sprintf("%012d", n)
	}
	made, root, err := s.makeAccount(ctx, id, in.Name)
	if errors.Is(err, errAccountExists) {
		return nil, awsapi.Errorf("ResourceInUseException", "Account already exists: %s", id)
	}
	if err != nil {
		return nil, err
	}
	return &createAccountOut{s.accountOf(made), root.AccessKeyID, string(root.SecretAccessKey)}, nil
}

type listAccountsIn struct {
	MaxResults int32
	NextToken  string
}

type listAccountsOut struct {
	Accounts  []accountShape
	NextToken string
}

func (s *Service) listAccounts(_ context.Context, c *awsapi.Caller, in *listAccountsIn) (*listAccountsOut, error) {
	from := func(after string) iter.Seq2[string, *accountRow] { return s.accounts.Scan("", after) }
	accounts, rest, err := paginate(s, c, page{in.NextToken, in.MaxResults}, from, func(a *accountRow) (accountShape, bool) {
		return s.accountOf(a), true
	})
	if hasCode(err, "ValidationError") {
		return nil, awsapi.Errorf("InvalidParameterException", "The nextToken is not one that this operation returned.")
	}
	return &listAccountsOut{accounts, rest.Marker}, err
}

type accountAliasIn struct{ AccountAlias string }

func (in *accountAliasIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

func (s *Service) changeAccount(ctx context.Context, id string, do func(*kv.Tx, *accountRow) error) error {
	return change(ctx, s.db, s.accounts, id, noSuchAccount(id), do)
}

func noSuchAccount(id string) error {
	return awsapi.Errorf("NoSuchEntity", "The account %s cannot be found.", id)
}

// createAccountAlias gives the account an alias in place of the one it has, if any: an account has at most one.
func (s *Service) createAccountAlias(ctx context.Context, c *awsapi.Caller, in *accountAliasIn) error {
	if arn.ValidAccountID(in.AccountAlias) {
		return invalidInput("The account alias %s must not be 12 digits, as account IDs are.", in.AccountAlias)
	}
	return s.changeAccount(ctx, c.Account, func(tx *kv.Tx, a *accountRow) error {
		if owner, taken := s.aliases.Read(tx, in.AccountAlias); taken {
			if owner.Account == c.Account {
				return nil
			}
			return awsapi.Errorf("EntityAlreadyExists", "The account alias %s already exists.", in.AccountAlias)
		}
		if a.Alias != "" {
			s.aliases.Remove(tx, a.Alias)
		}
		s.aliases.Write(tx, in.AccountAlias, &alias{c.Account})
		a.Alias = in.AccountAlias
		return nil
	})
}

func (s *Service) deleteAccountAlias(ctx context.Context, c *awsapi.Caller, in *accountAliasIn) error {
	return s.changeAccount(ctx, c.Account, func(tx *kv.Tx, a *accountRow) error {
		if a.Alias != in.AccountAlias {
			return awsapi.Errorf("NoSuchEntity", "The account alias %s cannot be found.", in.AccountAlias)
		}
		s.aliases.Remove(tx, a.Alias)
		a.Alias = ""
		return nil
	})
}

type listAliasesIn struct{ page }

func (in *listAliasesIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type listAliasesOut struct {
	AccountAliases []string
	truncated
}

func (s *Service) listAccountAliases(_ context.Context, c *awsapi.Caller, in *listAliasesIn) (*listAliasesOut, error) {
	var aliases []string
	if a, ok := s.accounts.Get(c.Account); ok && a.Alias != "" {
		aliases = append(aliases, a.Alias)
	}
	shown, rest, err := paginate(s, c, in.page, sorted(aliases, func(a string) string { return a }), all)
	return &listAliasesOut{shown, rest}, err
}

// accountOnlyIn is the input of the operations that are about the account as a whole.
type accountOnlyIn struct{}

func (in *accountOnlyIn) target(*Service, *awsapi.Caller) (target, error) {
	return target{arn: "*"}, nil
}

type accountSummaryOut struct{ SummaryMap map[string]int32 }

// getAccountSummary has zeros for what Lanyard does not have: passwords, certificates and MFA devices.
func (s *Service) getAccountSummary(_ context.Context, c *awsapi.Caller, _ *accountOnlyIn) (*accountSummaryOut, error) {
	a, ok := s.accounts.Get(c.Account)
	if !ok {
		return nil, noSuchAccount(c.Account)
	}
	versions := 0
	for _, m := range s.managed.Scan(c.Account+"/", "") {
		versions += len(m.Versions)
	}
	summary := map[string]int32{
		"AccessKeysPerUserQuota":            maxAccessKeys,
		"AccountAccessKeysPresent":          int32(min(len(a.AccessKeys), 1)),
		"AccountMFAEnabled":                 0,
		"AccountPasswordPresent":            0,
		"AccountSigningCertificatesPresent": 0,
		"AssumeRolePolicySizeQuota":         maxTrustSize,
		"AttachedPoliciesPerGroupQuota":     maxAttached,
		"AttachedPoliciesPerRoleQuota":      maxAttached,
		"AttachedPoliciesPerUserQuota":      maxAttached,
		"GroupPolicySizeQuota":              maxGroupInlineSize,
		"GroupsPerUserQuota":                maxGroupsPerUser,
		"MFADevices":                        0,
		"MFADevicesInUse":                   0,
		"PolicySizeQuota":                   maxManagedSize,
		"PolicyVersionsInUse":               int32(versions),
		"PolicyVersionsInUseQuota":          maxVersionsInUse,
		"Providers":                         int32(a.Usage[providersQuota] + a.Usage[samlQuota]),
		"RolePolicySizeQuota":               maxRoleInlineSize,
		"ServerCertificates":                0,
		"ServerCertificatesQuota":           0,
		"SigningCertificatesPerUserQuota":   0,
		"UserPolicySizeQuota":               maxUserInlineSize,
		"VersionsPerPolicyQuota":            maxVersions,
	}
	for name, quota := range map[string]string{
		"Users": usersQuota, "Groups": groupsQuota, "Roles": rolesQuota, "Policies": policiesQuota, "InstanceProfiles": profilesQuota,
	} {
		summary[name], summary[name+"Quota"] = int32(a.Usage[quota]), int32(quotaLimit(quota))
	}
	return &accountSummaryOut{summary}, nil
}
