"""Renames: which are found, and the chain of a company's tickers."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from fibflow.io.reference import RENAMES, SYMBOLS
from fibflow.io.referencerenames import Renamed, Spell, chain_of, find_renames

DAY = date(2024, 6, 3)


def symbols(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    """Rows of (symbol, FIGI, CIK)."""
    named = [{"symbol": s, "type": "CS", "composite_figi": figi, "cik": cik} for s, figi, cik in rows]
    return pa.Table.from_pylist(named, SYMBOLS.schema)


def renames(*rows: tuple[int, str, str]) -> pa.Table:
    """Rows of (day, old, new)."""
    named = [{"symbol": new, "old_symbol": old, "date": DAY + timedelta(days=day)} for day, old, new in rows]
    return pa.Table.from_pylist(named, RENAMES.schema)


def found(stored: pa.Table, given: pa.Table) -> list[tuple[str, str]]:
    return [(one.old, one.new) for one in find_renames(stored, given)]


def test_the_figi_decides_and_its_numbers_come_along():
    stored, now = (
        symbols(("FB", "G1", "13"), ("X", "G2", None)),
        symbols(("META", "G1", "13"), ("X", "G2", None)),
    )
    assert find_renames(stored, now) == [Renamed("FB", "META", "G1", "13")]
    assert find_renames(now, now) == []


def test_two_that_change_places_are_two_renames():
    stored, now = symbols(("A", "G1", None), ("B", "G2", None)), symbols(("A", "G2", None), ("B", "G1", None))
    assert found(stored, now) == [("A", "B"), ("B", "A")]


def test_a_ticker_that_another_company_takes_over_is_no_rename():
    assert found(symbols(("A", "G1", "1")), symbols(("A", "G9", "9"))) == []


def test_without_a_figi_the_only_listing_of_a_company_that_came_and_went_is_one():
    assert found(symbols(("A", None, "7")), symbols(("B", "G1", "7"))) == [("A", "B")]
    # Two listings of one company.
    assert found(symbols(("A", "G1", "7")), symbols(("B", "G2", "7"))) == []
    assert found(symbols(("A", None, "7"), ("C", None, "7")), symbols(("B", None, "7"))) == []
    assert found(symbols(("A", None, "7")), symbols(("B", None, "7"), ("C", None, "7"))) == []
    assert found(symbols(("A", None, None)), symbols(("B", None, None))) == []


def test_a_figi_that_several_have_decides_nothing():
    assert found(symbols(("A", "G1", None)), symbols(("B", "G1", None), ("C", "G1", None))) == []


def test_a_chain_is_followed_both_ways():
    rows = renames((0, "A", "B"), (10, "B", "C"))
    day = [DAY + timedelta(days=n) for n in (0, 10, 20)]
    chain = [Spell("A", None, day[0]), Spell("B", day[0], day[1]), Spell("C", day[1], None)]
    assert chain_of(rows, "C", day[2]) == chain_of(rows, "B", day[0]) == chain
    assert chain_of(rows, "A", day[0] - timedelta(days=1)) == chain
    # Whoever is called A now is another.
    assert chain_of(rows, "A", day[2]) == [Spell("A", day[0], None)]


_moves = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ABCDEF")), min_size=1, max_size=3), max_size=6
)


@given(_moves, st.integers(0, 7))
def test_chains_are_those_of_the_companies(moves, at):
    """Companies change their tickers, several on one day too; a ticker belongs to one of them at a time."""
    names = dict(enumerate("ABCD"))
    spells: dict[int, list[tuple[str, int | None]]] = {who: [(name, None)] for who, name in names.items()}
    rows = []
    for day, given_moves in enumerate(moves):
        wanted = {**names, **dict(given_moves)}
        if len(set(wanted.values())) < len(wanted):
            continue
        for who, name in wanted.items():
            if name != names[who]:
                rows.append((day, names[who], name))
                spells[who].append((name, day))
        names = wanted
    on = min(at, len(moves))
    for steps in spells.values():
        held = [step for step in steps if step[1] is None or step[1] <= on][-1]
        days = [None if begun is None else DAY + timedelta(days=begun) for _, begun in steps]
        expected = [
            Spell(name, begun, until)
            for (name, _), begun, until in zip(steps, days, [*days[1:], None], strict=True)
        ]
        told = chain_of(renames(*rows), held[0], DAY + timedelta(days=on))
        # A ticker that another gave up before has the day of that as its first: history cannot tell more.
        assert [(s.symbol, s.until) for s in told] == [(s.symbol, s.until) for s in expected]
        assert [s.since for s in told[1:]] == [s.since for s in expected[1:]]
