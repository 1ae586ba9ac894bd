package iam_test

import (
	"fmt"
	"strings"
	"testing"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/iam"
)

const thumbprint = "990F4193972F2BECF12DDEDA5237F9C952F20D9E"

func TestAProvidersPortIsNotPartOfItsName(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]struct{ name, fetch string }{
		"https://oidc.example.com":              {"oidc.example.com", "https://oidc.example.com"},
		"https://oidc.example.com/":             {"oidc.example.com/", "https://oidc.example.com/"},
		"https://oidc.example.com:443/id/X":     {"oidc.example.com/id/X", "https://oidc.example.com/id/X"},
		"https://oidc.example.com:8443/id/X/":   {"oidc.example.com/id/X/", "https://oidc.example.com:8443/id/X/"},
		"https://OIDC.example.com/id/X":         {"OIDC.example.com/id/X", "https://OIDC.example.com/id/X"},
		"https://oidc.example.com:8443":         {"oidc.example.com", "https://oidc.example.com:8443"},
		"https://oidc.example.com/a%20b:8443/c": {"oidc.example.com/a%20b:8443/c", "https://oidc.example.com/a%20b:8443/c"},
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			in, ctx := start(t, "aws"), t.Context()
			created, err := in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{
				Url: &url, ClientIDList: []string{"sts.amazonaws.com", "sts.amazonaws.com"}, ThumbprintList: []string{thumbprint},
			})
			check(t, err)
			if got := *created.OpenIDConnectProviderArn; got != "arn:aws:iam::111122223333:oidc-provider/"+want.name {
				t.Errorf("ARN = %s", got)
			}
			got, err := in.root.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{
				OpenIDConnectProviderArn: created.OpenIDConnectProviderArn,
			})
			check(t, err)
			if *got.Url != want.name || len(got.ClientIDList) != 1 || got.ThumbprintList[0] != strings.ToLower(thumbprint) {
				t.Errorf("GetOpenIDConnectProvider = %+v", got)
			}
			for _, issuer := range []string{url, "https://" + want.name} {
				p, ok := in.Provider(account, issuer)
				if !ok {
					t.Fatalf("the provider is not found for the issuer %s", issuer)
				}
				if p.URL != want.name || p.FetchURL != want.fetch || p.ARN.String() != *created.OpenIDConnectProviderArn || p.Account != account {
					t.Errorf("provider = %+v, want %+v", p, want)
				}
			}
			for _, issuer := range []string{
				"https://" + want.name + "x", "https://" + want.name + "/", "https://" + want.name + "?x", "http://" + want.name, want.name,
			} {
				if p, ok := in.Provider(account, issuer); ok {
					t.Errorf("found %+v for the issuer %s", p, issuer)
				}
			}
			if _, ok := in.Provider(other, url); ok {
				t.Error("another account finds the provider")
			}
		})
	}
}

