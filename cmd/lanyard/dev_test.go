package main

import (
	"errors"
	"slices"
	"testing"
)

func TestServedHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		address string
		yes, no []string
	}{
		{"127.0.0.1:4567",
			[]string{
				"127.0.0.1", "127.0.0.2", "::1", "localhost",
				"sts.amazonaws.com", "b.s3.eu-west-1.amazonaws.com", "eks-auth.us-east-1.api.aws", "sts.cn-north-1.amazonaws.com.cn",
			},
			[]string{"192.0.2.1", "example.com", "amazonaws.com.example.com", "notamazonaws.com", ""}},
		{"lanyard.example:4567", []string{"lanyard.example", "localhost", "127.0.0.1"}, []string{"192.0.2.1", "other.example"}},
		{"192.0.2.1:4567", []string{"192.0.2.1", "127.0.0.1"}, []string{"192.0.2.2"}},
		{":4567", []string{"192.0.2.1", "2001:db8::1", "localhost"}, []string{"example.com"}},
		{"[::]:4567", []string{"192.0.2.1", "2001:db8::1"}, []string{"example.com"}},
	} {
		served := servedHost(c.address)
		for _, h := range c.yes {
			if !served(h) {
				t.Errorf("at %s, %q has no certificate", c.address, h)
			}
		}
		for _, h := range c.no {
			if served(h) {
				t.Errorf("at %s, %q has a certificate", c.address, h)
			}
		}
	}
}

func TestWhereAServerIsReached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ listen, bound, endpoint, issuer string }{
		{"127.0.0.1:0", "127.0.0.1:4567", "127.0.0.1:4567", "127.0.0.1:4567"},
		{":0", "[::]:4567", "127.0.0.1:4567", "127.0.0.1:4567"},
		{"0.0.0.0:4567", "[::]:4567", "127.0.0.1:4567", "127.0.0.1:4567"},
		{"[::]:4567", "[::]:4567", "127.0.0.1:4567", "127.0.0.1:4567"},
		{"[::1]:0", "[::1]:4567", "[::1]:4567", "localhost:4567"},
		{"localhost:0", "127.0.0.1:4567", "localhost:4567", "localhost:4567"},
		{"lanyard.example:4567", "192.0.2.1:4567", "lanyard.example:4567", "lanyard.example:4567"},
		{"[2001:db8::1]:4567", "[2001:db8::1]:4567", "[2001:db8::1]:4567", ""}, // refused
	} {
		if got := reachable(c.listen, c.bound); got != c.endpoint {
			t.Errorf("the endpoint of %s is %s, want %s", c.listen, got, c.endpoint)
		}
		got, err := issuerAddress(c.listen, c.bound)
		if got != c.issuer || (err != nil) != (c.issuer == "") || err != nil && hint(err) == "" {
			t.Errorf("issuers at %s: got %q, %v; want %q", c.listen, got, err, c.issuer)
		}
	}
}

func TestOnLoopback(t *testing.T) {
	t.Parallel()
	for bound, want := range map[string]bool{
		"127.0.0.1:4566": true, "[::1]:4566": true, "[::]:4566": false, "0.0.0.0:4566": false, "192.0.2.1:4566": false,
	} {
		if got := onLoopback(bound); got != want {
			t.Errorf("%s: got %v, want %v", bound, got, want)
		}
	}
}

func TestClosersCloseInReverseAndAll(t *testing.T) {
	t.Parallel()
	var order []int
	broken := errors.New("broken")
	opened := closers{
		func() error { order = append(order, 1); return nil },
		func() error { order = append(order, 2); return broken },
		func() error { order = append(order, 3); return nil },
	}
	if err := opened.close(); !errors.Is(err, broken) {
		t.Errorf("got error %v, want %v", err, broken)
	}
	if want := []int{3, 2, 1}; !slices.Equal(order, want) {
		t.Errorf("closed %v, want %v", order, want)
	}
}
