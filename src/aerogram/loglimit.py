"""How often errors that others cause may be logged.

What a stranger or a handler does a million times fills no disk, and is counted all the same.
"""

from __future__ import annotations

import math
from typing import Final

LINES_PER_SECOND: Final = 10


class LogLimit:
    """At most `LINES_PER_SECOND` lines in any second that starts with one; the rest are counted."""

    __slots__ = ("_held_back", "_lines", "_second_began")

    def __init__(self) -> None:
        self._second_began = -math.inf
        self._lines = 0
        self._held_back = 0

    def allows(self, now: float) -> bool:
        """True if a line may be written now, by the clock of the caller."""
        if now - self._second_began >= 1.0:
            self._second_began = now
            self._lines = 0
        if self._lines >= LINES_PER_SECOND:
            self._held_back += 1
            return False
        self._lines += 1
        return True

    def take_held_back(self) -> int:
        """How many lines were left out since this was asked last."""
        held_back, self._held_back = self._held_back, 0
        return held_back
