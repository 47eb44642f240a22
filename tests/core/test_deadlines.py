"""Deadlines: a message that is worthless by now is neither sent, nor sent again, nor shown."""

from __future__ import annotations

import pytest

from aerogram import delivery
from aerogram.config import MESSAGE_OVERHEAD_BYTES, Config
from aerogram.core import wire
from aerogram.core.channel import ChannelSpec
from aerogram.core.incoming import DEADLINES_LIMIT
from aerogram.core.lifetimes import LONGEST_LIFETIME_MILLISECONDS
from aerogram.core.outgoing import Outcome
from aerogram.core.reminders import REBUILD_AFTER
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side

NAMES = ["unreliable", "sequenced", "reliable", "ordered", "reliable_sequenced"]
RESENT = ["reliable", "ordered", "reliable_sequenced"]


def opened(
    *, link: Link | None = None, seed: int = 0, config: Config | None = None, measured: bool = True
) -> Pair:
    """`measured`: the server has a round-trip time, which takes a packet of its own."""
    specs = [ChannelSpec(name, getattr(delivery, name)()) for name in NAMES]
    pair = Pair(specs, link=link or Link(delay=0.05), seed=seed, config=config)
    pair.open()
    if measured:
        pair.server.connection.ping()
        assert pair.settle()
    return pair


def frames_of(pair: Pair, kind: type[wire.Frame]) -> list[tuple[int, list[wire.Frame]]]:
    """From now on, the packets of the client with such frames, by size."""
    found: list[tuple[int, list[wire.Frame]]] = []

    def note(side: Side, packet: bytes, now: float) -> None:
        if side is pair.client and packet[0] & 0xFE == wire.DATA:
            frames = wire.decode_frames_untrusted(packet[wire.DATA_HEADER_BYTES : -4])
            if any(isinstance(frame, kind) for frame in frames):
                found.append((len(packet), frames))

    pair.on_packet = note
    return found


def deadlines(side: Side) -> dict[int, float]:
    [channel] = side.connection.receiver._channels.values()
    return channel.deadlines


@pytest.mark.parametrize("name", NAMES)
def test_a_handler_is_told_until_when_a_message_is_worth_something(name: str) -> None:
    pair = opened()
    pair.client.send(name, b"soon", deadline=pair.now + 0.2)
    pair.client.send(name, b"later", deadline=pair.now + 3.0)
    pair.client.send(name, b"always")
    sent_at = pair.now
    assert pair.run(lambda: len(pair.server.received) >= 1, 1.0)
    told = deadlines(pair.server)
    for number, due in ((0, 0.2), (1, 3.0)):
        if name == "reliable_sequenced":
            assert told == {}  # both are superseded by the last
        else:
            assert told[number] == pytest.approx(sent_at + due, abs=0.002)
    assert 2 not in told


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_comes_too_late_is_not_shown(name: str) -> None:
    pair = opened(link=Link(delay=0.05))
    late = pair.client.send(name, b"late", deadline=pair.now + 0.03)
    assert pair.settle()
    assert pair.server.received == []
    assert late.outcome is Outcome.EXPIRED
    assert pair.server.connection.stats.messages_expired_on_arrival == 1
    assert deadlines(pair.server) == {}
    pair.client.send(name, b"next")
    assert pair.settle()
    assert pair.server.payloads(name) == [b"next"]


def test_without_a_measured_round_trip_nothing_is_taken_off() -> None:
    pair = opened(link=Link(delay=0.05), measured=False)
    sent_at = pair.now
    pair.client.send("reliable", b"x", deadline=sent_at + 1.0)
    assert pair.run(lambda: bool(pair.server.received), 1.0)
    assert deadlines(pair.server)[0] == pytest.approx(sent_at + 1.05, abs=0.002)


def test_what_has_no_deadline_costs_nothing() -> None:
    pair = opened()
    found = frames_of(pair, wire.Lifetimes)
    for _ in range(100):
        pair.client.send("ordered", bytes(64))
    assert pair.settle()
    assert found == []


def test_messages_that_were_queued_together_share_one_lifetime() -> None:
    pair = opened()
    found = frames_of(pair, wire.Lifetimes)
    for _ in range(10):
        pair.client.send("ordered", bytes(64), deadline=pair.now + 0.25)
    pair.client.send("ordered", bytes(64))
    pair.client.send("ordered", bytes(64), deadline=pair.now + 1.0)
    assert pair.settle()
    [(_, frames)] = found
    [lifetimes] = [frame for frame in frames if isinstance(frame, wire.Lifetimes)]
    assert lifetimes.runs == [(10, 250), (1, 0), (1, 1000)]


