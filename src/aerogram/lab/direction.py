"""One direction of a fault proxy: what its link does to datagrams, and the count of it.

Rules: no clock and no I/O; every datagram is accounted for, so that at any time
`received + duplicated == forwarded + dropped + in_flight`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from aerogram.lab.link import Copy, Link, LinkState


@dataclass(slots=True)
class DirectionStats:
    """What one direction has done, in datagrams unless the name says otherwise."""

    received: int = 0
    forwarded: int = 0
    """Given to the system for sending."""
    in_flight: int = 0
    lost: dict[str, int] = field(default_factory=dict[str, int])
    """By reason: those of `aerogram.lab.link.Copy`, `partition`, `overload` (too many in flight),
    `unsent` (the system refused it, or its socket is gone), `clients` (no room for one more client)
    and `closed`."""
    duplicated: int = 0
    reordered: int = 0
    """Held back by the link's `reorder`; jitter reorders more."""
    corrupted: int = 0
    bytes_received: int = 0
    bytes_forwarded: int = 0

    @property
    def dropped(self) -> int:
        """All that were lost, for whatever reason."""
        return sum(self.lost.values())

    def lose(self, reason: str, count: int = 1) -> None:
        """Count datagrams that end here."""
        self.lost[reason] = self.lost.get(reason, 0) + count


class Direction:
    """One way through a proxy; all clients share its link. `link` may be replaced at any time.

    `partition` loses what arrives until `repair`; `hold` keeps what is due until `release`, which
    lets it go at once and in order.
    """

    def __init__(self, link: Link, random: Random, released: Callable[[], None]) -> None:
        self.stats = DirectionStats()
        self.is_partitioned = False
        self.is_held = False
        self._state = LinkState(link, random)
        self._released = released

    @property
    def link(self) -> Link:
        """How the direction behaves from the next datagram on."""
        return self._state.link

    @link.setter
    def link(self, link: Link) -> None:
        self._state.link = link

    def partition(self) -> None:
        """Lose all that arrives from now on; what is on its way still gets there."""
        self.is_partitioned = True

    def repair(self) -> None:
        """End a partition."""
        self.is_partitioned = False

    def hold(self) -> None:
        """Let nothing out until `release`; what arrives is kept, within the proxy's limits."""
        self.is_held = True

    def release(self) -> None:
        """End a hold."""
        self.is_held = False
        self._released()

    def plan(self, data: bytes, now: float) -> list[Copy]:
        """Count a datagram and return its copies that are to be delivered, if any."""
        if self.is_partitioned:
            self.refuse(data, "partition")
            return []
        copies = self._state.plan(data, now)
        if copies[0].fate == "dropped":
            self.refuse(data, copies[0].reason)
            return []
        stats = self.stats
        stats.received += 1
        stats.bytes_received += len(data)
        stats.in_flight += len(copies)
        for copy in copies:
            if copy.reason:
                self._note(copy.reason)
        return copies

    def refuse(self, data: bytes, reason: str) -> None:
        """Count a datagram that gets no further."""
        self.stats.received += 1
        self.stats.bytes_received += len(data)
        self.stats.lose(reason)

    def _note(self, notes: str) -> None:
        stats = self.stats
        stats.duplicated += "duplicate" in notes
        stats.reordered += "reordered" in notes
        stats.corrupted += "corrupt" in notes
