package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/lanyard-id/lanyard/arn"
	"github.com/lanyard-id/lanyard/internal/agent"
	"github.com/lanyard-id/lanyard/internal/podspec"
	"github.com/lanyard-id/lanyard/internal/subject"
)

// shared is what the pods of a cluster have in common on the side of AWS.
type shared struct {
	account    string // of the caller; empty until it is asked for, and where it cannot be told
	plane      *Read[Server]
	registered *Read[Cluster]
	list       *Read[[]Association]
	one        map[string]Read[Association] // by ID
	roles      map[string]Read[Role]        // by ARN
	providers  map[string]Read[Provider]    // by ARN
	published  map[string]Published         // by issuer
}

func newShared() shared {
	return shared{
		one: map[string]Read[Association]{}, roles: map[string]Read[Role]{}, providers: map[string]Read[Provider]{},
		published: map[string]Published{},
	}
}

// once returns what is known by a key, or finds it out.
func once[T any](known map[string]T, key string, find func() T) T {
	v, there := known[key]
	if !there {
		v = find()
		known[key] = v
	}
	return v
}

// awsRead turns an error of AWS, or of Lanyard, into a Read. The action is what the caller needs the right to.
func awsRead[T any](err error, action, resource string) Read[T] {
	api := smithy.APIError(nil)
	if !errors.As(err, &api) {
		return Read[T]{Why: errorText(err)}
	}
	text := api.ErrorCode() + ": " + strings.TrimSuffix(api.ErrorMessage(), ".")
	switch api.ErrorCode() {
	case "NoSuchEntity", "NoSuchEntityException", "ResourceNotFoundException":
		return Read[T]{Absent: true}
	case "AccessDenied", "AccessDeniedException":
		return Read[T]{Why: text, Grant: fmt.Sprintf("Have the action %s on %s allowed to your credentials; `lanyard doctor --help` names "+
			"all that are needed.", action, resource)}
	}
	return Read[T]{Why: text}
}

// errorText is an error of the SDK without the request.
func errorText(err error) string {
	network := (*net.OpError)(nil)
	if errors.As(err, &network) {
		return network.Error()
	}
	operation := (*smithy.OperationError)(nil)
	if errors.As(err, &operation) {
		return operation.Err.Error()
	}
	return err.Error()
}

// control finds out whether STS answers, and what its clock says, and reads the cluster.
func (d *Doctor) control(ctx context.Context, f *Facts) {
	if d.shared.plane == nil {
		plane := d.plane(ctx)
		d.shared.plane = &plane
	}
	f.ControlPlane = *d.shared.plane
	if f.ControlPlane.Value == nil {
		return
	}
	if d.shared.registered == nil {
		cluster := d.cluster(ctx)
		d.shared.registered = &cluster
	}
	f.Registered = *d.shared.registered
}

func (d *Doctor) plane(ctx context.Context) Read[Server] {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.c.Endpoint, nil)
	if err != nil {
		return Read[Server]{Why: err.Error()}
	}
	reply, err := d.c.Plain.Do(r) // whatever the status: it answers
	if err != nil {
		return Read[Server]{Why: networkText(err)}
	}
	if err := reply.Body.Close(); err != nil {
		return Read[Server]{Why: err.Error()}
	}
	s := Server{Address: d.c.Endpoint}
	if date, err := http.ParseTime(reply.Header.Get("Date")); err == nil {
		s.Date = date
	}
	return found(s)
}

func (d *Doctor) cluster(ctx context.Context) Read[Cluster] {
	out, err := eks.NewFromConfig(d.c.AWS).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: &d.c.Cluster})
	if err != nil {
		return awsRead[Cluster](err, "eks:DescribeCluster", "cluster "+d.c.Cluster)
	}
	c := Cluster{ARN: value(out.Cluster.Arn)}
	if id := out.Cluster.Identity; id != nil && id.Oidc != nil {
		c.Issuer = value(id.Oidc.Issuer)
	}
	return found(c)
}

// associations reads the cluster's associations, and the one that applies.
func (d *Doctor) associations(ctx context.Context, f *Facts) {
	d.control(ctx, f)
	switch {
	case f.ControlPlane.Value == nil:
		f.Associations = Read[[]Association]{Why: f.who() + " could not be asked"}
		return
	case f.Registered.Absent: // and so there are none
		f.Associations = found([]Association{})
		return
	}
	client := eks.NewFromConfig(d.c.AWS)
	if d.shared.list == nil {
		all := d.listAssociations(ctx, client)
		d.shared.list = &all
	}
	f.Associations = *d.shared.list
	best := f.applies()
	if best == nil {
		return
	}
	f.Association = once(d.shared.one, best.ID, func() Read[Association] {
		out, err := client.DescribePodIdentityAssociation(ctx, &eks.DescribePodIdentityAssociationInput{ClusterName: &d.c.Cluster, AssociationId: &best.ID})
		if err != nil {
			return awsRead[Association](err, "eks:DescribePodIdentityAssociation", "association "+best.ID)
		}
		a := *best
		a.RoleARN, a.TargetARN, a.DisableSessionTags = value(out.Association.RoleArn), value(out.Association.TargetRoleArn),
			value(out.Association.DisableSessionTags)
		return found(a)
	})
}

