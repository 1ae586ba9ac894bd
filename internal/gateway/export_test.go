package gateway

import "net/http"

// StoreOf returns the store behind a handler of NewS3.
func StoreOf(h http.Handler) http.Handler { return h.(*s3Gateway).Store }

// TrustOf makes an upstream trust what a client trusts.
func TrustOf(h http.Handler, c *http.Client) {
	h.(*upstream).transport.TLSClientConfig = c.Transport.(*http.Transport).TLSClientConfig
}
