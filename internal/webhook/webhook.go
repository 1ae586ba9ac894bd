// Package webhook is the admission webhook that gives pods what they need for their credentials, for both ways: it
// decides what a pod's service account has, and podspec says what that means for the pod. What memory does not have is
// looked up where it is kept before the answer is no, so that pods may be made in the same moment as what they need.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/lanyard-id/lanyard/internal/podspec"
)

// Path is where API servers send their reviews.
const Path = "/mutate"

// SkipLabel, on a pod, keeps the webhook from it.
const SkipLabel = "eks.amazonaws.com/skip-pod-identity-webhook"

const (
	// maxBody bounds a review: it has an object twice at most, and etcd takes none above 1.5 MiB unless it is told to.
	maxBody = 8 << 20
	// bodyTimeout is how long a review may take to arrive; API servers wait 30 s at most for an answer.
	bodyTimeout = 10 * time.Second
	// answerMargin is how much sooner than an API server gives up it has its answer, or a tenth of the time if that is less: with
	// failurePolicy Ignore it would make the pod without a word otherwise.
	answerMargin = 500 * time.Millisecond
)

// Config is what a Handler needs.
type Config struct {
	Settings podspec.Settings
	// Accounts knows the cluster's service accounts. Required.
	Accounts Accounts
	// Configured knows which of them have a role without an annotation.
	Configured Configured
	// Associations knows which of them have an association; nil for a cluster without Pod Identity.
	Associations *Associations
	// FailClosed refuses pods of which it cannot be told whether they should have an identity. Otherwise they are admitted
	// without one, with a warning.
	FailClosed bool
	// Event tells of a service account that something is wrong with it; nil tells nobody. It must not block.
	Event func(account *corev1.ServiceAccount, reason, message string)
	// Given tells of a namespace that a pod in it is being given an identity; nil tells nobody. It must not block.
	Given   func(namespace string)
	Metrics *Metrics // required
	Log     *slog.Logger
}

// Handler answers API servers' reviews of pods.
type Handler struct{ Config }

// New returns a handler of POST requests to Path.
func New(c Config) *Handler { return &Handler{c} }

// ServeHTTP implements http.Handler. A review that cannot be read is answered with a status of 4xx, so that the
// registration's failurePolicy decides.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	status, body := h.answer(w, r)
	if status == http.StatusOK {
		w.Header().Set("Content-Type", "application/json")
	} else {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // who asked has gone
	h.Metrics.answered(r.Method, status, time.Since(start))
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request) (status int, body []byte) {
	refuse := func(status int, text string) (int, []byte) {
		h.Log.Warn("review not answered", "status", status, "reason", text)
		return status, []byte(text + "\n")
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, "Method not allowed, expected POST")
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "Invalid Content-Type, expected `application/json`")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) //nolint:errcheck // a broken connection fails at the next read
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, "The review is too large")
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "The review did not arrive")
	}
	review, err := readReview(text)
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	ctx, cancel := inTime(r)
	defer cancel()
	review.Response = h.review(ctx, review.Request)
	review.Response.UID = review.Request.UID
	review.Request = nil
	body, err = json.Marshal(review)
	if err != nil {
		return refuse(http.StatusInternalServerError, "The answer cannot be encoded")
	}
	return http.StatusOK, body
}

// inTime returns the context of a request, which ends before the API server gives up: it says when, as the registration's timeoutSeconds.
func inTime(r *http.Request) (context.Context, context.CancelFunc) {
	timeout, err := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err != nil || timeout <= 0 {
		return context.WithCancel(r.Context())
	}
	return context.WithTimeout(r.Context(), timeout-min(answerMargin, timeout/10))
}

// readReview reads a review in version v1 or v1beta1, which have the same members. Members that are unknown are those of a
// later API server.
func readReview(text []byte) (*admissionv1.AdmissionReview, error) {
	var review admissionv1.AdmissionReview
	if err := utiljson.Unmarshal(text, &review); err != nil {
		return nil, fmt.Errorf("the review cannot be read: %w", err)
	}
	switch {
	case review.Kind != "AdmissionReview" || review.APIVersion != "admission.k8s.io/v1" && review.APIVersion != "admission.k8s.io/v1beta1":
		return nil, fmt.Errorf("it is no AdmissionReview that is understood: apiVersion %.100q, kind %.100q", review.APIVersion, review.Kind)
	case review.Request == nil || review.Request.UID == "":
		return nil, errors.New("the review has no request")
	}
	return &review, nil
}

// The requests that concern the webhook.
func createsPod(r *admissionv1.AdmissionRequest) bool {
	return r.Resource == podResource() && r.SubResource == "" && r.Operation == admissionv1.Create
}

func addsEphemeral(r *admissionv1.AdmissionRequest) bool {
	return r.Resource == podResource() && r.SubResource == "ephemeralcontainers" && r.Operation == admissionv1.Update
}

func podResource() metav1.GroupVersionResource {
	return metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
}

// leftAlone reports whether a pod is given nothing, whatever its service account has: who made it asks for that by the label, and a mirror
// of a static pod has no service account. API servers refuse mirrors that have a token.
func leftAlone(pod *corev1.Pod) bool {
	_, labelled := pod.Labels[SkipLabel]
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return labelled || mirror
}

