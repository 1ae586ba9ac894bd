package iam

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sigv4"
)

// The states of an access key on the wire.
const (
	statusActive   = "Active"
	statusInactive = "Inactive"
)

// newAccessKey makes a key of a user, or of root when userID is empty, with its secret wrapped.
func (s *Service) newAccessKey(account, userID string) (*accessKeyRow, sigv4.Secret, error) {
	secret := newSecret()
	row, err := s.wrapAccessKey(account, userID, sigv4.Credentials{AccessKeyID: arn.NewID(arn.AccessKeyID, account), SecretAccessKey: secret})
	return row, secret, err
}

func newSecret() sigv4.Secret {
	var random [30]byte
	rand.Read(random[:])
	return sigv4.Secret(base64.StdEncoding.EncodeToString(random[:])) // 40 characters, as AWS's are
}

func (s *Service) wrapAccessKey(account, userID string, c sigv4.Credentials) (*accessKeyRow, error) {
	wrapped, err := s.keyring.Wrap(secretPurpose(c.AccessKeyID), []byte(c.SecretAccessKey))
	if err != nil {
		return nil, fmt.Errorf("wrap the secret of access key %s: %w", c.AccessKeyID, err)
	}
	return &accessKeyRow{accessKey: accessKey{
		ID: c.AccessKeyID, Account: account, UserID: userID, Wrapped: wrapped, Active: true, Created: s.time(),
	}}, nil
}

func secretPurpose(accessKeyID string) string { return "iam/access-key/" + accessKeyID }

// secretOf unwraps a key's secret; the row remembers it.
func (s *Service) secretOf(r *accessKeyRow) (sigv4.Secret, error) {
	u := r.secret.get(func() *unwrapped {
		secret, err := s.keyring.Unwrap(secretPurpose(r.ID), r.Wrapped)
		return &unwrapped{sigv4.Secret(secret), err}
	})
	return u.secret, u.err
}

// putAccessKey stores a new key as part of tx. An ID has few random bits besides the account's, so that one may come
// up twice; it must never replace another key.
func (s *Service) putAccessKey(tx *kv.Tx, k *accessKeyRow) error {
	if _, taken := s.keys.Read(tx, k.ID); taken {
		return fmt.Errorf("access key ID %s exists already", k.ID)
	}
	s.keys.Write(tx, k.ID, k)
	return nil
}

// changeKeys changes the list of the access keys of a user, or of root when the name is empty.
func (s *Service) changeKeys(ctx context.Context, account, userName string, do func(tx *kv.Tx, userID string, keys *[]string) error) error {
	if userName == "" {
		return s.changeAccount(ctx, account, func(tx *kv.Tx, a *accountRow) error { return do(tx, "", &a.AccessKeys) })
	}
	return s.changeUser(ctx, account, userName, func(tx *kv.Tx, r *userRow) error { return do(tx, r.ID, &r.AccessKeys) })
}

// keysOf returns the IDs of the access keys of a user, or of root when the name is empty.
func (s *Service) keysOf(account, userName string) ([]string, error) {
	if userName == "" {
		a, ok := s.accounts.Get(account)
		if !ok {
			return nil, noSuchUser("root")
		}
		return a.AccessKeys, nil
	}
	r, err := s.user(account, userName)
	if err != nil {
		return nil, err
	}
	return r.AccessKeys, nil
}

func noSuchKey(id string) error {
	return awsapi.Errorf("NoSuchEntity", "The Access Key with id %s cannot be found.", id)
}

type accessKeyShape struct {
	UserName        string
	AccessKeyID     string
	Status          string
	SecretAccessKey string
	CreateDate      time.Time
}

type createAccessKeyOut struct{ AccessKey accessKeyShape }

func (s *Service) createAccessKey(ctx context.Context, c *awsapi.Caller, in *selfIn) (*createAccessKeyOut, error) {
	name, err := s.owner(c, in.UserName)
	if err != nil {
		return nil, err
	}
	var made *accessKeyRow
	var secret sigv4.Secret
	err = s.changeKeys(ctx, c.Account, name, func(tx *kv.Tx, userID string, keys *[]string) (err error) {
		if len(*keys) >= maxAccessKeys {
			return overQuota("AccessKeysPerUser", maxAccessKeys)
		}
		if made, secret, err = s.newAccessKey(c.Account, userID); err != nil {
			return err
		}
		*keys = append(*keys, made.ID)
		return s.putAccessKey(tx, made)
	})
	if err != nil {
		return nil, err
	}
	return &createAccessKeyOut{accessKeyShape{name, made.ID, statusActive, string(secret), made.Created}}, nil
}

