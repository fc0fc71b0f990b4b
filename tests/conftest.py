"""What all tests share: hypothesis without deadlines, and servers of our own.

Machines are shared, and the first example of a property test may load a calendar. S3 is a moto server in its
own process, with an empty bucket for each test.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from fibflow.io.aws import AwsConfig
from fibflow.io.livestore import LiveStore
from fibflow.tests.io.livestores import Server, fresh, serving

settings.register_profile("fibflow", deadline=None)
settings.load_profile("fibflow")

# The server says its port, and ends when its standard input does: also when the tests are killed.
SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class S3(NamedTuple):
    """A bucket and how to reach it."""

    aws: AwsConfig
    bucket: str
    client: Any

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{key}".rstrip("/")

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    @property
    def env(self) -> dict[str, str]:
        """Variables with which another process reaches the bucket."""
        return {
            "AWS_ENDPOINT_URL": str(self.aws.endpoint_url),
            "AWS_REGION": str(self.aws.region),
            "AWS_ACCESS_KEY_ID": str(self.aws.access_key_id),
            "AWS_SECRET_ACCESS_KEY": str(self.aws.secret_access_key),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture(scope="session")
def s3_server() -> Iterator[AwsConfig]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        port = int(process.stdout.readline())
        yield AwsConfig(
            region="us-east-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            access_key_id="test",
            secret_access_key="test",
        )
        process.stdin.close()


_numbers = itertools.count(1)


@pytest.fixture
def s3(s3_server: AwsConfig) -> S3:
    bucket = f"bucket-{next(_numbers)}"
    client = s3_server.boto3_client("s3")
    client.create_bucket(Bucket=bucket)
    return S3(s3_server, bucket, client)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def store(server: Server) -> Iterator[LiveStore]:
    with fresh(server) as made:
        yield made
