"""What a virtual loop makes for each callback, timer and task.

asyncio's own, made with fewer calls: a simulation of many small things makes millions of them, and
asks for each whether the loop is in debug mode. In that mode it makes asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any


class Handle(asyncio.Handle):
    """A callback that runs in the next turn of the loop."""

    __slots__ = ()

    def __init__(
        self, callback: Any, args: Any, loop: Any, context: contextvars.Context | None
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class TimerHandle(asyncio.TimerHandle):
    """A callback that runs when its time has come."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Any,
        args: Any,
        loop: Any,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True

    def cancel(self) -> None:
        """Run no more. More calls do nothing."""
        if self._cancelled:
            return
        self._cancelled = True
        self._callback = None
        self._args = ()
        if self._scheduled:
            self._loop.timer_cancelled()


class Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address in memory.

    `TaskGroup` and `asyncio.wait` keep tasks in sets, and cancel or return them in that order.
    """

    number: int
    """Set by the loop, which counts its tasks."""

    def __hash__(self) -> int:
        return self.number
