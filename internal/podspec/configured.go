package podspec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Configured is what the ConfigMap of AWS's webhook says of a service account, in place of annotations.
type Configured struct {
	RoleARN         string
	Audience        string // of the token; the way's own when empty
	UseRegionalSTS  bool
	TokenExpiration int64 // seconds; that of the Settings when zero
}

// ConfiguredAccounts are service accounts by NAMESPACE/NAME, in which the namespace * stands for all.
type ConfiguredAccounts map[string]Configured

// ParseConfiguredAccounts reads the ConfigMap's text. An empty one names none. What is wrong with one entry makes all of it an error.
func ParseConfiguredAccounts(text []byte) (ConfiguredAccounts, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var entries map[string]*Configured
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("read configured service accounts: %w", err)
	}
	all := make(ConfiguredAccounts, len(entries))
	for key, c := range entries {
		if parts := strings.Split(key, "/"); len(parts) != 2 || parts[0] == "" || parts[1] == "" {
			return nil, fmt.Errorf("read configured service accounts: %q is not NAMESPACE/NAME", cut(key))
		}
		if c == nil {
			return nil, fmt.Errorf("read configured service accounts: %q has nothing", cut(key))
		}
		all[key] = *c
	}
	return all, nil
}

// Find returns what is said of a service account: by its own name, or else by that of all namespaces.
func (a ConfiguredAccounts) Find(namespace, name string) (c Configured, ok bool) {
	if c, ok = a[namespace+"/"+name]; !ok {
		c, ok = a["*/"+name]
	}
	return c, ok
}

// Annotations returns the annotations of a service account that say the same.
func (s Settings) Annotations(c Configured) map[string]string {
	annotations := map[string]string{
		s.annotation(roleAnnotation):        c.RoleARN,
		s.annotation(regionalSTSAnnotation): strconv.FormatBool(c.UseRegionalSTS),
	}
	if c.Audience != "" {
		annotations[s.annotation(audienceAnnotation)] = c.Audience
	}
	if c.TokenExpiration != 0 {
		annotations[s.annotation(expirationAnnotation)] = strconv.FormatInt(c.TokenExpiration, 10)
	}
	return annotations
}
