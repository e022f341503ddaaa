"""Make the bucket of MLFLOW_ARTIFACTS_DESTINATION (s3://BUCKET/…) where it is missing, as soon as the object store answers."""

import os
import time
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

bucket = urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
deadline = time.monotonic() + 60
while True:
    try:
        client.head_bucket(Bucket=bucket)
        break
    except EndpointConnectionError:
        if time.monotonic() > deadline:
            raise
        time.sleep(1)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        client.create_bucket(Bucket=bucket)
        print(f"made the bucket {bucket}")
        break
