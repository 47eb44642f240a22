"""Rate limits: kept to over any time, shared in turns, and set or lifted while they are in use."""

from __future__ import annotations

import math

import pytest

from aerogram import delivery
from aerogram.core.channel import ChannelSpec
from aerogram.core.pacing import BURST_SECONDS, Pacer, RateLimit
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair, Side

SPECS = [ChannelSpec("bulk", delivery.reliable()), ChannelSpec("urgent", delivery.reliable(), 1)]


def opened(seed: int = 0, link: Link | None = None) -> Pair:
    pair = Pair(SPECS, link=link or Link(delay=0.02), seed=seed)
    pair.open()
    return pair


class Meter:
    """When the client sent how much."""

    def __init__(self, pair: Pair) -> None:
        self.sent: list[tuple[float, int]] = []
        self._client = pair.client
        pair.on_packet = self._note

    def _note(self, side: Side, packet: bytes, now: float) -> None:
        if side is self._client:
            self.sent.append((now, len(packet)))

    def most_in(self, seconds: float) -> int:
        """The most bytes in any interval of this length."""
        most, first, total = 0, 0, 0
        for now, size in self.sent:
            total += size
            while self.sent[first][0] < now - seconds:
                total -= self.sent[first][1]
                first += 1
            most = max(most, total)
        return most


@pytest.mark.parametrize("rate", [5_000, 50_000, 1_000_000])
def test_a_session_keeps_to_its_limit_over_any_time(rate: int) -> None:
    pair = opened()
    pair.client.connection.limit_rate(RateLimit(rate))
    meter = Meter(pair)
    for _ in range(30 * rate // 1000):
        pair.client.send("bulk", bytes(1000))
    pair.run(seconds=10.0)
    sent = sum(size for _, size in meter.sent)
    assert sent == pytest.approx(10 * rate, rel=0.05, abs=2400)
    for seconds in (0.5, 1.0, 3.0):
        assert meter.most_in(seconds) <= rate * (seconds + BURST_SECONDS) + 1200


def test_what_is_sent_again_counts_too() -> None:
    pair = opened(link=Link(delay=0.02, loss=0.3), seed=2)
    pair.client.connection.limit_rate(RateLimit(50_000))
    meter = Meter(pair)
    for _ in range(300):
        pair.client.send("bulk", bytes(1000))
    assert pair.settle(120.0)
    assert len(pair.server.received) == 300
    assert meter.most_in(1.0) <= 50_000 * (1 + BURST_SECONDS) + 1200


def test_nothing_is_done_while_a_packet_waits_for_its_time() -> None:
    """No timer fires without need."""
    pair = opened()
    pair.client.connection.limit_rate(RateLimit(1000))
    for _ in range(10):
        pair.client.send("bulk", bytes(1000))
    pair.run(seconds=0.5)
    due = pair.client.endpoint.poll_timeout()
    assert due is not None
    assert due > pair.now + 0.1
    steps = 0
    step = pair._step

    def counted() -> None:
        nonlocal steps
        steps += 1
        step()

    pair._step = counted  # type: ignore[method-assign]
    pair.run(seconds=20.0)
    assert len(pair.server.received) == 10
    assert steps < 120


def test_acknowledgements_do_not_wait() -> None:
    pair = opened()
    pair.server.connection.limit_rate(RateLimit(100))
    for _ in range(5):
        pair.server.send("bulk", bytes(1000))
    message = pair.client.send("bulk", b"x")
    pair.run(lambda: message.outcome is not None, 1.0)
    assert message.outcome == "delivered"


def test_what_is_urgent_goes_first_under_a_limit() -> None:
    pair = opened()
    pair.client.connection.limit_rate(RateLimit(10_000))
    for _ in range(100):
        pair.client.send("bulk", bytes(1000))
    pair.run(seconds=1.0)
    pair.client.send("urgent", b"now")
    pair.run(lambda: bool(pair.server.payloads("urgent")), 5.0)
    assert len(pair.server.payloads("bulk")) <= 13


def test_a_limit_can_be_changed_and_lifted_at_any_time() -> None:
    pair = opened()
    limit = RateLimit(100)
    connection = pair.client.connection
    connection.limit_rate(limit)
    for _ in range(200):
        pair.client.send("bulk", bytes(1000))
    pair.run(seconds=5.0)
    assert len(pair.server.received) <= 2
    limit.bytes_per_second = 20_000
    connection.touch()
    pair.run(seconds=5.0)
    assert 80 <= len(pair.server.received) <= 110
    connection.lift_limit(limit)
    pair.run(seconds=0.5)
    assert len(pair.server.received) == 200
    connection.lift_limit(limit)


def test_many_share_a_limit_in_turns() -> None:
    limit = RateLimit(120_000)
    pacers = [Pacer(1200) for _ in range(10)]
    for pacer in pacers:
        pacer.add(limit)
    sent = [0] * 10
    asked = 0
    now = 1.0
    while now < 3.0:
        for index, pacer in enumerate(pacers):
            if pacer.waits_until is not None and pacer.waits_until > now:
                continue
            asked += 1
            if pacer.may_send(now):
                pacer.sent(1200, now)
                sent[index] += 1
        now = min(pacer.waits_until or now for pacer in pacers)
    assert sum(sent) == pytest.approx(200, abs=3)
    assert max(sent) - min(sent) <= 2
    assert asked < 3 * sum(sent)  # nobody asks in vain


def test_small_packets_give_back_what_they_do_not_need() -> None:
    limit = RateLimit(10_000)
    pacer = Pacer(1200)
    pacer.add(limit)
    sent, now = 0, 0.0
    while now < 10.0:
        if pacer.may_send(now):
            pacer.sent(100, now)
            sent += 100
        now = max(now, pacer.waits_until or now)
    assert sent == pytest.approx(100_000, rel=0.05)


def test_the_lowest_of_several_limits_rules() -> None:
    pacer = Pacer(1200)
    assert pacer.bytes_per_second == math.inf
    assert pacer.may_send(0.0)
    for rate in (5000, 2000, 9000):
        pacer.add(RateLimit(rate))
    assert pacer.bytes_per_second == 2000


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_that_is_none_raises(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RateLimit(rate)
