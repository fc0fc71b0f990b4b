"""The tape against an oracle that reads its JSON message by message and shares no code with it."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibflow.io.ticks import DecodeTicks
from fibflow.pipelines import tape
from fibflow.pipelines.tape import BROKEN, Case, Disorder, Kind, encode
from fibflow.transforms.calendar import load_calendar
from fibflow.transforms.conditions import rule_of
from fibflow.transforms.schemas import RECORDS

XNYS = load_calendar()
#: The second is a half day.
DAYS = np.array(["2024-11-27", "2024-11-29"], "datetime64[D]").astype(np.int32)
MINUTE = 60_000
NEW_YORK = ZoneInfo("America/New_York")
#: By the consolidated rules: (high and low, open and close, volume), where not all.
RULES = {
    2: (False, False, True),
    10: (True, False, True),
    15: (False, False, False),
    32: (True, False, True),
    37: (False, False, True),
    53: (False, False, True),
}
SPOILT = [case.name.lower() for case in BROKEN]
WRONG = Disorder(
    shuffle=3, late=0.02, too_late=0.01, duplicates=0.02, resent=0.1, broken=0.02, lateness=900, heartbeat=30
)


def rows_of(symbols, seed=0):
    return tape.synthetic_daily(symbols, DAYS, np.random.default_rng(seed))


def bits(message):
    return [all(RULES.get(code, (True,) * 3)[what] for code in message.get("c", [])) for what in range(3)]


def listed(made, kind=None, *cases):
    """(case, message as JSON, sent in ms) of messages that can be read."""
    wanted = {case.name.lower() for case in cases}
    found = []
    columns = (made.messages[name].to_pylist() for name in ("kind", "case", "message"))
    sent = made.messages["sent"].cast(pa.int64()).to_pylist()
    for (of, case, message), when in zip(zip(*columns, strict=True), sent, strict=True):
        if (kind is None or of == kind) and (not wanted or case in wanted) and message is not None:
            found.append((case, message, when / 1000))
    return found


def read(made, kind, *cases):
    return [(case, json.loads(message), sent) for case, message, sent in listed(made, kind, *cases)]


def day_of(ms):
    return datetime.fromtimestamp(ms / 1000, NEW_YORK).date()


def by_session(messages):
    days = defaultdict(list)
    for message in messages:
        days[message["sym"], day_of(message["t"])].append(message)
    return days


def fold(trades):
    """Open, high, low, close, volume, notional by (symbol, start of the minute in ms)."""
    minutes = defaultdict(list)
    for trade in sorted(trades, key=lambda trade: (trade["t"], trade["q"])):
        minutes[trade["sym"], trade["t"] // MINUTE * MINUTE].append(trade)
    bars = {}
    for key, these in minutes.items():
        ends = [t["p"] for t in these if bits(t)[1]]
        wide = [t["p"] for t in these if bits(t)[0]] + ends
        counted = [t for t in these if bits(t)[2]]
        if ends:
            bars[key] = (
                *(ends[0], max(wide), min(wide), ends[-1]),
                sum(t["s"] for t in counted),
                sum(t["s"] * t["p"] for t in counted),
            )
    return bars


def bar_of(message):
    return tuple(message[name] for name in ("o", "h", "l", "c", "v"))


def test_trades_of_a_day_honour_its_prices_and_volume():
    rows = rows_of(12)
    days = by_session(message for _, message, _ in read(tape.make(rows, XNYS, trades=150), "T"))
    assert len(days) == 24
    for row in rows.to_pylist():
        at = int(XNYS.positions(np.array([row["session"]], "datetime64[D]").astype(np.int32))[0])
        opens, closes = XNYS.opens[at] // 1000, XNYS.closes[at] // 1000
        trades = days[row["symbol"], row["session"]]
        regular = [t for t in trades if opens <= t["t"] < closes]
        ends = [t["p"] for t in regular if bits(t)[1]]
        wide = [t["p"] for t in regular if bits(t)[0]]
        assert (ends[0], max(wide), min(wide), ends[-1]) == tuple(
            row[n] for n in ("open", "high", "low", "close")
        )
        assert sum(t["s"] for t in trades if bits(t)[2]) == row["volume"]
        assert all(12 in t["c"] or 15 in t["c"] for t in trades if not opens <= t["t"] < closes)
        assert trades[0]["t"] >= opens - 5.5 * 3_600_000
        assert trades[-1]["t"] < closes + 4 * 3_600_000


def test_minutes_of_history_are_honoured():
    rng = np.random.default_rng(3)
    start = int(XNYS.opens[XNYS.positions(DAYS)[0]]) - 30 * 60_000_000
    opens, closes = rng.integers(2000, 2100, (2, 60)) / 100
    rows = pa.table(
        {
            "symbol": ["X"] * 60,
            "ts": pa.array(start + np.arange(60) * 60_000_000).cast(pa.timestamp("us", "UTC")),
            "open": opens,
            "high": (np.maximum(opens, closes) + rng.integers(0, 3, 60) / 100).round(2),
            "low": (np.minimum(opens, closes) - rng.integers(0, 3, 60) / 100).round(2),
            "close": closes,
            "volume": rng.integers(0, 4000, 60).astype(float),
        }
    )
    made = tape.make(rows, XNYS, trades=600, feed="both")
    found = fold(message for _, message, _ in read(made, "T"))
    kept = rows.filter(pc.greater_equal(rows["volume"], pa.scalar(1.0)))
    expected = {
        ("X", int(row["ts"].timestamp() * 1000)): tuple(
            row[n] for n in ("open", "high", "low", "close", "volume")
        )
        for row in kept.to_pylist()
        if row["volume"] >= 4
    }
    assert {key: bar[:5] for key, bar in found.items() if key in expected} == expected
    assert {("X", m["s"]): bar_of(m) for _, m, _ in read(made, "AM")} == {k: b[:5] for k, b in found.items()}


def test_minutes_are_the_aggregates_of_the_trades():
    made = tape.make(rows_of(8), XNYS, trades=300, feed=tape.Feed.BOTH, seconds=True)
    bars = fold(message for _, message, _ in read(made, "T"))
    minutes = [(message, sent) for _, message, sent in read(made, "AM")]
    assert {(m["sym"], m["s"]): bar_of(m) for m, _ in minutes} == {key: bar[:5] for key, bar in bars.items()}
    assert len(minutes) == len(bars) == made.truth.windows["AM"]
    for message, sent in minutes:
        assert message["e"] == message["s"] + MINUTE < sent <= message["e"] + 3000
        bar = bars[message["sym"], message["s"]]
        assert message["vw"] == pytest.approx(bar[5] / bar[4], abs=6e-5)
    seconds = [message for _, message, _ in read(made, "A")]
    assert all(message["e"] == message["s"] + 1000 for message in seconds)
    assert sum(m["v"] for m in seconds) <= sum(bar[4] for bar in bars.values())


def test_accumulated_values_of_a_day():
    made = tape.make(rows_of(2), XNYS, trades=200, feed="both")
    trades = [message for _, message, _ in read(made, "T")]
    days = by_session(trades)
    for _, message, _ in read(made, "AM"):
        day = days[message["sym"], day_of(message["s"])]
        so_far = [t for t in day if t["t"] < message["e"] and bits(t)[2]]
        assert message["av"] == sum(t["s"] for t in so_far)
        assert message["a"] == pytest.approx(sum(t["s"] * t["p"] for t in so_far) / message["av"], abs=6e-5)
        begun = [t for t in day if 25 in t.get("c", []) and t["t"] < message["e"]]
        assert message.get("op") == (begun[0]["p"] if begun else None)


def test_sequence_numbers_rise_with_gaps():
    for day in by_session(m for _, m, _ in read(tape.make(rows_of(5), XNYS, trades=80), "T")).values():
        numbers = [message["q"] for message in day]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] - numbers[0] > 2 * len(numbers)
        assert [message["t"] for message in day] == sorted(message["t"] for message in day)


def test_trade_ids_are_unique_and_every_kind_of_sale_occurs():
    made = tape.make(rows_of(60), XNYS, trades=400)
    trades = [message for _, message, _ in read(made, "T")]
    assert len({message["i"] for message in trades}) == len(trades)
    assert {tuple(message.get("c", ())) for message in trades} == {sale.codes for sale in tape.SALES}
    assert len({message["x"] for message in trades}) > 8


def test_activity_is_higher_at_both_ends_of_the_day():
    made = tape.make(rows_of(40), XNYS, trades=400)
    at = XNYS.positions(DAYS)[0]
    share = (made.trades.ts - XNYS.opens[at]) / (XNYS.closes[at] - XNYS.opens[at])
    thirds = np.histogram(share, bins=[0, 1 / 3, 2 / 3, 1])[0]
    assert min(thirds[0], thirds[2]) > 1.5 * thirds[1]


def test_the_same_seed_gives_the_same_bytes():
    one, same = (tape.make(rows_of(4), XNYS, feed="both", disorder=WRONG, seed=5) for _ in range(2))
    assert one.messages.equals(same.messages)
    assert one.truth == same.truth
    other = tape.make(rows_of(4), XNYS, feed="both", disorder=WRONG, seed=6)
    assert not other.messages.equals(one.messages)


def test_a_feed_does_not_change_the_trades():
    trades, both = (tape.make(rows_of(4), XNYS, feed=feed, disorder=WRONG) for feed in ("trades", "both"))
    assert listed(trades, "T") == listed(both, "T")


@pytest.fixture(scope="module")
def wrong():
    return tape.make(rows_of(20), XNYS, feed="both", trades=400, disorder=WRONG, seed=11)


def test_the_truth_is_what_the_messages_say(wrong):
    kinds, cases = (wrong.messages[name].to_pylist() for name in ("kind", "case"))
    counted = Counter(zip(kinds, cases, strict=True))
    assert counted == {(kind, case): n for kind, of in wrong.truth.of.items() for case, n in of.items()}
    assert wrong.truth.number() == len(wrong) - counted["HB", "on_time"]
    assert wrong.truth.number(Kind.T, Case.LATE) == counted["T", "late"]
    assert wrong.truth.readable + wrong.truth.broken == wrong.truth.number()
    for part, case in ((0.02, Case.LATE), (0.01, Case.TOO_LATE), (0.02, Case.DUPLICATE)):
        trades = wrong.truth.number(Kind.T) - wrong.truth.number(Kind.T, Case.DUPLICATE, *BROKEN)
        assert wrong.truth.number(Kind.T, case) == pytest.approx(part * trades, rel=0.35)
    assert wrong.truth.symbols == 20


def test_delivery_follows_sent(wrong):
    assert (np.diff(wrong.sent) >= 0).all()
    newest: dict[str, int] = defaultdict(int)
    behind: Counter[str] = Counter()
    for kind, ts in zip(
        wrong.messages["kind"].to_pylist(), wrong.messages["ts"].cast(pa.int64()).to_pylist(), strict=True
    ):
        behind[kind] += ts < newest[kind]
        newest[kind] = max(newest[kind], ts)
    assert behind == wrong.truth.behind
    assert behind["HB"] == 0 < behind["T"]


def horizon(message):
    return (message.get("t", message.get("s")) // MINUTE + 1) * MINUTE + 900_000


def test_late_messages_are_within_the_horizon_and_too_late_ones_behind_it(wrong):
    """By delivery order: what a job can know of time is at most the newest time it was told, less 5 s."""
    told, heard = 0, iter(beats(wrong))
    beat = 0.0
    columns = (wrong.messages[name].to_pylist() for name in ("kind", "case", "message"))
    for kind, case, message in zip(*columns, strict=True):
        if kind == "HB":
            beat = next(heard)
            told = max(told, beat)
        elif case not in SPOILT:
            row = json.loads(message)
            if case == "too_late":
                assert beat - 5000 >= horizon(row)
            else:
                assert told - 5000 < horizon(row)
            if case == "late":
                assert told >= horizon(row) - 900_000
            told = max(told, row.get("t", row.get("e", 0)))


def beats(made):
    """Times of the heartbeats, ms."""
    is_beat = pc.equal(made.messages["kind"].cast(pa.string()), pa.scalar("HB"))
    return [ts / 1000 for ts in made.messages.filter(is_beat)["ts"].cast(pa.int64()).to_pylist()]


def test_a_duplicate_is_the_same_bytes_after_the_first(wrong):
    first = {message: sent for case, message, sent in listed(wrong) if case in ("on_time", "again")}
    again = listed(wrong, None, Case.DUPLICATE)
    assert again
    for _, message, sent in again:
        assert first[message] <= sent <= first[message] + 60_000


def test_without_what_is_late_or_broken_the_trades_are_those_of_a_clean_tape(wrong):
    clean = {message for _, message, _ in listed(tape.make(rows_of(20), XNYS, trades=400, seed=11), "T")}
    kept = [m for c, m, _ in listed(wrong, "T", Case.ON_TIME, Case.LATE, Case.TOO_LATE, Case.DUPLICATE)]
    assert set(kept) == clean
    assert len(kept) - len(clean) == wrong.truth.number(Kind.T, Case.DUPLICATE)


def test_the_newest_versions_are_the_aggregates_of_the_trades_within_the_horizon(wrong):
    accepted = [m for _, m, _ in read(wrong, "T", Case.ON_TIME, Case.LATE)]
    newest: dict = {}
    for _, message, _ in read(wrong, "AM", *(set(Case) - set(BROKEN))):
        key = message["sym"], message["s"]
        if key not in newest or newest[key]["ver"] < message["ver"]:
            newest[key] = message
    assert {k: bar_of(m) for k, m in newest.items()} == {k: b[:5] for k, b in fold(accepted).items()}
    assert wrong.truth.number(Kind.AM, Case.AGAIN) > 0


def test_an_older_version_follows_the_newest(wrong):
    newest: dict = {}
    resent = 0
    for case, message, _ in read(wrong, "AM", *(set(Case) - set(BROKEN))):
        key = message["sym"], message["s"]
        if case == "resent":
            resent += 1
            assert message["ver"] < newest[key]
        newest[key] = max(newest.get(key, 0), message["ver"])
    assert resent == wrong.truth.number(Kind.AM, Case.RESENT) > 20


def test_broken_messages_cannot_be_read(wrong):
    required: dict = {
        "T": {"sym": str, "p": (int, float), "t": int},
        "AM": {"sym": str, "s": int} | dict.fromkeys("ohlc", (int, float)),
    }
    for kind, fields in required.items():
        for case, message, _ in listed(wrong, kind, *BROKEN):
            assert b"\n" not in message
            assert b"\r" not in message
            try:
                found = json.loads(message)
            except ValueError:
                assert case in ("cut", "garbage")
                continue
            assert any(not isinstance(found.get(name), of) for name, of in fields.items())
        assert len({case for case, _, _ in listed(wrong, kind, *BROKEN)}) == 4


def test_the_rules_of_the_tapes_sales_are_those_of_the_kernel():
    for sale in tape.SALES:
        of_all = rule_of(list(sale.codes))
        assert sale.counts_for == int(of_all) >> (3 if 12 in sale.codes else 0) & 7


def test_the_decoder_of_the_stream_reads_what_the_truth_says(wrong):
    """Each message in a record of its own, so that a broken one has no neighbours."""
    messages = wrong.messages.filter(pc.is_valid(wrong.messages["message"]))
    n = len(messages)
    columns = {
        "shard": pa.array(["s"] * n).dictionary_encode(),
        "sequence": pa.array(map(str, range(n))),
        "sub": pa.array(np.zeros(n, np.int32)),
        "arrived": messages["sent"],
        "key": messages["symbol"].cast(pa.string()),
        "data": messages["message"],
    }
    records = pa.table([columns[name] for name in RECORDS.names], schema=RECORDS)
    decoded = DecodeTicks()(records)
    truth = wrong.truth
    assert decoded.outputs["trades"].num_rows == truth.number(Kind.T) - truth.number(Kind.T, *BROKEN)
    assert decoded.outputs["minutes"].num_rows == truth.number(Kind.AM) - truth.number(Kind.AM, *BROKEN)
    assert decoded.outputs["dead_letters"].num_rows == truth.broken
    trades = decoded.outputs["trades"]
    rows = zip(*(trades[name].to_pylist() for name in ("symbol", "seq", "price", "size")), strict=True)
    kept = read(wrong, "T", *(set(Case) - set(BROKEN)))
    assert list(rows) == [(m["sym"], m["q"], m["p"], m["s"]) for _, m, _ in kept]


def test_without_stamps_there_is_no_version():
    made = tape.make(rows_of(2), XNYS, feed="minutes", stamped=False)
    assert not made.truth.number(Kind.T)
    assert all("ver" not in message for _, message, _ in read(made, "AM"))


def test_the_final_heartbeat_is_past_the_days_end_and_the_lateness():
    for final in (True, False):
        made = tape.make(rows_of(2), XNYS, disorder=WRONG, final_heartbeat=final)
        end = XNYS.day_ends[XNYS.positions(DAYS)[-1]] // 1000
        assert (beats(made)[-1] > end + 905_000) == final
    assert beats(made)[-1] * 1000 <= made.sent[-1]


def test_a_saved_tape_is_the_same(tmp_path, wrong):
    tape.save(wrong, tmp_path / "a.arrow")
    saved = tape.SavedTape(tmp_path / "a.arrow")
    assert pa.concat_tables(list(saved.blocks(5_000))).equals(wrong.messages)
    assert saved.truth == wrong.truth
    assert (saved.sent == wrong.sent).all()


def test_what_is_no_tape(tmp_path):
    (tmp_path / "b").write_bytes(b"nothing")
    with pa.OSFile(str(tmp_path / "c"), "wb") as sink, pa.ipc.new_file(sink, tape.MESSAGES) as writer:
        writer.write_table(tape.MESSAGES.empty_table())
    for name in "bc":
        with pytest.raises(tape.TapeError, match="is no tape: --save makes one"):
            tape.SavedTape(tmp_path / name)
    with pytest.raises(tape.TapeError, match="there is no tape"):
        tape.SavedTape(tmp_path / "a")


def test_blocks_do_not_change_the_messages(wrong):
    whole, small = (pa.concat_tables(list(wrong.blocks(size))) for size in (10_000_000, 999))
    assert whole.equals(small)


def test_names_are_escaped():
    rows = rows_of(1).set_column(0, "symbol", pa.array(['B"R\\K', 'B"R\\K']))
    made = tape.make(rows, XNYS, trades=20, feed="both")
    assert {message["sym"] for kind in ("T", "AM") for _, message, _ in read(made, kind)} == {'B"R\\K'}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"late": 1.5}, "late is 1.5: give a part from 0 to 1"),
        ({"late": 0.6, "duplicates": 0.6}, "more than all messages"),
        ({"shuffle": 900.0}, "shuffle has to be less than the lateness"),
        ({"lateness": 2.0}, "the lateness has to be a second more"),
        ({"heartbeat": 0.0}, "heartbeat is more than 0 s"),
    ],
)
def test_what_cannot_go_wrong(change, line):
    with pytest.raises(tape.TapeError, match=line):
        replace(Disorder(), **change)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("volume", 0.0, "no row with a volume is left"),
        ("low", 0.00001, "a price is below 0.0001"),
        ("session", datetime(2024, 11, 28, tzinfo=UTC).date(), "2024-11-28 is no session of XNYS"),
    ],
)
def test_rows_of_which_no_tape_can_be_made(name, value, line):
    rows = rows_of(1)
    column = pa.array([value] * 2, rows.schema.field(name).type)
    rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    with pytest.raises(tape.TapeError, match=line):
        tape.make(rows, XNYS)


prices = st.integers(min_value=1, max_value=10**9)


@settings(max_examples=60, deadline=None)
@given(
    ohlc=st.lists(st.tuples(prices, prices, prices, prices), min_size=1, max_size=6),
    volume=st.integers(min_value=1, max_value=10**9),
    trades=st.floats(min_value=0.1, max_value=400),
    seed=st.integers(min_value=0, max_value=2**32),
)
def test_any_day_is_honoured(ohlc, volume, trades, seed):
    """Open, high, low and close always; the volume where there is a share for each trade that they need."""
    sessions = XNYS.days[-len(ohlc) - 1500 : -1500]
    units = np.array([(o, max(o, h, low, c), min(o, h, low, c), c) for o, h, low, c in ohlc])
    columns = {name: units[:, at] / 10_000 for at, name in enumerate(("open", "high", "low", "close"))}
    rows = pa.table(
        {
            "symbol": ["X"] * len(ohlc),
            "session": pa.array(sessions).cast(pa.date32()),
            **columns,
            "volume": pa.array([float(volume)] * len(ohlc)),
        }
    )
    made = tape.make(rows, XNYS, trades=trades, seed=seed)
    days = by_session(m for _, m, _ in read(made, "T"))
    assert len(days) == len(ohlc)
    for row in rows.to_pylist():
        at = int(XNYS.positions(np.array([row["session"]], "datetime64[D]").astype(np.int32))[0])
        opens, closes = XNYS.opens[at] // 1000, XNYS.closes[at] // 1000
        day = days["X", row["session"]]
        regular = [t for t in day if opens <= t["t"] < closes]
        ends = [t["p"] for t in regular if bits(t)[1]]
        wide = [t["p"] for t in regular if bits(t)[0]]
        assert (ends[0], max(wide), min(wide), ends[-1]) == tuple(
            row[n] for n in ("open", "high", "low", "close")
        )
        if volume >= 4:
            assert sum(t["s"] for t in day if bits(t)[2]) == volume


@settings(max_examples=300, deadline=None)
@given(how=st.integers(min_value=0, max_value=3), dice=st.integers(min_value=0, max_value=2**31))
def test_no_way_of_breaking_leaves_a_message_whole(how, dice):
    good = b'{"ev":"T","sym":"A","x":4,"i":"1","z":3,"p":1.5,"s":1,"c":[0,12],"t":1536036818784,"q":3}'
    bad = encode.broken("T", good, how, dice)
    try:
        found = json.loads(bad)
    except ValueError:
        return
    assert not (
        isinstance(found.get("sym"), str)
        and isinstance(found.get("p"), float)
        and isinstance(found.get("t"), int)
    )
