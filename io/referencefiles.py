"""Reference data as it comes, with the column names that vendors use: from Parquet or CSV, or from a service.

``read_*`` take a file, ``*_of`` a table that something else gave; both return a lake table's columns.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from fibflow.io.aws import AwsConfig, explain_s3_error
from fibflow.io.convert import to_utc_us
from fibflow.io.datafiles import TableSpec
from fibflow.io.files import InputError, filesystem_for
from fibflow.io.reference import DIVIDENDS, RENAMES, SPLITS, SYMBOLS, key_texts

# The stubs know too few types of columns.
pc: Any = pyarrow.compute

#: The names under which a column is looked for, first one first, in any case.
SYMBOL_NAMES = {
    "symbol": ("symbol", "ticker", "sym"),
    "name": ("name", "company_name", "security_name"),
    "type": ("type", "security_type", "asset_type"),
    "exchange": ("exchange", "primary_exchange", "mic"),
    "currency": ("currency", "currency_name", "currency_symbol"),
    "active": ("active", "is_active"),
    "listed": ("listed", "list_date", "listing_date", "ipo_date"),
    "delisted": ("delisted", "delisted_utc", "delist_date", "delisting_date"),
    "cik": ("cik",),
    "composite_figi": ("composite_figi",),
    "share_class_figi": ("share_class_figi",),
    "description": ("description",),
    "homepage": ("homepage", "homepage_url", "website"),
    "updated": ("updated", "last_updated_utc", "last_updated"),
}
SPLIT_NAMES = {
    "symbol": ("symbol", "ticker", "sym"),
    "execution_date": ("execution_date", "ex_date", "date"),
    "split_from": ("split_from", "from"),
    "split_to": ("split_to", "to"),
    "id": ("id",),
}
DIVIDEND_NAMES = {
    "symbol": ("symbol", "ticker", "sym"),
    "ex_dividend_date": ("ex_dividend_date", "ex_date"),
    "cash_amount": ("cash_amount", "amount"),
    "currency": ("currency",),
    "dividend_type": ("dividend_type", "distribution_type", "type"),
    "frequency": ("frequency",),
    "declaration_date": ("declaration_date", "declared"),
    "record_date": ("record_date",),
    "pay_date": ("pay_date", "payment_date"),
    "id": ("id",),
}
RENAME_NAMES = {
    "symbol": ("symbol", "new_symbol", "ticker", "new_ticker", "new"),
    "old_symbol": ("old_symbol", "old_ticker", "old"),
    "date": ("date", "effective_date"),
    "composite_figi": ("composite_figi",),
    "cik": ("cik",),
}
_YES, _NO = ("true", "t", "1", "yes", "y"), ("false", "f", "0", "no", "n")
_DAY_US = 86_400_000_000
_SHOWN = 60


class Read(NamedTuple):
    """What a file gave: the table's columns that it has, each key once, and how many rows it has itself."""

    rows: pa.Table
    given: int


def read_symbols(uri: str, aws: AwsConfig | None = None) -> Read:
    """Read symbols.

    Of several rows of one symbol (a ticker that was given again) the active one counts, then the one listed
    later, then the later row.

    Args:
        uri: a Parquet or CSV file, on a folder or ``s3://``.
        aws: for ``s3://``.

    Raises:
        InputError: the file cannot be read, lacks symbols, or holds a value that cannot be; says where.
    """
    return symbols_of(_raw(uri, aws), uri)


def read_splits(uri: str, aws: AwsConfig | None = None) -> Read:
    """Read splits; arguments and errors are those of ``read_symbols``.

    Raises:
        InputError: also where one symbol has two splits on one day that differ.
    """
    return splits_of(_raw(uri, aws), uri)


def read_dividends(uri: str, aws: AwsConfig | None = None) -> Read:
    """Read dividends; arguments and errors are those of ``read_symbols``.

    One without ``id`` is told from others of its day by its type.
    """
    return dividends_of(_raw(uri, aws), uri)


def read_renames(uri: str, aws: AwsConfig | None = None) -> Read:
    """Read renames; arguments and errors are those of ``read_symbols``."""
    return renames_of(_raw(uri, aws), uri)


