"""Whose turn it is: strict levels, and within a level fair shares by weight.

Rules: a higher level goes first, but a lower one that has something to send gets one packet in
`STARVATION_PACKETS` at least. Within a level it is surplus round robin: a channel sends until it
has used up its share, and what it sends beyond is taken off the next one. Only channels that have
something to send are here, so the others cost nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from aerogram.config import MESSAGE_OVERHEAD_BYTES, SMALLEST_DATAGRAM_BYTES
from aerogram.core.channel import SendChannel
from aerogram.core.fragments import SMALLEST_FRAGMENT_BYTES
from aerogram.core.outgoing import Outgoing

STARVATION_PACKETS: Final = 16
"""A level that has something to send has the first go at one packet in so many. Two levels that
are due at once get packets that are not neighbours, so a high level waits for one at most."""
URGENT_PACKETS: Final = 4
"""Full packets by which channels of a priority above 0 may exceed the congestion window, so that
what is urgent does not wait for a round trip behind what is not."""
MISFITS_LIMIT: Final = 4
"""So many channels are tried in vain before a packet is left as it is."""
QUANTUM_BYTES: Final = SMALLEST_DATAGRAM_BYTES
"""The share of a channel of weight 1 in one round."""


class Level:
    """The channels of one priority that have something to send."""

    __slots__ = ("got", "priority", "ring", "waited")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.ring: deque[SendChannel] = deque()
        self.got = False
        """True if it has something in the packet that is being built."""
        self.waited = 0
        """Packets since it had the last one."""

    def served(self, index: int, used: int) -> bool:
        """A channel has put so many bytes into the packet; True if its turn is over."""
        channel = self.ring[index]
        channel.share -= used
        if channel.share > 0:
            return False
        channel.share += channel.weight * QUANTUM_BYTES
        del self.ring[index]
        self.ring.append(channel)
        return True


class Schedule:
    """The channels of one connection that have something to send, in the order of their turns."""

    __slots__ = ("_by_priority", "_favoured", "levels")

    def __init__(self) -> None:
        self.levels: list[Level] = []
        """Those with channels in them, the highest first."""
        self._by_priority: dict[int, Level] = {}
        self._favoured = False
        """True if a lower level had the first go at the last packet."""

    def add(self, channel: SendChannel) -> None:
        """The channel has something to send."""
        channel.busy = True
        channel.share = channel.weight * QUANTUM_BYTES
        self._enter(channel)

    def _enter(self, channel: SendChannel) -> None:
        level = self._by_priority.get(channel.priority)
        if level is None:
            level = self._by_priority[channel.priority] = Level(channel.priority)
        if not level.ring:
            level.waited = 0
            self.levels.append(level)
            if len(self.levels) > 1:
                self.levels.sort(key=_descending)
        level.ring.append(channel)

    def wake(self, channel: SendChannel) -> None:
        """The channel may not have to wait for credit any more."""
        if channel.starved:
            channel.starved = False
            self._enter(channel)

    def remove(self, level: Level, index: int) -> None:
        """A channel has nothing to send any more, or not until it gets credit."""
        channel = level.ring[index]
        del level.ring[index]
        channel.busy = channel.starved = channel.has_work
        if not level.ring:
            self.levels.remove(level)

    def turn(self) -> list[Level]:
        """The levels in the order of their turns at the next packet, where there are several."""
        levels = self.levels
        for level in levels:
            level.waited = 0 if level.got else level.waited + 1
            level.got = False
        if self._favoured:
            self._favoured = False
            return [*levels]
        longest = max(levels, key=_waited)
        if longest.waited < STARVATION_PACKETS - 1:
            return [*levels]
        self._favoured = True
        return [longest, *(level for level in levels if level is not longest)]

    @property
    def is_urgent(self) -> bool:
        """True if something of a priority above 0 waits."""
        return bool(self.levels) and self.levels[0].priority > 0

    def has_work(self, largest_whole: int, above: int | None = None) -> bool:
        """True if some channel, of a priority above this one, has something that may be sent.

        Channels that have not are no longer looked at.
        """
        while self.levels:
            level = self.levels[0]
            if above is not None and level.priority <= above:
                return False
            if may_send(level.ring[0], largest_whole):
                return True
            self.remove(level, 0)
        return False


def may_send(channel: SendChannel, largest_whole: int) -> bool:
    """True if the channel has something to send and the credit for it."""
    if channel.resend or channel.lost_pieces:
        return True
    return bool(channel.queue) and _credit_allows(channel, channel.queue[0], largest_whole)


def _credit_allows(channel: SendChannel, message: Outgoing, largest_whole: int) -> bool:
    if not channel.resends or message.outcome is not None:
        return True
    left = channel.credit_cost - channel.sent_cost
    size = len(message.payload)
    if size <= largest_whole:
        return left >= size + MESSAGE_OVERHEAD_BYTES
    if message.record is None:
        return left >= SMALLEST_FRAGMENT_BYTES + MESSAGE_OVERHEAD_BYTES
    return left >= min(size - message.record.sent_bytes, SMALLEST_FRAGMENT_BYTES)


def _descending(level: Level) -> int:
    return -level.priority


def _waited(level: Level) -> int:
    return level.waited
