// Package eksauth is EKS Auth: it trades a pod's token for credentials of the role that its association names.
package eksauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/audit"
	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/eks"
	"github.com/lanyard-id/lanyard/internal/iam"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/kv"
	"github.com/lanyard-id/lanyard/internal/sts"
	"github.com/lanyard-id/lanyard/policy"
)

const (
	// Audience is what a pod's token must be for. The service principal that roles trust has the same name.
	Audience = "pods.eks.amazonaws.com"

	sessionDuration = 21600 * time.Second // what EKS asks for; roles' MaxSessionDuration does not bind services
	targetDuration  = time.Hour           // the most that a chain of roles may have
	maxTagValue     = 256                 // STS's limit
)

// Config is what the service needs.
type Config struct {
	EKS       *eks.Service // required
	STS       *sts.Service // required
	Partition string
	// Review, if not nil, says of a token that was verified whether the cluster that issued it still honours it. Errors wrap
	// idtoken.ErrRevoked or idtoken.ErrUnreviewed.
	Review func(ctx context.Context, token string, c *idtoken.Claims) error
	Audit  audit.Recorder   // required; a call that cannot be recorded fails
	Now    func() time.Time // time.Now when nil
}

// Service is EKS Auth.
type Service struct {
	eks       *eks.Service
	sts       *sts.Service
	partition string
	review    func(ctx context.Context, token string, c *idtoken.Claims) error
	audit     audit.Recorder
	now       func() time.Time
}

