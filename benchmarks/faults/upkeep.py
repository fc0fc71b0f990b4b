"""The row in which a stream, batch and compaction work on one lake at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fibflow.benchmarks.faults.commits import longest_pause
from fibflow.benchmarks.faults.rig import CALENDAR, FaultRun
from fibflow.benchmarks.faults.watcher import repeated
from fibflow.io import maintenance, tables
from fibflow.io.bars import BarReader
from fibflow.io.lake import Lake, TableMissing
from fibflow.pipelines import cli, tape

TIMEFRAMES = ("3d", "5d")
#: Sessions that are landed, a part at a time.
_SESSIONS, _ROUNDS = 40, 3
#: So young files stay apart: of a stream whose newest checkpoint is a few seconds old.
_APART = timedelta(seconds=10)
_ROWS = 100_000


def batch_and_compact(run: FaultRun) -> None:
    """Land history and make bars of it, in parts, while every table is compacted again and again."""
    began, ended = time.time(), Event()
    with ThreadPoolExecutor(1) as pool:
        merging = pool.submit(_compact, run.reader, ended)
        try:
            for part in range(_ROUNDS):
                _land(run, part)
                _batch(run, run.uri)
        finally:
            ended.set()
        merged = merging.result()
    for name in (tables.TICKS.name, tables.LIVE.name):
        if not merged.get(name):
            run.problems.append(f"compaction found nothing to merge in {name}")
    run.recovered(time.time())
    run.recoveries[-1] = max(run.recoveries[-1], longest_pause(run.reader, began))


def _land(run: FaultRun, part: int) -> None:
    """Land some sessions of daily rows before those that are there, and one row that is refused."""
    days = np.asarray(run.market.calendar.days)
    oldest = pc.min(run.market.history["session"]).cast(pa.int32()).as_py()
    first = int(np.searchsorted(days, oldest))
    names = np.array_split(np.arange(first - _SESSIONS, first), _ROUNDS)[part]
    rows = tape.synthetic_daily(len(run.market.tape.symbols), days[names], np.random.default_rng(part))
    rows = rows.rename_columns(["date" if name == "session" else name for name in rows.column_names])
    broken = rows.slice(0, 1).set_column(
        rows.schema.get_field_index("symbol"), "symbol", pa.array([""], rows["symbol"].type)
    )
    raw = _raw(run)
    raw.mkdir(exist_ok=True)
    pq.write_table(pa.concat_tables([rows, broken]), raw / f"part-{part}.parquet")
    _load(run, run.uri, raw)


def _raw(run: FaultRun) -> Path:
    return run.folder / "raw"


def _load(run: FaultRun, lake: str, raw: Path) -> None:
    _command(run, "load", lake, "--input", str(raw), "--price-basis", "raw", "--calendar", CALENDAR)


def _batch(run: FaultRun, lake: str) -> None:
    _command(run, "batch", lake, "--timeframes", ",".join(TIMEFRAMES))


def _command(run: FaultRun, name: str, lake: str, *arguments: str) -> None:
    done = run.command(f"pipelines.{name}", "--lake", lake, "--workers", "1", *arguments)
    assert done.returncode == 0, done.stderr.strip()


def _compact(lake: Lake, ended: Event) -> dict[str, int]:
    """Compact all tables until told to end; return how many files of each were merged."""
    merged = dict.fromkeys(tables.TABLES, 0)
    while not ended.is_set():
        for spec in tables.TABLES.values():
            with suppress(TableMissing):
                table = lake.table(spec)
                done = maintenance.compact(table, _ROWS, cli.new_run_id(), keep_apart=_APART)
                merged[spec.name] += done.files_before if done.version is not None else 0
    return merged


def check(run: FaultRun) -> None:
    """Hold what batch left beside what it makes in a lake where nothing else is."""
    alone = str(run.folder / "alone")
    for raw in (run.folder / "history", _raw(run)):
        _load(run, alone, raw)
    _batch(run, alone)
    for name in TIMEFRAMES:
        here, there = (BarReader(lake).bars(None, name) for lake in (run.reader, Lake(alone)))
        if twice := repeated(here):
            run.problems.append(f"{twice} keys twice in silver.bars, {name}")
        without = [column for column in here.column_names if column != "revision"]
        if not here.select(without).equals(there.select(without)):
            run.problems.append(f"silver.bars, {name}: not what batch makes alone")
    refused = run.refused_by_batch()
    if refused != _ROUNDS:
        run.problems.append(f"dead_letters hold {refused} rows of batch, not {_ROUNDS}")
