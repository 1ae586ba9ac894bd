package eksauth_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseks "github.com/aws/aws-sdk-go-v2/service/eks"
	awsiam "github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/awstest"
)

var sessionTags = []string{
	"eks-cluster-arn=arn:aws:eks:us-east-1:111122223333:cluster/production-1",
	"eks-cluster-name=production-1",
	"kubernetes-namespace=team-a",
	"kubernetes-service-account=app",
	"kubernetes-pod-name=web-server-1",
	"kubernetes-pod-uid=b1d0a6e9-4dd2-44ce-a7a0-0cd3f1bd9b6e",
}

func TestTokenIsTradedForCredentials(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "production-1", k)
	id := s.associate(t, "production-1", "team-a", "app", s.role(t, "app", trustPods, ""), nil)
	node := s.user(t, "node", `{"Effect":"Allow","Action":"eks-auth:AssumeRoleForPodIdentity","Resource":"*"}`)
	token := k.sign(t, claims("team-a", "app", "web-server-1"))
	before := time.Now().Truncate(time.Second)
	out := must(node.call(t, "eks-auth", "/clusters/production-1/assume-role-for-pod-identity", map[string]string{
		"token": token, "eksNodeName": "node-1", "instanceId": "i-1", "zone": "use1-az1",
	}))(t)

	user := out["assumedRoleUser"].(map[string]any)
	name := regexp.MustCompile(`^arn:aws:sts::111122223333:assumed-role/app/(eks-production-web-server-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})$`)
	m := name.FindStringSubmatch(user["arn"].(string))
	if m == nil {
		t.Fatalf("assumed role user = %v", user)
	}
	if got := user["assumeRoleId"].(string); !regexp.MustCompile(`^AROA[A-Z2-7]{17}:` + m[1] + `$`).MatchString(got) {
		t.Errorf("assumeRoleId = %s", got)
	}
	credentials := out["credentials"].(map[string]any)
	expires := time.Unix(int64(credentials["expiration"].(float64)), 0)
	if life := expires.Sub(before); life < 6*time.Hour || life > 6*time.Hour+time.Minute {
		t.Errorf("the session lives %v", life)
	}
	delete(out, "credentials")
	delete(out, "assumedRoleUser")
	want := map[string]any{
		"subject":  map[string]any{"namespace": "team-a", "serviceAccount": "app"},
		"audience": "pods.eks.amazonaws.com",
		"podIdentityAssociation": map[string]any{
			"associationId": id, "associationArn": "arn:aws:eks:us-east-1:111122223333:podidentityassociation/production-1/" + id,
		},
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}

	session := s.session(t, map[string]any{"credentials": credentials})
	if diff := cmp.Diff(sessionTags, tags(session)); diff != "" {
		t.Error(diff)
	}
	wantKeys := []string{"eks-cluster-arn", "eks-cluster-name", "kubernetes-namespace", "kubernetes-service-account", "kubernetes-pod-name", "kubernetes-pod-uid"}
	if diff := cmp.Diff(wantKeys, session.Session.TransitiveKeys); diff != "" {
		t.Error(diff)
	}

	events := s.audit.named("AssumeRoleForPodIdentity")
	if len(events) != 1 {
		t.Fatalf("events: %+v", events)
	}
	e := events[0]
	if e.Source != "eks-auth.amazonaws.com" || e.Identity.Type != "IAMUser" || e.Identity.ARN != "arn:aws:iam::111122223333:user/node" ||
		string(e.Parameters) != `{"clusterName":"production-1","token":"HIDDEN_DUE_TO_SECURITY_REASONS"}` || e.Response != nil ||
		e.Lanyard.Pod != "team-a/web-server-1" || e.Lanyard.Subject != "system:serviceaccount:team-a:app" ||
		!strings.HasSuffix(e.Lanyard.Association, id) || e.ErrorCode != "" || !strings.Contains(e.Lanyard.Decision, id) {
		t.Errorf("event: %+v", e)
	}
	assumed := s.audit.named("AssumeRole")
	if len(assumed) != 1 || assumed[0].Identity.Type != "AWSService" || assumed[0].Identity.InvokedBy != "pods.eks.amazonaws.com" ||
		assumed[0].Lanyard.Pod != e.Lanyard.Pod || !strings.Contains(string(assumed[0].Parameters), `"durationSeconds":21600`) {
		t.Errorf("events: %+v", assumed)
	}
	var wide map[string]any
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "AssumeRoleForPodIdentity") {
			if err := json.Unmarshal([]byte(line), &wide); err != nil {
				t.Fatal(err)
			}
		}
	}
	for key, want := range map[string]any{
		"cluster": "production-1", "namespace": "team-a", "service_account": "app", "pod": "web-server-1", "association": id, "pattern": false,
		"node": "node-1",
	} {
		if wide[key] != want {
			t.Errorf("logged %s = %v, want %v", key, wide[key], want)
		}
	}
	text, err := json.Marshal(append(events, assumed...))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{token, credentials["sessionToken"].(string), credentials["secretAccessKey"].(string)} {
		if strings.Contains(s.log.String()+string(text), secret) {
			t.Errorf("%.20s… is in the log or the record", secret)
		}
	}
}

