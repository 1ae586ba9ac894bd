"""The client program of boto3; see ../README.md."""

import json

import boto3
from botocore.exceptions import ClientError

out = {
    "buckets": [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]],
    "arn": boto3.client("sts").get_caller_identity()["Arn"],
    "denied": "",
}
try:
    boto3.client("ec2").describe_instances()
except ClientError as e:
    out["denied"] = str(e)
print(json.dumps(out))
