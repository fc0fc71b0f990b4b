"""Rows of parsed messages: which are accepted, and the outputs that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fibflow.io.kinesis.decoded import DEAD_LETTERS, MINUTES, SECONDS, TRADES, Decoded
from fibflow.io.tickcolumns import MINUTE, SECOND, TRADE
from fibflow.io.tickmessages import Letter, Parsed
from fibflow.transforms import schemas
from fibflow.transforms.partials import as_arrow
from fibflow.transforms.validation import MAX_VOLUME, MAX_VWAP, PRICES
from fibflow.transforms.validation import reasons as row_reasons

Index = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

#: The output of each kind of message.
TAG_OF = {TRADE: TRADES, MINUTE: MINUTES, SECOND: SECONDS}

# Of a refused row these are kept as columns of the dead letter.
_KEPT = ("symbol", "ts", *PRICES, "volume", "vwap", "trade_count")
_NONE = np.iinfo(np.int64).min
_YEAR_9999 = 253_402_300_799_999_999


def chunk(column: Any) -> Any:
    """Return a column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def us_of(column: Any) -> Index:
    """Return timestamps as microseconds, the least number for null."""
    values = chunk(column).view(pa.int64())
    return (values.fill_null(_NONE) if values.null_count else values).to_numpy()


class Judge:
    """Tells rows from refused ones, and makes the outputs.

    Args:
        records: of ``schemas.RECORDS``.
        payload_of: returns the bytes of a message that was read where it stands.
        parsed: what was parsed message by message.
        max_ahead_us: how much later than it arrived a message may be timed.
    """

    def __init__(
        self,
        records: pa.Table,
        payload_of: Callable[[int, int], bytes],
        parsed: Parsed,
        max_ahead_us: int,
    ) -> None:
        self._payload_of, self._parsed = payload_of, parsed
        self._letters = list(parsed.letters)
        self._shards: Any = chunk(records["shard"])
        self._sequences: Any = chunk(records["sequence"])
        self._sequence_words: Any = self._sequences.dictionary_encode()
        self._subs = records["sub"].to_numpy()
        self._arrived = chunk(records["arrived"])
        arrived = us_of(records["arrived"])
        self._latest = np.where(arrived == _NONE, _YEAR_9999, arrived + max_ahead_us)
        self._newest: Index = np.full(len(records), _NONE)

    def decoded(self, tables: Mapping[str, pa.Table]) -> Decoded:
        """Return the outputs of the parsed rows."""
        outputs = {}
        for kind in TAG_OF:
            table = tables.get(kind)
            if table is None or not len(table):
                continue
            accepted = self._accept(table, _trade_faults if kind == TRADE else _aggregate_faults)
            if len(accepted):
                outputs[TAG_OF[kind]] = (
                    self._trades(accepted) if kind == TRADE else self._aggregates(accepted)
                )
        self._hear()
        if self._letters:
            outputs[DEAD_LETTERS] = self._dead_letters()
        return Decoded(outputs, self._by_shard())

    def _accept(self, table: pa.Table, faults: Any) -> pa.Table:
        """Return the rows that are right, and note their times and the others."""
        records, times = table["record"].to_numpy(), us_of(table["ts"])
        ahead = times > self._latest[records]
        reasons = faults(table, times == _NONE, ahead)
        if reasons is not None:
            bad = np.flatnonzero(reasons != "")
            self._refuse(table.take(as_arrow(bad)), reasons[bad].tolist())
            good = reasons == ""
            table, records, times = table.filter(pa.array(good)), records[good], times[good]
        if len(table):
            firsts = np.flatnonzero(np.diff(records, prepend=-1))
            latest = np.maximum.reduceat(times, firsts)
            heard = records[firsts]
            self._newest[heard] = np.maximum(self._newest[heard], latest)
        return table

    def _refuse(self, rows: pa.Table, reasons: list[str]) -> None:
        # Not every microsecond is one of Python's datetimes.
        times = rows.schema.get_field_index("ts")
        rows = rows.set_column(times, "ts", chunk(rows["ts"]).view(pa.int64()))
        for row, reason in zip(rows.to_pylist(), reasons, strict=True):
            start, end = row["start"], row["end"]
            payload = self._parsed.raw[-start - 1] if start < 0 else self._payload_of(start, end)
            values = {name: row[name] for name in _KEPT if name in row}
            self._letters.append(Letter(reason, row["record"], row["place"], payload, values))

    def _hear(self) -> None:
        """Take in the heartbeats."""
        for record, place, time, raw in self._parsed.beats:
            if time is not None and time <= self._latest[record]:
                self._newest[record] = max(int(self._newest[record]), time)
            else:
                reason = "null_time" if time is None else "time_out_of_range"
                self._letters.append(Letter(reason, record, place, raw))

    def _by_shard(self) -> dict[str, int]:
        newest: dict[str, int] = {}
        latest: Index = np.full(len(self._shards.dictionary), _NONE)
        np.maximum.at(latest, self._shards.indices.to_numpy(), self._newest)
        for shard, time in zip(self._shards.dictionary.to_pylist(), latest.tolist(), strict=True):
            if time != _NONE:
                newest[shard] = max(newest.get(shard, time), time)
        return newest

    def _origin(self, table: pa.Table) -> list[Any]:
        """Return the columns of ``schemas.ORIGIN`` and the arrival."""
        records = table["record"].to_numpy()
        at = as_arrow(records)
        return [
            self._shards.take(at),
            self._sequence_words.take(at),
            pa.array(self._subs[records]),
            table["place"],
            self._arrived.take(at),
        ]

    def _trades(self, table: pa.Table) -> pa.Table:
        names = schemas.TRADES.names[: -len(schemas.ORIGIN) - 1]
        return pa.Table.from_arrays(
            [*(table[name] for name in names), *self._origin(table)], schema=schemas.TRADES
        )

    def _aggregates(self, table: pa.Table) -> pa.Table:
        origin = self._origin(table)
        arrived = origin[-1].view(pa.int64())
        columns: dict[str, Any] = {name: table[name] for name in table.column_names}
        columns["version"] = pc.coalesce(columns["version"], arrived)
        columns["vwap"] = _nulled(columns["vwap"], lambda vwap: (vwap > 0) & (vwap < MAX_VWAP))
        columns["trade_count"] = _nulled(columns["trade_count"], lambda count: count >= 0)
        names = schemas.AGGREGATES.names[: -len(schemas.ORIGIN) - 1]
        return pa.Table.from_arrays([*(columns[name] for name in names), *origin], schema=schemas.AGGREGATES)

    def _dead_letters(self) -> pa.Table:
        letters = sorted(self._letters, key=lambda letter: (letter.record, letter.place))
        shards, sequences = self._shards.to_pylist(), self._sequences.to_pylist()
        columns: dict[str, Any] = {
            "reason": [letter.reason for letter in letters],
            "origin": [
                f"kinesis:{shards[letter.record]}/{sequences[letter.record]}"
                f"/{self._subs[letter.record]}/{letter.place}"
                for letter in letters
            ],
            "payload": [letter.payload for letter in letters],
            **{name: [letter.values.get(name) for letter in letters] for name in _KEPT},
        }
        columns["ts"] = pa.array(columns["ts"], pa.int64()).view(schemas.TIMESTAMP)
        columns["run"] = pa.nulls(len(letters), pa.string())
        return pa.table(columns).select(schemas.DEAD_LETTERS.names).cast(schemas.DEAD_LETTERS)


