package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// s3Operation is one operation of S3 and the permission that it needs (Service Authorization Reference, "Actions,
// resources, and condition keys for Amazon S3").
type s3Operation struct {
	name    string // in the Amazon S3 API Reference
	method  string
	sub     string // the query parameter that selects it; empty for the plain operation
	header  string // the header that selects it, before the one without
	on      level
	action  string   // the IAM action, without s3:
	version string   // the IAM action when a versionId is named; empty when the operation takes none
	params  []string // other query parameters that it takes
	body    bodyKind
	// refused operations are authorized and then answered with NotImplemented, whatever the store can do: those that
	// would grant access past IAM, move data out of the store's sight, or lock it.
	refused bool
}

// level is what an operation is about.
type level int

const (
	onService level = iota
	onBucket
	onObject
)

// bodyKind says what the gateway does with a request's body.
type bodyKind int

const (
	noBody     bodyKind = iota // there is none, or it has no meaning
	streamed                   // goes to the store as it is
	deleteBody                 // XML that names objects
	tagBody                    // XML that holds tags
	createBody                 // XML that may hold a region
)

var (
	listParams     = []string{"prefix", "delimiter", "max-keys", "encoding-type"}
	responseParams = []string{"partNumber", "response-content-type", "response-content-language", "response-expires",
		"response-cache-control", "response-content-disposition", "response-content-encoding"}
)

