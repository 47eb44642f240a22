"""The two policies of the example: a retry with a backoff and an end, and the newest per key."""

from __future__ import annotations

import importlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from aerogram.core.channel import ChannelSpec
from aerogram.core.outgoing import Outcome
from aerogram.lab.conformance import examine
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("custom_delivery")


def test_the_example_runs() -> None:
    finished = subprocess.run(
        [sys.executable, "custom_delivery.py"], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    arrived, superseded = finished.stdout.splitlines()
    assert arrived == "10 of 10 alarms arrived, positions are {'alice': 9.9, 'bob': -9.9}"
    assert "were superseded, 0 lost" in superseded


@pytest.mark.parametrize("name", ["BACKOFF", "NEWEST"])
def test_both_keep_what_they_promise(example: ModuleType, name: str) -> None:
    assert examine(getattr(example, name)) == []


def test_a_backoff_waits_twice_as_long_each_time_and_ends(example: ModuleType) -> None:
    pair = Pair([ChannelSpec("alarms", example.ALARMS.delivery)], link=Link(delay=0.05))
    pair.open()
    assert pair.settle()
    times: list[float] = []
    pair.on_packet = lambda side, packet, now: times.append(now) if len(packet) > 500 else None
    pair.cut()
    message = pair.client.send("alarms", bytes(600))
    sent_at = pair.now
    pair.run(seconds=10.0)
    first, second = [after - before for before, after in pairwise(times)]
    assert second == pytest.approx(2 * first, rel=0.05)
    assert times[-1] < sent_at + 2.0
    assert message.outcome is Outcome.LOST


def test_positions_are_the_newest_of_each_name(example: ModuleType) -> None:
    def position(data: bytes) -> object:
        return example.Position(data[:1].decode(), float(data[1:]))

    spec = ChannelSpec("positions", example.POSITIONS.delivery, view=position)
    pair = Pair([spec], link=Link(delay=0.03, jitter=0.03, loss=0.2), seed=2)
    pair.open()
    for value in range(400):
        data = b"%c%d" % (b"ab"[value % 2], value)
        pair.at(pair.now + value * 0.005, lambda data=data: pair.client.send("positions", data))
    pair.run(lambda: pair.client.connection.stats.messages_sent == 400, 10.0)
    assert pair.settle()
    for name, last in (("a", 398.0), ("b", 399.0)):
        shown = [p.x for p in pair.server.payloads("positions") if p.name == name]
        assert shown == sorted(set(shown))
        assert shown[-1] == last
    assert pair.client.connection.stats.messages_superseded > 50
