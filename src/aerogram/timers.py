"""One moving deadline by timers of the event loop, with as few of them as can be.

Deadlines come and go far more often than they pass: an acknowledgement is due soon, then nothing
before the next keep-alive. Rules: a timer that would fire too early is left alone, and so is one
that would fire later than needed: an earlier one goes before it, and the later one is there for the
deadlines to come. Whoever is called may therefore be called too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TIMERS_LIMIT: Final = 4
"""For idleness, a probe, an acknowledgement, and one more."""


class DeadlineTimers:
    """Calls `callback` when the deadline has come, and at times before."""

    __slots__ = ("_armed", "_callback", "_loop", "_stopped")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._armed: list[tuple[float, asyncio.TimerHandle]] = []
        """The one that fires first is the last."""
        self._stopped = False

    def arm(self, due: float) -> None:
        """Let the callback be called at `due`, by the loop's clock, at the latest."""
        armed = self._armed
        if armed:
            if armed[-1][0] <= due:
                return
            if len(armed) == TIMERS_LIMIT:
                armed.pop()[1].cancel()
        if not self._stopped:
            armed.append((due, self._loop.call_at(due, self._fire, due)))

    def stop(self) -> None:
        """Call nobody any more."""
        self._stopped = True
        for _, timer in self._armed:
            timer.cancel()
        self._armed.clear()

    def _fire(self, due: float) -> None:
        if self._armed[-1][0] == due:
            self._armed.pop()
        else:  # a loop that rounds times may let one go first that is due a little later
            self._armed = [entry for entry in self._armed if entry[0] != due]
        self._callback()
