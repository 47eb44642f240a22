"""What became of a message: a receipt to await, or to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, ParamSpec

from aerogram.core.outgoing import Outcome, Outgoing

_ArgumentsT = ParamSpec("_ArgumentsT")

Progress = Callable[[int, int], object]
"""Told how many bytes of a message the peer's endpoint has, and how many there are."""


class _Observers:
    """All who wait for one message, however many."""

    __slots__ = ("waiting",)

    def __init__(self, waiting: list[Callable[[], None]]) -> None:
        self.waiting = dict.fromkeys(waiting)

    def __call__(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for tell in waiting:
            tell()


class Receipt(Outgoing):
    """What became of a message: await it, or look at `outcome` now and then.

    `outcome` says how it ended and is None while it is on its way; `reason` says why the peer
    refused it, or this side dropped it. What else there is belongs to the protocol.

    "delivered" says that the peer's endpoint has the message, and nothing of its handler. "refused"
    says that the peer has not taken it: no handler is there, or it raised `Rejected`. The peer lets
    handlers begin before it acknowledges, so what one refuses without having waited for anything is
    refused here too. A refusal that comes after the acknowledgement is logged and changes no
    outcome: that of a handler that waited, that has messages to handle before or runs beside
    others, and what was held back because one before it was missing.
    """

    __slots__ = ()

    @property
    def rtt(self) -> float | None:
        """Seconds from the first sending to the outcome; None before, or if it never left."""
        if self.outcome is None or self.first_sent_at == 0.0:
            return None
        return self.ended_at - self.first_sent_at

    def __await__(self) -> Generator[Any, None, Outcome]:
        if self.outcome is None:
            yield from self._wait().__await__()
        assert self.outcome is not None
        return self.outcome

    async def _wait(self) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        self.observe(tell)
        try:
            await ended
        except asyncio.CancelledError:
            if isinstance(self.observer, _Observers):
                self.observer.waiting.pop(tell, None)
            raise

    def observe(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when the message ends; at once if it has."""
        if self.outcome is not None:
            tell()
            return
        if isinstance(self.observer, _Observers):
            self.observer.waiting[tell] = None
            return
        others = [] if self.observer is None else [self.observer]
        self.observer = _Observers([*others, tell])

    def report(self, progress: Progress, failed: Callable[[Exception], None]) -> None:
        """Have `progress` told of the bytes of this message that the peer has, until all are there.

        If it raises, `failed` is told, and it is told no more.
        """
        total = len(self.payload)
        told = until_it_raises(progress, failed)
        if self.outcome is None:
            # In pieces; the last one is told of by the outcome.
            self.make_history().progress = lambda count: count < total and told(count, total)

        def ended() -> None:
            if self.outcome is Outcome.DELIVERED:
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