def symbols_of(raw: pa.Table, where: str) -> Read:
    """Return symbols out of a table, as ``read_symbols`` does; errors name ``where``."""
    rows = _named(raw, where, SYMBOLS, SYMBOL_NAMES, ("symbol",))
    for name, change in (
        ("currency", pc.utf8_lower),
        ("exchange", pc.utf8_upper),
        ("type", pc.utf8_upper),
    ):
        if name in rows.column_names:
            changed: Any = change(rows[name])
            rows = rows.set_column(rows.column_names.index(name), name, changed)
    count = len(rows)
    active: Any = rows["active"] if "active" in rows.column_names else pa.nulls(count, pa.bool_())
    if "delisted" in rows.column_names:
        active = pc.coalesce(active, rows["delisted"].is_null())
    listed: Any = rows["listed"] if "listed" in rows.column_names else pa.nulls(count, pa.date32())
    # Booleans do not sort, and nulls would come last.
    ranks = pa.table(
        {
            "active": pc.fill_null(active, True).cast(pa.int8()),
            "listed": pc.fill_null(listed.cast(pa.int32()), np.iinfo(np.int32).min),
            "row": pa.array(np.arange(count)),
        }
    )
    order = pc.sort_indices(ranks, [(name, "ascending") for name in ranks.column_names])
    return Read(_last_of_each(rows.take(order), SYMBOLS), count)


def splits_of(raw: pa.Table, where: str) -> Read:
    """Return splits out of a table, as ``read_splits`` does; errors name ``where``."""
    rows = _named(raw, where, SPLITS, SPLIT_NAMES, ("symbol", "execution_date", "split_from", "split_to"))
    for name in ("split_from", "split_to"):
        column: Any = rows[name]
        wrong = np.flatnonzero(~np.asarray(pc.and_(pc.greater(column, 0), pc.is_finite(column))))
        if len(wrong):
            value = column[int(wrong[0])].as_py()
            raise InputError(f"{where}: row {wrong[0] + 1}: {name} is {value:g}; it has to be above 0")
    unique = _last_of_each(rows, SPLITS)
    at = pc.index_in(key_texts(rows, SPLITS), value_set=key_texts(unique, SPLITS))
    chosen = unique.take(at)
    for name in ("split_from", "split_to"):
        mine, other = np.asarray(rows[name]), np.asarray(chosen[name])
        wrong = np.flatnonzero(mine != other)
        if len(wrong):
            row = rows.slice(int(wrong[0]), 1).to_pylist()[0]
            raise InputError(
                f"{where}: row {wrong[0] + 1}: {row['symbol']} has two different splits on "
                f"{row['execution_date']}; keep one of them"
            )
    return Read(unique, len(rows))


def dividends_of(raw: pa.Table, where: str) -> Read:
    """Return dividends out of a table with a vendor's columns; errors name ``where``."""
    rows = _named(raw, where, DIVIDENDS, DIVIDEND_NAMES, ("symbol", "ex_dividend_date", "cash_amount"))
    amounts: Any = rows["cash_amount"]
    wrong = np.flatnonzero(~np.asarray(pc.and_(pc.greater_equal(amounts, 0), pc.is_finite(amounts))))
    if len(wrong):
        value = amounts[int(wrong[0])].as_py()
        raise InputError(f"{where}: row {wrong[0] + 1}: cash_amount is {value:g}; it cannot be below 0")
    unnamed: Any = pa.nulls(len(rows), pa.string())
    kinds: Any = rows["dividend_type"] if "dividend_type" in rows.column_names else unnamed
    given: Any = rows["id"] if "id" in rows.column_names else unnamed
    if "id" in rows.column_names:
        rows = rows.drop_columns(["id"])
    rows = rows.append_column("id", pc.coalesce(given, kinds, pa.scalar("")))
    return Read(_last_of_each(rows, DIVIDENDS), len(rows))


def renames_of(raw: pa.Table, where: str) -> Read:
    """Return renames out of a table; errors name ``where``."""
    rows = _named(raw, where, RENAMES, RENAME_NAMES, ("symbol", "old_symbol", "date"))
    same = np.flatnonzero(np.asarray(pc.equal(rows["symbol"], rows["old_symbol"])))
    if len(same):
        name = rows["symbol"][int(same[0])].as_py()
        raise InputError(f"{where}: row {same[0] + 1}: {name} is renamed to itself; leave the row out")
    return Read(_last_of_each(rows, RENAMES), len(rows))


def _last_of_each(rows: pa.Table, spec: TableSpec) -> pa.Table:
    """Return of the rows of each key the last one."""
    keyed = pa.table({"key": key_texts(rows, spec), "row": pa.array(np.arange(len(rows)))})
    last = keyed.group_by("key").aggregate([("row", "max")])["row_max"]
    unique = rows.take(pc.take(last, pc.sort_indices(last)))
    return unique.sort_by([(name, "ascending") for name in spec.sort_by])


