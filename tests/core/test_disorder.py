"""Networks that change the order of packets: what was overtaken is not what was lost."""

from __future__ import annotations

import pytest

from aerogram import delivery
from aerogram.config import Config
from aerogram.core.channel import ChannelSpec
from aerogram.core.outgoing import Outcome
from aerogram.core.recovery import (
    DOUBTFUL_LIMIT,
    LARGEST_PACKET_THRESHOLD,
    PACKET_THRESHOLD,
    TIME_THRESHOLD,
)
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair

JITTERY = Link(delay=0.01, jitter=0.01)
LATE = Link(delay=0.02, reorder=0.1, reorder_delay=0.03)
LOSSY = Link(delay=0.02, loss=0.05)
SPECS = [
    ChannelSpec(name, getattr(delivery, name)()) for name in ("unreliable", "reliable", "ordered")
]


def opened(link: Link, *, seed: int = 0, config: Config | None = None) -> Pair:
    pair = Pair(SPECS, link=link, seed=seed, config=config)
    pair.open()
    return pair


def flow(pair: Pair, name: str, count: int, size: int = 1000) -> None:
    """Send at a steady rate, and wait for the end."""
    start = pair.now
    for value in range(count):
        payload = value.to_bytes(4, "big") + bytes(size)
        pair.at(start + value * 0.0005, lambda payload=payload: pair.client.send(name, payload))
    sent = pair.client.connection.stats.messages_sent + count
    assert pair.run(lambda: pair.client.connection.stats.messages_sent == sent, 60.0)
    assert pair.settle()


def thresholds(pair: Pair) -> tuple[int, float]:
    recovery = pair.client.connection._sender.recovery
    return recovery._packet_threshold, recovery._time_threshold


@pytest.mark.parametrize("link", [JITTERY, LATE], ids=["jitter", "late"])
@pytest.mark.parametrize("seed", range(3))
def test_little_is_sent_again_for_nothing(link: Link, seed: int) -> None:
    pair = opened(link, seed=seed)
    flow(pair, "ordered", 2000)
    assert len(pair.server.received) == 2000
    assert pair.client.connection.stats.messages_resent < 150
    assert pair.client.connection.stats.bytes_sent < 1.25 * 2000 * 1004


@pytest.mark.parametrize("link", [JITTERY, LATE], ids=["jitter", "late"])
def test_what_arrived_late_is_not_called_lost(link: Link) -> None:
    pair = opened(link, seed=1)
    flow(pair, "unreliable", 1000)
    stats = pair.client.connection.stats
    assert len(pair.server.received) == 1000
    assert stats.packets_overtaken > 5
    assert (stats.messages_delivered, stats.messages_lost) == (1000, 0)


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_are_what_became_of_messages(seed: int) -> None:
    """With losses as well: to the message."""
    pair = opened(Link(delay=0.01, jitter=0.01, loss=0.1), seed=seed)
    flow(pair, "unreliable", 1000)
    stats = pair.client.connection.stats
    shown = len(pair.server.received)
    assert stats.messages_delivered + stats.messages_lost == 1000
    assert stats.messages_delivered == pytest.approx(shown, abs=10)  # acknowledgements get lost


def test_a_message_that_was_overtaken_is_not_sent_again_if_that_can_be() -> None:
    """It waits to be sent again when the news comes that it has arrived."""
    pair = opened(Link(delay=0.02))
    assert pair.settle()
    sender = pair.client.connection._sender
    message = pair.client.send("reliable", b"x")
    pair.run(seconds=0.0)
    [packet] = sender.recovery.sent.values()
    sender.recovery.largest_acked = packet.number + PACKET_THRESHOLD
    sender.repair.detect_lost(pair.now)
    assert message.awaits_resend
    sender.recovery.largest_acked = packet.number - 1
    sender.schedule.levels.clear()  # it cannot leave now
    assert pair.run(lambda: message.outcome is not None, 1.0)
    assert message.outcome is Outcome.DELIVERED
    assert message.attempts == 1
    assert pair.client.connection.stats.packets_overtaken == 1


def test_a_network_that_keeps_order_again_is_believed_again() -> None:
    pair = opened(LATE)
    flow(pair, "reliable", 2000)
    raised = thresholds(pair)
    assert raised[0] > 10 * PACKET_THRESHOLD
    pair.links[0].link = LOSSY
    flow(pair, "reliable", 4000)
    packets, seconds = thresholds(pair)
    assert packets <= 2 * PACKET_THRESHOLD
    assert seconds < TIME_THRESHOLD + 0.1


def test_what_is_really_lost_is_sent_again_as_soon_as_ever() -> None:
    pair = opened(Link(delay=0.05))
    lost: list[int] = []
    pair.loses = lambda side, packet: (
        side is pair.client and len(packet) > 1000 and not lost and not lost.append(1)
    )
    message = pair.client.send("reliable", bytes(1000))
    started = pair.now
    pair.run(seconds=0.0)
    for _ in range(4):
        pair.client.send("reliable", bytes(1000))
        pair.run(seconds=0.001)
    assert pair.settle()
    assert message.outcome is Outcome.DELIVERED
    assert message.last_sent_at - started < 0.12  # a round trip and a few milliseconds


def test_an_unreliable_message_that_is_lost_is_known_to_be_in_time() -> None:
    pair = opened(Link(delay=0.05))
    pair.cut()
    lost = pair.client.send("unreliable", b"x")
    pair.run(seconds=0.001)
    pair.heal()
    for _ in range(5):
        pair.client.send("unreliable", b"y")
        pair.run(seconds=0.001)
    assert lost.outcome is None
    assert pair.run(lambda: lost.outcome is not None, 1.0)
    assert lost.outcome is Outcome.LOST
    assert pair.client.connection.messages_in_flight == 0


def test_doubts_are_bounded_and_end() -> None:
    config = Config(congestion_window_bytes=1 << 24, channel_window_bytes=1 << 24)
    pair = opened(Link(delay=0.05), config=config)
    pair.cut()
    for _ in range(4000):
        pair.client.send("unreliable", bytes(1000))
    pair.run(seconds=0.0)
    pair.heal()
    recovery = pair.client.connection._sender.recovery
    most = 0
    for _ in range(200):
        pair.client.send("unreliable", b"x")
        pair.run(seconds=0.005)
        most = max(most, len(recovery.doubtful))
        stats = pair.client.connection.stats
        in_flight = pair.client.connection.messages_in_flight
        assert stats.messages_sent == stats.messages_ended + in_flight
    assert most <= DOUBTFUL_LIMIT
    assert pair.settle()
    assert recovery.doubtful == {}
    assert pair.client.connection.stats.messages_lost == 4000
    assert recovery._packet_threshold <= LARGEST_PACKET_THRESHOLD


def test_a_session_that_closes_waits_for_no_doubt_about_what_is_sent_again() -> None:
    pair = opened(Link(delay=0.05))
    pair.cut()
    pair.client.send("reliable", b"x")
    pair.run(seconds=0.001)
    pair.heal()
    for _ in range(5):
        pair.client.send("reliable", b"y")
        pair.run(seconds=0.001)
    assert pair.run(lambda: len(pair.server.received) == 6, 1.0)
    assert pair.run(lambda: pair.client.connection.is_drained, 0.06)
