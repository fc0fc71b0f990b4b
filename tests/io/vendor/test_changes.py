from __future__ import annotations

from datetime import date

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.vendor.changes import CHANGES, compared, filled, with_kept
from fibflow.io.vendor.files import SESSION_ROWS

DAY = date(2024, 3, 4)
VALUES = SESSION_ROWS.names[2:]


def rows_of(values: dict[str, tuple[float | None, int | None]]) -> pa.Table:
    """A session in which each symbol has a close (all prices) and a count of trades."""
    listed = [
        {"symbol": s, "session": DAY, "trade_count": n, **dict.fromkeys(VALUES[:-1], c)}
        for s, (c, n) in values.items()
    ]
    return pa.Table.from_pylist(listed, SESSION_ROWS)


SESSION = st.dictionaries(
    st.sampled_from("ABCDEFG"),
    st.tuples(st.one_of(st.none(), st.sampled_from([1.0, 2.0])), st.one_of(st.none(), st.integers(0, 1))),
)


@settings(max_examples=40)
@given(SESSION, SESSION)
def test_what_differs_is_named_with_both_sides(old, new):
    got = compared(rows_of(old), rows_of(new))
    assert got.schema == CHANGES
    expected = {
        symbol: (
            "corrected" if symbol in old and symbol in new else "new" if symbol in new else "withdrawn",
            old.get(symbol, (None, None)),
            new.get(symbol, (None, None)),
        )
        for symbol in old.keys() | new.keys()
        if old.get(symbol) != new.get(symbol)
    }
    found = {
        row["symbol"]: (
            row["change"],
            (row["old_close"], row["old_trade_count"]),
            (row["new_close"], row["new_trade_count"]),
        )
        for row in got.to_pylist()
    }
    assert found == expected
    assert got["symbol"].to_pylist() == sorted(expected)


@settings(max_examples=40)
@given(SESSION, SESSION)
def test_rows_that_are_gone_are_kept(old, new):
    got = with_kept(rows_of(old), rows_of(new))
    assert {r["symbol"]: (r["close"], r["trade_count"]) for r in got.to_pylist()} == old | new
    assert got["symbol"].to_pylist() == sorted(old | new)


def test_rows_that_fill_holes_have_no_other_side():
    (row,) = filled(rows_of({"A": (1.0, 2)})).to_pylist()
    assert (row["change"], row["old_close"], row["new_close"]) == ("filled", None, 1.0)
