"""Cancels and corrections by brute force, straight from docs/data-model.md, message by message."""

from __future__ import annotations

from fibflow.tests.transforms import oracle
from fibflow.tests.transforms.tick_oracle import place_in_stream, session_of

CANCELS = (7, 8, 10, 11)


def choose(rows: list[dict], of: oracle.Calendar) -> tuple[list[dict], list[tuple[str, dict]]]:
    """Trades that count, and (reason, message) of what does not, copies aside."""
    seen: set[tuple] = set()
    trades: dict[tuple, list[tuple[int, dict]]] = {}
    lost: list[tuple[str, dict]] = []
    for number, row in enumerate(sorted(rows, key=place_in_stream)):
        session = session_of(row, of)
        assert session is not None
        code = row["correction"] if row["correction"] in (1, 7, 8, 10, 11, 12) else 0
        copy = (row["symbol"], session.day, row["seq"], code)
        if copy in seen:
            continue
        seen.add(copy)
        name = (row["symbol"], session.day, row["exchange"], row["trade_id"] or number)
        trades.setdefault(name, []).append((code, row))
    counted: list[dict] = []
    for found in trades.values():
        codes = {code for code, _ in found}
        if codes == {0}:
            counted += [row for _, row in found]
        elif codes & set(CANCELS):
            lost += [("cancelled", row) for _, row in found]
        else:
            originals = [row for code, row in found if code in (0, 1)]
            corrections = [row for code, row in found if code == 12]
            base = (originals or corrections)[0]
            lost += [("corrected", row) for _, row in found if row is not base]
            if corrections and corrections[-1] is not base:
                lost.append(("corrected", base))
                base = {**base, **{name: corrections[-1][name] for name in ("price", "volume", "rules")}}
            counted.append(base)
    return counted, lost
