"""The cost model: the predecessor's figures come out of its load, and ours are of the stack that there is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from fibflow.deploy.cost import ours, predecessor
from fibflow.deploy.cost.__main__ import DOCUMENT
from fibflow.deploy.cost.load import Load
from fibflow.deploy.cost.predecessor import STATED, load_of, total
from fibflow.deploy.cost.prices import CDN_FREE_GB, CDN_FREE_REQUESTS, PRICES, cdn, fargate
from fibflow.deploy.cost.report import MARKET, TRY_OUT, render
from fibflow.tests.deploy.aws.stacks import resources, template


@pytest.mark.parametrize(("times", "stated"), STATED.items())
def test_the_predecessors_bill_is_within_a_quarter_of_its_own_figure(times, stated):
    assert total(predecessor.bill(load_of(times))) == pytest.approx(stated, rel=0.25)


def test_its_parts_are_those_that_it_names():
    names = " ".join(part.name for part in predecessor.bill(load_of(1)))
    for named in (
        "fetcher",
        "RDS",
        "S3",
        "Batch",
        "WebSocket",
        "Kinesis",
        "Flink SQL",
        "DynamoDB",
        "SNS",
        "Redis",
        "CDN",
    ):
        assert named in names


@pytest.mark.parametrize("load", [load_of(1), load_of(10), TRY_OUT, MARKET])
def test_more_to_do_never_costs_less(load):
    more = [
        replace(load, users=load.users * 2),
        replace(load, rows=load.rows * 2),
        replace(load, trades_gb=20.0),
    ]
    for size in ours.SIZES.values():
        least = total(ours.bill(load, size))
        assert all(total(ours.bill(each, size)) >= least for each in more)
        assert all(part.dollars >= 0 for part in ours.bill(load, size))
    assert total(predecessor.bill(more[0])) >= total(predecessor.bill(load))


def test_ours_grows_more_slowly_than_the_predecessor():
    def growth(bill):
        return total(bill(load_of(100))) - total(bill(load_of(1)))

    assert growth(lambda load: ours.bill(load, ours.SIZES["team"])) < growth(predecessor.bill)


@pytest.mark.parametrize("name", ours.SIZES)
def test_sizes_are_those_of_the_templates(name):
    size, data = ours.SIZES[name], template("data")["Mappings"]["Sizes"][name]
    services, network = (
        template("services")["Mappings"]["Sizes"][name],
        template("network")["Mappings"]["Sizes"][name],
    )
    assert (size.shards, size.database, size.database_gb) == (
        data["Shards"],
        data["DatabaseClass"],
        data["DatabaseGb"],
    )
    assert (size.zones == 2) == (data["DatabaseTwoZones"] == "true")
    assert (size.redis, size.redis_nodes) == (data["RedisClass"], data["RedisNodes"])
    assert size.servers == services["Servers"]
    for task, part in ((size.server, "Serving"), (size.ingest, "Ingest"), (size.daily, "Daily")):
        assert task == (services[f"{part}Cpu"] / 1024, services[f"{part}Memory"] / 1024)
    interfaces = [
        one
        for _, _, one in resources("AWS::EC2::VPCEndpoint")
        if one["Properties"]["VpcEndpointType"] == "Interface"
    ]
    assert size.endpoints == (len(interfaces) if network["Endpoints"] == "yes" else 0)
    assert size.nats == (2 if network["NatPerZone"] == "yes" else 1)


def test_a_task_and_the_cdn_cost_what_one_reckons_by_hand():
    assert fargate(0.5, 1) == pytest.approx(18.02, abs=0.01)
    assert cdn(CDN_FREE_GB, CDN_FREE_REQUESTS) == 0
    assert cdn(CDN_FREE_GB + 100, CDN_FREE_REQUESTS + 1e6) == pytest.approx(8.5 + 1.0)


def test_nobody_pays_for_no_users_of_the_predecessor():
    api = predecessor.bill(Load(users=0))[-1]
    assert (api.name, api.dollars) == ("API and CDN", 0)


def test_each_price_has_a_unit_and_a_source():
    assert all(price.dollars > 0 and price.unit and price.source for price in PRICES.values())


def test_the_document_is_what_the_model_says():
    assert DOCUMENT.read_text() == render(), "run: python -m deploy.cost --write"


def test_the_command_prints_it():
    command = [sys.executable, "-m", "deploy.cost"]
    told = subprocess.run(command, cwd=DOCUMENT.parents[1], capture_output=True, text=True, check=True)
    assert told.stdout == render()
