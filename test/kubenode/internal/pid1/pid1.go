// Package pid1 is process 1 of a node's namespaces. It gives the node its mounts and its network and starts the programs that it is
// told to. The kernel ends them all, and undoes what was mounted, when process 1 ends: by a signal, when one of its programs ends,
// or when whoever started it is there no more.
package pid1

// What a node's programs find under fixed names, whatever folders these are outside.
const (
	NodeDir  = "/run/node"  // the node's own files
	CacheDir = "/run/cache" // the programs
)

// Addresses of a node. Every node has them to itself, in a network of its own.
const (
	NodeAddress    = "10.123.0.1"
	PodNetwork     = "10.124.0.0/24"
	ServiceNetwork = "10.125.0.0/24"
)

// Lines that Run prints: Ready when the namespaces are ready for programs, and Started with its name for each that it started. Any
// other is the last, and says why Run ended.
const (
	Ready   = "ready"
	Started = "started "
)

// Program is one to be started. Run reads any number of them, in JSON, from its standard input. One of the name of another takes its
// place: the other is killed.
type Program struct {
	Name string   // of its log, too
	Args []string // with the program itself, as PATH finds it
	Env  []string // besides PATH, which is all there is
}
