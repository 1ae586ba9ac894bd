package cloudformation

import "context"

// bucketType follows the CloudFormation Template Reference, "AWS::S3::Bucket". Of its properties Lanyard's store has the name alone:
// a bucket that was asked for with encryption or versions, and has none, would be worse than none.
func bucketType() *resourceType {
	return &resourceType{
		name: "AWS::S3::Bucket",
		properties: []property{
			{name: "BucketName", kind: textKind, replaces: true},
		},
		attributes:   []string{"Arn", "DomainName", "DualStackDomainName", "RegionalDomainName"},
		nameProperty: "BucketName", nameLength: 63, lowerCase: true, bucket: true,
		make: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			if _, err := x.bucket(ctx, "CreateBucket", begun.Name); err != nil {
				return nil, err
			}
			return x.bucketState(begun.Name), nil
		},
		find: func(ctx context.Context, x *actor, begun *intent) (*state, error) {
			created, err := x.bucket(ctx, "HeadBucket", begun.Name)
			if err != nil || created.Unix() < begun.Started.Unix() {
				return nil, quietly(nil, err)
			}
			return x.bucketState(begun.Name), nil
		},
		remove: func(ctx context.Context, x *actor, s *state) error {
			_, err := x.bucket(ctx, "DeleteBucket", s.Physical)
			return quietly(nil, err)
		},
	}
}

func (x *actor) bucketState(name string) *state {
	suffix := urlSuffix(x.stack.Partition)
	return &state{Physical: name, Reference: name, Attributes: map[string]string{
		"Arn":                 "arn:" + x.stack.Partition + ":s3:::" + name,
		"DomainName":          name + ".s3." + suffix,
		"RegionalDomainName":  name + ".s3." + x.stack.Region + "." + suffix,
		"DualStackDomainName": name + ".s3.dualstack." + x.stack.Region + "." + suffix,
	}}
}
