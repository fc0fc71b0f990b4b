"""What ``pipelines.inspect`` says of a lake's tables: sizes, versions, refused rows; and their upkeep."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io import maintenance, tables
from fibflow.io.lake import Lake, LakeTable
from fibflow.io.storage import LakeError
from fibflow.pipelines import cli, show

#: A data file that compaction makes holds about so many rows.
COMPACT_ROWS = 1_000_000


def _existing(lake: Lake, name: str | None = None) -> list[LakeTable]:
    """The lake's tables, or one of them."""
    found = [lake.table(spec) for spec in tables.TABLES.values() if name in (None, spec.name)]
    found = [table for table in found if table.exists]
    if not found:
        what = f"there is no table {name} in {lake.uri}" if name else f"there is no lake at {lake.uri}"
        raise LakeError(f"{what}: pipelines.load and pipelines.batch make it")
    return found


def sizes(args: argparse.Namespace, lake: Lake) -> int:
    """Print each table's size, version and properties."""
    rows = []
    for table in _existing(lake):
        at = table.snapshot()
        facts = [
            f"{key.partition('.')[2]} {_short(key, value)}"
            for key, value in sorted(at.properties.items())
            if not key.startswith((tables.COVERED, tables.OF_TICKS))
        ]
        numbers = (f"{at.rows:,}", f"{len(at):,}", _size(at.bytes), str(at.version))
        rows.append((table.spec.name, *numbers, ", ".join(facts)))
    columns = ("table", "rows", "files", "size", "version", "properties")
    show.console().print(show.grid(str(lake.uri), columns, rows, left=("table", "properties")))
    return cli.OK


def _short(key: str, value: str) -> str:
    if key in (tables.CALENDAR_HASHES, tables.INTRADAY_CALENDAR_HASHES):
        return f"of {len(json.loads(value))} years"
    return value if len(value) <= 40 else f"{value[:37]}..."


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def versions(args: argparse.Namespace, lake: Lake) -> int:
    """Print the newest commits of a table."""
    (table,) = _existing(lake, args.table)
    rows = []
    newest = table.version
    for version in range(newest, max(-1, newest - args.limit), -1):
        entry = table.log.read(version)
        # Delta drops old entries; a checkpoint stands for them.
        if entry is None:
            break
        info, added = entry.info, entry.files("add")
        stamp = datetime.fromtimestamp(info["timestamp"] / 1000, UTC) if "timestamp" in info else None
        rows.append(
            (
                str(version),
                f"{stamp:%Y-%m-%d %H:%M:%S}" if stamp else "",
                str(info.get("operation", "")),
                str(info.get("fibflow.run", "")),
                f"+{len(added):,} -{len(entry.of('remove')):,}",
                f"{sum(file.rows for file in added):,}",
                entry.scope.describe() if entry.scope is not None else "",
            )
        )
    columns = ("version", "time (UTC)", "operation", "run", "files", "rows written", "scope")
    left = ("time (UTC)", "operation", "run", "scope")
    show.console().print(show.grid(table.spec.name, columns, rows, left))
    return cli.OK


def dead_letters(args: argparse.Namespace, lake: Lake) -> int:
    """Print how many rows were refused, by reason, and a sample; write all of them where a file is named."""
    table = lake.table(tables.DEAD_LETTERS)
    rows = tables.DEAD_LETTERS.schema.empty_table()
    if table.exists:
        wanted = {"reason": args.reason} if args.reason else None
        rows, _ = table.snapshot().read(None, args.symbol, where=wanted)
    if not len(rows):
        # A lake that is not there has refused nothing either: that is no answer.
        _existing(lake)
        print("no such row was refused" if args.reason or args.symbol else "no row was refused")
        return cli.OK
    counted: Any = rows["reason"].value_counts()
    counts = {entry["values"]: entry["counts"] for entry in counted.to_pylist()}
    cells = [(name, f"{counts[name]:,}") for name in sorted(counts, key=lambda name: (-counts[name], name))]
    out = show.console()
    out.print(show.grid("refused rows", ("reason", "rows"), cells, left=("reason",)))
    sample = _sample(rows, list(counts), args.limit)
    out.print(show.grid(f"{len(sample)} of {len(rows):,}, times in UTC", *_cells(sample), left=_TEXTS))
    if args.output is not None:
        form = show.form_of(args.format, args.output, "csv")
        with show.exporting(args.output, rows.schema, form) as export:
            export.write(rows)
    return cli.OK


_TEXTS = ("reason", "symbol", "origin")


def _sample(rows: pa.Table, reasons: list[str], limit: int) -> pa.Table:
    """The first rows of each reason, so that a frequent one does not hide the others."""
    each = -(-limit // len(reasons))
    codes = pc.index_in(rows["reason"], value_set=pa.array(reasons, pa.string())).to_numpy()
    firsts = [np.flatnonzero(codes == code)[:each] for code in range(len(reasons))]
    return rows.take(np.sort(np.concatenate(firsts))[:limit])


def _cells(rows: pa.Table) -> tuple[list[str], list[tuple[str, ...]]]:
    """Names and texts of the columns that tell what is wrong with a row."""
    names = ["reason", "symbol", "ts", "open", "high", "low", "close", "volume", "origin"]
    # Without its zone, a time's text is short.
    columns = {name: rows[name] for name in names} | {"ts": rows["ts"].cast(pa.timestamp("s"), safe=False)}
    texts = [["" if v is None else str(v) for v in column.to_pylist()] for column in columns.values()]
    return names, list(zip(*texts, strict=True))


def compact(args: argparse.Namespace, lake: Lake) -> int:
    """Merge small files, or print what would be merged."""
    rows = []
    for table in _existing(lake, args.table):
        done = maintenance.compact(table, COMPACT_ROWS, cli.new_run_id(), dry_run=not args.apply)
        files = f"{done.files_before:,} to {done.files_after:,}"
        version = "" if done.version is None else str(done.version)
        rows.append((table.spec.name, files, f"{done.rows:,}", _size(done.bytes_before), version))
    title = "merged" if args.apply else "would be merged; --apply does it"
    columns = ("table", "files", "rows", "size before", "version")
    show.console().print(show.grid(title, columns, rows, left=("table",)))
    return cli.OK


def vacuum(args: argparse.Namespace, lake: Lake) -> int:
    """Delete files that no version within the retention holds, or print how many there are."""
    if not 0 <= args.retention_days < 36_500:
        raise cli.UsageError(f"--retention-days {args.retention_days:g}: name a number of days, 0 or more")
    rows = []
    for table in _existing(lake, args.table):
        done = maintenance.vacuum(table, lake.clock(), args.retention_days * 24, dry_run=not args.apply)
        rows.append((table.spec.name, f"{len(done.paths):,}", _size(done.bytes)))
    title = "deleted" if args.apply else "would be deleted; --apply does it"
    title += f" (older than {args.retention_days:g} days)"
    show.console().print(show.grid(title, ("table", "files", "size"), rows, left=("table",)))
    return cli.OK