def _named(
    raw: pa.Table,
    where: str,
    spec: TableSpec,
    names: dict[str, tuple[str, ...]],
    needed: tuple[str, ...],
) -> pa.Table:
    """Return the spec's columns that a table has under one of their names."""
    folded: dict[str, str] = {}
    for name in raw.column_names:
        folded.setdefault(name.strip().lower(), name)
    found = {
        field.name: next((folded[alias] for alias in names[field.name] if alias in folded), None)
        for field in spec.schema
    }
    for name in needed:
        if found[name] is None:
            raise InputError(
                f"{where}: no column for {name} ({' or '.join(names[name])}); "
                f"the file has {', '.join(raw.column_names) or 'none'}"
            )
    columns: dict[str, Any] = {}
    for field in spec.schema:
        source = found[field.name]
        if source is None:
            continue
        if raw.column_names.count(source) > 1:
            raise InputError(f"{where}: several columns are named {source}; keep one of them")
        columns[field.name] = _converted(where, source, raw[source], field.type)
        if field.name in needed and columns[field.name].null_count:
            row = int(np.flatnonzero(np.asarray(columns[field.name].is_null()))[0]) + 1
            raise InputError(f"{where}: row {row}: {source} is empty")
    return pa.table(columns)


def _raw(uri: str, aws: AwsConfig | None) -> pa.Table:
    """Return the file's columns as it has them; those of CSV as text."""
    filesystem, path = filesystem_for(uri, aws)
    kind = next((end for end in (".parquet", ".csv", ".csv.gz") if path.lower().endswith(end)), None)
    if kind is None:
        raise InputError(f"{uri}: name a file that ends in .parquet, .csv or .csv.gz")
    try:
        if kind == ".parquet":
            with filesystem.open_input_file(path) as source:
                return pq.read_table(source)
        with filesystem.open_input_stream(path) as stream:
            return _csv(uri, bytes(stream.read()))
    except FileNotFoundError as error:
        raise InputError(f"{uri}: there is no such file") from error
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        if isinstance(filesystem, pafs.LocalFileSystem):
            raise InputError(f"{uri}: it cannot be read: {str(error).splitlines()[0]}") from error
        raise InputError(explain_s3_error(error, uri)) from error


def _csv(uri: str, data: bytes) -> pa.Table:
    header = data[: data.find(b"\n") if b"\n" in data else len(data)].decode("utf-8-sig").rstrip("\r")
    if not header.strip():
        raise InputError(f"{uri}: no header line")
    delimiter = max(",;\t|", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter))
    buffer: Any = pa.BufferReader(data)
    return pacsv.read_csv(
        buffer,
        # A description may hold line breaks.
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            # "NA" and "NULL" are tickers too: only nothing at all is null.
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _converted(uri: str, name: str, column: Any, kind: pa.DataType) -> pa.Array:
    """Return a column as the table has it; empty texts are null."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type):
        nothing: Any = pa.nulls(len(values))
        return nothing.cast(kind)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values.cast(pa.string()))
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    convert, what = _CONVERT[str(kind)]
    try:
        found = convert(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
        found = None
    lost = values.is_valid() if found is None else pc.and_(values.is_valid(), found.is_null())
    if found is None or pc.any(lost).as_py():
        bad = _first_bad(values, lost, convert)
        shown = str(values[bad].as_py())[:_SHOWN]
        raise InputError(f"{uri}: row {bad + 1}: {name} is {shown!r}: {what}")
    return found


def _first_bad(values: Any, lost: Any, convert: Callable[[Any], Any]) -> int:
    """Return the first row whose value cannot be converted."""
    for row in np.flatnonzero(np.asarray(lost)).tolist():
        try:
            if convert(values.slice(row, 1)).null_count:
                return int(row)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
            return int(row)
    return 0


def _to_date(values: Any) -> pa.Array:
    micros = to_utc_us(values).cast(pa.int64())
    days: Any = pc.floor(pc.divide(micros.cast(pa.float64(), safe=False), float(_DAY_US)))
    return days.cast(pa.int32()).cast(pa.date32())


def _to_bool(values: Any) -> pa.Array:
    if pa.types.is_boolean(values.type):
        return values
    words = pc.utf8_lower(values.cast(pa.string()))
    yes, no = (pc.is_in(words, value_set=pa.array(known)) for known in (_YES, _NO))
    return pc.if_else(yes, True, pc.if_else(no, False, pa.scalar(None, pa.bool_())))


_CONVERT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "string": (lambda values: values.cast(pa.string()), "no text"),
    "double": (lambda values: values.cast(pa.float64()), "write a number"),
    "int32": (lambda values: values.cast(pa.int32()), "write a whole number"),
    "bool": (_to_bool, "write true or false"),
    "date32[day]": (_to_date, "no date: write YYYY-MM-DD"),
    "timestamp[us, tz=UTC]": (to_utc_us, "no time: write ISO 8601"),
}
