"""From segments to messages, in order or as they arrive, and gaps where messages are lost for good.

Both classes take each segment once, in any order. `give_up_below` says that what has not come by
now never will. Every message number from the start on comes out once, as itself or within a `Gap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from aerogram.core.ranges import RangeSet
from aerogram.lan.stream.gaps import GAPS_LIMIT
from aerogram.lan.stream.wire import Segment

SHOWN_RANGES_LIMIT: Final = 2 * GAPS_LIMIT
"""Runs of messages that were shown out of order; beyond, the oldest that lack are given up."""


class GapReason(StrEnum):
    """Why messages were lost."""

    EVICTED = "evicted"
    """The sender holds them no more."""
    OVERRUN = "overrun"
    """This program was too slow to take them, or they waited behind a gap for too long."""
    ENDED = "ended"
    """The sender is gone, or no longer lets this receiver in."""
    UNDECODABLE = "undecodable"
    """The sender's program sent what this one cannot read."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that were sent and will never come. It stands where they would have."""

    first: int
    """Number of the first; the sender counts its messages from 0."""
    last: int
    count: int
    """How many of `first` to `last`: all of them, or fewer where messages come out of order."""
    reason: GapReason


class Numbered(NamedTuple):
    """A message with its number."""

    number: int
    payload: bytes


Item = Numbered | Gap


class Assembly(Protocol):
    """What becomes of segments."""

    held_bytes: int
    """What waits for other segments."""

    def take(self, segment: Segment) -> list[Item]:
        """Return what can be shown, now that this has come."""
        ...

    def give_up_below(self, sequence: int, message: int, reason: GapReason) -> list[Item]:
        """Return what can be shown, now that nothing below this can come any more.

        `message` is the number of the first message that begins at `sequence` or after it.
        """
        ...

    def relieve(self) -> tuple[int, list[Item]]:
        """Hold less: give something up. Returns what `give_up_below` does, and its `sequence`."""
        ...


class InOrder:
    """Messages in the order of their numbers, with every gap where it is."""

    def __init__(self, sequence: int, message: int, max_message_bytes: int) -> None:
        self.held_bytes = 0
        self._sequence = sequence
        self._message = message
        self._max_message_bytes = max_message_bytes
        self._held: dict[int, Segment] = {}
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0

    def take(self, segment: Segment) -> list[Item]:
        """As `Assembly.take`."""
        if segment.sequence != self._sequence:
            self._held[segment.sequence] = segment
            self.held_bytes += segment.cost
            return []
        items: list[Item] = []
        self._consume(segment, items, GapReason.EVICTED)
        self._consume_held(items, GapReason.EVICTED)
        return items

    def give_up_below(self, sequence: int, message: int, reason: GapReason) -> list[Item]:
        """As `Assembly.give_up_below`."""
        items: list[Item] = []
        for each in sorted(s for s in self._held if s < sequence):
            self._skip_to(each)
            self._consume(self._pop(each), items, reason)
        if self._sequence < sequence:
            self._skip_to(sequence)
        if self._message < message and self._sequence == sequence:
            self._show_gap(message, items, reason)
        self._consume_held(items, reason)
        return items

    def relieve(self) -> tuple[int, list[Item]]:
        """As `Assembly.relieve`: what lies before the first segment that waits is given up."""
        first = self._held[min(self._held)]
        items = self.give_up_below(first.sequence, first.message, GapReason.OVERRUN)
        return first.sequence, items

    def _pop(self, sequence: int) -> Segment:
        segment = self._held.pop(sequence)
        self.held_bytes -= segment.cost
        return segment

    def _consume_held(self, items: list[Item], reason: GapReason) -> None:
        while self._sequence in self._held:
            self._consume(self._pop(self._sequence), items, reason)

    def _skip_to(self, sequence: int) -> None:
        if sequence > self._sequence:
            self._sequence = sequence
            self._drop_pieces()

    def _consume(self, segment: Segment, items: list[Item], reason: GapReason) -> None:
        """Show what is in the next segment, which may begin after a gap."""
        self._sequence += 1
        if segment.message > self._message:
            self._show_gap(segment.message, items, reason)
        if segment.message < self._message:
            return  # numbered by no sender of ours
        if segment.pieces:
            self._consume_fragment(segment, items)
            return
        self._drop_pieces()
        for payload in segment.payloads:
            items.append(Numbered(self._message, payload))
            self._message += 1

    def _consume_fragment(self, segment: Segment, items: list[Item]) -> None:
        if segment.piece != len(self._pieces):
            self._drop_pieces()  # the beginning is lost; the next message tells of it
            return
        self._pieces.append(segment.payloads[0])
        self._pieces_bytes += len(segment.payloads[0])
        self.held_bytes += len(segment.payloads[0])
        if self._pieces_bytes > self._max_message_bytes:
            self._drop_pieces()
        elif len(self._pieces) == segment.pieces:
            items.append(Numbered(self._message, b"".join(self._pieces)))
            self._message += 1
            self._drop_pieces()

    def _drop_pieces(self) -> None:
        self.held_bytes -= self._pieces_bytes
        self._pieces_bytes = 0
        self._pieces.clear()

    def _show_gap(self, message: int, items: list[Item], reason: GapReason) -> None:
        self._drop_pieces()
        count = message - self._message
        items.append(Gap(self._message, message - 1, count, reason))
        self._message = message


