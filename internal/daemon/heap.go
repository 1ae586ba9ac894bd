package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// garbage is how much of it, in bytes, there may be before it is collected.
const garbage = 48 << 20

// TuneGC has the garbage collector run whenever 48 MiB of garbage have come together, or half as much as there is else, if
// that is more. Go's default, as much as there is else, is a few MiB for a server with few records, which then collects all
// the time; and with many, it doubles what each of them takes. GOGC in the environment is heeded instead.
func TuneGC() {
	if os.Getenv("GOGC") == "" {
		paceGC()
	}
}

// paceGC says when the next collection is due, and is called again after that.
func paceGC() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(gcPercent(live[0].Value.Uint64()))
	runtime.AddCleanup(new(*int), func(struct{}) { paceGC() }, struct{}{})
}

// gcPercent is the GOGC for a heap. The least that counts is 4 MiB, which is what GOGC is a percentage of in a process that
// has not collected yet.
func gcPercent(live uint64) int {
	return int(max(50, garbage*100/max(live, 4<<20)))
}