func TestProvidersAreChanged(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	created, err := in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{
		Url: of("https://oidc.example.com"), Tags: []types.Tag{{Key: of("a"), Value: of("b")}},
	})
	check(t, err)
	id := created.OpenIDConnectProviderArn
	for range 2 {
		_, err = in.root.AddClientIDToOpenIDConnectProvider(ctx, &awsiam.AddClientIDToOpenIDConnectProviderInput{
			OpenIDConnectProviderArn: id, ClientID: of("one"),
		})
		check(t, err)
	}
	_, err = in.root.AddClientIDToOpenIDConnectProvider(ctx, &awsiam.AddClientIDToOpenIDConnectProviderInput{
		OpenIDConnectProviderArn: id, ClientID: of("two"),
	})
	check(t, err)
	for range 2 {
		_, err = in.root.RemoveClientIDFromOpenIDConnectProvider(ctx, &awsiam.RemoveClientIDFromOpenIDConnectProviderInput{
			OpenIDConnectProviderArn: id, ClientID: of("one"),
		})
		check(t, err)
	}
	p, ok := in.Provider(account, "https://oidc.example.com")
	if !ok || cmp.Diff([]string{"two"}, p.ClientIDs) != "" || len(p.Thumbprints) != 0 {
		t.Errorf("provider = %+v, %v", p, ok)
	}
	_, err = in.root.UpdateOpenIDConnectProviderThumbprint(ctx, &awsiam.UpdateOpenIDConnectProviderThumbprintInput{
		OpenIDConnectProviderArn: id, ThumbprintList: []string{thumbprint},
	})
	check(t, err)
	p, _ = in.Provider(account, "https://oidc.example.com")
	if diff := cmp.Diff([]string{strings.ToLower(thumbprint)}, p.Thumbprints); diff != "" {
		t.Error(diff)
	}
	_, err = in.root.TagOpenIDConnectProvider(ctx, &awsiam.TagOpenIDConnectProviderInput{
		OpenIDConnectProviderArn: id, Tags: []types.Tag{{Key: of("c"), Value: of("d")}},
	})
	check(t, err)
	_, err = in.root.UntagOpenIDConnectProvider(ctx, &awsiam.UntagOpenIDConnectProviderInput{
		OpenIDConnectProviderArn: id, TagKeys: []string{"a"},
	})
	check(t, err)
	tags, err := in.root.ListOpenIDConnectProviderTags(ctx, &awsiam.ListOpenIDConnectProviderTagsInput{OpenIDConnectProviderArn: id})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "c" {
		t.Errorf("tags = %+v", tags.Tags)
	}
	list, err := in.root.ListOpenIDConnectProviders(ctx, &awsiam.ListOpenIDConnectProvidersInput{})
	check(t, err)
	if len(list.OpenIDConnectProviderList) != 1 || *list.OpenIDConnectProviderList[0].Arn != *id {
		t.Errorf("list = %+v", list.OpenIDConnectProviderList)
	}
	for range 2 { // deleting is idempotent
		_, err = in.root.DeleteOpenIDConnectProvider(ctx, &awsiam.DeleteOpenIDConnectProviderInput{OpenIDConnectProviderArn: id})
		check(t, err)
	}
	if _, ok := in.Provider(account, "https://oidc.example.com"); ok {
		t.Error("the deleted provider is found")
	}
}

func TestProvidersAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	create := func(url string, thumbprints ...string) func() error {
		return func() error {
			return failure(in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{
				Url: &url, ThumbprintList: thumbprints,
			}))
		}
	}
	check(t, create("https://oidc.example.com/id/X")())
	missing := of("arn:aws:iam::111122223333:oidc-provider/no.example.com")
	clients := make([]string, 101)
	for i := range clients {
		clients[i] = fmt.Sprint(i)
	}
	refuses(t, []refusal{
		{"a URL that is taken", create("https://oidc.example.com/id/X"),
			"EntityAlreadyExists", "Provider with url https://oidc.example.com/id/X already exists."},
		{"a URL that differs by its port", create("https://oidc.example.com:8443/id/X"), "EntityAlreadyExists", "Provider with url"},
		{"a URL without a scheme", create("oidc.example.com"), "ValidationError", "Invalid Open ID Connect Provider URL"},
		{"a URL that is not https", create("http://oidc.example.com"),
			"InvalidInput", "Invalid Open ID Connect Provider URL. The URL must begin with https://."},
		{"a URL with a query", create("https://oidc.example.com/?x"), "InvalidInput", "Invalid Open ID Connect Provider URL"},
		{"a URL with a user", create("https://a@oidc.example.com"), "InvalidInput", "Invalid Open ID Connect Provider URL"},
		{"an IPv6 address", create("https://[::1]/x"), "InvalidInput", "Invalid Open ID Connect Provider URL"},
		{"six thumbprints", create("https://b.example.com", thumbprint, thumbprint, thumbprint, thumbprint, thumbprint, thumbprint),
			"InvalidInput", "Thumbprint list must contain fewer than 5 entries."},
		{"a short thumbprint", create("https://b.example.com", "abc"), "ValidationError", ""},
		{"a thumbprint that is no hash", create("https://b.example.com", strings.Repeat("x", 40)), "InvalidInput", "Thumbprint "},
		{"too many client IDs",
			func() error {
				return failure(in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{
					Url: of("https://b.example.com"), ClientIDList: clients,
				}))
			},
			"LimitExceeded", "Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: 100"},
		{"a provider that is missing",
			func() error {
				return failure(in.root.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: missing}))
			},
			"NoSuchEntity", "OpenIDConnect Provider not found for arn " + *missing},
		{"adding to a provider that is missing",
			func() error {
				return failure(in.root.AddClientIDToOpenIDConnectProvider(ctx, &awsiam.AddClientIDToOpenIDConnectProviderInput{
					OpenIDConnectProviderArn: missing, ClientID: of("x"),
				}))
			},
			"NoSuchEntity", "OpenIDConnect Provider not found for arn " + *missing},
		{"another account's provider",
			func() error {
				return failure(in.other.GetOpenIDConnectProvider(ctx, &awsiam.GetOpenIDConnectProviderInput{
					OpenIDConnectProviderArn: of("arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/X"),
				}))
			},
			"NoSuchEntity", "OpenIDConnect Provider not found for arn "},
		{"no thumbprints in place of some",
			func() error {
				return failure(in.root.UpdateOpenIDConnectProviderThumbprint(ctx, &awsiam.UpdateOpenIDConnectProviderThumbprintInput{
					OpenIDConnectProviderArn: of("arn:aws:iam::111122223333:oidc-provider/oidc.example.com/id/X"), ThumbprintList: []string{}}))
			},
			"InvalidInput", "Thumbprint list must contain at least one entry."},
	})
}

func TestAnAccountHasAHundredProviders(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	create := func(n int) error {
		return failure(in.root.CreateOpenIDConnectProvider(ctx, &awsiam.CreateOpenIDConnectProviderInput{
			Url: of(fmt.Sprintf("https://oidc.example.com/%d", n)),
		}))
	}
	for n := range 100 {
		check(t, create(n))
	}
	refused(t, create(100), "LimitExceeded", "Cannot exceed quota for OpenIDConnectProvidersPerAccount: 100")
	_, err := in.root.DeleteOpenIDConnectProvider(ctx, &awsiam.DeleteOpenIDConnectProviderInput{
		OpenIDConnectProviderArn: of("arn:aws:iam::111122223333:oidc-provider/oidc.example.com/7"),
	})
	check(t, err)
	check(t, create(100))
}

func FuzzProvider(f *testing.F) {
	for _, url := range []string{
		"https://a.example.com/id/X", "https://a:443", "http://b", "https://[::1]:8/", "https://a/%zz", "https://a:/b",
	} {
		f.Add(url)
	}
	in := start(f, "aws")
	f.Fuzz(func(t *testing.T, url string) {
		created, err := in.root.CreateOpenIDConnectProvider(t.Context(), &awsiam.CreateOpenIDConnectProviderInput{Url: &url})
		p, ok := in.Provider(account, url)
		if err != nil {
			return // refused, or there already
		}
		if !ok || p.ARN.String() != *created.OpenIDConnectProviderArn {
			t.Fatalf("made %s, found %+v, %v", *created.OpenIDConnectProviderArn, p, ok)
		}
		again, ok := in.Provider(account, p.FetchURL)
		if !ok || cmp.Diff(p, again, cmp.AllowUnexported(iam.Provider{}.ARN)) != "" {
			t.Fatalf("%+v is not found by the URL to fetch it from, but %+v", p, again)
		}
		_, err = in.root.DeleteOpenIDConnectProvider(t.Context(), &awsiam.DeleteOpenIDConnectProviderInput{
			OpenIDConnectProviderArn: created.OpenIDConnectProviderArn,
		})
		check(t, err)
	})
}
