"""Raw CSV files: their dialect, and their columns as text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from fibflow.io.convert import Column
from fibflow.io.dialect import (
    Kind,
    check_complete,
    check_interval,
    check_symbol,
    compact,
    fill_times,
    lay_out,
    texts_of,
)
from fibflow.io.files import RawFile


def read_csv(file: RawFile, source: Any, kind: Kind, wanted: Sequence[str]) -> tuple[int, dict[str, Column]]:
    """Return the number of rows and the columns as text, by canonical name."""
    data = source.read()
    header = data[: data.find(b"\n") if b"\n" in data else len(data)].decode("utf-8-sig").rstrip("\r")
    if not header:
        raise pa.ArrowInvalid("no header line")
    delimiter = max(",;\t|", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter))
    layout = lay_out(names, file, {})
    check_complete(layout, names, file, wanted)
    used = {name: layout.sources[name] for name in {*wanted, "symbol"} if name in layout.sources}
    extra = [*(layout.spare_times if "ts" in used else ()), *([layout.interval] if layout.interval else ())]
    buffer: Any = pa.BufferReader(data)
    table = pacsv.read_csv(
        buffer,
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter=delimiter),
        convert_options=pacsv.ConvertOptions(
            include_columns=[*used.values(), *extra],
            column_types=dict.fromkeys(names, pa.string()),
            # "NA" and "NULL" are tickers too: only nothing at all is null.
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    if file.symbol is not None and "symbol" in used:
        check_symbol(file, texts_of(table.column(used.pop("symbol"))))
    if layout.interval:
        check_interval(file, kind, texts_of(table.column(layout.interval)))
    columns = {name: compact(table.column(source)) for name, source in used.items()}
    for spare in layout.spare_times if "ts" in used else ():
        columns["ts"] = fill_times(columns["ts"], table.column(spare))
    return table.num_rows, columns
