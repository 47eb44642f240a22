"""What became of a message: a receipt to await, or to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from aerogram.core.channel import Outcome
from aerogram.errors import RequestFailed

if TYPE_CHECKING:
    from aerogram.core.channel import Outgoing


class Receipt:
    """What became of a message: await it, or look at `outcome` now and then."""

    __slots__ = ("_outgoing",)

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    @property
    def outcome(self) -> Outcome | None:
        """How the message ended, or None while it is on its way."""
        return self._outgoing.outcome

    @property
    def reason(self) -> str:
        """Why the peer refused it."""
        return self._outgoing.reason

    @property
    def rtt(self) -> float | None:
        """Seconds from the first sending to the outcome; None before, or if it never left."""
        outgoing = self._outgoing
        if outgoing.outcome is None or outgoing.first_sent_at == 0.0:
            return None
        return outgoing.ended_at - outgoing.first_sent_at

    def __await__(self) -> Generator[Any, None, Outcome]:
        outgoing = self._outgoing
        if outgoing.outcome is None:
            yield from self._wait().__await__()
        assert outgoing.outcome is not None
        return outgoing.outcome

    async def _wait(self) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        self._observe(tell)
        await ended

    def _observe(self, tell: Callable[[], None]) -> None:
        outgoing = self._outgoing
        others = outgoing.observer

        def tell_all() -> None:
            if others is not None:
                others()
            tell()

        outgoing.observer = tell if others is None else tell_all

    def fail_unless_delivered(self, future: asyncio.Future[Any]) -> None:
        """Let a future that waits for more than delivery fail if not even that comes."""
        outgoing = self._outgoing

        def tell() -> None:
            outcome = outgoing.outcome
            if outcome is not None and outcome is not Outcome.DELIVERED and not future.done():
                future.set_exception(RequestFailed(f"{outcome}: {outgoing.reason}"))

        self._observe(tell)
