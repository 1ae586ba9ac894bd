package arn_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/arn"
)

func TestParse(t *testing.T) {
	t.Parallel()
	a, err := arn.Parse("arn:aws-cn:s3:cn-north-1:111122223333:bucket/key:with:colons")
	if err != nil {
		t.Fatal(err)
	}
	got := []string{a.Partition(), a.Service(), a.Region(), a.Account(), a.Resource()}
	want := []string{"aws-cn", "s3", "cn-north-1", "111122223333", "bucket/key:with:colons"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("field %d is %q, want %q", i+1, got[i], want[i])
		}
	}
	if made := arn.New("aws-cn", "s3", "cn-north-1", "111122223333", "bucket/key:with:colons"); made != a {
		t.Errorf("New made %v, Parse %v", made, a)
	}
	if a.IsZero() {
		t.Error("a parsed ARN is zero")
	}
	if zero := (arn.ARN{}); !zero.IsZero() || zero.String() != "" {
		t.Errorf("the zero ARN prints %q", zero)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"the empty string":     "",
		"five fields":          "arn:aws:iam::111122223333",
		"another prefix":       "ARN:aws:iam::111122223333:role/r",
		"an empty partition":   "arn::iam::111122223333:role/r",
		"an empty service":     "arn:aws:::111122223333:role/r",
		"an empty resource":    "arn:aws:iam::111122223333:",
		"more than 2048 bytes": "arn:aws:s3:::" + strings.Repeat("x", 2036),
	} {
		if a, err := arn.Parse(text); err == nil {
			t.Errorf("%s was parsed as %v", name, a)
		} else if !a.IsZero() {
			t.Errorf("%s was refused with %v beside the error", name, a)
		}
	}
	if _, err := arn.Parse("arn:aws:s3:::" + strings.Repeat("x", 2035)); err != nil {
		t.Errorf("2048 bytes were refused: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("arn:aws:iam::111122223333:role/team/r")
	f.Add("arn:aws:s3:::bucket/a:b")
	f.Add("arn:::::")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := arn.Parse(text)
		if err != nil {
			return
		}
		if a.String() != text {
			t.Fatalf("%q prints as %q", text, a)
		}
		if again, err := arn.Parse(a.String()); err != nil || again != a {
			t.Fatalf("%q parses again as %v, %v", text, again, err)
		}
	})
}

func TestValidAccountID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"111122223333", "000000000000"} {
		if !arn.ValidAccountID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{"", "11112222333", "1111222233334", "11112222333x", "1111 2222333", "aws", "１１１１２２２２３３３３"} {
		if arn.ValidAccountID(id) {
			t.Errorf("%q is an account ID", id)
		}
	}
}

func TestPartitionOfRegion(t *testing.T) {
	t.Parallel()
	for region, want := range map[string]string{
		"us-east-1":        "aws",
		"eu-central-2":     "aws",
		"ap-southeast-12":  "aws",
		"mx-central-1":     "aws",
		"cn-northwest-1":   "aws-cn",
		"us-gov-west-1":    "aws-us-gov",
		"us-iso-east-1":    "aws-iso",
		"us-isob-east-1":   "aws-iso-b",
		"eu-isoe-west-1":   "aws-iso-e",
		"us-isof-south-1":  "aws-iso-f",
		"eusc-de-east-1":   "aws-eusc",
		"":                 "",
		"us-east":          "",
		"us-east-1a":       "",
		"us-east-":         "",
		"us--1":            "",
		"east-1":           "",
		"1":                "",
		"xx-east-1":        "",
		"us-gov-1":         "aws", // a region named gov, as the commercial partition's pattern has it
		"us-gov-iso-ea-1":  "",
		"eusc-fr-east-1":   "",
		"US-EAST-1":        "",
		"us-ea.st-1":       "",
		"us-east-1\n":      "",
		"cn-x-northwest-1": "",
	} {
		got, ok := arn.PartitionOfRegion(region)
		if got.Name != want || ok != (want != "") {
			t.Errorf("region %q is in %q, %v; want %q", region, got.Name, ok, want)
		}
	}
}

func TestGlobalRegionsAreInTheirPartition(t *testing.T) {
	t.Parallel()
	partitions := arn.Partitions()
	if len(partitions) != 8 {
		t.Errorf("%d partitions, want 8", len(partitions))
	}
	for _, p := range partitions {
		if got, ok := arn.PartitionOfRegion(p.GlobalRegion); !ok || got != p {
			t.Errorf("the global region of %s is in %q", p.Name, got.Name)
		}
		if got, ok := arn.PartitionNamed(p.Name); !ok || got != p {
			t.Errorf("the partition named %s is %q", p.Name, got.Name)
		}
		if p.DNSSuffix == "" || p.DualStackSuffix == "" {
			t.Errorf("%s lacks a DNS suffix", p.Name)
		}
	}
	if p, ok := arn.PartitionNamed("aws-moon"); ok {
		t.Errorf("aws-moon is %v", p)
	}
}

func TestAccountOfID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"ASIA37QFXJP5MQOWRZ6Q":    "823571991546", // both seen in AWS
		"AROA37QFXJP5LOO5CGXEC":   "823571991546",
		"AKIAIOSFODNN7EXAMPLE":    "", // of the older form
		"AROA77777777777777777":   "", // more than 12 digits
		"":                        "",
		"ASIA37QFXJP5MQOWRZ6":     "",
		"AROA37QFXJP5LOO5CGXECAA": "",
		"ASIA37QFXJP5MQOWRZ61":    "",
		"asia37qfxjp5mqowrz6q":    "",
	} {
		got, ok := arn.AccountOfID(id)
		if got != want || ok != (want != "") {
			t.Errorf("%q is of account %q, %v; want %q", id, got, ok, want)
		}
	}
}

func TestNewIDTellsItsAccount(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for kind, length := range map[arn.IDKind]int{
		arn.AccessKeyID: 20, arn.TemporaryAccessKeyID: 20, arn.RoleID: 21, arn.UserID: 21, arn.GroupID: 21,
		arn.InstanceProfileID: 21, arn.ManagedPolicyID: 21,
	} {
		for _, account := range []string{"111122223333", "000000000000", "000000000001", "999999999999"} {
			id := arn.NewID(kind, account)
			if len(id) != length || !strings.HasPrefix(id, string(kind)) {
				t.Errorf("a new %s is %q, want %d characters", kind, id, length)
			}
			if got, ok := arn.AccountOfID(id); got != account {
				t.Errorf("%q of account %s tells %q, %v", id, account, got, ok)
			}
			if seen[id] {
				t.Errorf("%q was made twice", id)
			}
			seen[id] = true
		}
	}
}

func TestNewIDNeedsAnAccount(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("an ID was made for no account")
		}
	}()
	arn.NewID(arn.RoleID, "aws")
}

func FuzzAccountOfID(f *testing.F) {
	f.Add("ASIA37QFXJP5MQOWRZ6Q", uint64(823571991546))
	f.Fuzz(func(t *testing.T, id string, number uint64) {
		if account, ok := arn.AccountOfID(id); ok && !arn.ValidAccountID(account) {
			t.Fatalf("%q is of account %q", id, account)
		}
		account := fmt.Sprintf("%012d", number%1_000_000_000_000)
		if got, ok := arn.AccountOfID(arn.NewID(arn.UserID, account)); !ok || got != account {
			t.Fatalf("an ID of account %s tells %q", account, got)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := arn.Parse("arn:aws:iam::111122223333:role/team/reader"); err != nil {
			b.Fatal(err)
		}
	}
}
