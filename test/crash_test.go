package test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Associations are created by a thousand clients, one after the other by each, when the server is killed: what was acknowledged is there
// afterwards, once, and a session that was minted before is still good.
func TestKillDuringCreates(t *testing.T) {
	dir := dataDir(t)
	s := startDev(t, dir)
	session, err := s.webIdentity("dev-my-sa", "dev", "default", "my-sa")
	if err != nil {
		t.Fatal(err)
	}
	const clients, killAfter = 1000, 300
	cfg := s.aws()
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{MaxConnsPerHost: clients, MaxIdleConnsPerHost: clients}}
	client := eks.NewFromConfig(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		mu           sync.Mutex
		acknowledged = map[string]string{} // association ID by service account
		group        sync.WaitGroup
		enough       = make(chan struct{})
	)
	for i := range clients {
		group.Go(func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("app-%d-%d", i, n)
				out, err := client.CreatePodIdentityAssociation(ctx, &eks.CreatePodIdentityAssociationInput{
					ClusterName: aws.String("dev"), Namespace: aws.String("load"), ServiceAccount: &name, RoleArn: aws.String("arn:aws:iam::" + account + ":role/dev-s3-sa"),
				})
				if err != nil {
					return // not acknowledged: it may be there or not
				}
				mu.Lock()
				if acknowledged[name] = aws.ToString(out.Association.AssociationId); len(acknowledged) == killAfter {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	s.kill()
	cancel()
	group.Wait()

	s = startDev(t, dir)
	found := map[string]string{}
	ids := map[string]bool{}
	pages := eks.NewListPodIdentityAssociationsPaginator(eks.NewFromConfig(s.aws()), &eks.ListPodIdentityAssociationsInput{
		ClusterName: aws.String("dev"), Namespace: aws.String("load"),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Associations {
			name, id := aws.ToString(a.ServiceAccount), aws.ToString(a.AssociationId)
			if found[name] != "" || ids[id] {
				t.Errorf("%s (%s) is there twice", name, id)
			}
			found[name], ids[id] = id, true
		}
	}
	for name, id := range acknowledged {
		if found[name] != id {
			t.Errorf("%s was acknowledged as %s, and is now %q", name, id, found[name])
		}
	}
	t.Logf("%d creates acknowledged before the kill, %d associations afterwards", len(acknowledged), len(found))

	c := session.Credentials
	who, err := sts.NewFromConfig(s.as(aws.Credentials{
		AccessKeyID: aws.ToString(c.AccessKeyId), SecretAccessKey: aws.ToString(c.SecretAccessKey), SessionToken: aws.ToString(c.SessionToken),
	})).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatalf("the session from before the kill: %v", err)
	}
	if aws.ToString(who.Arn) != aws.ToString(session.AssumedRoleUser.Arn) {
		t.Errorf("the session is %s, want %s", aws.ToString(who.Arn), aws.ToString(session.AssumedRoleUser.Arn))
	}
}