class _Partial:
    """A message of which some fragments have come."""

    __slots__ = ("cost", "count", "pieces", "size")

    def __init__(self, count: int) -> None:
        self.count = count
        self.pieces: dict[int, bytes] = {}
        self.size = 0
        self.cost = 0


class AsItArrives:
    """Messages as soon as they are whole, whatever their numbers."""

    def __init__(self, sequence: int, message: int, max_message_bytes: int) -> None:
        self.held_bytes = 0
        self._floor = message
        self._max_message_bytes = max_message_bytes
        self._shown = RangeSet()
        self._partial: dict[int, _Partial] = {}

    def take(self, segment: Segment) -> list[Item]:
        """As `Assembly.take`."""
        if segment.pieces:
            return self._take_fragment(segment)
        items: list[Item] = []
        for number, payload in enumerate(segment.payloads, segment.message):
            if number >= self._floor and self._shown.add(number, number):
                items.append(Numbered(number, payload))
        if len(self._shown) > SHOWN_RANGES_LIMIT:
            _, high = self._shown.descending()[-1]
            items += self.give_up_below(0, high + 1, GapReason.OVERRUN)
        return items

    def _take_fragment(self, segment: Segment) -> list[Item]:
        number = segment.message
        if number < self._floor or number in self._shown:
            return []
        partial = self._partial.setdefault(number, _Partial(segment.pieces))
        if segment.piece in partial.pieces or segment.pieces != partial.count:
            return []
        partial.pieces[segment.piece] = segment.payloads[0]
        partial.size += len(segment.payloads[0])
        partial.cost += segment.cost
        self.held_bytes += segment.cost
        if partial.size > self._max_message_bytes:
            self._forget(number)
            return []
        if len(partial.pieces) < partial.count:
            return []
        self._forget(number)
        self._shown.add(number, number)
        pieces = partial.pieces
        return [Numbered(number, b"".join(pieces[index] for index in range(partial.count)))]

    def give_up_below(self, sequence: int, message: int, reason: GapReason) -> list[Item]:
        """As `Assembly.give_up_below`."""
        if message <= self._floor:
            return []
        items: list[Item] = []
        for low, high in [*reversed(self._shown.descending()), (message, message)]:
            first, last = self._floor, min(low, message) - 1
            if first <= last:
                items.append(Gap(first, last, last - first + 1, reason))
            self._floor = max(self._floor, min(high + 1, message))
        self._shown.forget_below(message)
        for number in [number for number in self._partial if number < message]:
            self._forget(number)
        return items

    def relieve(self) -> tuple[int, list[Item]]:
        """As `Assembly.relieve`: the oldest message that is not whole, which gives no gap yet."""
        self._forget(min(self._partial))
        return 0, []

    def _forget(self, number: int) -> None:
        self.held_bytes -= self._partial.pop(number).cost
