"""The Kinesis in memory, served over HTTP to boto3 and to other processes, on the machine's clock.

    python -P -m fibflow.tests.io.kinesis.server --quota reads --quota puts

It says its port on standard output, and ends when its standard input does. Signatures are not checked.
Streams, splits and merges are ready at once; shards that were split or merged end, and name their children.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import inspect
import json
import random
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError, ReadTimeoutError

from fibflow.io.aws import AwsConfig
from fibflow.tests.io.kinesis.begin import FAULTS
from fibflow.tests.io.kinesis.fake import QUOTAS, FakeKinesis, WallClock, error

YEAR = 365 * 86_400.0

_PREFIX = "Kinesis_20131202."
_OF_A_STREAM = {
    "DescribeStream",
    "DescribeStreamSummary",
    "GetRecords",
    "GetShardIterator",
    "ListShards",
    "MergeShards",
    "PutRecord",
    "PutRecords",
    "SplitShard",
}
_OF_ALL = {"CreateStream", "DeleteStream", "ListStreams"}
_DATA = {"get_records", "get_shard_iterator", "list_shards", "put_record", "put_records"}
_ENDS_WITHIN = 10.0


class Streams:
    """The streams of an account. For any number of threads.

    Args:
        quotas: those of ``QUOTAS`` that callers are held to.
        retention: seconds for which records can be read.
        iterator_seconds: how long an iterator is good for.
        faults: how often a call for data, or a record of ``PutRecords``, meets one of ``FAULTS``, 0 to 1.
        seed: which ones do.
    """

    def __init__(
        self,
        quotas: Collection[str] = (),
        retention: float = YEAR,
        iterator_seconds: float = 300.0,
        faults: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.streams: dict[str, FakeKinesis] = {}
        self._quotas = frozenset(quotas)
        self._retention = retention
        self._iterator_seconds = iterator_seconds
        self._faults = faults
        self._random = random.Random(seed)
        self._clock = WallClock()
        self._lock = threading.Lock()

    def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carry an operation out.

        Raises:
            ClientError: The service would refuse it.
            ReadTimeoutError: A fault: there is no answer.
        """
        if arn := arguments.pop("StreamARN", None):
            arguments["StreamName"] = arn.rpartition("/")[2]
        with self._lock:
            if operation in _OF_ALL:
                method = getattr(self, xform_name(operation))
            elif operation in _OF_A_STREAM:
                # An iterator or a token stands for its stream.
                token = arguments.get("ShardIterator") or arguments.get("NextToken") or ""
                if operation == "GetRecords":
                    arguments.pop("StreamName", None)
                stream = self._stream(token.rpartition("@")[2] or arguments.get("StreamName", ""), operation)
                method = getattr(stream, xform_name(operation))
            else:
                raise error("UnknownOperationException", f"there is no {operation!r} here", operation)
            try:
                inspect.signature(method).bind(**arguments)
            except TypeError as wrong:
                raise error("ValidationException", f"{operation}: {wrong}", operation) from wrong
            return method(**arguments)

    def create_stream(
        self,
        StreamName: str,
        ShardCount: int = 4,
        StreamModeDetails: Mapping[str, str] | None = None,
        Tags: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", StreamName):
            raise error("ValidationException", f"{StreamName!r} is no name of a stream", "CreateStream")
        if StreamName in self.streams:
            raise error("ResourceInUseException", f"Stream {StreamName} already exists.", "CreateStream")
        self.streams[StreamName] = FakeKinesis(
            self._clock,
            ShardCount,
            self._fault,
            page=1000,
            retention=self._retention,
            quotas=self._quotas,
            name=StreamName,
            begin=int(self._clock() * 1e6),
            iterator_seconds=self._iterator_seconds,
        )
        return {}

    def delete_stream(self, StreamName: str, EnforceConsumerDeletion: bool = False) -> dict[str, Any]:
        self._stream(StreamName, "DeleteStream")
        del self.streams[StreamName]
        return {}

    def list_streams(self) -> dict[str, Any]:
        return {"StreamNames": sorted(self.streams), "HasMoreStreams": False}

    def _stream(self, name: str, operation: str) -> FakeKinesis:
        if name not in self.streams:
            message = f"Stream {name} under account 000000000001 not found."
            raise error("ResourceNotFoundException", message, operation)
        return self.streams[name]

    def _fault(self, operation: str) -> str | None:
        if operation in _DATA and self._faults and self._random.random() < self._faults:
            return self._random.choice(FAULTS)
        return None


class KinesisServer(ThreadingHTTPServer):
    """Serves streams on a loopback port, a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, streams: Streams, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.streams = streams

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over clients that were killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: KinesisServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        operation = (self.headers["X-Amz-Target"] or "").removeprefix(_PREFIX)
        status = 200
        try:
            answer = self.server.streams.call(operation, _decoded(body))
        except ReadTimeoutError:
            self.close_connection = True  # the answer is lost
            return
        except ClientError as refused:
            about: Any = refused.response
            status = about["ResponseMetadata"]["HTTPStatusCode"]
            answer = {"__type": about["Error"]["Code"], "message": about["Error"]["Message"]}
        except Exception as broken:
            traceback.print_exc()
            status, answer = 500, {"__type": "InternalFailure", "message": repr(broken)}
        # What has nothing to say says it in no bytes.
        encoded = json.dumps(answer, default=_encoded, separators=(",", ":")).encode() if answer else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def _decoded(body: bytes) -> dict[str, Any]:
    """Return the arguments of a call as boto3 was given them."""
    try:
        arguments = json.loads(body or b"{}")
        for record in (arguments, *arguments.get("Records", ())):
            if "Data" in record:
                record["Data"] = binascii.a2b_base64(record["Data"])
        if "Timestamp" in arguments:
            arguments["Timestamp"] = datetime.fromtimestamp(arguments["Timestamp"], UTC)
    except (ValueError, TypeError, AttributeError) as wrong:
        raise error("SerializationException", str(wrong)) from wrong
    return arguments


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return round(value.timestamp(), 3)


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run a server in a process of its own and give its endpoint's URL.

    Args:
        arguments: of the command line, such as ``"--quota", "reads"``.
    """
    command = [sys.executable, "-P", "-m", __name__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, "the server did not start: its own lines say why"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            try:
                process.wait(_ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def config_of(url: str) -> AwsConfig:
    """Return how to reach a server: as an account with keys that nobody checks."""
    return AwsConfig(region="us-east-1", endpoint_url=url, access_key_id="test", secret_access_key="test")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="A Kinesis in memory on a loopback port.")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--quota", choices=[*sorted(QUOTAS), "all"], action="append", default=[])
    parser.add_argument("--retention", type=float, default=YEAR, metavar="SECONDS")
    parser.add_argument("--iterator-seconds", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of calls, 0 to 1")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    args = parser.parse_args(argv)
    quotas = QUOTAS if "all" in args.quota else args.quota
    streams = Streams(quotas, args.retention, args.iterator_seconds, args.faults, args.seed)
    with KinesisServer(streams, args.port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
