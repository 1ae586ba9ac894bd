//go:build race

package test

// buildFlags make the programs under test as the tests are: with the race detector.
var buildFlags = []string{"-race"}
