"""The results of ``benchmarks.serving`` as text: tables for the terminal, and the page in ``docs/``. Pure.

A result is what a part has found, as it is kept in ``results.json``.
"""

from __future__ import annotations

import math
import platform
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from statistics import median
from typing import Any

from fibflow.benchmarks.report import machine
from fibflow.benchmarks.serving import texts
from fibflow.benchmarks.serving.lakes import DAILY, STORED

Plain = Mapping[str, Any]

PARTS = ("open", "closed", "sockets", "points")
#: What the project holds itself to: seconds, and bytes.
OPEN_GOAL = 0.250
SOCKETS_GOAL = 0.500
COLD_GOAL, WARM_GOAL = 0.030, 0.005
MEMORY_GOAL = 1e9
_WIDTH = 120
_VERSIONS = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
    "websockets",
    "pyarrow",
    "duckdb",
)
_PLACES = ("p50", "p90", "p99", "p100")


def _text(template: str, **values: object) -> str:
    """Return a text with its values, its paragraphs filled again."""
    parts = template.strip().format(**values).split("\n\n")
    return "\n\n".join(part if part.startswith("#") else textwrap.fill(part, _WIDTH) for part in parts)


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "never"
    return f"{seconds * 1000:,.1f}" if seconds < 0.1 else f"{seconds * 1000:,.0f}"


def _milliseconds(seconds: float) -> str:
    """Return a time with its unit, for a sentence."""
    return _ms(seconds) if math.isnan(seconds) else f"{_ms(seconds)} ms"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.2f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(
        textwrap.fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  ") for line in lines if line
    )


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _times(tours: int) -> str:
    return {0: "nothing was asked", 1: "each history was asked for once"}.get(
        tours, f"each history was asked for {tours} times"
    )


def _ratio(value: float, of: float) -> str:
    return f"{value / of:.2f}" if of else "-"


def _reached(found: float, most: float) -> str:
    return "reached" if found <= most else "missed"


def _marks(seconds: Plain) -> list[str]:
    return [_ms(seconds[place]) for place in _PLACES]


def _failures(run: Plain) -> str:
    """Return what went wrong, one line."""
    if not run["failed"]:
        return "none, reached"
    told = "; ".join(f"{count:,} × {reason}" for reason, count in run["errors"].items())
    return f"{run['failed']:,}, missed: {told}"


def _checked(run: Plain) -> str:
    if not run["wrong"]:
        return f"{run['checked']:,} answers were held against the lake, all right"
    told = f"{run['wrong']:,} WRONG: {run['wrong_shown'][0]}"
    return f"{run['checked']:,} answers were held against the lake, {told}"


def _spent(cpu: Plain, units: float, unit: str) -> str:
    """Return CPU seconds by process (``benchmark`` has the writer's), and the server's of a unit of work."""
    told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in cpu.items() if seconds >= 0.05)
    return f"CPU seconds: {told}; the server's {_ratio(1000 * cpu.get('server', 0.0), units)} ms {unit}"


def open_(part: Plain) -> str:
    """Return the section on users."""
    run, about = part["runs"][-1], part["about"]
    text = _text(
        texts.OPEN,
        users=f"{run['users']:,}",
        every=about["every_s"],
        seconds=about["seconds"],
        warm=about["warm_s"],
        history=_percent(1 - about["price"] - about["export"]),
        price=_percent(about["price"]),
        export=_percent(about["export"]),
        tours=_times(about.get("tours", 0)),
    )
    rows = [
        [kind, f"{of['asked']:,}", f"{of['answered']:,}", _bytes(of["bytes"]), *_marks(of["seconds"])]
        for kind, of in run["kinds"].items()
    ]
    head = ("milliseconds", "asked", "answered", "bytes, mean", "p50", "p90", "p99", "most")
    p99 = run["kinds"]["all"]["seconds"]["p99"]
    asked = run["kinds"]["all"]["asked"]
    notes = [
        f"no error: {_failures(run)}.",
        f"p99 of all at most {OPEN_GOAL * 1000:.0f} ms: {_milliseconds(p99)}, {_reached(p99, OPEN_GOAL)}.",
        _memory_goal(part),
        f"{_checked(run)}.",
        f"{_spent(part['cpu'], asked, 'a question')}; {asked / part['wall']:,.0f} questions a second for "
        f"{part['wall']:.1f} s.",
        f"Questions went out {_ms(run['late']['p50'])} ms behind their plan, p99 {_ms(run['late']['p99'])}; "
        f"that is in the latencies; {run['opened']:,} connections; load {part['load']} before.",
    ]
    return "\n\n".join([text, _table(head, rows), _bullets(notes)])


