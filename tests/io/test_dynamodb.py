from __future__ import annotations

import itertools
import socket
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibflow.io.dynamodb import KEPT_S, DynamoError, PriceTable
from fibflow.io.liverecords import PRICES
from fibflow.tests.io.livestores import T0, price, prices, rows

_numbers = itertools.count(1)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def dynamodb(s3_server) -> PriceTable:
    made = PriceTable(f"prices-{next(_numbers)}", s3_server, timeout_s=20.0, clock=Clock())
    made.create_tables()
    return made


def known(table: PriceTable, *symbols: str) -> list[tuple]:
    return rows(table.read(symbols), "symbol", "price", "ts", "seq")


def test_a_price_is_read_as_it_was_written(dynamodb):
    written = prices(
        {**price("A", 0.1 + 0.2, T0, 2**62, "trade")},
        {**price("B", 1e-12, T0 + 1, -5, "minute"), "size": None},
        {**price("C", 3.0, source="second"), "size": 0.000001},
    )
    assert dynamodb.write(written) == 3
    found = dynamodb.read(["C", "A", "B", "A"])
    assert found.schema.equals(PRICES)
    assert found.equals(written.cast(PRICES))


def test_a_symbol_without_a_price_is_left_out(dynamodb):
    dynamodb.write(prices(price("A", 1.0)))
    assert known(dynamodb, "B", "A") == [("A", 1.0, T0, 0)]
    assert known(dynamodb) == []
    assert dynamodb.write(prices()) == 0


def test_the_newer_price_stays(dynamodb):
    assert dynamodb.write(prices(price("A", 1.0, T0, 5))) == 1
    assert dynamodb.write(prices(price("A", 9.0, T0, 5))) == 0
    assert dynamodb.write(prices(price("A", 9.0, T0 - 1, 9))) == 0
    assert dynamodb.write(prices(price("A", 2.0, T0, 6))) == 1
    assert dynamodb.write(prices(price("A", 3.0, T0 + 1, 0), price("B", 4.0))) == 2
    assert known(dynamodb, "A", "B") == [("A", 3.0, T0 + 1, 0), ("B", 4.0, T0, 0)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-1, 0, 2**53, 2**53 + 1])), min_size=1, max_size=6)
)
def test_whatever_comes_in_whatever_order_the_greatest_stays(s3_server, writes):
    table = PriceTable(f"prices-{next(_numbers)}", s3_server, timeout_s=20.0, clock=Clock())
    table.create_tables()
    for ts, seq in writes:
        table.write(prices(price("A", float(ts), T0 + ts, seq)))
    assert rows(table.read(["A"]), "ts", "seq") == [(T0 + max(writes)[0], max(writes)[1])]


def test_more_symbols_than_one_call_takes(dynamodb):
    symbols = [f"S{place:03}" for place in range(205)]
    assert (
        dynamodb.write(prices(*(price(symbol, float(place + 1)) for place, symbol in enumerate(symbols))))
        == 205
    )
    assert known(dynamodb, *symbols) == [
        (symbol, float(place + 1), T0, 0) for place, symbol in enumerate(symbols)
    ]


def test_after_a_day_a_price_counts_for_nothing(dynamodb):
    dynamodb.write(prices(price("A")))
    dynamodb.clock.now += KEPT_S - 1
    assert len(known(dynamodb, "A")) == 1
    dynamodb.clock.now += 1
    assert known(dynamodb, "A") == []


def test_a_table_that_is_there_is_left_as_it_is(dynamodb, s3_server):
    dynamodb.write(prices(price("A")))
    replace(dynamodb).create_tables()
    assert len(known(dynamodb, "A")) == 1
    told = s3_server.boto3_client("dynamodb").describe_time_to_live(TableName=dynamodb.name)
    assert told["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}


def test_no_table_says_so_in_one_line(s3_server):
    table = PriceTable("nowhere", s3_server, timeout_s=20.0)
    for ask in (lambda: table.read(["A"]), table.check, lambda: table.write(prices(price("A")))):
        with pytest.raises(DynamoError, match=r"^DynamoDB table nowhere: there is no such table"):
            ask()


def test_another_table_is_no_table_of_prices(dynamodb, s3_server):
    s3_server.boto3_client("dynamodb").put_item(
        TableName=dynamodb.name, Item={"symbol": {"S": "A"}, "ttl": {"N": "9999999999"}, "n": {"N": "1"}}
    )
    with pytest.raises(DynamoError, match="holds no last prices"):
        dynamodb.read(["A"])


def test_a_service_that_is_away_is_said_in_one_line_without_secrets(s3_server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws = replace(s3_server, endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DynamoError, match=r"^DynamoDB does not answer") as raised:
            PriceTable("prices", replace(aws, secret_access_key="hush")).check()
    assert "hush" not in str(raised.value)


def test_without_credentials_it_says_what_to_set(s3_server):
    with pytest.raises(DynamoError, match="no AWS credentials"):
        PriceTable("prices", replace(s3_server, access_key_id=None)).check()
