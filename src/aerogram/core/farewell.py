"""How a connection takes leave: its CLOSE is said a few times, or in answer to the peer's.

CLOSE is never acknowledged, so it is repeated until the peer answers; an answer is repeated if the
peer asks again, until nothing of the peer can be on its way any more.
"""

from __future__ import annotations

import math
from typing import Final

from aerogram.core.recovery import LONGEST_PTO_SECONDS, Recovery

CLOSES_SENT: Final = 3
"""CLOSE is repeated this often until the peer answers."""


class Farewell:
    """The CLOSE of one connection, and when it is said next."""

    __slots__ = ("_interval", "_times", "at", "ends_at", "frame")

    def __init__(self, frame: bytes, recovery: Recovery, now: float, *, is_answer: bool) -> None:
        # A round trip, but no longer than a peer that delays its acknowledgements should last.
        self._interval = min(recovery.probe_timeout(), LONGEST_PTO_SECONDS)
        self._times = 0
        self.frame = frame
        self.at = now
        """When it is said next."""
        self.ends_at = now + 3 * self._interval if is_answer else math.inf
        """When an answer need not be repeated any more."""

    @property
    def is_over(self) -> bool:
        """True if it was said often enough without an answer."""
        return self._times == CLOSES_SENT and self.ends_at == math.inf

    def said(self, now: float) -> None:
        """It is about to leave."""
        self._times += 1
        self.at = now + self._interval if self.ends_at == math.inf else self.ends_at

    def asked_again(self, now: float) -> None:
        """The peer has not heard the answer."""
        self.at = now
