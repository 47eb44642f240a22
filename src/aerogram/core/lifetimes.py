"""How long messages still live, as their sender tells it: the LIFETIMES frame before their own.

Rules: a lifetime is what is left at the moment of sending, in whole milliseconds, rounded up; only
messages with a deadline have one. Neighbours with the same lifetime share an entry, so that
messages which were queued together cost little.
"""

from __future__ import annotations

import math
from typing import Final

from aerogram.core import wire
from aerogram.core.outgoing import Outgoing

LONGEST_LIFETIME_MILLISECONDS: Final = (1 << 30) - 1
"""Twelve days, which take four bytes. A message that lives longer is sent as one without end."""
HEADER_BYTES: Final = 1 + 4 + 8 + 2
"""The most that the frame takes before its entries, with any sensible number of channels."""
ENTRY_BYTES: Final = 2 + 4
"""The most that an entry takes."""


def lifetime(message: Outgoing, now: float) -> int:
    """The milliseconds that a message still lives, at least 1; 0 if it has no end."""
    if message.deadline is None:
        return 0
    left = math.ceil((message.deadline - now) * 1000.0 - 1e-6)
    return max(1, left) if left <= LONGEST_LIFETIME_MILLISECONDS else 0


class Lifetimes:
    """Collects the lifetimes of messages whose numbers follow on."""

    __slots__ = ("_now", "_runs")

    def __init__(self, now: float) -> None:
        self._now = now
        self._runs: list[tuple[int, int]] = []

    @property
    def units(self) -> int:
        """What the frame costs of `wire.PACKET_UNITS_LIMIT`."""
        return wire.FRAME_UNITS + wire.LIFETIME_UNITS * len(self._runs)

    @property
    def units_with_another(self) -> int:
        """The most that it costs with one message more."""
        return self.units + wire.LIFETIME_UNITS

    def room_for(self, message: Outgoing) -> int:
        """The most bytes by which the frame grows if this message is added."""
        if not self._runs:
            return HEADER_BYTES + ENTRY_BYTES
        return 0 if self._runs[-1][1] == lifetime(message, self._now) else ENTRY_BYTES

    def add(self, message: Outgoing) -> None:
        """Add the message with the next number."""
        left = lifetime(message, self._now)
        if self._runs and self._runs[-1][1] == left:
            self._runs[-1] = (self._runs[-1][0] + 1, left)
        else:
            self._runs.append((1, left))

    def frame(self, channel: int, first_number: int) -> bytes:
        """The frame; empty if no message has a lifetime."""
        runs = self._runs
        if runs and runs[-1][1] == 0:
            runs.pop()
        return wire.encode_lifetimes(channel, first_number, runs) if runs else b""
