"""Lakes as a stream leaves them, without a stream: messages archived, late ones named, bars closed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from fibflow.io import tables, ticks
from fibflow.io.lake import Lake
from fibflow.io.readbars import LakeReader
from fibflow.io.streamcommit import StreamCommit
from fibflow.io.streamfiles import write_rows
from fibflow.io.streamtables import StreamJob
from fibflow.pipelines import reconcile
from fibflow.tests.io.streams import table_of
from fibflow.tests.pipelines.raws import FAST
from fibflow.tests.transforms import correction_oracle, oracle, tick_oracle
from fibflow.tests.transforms.tables import by_key
from fibflow.transforms.bars import BarSpec
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.conditions import minute_input, trade_input
from fibflow.transforms.schemas import BARS
from fibflow.transforms.ticks import aggregate_ticks
from fibflow.transforms.timeframe import MINUTE_US, Timeframe, parse_timeframes

XNYS = load_calendar()
ORACLE = oracle.calendar("XNYS")
INTRADAY = "1m,5m,1h,4h"
NAMES = f"{INTRADAY},1d"
JOB = StreamJob("live", 1, "run1")
#: What a trade counts for, by its conditions: regular, odd lot, form T.
RULES = {"": 63, "0": 63, "37": 36, "12": 0b111100}

Key = tuple[str, str, int]
Bar = dict[str, Any]
VALUES = ("open", "high", "low", "close", "volume", "vwap", "trade_count")


def session(day: str) -> oracle.Session:
    return ORACLE.sessions[ORACLE.index[date.fromisoformat(day)]]


def trade(symbol: str, ts: int, seq: int, price: float, shares: float = 100.0, **options: Any) -> dict:
    """A trade as it is archived."""
    conditions = options.pop("conditions", "")
    own = {"kind": "T", "symbol": symbol, "ts": ts, "seq": seq, "price": price, "size": shares}
    named = {"conditions": conditions, "trade_id": str(seq), "exchange": 4, "correction": None}
    return {**own, **named, "volume": None, **options}


def minute(symbol: str, ts: int, price: float, version: int, **options: Any) -> dict:
    """A minute aggregate as it is archived."""
    prices = {"open": price, "high": price + 1, "low": price - 1, "close": price + 0.5}
    more = {"volume": 100.0, "vwap": price, "trade_count": 3, "version": version}
    return {"kind": "AM", "symbol": symbol, "ts": ts, "seq": None, **prices, **more, **options}


def day_of_trades(day: str, symbols: str = "AB", seed: int = 1, trades: int = 60) -> list[dict]:
    """Trades before, in and after regular hours; odd lots too."""
    numbers, of = random.Random(f"{day}{seed}"), session(day)
    rows = []
    for symbol in symbols:
        spans = [(of.opens - 90 * MINUTE_US, of.opens, "12"), (of.opens, of.closes, "0")]
        spans.append((of.closes, of.closes + 60 * MINUTE_US, "12"))
        stamps = sorted(
            (numbers.randrange(begin, end), condition)
            for begin, end, condition in spans
            for _ in range(trades // 3)
        )
        for number, (ts, condition) in enumerate(stamps):
            kind = "37" if numbers.random() < 0.15 else condition
            price = round(numbers.uniform(10, 12), 2)
            rows.append(
                trade(symbol, ts, number + 1, price, numbers.choice([1, 100.0, 0.25]), conditions=kind)
            )
    return sorted(rows, key=lambda row: row["ts"])


def day_of_minutes(day: str, symbols: str = "AB", seed: int = 1, minutes: int = 40) -> list[dict]:
    numbers, of = random.Random(f"{day}{seed}"), session(day)
    places = range(of.opens - 20 * MINUTE_US, of.closes + 5 * MINUTE_US, MINUTE_US)
    return [
        minute(symbol, ts, round(numbers.uniform(10, 12), 2), version)
        for ts in sorted(numbers.sample(places, minutes))
        for symbol in symbols
        for version in range(numbers.choice([1, 1, 2]))
    ]


@dataclass
class Streamed:
    """A lake, the messages in it, and those of them that came late."""

    uri: Path
    feed: str = "trades"
    names: str = NAMES
    properties: Mapping[str, str] = field(
        default_factory=lambda: {tables.CALENDAR: "XNYS", tables.PRICE_BASIS: "raw"}
    )
    messages: list[dict] = field(default_factory=list)
    tardy: list[dict] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake(str(self.uri))

    def copy(self, target: Path) -> Streamed:
        """The same in another folder."""
        shutil.copytree(self.uri, target)
        own = (list(self.messages), list(self.tardy), dict(self.numbers))
        return Streamed(target, self.feed, self.names, self.properties, *own)

    # What a stream does ------------------------------------------------------------------------------------

    def commit(self, spec: Any, rows: pa.Table) -> None:
        if not len(rows):
            return
        told = dict(self.properties)
        if spec == tables.LIVE:
            told[tables.INTRADAY_ANCHOR] = "midnight"
        files = list(write_rows(self.lake.table(spec).writer(), rows, XNYS, self.lake.new_id()))
        number = self.numbers.get(spec.name, 0)
        self.numbers[spec.name] = StreamCommit(self.lake, spec.name, JOB, told).commit(number, files).number

    def archive(self, rows: Sequence[dict], late: bool = False, size: int = 200) -> None:
        """Archive messages in the order in which they came."""
        for row in rows:
            number = len(self.messages)
            place = {"shard": f"shardId-{number % 2:012d}", "sequence": str(10**55 + number // 3)}
            row |= {**place, "sub": 0, "place": number % 3}
            self.messages.append(row)
        for begin in range(0, len(rows), size):
            self.commit(tables.TICKS, self._table(tables.TICKS, rows[begin : begin + size]))
        if late:
            self.tardy += rows
            self.commit(tables.LATE, self._table(tables.LATE, rows))

    def _table(self, spec: Any, rows: Sequence[dict]) -> pa.Table:
        schema = spec.file_schema
        return table_of(spec, {name: [row.get(name) for row in rows] for name in schema.names})

    def close(self, *days: str, final: bool = True) -> None:
        """Close the bars of sessions, as a stream does: without what came late, each trade as it came."""
        tardy = {id(row) for row in self.tardy}
        wanted = {date.fromisoformat(day) for day in days}
        own = [
            row for row in self.messages if id(row) not in tardy and ORACLE.local_date(row["ts"]) in wanted
        ]
        table = self._table(tables.TICKS, own)
        trades = self.feed == "trades"
        rows = (
            trade_input(ticks.trades_of(table)) if trades else minute_input(ticks.aggregates_of(table, "AM"))
        )
        end = max(session(day).end for day in days)
        made, _ = aggregate_ticks(rows, BarSpec(parse_timeframes(self.names), XNYS, as_of=end))
        for last in (False, True) if final else (False,):
            bars = pa.concat_tables(made).cast(BARS)
            at = bars.schema.get_field_index("final")
            self.commit(tables.LIVE, bars.set_column(at, "final", pa.array([last] * len(bars))))

    def stream(self, rows: Sequence[dict], *days: str, late: Sequence[dict] = ()) -> None:
        """Archive and close sessions."""
        self.archive(rows)
        self.archive(late, late=True)
        self.close(*days)

    # What comes of it --------------------------------------------------------------------------------------

    def reconcile(self, *options: str) -> int:
        """Run in this process and one thread."""
        return reconcile.run(["--lake", str(self.uri), *FAST, *options])

    def seen(self, names: str = NAMES) -> dict[Key, Bar]:
        """What readers see."""
        found = LakeReader(self.lake).timeframes()
        wanted = [timeframe.name for timeframe in parse_timeframes(names) if timeframe.name in found]
        return by_key(LakeReader(self.lake).bars(None, name) for name in wanted)

    def report(self) -> list[dict]:
        table = self.lake.table(tables.RECONCILIATION)
        return table.snapshot().read()[0].to_pylist() if table.exists else []

    def truth(self, names: str = INTRADAY, days: Iterable[str] = ()) -> dict[Key, Bar]:
        """The intraday bars of all messages, late ones and corrections too, by brute force."""
        chosen = {date.fromisoformat(day) for day in days}
        rows = [row for row in self.messages if not chosen or ORACLE.local_date(row["ts"]) in chosen]
        kind = "T" if self.feed == "trades" else "AM"
        rows = [self._for_oracle(row) for row in rows if row["kind"] == kind]
        if self.feed == "trades":
            rows, _ = correction_oracle.choose(rows, ORACLE)
        counted, _, _ = tick_oracle.choose(rows, ORACLE)
        listed = [timeframe.name for timeframe in parse_timeframes(names)]
        return tick_oracle.make_bars(counted, ORACLE, listed, "midnight")

    @staticmethod
    def _for_oracle(row: dict) -> dict:
        if row["kind"] == "AM":
            return row
        own = {"volume": round(row["size"] * 1e6), "rules": RULES[row["conditions"]]}
        return {**row, **own}


def contents(bars: Mapping[Key, Bar]) -> dict[Key, Bar]:
    return {key: {name: bar[name] for name in bar if name != "revision"} for key, bar in bars.items()}


def changes(old: Mapping[Key, Bar], new: Mapping[Key, Bar]) -> dict[Key, str]:
    """What a report has to say of bars as they were and as they are."""

    def content(bar: Bar | None) -> Any:
        return bar and [bar[name] for name in ("end", "sessions", *VALUES)]

    kind = {(True, False): "missing", (False, True): "surplus", (False, False): "different"}
    return {
        key: kind[key not in old, key not in new]
        for key in old.keys() | new.keys()
        if content(old.get(key)) != content(new.get(key))
    }


def of_names(bars: Mapping[Key, Bar], names: str) -> dict[Key, Bar]:
    wanted = {timeframe.name for timeframe in parse_timeframes(names)}
    return {key: bar for key, bar in bars.items() if key[1] in wanted}


def windows(rows: Iterable[dict], names: str = INTRADAY) -> set[Key]:
    """The intraday windows that hold messages."""
    found = set()
    for row in rows:
        for timeframe in parse_timeframes(names):
            at = row["ts"] - row["ts"] % MINUTE_US
            start, _ = oracle.intraday_window(at, Timeframe.parse(timeframe.name).minutes, "midnight", ORACLE)
            found.add((row["symbol"], timeframe.name, start))
    return found
