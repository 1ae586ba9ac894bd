package arn

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
)

// IDKind is the four-letter prefix of a unique ID (IAM User Guide, "IAM identifiers").
type IDKind string

// The kinds of unique ID that Lanyard makes.
const (
	AccessKeyID          IDKind = "AKIA" // long-term access key; 20 characters
	TemporaryAccessKeyID IDKind = "ASIA" // access key of a session; 20 characters
	RoleID               IDKind = "AROA" // 21 characters, as all that follow
	UserID               IDKind = "AIDA"
	GroupID              IDKind = "AGPA"
	InstanceProfileID    IDKind = "AIPA"
	ManagedPolicyID      IDKind = "ANPA"
)

// After its prefix a unique ID is base32 text. The first six bytes that it encodes hold, from the highest bit: one bit
// that marks the form (IDs of the older form, which tell no account, have it clear), 40 bits of account number, and
// seven bits of the random rest.
const (
	idBase32   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	idPrefix   = 4
	idText     = 16 // base32 characters that encode idBytes
	idBytes    = 10
	idMark     = 1 << 47
	idAccount  = 0x7fffffffff80
	idShift    = 7
	maxAccount = 999_999_999_999
)

// NewID makes a random unique ID of the kind that encodes the account, so that AccountOfID, GetAccessKeyInfo and
// other decoders find it again. It panics when account is not an account ID.
func NewID(kind IDKind, account string) string {
	if !ValidAccountID(account) {
		panic(fmt.Sprintf("arn.NewID: %q is not an account ID", account))
	}
	var number uint64
	for _, digit := range []byte(account) {
		number = number*10 + uint64(digit-'0')
	}
	var random [idBytes + 1]byte
	rand.Read(random[:])
	head := idMark | number<<idShift | uint64(random[5])&(1<<idShift-1)
	for i := range 6 {
		random[i] = byte(head >> (40 - 8*i))
	}
	text := base32.StdEncoding.EncodeToString(random[:idBytes])
	if kind == AccessKeyID || kind == TemporaryAccessKeyID {
		return string(kind) + text
	}
	return string(kind) + text + string(idBase32[random[idBytes]%32])
}

// AccountOfID reads the account out of a unique ID or an access key ID: 20 or 21 characters, whose first four are the
// kind's prefix. It reports false for texts that are no such ID and for IDs of the older form, which tell no account.
func AccountOfID(id string) (account string, ok bool) {
	if n := len(id); n != idPrefix+idText && n != idPrefix+idText+1 {
		return "", false
	}
	if strings.Trim(id, idBase32) != "" {
		return "", false
	}
	raw, err := base32.StdEncoding.DecodeString(id[idPrefix : idPrefix+idText])
	if err != nil {
		return "", false
	}
	var head uint64
	for _, b := range raw[:6] {
		head = head<<8 | uint64(b)
	}
	number := head & idAccount >> idShift
	if head&idMark == 0 || number > maxAccount {
		return "", false
	}
	return fmt.Sprintf("%012d", number), true
}
