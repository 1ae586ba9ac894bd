// Package kubernetes names the version of Kubernetes whose API server the tests run. It is a module of its own, so that Lanyard's
// needs none of it.
package kubernetes
