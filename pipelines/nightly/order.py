"""Steps one after another: which go on when one failed, and what each did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from fibflow.io.failpoints import hit
from fibflow.pipelines.cli import UsageError
from fibflow.transforms.calendar import CalendarError
from fibflow.transforms.timeframe import TimeframeError

_LOG = logging.getLogger(__name__)
_USAGE = (UsageError, CalendarError, TimeframeError)

Rows = list[tuple[str, str]]


class State(StrEnum):
    """How a step ended."""

    DONE = "done"
    NOTHING = "nothing to do"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass
class Did:
    """What a step did.

    Attributes:
        anything: something changed.
        rows: names and values to show.
        problem: one line of what it could not do; None where it did all.
    """

    anything: bool = False
    rows: Rows = field(default_factory=list)
    problem: str | None = None

    def tell(self, name: str, value: str) -> None:
        """Add a row to show."""
        self.rows.append((name, value))


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: a word.
        work: does it; what it raises is a failure.
        needs: the steps that must not have failed, nor been skipped because of another one.
    """

    name: str
    work: Callable[[], Did]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        name: of the step.
        state: how.
        seconds: that it took.
        rows: what there is to show.
        why: one line, of what failed or was skipped.
        usage: what failed is how it was asked, not what it met.
    """

    name: str
    state: State
    seconds: float = 0.0
    rows: Rows = field(default_factory=list)
    why: str = ""
    usage: bool = False

    @property
    def stops(self) -> bool:
        """Whether what needs it cannot be done."""
        return self.state in (State.FAILED, State.SKIPPED)


def carry_out(
    steps: Sequence[Step],
    known: tuple[type[Exception], ...],
    clock: Callable[[], float],
    begins: Callable[[str], object] = lambda name: None,
) -> list[Outcome]:
    """Do steps one after another, and return how each ended.

    One that fails does not keep those from being done that do not need it.

    Args:
        steps: each after those that it needs.
        known: errors whose text is one line that says what to do; of others the traceback is logged.
        clock: seconds that only grow.
        begins: is told the name of each step that is done.
    """
    ended: dict[str, Outcome] = {}
    for step in steps:
        lacking = [name for name in step.needs if name in ended and ended[name].stops]
        if lacking:
            ended[step.name] = Outcome(step.name, State.SKIPPED, why=f"it needs {lacking[0]}")
            continue
        begins(step.name)
        hit("before-step", step.name)
        ended[step.name] = _do(step, known, clock)
        hit("after-step", step.name)
    return list(ended.values())


def _do(step: Step, known: tuple[type[Exception], ...], clock: Callable[[], float]) -> Outcome:
    began = clock()
    try:
        did = step.work()
    except Exception as error:
        if not isinstance(error, (*known, *_USAGE)):
            _LOG.exception("the step %s failed", step.name)
        why = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, (*known, *_USAGE)):
            why = f"{type(error).__name__}: {why}"
        usage = isinstance(error, _USAGE)
        return Outcome(step.name, State.FAILED, clock() - began, why=why, usage=usage)
    seconds = clock() - began
    if did.problem is not None:
        return Outcome(step.name, State.FAILED, seconds, did.rows, " ".join(did.problem.split()))
    return Outcome(step.name, State.DONE if did.anything else State.NOTHING, seconds, did.rows)


def line_of(outcomes: Sequence[Outcome]) -> str | None:
    """Return one line of what failed, and what was left out for it; None where nothing did."""
    failed = [outcome for outcome in outcomes if outcome.state is State.FAILED]
    if not failed:
        return None
    skipped = [outcome.name for outcome in outcomes if outcome.state is State.SKIPPED]
    line = "; ".join(f"{outcome.name} failed: {outcome.why}" for outcome in failed)
    return f"{line} (skipped for it: {', '.join(skipped)})" if skipped else line
