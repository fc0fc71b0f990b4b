"""Many questions to the vendor at once: as many threads as asked for, and an end when nothing comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from fibflow.io.vendor.errors import NoAccess, Unreachable, VendorError, WrongKey

T = TypeVar("T")

#: So many questions in a row without a good answer, and no other is asked.
MOST_FAILED = 3


class Failed(NamedTuple):
    """A question that got no good answer: which, and why, one line."""

    what: str
    why: str


def ask_all(
    questions: Iterable[T],
    ask: Callable[[T], object],
    at_once: int,
    tick: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> list[Failed]:
    """Ask all questions, each in a thread, in their order, and return those that failed.

    Args:
        questions: what to ask.
        ask: asks one and keeps the answer.
        at_once: how many at a time.
        tick: called after each.
        stop: called where the user interrupts: has to end the calls that wait.

    Raises:
        WrongKey, NoAccess, Unreachable: no other question would be answered either, so none is asked.
        Exception: what ``ask`` raises besides, after those that were being asked have ended.
    """
    failed: list[Failed] = []
    row = 0
    waiting: dict[Future[object], T] = {}
    rest = iter(questions)
    more = True
    with ThreadPoolExecutor(at_once, thread_name_prefix="vendor") as pool:
        while True:
            while more and len(waiting) < at_once and row < MOST_FAILED:
                try:
                    question = next(rest)
                except StopIteration:
                    more = False
                    break
                waiting[pool.submit(ask, question)] = question
            if not waiting:
                return failed
            try:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                stop()
                raise
            for future in done:
                question = waiting.pop(future)
                try:
                    future.result()
                    row = 0
                except (WrongKey, NoAccess, Unreachable):
                    raise
                except VendorError as error:
                    failed.append(Failed(str(question), str(error)))
                    row += 1
                tick()