// accessKeyIn names an access key and, unless it is the caller, its user.
type accessKeyIn struct{ UserName, AccessKeyID string }

func (in *accessKeyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.ownerTarget(c, in.UserName)
}

func (s *Service) deleteAccessKey(ctx context.Context, c *awsapi.Caller, in *accessKeyIn) error {
	name, err := s.owner(c, in.UserName)
	if err != nil {
		return err
	}
	return s.changeKeys(ctx, c.Account, name, func(tx *kv.Tx, _ string, keys *[]string) error {
		i := slices.Index(*keys, in.AccessKeyID)
		if i < 0 {
			return noSuchKey(in.AccessKeyID)
		}
		*keys = slices.Delete(*keys, i, i+1)
		s.keys.Remove(tx, in.AccessKeyID)
		s.usage.Remove(tx, in.AccessKeyID)
		return nil
	})
}

type updateAccessKeyIn struct{ UserName, AccessKeyID, Status string }

func (in *updateAccessKeyIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.ownerTarget(c, in.UserName)
}

func (s *Service) updateAccessKey(ctx context.Context, c *awsapi.Caller, in *updateAccessKeyIn) error {
	if in.Status != statusActive && in.Status != statusInactive {
		return awsapi.Errorf("InvalidInput", "The status of an access key must be %s or %s.", statusActive, statusInactive)
	}
	name, err := s.owner(c, in.UserName)
	if err != nil {
		return err
	}
	owned, err := s.keysOf(c.Account, name)
	if err != nil {
		return err
	}
	if !slices.Contains(owned, in.AccessKeyID) {
		return noSuchKey(in.AccessKeyID)
	}
	return change(ctx, s.db, s.keys, in.AccessKeyID, noSuchKey(in.AccessKeyID), func(_ *kv.Tx, k *accessKeyRow) error {
		k.Active = in.Status == statusActive
		return nil
	})
}

type listAccessKeysIn struct {
	UserName string
	page
}

func (in *listAccessKeysIn) target(s *Service, c *awsapi.Caller) (target, error) {
	return s.ownerTarget(c, in.UserName)
}

type keyMetadataShape struct {
	UserName    string
	AccessKeyID string
	Status      string
	CreateDate  time.Time
}

type listAccessKeysOut struct {
	AccessKeyMetadata []keyMetadataShape
	truncated
}

func (s *Service) listAccessKeys(_ context.Context, c *awsapi.Caller, in *listAccessKeysIn) (*listAccessKeysOut, error) {
	name, err := s.owner(c, in.UserName)
	if err != nil {
		return nil, err
	}
	ids, err := s.keysOf(c.Account, name)
	if err != nil {
		return nil, err
	}
	from := sorted(ids, func(id string) string { return id })
	keys, rest, err := paginate(s, c, in.page, from, func(id string) (keyMetadataShape, bool) {
		k, ok := s.keys.Get(id)
		if !ok {
			return keyMetadataShape{}, false
		}
		status := statusInactive
		if k.Active {
			status = statusActive
		}
		return keyMetadataShape{name, id, status, k.Created}, true
	})
	return &listAccessKeysOut{keys, rest}, err
}

type keyLastUsedIn struct{ AccessKeyID string }

// target is the key's user. Keys of other accounts are as unknown as those that do not exist.
func (in *keyLastUsedIn) target(s *Service, c *awsapi.Caller) (target, error) {
	if k, ok := s.keys.Get(in.AccessKeyID); ok && k.Account == c.Account {
		if _, r, ok := s.usersByID.First(k.UserID); ok {
			return s.userTarget(c, r.Name)
		}
		return target{arn: s.rootARN(c.Account)}, nil
	}
	return target{arn: s.iamARN(c.Account, "user/*")}, nil
}

type keyLastUsedShape struct {
	LastUsedDate time.Time
	ServiceName  string
	Region       string
}

type keyLastUsedOut struct {
	UserName          string
	AccessKeyLastUsed keyLastUsedShape
}

func (s *Service) getAccessKeyLastUsed(_ context.Context, c *awsapi.Caller, in *keyLastUsedIn) (*keyLastUsedOut, error) {
	k, ok := s.keys.Get(in.AccessKeyID)
	if !ok || k.Account != c.Account {
		return nil, noSuchKey(in.AccessKeyID)
	}
	out := &keyLastUsedOut{AccessKeyLastUsed: keyLastUsedShape{ServiceName: "N/A", Region: "N/A"}}
	if _, r, ok := s.usersByID.First(k.UserID); ok {
		out.UserName = r.Name
	}
	if u, service, ok := s.lastUse(k.ID); ok {
		out.AccessKeyLastUsed = keyLastUsedShape{u.At, service, u.Region}
	}
	return out, nil
}
