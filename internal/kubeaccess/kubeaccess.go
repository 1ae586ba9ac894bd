// Package kubeaccess lets people into Kubernetes by who they are in IAM, as EKS does. A kube-apiserver asks it, by Kubernetes' TokenReview
// webhook, whose a token is; the token is what `aws eks get-token` makes, a presigned GetCallerIdentity request; and the answer is what the
// cluster's access entries say of its signer.
//
// The request is never sent anywhere: its signature is verified here, with the signer's secret.
package kubeaccess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/accesspolicy"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/policy"
)

// Path begins the paths that a Handler serves: ACCOUNT/REGION/CLUSTER follows, which says whose token is asked about.
const Path = "/token-review/"

const (
	maxBody   = 64 << 10 // of a review, in bytes: a token and what is around it
	maxAtOnce = 256      // reviews under way; API servers repeat the others
	maxLogged = 256      // bytes of what strangers wrote
)

// refusedText is all that is told of a token that is refused. API servers log it; why, is in the log here.
const refusedText = "the token is not valid for this cluster"

// Config is what a Handler needs. All but Hosts and Now is required.
type Config struct {
	Clusters *eks.Service
	// Credentials finds what an access key, and the session token with it, resolves to; see awsapi.Authenticator.
	Credentials func(ctx context.Context, accessKeyID, sessionToken string) (awsapi.Credential, error)
	// Used is told of each signer of a token that verifies, let in or not.
	Used      func(c *awsapi.Caller)
	Partition string
	// Hosts are names and addresses that this server is reached by, without ports; *.example.com stands for all names below it. Tokens that
	// are presigned for them are taken, as are those for STS's own names in the partition, and for the name that the API server itself asks by.
	Hosts []string
	// Audit keeps a record of each token that verifies, let in or not: of the GetCallerIdentity that AWS's authenticator would have asked STS.
	// What cannot be recorded is not answered.
	Audit audit.Recorder
	Now   func() time.Time // time.Now when nil
	Log   *slog.Logger
}

// Handler answers TokenReviews of API version authentication.k8s.io/v1 and v1beta1. Who asks is not authenticated: whoever holds a token may
// know whose it is. It is safe for concurrent use.
type Handler struct {
	c      Config
	places chan struct{} // one is in it for each review under way
}

// New makes a Handler.
func New(c Config) *Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Handler{c: c, places: make(chan struct{}, maxAtOnce)}
}

// review is a TokenReview (Kubernetes API Reference, "TokenReview"). It is answered without its spec.
type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       *spec  `json:"spec,omitempty"`
	Status     status `json:"status"`
}

type spec struct {
	Token string `json:"token"`
}

type status struct {
	Authenticated bool   `json:"authenticated"`
	User          *user  `json:"user,omitempty"`
	Error         string `json:"error,omitempty"`
}