def _memory_goal(part: Plain) -> str:
    pss = part["memory"]["pss"]
    return f"memory under {_bytes(MEMORY_GOAL)}: {_bytes(pss)} (PSS), {_reached(pss, MEMORY_GOAL)}."


def closed(part: Plain) -> str:
    """Return the section on saturation."""
    runs = part["runs"]
    first = {
        ask: next(run for run in runs if run["ask"] == ask) for ask in dict.fromkeys(r["ask"] for r in runs)
    }
    rows = []
    for run in runs:
        seconds, cpu = run["kinds"]["all"]["seconds"], run["cpu"]
        answered = run["rate"] * part["about"]["seconds"]
        rows.append(
            [
                run["ask"],
                f"{run['connections']:,}",
                f"{run['rate']:,.0f}",
                _ratio(run["rate"], first[run["ask"]]["rate"]),
                _ms(seconds["p50"]),
                _ms(seconds["p99"]),
                *(_ratio(1000 * cpu.get(name, 0.0), answered) for name in ("server", "users")),
                f"{run['failed']:,}",
            ]
        )
    head = (
        "asked",
        "connections",
        "answers a second",
        "of the first",
        "p50 ms",
        "p99 ms",
        "server CPU ms an answer",
        "users CPU ms an answer",
        "errors",
    )
    notes = [
        f"{run['ask']}, {run['connections']} connections: errors {_failures(run)}."
        for run in runs
        if run["failed"]
    ]
    checked, wrong = (sum(run[key] for run in runs) for key in ("checked", "wrong"))
    notes += [
        f"{checked:,} answers were held against the lake, {f'{wrong:,} WRONG' if wrong else 'all right'}."
    ]
    notes += [f"Load {part['load']} before."]
    text = _text(texts.CLOSED, seconds=part["about"]["seconds"])
    return "\n\n".join([text, _table(head, rows), _bullets(notes)])


def sockets(part: Plain) -> str:
    """Return the section on WebSockets."""
    run, about = part["runs"][-1], part["about"]
    text = _text(
        texts.SOCKETS,
        clients=f"{run['clients']:,}",
        some=f"{run['clients'] - about['wild']:,}",
        wild=f"{about['wild']:,}",
        topics=about["topics"],
        symbols=f"{part['symbols']:,}",
        minutes=about["minutes"],
        every=about["minute_s"],
        warm=about["warm_minutes"],
    )
    names = {
        "stored": "Redis to client, all clients",
        "stored_some": "Redis to client, with some symbols",
        "stored_all": "Redis to client, with all symbols",
        "began": "begin of the minute's write to client",
    }
    rows = [[words, *_marks(run[name])] for name, words in names.items()]
    p99 = run["stored"]["p99"]
    right = not (run["missing"] or run["twice"] or run["wrong"] or run["lost"])
    lost = f" ({run['lost_shown'][0]})" if run["lost"] else ""
    notes = [
        f"p99 from Redis to client at most {SOCKETS_GOAL * 1000:.0f} ms: {_milliseconds(p99)}, "
        f"{_reached(p99, SOCKETS_GOAL)}.",
        f"{run['bars']:,} bars counted; missing {run['missing']:,}, twice {run['twice']:,}, "
        f"wrong {run['wrong']:,}; clients lost {run['lost']:,}{lost}: {'all right' if right else 'WRONG'}.",
        _memory_goal(part),
        f"The writes took {_ms(median(part['writes']))} ms, {_ms(max(part['writes']))} at most.",
        f"{_spent(part['cpu'], about['minutes'], 'a minute')}.",
        f"Load {part['load']} before.",
    ]
    head = ("milliseconds", "p50", "p90", "p99", "most")
    return "\n\n".join([text, _table(head, rows), _bullets(notes)])


