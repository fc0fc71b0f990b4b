"""A Kinesis that costs little: it takes records, counts their messages, and keeps the bytes if told to.

    python -P -m fibflow.benchmarks.ingesting.sink --port 0 --shards 16 --keep FILE

Says its port on standard output and ends with standard input. One stream of any name, no quotas: what is
measured is who puts. Each record is kept as it came, its length (4 bytes) before it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import uvicorn

_HASH_KEYS = 1 << 128
_LENGTH = struct.Struct("<I")
_MARK, _BEAT = b'"ev":', b'{"ev":"HB"'


class Sink:
    """The application.

    Args:
        shards: of the stream.
        keep: takes the records; None drops them.
    """

    def __init__(self, shards: int, keep: BinaryIO | None) -> None:
        step = _HASH_KEYS // shards
        self._shards = [
            {
                "ShardId": f"shardId-{number:012}",
                "HashKeyRange": {
                    "StartingHashKey": str(number * step),
                    "EndingHashKey": str(_HASH_KEYS - 1 if number == shards - 1 else (number + 1) * step - 1),
                },
                "SequenceNumberRange": {"StartingSequenceNumber": "0"},
            }
            for number in range(shards)
        ]
        self._keep = keep
        self.messages = self.records = self.bytes = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        target = dict(scope["headers"]).get(b"x-amz-target", b"").decode().rpartition(".")[2]
        answer = orjson.dumps(self._answer(target, b"".join(parts)))
        headers = [
            (b"content-type", b"application/x-amz-json-1.1"),
            (b"content-length", str(len(answer)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, target: str, body: bytes) -> dict[str, Any]:
        if target == "PutRecords":
            return self._put(orjson.loads(body)["Records"])
        if target == "ListShards":
            return {"Shards": self._shards}
        if target == "DescribeStreamSummary":
            return {"StreamDescriptionSummary": {"StreamStatus": "ACTIVE"}}
        return {"messages": self.messages, "records": self.records, "bytes": self.bytes}

    def _put(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        results = []
        for record in records:
            data = base64.b64decode(record["Data"])
            self.records += 1
            self.bytes += len(data)
            self.messages += data.count(_MARK) - data.count(_BEAT)
            if self._keep is not None:
                self._keep.write(_LENGTH.pack(len(data)) + data)
            # The first shard for all: who puts learns nothing new from it.
            results.append({"ShardId": self._shards[0]["ShardId"], "SequenceNumber": str(self.records)})
        if self._keep is not None:
            self._keep.flush()
        return {"FailedRecordCount": 0, "Records": results}


async def serve(sink: Sink, port: int) -> None:
    """Serve until standard input ends."""
    config = uvicorn.Config(
        sink, port=port, log_level="critical", lifespan="off", access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description="A Kinesis that costs little.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if args.keep is None:
        asyncio.run(serve(Sink(args.shards, None), args.port))
        return
    with args.keep.open("ab") as keep:
        asyncio.run(serve(Sink(args.shards, keep), args.port))


if __name__ == "__main__":
    main()
