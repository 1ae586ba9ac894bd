package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"github.com/lanyard-id/lanyard/internal/idtoken"
	"github.com/lanyard-id/lanyard/internal/oidc"
)

// defaultKeysPath is where the keys go, below the issuer's URL, unless a discovery document that is there says otherwise: it is
// what the discovery document of an API server says.
const defaultKeysPath = "openid/v1/jwks"

// publication is what `lanyard oidc publish` is asked.
type publication struct {
	keyInput
	to     string
	issuer string
	maxAge time.Duration
	prune  bool
	dryRun bool
}

// published is what became of it, as it is printed.
type published struct {
	Issuer string          `json:"issuer"`
	To     string          `json:"to"`
	DryRun bool            `json:"dryRun,omitempty"`
	Keys   []publishedKey  `json:"keys"`
	Files  []publishedFile `json:"files"`
}

type publishedKey struct {
	ID        string `json:"keyId"`
	Algorithm string `json:"algorithm"`
	Status    string `json:"status"` // added, published (before, and given again), kept (published before, and not given) or removed
}

type publishedFile struct {
	URL    string `json:"url"`
	Status string `json:"status"` // written, unchanged, or "to be written" in a dry run
}

func newOIDCPublish(c *cli) *cobra.Command {
	var p publication
	cmd := &cobra.Command{
		Use:   "publish --to DIR|s3://BUCKET[/PREFIX] --issuer URL {--kubeconfig FILE | --jwks FILE | --public-key FILE…}",
		Short: "Write an issuer's discovery document and keys for a static host",
		Long: `Write the discovery document and the JWK set that AWS's STS needs to verify a cluster's tokens. Any static host will do that serves the
directory or bucket at the issuer's URL, to everybody, over https: --to is what the URL itself stands for.

Keys that are published there already stay, so that tokens of the old key are honoured while the new one comes into use: publish
the next key before the API server signs with it. With --prune, keys that are not given any more go.

The issuer must be the API server's --service-account-issuer, letter by letter. Keys come before the document that names them,
and each file is replaced in one step. Private keys are refused.`,
		Example: `  lanyard oidc publish --to s3://my-cluster-oidc --issuer https://my-cluster-oidc.s3.eu-west-1.amazonaws.com --kubeconfig ~/.kube/config
  lanyard oidc publish --to ./public --issuer https://oidc.example.com/prod --public-key sa.pub --public-key sa-next.pub --dry-run
  lanyard oidc check https://oidc.example.com/prod`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.publish(cmd.Context(), p) },
	}
	p.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&p.to, "to", "", "directory or s3://BUCKET[/PREFIX] that is served at the issuer's URL")
	flags.StringVar(&p.issuer, "issuer", "", "the issuer's URL, as in its tokens (default: that of the API server)")
	flags.DurationVar(&p.maxAge, "max-age", 5*time.Minute, "how long others may keep the documents, for s3://; a static host has settings of its own")
	flags.BoolVar(&p.prune, "prune", false, "remove published keys that are not given: tokens that they signed are refused from then on")
	flags.BoolVar(&p.dryRun, "dry-run", false, "say what would be done, and do nothing")
	required(cmd, "to")
	cmd.MarkFlagsOneRequired("kubeconfig", "kube-context", "jwks", "public-key")
	return cmd
}

func (c *cli) publish(ctx context.Context, p publication) error {
	if p.maxAge < 0 {
		return withHint(fmt.Errorf("documents cannot be kept for %s", p.maxAge), "give --max-age a time such as 5m, or 0s")
	}
	keys, err := p.keyInput.read(ctx)
	if err != nil {
		return err
	}
	c.warnOfKeys(keys.keys)
	issuer := cmp.Or(p.issuer, keys.issuer)
	if issuer == "" {
		return withHint(errors.New("the issuer is not known"), "give the API server's --service-account-issuer with --issuer URL")
	}
	if _, err := parseIssuer(issuer); err != nil {
		return err
	}
	if keys.issuer != "" && keys.issuer != issuer {
		fmt.Fprintf(c.err, "warning: the API server's tokens are issued by %s: give it --service-account-issuer=%s first, and keep the old one as a second\n",
			keys.issuer, issuer)
	}
	to, err := c.openPlace(ctx, p.to, p.maxAge)
	if err != nil {
		return err
	}
	have, err := readIssuer(ctx, to, issuer, p.prune)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", p.to, err)
	}
	set, report, err := mergeKeys(have.set, keys.usable(), p.prune)
	if err != nil {
		return err
	}
	out := published{Issuer: issuer, To: p.to, DryRun: p.dryRun, Keys: report}
	documents := []struct {
		name string
		have *document
		want any
	}{ // in this order, so that no document names keys that are not there
		{have.keysPath, have.keys, jose.JSONWebKeySet{Keys: set}},
		{discoveryPath, have.discovery, discoveryFor(issuer, have.keysPath, set)},
	}
	for _, d := range documents {
		text, err := json.MarshalIndent(d.want, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", d.name, err)
		}
		text = append(text, '\n')
		status := "written"
		switch {
		case d.have != nil && bytes.Equal(d.have.text, text):
			status = "unchanged"
		case p.dryRun:
			status = "to be written"
		default:
			if err := to.write(ctx, d.name, text, d.have); err != nil {
				return fmt.Errorf("publish to %s: %w", p.to, err)
			}
		}
		out.Files = append(out.Files, publishedFile{below(issuer, d.name), status})
	}
	return c.printPublished(out)
}

