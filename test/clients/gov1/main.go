// Command gov1 is the client program of the AWS SDK for Go v1, which knows no endpoint variable; see ../README.md.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/ec2"
	"github.com/aws/aws-sdk-go/service/s3"
	"github.com/aws/aws-sdk-go/service/sts"
)

func main() {
	s, err := session.NewSession(&aws.Config{Region: aws.String("us-east-1")})
	if err != nil {
		log.Fatal(err)
	}
	var out struct {
		ARN     string   `json:"arn"`
		Buckets []string `json:"buckets"`
		Denied  string   `json:"denied"`
	}
	buckets, err := s3.New(s).ListBuckets(nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, b := range buckets.Buckets {
		out.Buckets = append(out.Buckets, *b.Name)
	}
	who, err := sts.New(s).GetCallerIdentity(nil)
	if err != nil {
		log.Fatal(err)
	}
	out.ARN = *who.Arn
	if _, err := ec2.New(s).DescribeInstances(nil); err != nil {
		out.Denied = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
