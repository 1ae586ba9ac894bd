package gateway

import "net/http"

// TrustOf makes an upstream trust what a client trusts.
func TrustOf(h http.Handler, c *http.Client) {
	h.(*upstream).transport.TLSClientConfig = c.Transport.(*http.Transport).TLSClientConfig
}