// review decides on one request. What does not concern the webhook is allowed.
func (h *Handler) review(ctx context.Context, r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	allowed := &admissionv1.AdmissionResponse{Allowed: true}
	if !createsPod(r) && !addsEphemeral(r) {
		return allowed
	}
	var pod, old corev1.Pod
	if err := utiljson.Unmarshal(r.Object.Raw, &pod); err != nil {
		return denied(http.StatusBadRequest, metav1.StatusReasonBadRequest, "the pod cannot be read: "+err.Error())
	}
	if addsEphemeral(r) {
		if err := utiljson.Unmarshal(r.OldObject.Raw, &old); err != nil {
			return denied(http.StatusBadRequest, metav1.StatusReasonBadRequest, "the pod as it was cannot be read: "+err.Error())
		}
		if !h.Settings.Mutated(&pod, podspec.WebIdentity) && !h.Settings.Mutated(&pod, podspec.PodIdentity) {
			return allowed // nothing can be given to it any more
		}
	}
	if leftAlone(&pod) {
		h.Metrics.reviewed(outcomeSkipped)
		return allowed
	}
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	found := h.find(ctx, r.Namespace, name)
	outcome, patch, problem := h.give(r, &pod, &old, found)
	h.Metrics.reviewed(outcome)
	h.log(r, &pod, name, outcome, found, problem)
	dryRun := r.DryRun != nil && *r.DryRun
	if problem == "" {
		if outcome == outcomeMutated && !dryRun && h.Given != nil {
			h.Given(r.Namespace)
		}
		return patched(patch)
	}
	message := fmt.Sprintf("lanyard: service account %s/%s: %s", r.Namespace, name, problem)
	if outcome == outcomeUnconfirmed && h.FailClosed {
		return denied(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, message)
	}
	if outcome == outcomeInvalid && found.account != nil && h.Event != nil && !dryRun {
		h.Event(found.account, "PodWithoutCredentials", problem)
	}
	allowed.Warnings = []string{message + "; the pod runs without AWS credentials"}
	return allowed
}

// give returns what the pod gets of what has been found. A problem says why it gets nothing although it should, or might.
func (h *Handler) give(r *admissionv1.AdmissionRequest, pod, old *corev1.Pod, found finding) (o outcome, patch []podspec.Operation, problem string) {
	if found.way == 0 {
		if found.err != nil {
			return outcomeUnconfirmed, nil, "it cannot be told whether it has a role: " + found.unknown + " could not be looked up"
		}
		return outcomeNone, nil, ""
	}
	way := h.keep(pod, found)
	id, err := h.Settings.Identity(way, found.annotations(way))
	if err != nil && way == podspec.WebIdentity && found.configured != nil {
		err = fmt.Errorf("as the ConfigMap %s says it, %w", ConfiguredConfigMap, err)
	}
	if err != nil {
		return outcomeInvalid, nil, err.Error()
	}
	if way == podspec.PodIdentity {
		id.Jitter = rand.Int64N(podspec.MaxJitter + 1)
	}
	if addsEphemeral(r) {
		patch, err = h.Settings.PatchEphemeral(pod, old, id)
	} else {
		patch, err = h.Settings.Patch(pod, id)
	}
	switch {
	case err != nil:
		return outcomeInvalid, nil, err.Error()
	case len(patch) == 0:
		return outcomeUnchanged, nil, ""
	}
	h.Metrics.gave(way)
	return outcomeMutated, patch, ""
}

// keep returns the way that a pod gets: what it has been given once it keeps when the API server asks again, since the ways never
// mix in one pod.
func (h *Handler) keep(pod *corev1.Pod, found finding) podspec.Way {
	if h.Settings.Mutated(pod, found.way) {
		return found.way
	}
	for _, w := range []podspec.Way{podspec.WebIdentity, podspec.PodIdentity} {
		if _, err := h.Settings.Identity(w, found.annotations(w)); err == nil && h.Settings.Mutated(pod, w) {
			return w
		}
	}
	return found.way
}

func (h *Handler) log(r *admissionv1.AdmissionRequest, pod *corev1.Pod, account string, o outcome, found finding, problem string) {
	name := pod.Name
	if name == "" {
		name = pod.GenerateName
	}
	level := slog.LevelDebug
	switch o {
	case outcomeMutated:
		level = slog.LevelInfo
	case outcomeInvalid, outcomeUnconfirmed:
		level = slog.LevelWarn
	}
	attributes := []slog.Attr{
		slog.String("uid", string(r.UID)), slog.String("namespace", r.Namespace), slog.String("pod", name), slog.String("serviceAccount", account),
		slog.String("outcome", string(o)), slog.String("way", found.way.String()),
	}
	if problem != "" {
		attributes = append(attributes, slog.String("problem", problem))
	}
	if found.err != nil {
		attributes = append(attributes, slog.Any("err", found.err))
	}
	h.Log.LogAttrs(context.Background(), level, "pod reviewed", attributes...)
}

func denied(code int32, reason metav1.StatusReason, message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

func patched(patch []podspec.Operation) *admissionv1.AdmissionResponse {
	response := &admissionv1.AdmissionResponse{Allowed: true}
	if len(patch) == 0 {
		return response
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return denied(http.StatusInternalServerError, metav1.StatusReasonInternalError, "the patch cannot be encoded: "+err.Error())
	}
	kind := admissionv1.PatchTypeJSONPatch
	response.Patch, response.PatchType = text, &kind
	return response
}
