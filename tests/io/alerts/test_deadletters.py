"""What was given up is listed, and sent again on demand, by its owner's leave."""

from __future__ import annotations

import pytest

from fibflow.io.alerts import deliveries
from fibflow.io.alerts.deadletters import dead_letters, enable, replay
from fibflow.io.alerts.model import Conflict, NotFound
from fibflow.tests.io.alerts.outboxes import NOON, Box


@pytest.fixture
def box(url) -> Box:
    return Box(url)


@pytest.fixture
def dead(box):
    """Two destinations of two owners, disabled with two dead letters each."""
    hooks = [box.destination(f"https://{owner}.example.com", owner=owner) for owner in ("ann", "bob")]
    for hook, owner in zip(hooks, ("ann", "bob"), strict=True):
        for n in range(2):
            box.event(f"{owner}{n}", hook, owner=owner, due=NOON)
        deliveries.disable(box.url, hook, "answered 410 Gone", NOON)
    return hooks


def test_dead_letters_are_listed_by_owner_and_destination_in_pages(box, dead):
    everything = dead_letters(box.url)
    assert [each.event for each in everything] == ["ann0", "ann1", "bob0", "bob1"]
    first = everything[0]
    assert (first.owner, first.symbol, first.destination, first.kind) == ("ann", "AAPL", dead[0], "webhook")
    assert (first.target, first.disabled, first.error, first.finished) == (
        "https://ann.example.com",
        True,
        "answered 410 Gone",
        NOON,
    )
    assert "example.com" not in repr(first)
    assert [each.event for each in dead_letters(box.url, owner="bob")] == ["bob0", "bob1"]
    assert [each.event for each in dead_letters(box.url, destination=dead[0], limit=1)] == ["ann0"]
    assert [each.event for each in dead_letters(box.url, owner="ann", after=first.id)] == ["ann1"]


def test_a_replay_waits_for_the_destination_to_be_enabled(box, dead):
    letters = dead_letters(box.url, owner="ann")
    with pytest.raises(Conflict, match=f"destination {dead[0]} is disabled: enable it first"):
        replay(box.url, destination=dead[0])
    with pytest.raises(Conflict, match="enable it first"):
        replay(box.url, delivery=letters[0].id)
    assert replay(box.url, owner="ann") == 0
    assert enable(box.url, dead[0])
    assert not enable(box.url, dead[0])
    assert box.disabled(dead[0]) is None
    assert replay(box.url, delivery=letters[0].id, now=NOON) == 1
    assert replay(box.url, destination=dead[0], now=NOON) == 1
    assert replay(box.url, now=NOON) == 0
    assert box.row(letters[0].id, "state", "attempts", "finished", "due") == ("pending", 0, None, NOON)
    found = deliveries.claim(box.url, "one", 9, room=9, lease_s=60, now=NOON)
    assert [each.event.id for each in found] == ["ann0", "ann1"]


def test_nobody_replays_or_enables_what_is_anothers(box, dead):
    theirs = dead_letters(box.url, owner="ann")[0].id
    for asked in ({"delivery": theirs}, {"destination": dead[0]}):
        with pytest.raises(NotFound, match="there is no"):
            replay(box.url, owner="bob", **asked)
    with pytest.raises(NotFound, match=f"there is no destination {dead[0]}"):
        enable(box.url, dead[0], owner="bob")
    with pytest.raises(NotFound, match="there is no dead letter 999"):
        replay(box.url, delivery=999)
    enable(box.url, dead[0])
    enable(box.url, dead[1], owner="bob")
    assert replay(box.url, owner="bob") == 2
    assert box.count("dead") == 2
