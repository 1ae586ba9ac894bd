package iam

import (
	"encoding/base64"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// defaultPage is how many items a page of a list has unless MaxItems says otherwise; the model bounds MaxItems.
const defaultPage = 100

// page is the part of a list that a request asks for.
type page struct {
	Marker   string
	MaxItems int32
}

func (p page) window() page { return p }

// paged is a request for a page.
type paged interface{ window() page }

// pathPage is a page of what is below a path.
type pathPage struct {
	PathPrefix string
	page
}

func (p pathPage) below() string { return p.PathPrefix }

// truncated is the end of an answer that has a page.
type truncated struct {
	IsTruncated bool
	Marker      string
}

// paginate takes one page from a list. from yields the items whose keys are greater than its argument, in key order;
// keep says which to list and how. The marker that leads to the next page is sealed: it names a key, and only what
// this list of this account returned is taken back.
func paginate[R, T any](s *Service, c *awsapi.Caller, p page,
	from func(after string) iter.Seq2[string, R], keep func(R) (T, bool)) (items []T, rest truncated, err error) {
	purpose := "iam/marker/" + c.Operation + "/" + c.Account
	after := ""
	if p.Marker != "" {
		sealed, err := base64.RawURLEncoding.DecodeString(p.Marker)
		if err != nil {
			return nil, truncated{}, invalidMarker(err)
		}
		key, err := s.keyring.Open(purpose, sealed)
		if err != nil {
			return nil, truncated{}, invalidMarker(err)
		}
		after = string(key)
	}
	limit := defaultPage
	if p.MaxItems > 0 {
		limit = int(p.MaxItems)
	}
	items = []T{}
	last := ""
	for key, row := range from(after) {
		item, ok := keep(row)
		if !ok {
			continue
		}
		if len(items) == limit {
			sealed, err := s.keyring.Seal(purpose, []byte(last))
			if err != nil {
				return nil, truncated{}, fmt.Errorf("seal marker: %w", err)
			}
			return items, truncated{true, base64.RawURLEncoding.EncodeToString(sealed)}, nil
		}
		items, last = append(items, item), key
	}
	return items, truncated{}, nil
}

func invalidMarker(cause error) error {
	return &awsapi.Error{Code: "ValidationError", Message: "Invalid Marker", Status: 400, Cause: cause}
}

// sorted is a list in memory as paginate wants it; key must be unique.
func sorted[T any](items []T, key func(T) string) func(after string) iter.Seq2[string, T] {
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return func(after string) iter.Seq2[string, T] {
		return func(yield func(string, T) bool) {
			for _, item := range items {
				if k := key(item); k > after && !yield(k, item) {
					return
				}
			}
		}
	}
}

// found is the list of the rows that an index finds under a string, as paginate wants it.
func found[T any](x *kv.Index[T], under string) func(after string) iter.Seq2[string, *T] {
	return func(after string) iter.Seq2[string, *T] {
		return func(yield func(string, *T) bool) {
			for key, row := range x.Get(under) {
				if key > after && !yield(key, row) {
					return
				}
			}
		}
	}
}

// all keeps every item as it is.
func all[T any](item T) (T, bool) { return item, true }

// encodeDocument escapes a policy document as IAM's responses have it: percent-encoded after RFC 3986, spaces as %20.
func encodeDocument(document string) string {
	return strings.ReplaceAll(url.QueryEscape(document), "+", "%20")
}