def test_packets_with_lifetimes_are_no_larger_than_others() -> None:
    pair = opened()
    found = frames_of(pair, wire.Lifetimes)
    for value in range(2000):
        pair.client.send("ordered", bytes(value % 90), deadline=pair.now + 5 + value / 100)
    assert pair.settle()
    assert len(pair.server.received) == 2000
    assert max(size for size, _ in found) <= 1200
    assert len(found) < 150


def test_what_is_sent_again_says_what_is_left() -> None:
    pair = opened(link=Link(delay=0.05))
    found = frames_of(pair, wire.Lifetimes)
    pair.cut(0.01)
    sent_at = pair.now
    pair.client.send("ordered", b"x", deadline=sent_at + 2.0)
    assert pair.settle()
    lifetimes = [f for _, frames in found for f in frames if isinstance(f, wire.Lifetimes)]
    assert len(lifetimes) >= 2
    assert lifetimes[0].runs == [(1, 2000)]
    assert 1000 < lifetimes[-1].runs[0][1] < 1950
    [due] = deadlines(pair.server).values()
    assert due == pytest.approx(sent_at + 2.0, abs=0.01)


@pytest.mark.parametrize("name", RESENT)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_late_is_shown_on_a_bad_link(name: str, seed: int) -> None:
    pair = opened(link=Link(delay=0.04, jitter=0.02, loss=0.25, duplicate=0.1), seed=seed)
    start, count = pair.now, 400
    shown_late: list[float] = []

    def check(channel: str, number: int, payload: bytes, now: float) -> None:
        due = start + int(payload) * 0.005 + 0.15
        if now > due + 0.05:  # the estimate is off by half of what the round trip varies
            shown_late.append(now - due)

    pair.server.on_message = check
    for value in range(count):
        payload = str(value).encode()
        pair.at(
            start + value * 0.005,
            lambda p=payload: pair.client.send(name, p, deadline=pair.now + 0.15),
        )
    pair.run(lambda: pair.client.connection.stats.messages_sent == count, 10.0)
    assert pair.settle()
    assert shown_late == []
    stats = pair.client.connection.stats
    assert stats.messages_ended == count
    if name != "reliable_sequenced":
        assert 0 < stats.messages_expired < count / 2
    values = [int(payload) for payload in pair.server.payloads(name)]
    assert len(values) == len(set(values))
    assert len(values) > count / (5 if name == "ordered" else 3)
    if name != "reliable":
        assert values == sorted(values)


def test_an_expired_message_does_not_hold_up_those_after_it() -> None:
    pair = opened(link=Link(delay=0.02))
    pair.cut(0.05)
    lost = pair.client.send("ordered", b"0", deadline=pair.now + 0.1)
    pair.run(seconds=0.06)
    pair.client.send("ordered", b"1")
    pair.run(lambda: bool(pair.server.received), 0.3)
    assert pair.server.payloads("ordered") in ([b"1"], [b"0", b"1"])
    assert pair.settle()
    assert lost.outcome in (Outcome.EXPIRED, Outcome.DELIVERED)


def test_a_message_that_was_held_too_long_is_not_shown() -> None:
    """It waited for one before it, which came after the deadline."""
    pair = opened(link=Link(delay=0.02))
    pair.cut()
    pair.client.send("ordered", b"first")
    pair.run(seconds=0.001)
    pair.heal()
    pair.client.send("ordered", b"second", deadline=pair.now + 0.03)
    pair.client.send("ordered", b"third")
    assert pair.settle()
    assert pair.server.payloads("ordered") == [b"first", b"third"]
    assert pair.server.connection.stats.messages_expired_on_arrival == 1
    assert deadlines(pair.server) == {}


def test_a_record_has_its_deadline_too() -> None:
    pair = opened(link=Link(delay=0.02, loss=0.1), seed=4)
    start = pair.now
    pair.client.send("reliable", bytes(50_000), deadline=start + 2.0)
    assert pair.settle()
    assert [len(p) for p in pair.server.payloads("reliable")] == [50_000]
    assert deadlines(pair.server)[0] == pytest.approx(start + 2.0, abs=0.05)