// s3Operations is S3, as far as it is known here. A request that fits none of its rows is refused.
var s3Operations = slices.Concat([]s3Operation{
	{name: "ListBuckets", method: "GET", on: onService, action: "ListAllMyBuckets", params: []string{"max-buckets", "continuation-token", "prefix"}},

	{name: "CreateBucket", method: "PUT", on: onBucket, action: "CreateBucket", body: createBody},
	{name: "HeadBucket", method: "HEAD", on: onBucket, action: "ListBucket"},
	{name: "DeleteBucket", method: "DELETE", on: onBucket, action: "DeleteBucket"},
	{name: "ListObjects", method: "GET", on: onBucket, action: "ListBucket",
		params: append([]string{"list-type", "marker", "start-after", "continuation-token", "fetch-owner"}, listParams...)},
	{name: "ListObjectVersions", method: "GET", sub: "versions", on: onBucket, action: "ListBucketVersions",
		params: append([]string{"key-marker", "version-id-marker"}, listParams...)},
	{name: "ListMultipartUploads", method: "GET", sub: "uploads", on: onBucket, action: "ListBucketMultipartUploads",
		params: []string{"prefix", "delimiter", "encoding-type", "key-marker", "upload-id-marker", "max-uploads"}},
	{name: "DeleteObjects", method: "POST", sub: "delete", on: onBucket, body: deleteBody},
	{name: "GetBucketLocation", method: "GET", sub: "location", on: onBucket, action: "GetBucketLocation"},
	{name: "GetBucketPolicyStatus", method: "GET", sub: "policyStatus", on: onBucket, action: "GetBucketPolicyStatus"},

	{name: "GetObject", method: "GET", on: onObject, action: "GetObject", version: "GetObjectVersion", params: responseParams},
	{name: "HeadObject", method: "HEAD", on: onObject, action: "GetObject", version: "GetObjectVersion", params: responseParams},
	{name: "CopyObject", method: "PUT", header: headerCopySource, on: onObject, action: "PutObject"},
	{name: "PutObject", method: "PUT", on: onObject, action: "PutObject", body: streamed},
	{name: "DeleteObject", method: "DELETE", on: onObject, action: "DeleteObject", version: "DeleteObjectVersion"},
	{name: "GetObjectAttributes", method: "GET", sub: "attributes", on: onObject, action: "GetObjectAttributes", version: "GetObjectVersionAttributes"},
	{name: "CreateMultipartUpload", method: "POST", sub: "uploads", on: onObject, action: "PutObject"},
	{name: "UploadPartCopy", method: "PUT", sub: "uploadId", header: headerCopySource, on: onObject, action: "PutObject",
		params: []string{"partNumber"}},
	{name: "UploadPart", method: "PUT", sub: "uploadId", on: onObject, action: "PutObject", params: []string{"partNumber"}, body: streamed},
	{name: "CompleteMultipartUpload", method: "POST", sub: "uploadId", on: onObject, action: "PutObject", body: streamed},
	{name: "AbortMultipartUpload", method: "DELETE", sub: "uploadId", on: onObject, action: "AbortMultipartUpload"},
	{name: "ListParts", method: "GET", sub: "uploadId", on: onObject, action: "ListMultipartUploadParts",
		params: []string{"max-parts", "part-number-marker", "encoding-type"}},
	{name: "GetObjectTagging", method: "GET", sub: "tagging", on: onObject, action: "GetObjectTagging", version: "GetObjectVersionTagging"},
	{name: "PutObjectTagging", method: "PUT", sub: "tagging", on: onObject, action: "PutObjectTagging",
		version: "PutObjectVersionTagging", body: tagBody},
	{name: "DeleteObjectTagging", method: "DELETE", sub: "tagging", on: onObject, action: "DeleteObjectTagging", version: "DeleteObjectVersionTagging"},
	{name: "GetObjectAcl", method: "GET", sub: "acl", on: onObject, action: "GetObjectAcl", version: "GetObjectVersionAcl"},
	{name: "PutObjectAcl", method: "PUT", sub: "acl", on: onObject, action: "PutObjectAcl", version: "PutObjectVersionAcl", refused: true},
	{name: "GetObjectRetention", method: "GET", sub: "retention", on: onObject, action: "GetObjectRetention", version: "GetObjectRetention"},
	{name: "PutObjectRetention", method: "PUT", sub: "retention", on: onObject, action: "PutObjectRetention",
		version: "PutObjectRetention", refused: true},
	{name: "GetObjectLegalHold", method: "GET", sub: "legal-hold", on: onObject, action: "GetObjectLegalHold", version: "GetObjectLegalHold"},
	{name: "PutObjectLegalHold", method: "PUT", sub: "legal-hold", on: onObject, action: "PutObjectLegalHold",
		version: "PutObjectLegalHold", refused: true},
	{name: "GetObjectTorrent", method: "GET", sub: "torrent", on: onObject, action: "GetObjectTorrent", refused: true},
	{name: "RestoreObject", method: "POST", sub: "restore", on: onObject, action: "RestoreObject", version: "RestoreObject", refused: true},
	{name: "SelectObjectContent", method: "POST", sub: "select", on: onObject, action: "GetObject", params: []string{"select-type"}, refused: true},
},
	bucketSetting("accelerate", "BucketAccelerateConfiguration", "AccelerateConfiguration", "AccelerateConfiguration", "", true),
	bucketSetting("acl", "BucketAcl", "BucketAcl", "BucketAcl", "", true),
	bucketSetting("analytics", "BucketAnalyticsConfiguration", "AnalyticsConfiguration", "AnalyticsConfiguration",
		"PutAnalyticsConfiguration", true, "id"),
	bucketSetting("cors", "BucketCors", "BucketCORS", "BucketCORS", "PutBucketCORS", false),
	bucketSetting("encryption", "BucketEncryption", "EncryptionConfiguration", "EncryptionConfiguration", "PutEncryptionConfiguration", false),
	bucketSetting("intelligent-tiering", "BucketIntelligentTieringConfiguration", "IntelligentTieringConfiguration", "IntelligentTieringConfiguration",
		"PutIntelligentTieringConfiguration", true, "id"),
	bucketSetting("inventory", "BucketInventoryConfiguration", "InventoryConfiguration", "InventoryConfiguration",
		"PutInventoryConfiguration", true, "id"),
	bucketSetting("lifecycle", "BucketLifecycleConfiguration", "LifecycleConfiguration", "LifecycleConfiguration", "PutLifecycleConfiguration", false),
	bucketSetting("logging", "BucketLogging", "BucketLogging", "BucketLogging", "", true),
	bucketSetting("metrics", "BucketMetricsConfiguration", "MetricsConfiguration", "MetricsConfiguration", "PutMetricsConfiguration", true, "id"),
	bucketSetting("notification", "BucketNotificationConfiguration", "BucketNotification", "BucketNotification", "", true),
	bucketSetting("object-lock", "ObjectLockConfiguration", "BucketObjectLockConfiguration", "BucketObjectLockConfiguration", "", true),
	bucketSetting("ownershipControls", "BucketOwnershipControls", "BucketOwnershipControls", "BucketOwnershipControls",
		"PutBucketOwnershipControls", true),
	bucketSetting("policy", "BucketPolicy", "BucketPolicy", "BucketPolicy", "DeleteBucketPolicy", true),
	bucketSetting("publicAccessBlock", "PublicAccessBlock", "BucketPublicAccessBlock", "BucketPublicAccessBlock",
		"PutBucketPublicAccessBlock", true),
	bucketSetting("replication", "BucketReplication", "ReplicationConfiguration", "ReplicationConfiguration",
		"PutReplicationConfiguration", true),
	bucketSetting("requestPayment", "BucketRequestPayment", "BucketRequestPayment", "BucketRequestPayment", "", true),
	bucketSetting("tagging", "BucketTagging", "BucketTagging", "BucketTagging", "PutBucketTagging", false),
	bucketSetting("versioning", "BucketVersioning", "BucketVersioning", "BucketVersioning", "", false),
	bucketSetting("website", "BucketWebsite", "BucketWebsite", "BucketWebsite", "DeleteBucketWebsite", true),
)

