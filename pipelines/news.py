"""News from the vendor into the lake: ``python -m pipelines.news``.

Asks the vendor for articles from shortly before the newest that is known on, and brings the table
``reference.news`` up to date: an article is there once, as it was told last. Once an hour, and at first, it
looks three days back, for what came late or was changed. What cannot be taken goes to ``dead_letters``. A
second run does nothing; one that was killed goes on where it was.

    python -m pipelines.news --lake lake --once
    python -m pipelines.news --lake lake --every 60 --redis redis://localhost:6379
    python -m pipelines.news --lake lake --from 2023-01-01
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from typing import Any

from fibflow.io.lake import LakeError
from fibflow.io.lease import locked
from fibflow.io.liveredis import LiveStoreError
from fibflow.io.livestore import LiveStore
from fibflow.io.news.polling import Polled, Poller
from fibflow.io.news.push import tell
from fibflow.io.vendor.errors import NoAccess, VendorError, WrongKey
from fibflow.pipelines import cli
from fibflow.pipelines.vendors import KNOWN_ERRORS as VENDOR_ERRORS
from fibflow.pipelines.vendors import add_vendor_arguments, vendor_of

KNOWN_ERRORS = (*VENDOR_ERRORS, LiveStoreError)
"""What polling raises: one line that says what to do."""

_LOCK = "news"
#: A day in seconds: who polls less often runs it by a timer.
_LONGEST_EVERY = 86_400.0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = cli.Parser(
        prog="pipelines.news",
        description="Bring the lake's news up to date with the vendor's.",
        allow_abbrev=False,
    )
    cli.add_lake_arguments(made)
    when = made.add_mutually_exclusive_group()
    when.add_argument("--once", action="store_true", help="poll once (default)")
    when.add_argument("--every", type=float, metavar="S", help="poll every S seconds, until told to end")
    made.add_argument(
        "--from",
        dest="first",
        type=cli.date_of,
        metavar="DATE",
        help="also what was published since, where that was never asked for (default: the last three days)",
    )
    made.add_argument("--redis", metavar="URL", help="tell what is new to the live store, for its followers")
    made.add_argument(
        "--prefix", default="fibflow", metavar="NAME", help="of the live store's keys (default: %(default)s)"
    )
    add_vendor_arguments(made)
    return made


def run(
    argv: Sequence[str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    wait: Callable[[float], bool] | None = None,
) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments.
        now: the time of day.
        wait: waits for some seconds, and returns whether to end; by default until a signal says so.

    Raises:
        UsageError: the request cannot be met.
        WrongKey, NoAccess: the vendor gives no news to this key.
        VendorError: with ``--once``: it does not answer.
        Busy: another process polls into this lake.
        LakeError, AwsError: the lake cannot be read or written.
        LiveStoreError: with ``--once``: Redis does not answer.
    """
    args = parser().parse_args(argv)
    if args.every is not None and not 0 < args.every <= _LONGEST_EVERY:
        raise cli.UsageError(f"--every is {args.every:g}: give seconds, above 0 and up to {_LONGEST_EVERY:g}")
    lake = cli.lake_of(args)
    with ExitStack() as stack:
        store = stack.enter_context(LiveStore(args.redis, args.prefix)) if args.redis else None
        vendor = vendor_of(args)
        what = f"pipelines.news, begun {now():%Y-%m-%d %H:%M} UTC"
        stack.enter_context(locked(lake, _LOCK, what))
        job = _Job(Poller(vendor, lake, now, cli.new_run_id), store, now)
        if args.every is None:
            began = time.monotonic()
            done, told = job.once(args.first)
            rows = [*done.rows(), *([] if store is None else [("told to the live store", f"{told:,}")])]
            cli.print_table("news", [*rows, ("seconds", f"{time.monotonic() - began:.1f}")])
            return cli.OK
        ending = stack.enter_context(_signals(vendor.close)) if wait is None else threading.Event()
        job.on_and_on(args.every, args.first, wait or ending.wait, ending.is_set)
    return cli.OK


class _Job:
    """Polls, and tells what is new."""

    def __init__(self, poller: Poller, store: LiveStore | None, now: Callable[[], datetime]) -> None:
        self._poller = poller
        self._store = store
        self._now = now

    def once(self, first: date | None) -> tuple[Polled, int]:
        """Poll once; what an earlier run did not tell is told first."""
        self._tell()
        done = self._poller.poll(first)
        return done, self._tell()

    def on_and_on(
        self, every: float, first: date | None, wait: Callable[[float], bool], is_ending: Callable[[], bool]
    ) -> None:
        """Poll until told to end; what passes by itself is a line, and the next poll does it."""
        ended = False
        while not ended:
            began = self._now()
            try:
                self._tell()
                done = self._poller.poll(first)
                if done.anything:
                    _say(done)
                self._tell()
            except (WrongKey, NoAccess):
                raise
            except (VendorError, LakeError, LiveStoreError) as error:
                if is_ending():
                    return
                print(f"pipelines.news: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            ended = wait(max(0.0, every - (self._now() - began).total_seconds()))

    def _tell(self) -> int:
        return 0 if self._store is None else tell(self._store, self._poller.news.table, self._now())


def _say(done: Polled) -> None:
    written = done.written
    counts = {
        "new": written.new,
        "changed": written.changed,
        "as they were": written.unchanged,
        "refused": done.refused.total(),
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    print(f"news: {told}; version {written.version}", flush=True)


@contextmanager
def _signals(close: Callable[[], object]) -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set; they also end what waits for the vendor."""
    ending = threading.Event()

    def end(number: int, frame: Any) -> None:
        ending.set()
        close()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            with suppress(ValueError):
                signal.signal(number, handler)


if __name__ == "__main__":
    cli.run_main(run, sys.argv[1:], known=KNOWN_ERRORS)