func (c *cli) printPublished(out published) error {
	rows := [][]string{{"KEY ID", "ALGORITHM", "STATUS"}}
	for _, k := range out.Keys {
		rows = append(rows, []string{k.ID, k.Algorithm, k.Status})
	}
	if err := c.print(out, rows); err != nil || c.output != "table" {
		return err
	}
	fmt.Fprintln(c.out)
	for _, f := range out.Files {
		fmt.Fprintf(c.out, "%s: %s\n", f.URL, f.Status)
	}
	if !out.DryRun {
		fmt.Fprintf(c.err, "next, when it is served: lanyard oidc check %s\n", out.Issuer)
		fmt.Fprintf(c.err, "then, once in the account of the roles: aws iam create-open-id-connect-provider --url %s --client-id-list %s\n", out.Issuer, stsAudience)
	}
	return nil
}

// discoveryFor returns the discovery document for the keys, which are at a path below the issuer's URL.
func discoveryFor(issuer, keysPath string, keys []jose.JSONWebKey) oidc.Metadata {
	algorithms := []string{string(jose.RS256)} // which OpenID Connect Discovery 1.0, section 3, wants among them
	for _, k := range keys {
		if k.Algorithm != "" {
			algorithms = append(algorithms, k.Algorithm)
		}
	}
	slices.Sort(algorithms)
	return oidc.NewMetadata(issuer, below(issuer, keysPath), slices.Compact(algorithms)...)
}

// issuerFiles are the documents of an issuer as they are found; nil where there is none.
type issuerFiles struct {
	discovery, keys *document
	keysPath        string // where the keys are or go, below the issuer's URL
	set             []jose.JSONWebKey
}

// readIssuer reads what is published. Documents of another issuer are not ours to change. Keys that cannot be read are only replaced
// when none of them is to be kept.
func readIssuer(ctx context.Context, from place, issuer string, prune bool) (*issuerFiles, error) {
	f := &issuerFiles{keysPath: defaultKeysPath}
	var err error
	if f.discovery, err = readIfThere(ctx, from, discoveryPath); err != nil {
		return nil, err
	}
	if f.discovery != nil {
		if f.keysPath, err = keysPathOf(f.discovery.text, issuer); err != nil {
			return nil, err
		}
	}
	if f.keys, err = readIfThere(ctx, from, f.keysPath); err != nil || f.keys == nil {
		return f, err
	}
	set, err := idtoken.ParseJWKS(f.keys.text)
	if err != nil && !prune {
		return nil, withHint(fmt.Errorf("the keys that are published cannot be read: %w", err), "replace them all with --prune, or mend %s", f.keysPath)
	}
	f.set = set.Keys
	return f, nil
}

func readIfThere(ctx context.Context, from place, name string) (*document, error) {
	d, err := from.read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return d, err
}

// keysPathOf reads from a discovery document where its keys are, below the issuer.
func keysPathOf(discovery []byte, issuer string) (string, error) {
	var have oidc.Metadata
	if err := json.Unmarshal(discovery, &have); err != nil {
		return "", withHint(fmt.Errorf("the discovery document that is published cannot be read: %w", err), "mend or remove %s", discoveryPath)
	}
	if have.Issuer != issuer {
		return "", withHint(fmt.Errorf("it publishes another issuer, %s", have.Issuer), "choose another place with --to, or remove %s from this one", discoveryPath)
	}
	elsewhere := withHint(fmt.Errorf("the discovery document has its keys at %s, which is not below the issuer", have.KeysURL),
		"publish them there, or remove %s", discoveryPath)
	rest, ok := strings.CutPrefix(have.KeysURL, below(issuer, ""))
	if !ok || strings.ContainsAny(rest, "?#") {
		return "", elsewhere
	}
	name, err := url.PathUnescape(rest)
	if err != nil || !fs.ValidPath(name) || name == "." || !filepath.IsLocal(name) || name == discoveryPath {
		return "", elsewhere
	}
	return name, nil
}

