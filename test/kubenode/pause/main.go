// Command pause does nothing until it is told to end. Pods' sandboxes hold on to it, and tests use it for a container that stays.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
