package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// fault is a way in which EKS Auth fails.
type fault string

const (
	none      fault = "well"
	slow      fault = "slow"
	throttled fault = "throttled"
	broken    fault = "internal error"
	reset     fault = "connection reset"
	hanging   fault = "no answer"
	garbage   fault = "half an answer"
	refused   fault = "no association"
)

// recovery is how long after a fault the agent may still answer with it.
const recovery = 4 * time.Second

// upstream is EKS Auth, and where the cluster's keys are.
type upstream struct {
	node   *node
	url    string
	server *http.Server

	mu      sync.Mutex
	mode    fault
	since   time.Time // when mode began
	counted map[string]int
}

func startUpstream(n *node) (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{node: n, url: "http://" + l.Addr().String(), mode: none, counted: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) { w.Write(n.jwks) })
	mux.HandleFunc("POST /clusters/soak/assume-role-for-pod-identity", u.assume)
	// Connections that nothing is sent on are closed soon, so that they are not taken for something left over.
	u.server = &http.Server{Handler: mux, IdleTimeout: 5 * time.Second}
	go u.server.Serve(l)
	return u, nil
}

func (u *upstream) close() { u.server.Close() }

// fail goes from well to a fault and back until ctx ends.
func (u *upstream) fail(ctx context.Context) {
	defer u.become(none)
	faults := []fault{slow, throttled, broken, reset, hanging, garbage, refused}
	for {
		for _, i := range rand.Perm(len(faults)) {
			for _, mode := range []fault{none, faults[i]} {
				u.become(mode)
				select {
				case <-time.After(5*time.Second + rand.N(5*time.Second)):
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

func (u *upstream) become(mode fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mode, u.since = mode, time.Now()
}

// well reports whether EKS Auth has been well from some time before then until now.
func (u *upstream) well(then time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.mode == none && u.since.Before(then.Add(-recovery))
}

// calls returns how many calls there were, by what became of them.
func (u *upstream) calls() map[string]int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.counted)
}

// next says what becomes of a call: in bad times half of them fail.
func (u *upstream) next() fault {
	u.mu.Lock()
	defer u.mu.Unlock()
	mode := u.mode
	if rand.N(2) == 0 {
		mode = none
	}
	u.counted[string(mode)]++
	return mode
}

func (u *upstream) assume(w http.ResponseWriter, r *http.Request) {
	var in struct{ Token string }
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	mode := u.next()
	switch mode {
	case slow:
		select {
		case <-time.After(rand.N(900 * time.Millisecond)):
		case <-r.Context().Done():
			return
		}
	case throttled:
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "ThrottlingException")
		return
	case broken:
		refuse(w, http.StatusInternalServerError, "InternalServerException")
		return
	case refused:
		refuse(w, http.StatusNotFound, "ResourceNotFoundException")
		return
	case hanging:
		<-r.Context().Done()
		return
	case reset:
		panic(http.ErrAbortHandler) // closes the connection
	}
	uid, err := podOf(in.Token)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidTokenException")
		return
	}
	expires := time.Now().Add(40*time.Second + rand.N(80*time.Second)).Truncate(time.Second)
	id, secret, session := u.node.mint(uid, expires)
	body, err := json.Marshal(map[string]any{
		"subject":                map[string]string{"namespace": "default", "serviceAccount": "app"},
		"audience":               "pods.eks.amazonaws.com",
		"podIdentityAssociation": map[string]string{"associationArn": "arn:aws:eks:us-east-1:111122223333:podidentityassociation/soak/a-1", "associationId": "a-1"},
		"assumedRoleUser":        map[string]string{"arn": "arn:aws:sts::111122223333:assumed-role/app/s", "assumeRoleId": "AROAEXAMPLE:s"},
		"credentials":            map[string]any{"accessKeyId": id, "secretAccessKey": secret, "sessionToken": session, "expiration": expires.Unix()},
	})
	if err != nil {
		panic(err) // strings and a number
	}
	if mode == garbage {
		body = body[:len(body)/2]
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Amzn-ErrorType", code)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":%q}`, code)
}

// podOf reads the pod's UID from a token. The agent has the keys, and so nothing forged may come this far: signatures are
// looked at where answers are.
func podOf(token string) (uid string, err error) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return "", err
	}
	var claims struct {
		Kubernetes struct {
			Pod struct{ UID string }
		} `json:"kubernetes.io"`
	}
	err = json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &claims)
	return claims.Kubernetes.Pod.UID, err
}
