"""How rows are shown and handed out: tables on a terminal, and CSV, JSON or Parquet."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fibflow.io.storage import LakeError
from fibflow.pipelines.cli import UsageError
from fibflow.transforms.calendar import TradingCalendar

FORMATS = ("csv", "json", "parquet")

_SLICE = 500_000
_WIDE = 240


def console() -> Console:
    """Standard output: as wide as the terminal, and wide enough for any table elsewhere."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDE)


def grid(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> RenderableType:
    """Return a table of text under a title; columns not named in ``left`` are set to the right."""
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left)
    for row in rows:
        # Text, because a cell's brackets are no markup.
        table.add_row(*(Text(cell) for cell in row))
    # Not the table's own title, which is broken to its width.
    return Group(Text(title, style="bold"), table)


def local_times(ts: Any, calendar: TradingCalendar) -> npt.NDArray[np.datetime64]:
    """Return instants (``timestamp[us, UTC]``, shape (n,)) on the exchange's clock, as ``datetime64[us]``."""
    micros = pc.cast(ts, pa.int64()).to_numpy()
    return (micros + calendar.clock(micros)[0]).astype("datetime64[us]")


def time_texts(times: npt.NDArray[np.datetime64]) -> list[str]:
    """Return times to the minute; to the day where all are midnights."""
    whole = bool((times == times.astype("datetime64[D]")).all())
    texts: list[str] = np.datetime_as_string(times, "D" if whole else "m").tolist()
    return [text.replace("T", " ") for text in texts]


def bar_grid(bars: pa.Table, title: str, calendar: TradingCalendar) -> RenderableType:
    """Return bars (``schemas.BARS``) as a table, times on the exchange's clock."""
    times = {name: time_texts(local_times(bars[name], calendar)) for name in ("ts", "end")}
    shown: dict[str, list[str]] = {"from": times["ts"], "known at": times["end"]}
    for name in ("open", "high", "low", "close"):
        shown[name] = [_price(value) for value in bars[name].to_numpy().tolist()]
    shown["volume"] = [f"{value:,.6f}".rstrip("0").rstrip(".") for value in bars["volume"].to_pylist()]
    shown["vwap"] = ["" if value is None else f"{value:,.4f}" for value in bars["vwap"].to_pylist()]
    for name in ("trade_count", "sessions", "revision"):
        shown[name] = ["" if value is None else f"{value:,}" for value in bars[name].to_pylist()]
    flags = zip(bars["complete"].to_pylist(), bars["final"].to_pylist(), strict=True)
    shown["state"] = [
        "open" if not complete else "final" if final else "complete" for complete, final in flags
    ]
    empty = [name for name in ("vwap", "trade_count") if bars[name].null_count == len(bars)]
    names = [name for name in shown if name not in empty]
    rows = list(zip(*(shown[name] for name in names), strict=True))
    return grid(f"{title}, times of {calendar.zone}", names, rows, left=("state",))


def _price(value: float) -> str:
    """A price with two decimals, or as many as it has, up to six."""
    whole, _, rest = f"{value:,.6f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"


def form_of(given: str | None, output: Path | None, default: str) -> str:
    """Return the format asked for, or that of the file's suffix.

    Raises:
        UsageError: Parquet without a file.
    """
    suffix = output.suffix[1:].lower() if output else ""
    form = given or (suffix if suffix in FORMATS else default)
    if form == "parquet" and output is None:
        raise UsageError("Parquet is no text: name a file with --output")
    return form


class Export:
    """Writes tables of one schema to an open file, one after another; strings may be dictionaries."""

    def __init__(self, sink: BinaryIO, schema: pa.Schema, form: str) -> None:
        plain = pa.schema(
            [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in schema]
        )
        text = [f.with_type(pa.string()) if pa.types.is_timestamp(f.type) else f for f in plain]
        self._schema = plain if form == "parquet" else pa.schema(text)
        self._sink, self._form, self._rows = sink, form, 0
        self._writer: Any = None
        if form == "parquet":
            self._writer = pq.ParquetWriter(sink, self._schema, compression="zstd")
        elif form == "csv":
            self._writer = pacsv.CSVWriter(sink, self._schema)
        else:
            sink.write(b"[")

    def write(self, table: pa.Table) -> None:
        """Write the rows of a table."""
        for start in range(0, len(table), _SLICE):
            part = table.slice(start, _SLICE)
            columns = [
                _iso(c) if pa.types.is_timestamp(c.type) and self._form != "parquet" else c
                for c in part.columns
            ]
            plain = [c.cast(field.type) for c, field in zip(columns, self._schema, strict=True)]
            rows = pa.Table.from_arrays(plain, schema=self._schema)
            if self._writer is not None:
                self._writer.write_table(rows)
                continue
            for row in rows.to_pylist():
                self._sink.write(b",\n" if self._rows else b"\n")
                self._sink.write(json.dumps(row, default=str).encode())
                self._rows += 1

    def close(self) -> None:
        """Write what ends the file."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._sink.write(b"\n]\n")


def _iso(column: Any) -> pa.Array:
    """Return instants as ISO 8601 to the second, or to the microsecond where they need it."""
    micros = pc.cast(column, pa.int64())
    values: npt.NDArray[np.datetime64] = pc.fill_null(micros, 0).to_numpy().astype("datetime64[us]")
    whole = bool((values == values.astype("datetime64[s]")).all())
    texts = np.datetime_as_string(values, "s" if whole else "us")
    return pa.array(np.char.add(texts, "Z"), mask=micros.is_null().to_numpy())


def as_text(table: RenderableType) -> str:
    """Return what would be printed."""
    out = io.StringIO()
    Console(width=_WIDE, file=out).print(table)
    return out.getvalue()


@contextmanager
def writing(output: Path) -> Iterator[BinaryIO]:
    """Open a file to write.

    Raises:
        LakeError: it cannot be written.
    """
    try:
        with output.open("wb") as sink:
            yield sink
    except OSError as error:
        raise LakeError(f"cannot write {output}: {error.strerror or error}") from error


@contextmanager
def exporting(output: Path | None, schema: pa.Schema, form: str) -> Iterator[Export]:
    """Yield an ``Export`` to a file, or to standard output.

    Raises:
        LakeError: the file cannot be written.
    """
    with ExitStack() as stack:
        export = Export(stack.enter_context(writing(output)) if output else sys.stdout.buffer, schema, form)
        yield export
        export.close()