// mergeKeys adds keys to those that are there, in their order, and says what became of each.
func mergeKeys(have, given []jose.JSONWebKey, prune bool) (set []jose.JSONWebKey, report []publishedKey, err error) {
	tell := func(k jose.JSONWebKey, status string) {
		report = append(report, publishedKey{k.KeyID, k.Algorithm, status})
	}
	rest := slices.Clone(given)
	for _, k := range have {
		i := slices.IndexFunc(rest, func(g jose.JSONWebKey) bool { return g.KeyID == k.KeyID })
		switch {
		case i >= 0 && !sameKey(k, rest[i]) && !prune:
			return nil, nil, withHint(fmt.Errorf("another key is published with the ID %q", k.KeyID),
				"give the key an ID of its own, or replace the published one with --prune")
		case i >= 0:
			status := "published"
			if !sameKey(k, rest[i]) {
				status = "added"
			}
			tell(rest[i], status)
			set, rest = append(set, rest[i]), slices.Delete(rest, i, i+1)
		case prune:
			tell(k, "removed")
		default:
			tell(k, "kept")
			set = append(set, k)
		}
	}
	for _, k := range rest {
		tell(k, "added")
	}
	set = append(set, rest...)
	// The whole must be what STS reads, too: it takes so many keys and no more, and of several none without an ID.
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: set})
	if err != nil {
		return nil, nil, err
	}
	if _, err := idtoken.ParseJWKS(text); err != nil {
		return nil, nil, withHint(err, "remove keys that sign no more with --prune")
	}
	all, err := inspectKeys(text)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range all {
		if k.fault != "" {
			return nil, nil, withHint(fmt.Errorf("published together, %s: %s", k.name(), k.fault), "replace the published keys with --prune")
		}
	}
	return set, report, nil
}

// sameKey reports whether two keys are the same but for what is said about them (RFC 7638).
func sameKey(a, b jose.JSONWebKey) bool {
	x, errX := a.Thumbprint(crypto.SHA256)
	y, errY := b.Thumbprint(crypto.SHA256)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// document is a file as it was read.
type document struct {
	text    []byte
	version string // an ETag; empty in directories
}

// place is what an issuer's URL stands for on a static host.
type place interface {
	// read reads a document by its path below the issuer. The error of one that is not there is fs.ErrNotExist.
	read(ctx context.Context, name string) (*document, error)
	// write replaces a document in one step: have, or, where that is nil, one that is not there.
	write(ctx context.Context, name string, text []byte, have *document) error
}

func (c *cli) openPlace(ctx context.Context, to string, maxAge time.Duration) (place, error) {
	rest, isBucket := strings.CutPrefix(to, "s3://")
	if !isBucket {
		if strings.Contains(to, "://") {
			return nil, withHint(fmt.Errorf("%q is neither a directory nor an s3:// URL", to), "publish to a directory, and copy that to the host")
		}
		return directory(to), nil
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if bucket == "" {
		return nil, withHint(fmt.Errorf("%q names no bucket", to), "write it as s3://BUCKET/PREFIX")
	}
	cfg, err := c.aws(ctx)
	if err != nil {
		return nil, err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = cfg.BaseEndpoint != nil })
	return &bucketPlace{client, bucket, strings.Trim(prefix, "/"), fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds()))}, nil
}

// directory is a place in a file system. Symbolic links do not lead out of it.
type directory string

func (d directory) read(_ context.Context, name string) (*document, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := readAtMost(f, maxKeySet)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &document{text: text}, nil
}

func (d directory) write(_ context.Context, name string, text []byte, _ *document) (err error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	next := name + ".new"
	f, err := root.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = cmp.Or(err, f.Sync(), f.Close())
	if err == nil {
		err = root.Rename(next, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(next))
	}
	return nil
}

// bucketPlace is a place in S3. It writes only over what it has read, so that two who publish at once lose no key.
type bucketPlace struct {
	client         *s3.Client
	bucket, prefix string
	cacheControl   string
}

func (b *bucketPlace) read(ctx context.Context, name string) (*document, error) {
	key := path.Join(b.prefix, name)
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.bucket, Key: &key})
	if missing := (*types.NoSuchKey)(nil); errors.As(err, &missing) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		err = fmt.Errorf("read s3://%s/%s: %w", b.bucket, key, err)
		if statusOf(err) == http.StatusForbidden {
			return nil, withHint(err, "the caller needs s3:GetObject and s3:PutObject on the bucket's objects, and s3:ListBucket on the bucket: "+
				"without that, S3 does not tell that an object is not there")
		}
		return nil, err
	}
	defer out.Body.Close()
	text, err := readAtMost(out.Body, maxKeySet)
	if err != nil {
		return nil, fmt.Errorf("read s3://%s/%s: %w", b.bucket, key, err)
	}
	return &document{text, value(out.ETag)}, nil
}

func (b *bucketPlace) write(ctx context.Context, name string, text []byte, have *document) error {
	key := path.Join(b.prefix, name)
	in := &s3.PutObjectInput{
		Bucket: &b.bucket, Key: &key, Body: bytes.NewReader(text),
		ContentType: aws.String("application/json"), CacheControl: &b.cacheControl,
	}
	if have == nil {
		in.IfNoneMatch = aws.String("*")
	} else if have.version != "" {
		in.IfMatch = &have.version
	}
	_, err := b.client.PutObject(ctx, in)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write s3://%s/%s: %w", b.bucket, key, err)
	if status := statusOf(err); status == http.StatusPreconditionFailed || status == http.StatusConflict {
		return withHint(err, "somebody else has published meanwhile: run it again")
	}
	return err
}

// statusOf returns the HTTP status that a service refused with; 0 if it did not.
func statusOf(err error) int {
	if refused := (*awshttp.ResponseError)(nil); errors.As(err, &refused) {
		return refused.HTTPStatusCode()
	}
	return 0
}
