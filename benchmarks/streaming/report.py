"""The results of ``benchmarks.stream`` as text: tables for the terminal, and the page in ``docs/``. Pure.

A result is what the dataclasses' ``plain`` give, as it is kept in ``results.json``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fibflow.benchmarks.report import machine
from fibflow.benchmarks.streaming import texts
from fibflow.benchmarks.streaming.kernel import STEPS

Plain = Mapping[str, Any]

#: What the project holds itself to.
RATE_GOAL = 300_000
LATENCY_GOALS = {"prices": {"p50": 0.5, "p99": 1.0}, "bars": {"p50": 0.75, "p99": 1.25}}
FIBONACCI_GOAL = 0.1
FLAT_GOAL = 0.10
#: Where in a session the sizes of steps are told.
_PLACES = (("half", "half_steps"), ("end", "whole_steps"))
PARTS = ("stages", "growth", "latency", "fibonacci", "checkpoints", "profile")
WITHOUT, WITH = "without Fibonacci timeframes", "with 3d, 5d, 8d, 13d, 21d and 34d"
STAGES: dict[str, str] = {
    "read": "read and parse",
    "minute": "+ one-minute bars, de-duplicated",
    "all": "+ all intraday timeframes and 1d",
    "lake": "+ the lake: raw ticks and bars",
    "redis": "+ Redis: last prices, open and closed bars",
}
_WIDTH = 120
_VERSIONS = ("apache-beam", "apache-flink-libraries", "deltalake", "numpy", "pyarrow", "redis", "moto")


def _text(template: str, **values: object) -> str:
    """Return a text with its values, its paragraphs filled again."""
    parts = template.strip().format(**values).split("\n\n")
    return "\n\n".join(part if part.startswith("#") else textwrap.fill(part, _WIDTH) for part in parts)


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _ms(seconds: float) -> str:
    return "never" if math.isnan(seconds) else f"{seconds * 1000:,.0f}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def grouped(runs: Sequence[Plain]) -> dict[str, list[Plain]]:
    """Return runs by name, in the order in which names first came."""
    found: dict[str, list[Plain]] = {}
    for run in runs:
        found.setdefault(str(run["name"]), []).append(run)
    return found


def _of(runs: Sequence[Plain], key: str) -> float:
    return median(float(run[key]) for run in runs)


def _range(runs: Sequence[Plain], key: str) -> str:
    values = [float(run[key]) for run in runs if not math.isnan(float(run[key]))]
    if not values:
        return "too few"
    spread = f" ({min(values):,.0f} - {max(values):,.0f})" if len(values) > 1 else ""
    return f"{median(values):,.0f}{spread}"


def rates(runs: Sequence[Plain], names: Mapping[str, str]) -> str:
    """Return the rates of runs, each with its ratio to the first; medians over the rounds."""
    by_name = grouped(runs)
    first = _of(next(iter(by_name.values())), "rate")
    rows = [
        [
            names.get(name, name),
            _range(some, "rate"),
            f"{_of(some, 'rate') / first:.2f}",
            _range(some, "middle"),
            f"{1e6 * sum(some[-1]['cpu'].values()) / some[-1]['ticks']:.1f}",
            _bytes(max(run["state"] for run in some)),
            f"{max((each for run in some for each in run['checkpoints']), default=0):,}",
            f"{some[-1]['load']:.1f}",
        ]
        for name, some in by_name.items()
    ]
    head = (
        "",
        "ticks a second",
        "of the first",
        "behind the parser",
        "CPU µs a tick",
        "state",
        "checkpoint, ms",
        "load",
    )
    return _table(head, rows)


def where(run: Plain) -> str:
    """Return what the CPU time of a run went into, by server, as a Markdown table."""
    total = sum(run["cpu"].values())
    rows = [
        [name, f"{seconds:.1f}", f"{1e6 * seconds / run['ticks']:.2f}", f"{100 * seconds / total:.0f} %"]
        for name, seconds in sorted(run["cpu"].items(), key=lambda item: -item[1])
        if seconds >= 0.005 * total
    ]
    return _table(("server", "CPU s", "µs a tick", "part"), rows)


def busy(run: Plain) -> str:
    """Return how long the threads of Flink's steps were at work, as a Markdown table."""
    rows = [
        [f"`{name}`", f"{seconds:.1f}"]
        for name, seconds in sorted(run["busy"].items(), key=lambda item: -item[1])
        if seconds >= 1
    ]
    return _table(("step of Flink, by what is fused in it", "thread seconds"), rows)


