"""The page on scale: its figures stand in the documents that it names, and it is what the model says."""

from __future__ import annotations

import runpy
import sys

import pytest

from fibflow.deploy.scale import model
from fibflow.deploy.scale.__main__ import DOCUMENT
from fibflow.deploy.scale.figures import CITED, MEASURED
from fibflow.deploy.scale.model import MANY_SYMBOLS, READERS, SYMBOLS
from fibflow.deploy.scale.report import render
from fibflow.deploy.scale.rows import A, M, U, tables
from fibflow.tests.deploy.aws.stacks import template


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_figure_stands_in_its_document(name):
    figure = MEASURED[name]
    text = (DOCUMENT.parent / figure.source).read_text()
    assert figure.words in " ".join(text.split()), (
        f"docs/{figure.source} no longer says {figure.words!r}: bring '{name}' in deploy/scale/figures.py up "
        "to date, then run python -m deploy.scale --write"
    )
    # 3.423 s is 3,423 ms there, and 110 bytes are 11 MB of 100,000 messages.
    forms = {
        f"{figure.value:,.15g}",
        f"{figure.value:,.1f}",
        f"{figure.value * 1e3:,.15g}",
        f"{figure.value / 10:g} MB",
    }
    assert any(form in figure.words for form in forms)


def test_a_message_is_what_the_peaks_bytes_make_it():
    assert MEASURED["message"].value == 11e6 / 100_000


def test_servers_are_those_of_the_template():
    size = template("services")["Mappings"]["Sizes"]["market"]
    assert size["MostServers"] == model.MOST_SERVERS
    assert size["ServingCpu"] == model.SERVER_CPUS * 1024
    assert int(size["ServingWorkers"]) == model.SERVER_PROCESSES


def test_cited_figures_say_by_whom():
    assert all(figure.source and not figure.words for figure in CITED.values())


def test_the_tape_by_hand():
    # 17.6 thousand million shares a day are 1.594 times those of a day of 2023.
    assert model.trades_a_day() == pytest.approx(113.1e6, rel=1e-3)
    assert model.mean_rate() == pytest.approx(4_835, rel=1e-3)
    assert model.peak_rate() == 239_072
    assert model.shards_for(100_000) == pytest.approx(11)
    assert model.wait_in_spool(100_000, 11) == 0
    assert model.wait_in_spool(200_000, 11) == pytest.approx(1)
    assert model.disk_of_reconcile(1e6) == pytest.approx(0.15)


def test_the_cores_of_the_benchmark_come_out_of_it():
    job = MEASURED["live cpu of workers"].value + MEASURED["live cpu of Flink"].value
    assert model.job_cpu(20_000, SYMBOLS) == pytest.approx(20_000 * job / 1e6)
    assert model.job_cpu(0, SYMBOLS) > 0
    assert model.job_cpu(20_000, MANY_SYMBOLS) > model.job_cpu(20_000, SYMBOLS)


def test_symbols_by_hand():
    assert model.redis_gb(SYMBOLS) == pytest.approx(2.14)
    assert model.closing(SYMBOLS) == pytest.approx(0.214)
    assert model.upsert(1e6) == MEASURED["upsert"].value
    assert model.behind(90_707) == 1


def test_readers_by_hand():
    assert model.push_cpu(1_000) == pytest.approx(0.24665)
    assert model.servers_for(READERS) == 100
    assert model.sockets_of(100) == READERS
    # 16 entries of 230 kB, four times a second.
    assert model.push_mb(SYMBOLS) == pytest.approx(14.72)
    assert model.push_mb(SYMBOLS, 1.0) == pytest.approx(16 * 0.23 / SYMBOLS)
    assert model.push_mb(SYMBOLS, 1e9) == model.push_mb(SYMBOLS)
    assert model.processes_of_redis(SYMBOLS) == pytest.approx(1562.5 / 14.72)
    assert model.minute_gb(READERS) == pytest.approx((0.294, 6.0))
    assert model.origin_rate(READERS) == pytest.approx(6_000)


def test_each_line_says_what_it_is():
    rows = [row for table in tables() for row in table]
    assert len(rows) > 20
    for row in rows:
        assert row.kind in (M, A, U)
        assert (row.kind == U) == (not row.then)
        assert row.knob


def test_the_document_is_what_the_model_says():
    assert DOCUMENT.read_text() == render(), "run: python -m deploy.scale --write"


def test_the_command_prints_it(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["deploy.scale"])
    monkeypatch.delitem(sys.modules, "fibflow.deploy.scale.__main__")
    runpy.run_module("fibflow.deploy.scale", run_name="__main__")
    assert capsys.readouterr().out == render()
