package etcd

import "testing"

func TestVersionsWithUnreliableProgressAreRefused(t *testing.T) {
	for version, accepted := range map[string]bool{
		"3.7.3":      true,
		"3.6.0":      true,
		"4.0.0":      true,
		"3.5.8":      true,
		"3.5.21":     true,
		"3.5.7":      false,
		"3.4.25":     true,
		"3.4.24":     false,
		"3.3.99":     false,
		"2.3.8":      false,
		"3.6.0-rc.1": false,
		"":           false,
		"latest":     false,
	} {
		if err := checkVersion(version); (err == nil) != accepted {
			t.Errorf("version %q: %v, want it accepted: %v", version, err, accepted)
		}
	}
}