def stages(part: Plain, about: Plain) -> str:
    """Return the section on catching up."""
    runs = part["runs"]
    last = runs[-1]
    text = _text(
        texts.STAGES,
        ticks=_number(last["ticks"]),
        symbols=_number(last["symbols"]),
        parallelism=last["parallelism"],
        density=density(about["minutes"]),
        checkpoint=about["checkpoint_s"],
    )
    lines = [text, rates(runs, STAGES), verdict(runs)]
    lakes = [run for run in runs if run.get("lake")]
    lines += [
        f"- `{run['name']}`: {100 * run['lake']['part']:.1f} % of the ticks were in data files at the end; "
        f"all were visible {run['lake']['after_s']:.1f} s later, after {run['lake']['commits']} commits; "
        f"{_number(run['lake']['bars'])} rows of bars, {run['lake']['bytes'] / run['ticks']:.0f} bytes each."
        for run in lakes[-2:]
    ]
    workers = ", ".join(_number(each) for each in last["workers"])
    lines.append(f"- Python workers that parsed: {len(last['workers'])} ({workers} ticks).")
    lines.append(f"### What the CPU time of `{last['name']}` went into\n\n" + where(last))
    lines.append(
        "### Where Flink's threads were\n\nFrom the job's start on, waiting for Python workers included; "
        "two subtasks a step count twice.\n\n" + busy(last)
    )
    return "\n\n".join(filter(None, lines))


def density(minutes: int) -> str:
    """Return how close together the trades of a tape are, in words."""
    if minutes:
        return f"those of {minutes} busy minutes from the open on"
    return "those of one session with its extended hours"


def verdict(runs: Sequence[Plain]) -> str:
    """Return whether the goal of the whole graph was reached, one line; empty where it was not run."""
    whole = [run for run in runs if run["name"] == "redis"]
    if not whole:
        return ""
    rate = _of(whole, "rate")
    reached = "reached" if rate >= RATE_GOAL else f"missed: {rate / RATE_GOAL:.2f} of it"
    return f"Goal for the whole graph: {_number(RATE_GOAL)} ticks a second, {reached}."


def growth(part: Plain, about: Plain) -> str:
    """Return the section on growth."""
    return "\n\n".join([_text(texts.GROWTH, cores=about["cores"]), rates(part["runs"], {})])


def latency(part: Plain) -> str:
    """Return the section on latency."""
    run = part["runs"][-1]
    text = _text(
        texts.LATENCY,
        rate=_number(run["rate"]),
        symbols=_number(run["symbols"]),
        seconds=run["seconds"],
        warm=part["warm_s"],
    )
    names = {
        "prices": "last price, put to seen",
        "bars": "one-minute bar, put to seen",
        "put": "put to taken by the emulator",
        "parsed": "put to out of the parser",
        "prices_stored": "last price, put to in Redis",
        "bars_stored": "one-minute bar, put to in Redis",
    }
    rows = [[words, *(_ms(value) for value in run[name].values())] for name, words in names.items()]
    table = _table(("milliseconds", "p50", "p90", "p99", "most"), rows)
    goals = []
    for name, goal in LATENCY_GOALS.items():
        for part_, most in goal.items():
            found = run[name][part_]
            reached = "reached" if found <= most else "missed"
            goals.append(f"{names[name]} {part_} at most {most:g} s: {found:.2f} s, {reached}")
    took = ", ".join(f"{each:,}" for each in run["checkpoints"]) or "none"
    notes = [
        *goals,
        f"the feed was {run['behind']:.2f} s late at most; load {run['load']:.1f} before",
        f"checkpoints took {took} ms; the last one had {_bytes(run['state'])}",
    ]
    bullets = "\n".join(f"- {line}." for line in notes)
    used = "### What the CPU time went into\n\n" + where(run)
    return "\n\n".join([text, table, bullets, used])


def fibonacci(part: Plain) -> str:
    """Return the section on what Fibonacci timeframes cost."""
    runs, lives = part["runs"], grouped(part["lives"])
    words = {"prices": "last price", "bars": "one-minute bar"}
    head = ("milliseconds", *(f"{what} {place}" for what in words.values() for place in ("p50", "p99")))
    rows = [
        [name, *(_ms(_quantile(some, what, place)) for what in words for place in ("p50", "p99"))]
        for name, some in lives.items()
    ]
    ratios = {"ticks a second": _of(grouped(runs)[WITH], "rate") / _of(grouped(runs)[WITHOUT], "rate")}
    for what, place in ((what, place) for what in words for place in ("p50", "p99")):
        with_, without = (_quantile(lives[name], what, place) for name in (WITH, WITHOUT))
        ratios[f"{words[what]} {place}"] = with_ / without
    worst = max((abs(1 - ratio) for name, ratio in ratios.items() if _is_worse(name, ratio)), default=0.0)
    reached = "reached" if worst <= FIBONACCI_GOAL else f"missed: {100 * worst:.0f} %"
    verdict_ = (
        f"Goal: nothing worse by more than {100 * FIBONACCI_GOAL:.0f} %, {reached}. With over without: "
    )
    verdict_ += ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()) + "."
    return "\n\n".join(
        [_text(texts.FIBONACCI), rates(runs, {}), _table(head, rows), textwrap.fill(verdict_, _WIDTH)]
    )


def _quantile(runs: Sequence[Plain], what: str, place: str) -> float:
    return median(float(run[what][place]) for run in runs)


def _is_worse(name: str, ratio: float) -> bool:
    """Return whether a ratio is to the bad: of a rate below 1, of a latency above."""
    return ratio < 1 if name == "ticks a second" else ratio > 1


