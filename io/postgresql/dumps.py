"""Where rows to import lie: tables of another PostgreSQL, or files that were dumped of them."""

from __future__ import annotations

import csv
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fibflow.io.aws import AwsConfig, explain_s3_error
from fibflow.io.files import InputError, RawFile, filesystem_for, list_raw
from fibflow.io.postgresql.session import DRIVER, Connection, connect, session, told

#: Rows, some at a time. To be closed where it is not read to its end.
Parts = Generator[pa.Table, None, None]

_ROWS = 131_072
_BLOCK = 8 << 20
_ENDS = re.compile(r"\.(?:parquet|csv|csv\.gz)$")
# An address of PostgreSQL in its other form, or one that was miswritten.
_NO_PLACE = re.compile(
    r"password\s*=|^\s*\w+\s*=\s*\S+\s+\w+\s*=|^\s*postgres\w*(?:\+\w+)?:|://[^/]*:[^@]*@", re.IGNORECASE
)
_RELATION = "SELECT to_regclass(%s)::text"
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


@dataclass(frozen=True)
class Dump:
    """One table to import.

    Attributes:
        place: its relation, or its file: for messages.
        columns: names of its columns.
        read: its rows of some columns, some at a time. Columns of CSV and of PostgreSQL are text.
    """

    place: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Parts]


def is_database(place: str) -> bool:
    """Return whether a place is PostgreSQL's."""
    return DRIVER.match(place) is not None


def is_place(place: str) -> bool:
    """Return whether a text can be a place; of what cannot nothing is shown, as a password may be in it."""
    return is_database(place) or not _NO_PLACE.search(place)


@contextmanager
def dumps(
    place: str, tables: Mapping[str, str], schema: str | None = None, aws: AwsConfig | None = None
) -> Iterator[dict[str, list[Dump]]]:
    """Yield what there is of some tables, by our names of them; tables that are not there are left out.

    Args:
        place: ``postgresql://user@host/database``; or a folder of Parquet or CSV files, or one file, also
            ``s3://``. Of a table ``t`` they are ``t.csv``, ``t-0.csv``, ``t.0.csv``, and what is in ``t/``.
        tables: what they are called there, by our names.
        schema: of the other database; its search path by default.
        aws: for ``s3://``.

    Raises:
        InputError: there is no such folder or file, or it cannot be read.
        PostgresError: the other PostgreSQL does not answer, or refuses.
    """
    if not is_database(place):
        yield _files(place, tables, aws)
        return
    connection = connect(place, program="fibflow import")
    with closing(connection), told(place):
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        yield {
            name: [dump]
            for name, there in tables.items()
            if (
                dump := _relation(
                    connection, there if schema is None or "." in there else f"{schema}.{there}"
                )
            )
        }


def _relation(connection: Connection, name: str) -> Dump | None:
    with session(connection) as asked, asked.cursor() as cursor:
        cursor.execute(_RELATION, (name,))
        relation = cursor.fetchone()[0]
        if relation is None:
            return None
        cursor.execute(_COLUMNS, (name,))
        columns = tuple(row[0] for row in cursor.fetchall())

    def read(names: Sequence[str]) -> Parts:
        quoted = ", ".join('"' + column.replace('"', '""') + '"' for column in names)
        return _copied(
            connection, f"COPY (SELECT {quoted} FROM {relation}) TO STDOUT (FORMAT csv, HEADER)", names
        )

    return Dump(name, columns, read)


def _copied(connection: Connection, statement: str, names: Sequence[str]) -> Parts:
    """Yield what a COPY gives, while it runs in a thread of its own."""
    reads, writes = os.pipe()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(writes, "wb") as sink, connection.cursor() as cursor:
                cursor.copy_expert(statement, sink, _BLOCK)
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    broken: pa.ArrowInvalid | None = None
    try:
        with os.fdopen(reads, "rb") as source:
            yield from _csv(source, names, ",")
    except pa.ArrowInvalid as error:
        broken = error
    finally:
        # The pipe is closed: the writer cannot wait for it.
        writer.join()
    # Where the server ended it, the end of the text is only its consequence.
    if failed and (broken is None or getattr(failed[0], "pgcode", None)):
        raise failed[0]
    if broken is not None:
        raise InputError(f"what PostgreSQL gives cannot be read: {str(broken).splitlines()[0]}")


def _csv(source: Any, names: Sequence[str], delimiter: str) -> Iterator[pa.Table]:
    """Yield rows of CSV; all columns are text. Empty without quotes is null, and so is psql's mark for it."""
    reader = pacsv.open_csv(
        source,
        read_options=pacsv.ReadOptions(block_size=_BLOCK),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=["", "\\N"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        yield pa.table(batch.columns, schema=batch.schema)


def _files(place: str, tables: Mapping[str, str], aws: AwsConfig | None) -> dict[str, list[Dump]]:
    filesystem, base = filesystem_for(place, aws)
    files = list_raw(place, aws)
    found: dict[str, list[Dump]] = {}
    for name, there in tables.items():
        mine = [file for file in files if _is_of(file, base, there)]
        if mine:
            found[name] = [_file(filesystem, file) for file in mine]
    return found


def _is_of(file: RawFile, base: str, table: str) -> bool:
    """Return whether a file is one of a table's, by its name below the folder, or its own."""
    below = file.path[len(base) :].lstrip("/") or file.path.rpartition("/")[2]
    folders, _, name = below.rpartition("/")
    stem = _ENDS.sub("", name.lower())
    table = table.lower()
    return stem == table or stem.startswith((f"{table}-", f"{table}.")) or table in folders.lower().split("/")


def _file(filesystem: pafs.FileSystem, file: RawFile) -> Dump:
    local = isinstance(filesystem, pafs.LocalFileSystem)

    @contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{file.path}: it cannot be read: {line}" if local else explain_s3_error(error, file.path)
            ) from error

    def parquet(names: Sequence[str]) -> Parts:
        with readable(), filesystem.open_input_file(file.path) as source:
            for batch in pq.ParquetFile(source).iter_batches(_ROWS, columns=list(names)):
                yield pa.table(batch.columns, schema=batch.schema)

    def text(names: Sequence[str]) -> Parts:
        with readable(), filesystem.open_input_stream(file.path) as source:
            for part in _csv(source, columns, delimiter):
                yield part.select(list(names))

    with readable():
        if file.is_parquet:
            with filesystem.open_input_file(file.path) as source:
                return Dump(file.path, tuple(pq.read_schema(source).names), parquet)
        with filesystem.open_input_stream(file.path) as stream:
            header = bytes(stream.read(1 << 16)).split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r")
        if not header.strip():
            raise InputError(f"{file.path}: no header line")
        delimiter = max(",;\t|", key=header.count)
        columns = tuple(next(csv.reader([header], delimiter=delimiter)))
        return Dump(file.path, columns, text)
