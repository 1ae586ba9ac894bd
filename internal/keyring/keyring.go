// Package keyring seals what must stay secret: session tokens under data keys that rotate, and secrets at rest under
// the master key itself. Data keys are kept in the store, wrapped by the master key, so that every replica opens what
// any other sealed.
//
// All encryption is XChaCha20-Poly1305, whose 24-byte nonces may be drawn at random for as long as a key lives.
package keyring

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lanyard-id/lanyard/internal/kv"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrOpen is returned for everything that cannot be opened: an unknown key, another purpose, or altered bytes.
var ErrOpen = errors.New("keyring: cannot open")

// MasterKeySize is the length of a master key in bytes.
const MasterKeySize = 32

// MasterKey wraps all else. It prints redacted.
type MasterKey [MasterKeySize]byte

const redacted = "[master key]"

// Format implements fmt.Formatter for every verb.
func (MasterKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements slog.LogValuer.
func (MasterKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON and its like.
func (MasterKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// longestSession is how long a session may live: GetSessionToken's DurationSeconds goes up to 129,600 (AWS STS API Reference).
const longestSession = 36 * time.Hour

// Config is what a Keyring needs.
type Config struct {
	DB        *kv.DB    // required, not yet started
	MasterKey MasterKey // required; all zero is refused
	// RotateEvery is the age at which the current data key is replaced; 24 h when zero.
	RotateEvery time.Duration
	// RetainFor is how long a replaced data key still opens; at least the longest session (36 h), which is the default.
	RetainFor time.Duration
	Log       *slog.Logger // required
}

// Keyring seals and opens. It is safe for concurrent use.
type Keyring struct {
	db          *kv.DB
	keys        *kv.Table[dataKey] // by keyName, so that the order of the rows is that of the IDs
	master      cipher.AEAD
	rotateEvery time.Duration
	retainFor   time.Duration
	publishFor  time.Duration
	log         *slog.Logger

	opened sync.Map // unwrapped keys: keyID → openedKey
}

// dataKey is a row of the keyring table.
type dataKey struct {
	Created time.Time
	Wrapped []byte // the key, wrapped for wrapPurpose(id)
}

// keyID numbers data keys from 1 in the order of their making.
type keyID uint32

// openedKey is the cipher of a row. It is good only for that very row: rows are shared and never modified, so an ID
// that was deleted and given out again has another.
type openedKey struct {
	row  *dataKey
	aead cipher.AEAD
}

// New makes the keyring and its table, "keyring". Call Start once the DB has started.
func New(c Config) (*Keyring, error) {
	if c.MasterKey == (MasterKey{}) {
		return nil, errors.New("keyring: the master key is all zero")
	}
	k := &Keyring{db: c.DB, rotateEvery: c.RotateEvery, retainFor: c.RetainFor, log: c.Log}
	if k.rotateEvery == 0 {
		k.rotateEvery = 24 * time.Hour
	}
	if k.retainFor == 0 {
		k.retainFor = longestSession
	}
	if k.rotateEvery < time.Minute {
		return nil, fmt.Errorf("keyring: rotation every %s is too often; at least %s", k.rotateEvery, time.Minute)
	}
	if k.retainFor < longestSession {
		return nil, fmt.Errorf("keyring: data keys retained for %s would end sessions early; at least %s", k.retainFor, longestSession)
	}
	k.publishFor = min(time.Minute, k.rotateEvery/4)
	var err error
	if k.master, err = chacha20poly1305.NewX(c.MasterKey[:]); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	k.keys = kv.NewTable[dataKey](c.DB, "keyring")
	return k, nil
}

// Start makes the first data key if there is none, and rotates until ctx ends. A master key that does not fit the
// stored data keys is refused with an error that says what to do.
func (k *Keyring) Start(ctx context.Context) error {
	if err := k.db.Sync(ctx); err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	// First, so that a wrong master key makes no data key; and again, because another replica may have made the one
	// that is there now.
	if err := k.checkMasterKey(); err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	if err := k.rotate(ctx); err != nil {
		return fmt.Errorf("keyring: make a data key: %w", err)
	}
	if err := k.checkMasterKey(); err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	go k.rotateUntil(ctx)
	return nil
}

// checkMasterKey unwraps all data keys.
func (k *Keyring) checkMasterKey() error {
	rows, err := k.rows()
	if err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := k.cipherOf(row.id, row.dataKey); err != nil {
			return fmt.Errorf("the master key does not open data key %s, made at %s: start with the master key that the store "+
				"was first used with, or, if that is lost, with an empty store", row.id.name(), row.Created.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func (k *Keyring) rotateUntil(ctx context.Context) {
	tick := time.NewTicker(k.publishFor)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := k.rotate(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("data keys cannot be rotated now", "err", err)
		}
	}
}

// rotate makes a new data key if the newest is old enough, and removes those that nothing needs any more.
func (k *Keyring) rotate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var made keyID
	var removed []keyID
	err := k.db.Update(ctx, func(tx *kv.Tx) error {
		made, removed = 0, nil
		now := time.Now()
		rows, err := k.rows()
		if err != nil {
			return err
		}
		for _, id := range expired(rows, now, k.publishFor+k.retainFor) {
			k.keys.Remove(tx, id.name())
			removed = append(removed, id)
		}
		newest := keyID(0)
		if len(rows) > 0 {
			last := rows[len(rows)-1]
			if now.Sub(last.Created) < k.rotateEvery {
				return nil
			}
			newest = last.id
		}
		// The next ID is the same for all replicas: of two that rotate at once, one commits; the other then finds the
		// key made.
		next := newest + 1
		if next == 0 {
			return errors.New("data key IDs are used up")
		}
		if _, exists := k.keys.Read(tx, next.name()); exists {
			return nil
		}
		var key [chacha20poly1305.KeySize]byte
		rand.Read(key[:])
		wrapped, err := k.Wrap(wrapPurpose(next), key[:])
		if err != nil {
			return err
		}
		k.keys.Write(tx, next.name(), &dataKey{Created: now.UTC().Round(0), Wrapped: wrapped})
		made = next
		return nil
	})
	if err != nil {
		return err
	}
	if made != 0 {
		k.log.Info("data key made", "id", made.name())
	}
	for _, id := range removed {
		k.opened.Delete(id)
		k.log.Info("data key removed", "id", id.name())
	}
	return nil
}

// stored is a row with its ID.
type stored struct {
	id keyID
	*dataKey
}

// rows returns all data keys, oldest first.
func (k *Keyring) rows() ([]stored, error) {
	rows := make([]stored, 0, 4)
	for name, row := range k.keys.Scan("", "") {
		id, err := parseKeyName(name)
		if err != nil {
			return nil, err
		}
		rows = append(rows, stored{id, row})
	}
	return rows, nil
}

// current returns the key to seal with: the newest that every replica has had time to learn of, since published ago
// or earlier. Without such, the oldest: it is the store's first.
func current(rows []stored, now time.Time, published time.Duration) stored {
	for i := len(rows) - 1; i > 0; i-- {
		if now.Sub(rows[i].Created) >= published {
			return rows[i]
		}
	}
	return rows[0]
}

// expired returns the keys whose successor was made that long ago, or earlier.
func expired(rows []stored, now time.Time, after time.Duration) []keyID {
	var ids []keyID
	for i := range max(0, len(rows)-1) {
		if now.Sub(rows[i+1].Created) < after {
			break
		}
		ids = append(ids, rows[i].id)
	}
	return ids
}

// A sealed record is: the format's version, the data key's ID, the nonce, the ciphertext with its tag. Version and ID
// are authenticated together with the purpose. A wrapped record is the same without the ID.
const (
	sealedVersion  = 1
	wrappedVersion = 2
	idSize         = 4
	sealedHeader   = 1 + idSize
	wrappedHeader  = 1
	nonceSize      = chacha20poly1305.NonceSizeX
)

// Seal encrypts under the current data key. purpose separates uses: what was sealed for one never opens for another.
// The result is 45 bytes longer than the plaintext.
func (k *Keyring) Seal(purpose string, plaintext []byte) ([]byte, error) {
	rows, err := k.rows()
	if err != nil {
		return nil, fmt.Errorf("keyring: seal: %w", err)
	}
	if len(rows) == 0 {
		return nil, errors.New("keyring: seal: there is no data key yet")
	}
	key := current(rows, time.Now(), k.publishFor)
	aead, err := k.cipherOf(key.id, key.dataKey)
	if err != nil {
		return nil, fmt.Errorf("keyring: seal: unwrap data key %s: %w", key.id.name(), err)
	}
	header := [sealedHeader]byte{sealedVersion}
	binary.BigEndian.PutUint32(header[1:], uint32(key.id))
	return seal(aead, header[:], purpose, plaintext), nil
}

// Open decrypts what Seal returned, on any replica.
func (k *Keyring) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < sealedHeader || sealed[0] != sealedVersion {
		return nil, ErrOpen
	}
	id := keyID(binary.BigEndian.Uint32(sealed[1:]))
	row, ok := k.keys.Get(id.name())
	if !ok {
		return nil, ErrOpen
	}
	aead, err := k.cipherOf(id, row)
	if err != nil {
		return nil, err
	}
	return open(aead, sealed, sealedHeader, purpose)
}

// Wrap encrypts a secret for the store, under the master key, bound to the purpose (which should name the record).
func (k *Keyring) Wrap(purpose string, plaintext []byte) ([]byte, error) {
	return seal(k.master, []byte{wrappedVersion}, purpose, plaintext), nil
}

// Unwrap decrypts what Wrap returned.
func (k *Keyring) Unwrap(purpose string, wrapped []byte) ([]byte, error) {
	if len(wrapped) < wrappedHeader || wrapped[0] != wrappedVersion {
		return nil, ErrOpen
	}
	return open(k.master, wrapped, wrappedHeader, purpose)
}

// cipherOf returns a data key's cipher, unwrapping the key only once.
func (k *Keyring) cipherOf(id keyID, row *dataKey) (cipher.AEAD, error) {
	if v, ok := k.opened.Load(id); ok && v.(openedKey).row == row {
		return v.(openedKey).aead, nil
	}
	key, err := k.Unwrap(wrapPurpose(id), row.Wrapped)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("data key %s: %w", id.name(), err)
	}
	k.opened.Store(id, openedKey{row, aead})
	return aead, nil
}

// seal returns header, nonce and ciphertext.
func seal(aead cipher.AEAD, header []byte, purpose string, plaintext []byte) []byte {
	start := len(header) + nonceSize
	out := make([]byte, start, start+len(plaintext)+aead.Overhead())
	copy(out, header)
	rand.Read(out[len(header):])
	return aead.Seal(out, out[len(header):], plaintext, additionalData(header, purpose))
}

func open(aead cipher.AEAD, sealed []byte, header int, purpose string) ([]byte, error) {
	if len(sealed) < header+nonceSize+aead.Overhead() {
		return nil, ErrOpen
	}
	nonce, ciphertext := sealed[header:header+nonceSize], sealed[header+nonceSize:]
	plaintext, err := aead.Open(nil, nonce, ciphertext, additionalData(sealed[:header], purpose))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// additionalData binds the header and the purpose. The header's length follows from its first byte, so no two pairs
// give the same bytes.
func additionalData(header []byte, purpose string) []byte {
	return append(append(make([]byte, 0, 64), header...), purpose...)
}

// wrapPurpose binds a wrapped data key to its ID.
func wrapPurpose(id keyID) string { return "keyring/data-key/" + id.name() }

// name is the ID as a row's key: eight hex digits.
func (id keyID) name() string {
	return hex.EncodeToString(binary.BigEndian.AppendUint32(nil, uint32(id)))
}

func parseKeyName(name string) (keyID, error) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != idSize {
		return 0, fmt.Errorf("the keyring table has a row %q, which is no data key's ID: remove it", name)
	}
	return keyID(binary.BigEndian.Uint32(b)), nil
}
