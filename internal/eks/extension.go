package eks

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-id/lanyard/internal/awsapi"
	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/kv"
)

// defaultTokenLife is that of a token which Kubernetes is asked for without saying how long it shall live. The limits are
// the model's, as are those of all other members.
const defaultTokenLife = time.Hour

// tokenNode is the node that tokens of hosted clusters say their pods are on: there is none, and Kubernetes' tokens name
// one for every pod.
const tokenNode = "lanyard"

// maxCertificates bounds the certificates of an endpoint's authorities, in bytes of PEM.
const maxCertificates = 64 << 10

// Extension returns the operations of Lanyard's own API that concern clusters: RegisterCluster, UpdateClusterKeys,
// UpdateClusterEndpoint, CreateServiceAccountToken and GetEffectiveAssociation.
func (s *Service) Extension() []awsapi.Operation {
	return []awsapi.Operation{
		awsapi.Op("RegisterCluster", s.registerCluster, s.registerClusterAccess),
		awsapi.Op("UpdateClusterKeys", s.updateClusterKeys,
			onCluster(s, "lanyard:UpdateClusterKeys", func(in *updateClusterKeysIn) string { return in.Name })),
		awsapi.Op("UpdateClusterEndpoint", s.updateClusterEndpoint,
			onCluster(s, "lanyard:UpdateClusterEndpoint", func(in *updateClusterEndpointIn) string { return in.Name })),
		awsapi.Op("CreateServiceAccountToken", s.createServiceAccountToken,
			onCluster(s, "lanyard:CreateServiceAccountToken", func(in *createTokenIn) string { return in.Name })),
		// It tells nothing that the list does not.
		awsapi.Op("GetEffectiveAssociation", s.getEffectiveAssociation,
			onCluster(s, "eks:ListPodIdentityAssociations", func(in *effectiveAssociationIn) string { return in.Name })),
	}
}

type registerClusterIn struct {
	Name   string
	Issuer string // URL; the issuer is hosted when empty
	Jwks   string // its keys; fetched from it when empty
	// Endpoint is the URL of its API server, and CertificateAuthority has the certificates that vouch for it: both or neither.
	Endpoint             string
	CertificateAuthority *certificateShape
	Tags                 map[string]string
}

type registeredOut struct{ Cluster registeredShape }

type registeredShape struct {
	Name                 string
	Arn                  string
	CreatedAt            time.Time
	Version              string
	Endpoint             string
	Status               string
	CertificateAuthority certificateShape
	Identity             identityShape
	Tags                 map[string]string
}

func (s *Service) registerClusterAccess(c *awsapi.Caller, in *registerClusterIn) ([]awsapi.Access, error) {
	return []awsapi.Access{s.clusterAccess(c, "lanyard:RegisterCluster", in.Name, in.Tags)}, nil
}

// registerCluster makes a cluster that exists elsewhere known, or one that is nothing but a hosted issuer.
func (s *Service) registerCluster(ctx context.Context, c *awsapi.Caller, in *registerClusterIn) (*registeredOut, error) {
	if err := checkTags("InvalidParameterException", in.Tags); err != nil {
		return nil, err
	}
	r := &clusterRecord{Issuer: in.Issuer, Tags: in.Tags}
	if in.Issuer == "" && in.Jwks != "" {
		return nil, invalidParameter("Keys can be registered only together with the issuer that they are of.")
	}
	if in.Issuer != "" {
		if err := s.checkIssuer(in.Issuer, in.Jwks != ""); err != nil {
			return nil, err
		}
	}
	if in.Jwks != "" {
		keys, err := parseKeys(in.Jwks)
		if err != nil {
			return nil, err
		}
		r.Keys = keys
	}
	if in.Endpoint != "" || in.CertificateAuthority != nil {
		if in.Issuer == "" {
			return nil, invalidParameter("An endpoint can be registered only for a cluster with an issuer of its own.")
		}
		var err error
		if r.Endpoint, r.CA, err = parseEndpoint(in.Endpoint, in.CertificateAuthority); err != nil {
			return nil, err
		}
	}
	r, err := s.addCluster(ctx, c, in.Name, r)
	if err != nil {
		return nil, err
	}
	return s.registered(c, in.Name, r), nil
}

func (s *Service) registered(c *awsapi.Caller, name string, r *clusterRecord) *registeredOut {
	full := s.shape(c.Account, c.Region, name, r)
	return &registeredOut{Cluster: registeredShape{
		Name:                 full.Name,
		Arn:                  full.Arn,
		CreatedAt:            full.CreatedAt,
		Version:              full.Version,
		Endpoint:             full.Endpoint,
		Status:               full.Status,
		CertificateAuthority: full.CertificateAuthority,
		Identity:             full.Identity,
		Tags:                 full.Tags,
	}}
}

