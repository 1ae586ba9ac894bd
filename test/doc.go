// Package test holds what is shown from the outside: real processes, real SDKs, real crashes. What needs nothing but Go runs with
// every `go test`; what needs other languages' toolchains has the build tag e2e.
package test