// bucketSetting returns the operations of one of a bucket's settings: reading it, writing it, and, when there is an action
// for it, deleting it.
func bucketSetting(sub, name, get, put, del string, refuseWrites bool, params ...string) []s3Operation {
	ops := []s3Operation{
		{name: "Get" + name, method: "GET", sub: sub, on: onBucket, action: "Get" + get, params: params},
		{name: "Put" + name, method: "PUT", sub: sub, on: onBucket, action: "Put" + put, params: params, body: streamed, refused: refuseWrites},
	}
	if del != "" {
		ops = append(ops, s3Operation{name: "Delete" + name, method: "DELETE", sub: sub, on: onBucket, action: del, params: params, refused: refuseWrites})
	}
	return ops
}

// findOperation finds the operation that a request asks for, by its method, its sub-resource and what it is about.
func findOperation(method string, q *s3Request) (*s3Operation, *s3Error) {
	on := onService
	switch {
	case q.key != "":
		on = onObject
	case q.bucket != "":
		on = onBucket
	}
	var subs []string
	for _, op := range s3Operations {
		if op.sub != "" && q.query.Has(op.sub) && !slices.Contains(subs, op.sub) {
			subs = append(subs, op.sub)
		}
	}
	if len(subs) > 1 {
		slices.Sort(subs)
		return nil, s3Errorf("InvalidArgument", "Conflicting query string parameters: %s", strings.Join(subs, ", "))
	}
	sub := strings.Join(subs, "")
	for i := range s3Operations {
		op := &s3Operations[i]
		if op.on == on && op.method == method && op.sub == sub && (op.header == "" || q.header.Get(op.header) != "") {
			return op, op.check(q)
		}
	}
	if sub == "" && method == http.MethodPost && on == onBucket {
		return nil, notImplemented("An upload by an HTML form")
	}
	return nil, s3Errorf("MethodNotAllowed", "The specified method is not allowed against this resource.")
}

// check refuses parameters that the operation does not take, and headers that select another operation.
func (op *s3Operation) check(q *s3Request) *s3Error {
	for name := range q.query {
		switch {
		case name == op.sub, name == "x-id", slices.Contains(op.params, name):
		case name == "versionId" && op.version != "":
		default:
			return notImplemented("The query parameter " + name + " of this operation")
		}
	}
	if op.header == "" && q.header.Get(headerCopySource) != "" {
		return s3Errorf("InvalidArgument", "This operation does not take a copy source.")
	}
	if op.sub == "uploadId" && q.query.Get("uploadId") == "" {
		return s3Errorf("NoSuchUpload", "")
	}
	return nil
}

