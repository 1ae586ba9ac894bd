package sigv4_test

import (
	"bufio"
	"bytes"
	"net/http"
)

// arrive writes a request and reads it back like a server.
func arrive(r *http.Request) (*http.Request, error) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		return nil, err
	}
	return http.ReadRequest(bufio.NewReader(&wire))
}
