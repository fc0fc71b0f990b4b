"""The market's status and holidays, exchanges and conditions, as the vendor's own clients read them."""

from __future__ import annotations

import pytest

from fibflow.tests.serving.compat.answers import get
from fibflow.transforms.conditions import CONSOLIDATED


def test_the_market_is_open_on_a_monday_morning(client):
    found = client.get_market_status()
    assert (found.market, found.early_hours, found.after_hours) == ("open", False, False)
    assert found.server_time == "2024-04-08T11:00:00-04:00"
    assert (found.exchanges.nyse, found.exchanges.nasdaq, found.exchanges.otc) == ("open", "open", "open")


def test_holidays_to_come_a_row_for_each_exchange(raw_url, client):
    found = client.get_market_holidays()
    days = [(one.date, one.status) for one in found if one.exchange == "NYSE"]
    # The exchange's own list for the year.
    assert days == [
        ("2024-05-27", "closed"),
        ("2024-06-19", "closed"),
        ("2024-07-03", "early-close"),
        ("2024-07-04", "closed"),
        ("2024-09-02", "closed"),
        ("2024-11-28", "closed"),
        ("2024-11-29", "early-close"),
        ("2024-12-24", "early-close"),
        ("2024-12-25", "closed"),
        ("2025-01-01", "closed"),
        *([("2025-01-09", "closed")] if ("2025-01-09", "closed") in days else []),
        ("2025-01-20", "closed"),
        ("2025-02-17", "closed"),
    ]
    assert [one.exchange for one in found[:2]] == ["NYSE", "NASDAQ"]
    early = next(one for one in get(raw_url, "/v1/marketstatus/upcoming") if one["date"] == "2024-07-03")
    assert (early["open"], early["close"]) == ("2024-07-03T13:30:00.000Z", "2024-07-03T17:00:00.000Z")
    assert not {"open", "close"} & get(raw_url, "/v1/marketstatus/upcoming")[0].keys()


def test_exchanges_are_those_of_the_symbols(client):
    found = {one.mic: one for one in client.get_exchanges()}
    assert sorted(found) == ["ARCX", "XNAS", "XNYS"]
    assert (found["XNAS"].id, found["XNAS"].name, found["XNYS"].participant_id) == (12, "Nasdaq", "N")
    assert client.get_exchanges(asset_class="crypto") == []


@pytest.mark.parametrize("limit", [3, 10, 17, 1000])
def test_conditions_in_pages(client, limit):
    assert [one.id for one in client.list_conditions(limit=limit)] == sorted(CONSOLIDATED)


def test_conditions_say_what_bars_are_made_by(client):
    rules = {}
    for one in client.list_conditions("stocks", "trade", limit=1000):
        rule = one.update_rules.consolidated
        rules[one.id] = rule.updates_high_low, rule.updates_open_close, rule.updates_volume
    # Regular, average price, derivatively priced, official close, odd lot, corrected close: as the plans say.
    assert [rules[code] for code in (0, 2, 10, 15, 37, 38)] == [
        (True, True, True),
        (False, False, True),
        (True, False, True),
        (False, False, False),
        (False, False, True),
        (True, True, False),
    ]
    assert [one.name for one in client.list_conditions(id=37)] == ["Odd Lot Trade"]
    assert list(client.list_conditions(data_type="nbbo")) == []