func (d *Doctor) listAssociations(ctx context.Context, client *eks.Client) Read[[]Association] {
	all := []Association{}
	for pages := eks.NewListPodIdentityAssociationsPaginator(client,
		&eks.ListPodIdentityAssociationsInput{ClusterName: &d.c.Cluster}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return awsRead[[]Association](err, "eks:ListPodIdentityAssociations", "cluster "+d.c.Cluster)
		}
		for _, a := range page.Associations {
			all = append(all, Association{ID: value(a.AssociationId), Whom: subject.Subject{Namespace: value(a.Namespace), ServiceAccount: value(a.ServiceAccount)}})
		}
	}
	return found(all)
}

// role reads the role that is assumed, its target role, and for web identity the provider and what is published of its issuer.
func (d *Doctor) role(ctx context.Context, f *Facts) {
	if f.ControlPlane.Value == nil {
		return
	}
	f.Role = d.readRole(ctx, f.firstRole())
	if f.way() == podspec.PodIdentity {
		if a := f.Association.Value; a != nil && a.TargetARN != "" {
			f.Target = d.readRole(ctx, a.TargetARN)
		}
		return
	}
	if provider := f.providerARN(); provider != "" {
		f.Provider = once(d.shared.providers, provider, func() Read[Provider] {
			out, err := iam.NewFromConfig(d.c.AWS).GetOpenIDConnectProvider(ctx, &iam.GetOpenIDConnectProviderInput{OpenIDConnectProviderArn: &provider})
			if err != nil {
				r := awsRead[Provider](err, "iam:GetOpenIDConnectProvider", provider)
				if r.Absent && !d.own(ctx, provider) { // IAM looks in the caller's account alone
					return Read[Provider]{Why: "it is of another account than your credentials"}
				}
				return r
			}
			return found(Provider{ARN: provider, ClientIDs: out.ClientIDList})
		})
	}
	// Lanyard's STS has the keys of clusters that are registered with it, unless they are to be fetched, which the call shows.
	if issuer := f.issuer(); strings.HasPrefix(issuer, "https://") && (!d.c.Lanyard || f.Registered.Value == nil) {
		f.Published = found(once(d.shared.published, issuer, func() Published { return d.c.Published(ctx, issuer) }))
	}
}

// own reports whether an ARN is of the caller's account. It is if that cannot be told.
func (d *Doctor) own(ctx context.Context, name string) bool {
	a, err := arn.Parse(name)
	if err != nil {
		return true
	}
	if d.shared.account == "" {
		out, err := sts.NewFromConfig(d.c.AWS).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return true
		}
		d.shared.account = value(out.Account)
	}
	return d.shared.account == a.Account()
}

func (d *Doctor) readRole(ctx context.Context, name string) Read[Role] {
	a, err := arn.Parse(name)
	if err != nil || a.Service() != "iam" || !strings.HasPrefix(a.Resource(), "role/") {
		return Read[Role]{Why: fmt.Sprintf("%q is not the ARN of a role", name)}
	}
	return once(d.shared.roles, name, func() Read[Role] {
		if !d.own(ctx, name) {
			return Read[Role]{Why: "it is of account " + a.Account() + ", and your credentials are of another",
				Grant: "Ask with credentials of that account, with --profile."}
		}
		short := roleName(name)
		out, err := iam.NewFromConfig(d.c.AWS).GetRole(ctx, &iam.GetRoleInput{RoleName: &short})
		if err != nil {
			return awsRead[Role](err, "iam:GetRole", name)
		}
		trust, err := url.PathUnescape(value(out.Role.AssumeRolePolicyDocument))
		if err != nil {
			return Read[Role]{Why: "its trust policy cannot be read: " + err.Error()}
		}
		r := Role{Trust: []byte(trust), MaxSession: time.Duration(value(out.Role.MaxSessionDuration)) * time.Second, Tags: map[string]string{}}
		if r.ARN, err = arn.Parse(value(out.Role.Arn)); err != nil {
			return Read[Role]{Why: err.Error()}
		}
		for _, t := range out.Role.Tags {
			r.Tags[value(t.Key)] = value(t.Value)
		}
		return found(r)
	})
}

// call asks for credentials with the token, and throws them away.
func (d *Doctor) call(ctx context.Context, f *Facts, token string) {
	if f.NoCall || f.ControlPlane.Value == nil {
		return
	}
	if token == "" {
		f.Call = Read[Call]{Why: "no token could be had", Grant: f.Token.Grant}
		return
	}
	if f.way() == podspec.PodIdentity {
		if f.Pod.Value == nil {
			f.Call = Read[Call]{Why: "EKS Auth takes only tokens that are bound to a pod, and there is none"}
			return
		}
		expires, err := d.c.PodIdentity(ctx, token)
		refused := (*agent.APIError)(nil)
		switch {
		case errors.As(err, &refused):
			f.Call = found(Call{Code: refused.Code, Message: refused.Message})
		case err != nil:
			f.Call = Read[Call]{Why: networkText(err)}
		default:
			f.Call = found(Call{Expires: expires})
		}
		return
	}
	role, seconds := f.firstRole(), int32(f.Duration.Seconds())
	anonymous := d.c.AWS.Copy()
	anonymous.Credentials = aws.AnonymousCredentials{}
	out, err := sts.NewFromConfig(anonymous).AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("lanyard-doctor"), WebIdentityToken: &token, DurationSeconds: &seconds,
	})
	refused := smithy.APIError(nil)
	switch {
	case errors.As(err, &refused):
		f.Call = found(Call{Code: refused.ErrorCode(), Message: refused.ErrorMessage()})
	case err != nil:
		f.Call = Read[Call]{Why: errorText(err)}
	default:
		f.Call = found(Call{Expires: value(out.Credentials.Expiration)})
	}
}
