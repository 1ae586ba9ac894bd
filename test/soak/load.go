package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	workers     = 64
	patience    = 10 * time.Second
	maxShown    = 20      // things that were wrong
	maxBody     = 1 << 20 // of an answer
	agentHost   = "169.254.170.23"
	credentials = "/v1/credentials"
)

// load is what the pods of a node do, and what others do to its agent.
type load struct {
	address string
	node    *node
	up      *upstream
	client  *http.Client

	mu     sync.Mutex
	counts map[string]int
	took   []time.Duration // answers to pods while EKS Auth was well
	faults int
	first  []string // faults
}

func newLoad(address string, n *node, up *upstream) *load {
	return &load{
		address: address, node: n, up: up, counts: map[string]int{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: patience},
	}
}

// fault notes that something is wrong.
func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults++
	if len(l.first) < maxShown {
		l.first = append(l.first, fmt.Sprintf(format, args...))
	}
}

func (l *load) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
}

// warmUp has every pod ask once.
func (l *load) warmUp(ctx context.Context) error {
	for _, p := range l.node.pods {
		status, body, err := l.ask(ctx, agentHost, p.current())
		if err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		if status != http.StatusOK {
			return fmt.Errorf("warm up: %d %s", status, body)
		}
		if err := l.node.check(p, body, time.Now()); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return nil
}

// rest closes the connections that are kept.
func (l *load) rest() { l.client.CloseIdleConnections() }

// run makes so many requests in a second until ctx ends, and waits for their answers.
func (l *load) run(ctx context.Context, rate int) {
	due := make(chan struct{}, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range due {
				l.one()
			}
		})
	}
	for tick := time.Tick(time.Second / time.Duration(rate)); ctx.Err() == nil; {
		select {
		case <-tick:
			due <- struct{}{}
		case <-ctx.Done():
		}
	}
	close(due)
	group.Wait()
}

// one does one thing of many, to a pod of which the first are the busiest. What was begun is brought to its end, so that none
// of it is cut off by the end of the load.
func (l *load) one() {
	ctx := context.Background()
	p := l.node.pods[min(rand.N(len(l.node.pods)), rand.N(len(l.node.pods)))]
	switch n := rand.N(100); {
	case n < 85:
		l.pod(ctx, p)
	case n < 90:
		if err := l.node.rotate(p); err != nil {
			l.fault("sign a token: %v", err)
			return
		}
		l.count("after a token's rotation")
		l.pod(ctx, p)
	case n < 93:
		l.impatient(ctx, p)
	case n < 96:
		forged, err := l.node.sign(l.node.forger, p)
		if err != nil {
			l.fault("sign a token: %v", err)
			return
		}
		l.stranger(ctx, "forged token", agentHost, forged)
	case n < 98:
		l.malformed(ctx, p)
	default:
		l.slow(p)
	}
}

// pod asks as a pod does.
func (l *load) pod(ctx context.Context, p *pod) {
	begun := time.Now()
	status, body, err := l.ask(ctx, agentHost, p.current())
	took := time.Since(begun)
	well := l.up.well(begun)
	switch {
	case err != nil:
		l.count("pods: no answer")
		if well {
			l.fault("pod %s had no answer in %v while EKS Auth was well: %v", p.uid, took, err)
		}
	case status != http.StatusOK:
		l.count(fmt.Sprintf("pods: %d", status))
		if well {
			l.fault("pod %s had %d while EKS Auth was well: %s", p.uid, status, body)
		}
	default:
		l.count("pods: 200")
		if err := l.node.check(p, body, time.Now()); err != nil {
			l.fault("%v", err)
		}
		if well {
			l.mu.Lock()
			l.took = append(l.took, took)
			l.mu.Unlock()
		}
	}
}

// impatient leaves before long.
func (l *load) impatient(ctx context.Context, p *pod) {
	ctx, cancel := context.WithTimeout(ctx, rand.N(20*time.Millisecond))
	defer cancel()
	status, body, err := l.ask(ctx, agentHost, p.current())
	l.count("pods that leave")
	if err == nil && status == http.StatusOK {
		if err := l.node.check(p, body, time.Now()); err != nil {
			l.fault("%v", err)
		}
	}
}

// stranger asks for what it must not get.
func (l *load) stranger(ctx context.Context, who, host, token string) {
	l.count(who)
	status, body, err := l.ask(ctx, host, token)
	if err == nil && (status < 400 || status >= 500) {
		l.fault("%s: %d %s", who, status, body)
	}
}

func (l *load) malformed(ctx context.Context, p *pod) {
	token := p.current()
	for _, c := range []struct{ who, host, token string }{
		{"no token", agentHost, ""},
		{"a token after Bearer", agentHost, "Bearer " + token},
		{"half a token", agentHost, token[:len(token)/2]},
		{"a token with a changed signature", agentHost, token[:len(token)-8] + "AAAAAAAA"},
		{"a binary token", agentHost, "\xff\xfe.\x80.\x81"},
		{"a token of 64 KiB", agentHost, strings.Repeat(token, 1+(64<<10)/len(token))},
		{"another host", "example.com", token},
	} {
		l.stranger(ctx, c.who, c.host, c.token)
	}
}

// slow begins a request and goes away, some time or at once, with or without having been silent.
func (l *load) slow(p *pod) {
	l.count("half requests")
	c, err := net.DialTimeout("tcp", l.address, patience)
	if err != nil {
		l.fault("connect: %v", err)
		return
	}
	defer c.Close()
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n\r\n", credentials, agentHost, p.current())
	if rand.N(4) == 0 {
		request = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	}
	io.WriteString(c, request[:rand.N(len(request))]) // whatever comes of it
	time.Sleep(rand.N(2 * time.Second))
}

func (l *load) ask(ctx context.Context, host, token string) (status int, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address+credentials, nil)
	if err != nil {
		return 0, nil, err
	}
	r.Host = host
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	reply, err := l.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(reply.Body, maxBody))
	return reply.StatusCode, body, errors.Join(err, reply.Body.Close())
}
