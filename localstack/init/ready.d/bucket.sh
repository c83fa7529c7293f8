#!/bin/sh
# LocalStack runs this in its container once it is ready to serve.
set -eu
awslocal s3 mb s3://cas-cache
