"""An S3 client that is not ours: boto3, driven by one JSON request a line on standard input, one JSON answer a line.

The first line is {"endpoint", "access_key_id", "secret_access_key"}. Bodies are files, so that gigabytes pass.
"""

import signal

# Ctrl-C goes to everybody at the terminal; without this, also while the libraries are loaded, a traceback would follow.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import hashlib
import json
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

PARTS = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, max_concurrency=4)


def answer(s3, request):
    bucket, key = request.get("bucket"), request.get("key")
    match request["do"]:
        case "create_bucket":
            s3.create_bucket(Bucket=bucket)
        case "put":
            s3.upload_file(request["file"], bucket, key, Config=PARTS)
        case "put_with":
            with open(request["file"], "rb") as body:
                s3.put_object(Bucket=bucket, Key=key, Body=body, **request["with"])
        case "get":
            s3.download_file(bucket, key, request["file"], Config=PARTS)
        case "sha256":
            digest, body = hashlib.sha256(), s3.get_object(Bucket=bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
        case "head":
            found = s3.head_object(Bucket=bucket, Key=key)
            headers = {name: value for name, value in found.items() if isinstance(value, str)}
            return headers | {"size": found["ContentLength"], "metadata": found["Metadata"], "etag": found["ETag"]}
        case "tags":
            return {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}
        case "list":
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=request.get("prefix", ""))
            return [found["Key"] for page in pages for found in page.get("Contents", [])]
        case "uploads":
            return [found["Key"] for found in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
        case "delete":
            s3.delete_object(Bucket=bucket, Key=key)
        case other:
            raise ValueError(other)


def main():
    login = json.loads(sys.stdin.readline())
    s3 = boto3.client(
        "s3",
        endpoint_url=login["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=login["access_key_id"],
        aws_secret_access_key=login["secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}),
    )
    for line in sys.stdin:
        try:
            reply = {"ok": answer(s3, json.loads(line))}
        except ClientError as error:
            reply = {"error": error.response["Error"]["Code"]}
        except Exception as error:  # noqa: BLE001, any failure is the story's to judge
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


main()
