"""Rate limits that users set, for one session or for many together.

Rules: a limit is shared by all who are limited together, and each of them reserves the time of its
next packet; so they take turns, nobody asks in vain, and a timer is set once. No clock, no waiting:
who calls is told from when on it may send.
"""

from __future__ import annotations

import math
from typing import Final

BURST_SECONDS: Final = 0.01
"""Timers are no more exact than that."""


class RateLimit:
    """At most so many bytes a second, in packets, headers of lower layers aside.

    A limit that was not used lets `burst_seconds` of its rate through at once. Raises `ValueError`
    for a rate that is none.
    """

    __slots__ = ("_burst_seconds", "_free_at", "_rate", "changes")

    def __init__(self, bytes_per_second: float, *, burst_seconds: float = BURST_SECONDS) -> None:
        self._burst_seconds = burst_seconds
        self._free_at = 0.0
        self._rate = 0.0
        self.changes = 0
        """How often the rate was set: reservations from before do not count."""
        self.bytes_per_second = bytes_per_second

    @property
    def bytes_per_second(self) -> float:
        """The limit; it may be set at any time."""
        return self._rate

    @bytes_per_second.setter
    def bytes_per_second(self, rate: float) -> None:
        if not 0 < rate < math.inf:
            raise ValueError(f"a rate limit is above 0 bytes per second, not {rate}")
        self._rate = rate
        self._free_at = 0.0
        self.changes += 1

    def reserve(self, size: int, now: float) -> float:
        """Take the next free time for so many bytes; it may be now or in the past."""
        begins_at = max(self._free_at, now - self._burst_seconds)
        self._free_at = begins_at + size / self._rate
        return begins_at

    def take(self, size: int, now: float) -> None:
        """So many bytes leave without having asked; less than 0 are given back."""
        self._free_at = max(self._free_at, now - self._burst_seconds) + size / self._rate


class Pacer:
    """The limits of one connection and the time that it has reserved."""

    __slots__ = ("_changes", "_limits", "_packet_bytes", "_reserved_at", "waits_until")

    def __init__(self, packet_bytes: int) -> None:
        self._packet_bytes = packet_bytes
        self._limits: list[RateLimit] = []
        self._changes = 0
        self._reserved_at: float | None = None
        self.waits_until: float | None = None
        """When a packet that was held back may leave."""

    def add(self, limit: RateLimit) -> None:
        """Keep to one more limit."""
        self._limits.append(limit)
        self._forget()

    def discard(self, limit: RateLimit) -> None:
        """Keep to a limit no longer; harmless if it was not kept to."""
        if limit in self._limits:
            self._limits.remove(limit)
            self._forget()

    @property
    def bytes_per_second(self) -> float:
        """The lowest of all limits; infinite without any."""
        return min([limit.bytes_per_second for limit in self._limits], default=math.inf)

    def _forget(self) -> None:
        self._reserved_at = None
        self.waits_until = None

    def may_send(self, now: float) -> bool:
        """True if a packet may leave now. Else `waits_until` says when."""
        if not self._limits:
            return True
        changes = sum([limit.changes for limit in self._limits])
        if self._reserved_at is None or changes != self._changes:
            self._changes = changes
            times = [limit.reserve(self._packet_bytes, now) for limit in self._limits]
            self._reserved_at = max(times)
        if self._reserved_at <= now:
            self.waits_until = None
            return True
        self.waits_until = self._reserved_at
        return False

    def sent(self, size: int, now: float) -> None:
        """A packet leaves: it takes the reservation, if the time has come; an ACK does not wait."""
        reserved = 0
        if self._reserved_at is not None and self._reserved_at <= now:
            reserved = self._packet_bytes
            self._reserved_at = None
        for limit in self._limits:
            limit.take(size - reserved, now)
