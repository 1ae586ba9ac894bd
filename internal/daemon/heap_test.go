package daemon

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64 // MiB
		want int
	}{
		{0, 1200}, {1, 1200}, {4, 1200}, {8, 600}, {48, 100}, {64, 75}, {96, 50}, {1000, 50},
	} {
		if got := gcPercent(c.live << 20); got != c.want {
			t.Errorf("gcPercent(%d MiB) = %d, want %d", c.live, got, c.want)
		}
	}
}

func TestTuneGCFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	TuneGC()
	percent := func() int { // there is no way to read it
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	large := make([]byte, 64<<20)
	for percent() > 75 {
		runtime.GC() // the pace is set some time after it
	}
	runtime.KeepAlive(large)
}
