package eks

import "encoding/base64"

// maxPage is the longest page of the list calls, and the one that callers get who do not ask.
const maxPage = 100

// maxToken bounds what a page's token says, in bytes: ARNs have 2,048 at most.
const maxToken = 2048

// pageSize is how many entries a page has.
func pageSize(maxResults int32) int {
	if maxResults <= 0 || maxResults > maxPage {
		return maxPage
	}
	return int(maxResults)
}

// pageToken makes the nextToken of a page by its last entry. It is opaque only so that nobody builds on it.
func pageToken(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

// readPageToken returns the entry after which a page begins.
func readPageToken(token string) (string, error) {
	last, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(last) > maxToken {
		return "", invalidParameter("The nextToken is not one that this operation has returned.")
	}
	return string(last), nil
}

// pageOf returns a page of names that are in order, and the token of the next.
func pageOf(names []string, maxResults int32, token string) (page []string, next string, err error) {
	after, err := readPageToken(token)
	if err != nil {
		return nil, "", err
	}
	for _, name := range names {
		if name <= after {
			continue
		}
		if len(page) == pageSize(maxResults) {
			return page, pageToken(page[len(page)-1]), nil
		}
		page = append(page, name)
	}
	return page, "", nil
}