@pytest.mark.parametrize("name", ["reliable", "ordered"])
def test_a_record_that_expires_half_way_is_given_up_at_both_ends(name: str) -> None:
    config = Config(congestion_window_bytes=20_000)
    pair = opened(link=Link(delay=0.05), config=config)
    record = pair.client.send(name, bytes(400_000), deadline=pair.now + 0.3)
    after = pair.client.send(name, b"after")
    assert pair.settle()
    assert (record.outcome, after.outcome) == (Outcome.EXPIRED, Outcome.DELIVERED)
    assert pair.server.payloads(name) == [b"after"]
    assert pair.client.connection.stats.bytes_sent < 200_000
    [channel] = pair.server.connection.receiver._channels.values()
    assert channel.partial == {}
    assert pair.server.endpoint._shared.budget.left_bytes == Config().reassembly_bytes_per_endpoint


@pytest.mark.parametrize("name", ["unreliable", "sequenced"])
def test_an_expired_record_in_the_queue_is_not_begun(name: str) -> None:
    config = Config(congestion_window_bytes=2000)
    pair = opened(config=config)
    pair.client.send(name, bytes(5000))
    pair.client.send(name, bytes(6000), deadline=pair.now + 0.05)
    pair.client.send(name, bytes(7000))
    assert pair.settle()
    assert [len(p) for p in pair.server.payloads(name)] == [5000, 7000]


def test_a_queue_gets_rid_of_what_expired() -> None:
    pair = opened()
    pair.cut()
    for _ in range(400):
        for _ in range(10):
            pair.client.send("ordered", bytes(100), deadline=pair.now + 0.02)
        pair.run(seconds=0.01)
    channel = pair.client.channel("ordered")
    assert len(channel.queue) < 200
    assert channel.queued_bytes < 200 * 100
    assert len(pair.client.connection._sender.repair.expiries.heap) <= REBUILD_AFTER
    assert pair.client.connection.stats.messages_expired > 3900


def test_deadlines_that_are_far_away_are_not_remembered_for_ever() -> None:
    pair = opened(link=Link(delay=0.001))
    for _ in range(50):
        for _ in range(200):
            pair.client.send("reliable", b"x", deadline=pair.now + 10_000.0)
        pair.run(seconds=0.1)
    assert len(pair.client.connection._sender.repair.expiries.heap) <= 2 * REBUILD_AFTER


def test_a_lifetime_of_weeks_is_one_without_end() -> None:
    pair = opened()
    found = frames_of(pair, wire.Lifetimes)
    longest = LONGEST_LIFETIME_MILLISECONDS / 1000
    pair.client.send("ordered", b"x", deadline=pair.now + 2 * longest)
    pair.client.send("ordered", b"y", deadline=pair.now + longest)
    assert pair.settle()
    [(_, frames)] = found
    [lifetimes] = [frame for frame in frames if isinstance(frame, wire.Lifetimes)]
    assert lifetimes.runs == [(1, 0), (1, LONGEST_LIFETIME_MILLISECONDS)]


def test_lifetimes_of_what_does_not_come_are_forgotten() -> None:
    pair = opened()
    pair.client.send("ordered", b"x", deadline=pair.now + 9.0)
    assert pair.settle()
    for _ in range(100):
        pair.client.connection._sender.controls.append(
            wire.encode_lifetimes(0, 1000, [(200, 60_000)])
        )
    pair.client.connection.touch()
    assert pair.settle()
    [channel] = pair.server.connection.receiver._channels.values()
    assert channel.lifetimes == {}
    assert [*channel.deadlines] == [0]


def test_entries_that_nobody_takes_out_are_bounded() -> None:
    config = Config(channel_window_bytes=1 << 23)
    pair = opened(link=Link(delay=0.001), config=config)
    pair.server.keeps_messages = False
    for _ in range(40):
        for _ in range(1000):
            pair.client.send("unreliable", b"", deadline=pair.now + 60.0)
        pair.run(seconds=0.02)
    assert pair.settle()
    assert pair.server.connection.stats.messages_received == 40_000
    assert len(deadlines(pair.server)) == DEADLINES_LIMIT


def test_what_was_late_is_consumed() -> None:
    config = Config(channel_window_bytes=8192)
    pair = opened(link=Link(delay=0.05), config=config)
    cost = 500 + MESSAGE_OVERHEAD_BYTES
    for _ in range(5 * 8192 // cost):
        pair.client.send("ordered", bytes(500), deadline=pair.now + 0.03)
        pair.run(seconds=0.2)
    pair.client.send("ordered", b"in time")
    assert pair.settle()
    assert pair.server.payloads("ordered") == [b"in time"]
