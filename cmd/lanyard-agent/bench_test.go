package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkMemory runs the program as it is released, has 2,000 pods ask it for credentials, whose tokens have the usual lengths,
// and reports its resident set right after that and when it has been left alone for a moment.
func BenchmarkMemory(b *testing.B) {
	const pods = 2000
	program := filepath.Join(b.TempDir(), "lanyard-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		b.Fatal(err)
	}
	eksAuth := fakeEKSAuth(b, strings.Repeat("s", 1200), nil)
	for b.Loop() {
		agent := exec.CommandContext(b.Context(), program, "server", "-c", "demo", "-b", "127.0.0.1", "-p", "0", "--probe-port", "0",
			"--metrics-address", "127.0.0.1", "--metrics-port", "0", "--endpoint", eksAuth.URL)
		agent.Env = []string{"AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=AKIANODE", "AWS_SECRET_ACCESS_KEY=secret",
			"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
		log, err := agent.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := agent.Start(); err != nil {
			b.Fatal(err)
		}
		address := ""
		lines := bufio.NewScanner(log)
		for address == "" && lines.Scan() {
			var line struct {
				Msg, Server string
				Address     string `json:"bind-addr"`
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && line.Server == "credentials" {
				address = line.Address
			}
		}
		go io.Copy(io.Discard, log) //nolint:errcheck // it ends with the program
		for i := range pods {
			token := unsignedToken(fmt.Sprintf(`{"exp":%d,"pod":"%d","claims":%q}`, time.Now().Add(time.Hour).Unix(), i, strings.Repeat("c", 700)))
			r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+address+"/v1/credentials", nil)
			if err != nil {
				b.Fatal(err)
			}
			r.Host = "169.254.170.23"
			r.Header.Set("Authorization", token)
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, response.Body) //nolint:errcheck // the status tells
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				b.Fatal(response.Status)
			}
		}
		b.ReportMetric(resident(b, agent.Process.Pid), "MiB-filled")
		time.Sleep(30 * time.Second) // in which a program without requests gives back what it does not need
		b.ReportMetric(resident(b, agent.Process.Pid), "MiB-later")
		if err := agent.Process.Kill(); err != nil {
			b.Fatal(err)
		}
		agent.Wait() //nolint:errcheck // it was killed
	}
	b.ReportMetric(25, "MiB-limit")
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB-binary")
}

var residentKiB = regexp.MustCompile(`\nVmRSS:\s+(\d+) kB`)

// resident returns a process's resident set in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skipf("memory is measured only where there is /proc: %v", err)
	}
	match := residentKiB.FindSubmatch(status)
	if match == nil {
		b.Fatalf("no VmRSS in %s", status)
	}
	kib, err := strconv.Atoi(string(match[1]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}
