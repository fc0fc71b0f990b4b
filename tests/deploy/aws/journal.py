"""An AWS emulator that writes down who asked it for what.

Who calls is told by the key that signs the call: a test gives each service a key of its own name. That holds
for all clients, boto3's, pyarrow's and Delta's.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote
from urllib.request import Request, urlopen

from fibflow.io.aws import AwsConfig

REGION, ACCOUNT = "us-east-1", "123456789012"

# The server says its port, and ends when its standard input does. Bodies of S3 may be large, and say nothing.
_SERVER = """
import io, json, logging, sys, threading
from moto.moto_server import threaded_moto_server as moto

lock, book = threading.Lock(), open(sys.argv[1], "a")

class Journal(moto.DomainDispatcherApplication):
    def __call__(self, environ, start_response):
        signed, body = environ.get("HTTP_AUTHORIZATION", ""), b""
        if signed and "/s3/" not in signed:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
        line = {
            "signed": signed, "method": environ["REQUEST_METHOD"],
            "path": environ.get("RAW_URI", environ["PATH_INFO"]),
            "query": environ.get("QUERY_STRING", ""), "target": environ.get("HTTP_X_AMZ_TARGET", ""),
            "copied": environ.get("HTTP_X_AMZ_COPY_SOURCE", ""), "body": body.decode("latin-1"),
        }
        with lock:
            print(json.dumps(line), file=book, flush=True)
        return super().__call__(environ, start_response)

moto.DomainDispatcherApplication = Journal
server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""

_SIGNED = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/")
# What an action is called that is not the name of its call.
_ACTIONS = {"PublishBatch": "Publish"}


class Call(NamedTuple):
    """A call, as policies name it."""

    who: str
    action: str
    resource: str


@dataclass(frozen=True)
class Recorded:
    """An emulator and its journal.

    Attributes:
        aws: how to reach it, as nobody in particular.
        path: of the journal.
    """

    aws: AwsConfig
    path: Path

    def of(self, who: str) -> AwsConfig:
        """Return how a service reaches it."""
        return replace(self.aws, access_key_id=who)

    def env(self, who: str) -> dict[str, str]:
        """Return the variables with which a service reaches it."""
        return {
            "AWS_ENDPOINT_URL": str(self.aws.endpoint_url),
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": who,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def forget(self) -> None:
        """Take away all that was made there."""
        request = Request(f"{self.aws.endpoint_url}/moto-api/reset", method="POST")
        with urlopen(request, timeout=60):
            pass

    def calls(self) -> set[Call]:
        """Return all calls so far."""
        with self.path.open() as lines:
            return {call for line in lines for call in _calls_of(json.loads(line))}


@contextmanager
def recording(folder: Path) -> Iterator[Recorded]:
    """Run an emulator whose journal lies in a folder."""
    path = folder / "journal.jsonl"
    path.touch()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        port = int(process.stdout.readline())
        yield Recorded(AwsConfig(REGION, f"http://127.0.0.1:{port}", "operator", "test"), path)
        process.stdin.close()


def _calls_of(line: Mapping[str, str]) -> Iterator[Call]:
    signed = _SIGNED.search(line["signed"])
    if signed is None:
        return
    who, _, service = signed.groups()
    if service == "s3":
        for action, resource in _s3_calls(line):
            yield Call(who, action, resource)
        return
    if line["target"]:
        action, arguments = line["target"].rpartition(".")[2], json.loads(line["body"] or "{}")
    else:
        arguments = {name: values[0] for name, values in parse_qs(line["body"]).items()}
        action = arguments.get("Action", "")
    for resource in _resources(service, action, arguments):
        yield Call(who, f"{service}:{_ACTIONS.get(action, action)}", resource)


def _resources(service: str, action: str, arguments: Mapping[str, Any]) -> list[str]:
    if service == "kinesis":
        name = arguments.get("StreamName") or str(arguments.get("StreamARN", "")).rpartition("/")[2]
        if action == "GetRecords":
            # The emulator's iterators say of which stream they are.
            name = base64.b64decode(arguments["ShardIterator"]).decode().split(":")[0]
        return [f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{name}"]
    if service == "dynamodb":
        names = arguments.get("RequestItems") or [arguments.get("TableName", "*")]
        return [f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}" for name in names]
    if service == "sns":
        return [arguments.get("TopicArn", "*")]
    return ["*"]


def _s3_calls(line: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    path, _, _ = line["path"].partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    method, asked = line["method"], parse_qs(line["query"], keep_blank_values=True)
    arn = f"arn:aws:s3:::{bucket}"
    if not key:
        if "delete" in asked:
            # Of many objects at once: which ones is in the body.
            yield "s3:DeleteObject", f"{arn}/?"
        elif method in ("GET", "HEAD"):
            yield "s3:ListBucket" if "location" not in asked else "s3:GetBucketLocation", arn
        else:
            yield f"s3:{method} of a bucket", arn
        return
    if line["copied"]:
        yield "s3:GetObject", f"arn:aws:s3:::{unquote(line['copied']).lstrip('/')}"
    if method == "DELETE":
        yield ("s3:AbortMultipartUpload" if "uploadId" in asked else "s3:DeleteObject"), f"{arn}/{key}"
    else:
        yield ("s3:GetObject" if method in ("GET", "HEAD") else "s3:PutObject"), f"{arn}/{key}"


class Grant(NamedTuple):
    """What a statement of a policy allows: one action on some resources."""

    action: str
    resources: tuple[str, ...]

    def covers(self, call: Call) -> bool:
        """Return whether it allows a call. No wildcard in actions: there are none."""
        return self.action == call.action and any(
            fnmatch.fnmatchcase(call.resource, pattern) for pattern in self.resources
        )


def grants_of(document: Mapping[str, Any]) -> list[Grant]:
    """Return what a policy document allows, an action and resource each."""
    found = []
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow"
        actions, resources = statement["Action"], statement["Resource"]
        actions = [actions] if isinstance(actions, str) else actions
        resources = [resources] if isinstance(resources, str) else resources
        found += [Grant(action, (resource,)) for action in actions for resource in resources]
    return found