def points(part: Plain) -> str:
    """Return the section on point reads."""
    runs, about = part["runs"], part["about"]
    made = [run["timeframe"] for run in runs if run["timeframe"] not in (*STORED, DAILY)]
    text = _text(
        texts.POINTS,
        cold=about["cold"],
        warm=about["warm"],
        daily=f"`{DAILY}`",
        more=f", and so is {', '.join(f'`{name}`' for name in made)}" if made else "",
    )
    kinds = ("cold", "dropped", "warm", "again")
    rows = [
        [
            run["timeframe"],
            " - ".join(f"{rows:,}" for rows in dict.fromkeys(run["rows"])) or "not known",
            *(_spread(run[kind]) for kind in kinds),
        ]
        for run in runs
    ]
    notes = []
    stored = [run for run in runs if run["timeframe"] in STORED]
    others = [run for run in runs if run["timeframe"] not in STORED]
    goals = [("cold", COLD_GOAL), ("warm", WARM_GOAL)]
    for kind, goal, some in [(*goal, some) for goal in goals for some in (stored, others) if some]:
        worst = max(median(run[kind]) for run in some)
        which = next(run["timeframe"] for run in some if median(run[kind]) == worst)
        words = "of those that are stored" if some is stored else "of those that are made"
        notes.append(
            f"{kind} at most {goal * 1000:.0f} ms, the median of the slowest {words}: {_ms(worst)} ms "
            f"({which}), {_reached(worst, goal)}."
        )
    notes.append(f"Load {part['load']} before.")
    return "\n\n".join([text, _table(("timeframe", "bars", *kinds), rows), _bullets(notes)])


def _spread(values: Sequence[float]) -> str:
    return f"{_ms(median(values))} ({_ms(min(values))} - {_ms(max(values))})"


def memory(parts: Mapping[str, Plain]) -> str:
    """Return the section on memory; empty where it was not measured."""
    rows = [
        [name, str(of["processes"]), _bytes(of["pss"]), _bytes(of["rss"]), _reached(of["pss"], MEMORY_GOAL)]
        for name, part in parts.items()
        if (of := part.get("memory"))
    ]
    if not rows:
        return ""
    head = ("part", "processes", "PSS", "RSS", f"under {_bytes(MEMORY_GOAL)}")
    return "\n\n".join([_text(texts.MEMORY), _table(head, rows)])


_SECTIONS: dict[str, Callable[[Plain], str]] = {
    "open": open_,
    "closed": closed,
    "sockets": sockets,
    "points": points,
}


def is_right(parts: Mapping[str, Plain]) -> bool:
    """Return whether no answer of any part failed or was wrong, and every bar came."""
    keys = ("failed", "wrong", "missing", "twice", "lost")
    return not any(run.get(key) for part in parts.values() for run in part["runs"] for key in keys)


def sections(results: Plain) -> list[str]:
    """Return the sections of the parts that were run."""
    parts = {name: part for name in PARTS if (part := results["parts"].get(name))}
    found = [_SECTIONS[name](part) for name, part in parts.items()]
    return [*found, *filter(None, [memory(parts)])]


def page(results: Plain, date: str | None = None, told: Mapping[str, str] | None = None) -> str:
    """Return the page for ``docs/``.

    Args:
        results: as kept.
        date: of the runs, to be named; None: none is.
        told: of the machine; as ``report.machine`` tells by default.
    """
    about = machine() | {"versions": versions()} if told is None else dict(told)
    lake = results["lake"]
    head = _text(
        texts.HEAD,
        on=f" on {date}" if date else "",
        cores=lake["cores"],
        rows=f"{lake['rows']:,}",
        symbols=f"{lake['symbols']:,}",
        size=_bytes(lake["bytes"]),
        arguments=lake["arguments"],
    )
    lines = "\n".join(f"- {name}: {value}" for name, value in about.items())
    return (
        "\n\n".join(each.strip() for each in (head, "## The machine\n\n" + lines, *sections(results))) + "\n"
    )


def versions() -> str:
    """Return the versions of what is measured."""
    found = []
    for name in _VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found)}"
