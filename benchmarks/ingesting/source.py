"""A vendor's feed that costs little: frames of trades that were made beforehand, at a rate.

    python -P -m fibflow.benchmarks.ingesting.source --rate 100000 --seconds 30 --per-frame 100

Says its port on standard output, begins with the first who subscribes, says in a line of JSON how it went,
and ends with standard input. A socket that is not read fast enough is told by ``behind_s``: how long the
last frames had to wait. The frames are repeated, so that making them costs nothing meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

_STEP_S = 0.01
#: Bytes that may wait in the socket before it counts as behind.
_WAITING = 1 << 20
_MADE = 200_000
_SYMBOLS = 5_350


def frames_of(per_frame: int, seed: int = 1) -> list[bytes]:
    """Return frames of trades as they go over the wire. A few symbols have most of the trades."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    lengths = rng.integers(1, 5, _SYMBOLS)
    names = ["".join(rng.choice(letters, n)) for n in lengths.tolist()]
    chosen = (rng.random(_MADE) ** 3 * _SYMBOLS).astype(np.int64).tolist()
    cents = rng.integers(100, 50_000, _MADE).tolist()
    now = time.time_ns() // 1_000_000
    made = []
    for at in range(0, _MADE - per_frame + 1, per_frame):
        text = ",".join(
            f'{{"ev":"T","sym":"{names[chosen[n]]}","x":4,"i":"{n}","z":3,"p":{cents[n] / 100},"s":100,'
            f'"c":[14,41],"t":{now},"q":{n}}}'
            for n in range(at, at + per_frame)
        )
        made.append(bytes(Frame(Opcode.TEXT, f"[{text}]".encode()).serialize(mask=False)))
    return made


class Source:
    """Plays frames to the first who subscribes."""

    def __init__(self, rate: float, seconds: float, per_frame: int) -> None:
        self._rate, self._seconds, self._per_frame = rate, seconds, per_frame
        self._frames = frames_of(per_frame)
        self.played = asyncio.Event()
        self.told: dict[str, Any] = {}

    async def __call__(self, client: ServerConnection) -> None:
        """Talk to a client as the vendor does."""
        await client.send('[{"ev":"status","status":"connected","message":"Connected Successfully"}]')
        await client.recv()
        await client.send('[{"ev":"status","status":"auth_success","message":"authenticated"}]')
        await client.recv()
        await client.send('[{"ev":"status","status":"success","message":"subscribed to: T.*"}]')
        await self._play(client.transport)
        await client.wait_closed()

    async def _play(self, transport: Any) -> None:
        began = time.monotonic()
        total = int(self._rate * self._seconds / self._per_frame)
        sent = 0
        worst = waited = 0.0
        while sent < total:
            due = min(total, int((time.monotonic() - began) * self._rate / self._per_frame))
            if transport.get_write_buffer_size() > _WAITING:
                waited += _STEP_S
                worst = max(worst, waited)
            else:
                waited = 0.0
                for number in range(sent, due):
                    transport.write(self._frames[number % len(self._frames)])
                sent = max(sent, due)
            await asyncio.sleep(_STEP_S)
        late = time.monotonic() - began - self._seconds
        self.told = {
            "messages": sent * self._per_frame,
            "seconds": time.monotonic() - began,
            "late_s": max(0.0, late),
            "longest_wait_s": worst,
        }
        self.played.set()


async def run(args: argparse.Namespace) -> None:
    """Serve until what is to be played was, and standard input ends."""
    source = Source(args.rate, args.seconds, args.per_frame)
    async with serve(source, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        sys.stdout.write(f"{next(iter(server.sockets)).getsockname()[1]}\n")
        sys.stdout.flush()
        await source.played.wait()
        sys.stdout.write(json.dumps(source.told) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Play as the command line says."""
    parser = argparse.ArgumentParser(description="A vendor's feed that costs little.")
    parser.add_argument("--rate", type=float, required=True, help="messages a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--per-frame", type=int, default=100)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