// user is who somebody is in Kubernetes.
type user struct {
	Username string              `json:"username"`
	UID      string              `json:"uid"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
}

// event is the wide log event of one review.
type event struct {
	address     [3]string      // account, region and cluster
	accessKeyID string         // as claimed
	caller      *awsapi.Caller // once it is known
	user        *user          // who was let in
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	var e event
	answer, code, err := h.serve(w, r, &e)
	if err != nil && code != http.StatusOK {
		switch code {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "1") // without it, API servers ask no more
		case http.StatusMethodNotAllowed:
			w.Header().Set("Allow", http.MethodPost)
		}
		http.Error(w, http.StatusText(code), code)
	} else {
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer) //nolint:errcheck // who asked has gone
	}
	h.log(r, &e, code, err, time.Since(begun))
}

// serve returns the answer, or the status of what is none. The error says why nobody was let in.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, e *event) (answer []byte, code int, err error) {
	address := strings.Split(strings.TrimPrefix(r.URL.Path, Path), "/")
	if len(address) != len(e.address) || slices.Contains(address, "") {
		return nil, http.StatusNotFound, errors.New("the path is not " + Path + "ACCOUNT/REGION/CLUSTER")
	}
	e.address = [3]string(address)
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.TLS == nil:
		return nil, http.StatusForbidden, errors.New("asked over plain HTTP")
	case r.Method != http.MethodPost:
		return nil, http.StatusMethodNotAllowed, fmt.Errorf("asked by %.16q", r.Method)
	case err != nil || media != "application/json":
		return nil, http.StatusUnsupportedMediaType, errors.New("asked in another form than JSON")
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		return nil, http.StatusTooManyRequests, errors.New("too many reviews are under way")
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, http.StatusRequestEntityTooLarge, err
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read the review: %w", err)
	}
	asked, err := parseReview(text)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	who, err := h.authenticate(r, e, asked.Spec.Token)
	if unrecorded := h.record(r.Context(), e, who, err); unrecorded != nil {
		return nil, http.StatusServiceUnavailable, unrecorded
	}
	reply := review{APIVersion: asked.APIVersion, Kind: asked.Kind}
	switch {
	case err == nil:
		e.user, reply.Status = who, status{Authenticated: true, User: who}
	case errors.Is(err, errForeign): // another authenticator's, perhaps
	case errors.Is(err, errRefused):
		// With an error, API servers remember nothing of the answer: an access entry that is made a moment later counts at once.
		reply.Status.Error = refusedText
	case errors.Is(err, kv.ErrUnavailable):
		return nil, http.StatusServiceUnavailable, err
	default:
		return nil, http.StatusInternalServerError, err
	}
	answer, encodeErr := json.Marshal(reply)
	if encodeErr != nil {
		return nil, http.StatusInternalServerError, fmt.Errorf("encode the answer: %w", encodeErr)
	}
	return answer, http.StatusOK, err
}

func parseReview(text []byte) (*review, error) {
	var r review
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, errors.New("the body is not a TokenReview") // the error might repeat the token
	}
	if r.Kind != "TokenReview" || r.APIVersion != "authentication.k8s.io/v1" && r.APIVersion != "authentication.k8s.io/v1beta1" || r.Spec == nil {
		return nil, fmt.Errorf("the body is a %.64q of %.64q, not a TokenReview", r.Kind, r.APIVersion)
	}
	return &r, nil
}

// errRefused is every refusal that is the token's own fault.
var errRefused = errors.New("token refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errRefused}, args...)...)
}

// authenticate finds out who the signer of a token is in the cluster. Errors wrap errForeign, errRefused or kv.ErrUnavailable; all others are
// failures of this server.
func (h *Handler) authenticate(r *http.Request, e *event, text string) (*user, error) {
	t, err := parseToken(text)
	if err != nil {
		if errors.Is(err, errForeign) {
			return nil, err
		}
		return nil, refuse("%w", err)
	}
	e.accessKeyID = t.signature.AccessKeyID
	if !h.isOurs(t.host, r.Host) {
		return nil, refuse("presigned for the host %.*q", maxLogged, t.host)
	}
	ctx := r.Context()
	cred, err := h.c.Credentials(ctx, t.signature.AccessKeyID, t.signature.SessionToken)
	if err != nil {
		if _, fault := errors.AsType[*awsapi.AuthError](err); fault {
			return nil, refuse("%w", err)
		}
		return nil, fmt.Errorf("find access key %.*s: %w", maxLogged, t.signature.AccessKeyID, err)
	}
	account, region, name := e.address[0], e.address[1], e.address[2]
	if err := t.verify(cred.Secret, name, h.c.Now()); err != nil {
		return nil, refuse("%w", err)
	}
	e.caller = h.caller(r, t, cred.Identity)
	h.c.Used(e.caller)
	cluster, err := h.c.Clusters.FindCluster(ctx, account, region, name)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return nil, refuse("there is no such cluster")
	}
	return h.entry(ctx, cluster, &cred.Identity)
}

// caller is who the request in a token would have come from, had the API server sent it to STS.
func (h *Handler) caller(r *http.Request, t *token, id awsapi.Identity) *awsapi.Caller {
	at := awsapi.Authenticator{Region: t.signature.Region, Now: h.c.Now}
	c := at.Anonymous(r, "sts")
	c.Identity, c.Operation = id, "GetCallerIdentity"
	return c
}

// record keeps in the trail that a token was verified, and what became of it. Tokens that do not verify leave nothing, as requests that are not
// authenticated leave nothing: anybody could fill the trail with them.
func (h *Handler) record(ctx context.Context, e *event, who *user, err error) error {
	if e.caller == nil {
		return nil
	}
	r := awsapi.NewRecord(e.caller, "sts", e.caller.Operation)
	r.Lanyard.Resources = []audit.Named{{Type: "AWS::EKS::Cluster", Name: clip(e.address[2])}}
	switch {
	case err == nil:
		r.Lanyard.Decision = fmt.Sprintf("allowed: %s in cluster %s, with the groups %s", who.Username, clip(e.address[2]), strings.Join(who.Groups, ", "))
	case errors.Is(err, errRefused):
		r.ErrorCode, r.ErrorMessage = "AccessDenied", refusedText
		r.Lanyard.Decision = fmt.Sprintf("denied in cluster %s: %v", clip(e.address[2]), err)
	default:
		awsapi.RecordError(r, err)
	}
	if err := h.c.Audit.Record(ctx, r); err != nil {
		return fmt.Errorf("record the review: %w", err)
	}
	return nil
}

// isOurs reports whether a host is one that this server's clients presign for. A token names the host that its signer would have asked: one for
// another STS, which may know the same access key, is none for here.
func (h *Handler) isOurs(host, asked string) bool {
	if name, _, err := net.SplitHostPort(asked); err == nil {
		asked = name
	}
	own := strings.EqualFold(strings.Trim(asked, "[]"), host) || slices.ContainsFunc(h.c.Hosts, func(served string) bool { return covers(served, host) })
	return host != "" && (own || isSTS(host, h.c.Partition))
}

// entry finds what the cluster's access entries say of an identity. Sessions that are nobody's in IAM, as federated ones, have none, though
// the user's who asked for them may have one.
func (h *Handler) entry(ctx context.Context, cluster *eks.Cluster, id *awsapi.Identity) (*user, error) {
	principal := id.EntityID
	switch id.Kind {
	case policy.User, policy.RoleSession:
	case policy.Root:
		principal = id.Account
	default:
		return nil, refuse("%s has no access entry, since it is no user or role", id.ARN)
	}
	access, err := h.c.Clusters.Access(ctx, cluster, principal)
	if err != nil {
		return nil, err
	}
	if access == nil {
		return nil, refuse("no access entry")
	}
	username, err := render(access.Username, id)
	if err != nil {
		return nil, refuse("%w", err)
	}
	groups, err := groupsOf(access)
	if err != nil {
		return nil, err
	}
	return &user{
		Username: username, UID: "aws-iam-authenticator:" + id.Account + ":" + principal, Groups: groups,
		Extra: map[string][]string{
			"accessKeyId": {id.AccessKeyID}, "arn": {id.ARN}, "canonicalArn": {canonical(id)}, "principalId": {principal}, "sessionName": {sessionName(id)},
		},
	}, nil
}

// groupsOf returns an entry's own groups, and those that its access policies are bound to.
func groupsOf(access *eks.Access) ([]string, error) {
	groups := slices.Clone(access.Groups)
	for _, name := range slices.Sorted(maps.Keys(access.Policies)) {
		p, ok := accesspolicy.Named(name)
		if !ok {
			return nil, fmt.Errorf("access policy %s is not known", name)
		}
		if namespaces := access.Policies[name]; len(namespaces) > 0 {
			for _, namespace := range namespaces {
				groups = append(groups, p.Group(namespace))
			}
		} else {
			groups = append(groups, p.Group(""))
		}
	}
	return groups, nil
}

// render puts an identity into a username's placeholders (EKS User Guide, "Create access entries"). Kubernetes takes no @ in some names that
// are made of usernames, so that SessionName has - instead. A name that EKS keeps to itself may not come about by this either.
func render(username string, id *awsapi.Identity) (string, error) {
	session := sessionName(id)
	rendered := strings.NewReplacer(
		"{{SessionName}}", strings.ReplaceAll(session, "@", "-"), "{{SessionNameRaw}}", session, "{{AccountID}}", id.Account, "{{AccessKeyID}}", id.AccessKeyID,
	).Replace(username)
	switch {
	case strings.Contains(rendered, "{{"):
		return "", fmt.Errorf("the username %q has a placeholder that is not known", username)
	case rendered == "" || eks.Reserved(rendered):
		return "", fmt.Errorf("the username %q becomes %q, which nobody may be", username, rendered)
	}
	return rendered, nil
}

// sessionName is the name of a role's session; empty for others.
func sessionName(id *awsapi.Identity) string {
	if id.Kind != policy.RoleSession || id.Session == nil {
		return ""
	}
	return id.Session.Name
}

// canonical is an identity's ARN in IAM as AWS's authenticator makes it of the session's, which does not tell the role's path.
func canonical(id *awsapi.Identity) string {
	a, err := arn.Parse(id.ARN)
	if err != nil || id.Kind != policy.RoleSession {
		return id.ARN
	}
	role, _, _ := strings.Cut(strings.TrimPrefix(a.Resource(), "assumed-role/"), "/")
	return arn.New(a.Partition(), "iam", "", a.Account(), "role/"+role).String()
}

// log writes the event: at level error for failures of the server, else info.
func (h *Handler) log(r *http.Request, e *event, code int, err error, took time.Duration) {
	level := slog.LevelInfo
	if code >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("account", clip(e.address[0])), slog.String("region", clip(e.address[1])), slog.String("cluster", clip(e.address[2])),
		slog.Int("status", code), slog.Bool("authenticated", e.user != nil),
	}
	if e.accessKeyID != "" {
		attrs = append(attrs, slog.String("access_key_id", clip(e.accessKeyID)))
	}
	if e.caller != nil {
		attrs = append(attrs, slog.String("caller", e.caller.ARN))
	}
	if e.user != nil {
		attrs = append(attrs, slog.String("username", e.user.Username), slog.Any("groups", e.user.Groups))
	}
	attrs = append(attrs, slog.Duration("latency", took), slog.String("source", r.RemoteAddr), slog.String("user_agent", clip(r.UserAgent())))
	if err != nil {
		attrs = append(attrs, slog.Any("err", err))
	}
	h.c.Log.LogAttrs(r.Context(), level, "kubernetes token review", attrs...)
}

// clip bounds a text that a stranger chose.
func clip(s string) string {
	if len(s) > maxLogged {
		s = strings.ToValidUTF8(s[:maxLogged], "") + "..."
	}
	return s
}
