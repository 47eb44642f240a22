from __future__ import annotations

import random

import pytest

from aerogram.core.recovery import LONGEST_PTO_SECONDS, Recovery, SentPacket


def test_each_probe_waits_twice_as_long_as_the_one_before_up_to_a_limit() -> None:
    recovery = Recovery(0.1, 0.005)
    packet = SentPacket(0, 100.0)
    packet.ack_eliciting = True
    recovery.packet_sent(packet)
    first = recovery.probe_timeout()
    waits: list[float] = []
    for recovery.pto_count in range(40):
        due = recovery.probe_at()
        assert due is not None
        waits.append(due - recovery.last_eliciting_at)
    expected = [min(first * 2**count, LONGEST_PTO_SECONDS) for count in range(40)]
    assert waits == pytest.approx(expected)
    assert recovery.acknowledged([(0, 0)], 0.0, 1, 100.1) == [packet]
    assert recovery.pto_count == 0, "an answer ends the backoff"


def test_a_packet_is_lost_when_its_timer_fires_exactly_on_time() -> None:
    drawn = random.Random(1)
    for _ in range(1000):
        recovery = Recovery(0.1, 0.005)
        sent_at = 100.0 * drawn.random()
        for number in range(2):
            packet = SentPacket(number, sent_at)
            packet.ack_eliciting = True
            packet.size = 100
            recovery.packet_sent(packet)
        recovery.acknowledged([(1, 1)], 0.0, 2, sent_at + drawn.random())
        assert not recovery.detect_lost(sent_at)
        due = recovery.deadline()
        assert due is not None
        assert [packet.number for packet in recovery.detect_lost(due)] == [0]
