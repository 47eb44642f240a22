"""Many channels: each by itself, whatever becomes of the others, and free while it is idle."""

from __future__ import annotations

import sys
from random import Random
from types import FrameType
from typing import Any

import pytest

from aerogram import delivery
from aerogram.config import Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.errors import InvalidMessage
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair

CHANNELS = 300
WIDE = Config(channels_per_session=1000)
ROUNDS = 40


def spec(name: str, kind: str = "ordered") -> ChannelSpec:
    return ChannelSpec(name, getattr(delivery, kind)())


def test_hundreds_of_channels_keep_their_own_order() -> None:
    kinds = ["ordered", "reliable", "ordered"]
    specs = [spec(str(index), kinds[index % 3]) for index in range(CHANNELS)]
    link = Link(delay=0.03, jitter=0.02, loss=0.1, duplicate=0.1)
    pair = Pair(specs, link=link, seed=1, config=WIDE)
    pair.open()
    for value in range(20):
        for each in specs:
            pair.client.send(each.name, b"%d" % value)
            pair.server.send(each.name, b"%d" % value)
    assert pair.settle()
    for side in (pair.client, pair.server):
        for each in specs:
            values = [int(payload) for payload in side.payloads(each.name)]
            if each.delivery.code == "reliable":
                values.sort()
            assert values == [*range(20)]


def test_as_many_channels_as_promised_work_as_things_are() -> None:
    limit = Config().channels_per_session
    specs = [spec(str(index)) for index in range(limit + 1)]
    pair = Pair(specs)
    pair.open()
    for each in specs[:-1]:
        pair.client.send(each.name, b"x")
    with pytest.raises(InvalidMessage, match=f"{limit} channels"):
        pair.client.send(specs[-1].name, b"x")
    assert pair.settle()
    assert len(pair.server.received) == limit


def carries(packet: bytes, channel: int) -> bool:
    """True if a packet has messages of this channel and of no other."""
    frames = wire.decode_frames_untrusted(packet[wire.DATA_HEADER_BYTES : -4])
    found = {frame.channel for frame in frames if isinstance(frame, wire.Messages)}
    return found == {channel}


def deliveries(kind: str, *, lossy: bool) -> dict[str, list[tuple[int, float]]]:
    """(number, time) of what is shown on two channels, of which one loses every third packet."""
    pair = Pair([spec("a", kind), spec("b", kind)], link=Link(delay=0.05))
    pair.open()
    pair.client.send("a", b"")
    pair.client.send("b", b"")
    assert pair.settle()
    shown: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
    pair.server.on_message = lambda name, number, _, now: shown[name].append((number, now))
    if lossy:
        chance = Random(1)
        pair.loses = lambda side, packet: (
            side is pair.client and carries(packet, 0) and chance.random() < 0.3
        )
    start = round(pair.now + 1.0)
    for turn in range(ROUNDS):
        for name, offset in (("a", 0.0), ("b", 0.005)):
            at = start + turn * 0.01 + offset
            pair.at(at, lambda name=name: pair.client.send(name, bytes(700)))
    pair.run(seconds=10.0)
    assert (pair.client.connection.stats.packets_lost > 5) == lossy
    return shown


@pytest.mark.parametrize("kind", ["ordered", "reliable", "unreliable", "sequenced"])
def test_a_loss_on_one_channel_delays_another_by_nothing(kind: str) -> None:
    clean, lossy = deliveries(kind, lossy=False), deliveries(kind, lossy=True)
    assert len(clean["b"]) == ROUNDS
    assert lossy["b"] == clean["b"]  # the same messages at the same times
    assert lossy["a"] != clean["a"]


def test_a_channel_that_is_held_up_delays_no_other() -> None:
    """The whole of one channel is lost for a second; what is on the others comes as ever."""
    specs = [spec(str(index)) for index in range(256)]
    pair = Pair(specs, link=Link(delay=0.05), config=Config(congestion_window_bytes=1 << 24))
    pair.open()
    shown: dict[str, list[float]] = {}
    pair.server.on_message = lambda name, number, _, now: shown.setdefault(name, []).append(now)
    pair.cut()
    pair.client.send("0", b"lost")
    pair.run(seconds=0.0)
    pair.heal()
    start = pair.now
    for each in specs:
        pair.client.send(each.name, b"x")
    pair.run(seconds=0.06)
    assert set(shown) == {each.name for each in specs} - {"0"}
    assert all(times == [pytest.approx(start + 0.05)] for times in shown.values())
    assert pair.settle()
    assert pair.server.payloads("0") == [b"lost", b"x"]


def steps_of(idle: int) -> int:
    """Lines of the core that run for fifty exchanges, beside so many channels that were used."""
    specs = [spec(f"{index:05}", "reliable") for index in range(idle)]
    pair = Pair([spec("busy"), *specs], link=Link(delay=0.01), config=WIDE)
    pair.open()
    for each in specs:
        pair.client.send(each.name, b"x")
        pair.server.send(each.name, b"x")
    pair.client.send("busy", b"x")
    pair.server.send("busy", b"x")
    assert pair.settle()
    # Away from what comes in every so many messages or seconds.
    pair.run(seconds=1.0)
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if "aerogram/core" in frame.f_code.co_filename.replace("\\", "/"):
            lines += 1
            return trace
        return None

    for _ in range(50):
        pair.client.send("busy", bytes(200))
        pair.server.send("busy", bytes(200))
        sys.settrace(trace)
        try:
            pair.run(seconds=0.1)
        finally:
            sys.settrace(None)
    return lines


@pytest.mark.skipif(not wire.__file__.endswith(".py"), reason="compiled code has no lines")
def test_a_packet_costs_the_same_beside_any_number_of_idle_channels() -> None:
    few, many = steps_of(2), steps_of(500)
    assert few > 5000
    assert many == pytest.approx(few, rel=0.02)
