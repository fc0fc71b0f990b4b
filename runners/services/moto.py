"""AWS: one moto server that answers as S3, Kinesis, DynamoDB and SNS.

It is real HTTP and holds all in memory: a restart forgets it. It enforces **no quotas**. The real Kinesis
allows a shard 5 ``GetRecords`` calls and 2 MB read a second, 1 MB and 1,000 records written a second, and
refuses the rest with ``ProvisionedThroughputExceededException``: a program that only met this server has
not met that.
"""

from __future__ import annotations

import importlib.util
import sys

from fibflow.runners.services.process import HOST, Service, ServiceError, http_json

REGION = "us-east-1"
# It logs no requests: a test of load makes millions.
_SERVER = """
import logging, sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server.start()
print("listening on", *sys.argv[1:], flush=True)
threading.Event().wait()
"""


class Moto(Service):
    """An emulator of the AWS services that Fibflow uses.

    Args:
        port: Its port.
    """

    name = "moto"

    def __init__(self, port: int) -> None:
        self.port = port

    def prepare(self) -> None:
        """Look whether it is installed.

        Raises:
            ServiceError: it is not.
        """
        if any(importlib.util.find_spec(package) is None for package in ("moto", "flask")):
            raise ServiceError(
                "no moto server here: run `make setup`, or install the PyPI package moto[server]"
            )

    def command(self, start: int) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-P", "-c", _SERVER, HOST, str(self.port)]

    def answers(self, start: int) -> bool:
        """Return whether its own interface answers."""
        return http_json(self.address, "/moto-api/data.json") is not None

    def exports(self) -> dict[str, str]:
        """Return the variables of AWS clients: endpoint, region, credentials that are good nowhere else."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
