from __future__ import annotations

import random

from aerogram.core.recovery import Recovery, SentPacket


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
