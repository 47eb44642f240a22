"""A peer that has the keys and means ill: it is stopped at a limit, and its session ends soon."""

from __future__ import annotations

from typing import Any

import pytest

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core import wire
from aerogram.core.connection import CONTROLS_LIMIT, State
from aerogram.core.delivery import InOrder
from aerogram.core.endpoint import STALE_TIMERS
from aerogram.core.memory import UNFINISHED_OVERHEAD_BYTES
from tests.core.vectors import encode_frame
from tests.fuzz.hostile import Hostile, open_session
from tests.fuzz.hosts import CONFIG
from tests.fuzz.steps import Step

NOW = Step(0)


def announced(name: str, code: str | None = None, identity: int = 0) -> bytes:
    return wire.encode_channel(identity, name, code or name)


def messages(first: int, *payloads: bytes, channel: int = 0) -> bytes:
    return encode_frame(wire.Messages(channel, first, [*payloads]))


def fragment(number: int, total: int, offset: int, data: bytes, channel: int = 0) -> bytes:
    return encode_frame(wire.Fragment(channel, number, total, offset, data))


def test_a_session_whose_first_packet_breaks_the_protocol_is_told_so() -> None:
    hostile = open_session(serves=True)
    hostile.say(wire.PING + b"\xff", NOW)
    assert hostile.connection.state is State.CLOSING
    assert hostile.connection.stats.packets_sent == 1
    hostile.host.finish()


@pytest.mark.parametrize("by_peer", [True, False])
def test_a_closed_session_is_forgotten_although_its_round_trips_are_long(by_peer: bool) -> None:
    hostile = open_session(serves=True)
    hostile.run([Step(7, b"\x00\x00\x05")])
    hostile.run([Step(0, wire.encode_ack(0, 0, [(0, 0)]), wait=7)])
    assert hostile.connection.rtt.smoothed > 10
    if by_peer:
        hostile.say(wire.encode_close(0, ""), NOW)
    hostile.host.finish()  # which fails if it is there after ten seconds


def test_a_peer_that_acknowledges_nothing_is_left() -> None:
    hostile = open_session(serves=True)
    hostile.run([Step(7, b"\x00\x00\x05")])
    hostile.run([Step(0, wire.PING, wait=7)] * 3)
    assert hostile.connection.state is State.CLOSED
    assert hostile.host.ended[0].reason == "the peer acknowledges nothing"


def test_a_peer_that_has_nothing_to_acknowledge_is_not_left() -> None:
    hostile = open_session(serves=True)
    for _ in range(10):
        hostile.run([Step(9, wire.PING, wait=7)])
    assert hostile.connection.state is State.OPEN


@pytest.mark.parametrize("in_fragments", [False, True])
def test_what_comes_again_on_an_unknown_channel_is_refused_once(in_fragments: bool) -> None:
    hostile = open_session(serves=True)
    frame = messages(0, b"", b"a")
    if in_fragments:
        frame = fragment(0, 300, 0, bytes(300)) + fragment(1, 300, 0, bytes(300))
    for _ in range(50):
        hostile.say(announced("nobody", "nothing/resent") + frame, NOW)
    [channel] = hostile.connection.receiver._channels.values()
    assert hostile.connection.stats.messages_received_refused == 2
    assert channel.consumed_cost == channel.arrived_cost
    assert hostile.host.messages == []


def test_refusals_that_nobody_takes_do_not_pile_up() -> None:
    hostile = open_session(serves=True)
    for number in range(100):
        hostile.say(announced("unreliable") + messages(200 * number, *[b"?"] * 200), NOW)
        hostile.say(wire.encode_path_challenge(bytes(8)), NOW)
    assert len(hostile.connection._sender.controls) == CONTROLS_LIMIT
    hostile.host.finish()


@pytest.mark.parametrize("name", ["ordered", "reliable"])
def test_numbers_that_never_come_use_up_the_credit(name: str) -> None:
    hostile = open_session(serves=True)
    gaps = 0
    while hostile.connection.state is State.OPEN:
        hostile.say(announced(name) + messages(2 * gaps, b"a"), NOW)
        hostile.run([Step(9)])  # so that the host's credit can leave
        gaps += 1
        assert gaps <= CONFIG.channel_window_bytes // MESSAGE_OVERHEAD_BYTES
    assert gaps > 100
    hostile.host.finish()


def test_refusals_of_one_packet_are_looked_up_together() -> None:
    hostile = open_session(serves=True)
    for size in (1, 2, 3):
        hostile.run([Step(7, bytes((1, 0, size)))] * 20)  # sixty packets with a message each
    sent = hostile.connection._sender.recovery.sent
    assert len(sent) == 60
    counted = hostile.connection._sender.recovery.sent = CountedDict(sent)
    numbers = [0, 7, 7, 59, 60, 1 << 60]
    refusals = [wire.encode_refuse(0, number, 2, f"no {number}") for number in numbers]
    hostile.say(b"".join([*refusals, wire.encode_refuse(9, 0, 2, "")]), NOW)
    assert counted.looks == 1
    assert hostile.connection.stats.messages_refused == 3
    assert hostile.connection.state is State.OPEN
    hostile.run([Step(9)])
    assert hostile.connection.stats.messages_delivered == 57


