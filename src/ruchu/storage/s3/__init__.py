"""Storages in buckets of S3 servers. The only package that imports boto3 (the extra `s3`)."""