// New makes the service.
func New(c Config) *Service {
	s := &Service{eks: c.EKS, sts: c.STS, partition: c.Partition, review: c.Review, audit: c.Audit, now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// API returns the operation of the EKS Auth API.
func (s *Service) API() awsapi.Service {
	return awsapi.Service{Model: awsapi.ModelNamed("eks-auth"), Operations: []awsapi.Operation{
		awsapi.Op("AssumeRoleForPodIdentity", s.assumeRole, s.access),
	}}
}

type assumeRoleIn struct {
	ClusterName string
	Token       string
	EksNodeName string // where the agent runs; only said for the log
	InstanceId  string
	Zone        string
}

type assumeRoleOut struct {
	Subject                subjectShape
	Audience               string
	PodIdentityAssociation associationShape
	AssumedRoleUser        assumedRoleShape
	Credentials            credentialsShape
}

type subjectShape struct{ Namespace, ServiceAccount string }

type associationShape struct{ AssociationArn, AssociationId string }

type assumedRoleShape struct{ Arn, AssumeRoleId string }

type credentialsShape struct {
	SessionToken    string
	SecretAccessKey string
	AccessKeyId     string
	Expiration      time.Time
}

// access asks for the permission on the cluster's ARN, which is made from the request: whether the cluster exists is not
// for those to learn who lack it.
func (s *Service) access(c *awsapi.Caller, in *assumeRoleIn) ([]awsapi.Access, error) {
	a := awsapi.Access{
		Action:   "eks-auth:AssumeRoleForPodIdentity",
		Resource: arn.New(s.partition, "eks", c.Region, c.Account, "cluster/"+in.ClusterName).String(),
	}
	if cluster, ok := s.eks.Cluster(c.Account, c.Region, in.ClusterName); ok && len(cluster.Tags) > 0 {
		a.Context = func(p *policy.Context) {
			for k, v := range cluster.Tags {
				p.Set("aws:ResourceTag/"+k, v)
			}
		}
	}
	return []awsapi.Access{a}, nil
}

// grant is what is found out about a request on the way: for the answer, the log and the record.
type grant struct {
	cluster     *eks.Cluster
	pod         *idtoken.Kubernetes
	association *eks.Association
	session     *sts.Assumed
}

// Exchange trades a pod's token for credentials, for a part of the control plane that pods ask directly. No permission is
// asked for: the token tells which pod it is, and the caller that this is the pod's own request. Errors are those of
// AssumeRoleForPodIdentity.
func (s *Service) Exchange(ctx context.Context, c *awsapi.Caller, cluster, token string) (*sts.Assumed, error) {
	g, err := s.exchange(ctx, c, &assumeRoleIn{ClusterName: cluster, Token: token})
	if err != nil {
		return nil, err
	}
	return g.session, nil
}

// exchange grants and records.
func (s *Service) exchange(ctx context.Context, c *awsapi.Caller, in *assumeRoleIn) (*grant, error) {
	var g grant
	err := s.grant(ctx, c, in, &g)
	g.annotate(ctx, in)
	if recordErr := s.record(ctx, c, in, &g, err); recordErr != nil {
		return nil, fmt.Errorf("record AssumeRoleForPodIdentity: %w", recordErr)
	}
	return &g, err
}

func (s *Service) assumeRole(ctx context.Context, c *awsapi.Caller, in *assumeRoleIn) (*assumeRoleOut, error) {
	g, err := s.exchange(ctx, c, in)
	if g != nil && g.pod != nil && g.pod.Node != nil {
		s.eks.AgentAsked(g.cluster, g.pod.Node.Name)
	}
	if err != nil {
		return nil, err
	}
	return &assumeRoleOut{
		Subject:                subjectShape{Namespace: g.pod.Namespace, ServiceAccount: g.pod.ServiceAccount.Name},
		Audience:               Audience,
		PodIdentityAssociation: associationShape{AssociationArn: g.association.ARN, AssociationId: g.association.ID},
		AssumedRoleUser:        assumedRoleShape{Arn: g.session.ARN, AssumeRoleId: g.session.AssumedRoleID},
		Credentials: credentialsShape{
			SessionToken:    g.session.Credentials.SessionToken,
			SecretAccessKey: string(g.session.Credentials.SecretAccessKey),
			AccessKeyId:     g.session.Credentials.AccessKeyID,
			Expiration:      g.session.Expires,
		},
	}, nil
}

// grant goes the whole way: cluster, token, association, role.
func (s *Service) grant(ctx context.Context, c *awsapi.Caller, in *assumeRoleIn, g *grant) (err error) {
	if g.cluster, err = s.eks.FindCluster(ctx, c.Account, c.Region, in.ClusterName); err != nil {
		return err
	}
	if g.cluster == nil {
		return awsapi.Errorf("ResourceNotFoundException", "No cluster found for name: %s.", in.ClusterName)
	}
	if g.pod, err = s.verify(ctx, g.cluster, in.Token); err != nil {
		return err
	}
	if g.association, err = s.eks.Association(ctx, g.cluster, g.pod.Namespace, g.pod.ServiceAccount.Name); err != nil {
		return err
	}
	if g.association == nil {
		return awsapi.Errorf("ResourceNotFoundException", "No association found for service account %s in namespace %s of cluster %s.",
			g.pod.ServiceAccount.Name, g.pod.Namespace, g.cluster.Name)
	}
	g.session, err = s.assume(ctx, c, g)
	return err
}

// verify checks a pod's token in full and returns whose it is: for the record also with the error, if all is well with the token
// but that its cluster does not honour it.
func (s *Service) verify(ctx context.Context, cluster *eks.Cluster, token string) (*idtoken.Kubernetes, error) {
	keys := s.eks.Keys(cluster)
	claims, err := idtoken.Verify(ctx, token, idtoken.Expect{Issuer: cluster.Issuer, Audiences: []string{Audience}, Now: s.now()}, keys)
	if err != nil {
		return nil, refuseToken(ctx, err, keys)
	}
	pod := claims.Kubernetes
	switch {
	case pod == nil || pod.Pod == nil || pod.Pod.Name == "" || pod.Pod.UID == "":
		return nil, invalidToken("The token is not bound to a pod.", nil)
	case claims.Subject != "system:serviceaccount:"+pod.Namespace+":"+pod.ServiceAccount.Name:
		return nil, invalidToken("The token's subject is not its service account.", nil)
	}
	// What Kubernetes cannot have named is not taken into session tags and session names, whoever signed it.
	for _, name := range []string{pod.Namespace, pod.ServiceAccount.Name, pod.Pod.Name, pod.Pod.UID} {
		if !plainName(name) {
			return nil, invalidToken("The token names objects that cannot exist in Kubernetes.", nil)
		}
	}
	if s.review != nil {
		if err := s.review(ctx, token, claims); err != nil {
			return pod, refuseToken(ctx, err, keys)
		}
	}
	return pod, nil
}

// plainName reports whether a name is made of what Kubernetes' names and UIDs are, and fits into a session tag.
func plainName(s string) bool {
	if s == "" || len(s) > maxTagValue {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// refuseToken answers for a token that does not verify. Whether the issuer's keys cannot be had at all, for which the
// token is not to blame, or only none of the token's key ID, shows by asking for all of them.
func refuseToken(ctx context.Context, err error, keys idtoken.KeySource) error {
	if expired, ok := errors.AsType[*idtoken.ExpiredError](err); ok {
		return &awsapi.Error{Code: "ExpiredTokenException", Message: expired.Error(), Cause: err}
	}
	if errors.Is(err, idtoken.ErrUnreviewed) {
		return &awsapi.Error{
			Code: "ServiceUnavailableException", Message: "The cluster's API server cannot be asked about the token at the moment.", Cause: err,
		}
	}
	if errors.Is(err, idtoken.ErrKeys) {
		if _, none := keys.Keys(ctx, ""); none != nil {
			return &awsapi.Error{
				Code: "ServiceUnavailableException", Message: "The keys of the cluster's issuer cannot be had at the moment.", Cause: err,
			}
		}
	}
	text := "The token is not valid."
	for _, why := range []struct {
		is   error
		text string
	}{
		{idtoken.ErrIssuer, "The token was not issued by the cluster's issuer."},
		{idtoken.ErrAudience, "The token's audience is not " + Audience + "."},
		{idtoken.ErrNotYet, "The token is not valid yet."},
		{idtoken.ErrAlgorithm, "The token's signing algorithm is not accepted."},
		{idtoken.ErrSignature, "The token's signature is not valid."},
		{idtoken.ErrKeys, "The token is not signed by a key of the cluster's issuer."},
		{idtoken.ErrRevoked, "The cluster does not honour the token any more: its pod or its service account is gone."},
	} {
		if errors.Is(err, why.is) {
			text = why.text
			break
		}
	}
	return invalidToken(text, err)
}

func invalidToken(text string, cause error) error {
	return &awsapi.Error{Code: "InvalidTokenException", Message: text, Cause: cause}
}

// assume makes the session: of the association's role, and by way of it of the target role, if there is one.
func (s *Service) assume(ctx context.Context, c *awsapi.Caller, g *grant) (*sts.Assumed, error) {
	role, err := arn.Parse(g.association.RoleARN)
	if err != nil {
		return nil, fmt.Errorf("role of association %s: %w", g.association.ID, err)
	}
	first := &sts.AssumeInput{
		Action:      "sts:AssumeRole",
		Principal:   policy.Principal{Kind: policy.Service, Name: Audience},
		Caller:      c,
		Role:        role,
		SessionName: sessionName(g.cluster.Name, g.pod.Pod.Name),
		Duration:    sessionDuration,
		Context: []awsapi.KeyValue{
			{Key: "aws:SourceArn", Value: g.cluster.ARN},
			{Key: "aws:SourceAccount", Value: g.cluster.Account},
		},
		ByService: true,
		Subject:   g.subject(),
		Pod:       g.pod.Namespace + "/" + g.pod.Pod.Name,
	}
	if !g.association.DisableSessionTags {
		first.Tags = sessionTags(g.cluster, g.pod)
		first.TransitiveKeys = make([]string, 0, len(first.Tags))
		for _, t := range first.Tags {
			first.TransitiveKeys = append(first.TransitiveKeys, t.Key)
		}
	}
	if g.association.TargetRoleARN == "" {
		first.Policy = g.association.Policy
		session, err := s.sts.Assume(ctx, first)
		return session, denied(err)
	}
	session, err := s.sts.Assume(ctx, first)
	if err != nil {
		return nil, denied(err)
	}
	target, err := arn.Parse(g.association.TargetRoleARN)
	if err != nil {
		return nil, fmt.Errorf("target role of association %s: %w", g.association.ID, err)
	}
	caller := *c
	caller.Identity = session.Identity
	session, err = s.sts.Assume(ctx, &sts.AssumeInput{
		Action:      "sts:AssumeRole",
		Principal:   iam.Principal(&caller.Identity),
		Caller:      &caller,
		Role:        target,
		SessionName: first.SessionName,
		Duration:    targetDuration,
		// Of the pod's own names, also where the association is a pattern. The session tags come along by themselves, as
		// transitive ones; to pass them again would be refused.
		ExternalID: eks.ExternalID(g.cluster, g.pod.Namespace, g.pod.ServiceAccount.Name),
		Policy:     g.association.Policy,
		InvokedBy:  Audience,
		Subject:    first.Subject,
		Pod:        first.Pod,
	})
	return session, denied(err)
}

// denied answers for every refusal of STS alike, as EKS Auth does. What is no refusal stays what it is.
func denied(err error) error {
	if _, ok := errors.AsType[*awsapi.Error](err); !ok || errors.Is(err, kv.ErrUnavailable) {
		return err
	}
	return &awsapi.Error{
		Code:    "AccessDeniedException",
		Message: "Unauthorized Exception! EKS does not have permissions to assume the associated role.",
		Status:  400,
		Cause:   err,
	}
}

// sessionTags are the tags that EKS Pod Identity gives a session, in its order (EKS User Guide, "Grant Pods access to AWS
// resources based on tags"). They are the pod's own, also where the association is a pattern.
func sessionTags(cluster *eks.Cluster, pod *idtoken.Kubernetes) []awsapi.Tag {
	return []awsapi.Tag{
		{Key: "eks-cluster-arn", Value: cluster.ARN},
		{Key: "eks-cluster-name", Value: cluster.Name},
		{Key: "kubernetes-namespace", Value: pod.Namespace},
		{Key: "kubernetes-service-account", Value: pod.ServiceAccount.Name},
		{Key: "kubernetes-pod-name", Value: pod.Pod.Name},
		{Key: "kubernetes-pod-uid", Value: pod.Pod.UID},
	}
}

// sessionName is eks-CLUSTER-POD-UUID with the first ten characters of both names: at most 62 in all, of STS's 64.
func sessionName(cluster, pod string) string {
	return "eks-" + cluster[:min(len(cluster), 10)] + "-" + pod[:min(len(pod), 10)] + "-" + awsapi.NewUUID()
}

// annotate adds what was found out to the request's log event.
func (g *grant) annotate(ctx context.Context, in *assumeRoleIn) {
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("cluster", in.ClusterName))
	if in.EksNodeName != "" {
		attrs = append(attrs, slog.String("node", in.EksNodeName))
	}
	if g.pod != nil {
		attrs = append(attrs, slog.String("namespace", g.pod.Namespace), slog.String("service_account", g.pod.ServiceAccount.Name),
			slog.String("pod", g.pod.Pod.Name))
	}
	if g.association != nil {
		attrs = append(attrs, slog.String("association", g.association.ID), slog.Bool("pattern", g.association.IsPattern()))
	}
	awsapi.Annotate(ctx, attrs...)
}

// subject is the service account that the token is of.
func (g *grant) subject() string {
	return "system:serviceaccount:" + g.pod.Namespace + ":" + g.pod.ServiceAccount.Name
}

// record keeps the event of the call, besides those of the roles that STS was asked for. The token is never in it.
func (s *Service) record(ctx context.Context, c *awsapi.Caller, in *assumeRoleIn, g *grant, err error) error {
	e := awsapi.NewRecord(c, "eks-auth", "AssumeRoleForPodIdentity")
	e.Parameters = audit.Object(nil).Text("clusterName", in.ClusterName).Text("token", audit.Hidden)
	e.Lanyard = audit.Lanyard{Resources: []audit.Named{{Type: "AWS::EKS::Cluster", Name: in.ClusterName}}}
	if g.pod != nil {
		e.Lanyard.Subject, e.Lanyard.Pod = g.subject(), g.pod.Namespace+"/"+g.pod.Pod.Name
	}
	if g.association != nil {
		e.Lanyard.Association = g.association.ARN
		e.Lanyard.Decision = fmt.Sprintf("association %s of %s/%s", g.association.ID, g.association.Namespace, g.association.ServiceAccount)
	}
	awsapi.RecordError(e, err)
	if refusal, ok := errors.AsType[*awsapi.Error](err); ok && g.pod != nil && g.association == nil && refusal.Cause != nil {
		e.Lanyard.Decision = "refused: " + refusal.Cause.Error() // of a token that was not verified, the cause may be anything
	}
	if err := s.audit.Record(ctx, e); err != nil {
		return err
	}
	awsapi.Recorded(ctx)
	return nil
}
