// Command gov2 is the client program of the AWS SDK for Go v2; see ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if len(os.Args) > 1 && os.Args[1] == "identities" {
		identities(ctx, cfg)
		return
	}
	var out struct {
		ARN     string   `json:"arn"`
		Buckets []string `json:"buckets"`
		Denied  string   `json:"denied"`
	}
	buckets, err := s3.NewFromConfig(cfg).ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		log.Fatal(err)
	}
	for _, b := range buckets.Buckets {
		out.Buckets = append(out.Buckets, *b.Name)
	}
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		log.Fatal(err)
	}
	out.ARN = *who.Arn
	if _, err := ec2.NewFromConfig(cfg).DescribeInstances(ctx, &ec2.DescribeInstancesInput{}); err != nil {
		out.Denied = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}

// identities prints who it is for each line of input.
func identities(ctx context.Context, cfg aws.Config) {
	client := sts.NewFromConfig(cfg)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		who, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(*who.Arn)
	}
	if err := in.Err(); err != nil {
		log.Fatal(err)
	}
}
