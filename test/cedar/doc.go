// Package cedar compares Lanyard's policy engine with cedar-go's, on a pod's role that is written in both languages. It is a
// module of its own, so that Lanyard needs none of Cedar.
package cedar