func TestSessionNamesKeepTenCharacters(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "c", k)
	s.associate(t, "c", "*", "*", s.role(t, "app", trustPods, ""), nil)
	for pod, want := range map[string]string{"p": "eks-c-p-", "irsa-demo-58b4": "eks-c-irsa-demo--", "app1-v1-56b9f94b4-dvd5c": "eks-c-app1-v1-56-"} {
		out := must(s.assume(t, "c", k.sign(t, claims("ns", "sa", pod))))(t)
		if got := s.session(t, out).Session.Name; !strings.HasPrefix(got, want) || len(got) != len(want)+36 {
			t.Errorf("pod %s: session %s, want %sUUID", pod, got, want)
		}
	}
}

func TestTokenRefusals(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k, stranger := newKubernetes(t), newKubernetes(t)
	s.join(t, "demo", k)
	must(s.call(t, "lanyard", "/lanyard/clusters", map[string]any{"name": "hosted"}))(t)
	role := s.role(t, "app", trustPods, "")
	s.associate(t, "demo", "team-a", "app", role, nil)
	s.associate(t, "hosted", "team-a", "app", role, nil)
	hosted := must(s.call(t, "lanyard", "/lanyard/clusters/hosted/service-account-tokens", map[string]any{
		"namespace": "team-a", "serviceAccount": "app", "podName": "app-1", "audiences": []string{"pods.eks.amazonaws.com"},
	}))(t)["token"].(string)
	must(s.assume(t, "hosted", hosted))(t)

	changed := func(change func(c, kubernetes map[string]any)) string {
		c := claims("team-a", "app", "app-1")
		change(c, c["kubernetes.io"].(map[string]any))
		return k.sign(t, c)
	}
	good := changed(func(c, _ map[string]any) {})
	must(s.assume(t, "demo", good))(t)
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprint(v))) }
	payload := strings.Split(good, ".")[1]
	public, err := x509.MarshalPKIXPublicKey(&k.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}

	const invalid = "InvalidTokenException"
	for _, e := range []struct {
		name, token   string
		status        int
		code, message string
	}{
		{"forged, with the ID of the cluster's key", stranger.sign(t, claims("team-a", "app", "app-1")), 400, invalid,
			"The token's signature is not valid."},
		{"signed by an unknown key", signed(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: stranger.key, KeyID: "unknown"}},
			claims("team-a", "app", "app-1")), 400, invalid, "The token is not signed by a key of the cluster's issuer."},
		{"altered", strings.Replace(good, payload, part(strings.Replace(decode(t, payload), "app-1", "app-2", 1)), 1), 400, invalid,
			"The token's signature is not valid."},
		{"without a signature", part(`{"alg":"none","kid":"key"}`) + "." + payload + "." + part("x"), 400, invalid,
			"The token's signing algorithm is not accepted."},
		{"signed with the public key as a secret", signed(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: public, KeyID: "key"}},
			claims("team-a", "app", "app-1")), 400, invalid, "The token's signing algorithm is not accepted."},
		{"expired", changed(func(c, _ map[string]any) { c["exp"] = time.Now().Add(-time.Second).Unix() }), 400, "ExpiredTokenException",
			"Token expired: current date/time …"},
		{"not valid yet", changed(func(c, _ map[string]any) { c["nbf"] = time.Now().Add(time.Minute).Unix() }), 400, invalid, "The token is not valid yet."},
		{"for another audience", changed(func(c, _ map[string]any) { c["aud"] = []string{"sts.amazonaws.com"} }), 400, invalid,
			"The token's audience is not pods.eks.amazonaws.com."},
		{"by another issuer", changed(func(c, _ map[string]any) { c["iss"] = issuer + "/" }), 400, invalid,
			"The token was not issued by the cluster's issuer."},
		{"of another cluster", hosted, 400, invalid, "The token was not issued by the cluster's issuer."},
		{"not of a service account", changed(func(c, _ map[string]any) { delete(c, "kubernetes.io") }), 400, invalid, "The token is not bound to a pod."},
		{"not bound to a pod", changed(func(_, k map[string]any) { delete(k, "pod") }), 400, invalid, "The token is not bound to a pod."},
		{"bound to a pod without a UID", changed(func(_, k map[string]any) { k["pod"] = map[string]any{"name": "app-1"} }), 400, invalid,
			"The token is not bound to a pod."},
		{"with another namespace than its subject", changed(func(_, k map[string]any) { k["namespace"] = "team-b" }), 400, invalid,
			"The token's subject is not its service account."},
		{"with another service account than its subject", changed(func(c, _ map[string]any) { c["sub"] = "system:serviceaccount:team-a:web" }), 400,
			invalid, "The token's subject is not its service account."},
		{"with another kind of subject", changed(func(c, _ map[string]any) { c["sub"] = "app" }), 400, invalid,
			"The token's subject is not its service account."},
		{"with a pod's name that cannot be", changed(func(_, k map[string]any) { k["pod"] = map[string]any{"name": "a b", "uid": "1"} }), 400, invalid,
			"The token names objects that cannot exist in Kubernetes."},
		{"with a pod's name that is too long for a tag", changed(func(_, k map[string]any) {
			k["pod"] = map[string]any{"name": strings.Repeat("a", 257), "uid": "1"}
		}), 400, invalid, "The token names objects that cannot exist in Kubernetes."},
		{"with claims that are no object", part(`{"alg":"ES256"}`) + "." + part(`[]`) + "." + part("x"), 400, invalid, "The token is not valid."},
		{"without an association", k.sign(t, claims("team-a", "web", "web-1")), 404, "ResourceNotFoundException",
			"No association found for service account web in namespace team-a of cluster demo."},
		{"for a wildcard's own text", k.sign(t, claims("*", "*", "app-1")), 400, invalid, "The token names objects that cannot exist in Kubernetes."},
	} {
		t.Run(e.name, func(t *testing.T) {
			_, err := s.assume(t, "demo", e.token)
			wantRefused(t, err, e.status, e.code, e.message)
		})
	}
	for _, token := range []string{"", "x", "a.b", "a.b.c.d e"} {
		_, err := s.assume(t, "demo", token)
		if refused, ok := err.(*awstest.Refusal); !ok || refused.Status != 400 {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if got := len(s.audit.named("AssumeRole")); got != 2 {
		t.Errorf("%d sessions or attempts were recorded by STS, want the 2 good ones", got)
	}
}

func decode(t *testing.T, part string) string {
	t.Helper()
	return string(must(base64.RawURLEncoding.DecodeString(part))(t))
}

func TestCallersNeedPermission(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "demo", k)
	s.associate(t, "demo", "team-a", "app", s.role(t, "app", trustPods, ""), nil)
	token := k.sign(t, claims("team-a", "app", "app-1"))
	const action = "eks-auth:AssumeRoleForPodIdentity"
	for i, e := range []struct {
		name, permissions string
		allowed           bool
	}{
		{"on the cluster", `{"Effect":"Allow","Action":"` + action + `","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/demo"}`, true},
		{"on the cluster's tag", `{"Effect":"Allow","Action":"` + action + `","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/color":"red"}}}`, true},
		{"on another tag", `{"Effect":"Allow","Action":"` + action + `","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/color":"blue"}}}`, false},
		{"on another cluster", `{"Effect":"Allow","Action":"` + action + `","Resource":"arn:aws:eks:us-east-1:111122223333:cluster/other"}`, false},
		{"to other actions", `{"Effect":"Allow","Action":["eks:*","sts:*","iam:*"],"Resource":"*"}`, false},
	} {
		t.Run(e.name, func(t *testing.T) {
			name := fmt.Sprintf("user-%d", i)
			caller := s.user(t, name, e.permissions)
			_, err := caller.assume(t, "demo", token)
			if e.allowed {
				if err != nil {
					t.Error(err)
				}
				return
			}
			sentence := func(cluster string) string {
				return "User: arn:aws:iam::111122223333:user/" + name + " is not authorized to perform: " + action +
					" on resource: arn:aws:eks:us-east-1:111122223333:cluster/" + cluster + " because no identity-based policy allows the " + action + " action"
			}
			status := err.(*awstest.Refusal).Status
			wantRefused(t, err, status, "AccessDeniedException", sentence("demo"))
			_, err = caller.assume(t, "nope", token)
			wantRefused(t, err, status, "AccessDeniedException", sentence("nope"))
		})
	}
	_, err := s.assume(t, "nope", token)
	wantRefused(t, err, 404, "ResourceNotFoundException", "No cluster found for name: nope.")
	stranger := s.rootOf(t, other)
	_, err = stranger.assume(t, "demo", token)
	wantRefused(t, err, 404, "ResourceNotFoundException", "No cluster found for name: demo.")
}

