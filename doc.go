// Package lanyard is the root of the Lanyard repository: workload identity for Kubernetes pods. It holds only the test
// of the house's rules; the programs are under cmd, the public packages are arn and policy.
package lanyard
