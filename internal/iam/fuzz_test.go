package iam

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"

	"github.com/lanyard-id/lanyard/policy"
)

// A document that is taken for metadata is XML for other readers too, and says whose it is.
func FuzzMetadata(f *testing.F) {
	const good = `<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" entityID="a" validUntil="2031-02-03T04:05:06Z"><IDPSSODescriptor>` +
		`<X509Certificate xmlns="http://www.w3.org/2000/09/xmldsig#">TUlJ</X509Certificate></IDPSSODescriptor></EntityDescriptor>`
	for _, seed := range []string{good, strings.Replace(good, "TUlJ", "&lt;", 1), good + good, "<a/>", "<!DOCTYPE a>" + good, strings.Repeat("<a>", 100)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		until, err := checkMetadata(document)
		if err != nil {
			return
		}
		var read struct {
			EntityID string `xml:"entityID,attr"`
			Until    string `xml:"validUntil,attr"`
		}
		if err := xml.Unmarshal(document, &read); err != nil {
			t.Fatalf("taken, but it is no XML: %v", err)
		}
		if read.EntityID == "" || (read.Until == "") != until.IsZero() {
			t.Errorf("taken with the entity ID %q, valid until %q, read as %s", read.EntityID, read.Until, until)
		}
	})
}

// What the policy engine takes, reports can read; and they find there what it names.
func FuzzGrants(f *testing.F) {
	for _, seed := range []string{
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:Get*","SQS:*"],"Resource":"*"}]}`,
		`{"Statement":{"Effect":"Allow","NotAction":"s3:*","Resource":"*"}}`,
		`{"Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`,
	} {
		f.Add(seed, "s3")
	}
	f.Fuzz(func(t *testing.T, document, namespace string) {
		if _, err := policy.New("", policy.Identity, []byte(document)); err != nil {
			return
		}
		var g granted
		if err := json.Unmarshal([]byte(document), &g); err != nil || len(g.Statement) == 0 {
			t.Fatalf("the engine takes it, reports do not: %v", err)
		}
		for _, s := range g.services() {
			if !g.reaches(s) {
				t.Errorf("%s is listed and not reached", s)
			}
		}
		g.reaches(namespace)
	})
}
