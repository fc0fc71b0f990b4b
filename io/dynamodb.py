"""Last prices in DynamoDB, and the prices of the last day, for readers where there is no Redis. No Beam.

``PriceTable`` has one item a symbol: ``symbol`` (its key), ``ts`` (UTC microseconds), ``seq``, ``price``,
``size`` (left out where unknown), ``source`` (of ``liverecords.SOURCES``), and ``ttl``, the UTC second from
which on it counts for nothing. ``TickTable`` has the same items, one a (``symbol``, ``ts``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from operator import methodcaller
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from fibflow.io.aws import AwsConfig, AwsError
from fibflow.io.liverecords import PRICES, SOURCES
from fibflow.transforms.partials import numbers
from fibflow.transforms.schemas import TIMESTAMP

#: For how long a price counts after it was written, seconds.
KEPT_S = 86_400

# DynamoDB takes at most so many keys, and so many new items, at once, and may answer for some of them only.
_KEYS_A_CALL = 100
_ITEMS_A_CALL = 25
_ROUNDS = 5
_TTL = "ttl"
_NEWER = "attribute_not_exists(symbol) OR ts < :ts OR (ts = :ts AND seq < :seq)"
_ADVICE = {
    "ResourceNotFoundException": "there is no such table: create it (python -m pipelines.tables), or check "
    "its name and AWS_REGION",
    "UnrecognizedClientException": "AWS refuses these keys: check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "ExpiredTokenException": "the AWS session has expired: log in again",
    "AccessDeniedException": "access is denied: they need dynamodb:BatchGetItem (PutItem and BatchWriteItem "
    "to write, Query to read ticks)",
    "ProvisionedThroughputExceededException": "it is throttled: raise its capacity, or make it on demand",
    "ThrottlingException": "it is throttled: raise its capacity, or make it on demand",
}

T = TypeVar("T")


class DynamoError(Exception):
    """DynamoDB does not answer, or refuses; one line that says what to do."""


class DynamoAway(DynamoError):
    """DynamoDB does not answer."""


class DynamoRefused(DynamoError):
    """DynamoDB takes no such item."""


@dataclass
class _Table:
    """A table. Safe to use from several threads, and can be pickled.

    Attributes:
        name: of the table.
        aws: where it is.
        timeout_s: of connecting and of one answer.
        attempts: how often a call is tried in all.
        writers: how many calls write at once.
        clock: seconds since 1970.

    Every method raises ``DynamoError`` when DynamoDB does not answer or refuses.
    """

    name: str
    aws: AwsConfig = field(repr=False)
    timeout_s: float = 1.0
    attempts: int = 1
    writers: int = 16
    clock: Callable[[], float] = time.time

    #: The key's columns with DynamoDB's letter for their kind: that of its partition, and of the order in it.
    KEY: ClassVar[tuple[tuple[str, str], ...]] = (("symbol", "S"),)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_client"}

    def create_tables(self) -> bool:
        """Make the table, where it is not there: on demand, with ``ttl`` as its time to live.

        Returns:
            Whether it was made.

        Raises:
            DynamoError: also where there is a table of that name with another key.
        """
        made = not self._is_there()
        if made:
            self._asked(self._create)
        told = self._asked(lambda client: client.describe_time_to_live(TableName=self.name))
        if told["TimeToLiveDescription"]["TimeToLiveStatus"] in ("DISABLED", "DISABLING"):
            rule = {"Enabled": True, "AttributeName": _TTL}
            self._asked(
                lambda client: client.update_time_to_live(TableName=self.name, TimeToLiveSpecification=rule)
            )
        return made

    def _is_there(self) -> bool:
        def look(client: Any) -> Any:
            try:
                return client.describe_table(TableName=self.name)["Table"]
            except client.exceptions.ResourceNotFoundException:
                return None

        found = self._asked(look)
        if found is None:
            return False
        if found["TableStatus"] == "CREATING":
            self._asked(self._wait)
        kinds = {kind["AttributeName"]: kind["AttributeType"] for kind in found["AttributeDefinitions"]}
        key = tuple((part["AttributeName"], kinds[part["AttributeName"]]) for part in found["KeySchema"])
        if key != self.KEY:
            names = " and ".join(name for name, _ in self.KEY)
            raise DynamoError(f"DynamoDB table {self.name} has another key than {names}: name another table")
        return True

    def _create(self, client: Any) -> None:
        # Another process may make it at the same time.
        with suppress(client.exceptions.ResourceInUseException):
            client.create_table(
                TableName=self.name,
                KeySchema=[
                    {"AttributeName": name, "KeyType": kind}
                    for (name, _), kind in zip(self.KEY, ("HASH", "RANGE"), strict=False)
                ],
                AttributeDefinitions=[
                    {"AttributeName": name, "AttributeType": kind} for name, kind in self.KEY
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        self._wait(client)

    def _wait(self, client: Any) -> None:
        client.get_waiter("table_exists").wait(TableName=self.name, WaiterConfig={"Delay": 1})

    def _made(self, prices: pa.Table) -> Iterator[dict[str, Any]]:
        ends = str(int(self.clock()) + KEPT_S)
        columns = (prices["symbol"], prices["price"], prices["size"], prices["seq"], prices["source"])
        words = [column.to_pylist() for column in columns]
        for symbol, price, size, seq, source, ts in zip(*words, numbers(prices, "ts").tolist(), strict=True):
            item = {
                "symbol": {"S": symbol},
                "ts": {"N": str(ts)},
                "seq": {"N": str(seq)},
                "price": {"N": repr(price)},
                "source": {"S": source},
                _TTL: {"N": ends},
            }
            yield item if size is None else {**item, "size": {"N": repr(size)}}

    def _table(self, items: Iterable[dict[str, Any]]) -> pa.Table:
        """Return the items that count still, sorted by symbol and time."""
        now = self.clock()
        # What has expired is still there for up to two days.
        found = [item for item in items if int(item.get(_TTL, {"N": "0"})["N"]) > now]
        try:
            rows = sorted((_row(item) for item in found), key=lambda row: (row["symbol"], row["ts"]))
        except (KeyError, ValueError) as error:
            raise DynamoError(f"DynamoDB table {self.name} holds no last prices: name another") from error
        columns: list[Any] = []
        for field_ in PRICES:
            plain: Any = pa.int64() if field_.type == TIMESTAMP else field_.type
            columns.append(pa.array([row[field_.name] for row in rows], plain).cast(field_.type))
        return pa.table(columns, schema=PRICES)

    def _each(self, call: Callable[[T], int], parts: Sequence[T]) -> int:
        """Return the sum of what calls give, several at once; none begins when one has failed."""
        if len(parts) < 2:
            return sum(map(call, parts))
        pool = ThreadPoolExecutor(min(self.writers, len(parts)), "dynamodb")
        try:
            return sum(pool.map(call, parts))
        finally:
            pool.shutdown(cancel_futures=True)

    def _asked(self, question: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return question(self._client)
        except ClientError as error:
            told = error.response.get("Error", {})
            code = told.get("Code", "")
            if code == "ValidationException":
                why = " ".join(str(told.get("Message", code)).split())
                raise DynamoRefused(f"DynamoDB table {self.name} takes no such item: {why}") from error
            raise DynamoError(f"DynamoDB table {self.name}: {_ADVICE.get(code, code)}") from error
        except AwsError as error:
            raise DynamoError(str(error)) from error
        except BotoCoreError as error:
            raise DynamoAway(
                f"DynamoDB does not answer ({type(error).__name__}): check the network, AWS_REGION and "
                "AWS_ENDPOINT_URL"
            ) from error

    @cached_property
    def _client(self) -> Any:
        from botocore.config import Config

        return self.aws.boto3_client(
            "dynamodb",
            Config(
                connect_timeout=self.timeout_s,
                read_timeout=self.timeout_s,
                retries={"total_max_attempts": self.attempts, "mode": "standard"},
                max_pool_connections=max(10, self.writers),
            ),
        )


@dataclass
class PriceTable(_Table):
    """A table of last prices, one item a symbol."""

    def read(self, symbols: Sequence[str]) -> pa.Table:
        """Return last prices (``liverecords.PRICES``) of symbols, sorted; one without a price is left out."""
        asked = sorted(set(symbols))
        parts = (asked[at : at + _KEYS_A_CALL] for at in range(0, len(asked), _KEYS_A_CALL))
        return self._table(item for part in parts for item in self._items(part))

    def write(self, prices: pa.Table) -> int:
        """Move last prices forward; return how many were newer, by (ts, seq), than what was there.

        Args:
            prices: of ``liverecords.PRICES``.
        """
        return self._each(self._put, list(self._made(prices)))

    def check(self) -> None:
        """Return where the table answers a read."""
        self.read(("-",))

    def _items(self, symbols: Sequence[str]) -> Iterator[dict[str, Any]]:
        keys: Any = {self.name: {"Keys": [{"symbol": {"S": symbol}} for symbol in symbols]}}
        for _ in range(_ROUNDS):
            answer = self._asked(methodcaller("batch_get_item", RequestItems=keys))
            yield from answer["Responses"].get(self.name, ())
            keys = answer.get("UnprocessedKeys")
            if not keys:
                return
        raise DynamoError(f"DynamoDB table {self.name}: it is throttled: raise its capacity")

    def _put(self, item: dict[str, Any]) -> bool:
        def put(client: Any) -> bool:
            try:
                client.put_item(
                    TableName=self.name,
                    Item=item,
                    ConditionExpression=_NEWER,
                    ExpressionAttributeValues={":ts": item["ts"], ":seq": item["seq"]},
                )
            except client.exceptions.ConditionalCheckFailedException:
                return False
            return True

        return self._asked(put)


@dataclass
class TickTable(_Table):
    """A table of the last day's prices, by symbol and time: what a chart of today is drawn of."""

    KEY: ClassVar[tuple[tuple[str, str], ...]] = (("symbol", "S"), ("ts", "N"))

    def read(self, symbol: str, since: int, until: int | None = None, limit: int = 1_000) -> pa.Table:
        """Return the newest prices (``liverecords.PRICES``) of a symbol in a stretch of time, oldest first.

        Args:
            symbol: whose.
            since: UTC microseconds.
            until: up to this, without it; None for no end.
            limit: at most so many.
        """
        condition = "symbol = :symbol AND ts >= :since"
        values = {":symbol": {"S": symbol}, ":since": {"N": str(since)}}
        if until is not None:
            condition = "symbol = :symbol AND ts BETWEEN :since AND :last"
            values[":last"] = {"N": str(until - 1)}
            if until <= since:
                return PRICES.empty_table()
        items: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            answer = self._asked(
                methodcaller(
                    "query",
                    TableName=self.name,
                    KeyConditionExpression=condition,
                    ExpressionAttributeValues=values,
                    ScanIndexForward=False,
                    Limit=limit - len(items),
                    **more,
                )
            )
            items += answer["Items"]
            if len(items) >= limit or "LastEvaluatedKey" not in answer:
                return self._table(items)
            more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def write(self, prices: pa.Table) -> int:
        """Put prices, one a (symbol, ts), over what is there, and return how many.

        Args:
            prices: of ``liverecords.PRICES``.
        """
        items = [{"PutRequest": {"Item": item}} for item in self._made(prices)]
        parts = [items[at : at + _ITEMS_A_CALL] for at in range(0, len(items), _ITEMS_A_CALL)]
        return self._each(self._put, parts)

    def check(self) -> None:
        """Return where the table answers a read."""
        self.read("-", 0, limit=1)

    def _put(self, items: list[dict[str, Any]]) -> int:
        left: Any = {self.name: items}
        for _ in range(_ROUNDS):
            left = self._asked(methodcaller("batch_write_item", RequestItems=left)).get("UnprocessedItems")
            if not left:
                return len(items)
        raise DynamoError(f"DynamoDB table {self.name}: it is throttled: raise its capacity")


def _row(item: dict[str, Any]) -> dict[str, Any]:
    source = item["source"]["S"]
    if source not in SOURCES:
        raise ValueError(source)
    return {
        "symbol": item["symbol"]["S"],
        "price": float(item["price"]["N"]),
        "size": float(item["size"]["N"]) if "size" in item else None,
        "ts": int(item["ts"]["N"]),
        "seq": int(item["seq"]["N"]),
        "source": source,
    }