// parseEndpoint reads where an API server is, and the certificates that clients know it by, in base64 as DescribeCluster has them. It returns
// the certificates in PEM, and nothing besides that may have been with them.
func parseEndpoint(endpoint string, authority *certificateShape) (normal, certificates string, err error) {
	if endpoint == "" || authority == nil {
		return "", "", invalidParameter("An endpoint and its certificateAuthority can be registered only together.")
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(endpoint, "#") {
		return "", "", invalidParameter("The endpoint must be an https URL without a user, query or fragment.")
	}
	text, err := base64.StdEncoding.DecodeString(authority.Data)
	if err != nil || len(text) > maxCertificates {
		return "", "", invalidParameter("The certificateAuthority's data must be the base64 of at most %d bytes.", maxCertificates)
	}
	var all []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", "", invalidParameter("The certificateAuthority's data must have certificates in PEM, and nothing else.")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			e := invalidParameter("The certificateAuthority's data has a certificate that cannot be read.")
			e.Cause = err
			return "", "", e
		}
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if all == nil {
		return "", "", invalidParameter("The certificateAuthority's data has no certificate in PEM.")
	}
	return strings.TrimSuffix(u.String(), "/"), string(all), nil
}

type updateClusterEndpointIn struct {
	Name                 string
	Endpoint             string
	CertificateAuthority *certificateShape
}

// updateClusterEndpoint says anew where the API server is of a cluster that has an issuer of its own.
func (s *Service) updateClusterEndpoint(ctx context.Context, c *awsapi.Caller, in *updateClusterEndpointIn) (*registeredOut, error) {
	endpoint, ca, err := parseEndpoint(in.Endpoint, in.CertificateAuthority)
	if err != nil {
		return nil, err
	}
	if have, err := s.findCluster(ctx, c.Account, c.Region, in.Name); err != nil {
		return nil, err
	} else if have == nil {
		return nil, noSuchCluster(in.Name)
	}
	key := clusterKey(c.Account, c.Region, in.Name)
	var changed clusterRecord
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.clusters.Read(tx, key)
		switch {
		case !ok || r.Deleting:
			return noSuchCluster(in.Name)
		case r.HostedID != "":
			return invalidRequest("The issuer of the cluster %s is hosted here: it has no API server.", in.Name)
		}
		changed = *r
		changed.Endpoint, changed.CA = endpoint, ca
		s.clusters.Write(tx, key, &changed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.registered(c, in.Name, &changed), nil
}

// checkIssuer holds an issuer's URL to the rules of OpenID Connect Discovery, section 2. An issuer whose keys are registered with it
// is a name that tokens bear, which nobody is asked at: some API servers have one with http. An issuer that is hosted here has its
// keys here: nobody may bring others for it.
func (s *Service) checkIssuer(text string, withKeys bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && !(withKeys && u.Scheme == "http") || u.Hostname() == "":
		return invalidParameter("The issuer must be an https URL, or an http URL with its keys.")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return invalidParameter("The issuer's URL must have no user, query or fragment.")
	case u.String() != text || u.Host != strings.ToLower(u.Host):
		normal := url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host), Path: u.Path, RawPath: u.RawPath}
		return invalidParameter("The issuer's URL must be in its normal form, which is %s.", normal.String())
	}
	if _, _, hosted := s.issuers.ByURL(text); hosted {
		return invalidParameter("The issuer %s is hosted here, for another cluster.", text)
	}
	return nil
}

func parseKeys(jwks string) (*keySet, error) {
	keys, err := newKeySet([]byte(jwks))
	if err != nil {
		e := invalidParameter("The jwks is not valid: %s", err)
		e.Cause = err
		return nil, e
	}
	if len(keys.keys.Set.Keys) == 0 {
		return nil, invalidParameter("The jwks has no key that tokens could be verified with.")
	}
	return keys, nil
}

type updateClusterKeysIn struct {
	Name string
	Jwks string
}

type updateClusterKeysOut struct {
	KeyIds         []string
	PreviousKeyIds []string // those that were replaced, in their order; none if the keys were fetched from the issuer so far
}

