package sts

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/policy"
)

// full is a session that has everything.
func full() *session {
	issued := time.Unix(1_700_000_000, 0).UTC()
	return &session{
		identity: awsapi.Identity{
			Kind:        policy.RoleSession,
			Account:     "111122223333",
			ARN:         "arn:aws:sts::111122223333:assumed-role/reader/pod",
			UserID:      "AROAEXAMPLE:pod",
			EntityID:    "AROAEXAMPLE",
			EntityARN:   "arn:aws:iam::111122223333:role/team/reader",
			AccessKeyID: "ASIAEXAMPLE",
			Session: &awsapi.Session{
				Name:              "pod",
				Tags:              []awsapi.Tag{{Key: "team", Value: "blue"}, {Key: "empty", Value: ""}, {Key: "Ort", Value: "Köln"}},
				TransitiveKeys:    []string{"team", "Ort"},
				SourceIdentity:    "alice",
				Policies:          []string{`{"Statement":[]}`},
				PolicyARNs:        []string{"arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::111122223333:policy/p"},
				Issued:            issued,
				Expires:           issued.Add(time.Hour),
				FederatedProvider: "arn:aws:iam::111122223333:oidc-provider/oidc.example/id/A",
				ContextKeys:       []awsapi.KeyValue{{Key: "oidc.example/id/A:sub", Value: "system:serviceaccount:ns:sa"}},
			},
		},
		secret: "secret",
	}
}

// bare is a session that has as little as a session can have.
func bare() *session {
	t := time.Unix(0, 0).UTC()
	return &session{identity: awsapi.Identity{Kind: policy.User, Session: &awsapi.Session{Issued: t, Expires: t}}}
}

var allowUnexported = cmp.AllowUnexported(session{})

func TestSessionRoundTrip(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]*session{"full": full(), "bare": bare()} {
		got, err := decodeSession(want.encode())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, allowUnexported); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestMalformedSessionsAreRefused(t *testing.T) {
	t.Parallel()
	whole := full().encode()
	for n := range whole {
		if _, err := decodeSession(whole[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(whole))
		}
	}
	if _, err := decodeSession(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a trailing byte was accepted")
	}
	for name, edit := range map[string]func(b []byte) []byte{
		"another version":         func(b []byte) []byte { b[0]++; return b },
		"a service as principal":  func(b []byte) []byte { b[1] = byte(policy.Service); return b },
		"an anonymous principal":  func(b []byte) []byte { b[1] = byte(policy.Anonymous); return b },
		"a number in a long form": func(b []byte) []byte { return append([]byte{b[0], b[1], 0x80, 0x00}, b[3:]...) },
		"a time beyond all years": func(b []byte) []byte {
			return append([]byte{b[0], b[1], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, b[3:]...)
		},
		"a number over 64 bits": func(b []byte) []byte {
			return append(append([]byte{b[0], b[1]}, bytes.Repeat([]byte{0xff}, 10)...), b[3:]...)
		},
		"more tags than there are bytes": func(b []byte) []byte { b[len(b)-4] = 0x7f; return b },
		"more context keys than bytes":   func(b []byte) []byte { b[len(b)-1] = 0x7f; return b },
	} {
		if _, err := decodeSession(edit(bare().encode())); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// FuzzDecodeSession holds decodeSession to accept only what encode writes.
func FuzzDecodeSession(f *testing.F) {
	f.Add(full().encode())
	f.Add(bare().encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSession(data)
		if err != nil {
			return
		}
		// A session never has two tags of one key; which are transitive is known by the key.
		var keys []string
		for _, tag := range s.identity.Session.Tags {
			if containsFold(keys, tag.Key) {
				return
			}
			keys = append(keys, tag.Key)
		}
		again := s.encode()
		if !bytes.Equal(again, data) {
			t.Fatalf("a session has two encodings: %x and %x", data, again)
		}
	})
}

func TestPackedSize(t *testing.T) {
	t.Parallel()
	tag := func(key, value int) awsapi.Tag {
		return awsapi.Tag{Key: strings.Repeat("k", key), Value: strings.Repeat("v", value)}
	}
	// What AWS reported for the tags of EKS Pod Identity: 114 characters of keys and 126 of values.
	observed := []awsapi.Tag{tag(15, 61), tag(16, 18), tag(20, 3), tag(26, 4), tag(19, 4), tag(18, 36)}
	for _, c := range []struct {
		name     string
		document string
		arns     []string
		tags     []awsapi.Tag
		want     int32
	}{
		{"nothing", "", nil, nil, 0},
		{"the six tags of EKS Pod Identity", "", nil, observed, 56},
		{"the least there can be is not nothing", "", nil, []awsapi.Tag{tag(1, 0)}, 1},
		{"all that is allotted", "", nil, []awsapi.Tag{tag(128, 256), tag(62, 0)}, 100},
		{"one byte more", "", nil, []awsapi.Tag{tag(128, 256), tag(63, 0)}, 101},
		{"a policy packs better than tags", strings.Repeat("x", 1800), nil, nil, 100},
		{"white space packs to nothing", strings.Repeat("x", 1800) + strings.Repeat(" \n\t\r", 50), nil, nil, 100},
		{"the longest policy does not fit", strings.Repeat("x", 2048), nil, nil, 114},
		{"policy, ARNs and tags share", strings.Repeat("x", 400), []string{strings.Repeat("a", 40)}, []awsapi.Tag{tag(10, 28)}, 34},
	} {
		if got := packedSize(c.document, c.arns, c.tags); got != c.want {
			t.Errorf("%s: %d %%, want %d %%", c.name, got, c.want)
		}
	}
}
