from __future__ import annotations

import random

import pytest

from aerogram.lan.stream import assembly as assembly_module
from aerogram.lan.stream import wire
from aerogram.lan.stream.assembly import (
    AsItArrives,
    Assembly,
    Gap,
    GapReason,
    InOrder,
    Item,
    Numbered,
)
from aerogram.lan.stream.history import History, Waiting
from aerogram.lan.stream.wire import Segment

LIMIT = 1 << 20


def cut(payloads: list[bytes], datagram_bytes: int = 1200) -> tuple[list[Segment], History]:
    """What a sender makes of messages."""
    waiting, history = Waiting(datagram_bytes), History()
    for payload in payloads:
        waiting.put(payload)
    while waiting:
        sent, messages = waiting.next_body(history.next, history.next_message)
        assert len(sent.body) + wire.OVERHEAD_BYTES <= datagram_bytes
        history.add(sent)
        history.next_message += messages
    assert waiting.queued_bytes == 0
    return [wire.decode_segment(history[n].body) for n in range(history.next)], history


def mixed(seed: int, count: int = 60) -> list[bytes]:
    chance = random.Random(seed)
    return [b"%d:" % n + bytes(chance.choice([0, 10, 400, 1100, 1160, 5000])) for n in range(count)]


def numbers(items: list[Item]) -> list[int]:
    return [item.number for item in items if isinstance(item, Numbered)]


def settled(items: list[Item]) -> list[int]:
    """All numbers that came out, as messages or lost."""
    found: list[int] = []
    for item in items:
        if isinstance(item, Gap):
            assert item.count == item.last - item.first + 1
            found += range(item.first, item.last + 1)
        else:
            found.append(item.number)
    return found


@pytest.mark.parametrize("make", [InOrder, AsItArrives])
@pytest.mark.parametrize("seed", range(5))
def test_every_message_comes_once_whatever_the_order(make: type[Assembly], seed: int) -> None:
    payloads = mixed(seed)
    segments, history = cut(payloads)
    random.Random(seed).shuffle(segments)
    assembly = make(0, 0, LIMIT)  # type: ignore[call-arg]
    items = [item for segment in segments for item in assembly.take(segment)]
    if make is InOrder:
        assert numbers(items) == [*range(len(payloads))]
    assert sorted(items) == [Numbered(n, payload) for n, payload in enumerate(payloads)]
    assert assembly.held_bytes == 0
    assert assembly.give_up_below(history.next, history.next_message, GapReason.ENDED) == []


@pytest.mark.parametrize("make", [InOrder, AsItArrives])
@pytest.mark.parametrize("seed", range(10))
def test_what_is_lost_comes_out_as_gaps_and_nothing_twice(make: type[Assembly], seed: int) -> None:
    chance = random.Random(seed)
    payloads = mixed(seed)
    segments, history = cut(payloads)
    starts = [n for n in range(history.next) if history[n].starts] + [history.next]
    lost = {n for n in range(history.next) if chance.random() < 0.2}
    assembly = make(0, 0, LIMIT)  # type: ignore[call-arg]
    items: list[Item] = []
    for segment in segments:
        if segment.sequence not in lost:
            items += assembly.take(segment)
        if chance.random() < 0.2:  # the sender holds no more than what begins here
            oldest = chance.choice([s for s in starts if s <= segment.sequence] or [0])
            message = history[oldest].message
            items += assembly.give_up_below(oldest, message, GapReason.EVICTED)
    items += assembly.give_up_below(history.next, history.next_message, GapReason.ENDED)
    came_out = settled(items)
    if make is InOrder:
        assert came_out == [*range(len(payloads))]
    assert sorted(came_out) == [*range(len(payloads))]
    whole = {
        n
        for n in range(len(payloads))
        if not any(s.sequence in lost for s in segments if s.message <= n < s.next_message)
    }
    assert {*numbers(items)} == whole
    assert assembly.held_bytes == 0


@pytest.mark.parametrize("make", [InOrder, AsItArrives])
def test_a_message_beyond_the_limit_is_given_up(make: type[Assembly]) -> None:
    segments, history = cut([bytes(50_000), b"next"])
    assembly = make(0, 0, 49_999)  # type: ignore[call-arg]
    items = [item for segment in segments for item in assembly.take(segment)]
    items += assembly.give_up_below(history.next, history.next_message, GapReason.ENDED)
    assert numbers(items) == [1]
    assert sorted(settled(items)) == [0, 1]
    assert assembly.held_bytes == 0


def test_relief_gives_up_the_first_gap() -> None:
    segments, _ = cut([bytes(1000) for _ in range(6)])
    assembly = InOrder(0, 0, LIMIT)
    for segment in (segments[2], segments[3], segments[5]):
        assert assembly.take(segment) == []
    sequence, items = assembly.relieve()
    assert sequence == 2
    assert items[0] == Gap(0, 1, 2, GapReason.OVERRUN)
    assert numbers(items) == [2, 3]


def test_relief_forgets_the_oldest_unfinished_message() -> None:
    segments, _ = cut([bytes(3000), bytes(3000)])
    assembly = AsItArrives(0, 0, LIMIT)
    for segment in segments[:2] + segments[3:5]:
        assembly.take(segment)
    before = assembly.held_bytes
    assert assembly.relieve() == (0, [])
    assert 0 < assembly.held_bytes < before
    assert assembly.give_up_below(9, 2, GapReason.ENDED) == [Gap(0, 1, 2, GapReason.ENDED)]
    assert assembly.held_bytes == 0


def test_messages_with_numbers_of_nobody_are_not_shown() -> None:
    in_order, arriving = InOrder(0, 5, LIMIT), AsItArrives(0, 5, LIMIT)
    stale = Segment(0, 3, [b"before this receiver joined"])
    assert in_order.take(stale) == []
    assert arriving.take(stale) == []
    again = Segment(1, 5, [b"5"])
    assert numbers(arriving.take(again)) == [5]
    assert arriving.take(again) == []


def test_what_was_shown_out_of_order_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly_module, "SHOWN_RANGES_LIMIT", 3)
    arriving = AsItArrives(0, 0, LIMIT)
    items = [item for n in range(1, 20, 2) for item in arriving.take(Segment(n, n, [b"x"]))]
    assert len(arriving._shown) <= 3
    items += arriving.give_up_below(20, 20, GapReason.ENDED)
    assert sorted(settled(items)) == [*range(20)]
