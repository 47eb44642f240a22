"""What tasks need here: to wait for a time or for something new, and to be ended."""

from __future__ import annotations

import asyncio
from typing import Any


class Alarm:
    """One task waits, others ring. Rings while nobody waits count as one."""

    __slots__ = ("_loop", "_rung", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._waiting: asyncio.Future[float] | None = None

    def ring(self) -> None:
        """Wake the task, or let it not wait the next time."""
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(0.0)

    async def wait(self, until: float | None = None) -> float:
        """Wait for a ring, at most until then by the loop's clock; others get their turn.

        Returns the time: timers may fire a little early, but it is not before `until` unless
        somebody has rung.
        """
        if self._rung:
            self._rung = False
            await asyncio.sleep(0)
            return self._loop.time()
        self._waiting = waiting = self._loop.create_future()
        timer = None if until is None else self._loop.call_at(until, _settle, waiting, until)
        try:
            not_before: float = await waiting
        finally:
            self._waiting = None
            self._rung = False
            if timer is not None:
                timer.cancel()
        return max(not_before, self._loop.time())


def _settle(waiting: asyncio.Future[float], until: float) -> None:
    if not waiting.done():
        waiting.set_result(until)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is done."""
    task.cancel()
    await asyncio.wait([task])
