"""The drills as text: ``docs/drills.md``. Pure; of a run it holds nothing but seconds and counts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from fibflow.benchmarks.drills.notes import Notes
from fibflow.benchmarks.drills.trees import KEEPS_STATE, NEW_FORMAT, RENAMES
from fibflow.benchmarks.report import machine

_WIDTH = 120

_HEAD = """Each drill is a live job of its own on the local stack: Flink, Python workers, Redis, PostgreSQL,
an emulator of Kinesis, all processes of their own. Two sessions of {symbols} made-up symbols are played
into it, with messages late, shuffled, repeated and broken. It happens in the middle, while ticks are played
and the lake shows them. Other releases are copies of the source with some lines changed
(`benchmarks/drills/trees.py`), which commands and workers import."""

_TITLES = {
    "upgrade": "Upgrade",
    "breaking": "A change that breaks the state",
    "restore": "Restore",
}
_WHAT = {
    "upgrade": f"""A running stream is stopped with a savepoint, its code replaced by a release that keeps the
state ({KEEPS_STATE.what}), and resumed. At the end `silver.live` is what batch makes of `bronze.ticks` minus
`late`, every column but `revision` to the bit; every message of the tape is in `bronze.ticks`; readers of the
lake and of the live store saw no bar twice.""",
    "breaking": f"""Two releases that would not read the savepoint ({RENAMES.what}; {NEW_FORMAT.what}) and
another lateness are refused before anything runs, by the layout of the state that each submission
leaves in the lake (`_jobs/layouts`). Then the second of them makes the bars anew, as the line says: a job of
another name reads the stream from its beginning, in place of the first. When the sessions have ended the
official days are landed, and `pipelines.reconcile` makes the bars of what `bronze.ticks` and `bronze.daily`
hold. What readers see at the end is what batch makes of all of that, every column but `revision` to the
bit.""",
    "restore": """Backup: the job is stopped with a savepoint and resumed; the versions of the lake's tables
are noted; `pg_dump`. The stream goes on. Then the job is cancelled, all rows of `bronze.ticks`, `silver.live`
and `late` are deleted, and the database is dropped. The tables are set back to the versions noted, the
database is made from the dump, the live store is emptied, and the job resumed from the savepoint. At the end
`silver.live` is what batch makes of `bronze.ticks` minus `late`, every column but `revision` to the bit, and
every message of the tape is in `bronze.ticks`: Kinesis still held those that came after the savepoint.""",
}


def table(drills: Sequence[Notes]) -> str:
    """Return what came of the drills."""
    lines = ["| drill | bars compared | not batch's | result |", "|---|---|---|---|"]
    for each in drills:
        bars, wrong = ("-", "-") if each.bars is None else (f"{each.bars:,}", f"{each.wrong:,}")
        lines.append(f"| {each.name} | {bars} | {wrong} | {'passed' if each.passed else '**failed**'} |")
    why = [f"- {each.name}: {line}" for each in drills for line in each.problems]
    return "\n".join(lines) + ("\n\nWhat is wrong:\n\n" + "\n".join(why) if why else "")


def steps(notes: Notes) -> str:
    """Return what was done in a drill, and how long it took."""
    return "\n".join(["| | s |", "|---|---|", *(f"| {what} | {took:.1f} |" for what, took in notes.steps)])


def page(drills: Sequence[Notes], symbols: int, date: str | None, load: float) -> str:
    """Return the page.

    Args:
        drills: of a whole run.
        symbols: of the market.
        date: of the run, None to name none.
        load: the load average before it.
    """
    where = machine()
    parts = [
        "# Drills: upgrade, refusal, restore",
        f"Made by `make drills`{f' on {date}' if date else ''}; do not edit. What to do in earnest stands in "
        "[operations](operations.md).",
        _filled(_HEAD.format(symbols=symbols)),
        _filled(
            f"Processor: {where['processor']}; {where['memory']}. Load average before it: {load:.1f}. "
            "Commits are made every second and checkpoints every 2 s."
        ),
        table(drills),
    ]
    for each in drills:
        parts += [f"## {_TITLES[each.name]}", _filled(_WHAT[each.name]), steps(each)]
        if each.facts:
            parts.append("\n".join(_filled(f"- {fact}.", "  ") for fact in each.facts))
        if each.lines:
            said = "\n\n".join(map(_filled, each.lines))
            parts += ["What was said:", f"```\n{said}\n```"]
    names = ", ".join(f"`{name}`" for name in _WHAT)
    parts.append(
        _filled(
            f"`python -m benchmarks.drills --only NAME` runs single ones: {names}. Resharding, another "
            "parallelism and a rewind are rows of [reliability](reliability.md)."
        )
    )
    return "\n\n".join(parts) + "\n"


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        _WIDTH,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
