package test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-id/lanyard/internal/audit"
)

// deliveredRecords returns the IDs of the records in a bucket, as often as they are there.
func (s *server) deliveredRecords(ctx context.Context, bucket string) (ids []string, err error) {
	objects := s3.NewFromConfig(s.aws(), func(o *s3.Options) { o.UsePathStyle = true })
	list, err := objects.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil {
		return nil, err
	}
	for _, o := range list.Contents {
		object, err := objects.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: o.Key})
		if err != nil {
			return nil, err
		}
		zip, err := gzip.NewReader(object.Body)
		if err != nil {
			return nil, err
		}
		var file struct{ Records []audit.Event }
		if err := errors.Join(json.NewDecoder(zip).Decode(&file), object.Body.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", *o.Key, err)
		}
		for _, e := range file.Records {
			dir := "trail/AWSLogs/" + e.Account + "/CloudTrail/" + e.Region + "/"
			if !strings.HasPrefix(*o.Key, dir) {
				return nil, fmt.Errorf("a record of %s is in %s", dir, *o.Key)
			}
			ids = append(ids, e.EventID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// The trail is delivered to a bucket of the embedded store, which is not there at first. The server is killed then, and the next one goes on:
// each record is in the bucket once.
func TestTheTrailIsDelivered(t *testing.T) {
	dir := dataDir(t)
	const settings = "s3: {embedded: true}\naudit: {bucket: {name: records, prefix: trail}}\n"
	s := startServerIn(t, dir, settings)
	client := cloudtrail.NewFromConfig(s.aws())
	tick := time.NewTicker(100 * time.Millisecond) // each call is a record
	defer tick.Stop()
	status := func(want func(*cloudtrail.GetTrailStatusOutput) bool) func(context.Context) error {
		return func(ctx context.Context) error {
			<-tick.C
			got, err := client.GetTrailStatus(ctx, &cloudtrail.GetTrailStatusInput{Name: aws.String("lanyard")})
			if err == nil && !want(got) {
				err = fmt.Errorf("the status is %+v", got)
			}
			return err
		}
	}
	users := iam.NewFromConfig(s.aws())
	create := func(name string) {
		t.Helper()
		if _, err := users.CreateUser(t.Context(), &iam.CreateUserInput{UserName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	eventually(t, "a delivery fails", status(func(got *cloudtrail.GetTrailStatusOutput) bool {
		return aws.ToString(got.LatestDeliveryError) == "NoSuchBucket"
	}))
	trails, err := client.DescribeTrails(t.Context(), nil)
	if err != nil || aws.ToString(trails.TrailList[0].S3BucketName) != "records" || aws.ToString(trails.TrailList[0].S3KeyPrefix) != "trail" {
		t.Errorf("%+v, %v", trails, err)
	}
	objects := s3.NewFromConfig(s.aws(), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := objects.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("records")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a delivery arrives", status(func(got *cloudtrail.GetTrailStatusOutput) bool {
		return got.LatestDeliveryError == nil && got.LatestDeliveryTime != nil
	}))
	create("after")
	s.kill()

	// What is in the trail by now is waiting: have it be due.
	file := filepath.Join(dir, "audit", "delivery.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var position map[string]any
	if err := json.Unmarshal(text, &position); err != nil {
		t.Fatal(err)
	}
	position["delivered"] = "2001-01-01T00:00:00Z"
	if text, err = json.Marshal(position); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	recorded := map[string]string{} // names by ID
	for line := range strings.Lines((&server{t: t, dir: dir}).trailText()) {
		if e, err := audit.Decode(line); err == nil && e.EventID != "" {
			recorded[e.EventID] = e.Name
		}
	}
	s = startServerIn(t, dir, settings)
	eventually(t, "all is delivered", func(ctx context.Context) error {
		got, err := s.deliveredRecords(ctx, "records")
		if err != nil {
			return err
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(recorded)), got); diff != "" {
			return fmt.Errorf("of %d records (-want +got)\n%s", len(recorded), diff)
		}
		return nil
	})
	made := 0
	for _, name := range recorded {
		if name == "CreateUser" {
			made++
		}
	}
	if made != 2 {
		t.Errorf("%d users have been made, want 2", made)
	}
}
