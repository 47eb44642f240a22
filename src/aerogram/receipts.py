"""What became of a message: a receipt to await, or to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ParamSpec

from aerogram.core.channel import Outcome

if TYPE_CHECKING:
    from aerogram.core.channel import Outgoing


_ArgumentsT = ParamSpec("_ArgumentsT")

Progress = Callable[[int, int], object]
"""Told how many bytes of a message the peer's endpoint has, and how many there are."""


class _Observers:
    """All who wait for one message, however many."""

    __slots__ = ("waiting",)

    def __init__(self, waiting: list[Callable[[], None]]) -> None:
        self.waiting = waiting

    def __call__(self) -> None:
        waiting, self.waiting = self.waiting, []
        for tell in waiting:
            tell()


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
        """Why the peer refused it, or this side dropped it."""
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

        self.observe(tell)
        await ended

    def observe(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when the message ends; at once if it has."""
        outgoing = self._outgoing
        if outgoing.outcome is not None:
            tell()
            return
        if isinstance(outgoing.observer, _Observers):
            outgoing.observer.waiting.append(tell)
            return
        others = [] if outgoing.observer is None else [outgoing.observer]
        outgoing.observer = _Observers([*others, tell])

    def report(self, progress: Progress, failed: Callable[[Exception], None]) -> None:
        """Have `progress` told of the bytes of this message that the peer has, until all are there.

        If it raises, `failed` is told, and it is told no more.
        """
        outgoing = self._outgoing
        total = len(outgoing.payload)
        told = until_it_raises(progress, failed)
        if outgoing.outcome is None:
            # In pieces; the last one is told of by the outcome.
            outgoing.make_history().progress = lambda count: count < total and told(count, total)

        def ended() -> None:
            if outgoing.outcome is Outcome.DELIVERED:
                told(total, total)

        self.observe(ended)


def until_it_raises(
    call: Callable[_ArgumentsT, object], failed: Callable[[Exception], None]
) -> Callable[_ArgumentsT, None]:
    """A function of a user that cannot break its caller: it is called until it raises."""
    broken = False

    def guarded(*arguments: _ArgumentsT.args, **keywords: _ArgumentsT.kwargs) -> None:
        nonlocal broken
        if broken:
            return
        try:
            call(*arguments, **keywords)
        except Exception as error:  # a user's function
            broken = True
            failed(error)

    return guarded
