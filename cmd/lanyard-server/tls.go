package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/lanyard-id/lanyard/internal/daemon"
	"github.com/lanyard-id/lanyard/internal/localca"
)

// tlsConfig names a certificate, or an authority: one of both.
type tlsConfig struct {
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// CACertFile and CAKeyFile are an authority that certificates are made by, in memory and anew before they expire, so that replicas
	// share nothing else. They are read at the start.
	CACertFile string `yaml:"caCertFile"`
	CAKeyFile  string `yaml:"caKeyFile"`
	// Hosts are the names and addresses that they are made for; *.example.com stands for all names below example.com.
	Hosts []string `yaml:"hosts"`
}

// whole reports whether it says one thing, and all of it.
func (c tlsConfig) whole() bool {
	files := c.CertFile != "" && c.KeyFile != "" && c.CACertFile == "" && c.CAKeyFile == "" && len(c.Hosts) == 0
	authority := c.CACertFile != "" && c.CAKeyFile != "" && len(c.Hosts) > 0 && c.CertFile == "" && c.KeyFile == ""
	return files || authority
}

func badHost(h string) bool {
	if net.ParseIP(h) != nil {
		return false
	}
	name := strings.TrimPrefix(h, "*.")
	return strings.Trim(name, ".") == "" || strings.ContainsAny(name, "*:/ ")
}

// serving returns the configuration of the HTTPS server.
func (c tlsConfig) serving(log *slog.Logger) (*tls.Config, error) {
	if c.CACertFile == "" {
		return daemon.CertificateFiles(c.CertFile, c.KeyFile, log)
	}
	cert, err := os.ReadFile(c.CACertFile)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	key, err := os.ReadFile(c.CAKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	ca, err := localca.Load(cert, key)
	if err != nil {
		return nil, err
	}
	return ca.TLS(c.serves), nil
}

// serves reports whether a host is one of those that certificates are made for.
func (c tlsConfig) serves(host string) bool {
	host = normal(host)
	return slices.ContainsFunc(c.Hosts, func(h string) bool {
		h = normal(h)
		if domain, ok := strings.CutPrefix(h, "*"); ok {
			return strings.HasSuffix(host, domain) && host != domain
		}
		return host == h
	})
}

// normal is a name or address in the one form that it is compared in.
func normal(host string) string {
	if ip := net.ParseIP(host); ip != nil {
		return ip.String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