func TestTheRoleDecides(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "production-1", k)
	if _, err := s.EKS().DescribeCluster(t.Context(), &awseks.DescribeClusterInput{Name: aws.String("production-1")}); err != nil {
		t.Fatal(err)
	}
	conditional := func(condition string) string {
		return strings.TrimSuffix(trustPods, "}") + `,"Condition":` + condition + `}`
	}
	for i, e := range []struct {
		name, trust string
		allowed     bool
	}{
		{"of all pods", trustPods, true},
		{"of this namespace", conditional(`{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"team-a"}}`), true},
		{"of another namespace", conditional(`{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"team-b"}}`), false},
		{"of this service account", conditional(`{"StringEquals":{"aws:RequestTag/kubernetes-service-account":"app"}}`), true},
		{"of this cluster", conditional(`{"ArnEquals":{"aws:SourceArn":"arn:aws:eks:us-east-1:111122223333:cluster/production-1"},
			"StringEquals":{"aws:SourceAccount":"111122223333"}}`), true},
		{"of another cluster", conditional(`{"ArnEquals":{"aws:SourceArn":"arn:aws:eks:us-east-1:111122223333:cluster/production-2"}}`), false},
		{"of another account", conditional(`{"StringEquals":{"aws:SourceAccount":"444455556666"}}`), false},
		{"of sessions with other tags only", conditional(`{"ForAllValues:StringEquals":{"aws:TagKeys":["team"]}}`), false},
	} {
		t.Run(e.name, func(t *testing.T) {
			sa := fmt.Sprintf("sa-%d", i)
			if strings.Contains(e.name, "service account") {
				sa = "app"
			}
			s.associate(t, "production-1", "team-a", sa, s.role(t, fmt.Sprintf("role-%d", i), e.trust, ""), nil)
			_, err := s.assume(t, "production-1", k.sign(t, claims("team-a", sa, "web-server-1")))
			if e.allowed {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefused(t, err, 400, "AccessDeniedException", denied)
		})
	}

	t.Run("that lost TagSession", func(t *testing.T) {
		s.associate(t, "production-1", "ns", "app", s.role(t, "lost", trustPods, ""), nil)
		_, err := s.IAM().UpdateAssumeRolePolicy(t.Context(), &awsiam.UpdateAssumeRolePolicyInput{
			RoleName:       aws.String("lost"),
			PolicyDocument: awstest.Document(`{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:AssumeRole"}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.assume(t, "production-1", k.sign(t, claims("ns", "app", "app-1")))
		wantRefused(t, err, 400, "AccessDeniedException", denied)
	})
	t.Run("that is gone", func(t *testing.T) {
		s.associate(t, "production-1", "ns", "gone", s.role(t, "gone", trustPods, ""), nil)
		token := k.sign(t, claims("ns", "gone", "app-1"))
		session := must(s.assume(t, "production-1", token))(t)
		if _, err := s.IAM().DeleteRole(t.Context(), &awsiam.DeleteRoleInput{RoleName: aws.String("gone")}); err != nil {
			t.Fatal(err)
		}
		_, err := s.assume(t, "production-1", token)
		wantRefused(t, err, 400, "AccessDeniedException", denied)
		c := session["credentials"].(map[string]any)
		if _, err := s.sts.Credentials(t.Context(), c["accessKeyId"].(string), c["sessionToken"].(string)); err == nil {
			t.Error("the session outlives its role")
		}
		events := s.audit.named("AssumeRoleForPodIdentity")
		if e := events[len(events)-1]; e.ErrorCode != "AccessDenied" || e.ErrorMessage != denied || !strings.HasSuffix(e.Lanyard.Subject, ":gone") ||
			e.Response != nil {
			t.Errorf("event: %+v", e)
		}
	})
}

func TestWithoutSessionTags(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "production-1", k)
	role := s.role(t, "app", trustPods, `{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"},{"Effect":"Allow","Action":"iam:ListUsers","Resource":"*"}`)
	policy := *awstest.Document(`{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"}`)
	s.associate(t, "production-1", "team-a", "app", role, func(in *awseks.CreatePodIdentityAssociationInput) {
		in.DisableSessionTags, in.Policy = aws.Bool(true), &policy
	})
	out := must(s.assume(t, "production-1", k.sign(t, claims("team-a", "app", "web-server-1"))))(t)
	session := s.session(t, out)
	if len(session.Session.Tags) > 0 || len(session.Session.TransitiveKeys) > 0 {
		t.Errorf("tags: %v %v", session.Session.Tags, session.Session.TransitiveKeys)
	}
	pod := s.as(credentials(out))
	if _, err := pod.IAM().ListRoles(t.Context(), &awsiam.ListRolesInput{}); err != nil {
		t.Errorf("what role and policy allow: %v", err)
	}
	if _, err := pod.IAM().ListUsers(t.Context(), &awsiam.ListUsersInput{}); err == nil {
		t.Error("the session's policy does not bind")
	}

	noTag := s.role(t, "no-tag", trustPods, "")
	s.associate(t, "production-1", "team-a", "no-tag", noTag, func(in *awseks.CreatePodIdentityAssociationInput) { in.DisableSessionTags = aws.Bool(true) })
	_, err := s.IAM().UpdateAssumeRolePolicy(t.Context(), &awsiam.UpdateAssumeRolePolicyInput{
		RoleName:       aws.String("no-tag"),
		PolicyDocument: awstest.Document(`{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":"sts:AssumeRole"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.assume(t, "production-1", k.sign(t, claims("team-a", "no-tag", "web-server-1"))); err != nil {
		t.Errorf("without tags no sts:TagSession is needed: %v", err)
	}
}

func TestTargetRole(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	there := s.rootOf(t, other)
	k := newKubernetes(t)
	s.join(t, "production-1", k)
	may := func(target string) string {
		return `{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Resource":"arn:aws:iam::444455556666:role/` + target + `"}`
	}
	trust := func(role, condition string) string {
		return `{"Effect":"Allow","Principal":{"AWS":"` + role + `"},"Action":["sts:AssumeRole","sts:TagSession"],"Condition":` + condition + `}`
	}
	externalID := func(sa string) string {
		return `{"StringEquals":{"sts:ExternalId":"us-east-1/111122223333/production-1/team-a/` + sa + `"}}`
	}
	for i, e := range []struct {
		name      string
		permitted string // role of the other account that the first role may assume
		condition string // of the target's trust
		noTags    bool
		policy    string
		allowed   bool
	}{
		{"by its external ID", "target-0", externalID("sa-0"), false, "", true},
		{"by another external ID", "target-1", externalID("sa-0"), false, "", false},
		{"by the pod's tags", "target-2", `{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"team-a","aws:PrincipalTag/kubernetes-namespace":"team-a"}}`, false, "", true},
		{"by the tags of another namespace", "target-3", `{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"team-b"}}`, false, "", false},
		{"without tags", "target-4", externalID("sa-4"), true, "", true},
		{"without the tags that it asks for", "target-5", `{"StringEquals":{"aws:RequestTag/kubernetes-namespace":"team-a"}}`, true, "", false},
		{"that the first role may not assume", "nothing", externalID("sa-6"), false, "", false},
		{"under a session policy", "target-7", externalID("sa-7"), true, *awstest.Document(`{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"}`), true},
	} {
		t.Run(e.name, func(t *testing.T) {
			first := s.role(t, fmt.Sprintf("first-%d", i), trustPods, may(e.permitted))
			target := there.role(t, fmt.Sprintf("target-%d", i), trust(first, e.condition), `{"Effect":"Allow","Action":"iam:List*","Resource":"*"}`)
			sa := fmt.Sprintf("sa-%d", i)
			s.associate(t, "production-1", "team-a", sa, first, func(in *awseks.CreatePodIdentityAssociationInput) {
				in.TargetRoleArn, in.DisableSessionTags = &target, &e.noTags
				if e.policy != "" {
					in.Policy = &e.policy
				}
			})
			before := time.Now().Truncate(time.Second)
			out, err := s.assume(t, "production-1", k.sign(t, claims("team-a", sa, "web-server-1")))
			if !e.allowed {
				wantRefused(t, err, 400, "AccessDeniedException", denied)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if arn := out["assumedRoleUser"].(map[string]any)["arn"].(string); !strings.HasPrefix(arn, "arn:aws:sts::444455556666:assumed-role/"+
				fmt.Sprintf("target-%d", i)+"/eks-production-web-server-") {
				t.Errorf("assumed %s", arn)
			}
			session := s.session(t, out)
			if life := session.Session.Expires.Sub(before); life < time.Hour || life > time.Hour+time.Minute {
				t.Errorf("the session lives %v", life)
			}
			var want []string
			if !e.noTags {
				want = append(want, sessionTags...)
				want[3] = "kubernetes-service-account=" + sa
			}
			if diff := cmp.Diff(want, tags(session)); diff != "" {
				t.Error(diff)
			}
			pod := s.as(credentials(out)).IAM()
			if _, err := pod.ListRoles(t.Context(), &awsiam.ListRolesInput{}); err != nil {
				t.Errorf("what the target allows: %v", err)
			}
			if _, err := pod.ListUsers(t.Context(), &awsiam.ListUsersInput{}); (err == nil) != (e.policy == "") {
				t.Errorf("what the session policy leaves out: %v", err)
			}
		})
	}
}

func TestPatternsGiveThePodsOwnNames(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "production-1", k)
	first := s.role(t, "first", trustPods, `{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Resource":"*"}`)
	target := s.role(t, "target", `{"Effect":"Allow","Principal":{"AWS":"`+first+`"},"Action":["sts:AssumeRole","sts:TagSession"],
		"Condition":{"StringEquals":{"sts:ExternalId":"us-east-1/111122223333/production-1/team-a/app"}}}`, "")
	id := s.associate(t, "production-1", "team-*", "*", first, func(in *awseks.CreatePodIdentityAssociationInput) { in.TargetRoleArn = &target })
	described, err := s.EKS().DescribePodIdentityAssociation(t.Context(), &awseks.DescribePodIdentityAssociationInput{
		ClusterName: aws.String("production-1"), AssociationId: &id,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := *described.Association.ExternalId; got != "us-east-1/111122223333/production-1/team-*/*" {
		t.Errorf("external ID = %s", got)
	}
	out := must(s.assume(t, "production-1", k.sign(t, claims("team-a", "app", "web-server-1"))))(t)
	if got := out["podIdentityAssociation"].(map[string]any)["associationId"]; got != id {
		t.Errorf("association = %v", got)
	}
	if diff := cmp.Diff(sessionTags, tags(s.session(t, out))); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(s.log.String(), `"pattern":true`) {
		t.Error("the log does not say that a pattern won")
	}
	_, err = s.assume(t, "production-1", k.sign(t, claims("team-b", "app", "web-server-1")))
	wantRefused(t, err, 400, "AccessDeniedException", denied)
}

func TestADeletedClusterAuthenticatesNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "demo", k)
	s.associate(t, "demo", "team-a", "app", s.role(t, "app", trustPods, ""), nil)
	token := k.sign(t, claims("team-a", "app", "app-1"))
	must(s.assume(t, "demo", token))(t)
	if _, err := s.EKS().DeleteCluster(t.Context(), &awseks.DeleteClusterInput{Name: aws.String("demo")}); err != nil {
		t.Fatal(err)
	}
	_, err := s.assume(t, "demo", token)
	wantRefused(t, err, 404, "ResourceNotFoundException", "No cluster found for name: demo.")
}

func TestAnIssuerThatCannotBeReachedIsNoFaultOfTheToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.join(t, "demo", nil)
	s.associate(t, "demo", "team-a", "app", s.role(t, "app", trustPods, ""), nil)
	_, err := s.assume(t, "demo", newKubernetes(t).sign(t, claims("team-a", "app", "app-1")))
	wantRefused(t, err, 503, "ServiceUnavailableException", "The keys of the cluster's issuer cannot be had at the moment.")
}

func TestWhatCannotBeRecordedIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k := newKubernetes(t)
	s.join(t, "demo", k)
	s.associate(t, "demo", "team-a", "app", s.role(t, "app", trustPods, ""), nil)
	s.audit.mu.Lock()
	s.audit.broken = true
	s.audit.mu.Unlock()
	_, err := s.assume(t, "demo", k.sign(t, claims("team-a", "app", "app-1")))
	if refused, ok := err.(*awstest.Refusal); !ok || refused.Status != 500 || strings.Contains(refused.Message, "disk") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkAssumeRoleForPodIdentity(b *testing.B) {
	s := newServer(b)
	must(s.call(b, "lanyard", "/lanyard/clusters", map[string]any{"name": "demo"}))(b)
	s.associate(b, "demo", "team-a", "app", s.role(b, "app", trustPods, ""), nil)
	token := must(s.call(b, "lanyard", "/lanyard/clusters/demo/service-account-tokens", map[string]any{
		"namespace": "team-a", "serviceAccount": "app", "podName": "app-1", "audiences": []string{"pods.eks.amazonaws.com"},
	}))(b)["token"].(string)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, s.request(b, "eks-auth", "/clusters/demo/assume-role-for-pod-identity", map[string]string{"token": token}))
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
}