// permission is one action on one resource, with the condition keys that S3 adds to those that every request has.
type permission struct {
	action   string // such as s3:GetObject
	bucket   string // empty for ListAllMyBuckets
	key      string // empty for actions on buckets
	single   map[string]string
	multiple map[string][]string
	tags     bool // s3:ExistingObjectTag/k applies
}

// resource returns the ARN. Listing buckets is decided on all of S3.
func (p permission) resource(partition string) string {
	switch {
	case p.bucket == "":
		return "arn:" + partition + ":s3:::*"
	case p.key == "":
		return "arn:" + partition + ":s3:::" + p.bucket
	default:
		return "arn:" + partition + ":s3:::" + p.bucket + "/" + p.key
	}
}

// tag is an object's or bucket's tag.
type tag struct {
	Key   string
	Value string
}

// permissions returns all that the caller must be allowed to. What is in the request's body comes as arguments: tags (of
// PutObjectTagging) and region (of CreateBucket). DeleteObjects has none of its own; see deletePermission.
func (q *s3Request) permissions(tags []tag, region string) ([]permission, *s3Error) {
	if q.op.action == "" {
		return nil, nil
	}
	main := permission{action: "s3:" + q.op.action, bucket: q.bucket, key: q.key, single: q.conditions(), tags: q.op.on == onObject}
	if version := q.query.Get("versionId"); version != "" {
		main.action, main.single["s3:VersionId"] = "s3:"+q.op.version, version
	}
	if q.op.name == "CreateBucket" && region != "" {
		main.single["s3:LocationConstraint"] = region
	}
	if lists := q.op.name == "ListObjects" || q.op.name == "ListObjectVersions"; lists {
		for _, name := range []string{"prefix", "delimiter", "max-keys"} {
			if q.query.Has(name) {
				main.single["s3:"+name] = q.query.Get(name)
			}
		}
	}

	needs := []permission{main}
	also := func(action string) {
		p := main
		p.action = "s3:" + action
		needs = append(needs, p)
	}
	if q.op.name == "GetObjectAttributes" {
		if q.query.Has("versionId") {
			also("GetObjectVersion")
		} else {
			also("GetObject")
		}
	}
	if creates := q.op.name == "PutObject" || q.op.name == "CopyObject" || q.op.name == "CreateMultipartUpload"; creates {
		if q.header.Get(headerTagging) != "" {
			var err *s3Error
			if tags, err = parseTagHeader(q.header.Get(headerTagging)); err != nil {
				return nil, err
			}
			also("PutObjectTagging")
		}
		if q.setsACL() {
			also("PutObjectAcl")
		}
	}
	if q.op.name == "CreateBucket" {
		if q.setsACL() {
			also("PutBucketAcl")
		}
		if q.header.Get("X-Amz-Object-Ownership") != "" {
			also("PutBucketOwnershipControls")
		}
	}
	if len(tags) > 0 {
		multiple := map[string][]string{"s3:RequestObjectTagKeys": nil}
		for _, t := range tags {
			main.single["s3:RequestObjectTag/"+t.Key] = t.Value
			multiple["s3:RequestObjectTagKeys"] = append(multiple["s3:RequestObjectTagKeys"], t.Key)
		}
		for i := range needs {
			needs[i].multiple = multiple
		}
	}
	if q.op.header == headerCopySource {
		read := permission{action: "s3:GetObject", bucket: q.source.bucket, key: q.source.key, single: q.conditions(), tags: true}
		if q.source.version != "" {
			read.action, read.single["s3:VersionId"] = "s3:GetObjectVersion", q.source.version
		}
		needs = append(needs, read)
	}
	return needs, nil
}

