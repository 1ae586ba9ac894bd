package iam_test

import (
	"strings"
	"testing"
	"time"

	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

const (
	samlCertificate = `<ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:X509Data><ds:X509Certificate>
MIIB
AAAA</ds:X509Certificate></ds:X509Data></ds:KeyInfo>`
	samlKeys = `<KeyDescriptor use="signing">` + samlCertificate + `</KeyDescriptor>`
)

// metadata is a document that describes an identity provider, long enough for IAM.
func metadata(attributes, inside string) string {
	return `<?xml version="1.0"?><!-- ` + strings.Repeat("x", 1000) + ` --><EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" ` +
		attributes + `><IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">` + inside + `</IDPSSODescriptor></EntityDescriptor>`
}

var goodMetadata = metadata(`entityID="https://idp.example.com"`, samlKeys)

func TestSAMLProvidersAreKept(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	made, err := in.root.CreateSAMLProvider(ctx, &awsiam.CreateSAMLProviderInput{
		Name: of("Corp"), SAMLMetadataDocument: &goodMetadata, Tags: []types.Tag{{Key: of("b"), Value: of("2")}},
	})
	check(t, err)
	name := made.SAMLProviderArn
	if *name != "arn:aws:iam::111122223333:saml-provider/Corp" || len(made.Tags) != 1 {
		t.Errorf("created %+v", made)
	}
	got, err := in.root.GetSAMLProvider(ctx, &awsiam.GetSAMLProviderInput{SAMLProviderArn: name})
	check(t, err)
	if *got.SAMLMetadataDocument != goodMetadata || len(got.Tags) != 1 || !got.ValidUntil.After(time.Now()) || len(*got.SAMLProviderUUID) < 22 {
		t.Errorf("GetSAMLProvider: document kept: %v, %+v, %v", *got.SAMLMetadataDocument == goodMetadata, got.Tags, got.ValidUntil)
	}
	limited := metadata(`entityID="https://idp.example.com" validUntil="2031-02-03T04:05:06Z"`, samlKeys)
	updated, err := in.root.UpdateSAMLProvider(ctx, &awsiam.UpdateSAMLProviderInput{SAMLProviderArn: name, SAMLMetadataDocument: &limited})
	check(t, err)
	if *updated.SAMLProviderArn != *name {
		t.Errorf("updated %s", *updated.SAMLProviderArn)
	}
	list, err := in.root.ListSAMLProviders(ctx, &awsiam.ListSAMLProvidersInput{})
	check(t, err)
	want := time.Date(2031, time.February, 3, 4, 5, 6, 0, time.UTC)
	if l := list.SAMLProviderList; len(l) != 1 || *l[0].Arn != *name || !l[0].ValidUntil.Equal(want) {
		t.Errorf("ListSAMLProviders = %+v", l)
	}
	check(t, failure(in.root.TagSAMLProvider(ctx, &awsiam.TagSAMLProviderInput{
		SAMLProviderArn: name, Tags: []types.Tag{{Key: of("a"), Value: of("1")}},
	})))
	check(t, failure(in.root.UntagSAMLProvider(ctx, &awsiam.UntagSAMLProviderInput{SAMLProviderArn: name, TagKeys: []string{"b"}})))
	tags, err := in.root.ListSAMLProviderTags(ctx, &awsiam.ListSAMLProviderTagsInput{SAMLProviderArn: name})
	check(t, err)
	if len(tags.Tags) != 1 || *tags.Tags[0].Key != "a" {
		t.Errorf("tags = %+v", tags.Tags)
	}
	summary, err := in.root.GetAccountSummary(ctx, &awsiam.GetAccountSummaryInput{})
	check(t, err)
	if summary.SummaryMap["Providers"] != 1 {
		t.Errorf("the account has %d providers", summary.SummaryMap["Providers"])
	}
	check(t, failure(in.root.DeleteSAMLProvider(ctx, &awsiam.DeleteSAMLProviderInput{SAMLProviderArn: name})))
	refused(t, failure(in.root.GetSAMLProvider(ctx, &awsiam.GetSAMLProviderInput{SAMLProviderArn: name})),
		"NoSuchEntity", "Manifest not found for arn "+*name)
}

func TestSAMLProvidersAreRefused(t *testing.T) {
	t.Parallel()
	in, ctx := start(t, "aws"), t.Context()
	create := func(name, document string) func() error {
		return func() error {
			return failure(in.root.CreateSAMLProvider(ctx, &awsiam.CreateSAMLProviderInput{Name: &name, SAMLMetadataDocument: &document}))
		}
	}
	check(t, create("corp", goodMetadata)())
	const entity = `entityID="https://idp.example.com"`
	missing := of("arn:aws:iam::" + account + ":saml-provider/no")
	refuses(t, []refusal{
		{"a name that is taken", create("CORP", goodMetadata), "EntityAlreadyExists", "SAMLProvider with name CORP already exists."},
		{"a document that is too short", create("a", "<a/>"), "ValidationError", ""},
		{"no XML", create("a", strings.Repeat("x", 1000)), "InvalidInput", "Could not parse metadata: it has no element"},
		{"XML that does not end", create("a", strings.TrimSuffix(goodMetadata, ">")), "InvalidInput", "Could not parse metadata: it is not well-formed XML"},
		{"a document type", create("a", `<!DOCTYPE a [<!ENTITY b "c">]>`+goodMetadata[len(`<?xml version="1.0"?>`):]),
			"InvalidInput", "Could not parse metadata: it has a document type"},
		{"an entity that is not XML's own", create("a", metadata(entity, "&b;"+samlKeys)), "InvalidInput", "Could not parse metadata: it is not well-formed XML"},
		{"another element", create("a", strings.ReplaceAll(goodMetadata, "EntityDescriptor", "EntitiesDescriptor")),
			"InvalidInput", "Could not parse metadata: it is not one EntityDescriptor with an entityID"},
		{"another namespace", create("a", strings.ReplaceAll(goodMetadata, "2.0:metadata", "1.0:metadata")),
			"InvalidInput", "Could not parse metadata: it is not one EntityDescriptor with an entityID"},
		{"no entity ID", create("a", metadata("", samlKeys)), "InvalidInput", "Could not parse metadata: it is not one EntityDescriptor with an entityID"},
		{"a service provider", create("a", strings.ReplaceAll(goodMetadata, "IDPSSO", "SPSSO")), "InvalidInput", "Could not parse metadata: it has no IDPSSODescriptor"},
		{"no certificate", create("a", metadata(entity, "")), "InvalidInput", "Could not parse metadata: its IDPSSODescriptor has no certificate"},
		{"a certificate that is not base64", create("a", metadata(entity, strings.Replace(samlKeys, "MIIB", "M=IB", 1))),
			"InvalidInput", "Could not parse metadata: a certificate in it is not base64"},
		{"a time that is none", create("a", metadata(entity+` validUntil="tomorrow"`, samlKeys)), "InvalidInput", "Could not parse metadata: its validUntil is not a time"},
		{"elements that are too deep", create("a", metadata(entity, samlKeys+strings.Repeat("<a>", 40)+strings.Repeat("</a>", 40))),
			"InvalidInput", "Could not parse metadata: its elements are more than 32 deep"},
		{"a document that is too large", create("a", goodMetadata+strings.Repeat(" ", 512<<10)), "InvalidInput", "This server takes metadata documents of 524288 bytes at most."},
		{"a provider that is missing", func() error {
			return failure(in.root.DeleteSAMLProvider(ctx, &awsiam.DeleteSAMLProviderInput{SAMLProviderArn: missing}))
		}, "NoSuchEntity", "Manifest not found for arn " + *missing},
		{"a provider of another account", func() error {
			return failure(in.other.GetSAMLProvider(ctx, &awsiam.GetSAMLProviderInput{SAMLProviderArn: of("arn:aws:iam::" + account + ":saml-provider/corp")}))
		}, "NoSuchEntity", "Manifest not found for arn"},
		{"what is no ARN", func() error {
			return failure(in.root.GetSAMLProvider(ctx, &awsiam.GetSAMLProviderInput{SAMLProviderArn: of("saml-provider/corp/corp")}))
		}, "ValidationError", "Invalid ARN:  Could not be parsed!"},
		{"encryption of assertions", func() error {
			return failure(in.root.CreateSAMLProvider(ctx, &awsiam.CreateSAMLProviderInput{
				Name: of("a"), SAMLMetadataDocument: &goodMetadata, AssertionEncryptionMode: types.AssertionEncryptionModeTypeRequired,
			}))
		}, "ValidationError", "This server does not support the member 'assertionEncryptionMode' of CreateSAMLProvider."},
	})
}