class CountedDict(dict[int, Any]):
    """Counts how often all of it is looked through."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


def test_gaps_that_were_given_up_are_kept_as_ranges() -> None:
    hostile = open_session(serves=True)
    for first in range(1, 5000, 20):
        skips = [wire.encode_skip(0, n, MESSAGE_OVERHEAD_BYTES) for n in range(first, first + 20)]
        hostile.say(announced("ordered") + b"".join(skips), NOW)
        hostile.run([Step(9)])  # so that the host's credit can leave
    [channel] = hostile.connection.receiver._channels.values()
    assert isinstance(channel._ordering, InOrder)
    assert len(channel._ordering._skipped) == 1
    hostile.say(messages(0, b"first") + messages(5001, b"last"), NOW)
    assert hostile.host.messages == [b"first", b"last"]


def test_unfinished_records_of_all_channels_share_one_budget() -> None:
    hostile = open_session(serves=True)
    for identity in range(8):
        hostile.say(announced("unreliable", identity=identity), NOW)
    for number in range(200):
        hostile.say(fragment(number, 30_000, 0, bytes(1000), channel=number % 8), NOW)
    held = hostile.connection.receiver._loose_bytes
    room = CONFIG.reassembly_bytes_per_session
    assert room - 1000 - UNFINISHED_OVERHEAD_BYTES <= held <= room
    assert hostile.connection.stats.messages_dropped_partial == 200 - held // (
        1000 + UNFINISHED_OVERHEAD_BYTES
    )
    hostile.say(fragment(199, 30_000, 1000, bytes(29_000), channel=7), NOW)
    assert hostile.host.messages == [bytes(30_000)]  # the newest is whole, older ones gave way
    hostile.host.wait(CONFIG.reassembly_timeout_seconds)
    assert hostile.connection.receiver._loose_bytes == 0
    hostile.host.finish()


def test_records_within_the_window_take_nothing_from_other_sessions() -> None:
    hostile = open_session(serves=True)
    for identity in range(8):
        frame = announced("ordered", identity=identity)
        hostile.say(frame + fragment(0, 8000, 0, bytes(7000), channel=identity), NOW)
    budget = hostile.host.endpoint._shared.budget.left_bytes
    assert budget == CONFIG.reassembly_bytes_per_endpoint
    hostile.host.finish()


def test_gaps_do_not_let_a_peer_fill_the_windows_of_all_channels() -> None:
    """What fills a gap is needed and taken, up to twice of what others may have unread."""
    hostile = open_session(serves=True)
    hostile.host.consumes = False
    memory = hostile.connection.receiver.memory
    memory.limit_bytes = 40_000  # the windows have 131 072
    for identity in range(8):
        hostile.say(announced("ordered", identity=identity), NOW)
    for number in [*range(1, 20, 2), *range(0, 20, 2)]:
        for identity in range(8):
            hostile.say(messages(number, bytes(700), channel=identity), NOW)
        assert memory.unread_bytes < 2 * memory.limit_bytes + 1000
    assert memory.unread_bytes > memory.limit_bytes
    assert hostile.connection.stats.packets_dropped_memory > 0
    assert hostile.connection.state is State.OPEN


def test_records_that_are_begun_are_taken_to_their_end() -> None:
    """They were counted as a whole when they began."""
    hostile = open_session(serves=True)
    hostile.host.consumes = False
    connection = hostile.connection
    memory = connection.receiver.memory
    for identity in range(8):
        hostile.say(announced("reliable", identity=identity), NOW)
    for number in (0, 1):
        for identity in range(8):
            hostile.say(fragment(number, 7000, 0, bytes(900), channel=identity), NOW)
    assert memory.limit_bytes <= memory.unread_bytes < memory.limit_bytes + 7032
    dropped = connection.stats.packets_dropped_memory
    assert dropped == 16 - -(-memory.limit_bytes // 7032)
    for channel in connection.receiver._channels.values():
        for number in [*channel.partial]:
            hostile.say(fragment(number, 7000, 900, bytes(6100), channel=channel.identity), NOW)
    assert connection.stats.packets_dropped_memory == dropped
    assert hostile.host.messages == [bytes(7000)] * (16 - dropped)


def test_timers_that_earlier_ones_replaced_do_not_pile_up() -> None:
    hostile = open_session(serves=True)
    for _ in range(2000):
        acknowledge_late(hostile)
    assert len(hostile.host.endpoint._timers) <= 2 + STALE_TIMERS
    hostile.host.finish()


def acknowledge_late(hostile: Hostile) -> None:
    """A packet whose acknowledgement has a timer of its own, which fires."""
    hostile.say(wire.encode_credit(0, 1), NOW)
    hostile.host.wait(0.006)
