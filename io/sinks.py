"""Beam sinks: bars and dead letters to data files of the lake, and the manifest of what was written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.windowed_value import WindowedValue

from fibflow.io import tables
from fibflow.io.datafiles import DataFile, DataFileWriter
from fibflow.io.manifest import PROGRESS, Manifest, Tally, Told, Wrote
from fibflow.io.storage import Storage
from fibflow.io.threads import in_global_window
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import as_arrow, encode_symbols, numbers
from fibflow.transforms.schemas import SYMBOL
from fibflow.transforms.timeframe import Timeframe

#: What the manifest calls the staged files of bars whose windows may not have ended.
OPEN_BARS = "open"

_MOST_BUFFERED = 50_000


def write_bars(
    writer: DataFileWriter, bars: pa.Table, calendar: TradingCalendar, run: str, label: str = ""
) -> Iterator[DataFile]:
    """Write bars of one timeframe, sorted by symbol and ts, a file a period.

    Bars of other calls with the same ``run`` and ``label`` must be of other symbols, or intraday bars
    of other sessions.
    """
    name = bars["timeframe"][0].as_py()
    ts = numbers(bars, "ts")
    period = tables.Period.of(Timeframe.parse(name))
    if period.unit == tables.ALL_TIME:
        parts = [(tables.ALL_TIME, bars)]
    else:
        names = period.names(calendar.local_days(ts))
        parts = [
            (found, bars if mask is None else bars.filter(pa.array(mask)))
            for found, mask in tables.split_by(names)
        ]
    for found, part in parts:
        first = quote(part["symbol"][0].as_py(), safe="")
        if found != tables.ALL_TIME:
            # A unit of minutes is a month: a longer period gets files of several.
            begin = np.datetime_as_string(numbers(part, "ts")[:1].astype("datetime64[us]"), unit="m")[0]
            first += f"-{begin.replace(':', '')}"
        yield writer.write(part, {"timeframe": name, "period": found}, f"{run}-{label}{first}")


@beam.typehints.with_input_types(pa.Table)
class WriteBars(beam.DoFn):
    """Write bars to data files and emit ``Wrote``.

    Bars of windows that have ended go to ``ended``, under the table's name; the others, a few a bundle, to
    ``still_open``, under ``OPEN_BARS``: only the process that commits knows the newest session of all rows,
    and so which of them have ended.
    """

    def __init__(self, ended: Storage, still_open: Storage, calendar: TradingCalendar, run: str) -> None:
        self._ended = DataFileWriter(ended, tables.BARS)
        self._still_open = DataFileWriter(still_open, tables.BARS)
        self._calendar = calendar
        self._run = run
        self._open: dict[str, list[pa.Table]] = {}

    def start_bundle(self) -> None:
        """Begin with nothing buffered."""
        self._open = {}

    def process(self, element: pa.Table) -> Iterator[Wrote]:
        """Write the ended bars of one element."""
        ended = pc.sum(element["complete"]).as_py()
        if ended < len(element):
            # A copy: a slice would keep the whole element in memory until the bundle ends.
            still_open = element.take(as_arrow(np.arange(ended, len(element))))
            self._open.setdefault(element["timeframe"][0].as_py(), []).append(still_open)
        if ended:
            for file in write_bars(self._ended, element.slice(0, ended), self._calendar, self._run):
                yield Wrote(tables.BARS.name, file)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Write the bars that are still open."""
        for parts in self._open.values():
            bars = sort_bars(pa.concat_tables(parts))
            for file in write_bars(self._still_open, bars, self._calendar, self._run, "open-"):
                yield in_global_window(Wrote(OPEN_BARS, file))
        self._open = {}


def sort_bars(bars: pa.Table) -> pa.Table:
    """Return bars of one timeframe sorted by symbol and ts, with one sorted dictionary of symbols."""
    symbols, codes = encode_symbols(bars["symbol"])
    order = np.lexsort((numbers(bars, "ts"), codes))
    at = bars.schema.get_field_index("symbol")
    field = bars.schema.field(at).with_type(SYMBOL)
    bars = bars.set_column(at, field, pa.DictionaryArray.from_arrays(as_arrow(codes), symbols))
    return bars.unify_dictionaries().combine_chunks().take(as_arrow(order))


@beam.typehints.with_input_types(pa.Table)
class WriteDeadLetters(beam.DoFn):
    """Write refused rows to staged data files; emit ``Wrote``, and a ``Tally`` a reason.

    ``process`` may be called from several threads.
    """

    def __init__(self, staging: Storage) -> None:
        self._writer = DataFileWriter(staging.child(tables.DEAD_LETTERS.name), tables.DEAD_LETTERS)
        self._rows: list[pa.Table] = []
        self._lock: threading.Lock | None = None

    def start_bundle(self) -> None:
        """Begin with nothing buffered."""
        self._rows = []
        self._lock = threading.Lock()

    def process(self, element: pa.Table) -> Iterator[Wrote | Tally]:
        """Count the rows and keep them; write when there are many."""
        counts: Any = element["reason"].value_counts()
        for entry in counts.to_pylist():
            yield Tally(f"rejected.{entry['values']}", entry["counts"])
        assert self._lock is not None
        with self._lock:
            self._rows.append(element)
            many: list[pa.Table] = []
            if sum(map(len, self._rows)) >= _MOST_BUFFERED:
                many, self._rows = self._rows, []
        if many:
            yield self._write(many)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Write what is left."""
        if self._rows:
            yield in_global_window(self._write(self._rows))
        # A lock cannot be pickled.
        self._rows, self._lock = [], None

    def _write(self, parts: list[pa.Table]) -> Wrote:
        rows = pa.concat_tables(parts)
        return Wrote(tables.DEAD_LETTERS.name, self._writer.write(rows, {}, content_name(rows)))


def content_name(rows: pa.Table) -> str:
    """Return a name made from the content of refused rows: the same rows get the same name again."""
    rows = rows.drop_columns(["run"]).combine_chunks()
    digest = hashlib.sha256(str(len(rows)).encode())
    for batch in rows.to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()[:24]


@beam.typehints.with_input_types(tuple[None, Iterable[Any]])
class WriteManifest(beam.DoFn):
    """Write the manifest of all that was told, once."""

    def __init__(self, staging: Storage) -> None:
        self._staging = staging

    def process(self, element: tuple[None, Iterable[Told]]) -> None:
        """Write it over one of the same run, if there is."""
        Manifest.of(element[1]).write(self._staging)


def mark_progress(staging: Storage, unit: str) -> None:
    """Leave a mark that a unit of work is done; the command line counts them."""
    staging.write(f"{PROGRESS}/{quote(unit, safe='')}", b"")
