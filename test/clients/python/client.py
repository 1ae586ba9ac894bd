"""The client program of boto3; see ../README.md."""

import json
import sys

import boto3
from botocore.exceptions import ClientError

if sys.argv[1:] == ["identities"]:
    sts = boto3.client("sts")
    for _ in iter(sys.stdin.readline, ""):
        print(sts.get_caller_identity()["Arn"], flush=True)
    sys.exit()

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
