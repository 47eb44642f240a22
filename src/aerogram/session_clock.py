"""`session.clock`: one time for both ends of a session, and for all sessions of a server.

The server's clock is that time; clients learn how far theirs is from it, with a bound on the error
that holds on unequal paths (`aerogram.core.clock`). It is a monotonic clock, in seconds from an
arbitrary zero: setting a computer's date changes nothing. A client begins to ask for the time when
its program first looks at `session.clock`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aerogram.config import check_timeout
from aerogram.core.clock import ClockFilter, Timeline

if TYPE_CHECKING:
    from aerogram.core.connection import Connection

POLL_SECONDS: Final = 0.05
"""How often `synchronised` looks whether the bound is tight enough yet."""


class SessionClock:
    """The time that both ends of a session share."""

    __slots__ = ("_filter", "_is_reference", "_local", "_timeline")

    def __init__(self, connection: Connection, local: Callable[[], float], *, asks: bool) -> None:
        self._local = local
        self._is_reference = not asks
        self._filter = connection.timing().clock if asks else ClockFilter()
        self._timeline = Timeline(self._filter)
        if asks:
            connection.ask_for_time(local())

    @property
    def is_synchronised(self) -> bool:
        """True once the server has told its time; always true on the server."""
        return self._is_reference or self._filter.synchronised

    def now(self) -> float:
        """The shared time, in seconds. It never runs backwards on one side.

        Before the first answer this is the local clock; see `is_synchronised`.
        """
        return self._timeline.now(self._local())

    @property
    def offset(self) -> float:
        """Seconds to add to the local clock to get the shared time."""
        return self._filter.offset(self._local())

    @property
    def error_bound(self) -> float:
        """Seconds by which `now()` and `offset` can be wrong.

        It is 0 at the server, and infinite before it answered. It grows while nothing is heard. It
        holds while the clocks drift apart by no more than `aerogram.core.clock.DRIFT_LIMIT`; a step
        of a clock is noticed, and held against it, with the next answer.
        """
        if self._is_reference:
            return 0.0
        local = self._local()
        return self._filter.error_bound(local) + self._timeline.lead(local)

    @property
    def drift(self) -> float:
        """Seconds that the shared time gains on the local clock in each second."""
        return self._filter.drift if not self._is_reference else 0.0

    @property
    def steps(self) -> int:
        """How often one of the clocks has jumped."""
        return self._filter.steps

    def until(self, moment: float) -> float:
        """Seconds from now to a moment of the shared time: what `deadline=` of a message takes.

        It is below 0 for one that has passed. Raises `RuntimeError` before the server has told its
        time; `synchronised` waits for that.
        """
        if not self.is_synchronised:
            raise RuntimeError("the shared time is not known yet: await clock.synchronised()")
        return moment - self.now()

    def to_local(self, shared: float) -> float:
        """A moment of the shared time by the local clock, which is `loop.time()`'s."""
        return shared - self.offset

    def from_local(self, local: float) -> float:
        """A moment of the local clock, which is `loop.time()`'s, by the shared time."""
        return local + self.offset

    async def synchronised(
        self, error_bound: float = float("inf"), *, timeout: float | None = None
    ) -> None:
        """Wait until the shared time is known to within `error_bound` seconds.

        Raises `TimeoutError` after `timeout` seconds, as for a bound that the path does not allow:
        no bound is tighter than half the quickest round trip. Raises `ValueError` for a bound that
        is none.
        """
        check_timeout(timeout)
        if not error_bound >= 0:  # written so that it refuses nan too
            raise ValueError(f"error_bound is at least 0 seconds, not {error_bound!r}")
        async with asyncio.timeout(timeout):
            while not self.is_synchronised or self.error_bound > error_bound:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)  # the bound moves with time, not with an event
