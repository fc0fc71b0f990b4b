"""Where a run's rows come from: raw files, or the files of a bronze table. Both give validated rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.aws import AwsConfig
from fibflow.io.datafiles import DataFile, TableSpec
from fibflow.io.dialect import Kind
from fibflow.io.files import RawFile, filesystem_for, precedence_key
from fibflow.io.raw import RawReader
from fibflow.io.rowfilter import Filter
from fibflow.io.snapshot import read_files
from fibflow.io.storage import LakeError, Storage
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.conditions import minute_input, trade_input
from fibflow.transforms.corrections import CORRECTABLE
from fibflow.transforms.partials import encode_symbols
from fibflow.transforms.schemas import AGGREGATES, DAILY_ROWS, DEAD_LETTERS, MINUTE_ROWS, RAW, TRADES
from fibflow.transforms.validation import Validated, validate_daily, validate_minutes

_CATALOG = "files.json"


class RowSource(Protocol):
    """Reads rows of items that a plan hands out. Can be pickled; safe to use from several threads."""

    kind: Kind

    def read(self, items: Sequence[Any]) -> Validated:
        """Return the validated rows of some items, and the refused ones."""
        ...

    def origin(self, rank: int) -> str:
        """Return the name of the file with a rank."""
        ...


@dataclass
class RawRows:
    """Rows of raw files: read, put into canonical form, validated; with a column ``rank``.

    Items are ranks: places in ``files``, which are in order of precedence, weakest first. Workers do not get
    the files with every element and every function, but read them once from ``staging``. ``symbols`` leaves
    out all others.
    """

    uri: str
    kind: Kind
    calendar: TradingCalendar
    staging: Storage
    aws: AwsConfig | None = None
    symbols: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self._files: list[RawFile] | None = None
        self._reader: RawReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None, "_reader": None}

    def stage(self, files: Iterable[RawFile]) -> None:
        """Put the files in order of precedence and leave them where workers find them."""
        chosen = (
            file
            for file in files
            if self.symbols is None or file.symbol is None or file.symbol in self.symbols
        )
        self._files = sorted(chosen, key=precedence_key)
        self.staging.write(_CATALOG, json.dumps(self._files).encode())

    @property
    def files(self) -> list[RawFile]:
        """The files by rank."""
        if self._files is None:
            content = self.staging.read(_CATALOG)
            if content is None:
                raise LakeError(
                    f"{self.staging.uri} holds no list of files: give workers the same staging place"
                )
            self._files = [RawFile(*fields) for fields in json.loads(content)]
        return self._files

    @property
    def reader(self) -> RawReader:
        """The reader of the files' filesystem, opened once a process."""
        if self._reader is None:
            self._reader = RawReader(filesystem_for(self.uri, self.aws)[0])
        return self._reader

    def origin(self, rank: int) -> str:
        """Return the path of the file with a rank."""
        return self.files[rank].path

    def read(self, items: Sequence[int]) -> Validated:
        """Return the validated rows of files, by rank, in the order of ``items``.

        Raises:
            InputError: as ``RawReader.read``.
        """
        columns = tuple(name for name in RAW.names if name != "version" or self.kind == "minutes")
        raw, lengths = self.reader.read_many([self.files[rank] for rank in items], self.kind, columns)
        raw = raw.append_column("rank", pa.array(np.repeat(np.array(items, np.int32), lengths)))
        if self.symbols is not None:
            wanted = pa.array(sorted(self.symbols), pa.string())
            raw = raw.filter(pc.is_in(raw["symbol"].cast(pa.string()), value_set=wanted))
        validate = validate_daily if self.kind == "daily" else validate_minutes
        return validate(_without_empty(raw).combine_chunks(), self.calendar, Origins(self))


@dataclass(frozen=True)
class Origins:
    """The names of a source's files by rank, looked up only where a row was refused. Small when pickled."""

    source: RowSource

    def __getitem__(self, rank: int) -> str:
        return self.source.origin(rank)


def _without_empty(table: pa.Table) -> pa.Table:
    """Leave out optional columns that hold nothing: they cost as much to move as the prices."""
    empty: list[str] = [
        name
        for name in ("vwap", "trade_count", "version")
        if name in table.column_names and table[name].null_count == len(table)
    ]
    return table.drop_columns(empty)


@dataclass
class BronzeRows:
    """Rows of a bronze table's files: valid already, each key once.

    Attributes:
        storage, spec: the table.
        kind: daily or minutes.
        condition: which rows; all by default.
        starts: first day (since 1970) whose rows of a symbol are wanted, where not all are.
    """

    storage: Storage
    spec: TableSpec
    kind: Kind
    condition: Filter | None = None
    starts: dict[str, int] = field(default_factory=dict)

    def origin(self, rank: int) -> str:
        """Return the table's address: a bronze row's file is known to the ledger."""
        return self.storage.uri

    def read(self, items: Sequence[DataFile]) -> Validated:
        """Return the rows of data files that meet the condition."""
        schema = DAILY_ROWS if self.kind == "daily" else MINUTE_ROWS
        rows, _ = read_files(self.storage, self.spec, items, schema.names, self.condition, ["symbol"])
        if self.starts:
            symbols, codes = encode_symbols(rows["symbol"])
            names: list[Any] = symbols.to_pylist()
            first = np.array([self.starts.get(name, 0) for name in names], np.int32)
            days = rows["session"].combine_chunks().view(pa.int32()).to_numpy()
            rows = rows.filter(pa.array(days >= first[codes]))
        return Validated(_without_empty(rows).combine_chunks(), DEAD_LETTERS.empty_table())


@dataclass
class TickRows:
    """Rows of ``bronze.ticks`` as the kernel takes them: CORRECTABLE of trades, MINUTE_INPUT of minutes.

    Items are data files. Sequence numbers come as plain strings: a spill file would hold the dictionary of
    all of them once a symbol range.

    Attributes:
        storage, spec: the table.
        condition: which rows: of one kind.
        trades: they are trades; else minutes.
    """

    storage: Storage
    spec: TableSpec
    condition: Filter
    trades: bool
    kind: Kind = "minutes"

    def origin(self, rank: int) -> str:
        """Return the table's address: a message has its own place in the stream."""
        return self.storage.uri

    def read(self, items: Sequence[DataFile]) -> Validated:
        """Return the rows of data files that meet the condition."""
        schema = TRADES if self.trades else AGGREGATES
        words = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        names = [name for name in schema.names if name not in ("tape", "arrived")]
        rows, _ = read_files(self.storage, self.spec, items, names, self.condition, words)
        rows = rows.unify_dictionaries().combine_chunks()
        made = trade_input(rows) if self.trades else minute_input(rows)
        for own in CORRECTABLE:
            if self.trades and own.name not in made.column_names:
                made = made.append_column(own, rows[own.name])
        at = made.schema.get_field_index("sequence")
        plain: Any = made["sequence"].cast(pa.string())
        made = made.set_column(at, "sequence", plain)
        return Validated(made, DEAD_LETTERS.empty_table())
