// The client program of the AWS SDK for JavaScript v3; see ../README.md.
import { createInterface } from "node:readline";
import { DescribeInstancesCommand, EC2Client } from "@aws-sdk/client-ec2";
import { ListBucketsCommand, S3Client } from "@aws-sdk/client-s3";
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";

if (process.argv[2] === "identities") {
  const sts = new STSClient({});
  for await (const _ of createInterface({ input: process.stdin })) {
    console.log((await sts.send(new GetCallerIdentityCommand({}))).Arn);
  }
  process.exit();
}
const { Buckets } = await new S3Client({}).send(new ListBucketsCommand({}));
const { Arn } = await new STSClient({}).send(new GetCallerIdentityCommand({}));
let denied = "";
try {
  await new EC2Client({}).send(new DescribeInstancesCommand({}));
} catch (e) {
  denied = `${e.name}: ${e.message}`;
}
console.log(JSON.stringify({ arn: Arn, buckets: Buckets.map((b) => b.Name), denied }));
