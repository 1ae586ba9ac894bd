package audit

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Outbox is a store whose records can be delivered elsewhere: each at least once, in the order in which they were recorded.
type Outbox interface {
	// Delivery tells how far the delivery is.
	Delivery(ctx context.Context) (Delivery, error)
	// Deliver calls deliver with the records that come next, and goes on after them once that has returned nil. It reports whether it
	// did so: not if there are none, or if another process is at it. Its errors are deliver's, and the store's own.
	Deliver(ctx context.Context, deliver func(context.Context, *Batch) error) (bool, error)
}

// Batch is a part of the trail that is delivered together. However often it is delivered, it is the same.
type Batch struct {
	ID      string    // no other batch has it, of this trail or of another
	Time    time.Time // when it was put together
	Records [][]byte  // lines; one that is no JSON was cut off by a crash or a full disk, and its call was not answered
}

// Delivery is how far a trail has been delivered.
type Delivery struct {
	Waiting   int64     // about how many bytes of records are to be delivered
	Attempted time.Time // when a batch was last tried; zero if never
	Delivered time.Time // when one last arrived; zero if never
	Failure   string    // why the last one did not: a code of S3; empty if it did
	Lost      int64     // records that were dropped before they were delivered
}

// The pace of deliveries (CloudTrail User Guide, "Getting and viewing your CloudTrail log files": "about every 5 minutes").
const (
	deliverEvery = 5 * time.Minute
	maxBatch     = 50 << 20 // bytes of records; as soon as there are so many, they go
	lookEvery    = 5 * time.Second
	firstRetry   = 5 * time.Second // after a failure; each wait is twice as long as the one before, up to deliverEvery
	putTimeout   = 2 * time.Minute
)

// DelivererConfig is what a Deliverer needs.
type DelivererConfig struct {
	Outbox Outbox // required
	Bucket string // its name, which clients of CloudTrail are told
	Prefix string // of the keys, without a slash at the end; none when empty
	// Put writes an object, in place of one that is there already. An error with a method ErrorCode, as the AWS SDK's have, is told to
	// CloudTrail's clients by that code.
	Put func(ctx context.Context, key string, gzipped []byte) error
	Log *slog.Logger // required
}

// Deliverer writes the trail to a bucket, as files like CloudTrail's. Files of one batch are in memory while it is delivered: 50 MiB of
// records, and one compressed file of them.
type Deliverer struct{ DelivererConfig }

// NewDeliverer makes a Deliverer, which does nothing until it is run.
func NewDeliverer(c DelivererConfig) *Deliverer { return &Deliverer{c} }

// Delivery tells how far the delivery is.
func (d *Deliverer) Delivery(ctx context.Context) (Delivery, error) { return d.Outbox.Delivery(ctx) }

