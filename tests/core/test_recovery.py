"""Acknowledgements: whatever their ranges claim, the work is bounded by what is in flight."""

from __future__ import annotations

import random
import sys

import pytest

from aerogram.core.recovery import Recovery, SentPacket
from aerogram.errors import DecodeError


class CountedPackets(dict[int, SentPacket]):
    """Packets in flight that count how often they are asked for one."""

    looks = 0

    def pop(self, *arguments: object) -> object:
        self.looks += 1
        return super().pop(*arguments)


def recovery_with(numbers: list[int]) -> Recovery:
    recovery = Recovery(0.1, 0.005)
    recovery.sent = CountedPackets()
    for number in numbers:
        packet = SentPacket(number, 1.0)
        packet.ack_eliciting = True
        packet.size = 100
        recovery.packet_sent(packet)
    return recovery


def test_a_wide_range_costs_no_more_than_the_packets_in_flight() -> None:
    end = 1 << 40
    recovery = recovery_with([5, end - 3, end - 2])
    assert recovery.acknowledged([(6, end - 4)], 0.0, end, 2.0) == []
    newly = recovery.acknowledged([(end - 2, end - 1), (0, end - 4)], 0.0, end, 2.0)
    assert [packet.number for packet in newly] == [5, end - 2]
    assert [*recovery.sent] == [end - 3]
    assert recovery.bytes_in_flight == 100
    assert recovery.sent.looks <= 3


@pytest.mark.parametrize("sparse", [1, 3, 40])
def test_ranges_acknowledge_exactly_the_packets_that_they_cover(sparse: int) -> None:
    drawn = random.Random(sparse)
    for _ in range(300):
        numbers = sorted(drawn.sample(range(60 * sparse), 30))
        bounds = sorted(drawn.sample(range(60 * sparse), 2 * drawn.randint(1, 10)), reverse=True)
        ranges = [*zip(bounds[1::2], bounds[::2], strict=True)]
        recovery = recovery_with(numbers)
        newly = recovery.acknowledged(ranges, 0.0, 60 * sparse, 2.0)
        covered = {n for n in numbers for low, high in ranges if low <= n <= high}
        assert {packet.number for packet in newly} == covered
        assert {*recovery.sent} == {*numbers} - covered


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    recovery = recovery_with([0, 1, 2])
    with pytest.raises(DecodeError):
        recovery.acknowledged([(0, 3)], 0.0, 3, 2.0)
    assert len(recovery.sent) == 3


def test_tables_give_their_memory_back_once_nothing_is_in_flight() -> None:
    count = 5000
    recovery = recovery_with([*range(count)])
    recovery.sent = dict(recovery.sent)
    for number in range(1, count, 2):
        recovery.acknowledged([(number, number)], 0.0, count, 1.0)
    recovery.detect_lost(2.0)
    assert sys.getsizeof(recovery.doubtful) > 10_000
    recovery.end_doubts(10.0)
    assert not recovery.sent
    assert sys.getsizeof(recovery.doubtful) == sys.getsizeof({})
    recovery.acknowledged([(count, count)], 0.0, count + 1, 10.0)
    for number in range(count, 3 * count):
        packet = SentPacket(number, 11.0)
        recovery.packet_sent(packet)
    assert sys.getsizeof(recovery.sent) > 100_000
    recovery.acknowledged([(count, 3 * count - 1)], 0.0, 3 * count, 12.0)
    assert sys.getsizeof(recovery.sent) == sys.getsizeof({})
