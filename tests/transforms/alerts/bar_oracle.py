"""Alerts on bars in plain Python, one bar at a time; and tables of bars, changes and facts."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fibflow.tests.transforms.tables import plain
from fibflow.transforms.alerts.barbook import BAR_CHANGES
from fibflow.transforms.alerts.schema import ALWAYS, FACTS, NEVER, Frequency
from fibflow.transforms.calendar import TradingCalendar
from fibflow.transforms.partials import BAR_BATCH

NAN = float("nan")
_REVISIONS = itertools.count(1)


def as_table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    arrays = []
    for each in schema:
        values = pa.array([row[each.name] for row in rows], plain(each.type))
        arrays.append(values.dictionary_encode() if pa.types.is_dictionary(each.type) else values)
    return pa.table(arrays, schema=schema)


def bars_table(rows: list[dict]) -> pa.Table:
    return as_table(rows, BAR_BATCH)


def changes_table(rows: list[dict]) -> pa.Table:
    return as_table(rows, BAR_CHANGES)


def facts_table(rows: list[dict]) -> pa.Table:
    return as_table(rows, FACTS)


def bar(symbol: str, timeframe: str, ts: int, end: int, close: float = 10.0, **values: Any) -> dict:
    found = {
        "symbol": symbol,
        "timeframe": timeframe,
        "ts": ts,
        "end": end,
        **dict.fromkeys(("open", "high", "low", "close", "vwap"), close),
        "volume": 100.0,
        "trade_count": 1,
        "sessions": 1,
        "complete": True,
        "final": False,
        "revision": 0,
    }
    assert not set(values) - set(found)
    return {**found, **values}


def change(alert: int, condition: Any, symbol: str = "A", **values: Any) -> dict:
    found = {
        "symbol": symbol,
        "alert": alert,
        "version": 1,
        "revision": next(_REVISIONS),
        "condition": None if condition is None else json.dumps(condition),
        "frequency": int(Frequency.BAR),
        "cooldown": 0,
        "since": NEVER,
        "until": ALWAYS,
        "basis": 0,
        "fired": NEVER,
    }
    assert not set(values) - set(found)
    return {**found, **values}


@dataclass
class Oracle:
    """What is known, and what has fired; every bar that was ever told is kept."""

    calendar: TradingCalendar
    bars: dict[tuple[str, str], dict[int, dict]] = field(default_factory=dict)
    judged: dict[tuple[str, str], int] = field(default_factory=dict)
    versions: dict[int, list[dict]] = field(default_factory=dict)
    splits: dict[str, dict[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Sessions of the first weeks of July 2024, and of the days before.
        days, starts = self.calendar.days.tolist(), self.calendar.day_starts.tolist()
        self._days = [pair for pair in zip(days, starts, strict=True) if 19_890 < pair[0] < 19_930]

    def take_changes(self, rows: list[dict]) -> None:
        for row in rows:
            known = self.versions.setdefault(row["alert"], [])
            if all(row["version"] > other["version"] for other in known):
                known.append({**row, "last": row["fired"]})

    def take_facts(self, rows: list[dict]) -> None:
        for row in rows:
            if row["kind"] == 2:
                self.splits.setdefault(row["symbol"], {})[row["day"]] = row["value"]

    def take_bars(self, rows: list[dict]) -> list[dict]:
        """Of one table: bars of a symbol by their end, and those of one end together."""
        times: dict[tuple, int] = {}
        moments: dict[tuple, list[dict]] = {}
        for row in rows:
            if row["complete"]:
                name = (row["symbol"], row["timeframe"], row["ts"])
                times[name] = times.get(name, 0) + 1
                moments.setdefault((row["end"], times[name], row["symbol"]), []).append(row)
        events = []
        for moment in sorted(moments):
            new = [row for row in moments[moment] if self._keep(row)]
            for row in new:
                events += self._judge(row)
        return events

    def _keep(self, row: dict) -> bool:
        """Keep a bar; return whether it is to be judged."""
        name = row["symbol"], row["timeframe"]
        own = self.bars.setdefault(name, {})
        if row["ts"] in own and own[row["ts"]]["revision"] >= row["revision"]:
            return False
        own[row["ts"]] = row
        if row["revision"] > 0 or row["ts"] <= self.judged.get(name, NEVER):
            return False
        self.judged[name] = row["ts"]
        return True

    def _day(self, instant: int) -> int:
        """The last session that began before an instant."""
        return max(day for day, start in self._days if start < instant)

    def _judge(self, row: dict) -> list[dict]:
        found = []
        for versions in self.versions.values():
            for place, version in enumerate(versions):
                if version["symbol"] != row["symbol"] or version["condition"] is None:
                    continue
                condition = json.loads(version["condition"])
                if condition["timeframe"] != row["timeframe"]:
                    continue
                end = min([version["until"], *(later["since"] for later in versions[place + 1 :])])
                if not max(version["since"], version["fired"]) < row["end"] <= end:
                    continue
                if self._is_quiet(version, row) or not self._holds(condition, version, row):
                    continue
                version["last"] = row["end"]
                found.append(self._event(condition, version, row))
        return found

    def _is_quiet(self, version: dict, row: dict) -> bool:
        if version["last"] == NEVER:
            return False
        if version["frequency"] == Frequency.ONCE or row["end"] < version["last"] + version["cooldown"]:
            return True
        same_day = self._day(version["last"]) == self._day(row["end"])
        return version["frequency"] == Frequency.DAILY and same_day

    def _event(self, condition: dict, version: dict, row: dict) -> dict:
        period = {Frequency.BAR: f"-{row['ts']}", Frequency.ONCE: ""}.get(version["frequency"])
        if period is None:
            period = f"-{pa.scalar(self._day(row['end']), pa.date32()).as_py()}"
        first = (condition.get("all") or condition["any"])[0]
        first = (first.get("all") or first.get("any") or [first])[0]
        before = self._before(row)
        unit = self._unit(first)
        return {
            "id": f"{version['alert']}-{version['version']}-0{period}",
            "alert": version["alert"],
            "version": version["version"],
            "symbol": row["symbol"],
            "ts": row["end"],
            "seq": 0,
            "price": row["close"],
            "previous": NAN if before is None else self._in_units(before, before["close"], "price", row),
            "level": self._operand(first["right"], version, unit, row, row),
        }

    def _before(self, row: dict) -> dict | None:
        own = self.bars[row["symbol"], row["timeframe"]]
        earlier = [ts for ts in own if ts < row["ts"]]
        return own[max(earlier)] if earlier else None

    def _holds(self, condition: dict, version: dict, row: dict) -> bool:
        if "left" in condition:
            return self._term(condition, version, row)
        if "all" in condition:
            return all(self._holds(each, version, row) for each in condition["all"])
        return any(self._holds(each, version, row) for each in condition["any"])

    def _unit(self, term: dict) -> str:
        for side in (term["left"], term["right"]):
            if "value" not in side:
                name = next(side[kind] for kind in ("field", "average", "highest", "lowest") if kind in side)
                return {"volume": "volume", "trade_count": "count"}.get(name, "price")
        raise AssertionError

    def _term(self, term: dict, version: dict, row: dict) -> bool:
        unit = self._unit(term)
        left, right = (self._operand(term[side], version, unit, row, row) for side in ("left", "right"))
        operator = term["operator"]
        if operator in ("above", "below", "at_least", "at_most"):
            return {
                "above": left > right,
                "below": left < right,
                "at_least": left >= right,
                "at_most": left <= right,
            }[operator]
        before = self._before(row)
        if before is None:
            return False
        was_left, was_right = (
            self._operand(term[side], version, unit, before, row) for side in ("left", "right")
        )
        if operator == "crosses_up":
            return was_left < was_right and left >= right
        return was_left > was_right and left <= right

    def _operand(self, told: dict, version: dict, unit: str, at: dict, now: dict) -> float:
        """What an operand is worth at a bar of the trigger, in the units of the bar that is judged."""
        times = told.get("times", 1.0)
        if "value" in told:
            return self._factor(now, version["basis"], unit) * told["value"] * times
        timeframe = told.get("timeframe", now["timeframe"])
        own = self.bars.get((now["symbol"], timeframe), {})
        if timeframe == now["timeframe"]:
            closed = [own[ts] for ts in sorted(own) if ts <= at["ts"]]
            back = told.get("back", 0)
            before = closed[:-1]
            one = closed[-1 - back] if back < len(closed) else None
        else:
            before = [own[ts] for ts in sorted(own) if own[ts]["end"] <= at["end"]]
            back = told.get("back", 1)
            one = before[-back] if back <= len(before) else None
        if "field" in told:
            return NAN if one is None else self._value(one, told["field"], unit, now) * times
        if told["bars"] > len(before):
            return NAN
        kind = next(name for name in ("average", "highest", "lowest") if name in told)
        values = [self._value(each, told[kind], unit, now) for each in before[-told["bars"] :]]
        if any(value != value for value in values):
            return NAN
        made = {"average": sum(values) / len(values), "highest": max(values), "lowest": min(values)}
        return made[kind] * times

    def _value(self, row: dict, name: str, unit: str, now: dict) -> float:
        return NAN if row[name] is None else self._in_units(row, float(row[name]), unit, now)

    def _in_units(self, row: dict, value: float, unit: str, now: dict) -> float:
        return value * self._factor(now, self._day(row["end"]), unit)

    def _factor(self, now: dict, since: int, unit: str) -> float:
        factor = 1.0
        for day, of_day in sorted(self.splits.get(now["symbol"], {}).items()):
            if since < day <= self._day(now["end"]):
                factor *= of_day
        return {"price": factor, "volume": 1 / factor, "count": 1.0}[unit]
