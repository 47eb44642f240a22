"""A stream of items that is being received: put in order, bounded by credit, ended at its place.

Rules: items may arrive in any order, so one that is lost holds up no other stream. No more is held
than credit was given for. Whatever ends a stream, an error of its handler or the end of the
session, is shown after the items that came before it.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

from aerogram import messages as codec
from aerogram.errors import DecodeError, Rejected, RequestFailed, RequestTimeout


class Incoming:
    """The items of one stream that have arrived and not been taken."""

    __slots__ = (
        "_changed",
        "_count",
        "_error",
        "_failure",
        "_held",
        "_kind",
        "_limit",
        "_next",
        "_window",
    )

    def __init__(self, kind: type[Any], window: int) -> None:
        self._kind = kind
        self._window = window
        self._limit = window
        """How many items the peer may send, counted from the first."""
        self._next = 0
        self._held: dict[int, bytes] = {}
        self._count = math.inf
        """How many items there are, once that is known."""
        self._failure: Exception | None = None
        """What ended it at that place, if it was an error."""
        self._error: Exception | None = None
        """Why nothing comes any more, if it has no end of its own."""
        self._changed: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """True if the peer sends no more."""
        return self._count < math.inf

    # -- what comes

    def arrived(self, reply: codec.Reply) -> None:
        """Take what came for this stream. Raises `DecodeError` for what does not belong in one."""
        if isinstance(reply, codec.Item):
            self._item_arrived(reply)
        elif isinstance(reply, codec.End):
            self._ended(reply.count, reply.failure)
        elif isinstance(reply, codec.Failure):
            self._ended(self._next, reply)
        else:
            raise DecodeError("one answer came where a stream was asked for")
        self._wake()

    def _item_arrived(self, item: codec.Item) -> None:
        if item.sequence >= self._limit:
            self.fail(RequestFailed("the peer sent more items than it was asked for"))
        elif item.sequence >= self._next:
            self._held[item.sequence] = item.payload

    def _ended(self, count: int, failure: codec.Failure | None) -> None:
        self._count = min(self._count, count)
        if failure is not None:
            self._failure = error_of(failure)

    def fail(self, error: Exception | None) -> None:
        """Nothing more can come, if this is an error; the first one counts."""
        if error is not None and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # -- what is taken

    async def wait(self, timeout: float | None) -> bool:
        """Wait for the next item; False at the end of the stream.

        Raises what ended it otherwise, or `RequestTimeout` after `timeout` seconds.
        """
        if self._next in self._held:
            return True
        try:
            async with asyncio.timeout(timeout):
                return await self._wait()
        except TimeoutError:
            name = self._kind.__name__
            raise RequestTimeout(f"{name} sent nothing for {timeout} s") from None

    async def _wait(self) -> bool:
        while self._next not in self._held:
            if self._next >= self._count:
                if self._failure is not None:
                    raise self._failure
                return False
            if self._error is not None:
                raise self._error
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        return True

    def take(self) -> Any:
        """The item that was waited for. Raises `RequestFailed` if it cannot be decoded."""
        payload = self._held.pop(self._next)
        self._next += 1
        try:
            return cast("Any", codec.decode_answer(self._kind, payload))
        except DecodeError as error:
            raise RequestFailed(f"an item cannot be decoded: {error}") from None

    def consumed(self) -> int | None:
        """Whoever iterates is done with the item; the limit to tell the peer, if it is time to."""
        if self.is_over or 2 * (self._limit - self._next) > self._window:
            return None
        self._limit = self._next + self._window
        return self._limit


def error_of(failure: codec.Failure) -> Exception:
    """The exception that stands for a failure at the peer."""
    if failure.code == codec.FailureCode.REJECTED:
        return Rejected(failure.reason)
    return RequestFailed(failure.reason)
