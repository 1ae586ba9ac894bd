//go:build !race

package test

// buildFlags make the programs under test as the tests are.
var buildFlags []string
