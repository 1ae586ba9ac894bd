// Package kubernetes names the versions of Kubernetes and etcd that the tests run, by the tools of its module. It is a module of its
// own, so that Lanyard's needs none of it.
package kubernetes