// updateClusterKeys replaces the registered keys of a cluster with an issuer of its own, as the cluster rotates them.
func (s *Service) updateClusterKeys(ctx context.Context, c *awsapi.Caller, in *updateClusterKeysIn) (*updateClusterKeysOut, error) {
	keys, err := parseKeys(in.Jwks)
	if err != nil {
		return nil, err
	}
	if have, err := s.findCluster(ctx, c.Account, c.Region, in.Name); err != nil {
		return nil, err
	} else if have == nil {
		return nil, noSuchCluster(in.Name)
	}
	key := clusterKey(c.Account, c.Region, in.Name)
	var previous *keySet
	err = s.db.Update(ctx, func(tx *kv.Tx) error {
		r, ok := s.clusters.Read(tx, key)
		if ok {
			previous = r.Keys
		}
		switch {
		case !ok || r.Deleting:
			return noSuchCluster(in.Name)
		case r.HostedID != "":
			return invalidRequest("The issuer of the cluster %s is hosted here, and its keys are made here.", in.Name)
		case r.Keys != nil && bytes.Equal(r.Keys.document, keys.document):
			return nil
		}
		changed := *r
		changed.Keys = keys
		s.clusters.Write(tx, key, &changed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &updateClusterKeysOut{KeyIds: keys.ids(), PreviousKeyIds: previous.ids()}, nil
}

type createTokenIn struct {
	Name            string
	Namespace       string
	ServiceAccount  string
	PodName         string // the token is bound to no pod when empty
	Audiences       []string
	DurationSeconds *int32
}

type createTokenOut struct {
	Token      string
	Expiration time.Time
}

// createServiceAccountToken signs a token as Kubernetes would for a pod of a hosted cluster (Kubernetes, "Managing Service
// Accounts", schema for service account private claims). The objects it names need not exist anywhere; their UIDs are
// always the same.
func (s *Service) createServiceAccountToken(ctx context.Context, c *awsapi.Caller, in *createTokenIn) (*createTokenOut, error) {
	life := defaultTokenLife
	if in.DurationSeconds != nil {
		life = time.Duration(*in.DurationSeconds) * time.Second
	}
	cluster, err := s.FindCluster(ctx, c.Account, c.Region, in.Name)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return nil, noSuchCluster(in.Name)
	}
	if cluster.HostedID == "" {
		return nil, invalidRequest("The cluster %s has an issuer of its own; only that can make its tokens.", in.Name)
	}
	now := s.now().Truncate(time.Second)
	expires := now.Add(life)
	token, err := s.issuers.Sign(ctx, cluster.HostedID, tokenClaims(cluster, in, now, expires))
	if err != nil {
		return nil, fmt.Errorf("sign a token of cluster %s: %w", in.Name, err)
	}
	return &createTokenOut{Token: token, Expiration: expires.UTC()}, nil
}

// tokenClaims are the claims of a bound service account token, in the form that Kubernetes gives them.
func tokenClaims(cluster *Cluster, in *createTokenIn, now, expires time.Time) map[string]any {
	object := func(kind, namespace, name string) idtoken.Ref {
		sum := sha256.Sum256([]byte(strings.Join([]string{cluster.HostedID, kind, namespace, name}, "\x00")))
		return idtoken.Ref{Name: name, UID: uuid([16]byte(sum[:16]))}
	}
	kubernetes := idtoken.Kubernetes{Namespace: in.Namespace, ServiceAccount: object("serviceaccount", in.Namespace, in.ServiceAccount)}
	if in.PodName != "" {
		pod, node := object("pod", in.Namespace, in.PodName), object("node", "", tokenNode)
		kubernetes.Pod, kubernetes.Node = &pod, &node
	}
	var id [16]byte
	rand.Read(id[:])
	return map[string]any{
		"aud":           in.Audiences,
		"exp":           expires.Unix(),
		"iat":           now.Unix(),
		"nbf":           now.Unix(),
		"iss":           cluster.Issuer,
		"jti":           uuid(id),
		"kubernetes.io": kubernetes,
		"sub":           "system:serviceaccount:" + in.Namespace + ":" + in.ServiceAccount,
	}
}

type effectiveAssociationIn struct{ Name, Namespace, ServiceAccount string }

type effectiveAssociationOut struct {
	Association *effectiveAssociationShape // nil: none applies
}

type effectiveAssociationShape struct {
	Namespace      string // may be a pattern
	ServiceAccount string // may be a pattern
	AssociationArn string
	AssociationId  string
}

// getEffectiveAssociation tells which association applies to a service account: what EKS Auth would choose, also by a pattern, which the
// filters of ListPodIdentityAssociations do not find. Who asks leaves a pod without credentials if there is none, so that none is confirmed.
func (s *Service) getEffectiveAssociation(ctx context.Context, c *awsapi.Caller, in *effectiveAssociationIn) (*effectiveAssociationOut, error) {
	cluster, err := s.FindCluster(ctx, c.Account, c.Region, in.Name)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return nil, noSuchCluster(in.Name)
	}
	a, err := s.Association(ctx, cluster, in.Namespace, in.ServiceAccount)
	if err != nil || a == nil {
		return &effectiveAssociationOut{}, err
	}
	return &effectiveAssociationOut{Association: &effectiveAssociationShape{
		Namespace: a.Namespace, ServiceAccount: a.ServiceAccount, AssociationArn: s.associationARN(c.Region, c.Account, in.Name, a.ID), AssociationId: a.ID,
	}}, nil
}

// uuid prints 16 bytes, which may also come from a hash, as a UUID of version 4 (RFC 9562), which all of Kubernetes' are.
func uuid(b [16]byte) string {
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
