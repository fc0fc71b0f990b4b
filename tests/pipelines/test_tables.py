"""``python -m pipelines.tables``: the tables of DynamoDB."""

from __future__ import annotations

import pytest

from fibflow.io.dynamodb import DynamoError
from fibflow.pipelines import tables
from fibflow.tests.pipelines.lakes import fail


@pytest.fixture
def reached(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.aws.boto3_client("dynamodb")


def test_tables_are_made_once_with_a_time_to_live(reached, capsys):
    names = "--dynamodb", "made-prices", "--dynamodb-ticks", "made-ticks"
    assert tables.run(names) == 0
    assert capsys.readouterr().out.count("made │") == 2
    assert tables.run(names) == 0
    assert capsys.readouterr().out.count("there already │") == 2
    for name, key in (("made-prices", ["symbol"]), ("made-ticks", ["symbol", "ts"])):
        told = reached.describe_table(TableName=name)["Table"]
        assert [part["AttributeName"] for part in told["KeySchema"]] == key
        assert told["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        assert reached.describe_time_to_live(TableName=name)["TimeToLiveDescription"] == {
            "TimeToLiveStatus": "ENABLED",
            "AttributeName": "ttl",
        }


def test_what_cannot_be_is_said_in_one_line(reached):
    for arguments, said in (
        ((), "name a table with --dynamodb"),
        (("--dynamodb", "x", "--dynamodb-ticks", "x"), "give them two names"),
    ):
        failed = fail(tables.run, *arguments)
        assert failed.code == 2
        assert said in failed.lines[0]
    tables.run(("--dynamodb", "some-prices"))
    with pytest.raises(DynamoError, match="some-prices has another key than symbol and ts"):
        tables.run(("--dynamodb-ticks", "some-prices"))
