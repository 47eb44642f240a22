"""Round-trip times are estimated as RFC 9002 section 5 says, and losses told as section 6 does."""

from __future__ import annotations

import pytest

from aerogram.core.recovery import (
    GRANULARITY_SECONDS,
    Recovery,
    Rtt,
    SentPacket,
)

MAX_ACK_DELAY_SECONDS = 0.005


def recovery_with(*sent_at: float) -> Recovery:
    """One with a packet in flight for each of these times, numbered from 0."""
    recovery = Recovery(0.1, MAX_ACK_DELAY_SECONDS)
    for number, when in enumerate(sent_at):
        send(recovery, number, when)
    return recovery


def send(recovery: Recovery, number: int, when: float) -> None:
    packet = SentPacket(number, when)
    packet.ack_eliciting = True
    packet.size = 100
    recovery.packet_sent(packet)


def test_the_first_sample_is_taken_as_it_is() -> None:
    rtt = Rtt(0.1)
    assert (rtt.smoothed, rtt.variation) == (0.1, 0.05)
    rtt.update(0.2, 0.05)
    assert (rtt.latest, rtt.minimum, rtt.smoothed, rtt.variation) == (0.2, 0.2, 0.2, 0.1)
    assert rtt.probe_timeout == pytest.approx(0.2 + 4 * 0.1)


def test_further_samples_are_smoothed_without_the_delay_of_the_peer() -> None:
    rtt = Rtt(0.1)
    rtt.update(0.2, 0.0)
    rtt.update(0.3, 0.04)
    assert rtt.latest == 0.3
    assert rtt.minimum == 0.2
    assert rtt.variation == pytest.approx(3 / 4 * 0.1 + 1 / 4 * (0.26 - 0.2))
    assert rtt.smoothed == pytest.approx(7 / 8 * 0.2 + 1 / 8 * 0.26)


def test_a_delay_that_would_leave_less_than_the_shortest_is_not_believed() -> None:
    rtt = Rtt(0.1)
    rtt.update(0.2, 0.0)
    rtt.update(0.21, 0.04)
    assert rtt.smoothed == pytest.approx(7 / 8 * 0.2 + 1 / 8 * 0.21)
    rtt.update(0.15, 0.04)
    assert rtt.minimum == 0.15


def test_a_steady_path_is_probed_after_no_less_than_the_granularity() -> None:
    rtt = Rtt(0.1)
    for _ in range(200):
        rtt.update(0.05, 0.0)
    assert rtt.probe_timeout == pytest.approx(0.05 + GRANULARITY_SECONDS)


def test_only_the_largest_number_gives_a_sample_and_only_once() -> None:
    recovery = recovery_with(0.0, 1.0, 2.0)
    recovery.acknowledged([(0, 2)], 0.0, 3, 2.2)
    assert recovery.rtt.latest == pytest.approx(0.2)
    send(recovery, 3, 3.0)
    send(recovery, 4, 3.0)
    recovery.acknowledged([(4, 4)], 0.0, 5, 3.1)
    recovery.acknowledged([(3, 4)], 0.0, 5, 9.0)
    assert recovery.rtt.latest == pytest.approx(0.1)


def test_a_peer_has_waited_no_longer_than_it_may() -> None:
    recovery = recovery_with(0.0, 1.0)
    recovery.acknowledged([(0, 0)], 0.0, 2, 0.1)
    recovery.acknowledged([(0, 1)], 0.19, 2, 1.3)
    smoothed = 7 / 8 * 0.1 + 1 / 8 * (0.3 - MAX_ACK_DELAY_SECONDS)
    assert recovery.rtt.smoothed == pytest.approx(smoothed)


def test_a_packet_is_lost_once_the_third_after_it_has_arrived() -> None:
    recovery = recovery_with(*[0.0] * 5)
    recovery.acknowledged([(2, 2)], 0.0, 5, 0.1)
    assert recovery.detect_lost(0.1) == []
    recovery.acknowledged([(3, 3)], 0.0, 5, 0.1)
    assert [packet.number for packet in recovery.detect_lost(0.1)] == [0]


def test_a_packet_is_lost_once_later_ones_have_arrived_for_long_enough() -> None:
    recovery = recovery_with(0.0, 0.0, 0.0)
    recovery.acknowledged([(1, 1)], 0.0, 3, 0.1)
    due = 9 / 8 * 0.1
    assert recovery.detect_lost(due - 0.001) == []
    assert recovery.deadline() == pytest.approx(due)
    assert [packet.number for packet in recovery.detect_lost(due)] == [0]
    assert [*recovery.sent] == [2], "nothing later than it has arrived"