def _nulled(column: Any, usable: Any) -> Any:
    """Read what is out of range as null: the column is optional."""
    values = column.to_numpy()
    with np.errstate(invalid="ignore"):
        good = usable(values) | np.asarray(column.is_null())
    return column if good.all() else pc.if_else(pa.array(good), column, pa.scalar(None, column.type))


def _trade_faults(table: pa.Table, no_time: Bool, ahead: Bool) -> npt.NDArray[Any] | None:
    """Return the first reason against each trade, empty for none; None where all are right."""
    prices, sizes = table["price"].to_numpy(), table["size"].to_numpy()
    good = (prices > 0) & (prices < MAX_VWAP) & (sizes >= 0) & (sizes <= MAX_VOLUME) & ~no_time & ~ahead
    nulls = table["symbol"].null_count + table["seq"].null_count
    if good.all() and not nulls:
        return None
    rules = (
        ("null_symbol", np.asarray(table["symbol"].is_null())),
        ("null_time", no_time),
        ("time_out_of_range", ahead),
        ("null_sequence", np.asarray(table["seq"].is_null())),
        ("null_price", np.isnan(prices)),
        ("non_positive_price", prices <= 0),
        ("price_out_of_range", prices >= MAX_VWAP),
        ("null_volume", np.isnan(sizes)),
        ("negative_volume", sizes < 0),
        ("volume_out_of_range", sizes > MAX_VOLUME),
    )
    return np.select([mask for _, mask in rules], [name for name, _ in rules], "")


def _aggregate_faults(table: pa.Table, no_time: Bool, ahead: Bool) -> npt.NDArray[Any] | None:
    """Return the first reason against each aggregate, as ``_trade_faults``."""
    opens, highs, lows, closes = (table[name].to_numpy() for name in PRICES)
    volumes = table["volume"].to_numpy()
    good = (lows > 0) & (lows <= opens) & (lows <= closes) & (highs >= opens) & (highs >= closes)
    good &= (volumes >= 0) & (volumes <= MAX_VOLUME) & ~no_time & ~ahead
    if table["symbol"].null_count:
        good &= np.asarray(table["symbol"].is_valid())
    if good.all():
        return None
    bad = np.flatnonzero(~good)
    found = np.full(len(table), "", "U32")
    known = row_reasons(table.take(as_arrow(bad)), np.ones(len(bad), np.bool_)).to_pylist()
    # The time is judged before the prices.
    early = ("null_symbol", "null_time")
    found[bad] = [
        "time_out_of_range" if late and reason not in early else reason
        for reason, late in zip(known, ahead[bad].tolist(), strict=True)
    ]
    return found