def spread(sizes: Sequence[int]) -> float:
    """Return by how much sizes differ at most, as a part of the least; NaN for none."""
    return max(sizes) / min(sizes) - 1 if sizes and min(sizes) else float("nan")


def steps(sessions: Sequence[Plain]) -> str:
    """Return the state of each of Flink's steps in each session, as a Markdown table."""
    places = [(f"{each['date']} {words}", each[key]) for each in sessions for words, key in _PLACES]
    names = sorted({name for _, sizes in places for name in sizes})
    rows = [[f"`{name}`", *(_bytes(sizes.get(name, 0)) for _, sizes in places)] for name in names]
    return _table(("step of Flink", *(words for words, _ in places)), rows)


def checkpoints(part: Plain) -> str:
    """Return the section on the size of checkpoints."""
    run = part["runs"][-1]
    idle, sessions = run["idle"], run["sessions"]
    text = _text(
        texts.CHECKPOINTS,
        polls=_number(run["polls"]),
        sessions=len(sessions),
        symbols=_number(run["symbols"]),
    )
    rows = [["without data", "", _sizes(idle), "", _flat(idle)]]
    for each in sessions:
        contents = f"{_bytes(each['half_content'])}, {_bytes(each['whole_content'])}"
        rows.append([f"session {each['date']}", _number(each["ticks"]), _sizes(each["half"]), contents, ""])
    for words, key in (("in mid-session", "half"), ("after the end", "whole")):
        rows.append([f"checkpoints {words}", "", *_over([each[key][-1] for each in sessions])])
        rows[-1].insert(3, "")
        rows.append([f"savepoints {words}", "", "", *_over([each[f"{key}_content"] for each in sessions])])
    table = _table(("", "trades", "checkpoints", "savepoints: half, end", "differ by"), rows)
    own = ""
    if sessions:
        most = max(size for each in sessions for size in each["half"])
        content = max(each["half_content"] for each in sessions)
        symbols = run["symbols"]
        own = (
            f"State of {_number(symbols)} symbols in mid-session: {_bytes(content)} in a savepoint "
            f"({_bytes(content / symbols)} a symbol), rows on their way to the lake and to Redis included; "
            f"{_bytes(most)} in a checkpoint. The first session begins with no state at all, later ones with "
            "the bars that ended last."
        )
        own = textwrap.fill(own, _WIDTH)
    by_step = steps(sessions) if sessions else ""
    return "\n\n".join(filter(None, [text, table, own, by_step]))


def _sizes(sizes: Sequence[int]) -> str:
    return f"{_bytes(min(sizes))} - {_bytes(max(sizes))}" if sizes else "none"


def _flat(sizes: Sequence[int]) -> str:
    found = spread(sizes)
    if math.isnan(found):
        return "unknown"
    return f"{100 * found:.1f} %, {'flat' if found <= FLAT_GOAL else 'not flat'}"


def _over(sizes: Sequence[int]) -> tuple[str, str]:
    """Compare sizes at one place of each session."""
    return _sizes(sizes), _flat(sizes)


def profile(part: Plain) -> str:
    """Return the section on what a tick costs."""
    run = part["runs"][-1]
    rows = []
    for name, words in STEPS.items():
        micros = 1e6 * run["seconds"][name] / run["ticks"]
        rows.append([words, f"{micros:.2f}", _number(1e6 / micros) if micros else "-"])
    text = _text(texts.PROFILE, ticks=_number(run["ticks"]))
    return "\n\n".join([text, _table(("step", "µs a tick", "ticks a second"), rows)])


_SECTIONS = {
    "stages": lambda part, about: stages(part, about),
    "growth": lambda part, about: growth(part, about),
    "latency": lambda part, about: latency(part),
    "fibonacci": lambda part, about: fibonacci(part),
    "checkpoints": lambda part, about: checkpoints(part),
    "profile": lambda part, about: profile(part),
}


def sections(results: Plain) -> list[str]:
    """Return the sections of the parts that were run, each with the options that it was run with."""
    found = []
    for name in PARTS:
        if part := results["parts"].get(name):
            found.append(_SECTIONS[name](part, part["about"]))
    return found


def page(results: Plain, date: str | None = None, told: Mapping[str, str] | None = None) -> str:
    """Return the page for ``docs/``.

    Args:
        results: as kept.
        date: of the runs, to be named; None: none is.
        told: of the machine; as ``report.machine`` tells by default.
    """
    about = machine() | {"versions": versions()} if told is None else dict(told)
    shards = next(iter(results["parts"].values()))["about"]["shards"]
    layouts = {part["about"]["layout"] for part in results["parts"].values()}
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- {layout}" for layout in sorted(layouts)]
    head = _text(texts.HEAD, on=f" on {date}" if date else "", shards=shards)
    return (
        "\n\n".join(
            each.strip() for each in (head, "## The machine\n\n" + "\n".join(lines), *sections(results))
        )
        + "\n"
    )


def versions() -> str:
    """Return the versions of what is measured."""
    import platform
    from importlib import metadata

    found = []
    for name in _VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found)}"