// Run delivers until ctx ends: every five minutes, at once when much is waiting, and after a failure again and again.
func (d *Deliverer) Run(ctx context.Context) {
	pause, failure := time.Duration(0), ""
	for {
		wait := lookEvery
		more, err := d.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(max(firstRetry, 2*pause), deliverEvery)
			wait = pause
			if code := FailureCode(err); code != failure {
				failure = code
				d.Log.Error("delivering the audit trail fails, and is tried again", "bucket", d.Bucket, "code", code, "err", err)
			}
		case more:
			wait = 0
			fallthrough
		default:
			if pause > 0 && more {
				d.Log.Info("the audit trail is delivered again", "bucket", d.Bucket)
				pause, failure = 0, ""
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// step delivers a batch if it is time to, and reports whether it did.
func (d *Deliverer) step(ctx context.Context) (bool, error) {
	state, err := d.Outbox.Delivery(ctx)
	if err != nil {
		return false, err
	}
	due := state.Waiting >= maxBatch || state.Failure != "" || time.Since(state.Delivered) >= deliverEvery
	if state.Waiting == 0 || !due {
		return false, nil
	}
	return d.Outbox.Deliver(ctx, d.deliver)
}

// FailureCode is what CloudTrail's clients are told of a failure.
func FailureCode(err error) string {
	if coded, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok {
		return coded.ErrorCode()
	}
	return "InternalError"
}

// file is what the records of a batch of one account and Region become.
type file struct {
	account, region string
	records         [][]byte
}

func (d *Deliverer) deliver(ctx context.Context, b *Batch) error {
	var files []*file
	by := map[[2]string]*file{}
	for _, record := range b.Records {
		account, region, ok := scopeOf(record)
		if !ok {
			continue
		}
		f := by[[2]string{account, region}]
		if f == nil {
			f = &file{account: account, region: region}
			by[[2]string{account, region}] = f
			files = append(files, f)
		}
		f.records = append(f.records, record)
	}
	slices.SortFunc(files, func(a, b *file) int {
		return cmp.Or(strings.Compare(a.account, b.account), strings.Compare(a.region, b.region))
	})
	var body bytes.Buffer
	zip, err := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	if err != nil {
		return err
	}
	for _, f := range files {
		body.Reset()
		zip.Reset(&body)
		if err := f.write(zip); err != nil {
			return fmt.Errorf("compress audit records: %w", err)
		}
		if err := d.put(ctx, f.key(d.Prefix, b), body.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func (d *Deliverer) put(ctx context.Context, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	if err := d.Put(ctx, key, body); err != nil {
		return fmt.Errorf("write %s to bucket %s: %w", key, d.Bucket, err)
	}
	return nil
}

func (f *file) write(zip *gzip.Writer) error {
	text := []byte(`{"Records":`)
	for i, record := range f.records {
		text = append(append(text, separator(i)), record...)
		if _, err := zip.Write(text); err != nil {
			return err
		}
		text = text[:0]
	}
	if _, err := io.WriteString(zip, "]}\n"); err != nil {
		return err
	}
	return zip.Close()
}

// key is the file's (CloudTrail User Guide, "CloudTrail log file examples", "CloudTrail log file name format"). Its last part is what makes it
// different from all others, and the same when the batch is delivered again.
func (f *file) key(prefix string, b *Batch) string {
	if prefix != "" {
		prefix += "/"
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	sum := sha256.Sum256([]byte(b.ID + " " + f.account + " " + f.region))
	unique := sum[:16]
	for i := range unique {
		unique[i] = letters[int(unique[i])%len(letters)]
	}
	at := b.Time.UTC()
	return fmt.Sprintf("%sAWSLogs/%s/CloudTrail/%s/%s/%[2]s_CloudTrail_%[3]s_%[5]s_%[6]s.json.gz",
		prefix, f.account, f.region, at.Format("2006/01/02"), at.Format("20060102T1504Z"), unique)
}

// scopeOf returns the account and the Region of a record, as parts of a key. It reads no more than it must, and still all of the record, to
// see that it is whole.
func scopeOf(record []byte) (account, region string, ok bool) {
	d := jsontext.NewDecoder(bytes.NewBuffer(record), jsontext.AllowDuplicateNames(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return "", "", false
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return "", "", false
		}
		var into *string
		switch name.String() {
		case "recipientAccountId":
			into = &account
		case "awsRegion":
			into = &region
		}
		if into == nil || d.PeekKind() != '"' {
			if d.SkipValue() != nil {
				return "", "", false
			}
			continue
		}
		value, err := d.ReadToken()
		if err != nil {
			return "", "", false
		}
		*into = value.String()
	}
	_, err := d.ReadToken() // the end of the object
	if _, after := d.ReadToken(); err != nil || !errors.Is(after, io.EOF) {
		return "", "", false
	}
	return keyPart(account), keyPart(region), true
}

// keyPart is a text that cannot lead to another place in a bucket.
func keyPart(text string) string {
	if text == "" || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "unknown"
	}
	return text
}
