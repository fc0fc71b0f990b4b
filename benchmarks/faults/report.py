"""The matrix as text: ``docs/reliability.md``. Pure; of a run it holds nothing but seconds that differs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fibflow.benchmarks.faults.scenarios import AWAY_S, Scenario
from fibflow.benchmarks.report import machine

#: What the project holds itself to, seconds.
RECOVERS_WITHIN = 30.0
_WIDTH = 120

_HEAD = """# Reliability: what breaks, and what is left of it

Made by `make faults`{on}; do not edit.

Each row is a live job of its own on the local stack: Flink, Python workers, Redis, emulators of Kinesis and
S3, all processes of their own. Two sessions of {symbols} made-up symbols are played into it, with messages
late, shuffled, repeated and broken, the same ones in every row and every run. The fault comes in the middle,
while ticks are played and the lake shows them. A row passes when all of this is so:

- **Equal to batch.** At the end `silver.live` is what batch makes of `bronze.ticks` minus `late`, every
  column but `revision` to the bit: no bar missing, none more, none different. Every message of the tape is
  in `bronze.ticks`, every broken one in `dead_letters`, and what was archived was used, a duplicate, or late.
- **No key twice.** From before the fault to the end one reader reads the lake's bars again and again, and
  one follows the closed bars of the live store. No answer of the lake held a key twice; no (symbol,
  timeframe, ts, revision, final) was pushed with two contents (by one history of the job: one that goes back
  to a checkpoint counts revisions anew from there); at the end the follower has what the lake has, every
  column.
- **Back in {limit:g} s.** From the fault's end (of a kill: from the kill; of a stop: from the command that
  resumes) until the lake shows new rows: a commit of ticks that arrived after that instant, and then one of
  bars. Of several the longest counts.
"""

#: How bars can differ from batch's.
FIELDS = ("missing", "surplus", "different")


@dataclass(frozen=True)
class Row:
    """What came of a scenario.

    Attributes:
        name: the scenario's.
        recoveries: seconds, one for each fault in it.
        verdict: how many bars by ``FIELDS``, none where the run did not come that far.
        problems: what else is wrong, a line each.
    """

    name: str
    recoveries: Sequence[float] = ()
    verdict: dict[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.why()

    def why(self) -> list[str]:
        """Return what is wrong, a line each."""
        found = list(self.problems)
        if wrong := [f"{self.verdict[name]:,} {name}" for name in FIELDS if self.verdict.get(name)]:
            found.append(f"bars that are not batch's: {', '.join(wrong)}")
        if not self.verdict and not found:
            found.append("the run did not come to its end")
        if self.recoveries and max(self.recoveries) > RECOVERS_WITHIN:
            found.append(f"new rows after {max(self.recoveries):.1f} s, not within {RECOVERS_WITHIN:g} s")
        if self.verdict and not self.recoveries:
            found.append("nothing was recovered from")
        return found


def counts(verdict: Any, readable: int, broken: int) -> list[str]:
    """Return where the counts of a run do not add up.

    Args:
        verdict: a ``live.Verdict``.
        readable, broken: messages of the tape.
    """
    accounted = verdict.used + verdict.duplicates + verdict.late
    sums = (
        ("messages in bronze.ticks", verdict.ticks, readable),
        ("unreadable messages in dead_letters", verdict.unreadable, broken),
        ("messages used, late or duplicates", accounted, verdict.ticks),
    )
    found = [f"{name}: {is_:,}, not {wanted:,}" for name, is_, wanted in sums if is_ != wanted]
    # Else the row shows nothing of what a stream has to cope with.
    return found + [f"{name}: none" for name in ("late", "duplicates") if not getattr(verdict, name)]


def table(rows: Sequence[Row], scenarios: Sequence[Scenario]) -> str:
    """Return the table of the rows that ran, in the matrix's order, and why those failed that did."""
    by_name = {row.name: row for row in rows}
    lines = ["| fault | bars not batch's | new rows after, s | result |", "|---|---|---|---|"]
    why = []
    for scenario in scenarios:
        row = by_name.get(scenario.name)
        if row is None:
            continue
        wrong = sum(row.verdict[name] for name in FIELDS) if row.verdict else None
        longest = f"{max(row.recoveries):.1f}" if row.recoveries else "never"
        result = "passed" if row.passed else "**failed**"
        bars = "-" if wrong is None else f"{wrong:,}"
        lines.append(f"| {scenario.title} | {bars} | {longest} | {result} |")
        why += [f"- {scenario.title}: {line}" for line in row.why()]
    return "\n".join(lines) + ("\n\nWhy rows failed:\n\n" + "\n".join(why) if why else "")


def page(
    rows: Sequence[Row], scenarios: Sequence[Scenario], symbols: int, date: str | None, load: float
) -> str:
    """Return the page.

    Args:
        rows: of a whole run.
        scenarios: the matrix.
        symbols: of the market.
        date: of the run, None to name none.
        load: the load average before it.
    """
    on = f" on {date}" if date else ""
    where = machine()
    acts = [f"**{each.title}.** {each.happens} *{each.operator}*" for each in scenarios]
    names = ", ".join(f"`{scenario.name}`" for scenario in scenarios)
    parts = [
        _filled(_HEAD.format(on=on, symbols=symbols, limit=RECOVERS_WITHIN)),
        "## The matrix",
        _filled(
            f"Processor: {where['processor']}; {where['memory']}. Load average before it: {load:.1f}. "
            f"Commits are made every second and checkpoints every 2 s (of the last failpoint: every 4 s, and "
            f"every second). A service that is away is so for {AWAY_S:g} s."
        ),
        table(rows, scenarios),
        "## What happens, and what an operator does",
        "\n".join(_wrapped(act, "- ") for act in acts),
        _filled(f"`python -m benchmarks.faults.run --only NAME` runs single rows: {names}."),
    ]
    return "\n\n".join(parts) + "\n"


def _filled(text: str) -> str:
    """Fill the paragraphs and list items of a text anew."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith("- "):
            parts.append("\n".join(_wrapped(item, "- ") for item in f"\n{paragraph}".split("\n- ")[1:]))
        else:
            parts.append(_wrapped(paragraph, ""))
    return "\n\n".join(parts)


def _wrapped(text: str, mark: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
        break_long_words=False,
    )