// deletePermission is what deleting one of the objects of DeleteObjects needs.
func (q *s3Request) deletePermission(key, version string) permission {
	p := permission{action: "s3:DeleteObject", bucket: q.bucket, key: key, single: q.conditions(), tags: true}
	if version != "" {
		p.action, p.single["s3:VersionId"] = "s3:DeleteObjectVersion", version
	}
	return p
}

// setsACL reports whether the request carries an access control list in its headers.
func (q *s3Request) setsACL() bool {
	for name := range q.header {
		if name == headerACL || strings.HasPrefix(name, "X-Amz-Grant-") {
			return true
		}
	}
	return false
}

// conditionHeaders are the headers that are condition keys.
var conditionHeaders = map[string]string{
	headerACL: "s3:x-amz-acl", headerCopySource: "s3:x-amz-copy-source", headerSHA256: "s3:x-amz-content-sha256",
	"X-Amz-Grant-Full-Control": "s3:x-amz-grant-full-control", "X-Amz-Grant-Read": "s3:x-amz-grant-read",
	"X-Amz-Grant-Read-Acp": "s3:x-amz-grant-read-acp", "X-Amz-Grant-Write": "s3:x-amz-grant-write",
	"X-Amz-Grant-Write-Acp":        "s3:x-amz-grant-write-acp",
	"X-Amz-Metadata-Directive":     "s3:x-amz-metadata-directive",
	"X-Amz-Object-Ownership":       "s3:x-amz-object-ownership",
	"X-Amz-Server-Side-Encryption": "s3:x-amz-server-side-encryption",
	"X-Amz-Storage-Class":          "s3:x-amz-storage-class", "X-Amz-Website-Redirect-Location": "s3:x-amz-website-redirect-location",
	"If-Match": "s3:if-match", "If-None-Match": "s3:if-none-match",
}

// conditions returns the single-valued condition keys that the request's form and headers give.
func (q *s3Request) conditions() map[string]string {
	keys := map[string]string{"s3:signatureversion": "AWS4-HMAC-SHA256", "s3:authType": "REST-HEADER"}
	if q.presign {
		keys["s3:authType"] = "REST-QUERY-STRING"
	}
	for header, key := range conditionHeaders {
		if values := q.header[header]; values != nil {
			keys[key] = values[0]
		}
	}
	if c := q.source; c.bucket != "" {
		keys["s3:x-amz-copy-source"] = c.bucket + "/" + c.key
	}
	return keys
}

// parseTagHeader reads X-Amz-Tagging: tags in the form of a query.
func parseTagHeader(v string) ([]tag, *s3Error) {
	values, err := url.ParseQuery(v)
	if err != nil {
		return nil, s3Errorf("InvalidArgument", "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters "+
			"without tag name duplicates.")
	}
	var tags []tag
	for key, list := range values {
		if len(list) != 1 {
			return nil, s3Errorf("InvalidTag", "Cannot provide multiple Tags with the same key")
		}
		tags = append(tags, tag{key, list[0]})
	}
	slices.SortFunc(tags, func(a, b tag) int { return strings.Compare(a.Key, b.Key) })
	return tags, checkTags(tags)
}

// checkTags holds tags to S3's limits (Amazon S3 User Guide, "Categorizing your objects using tags").
func checkTags(tags []tag) *s3Error {
	const maxTags, maxTagKey, maxTagValue = 10, 128, 256
	if len(tags) > maxTags {
		return s3Errorf("BadRequest", "Object tags cannot be greater than %d", maxTags)
	}
	seen := map[string]bool{}
	for _, t := range tags {
		switch {
		case t.Key == "" || len([]rune(t.Key)) > maxTagKey:
			return s3Errorf("InvalidTag", "The TagKey you have provided is invalid")
		case len([]rune(t.Value)) > maxTagValue:
			return s3Errorf("InvalidTag", "The TagValue you have provided is invalid")
		case seen[t.Key]:
			return s3Errorf("InvalidTag", "Cannot provide multiple Tags with the same key")
		}
		seen[t.Key] = true
	}
	return nil
}
