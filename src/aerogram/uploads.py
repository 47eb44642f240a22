"""The content of uploads: bytes of any number from one side to a handler of the other.

Rules: nothing is sent before the handler takes the first chunk, nor more than it made room for, so
that neither side holds more than a window of it. Chunks may arrive in any order, so one that is
lost holds up no other upload. The end of the iteration is the end of the content; whatever else
ends an upload cancels the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from aerogram import messages as codec
from aerogram.channels import CONTENT_CHANNEL
from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.errors import DecodeError, InvalidMessage

if TYPE_CHECKING:
    from aerogram.inner_session import InnerSession

CONTENT: Final = CONTENT_CHANNEL.name
"""The name of the channel that the content of uploads travels on."""
CHUNK_BYTES: Final = 64 * 1024
"""Content is cut into chunks of this size at most, so that what is lost is repaired soon."""
SMALL_CHUNK_BYTES: Final = 1024
"""No chunk is cut smaller than this for want of room; it waits."""

_NO_CONTENT: Final = (str, bytearray, memoryview)
"""What can be iterated over, and is a mistake."""
Content = bytes | Iterable[bytes] | AsyncIterable[bytes]
"""What `Session.upload` sends."""


class Chunks:
    """The content of one upload that has arrived and was not taken; its handler iterates."""

    __slots__ = (
        "_arrived",
        "_end",
        "_error",
        "_held",
        "_held_cost",
        "_limit",
        "_next",
        "_tell",
        "_window",
    )

    def __init__(self, window: int, tell: Callable[[int], None]) -> None:
        self._window = window
        self._tell = tell
        """Tells the peer up to which cost it may send."""
        self._limit = 0
        self._next = 0
        """What all that was taken has cost."""
        self._held: dict[int, bytes] = {}
        self._held_cost = 0
        self._end: int | None = None
        self._error: Exception | None = None
        self._arrived: asyncio.Future[None] | None = None

    # -- what comes

    def arrived(self, chunk: codec.Chunk) -> None:
        """Take what came. Raises `DecodeError` for more than there was room for, or twice."""
        if chunk.data is None:
            self._end = chunk.place
        else:
            cost = len(chunk.data) + MESSAGE_OVERHEAD_BYTES
            # Places that overlap would let a peer fill the room many times over.
            if chunk.place + cost > self._limit or self._held_cost + cost > self._window:
                raise DecodeError("more content came than there was room for")
            if chunk.place < self._next or chunk.place in self._held:
                raise DecodeError("content came twice")
            self._held[chunk.place] = chunk.data
            self._held_cost += cost
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more can be taken."""
        self._error = error
        self._held.clear()
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # -- what is taken

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._arrived is not None:
            raise RuntimeError("another task waits for this content")
        self._make_room()
        while self._next not in self._held:
            if self._error is not None:
                raise self._error
            if self._end is not None and self._next >= self._end:
                raise StopAsyncIteration
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        data = self._held.pop(self._next)
        cost = len(data) + MESSAGE_OVERHEAD_BYTES
        self._held_cost -= cost
        self._next += cost
        return data

    def _make_room(self) -> None:
        """Whoever iterates is done with the chunk before: the peer may send as much again."""
        limit = self._next + self._window
        if self._end is None and self._error is None and 2 * (limit - self._limit) >= self._window:
            self._limit = limit
            self._tell(limit)


class Outflow:
    """How much content of one upload was sent, and how much may be."""

    __slots__ = ("_grown", "_limit", "sent")

    def __init__(self) -> None:
        self._limit = 0
        self.sent = 0
        """What it has cost."""
        self._grown: asyncio.Future[None] | None = None

    def grow(self, limit: int) -> None:
        """The peer has made room; a lower limit than before is an old one."""
        self._limit = max(self._limit, limit)
        if self._grown is not None and not self._grown.done():
            self._grown.set_result(None)

    async def room(self, size: int) -> int:
        """Wait until a chunk of `size` bytes, or one that is not small, may be sent; its size."""
        size = min(size, CHUNK_BYTES)
        while (room := self._limit - self.sent - MESSAGE_OVERHEAD_BYTES) < min(
            size, SMALL_CHUNK_BYTES
        ):
            self._grown = asyncio.get_running_loop().create_future()
            await self._grown
        return min(size, room)


async def send_content(
    session: InnerSession, identity: int, flow: Outflow, content: Content
) -> None:
    """Send all content as there is room for it. Raises what iterating it raises."""
    outbox = session.outbox
    channel = outbox.named(CONTENT)
    largest = session.connection.peer_max_record_bytes - len(codec.encode_chunk(0, 0, b""))
    async with contextlib.aclosing(_chunks_of(content)) as chunks:
        await flow.room(1)  # the handler has begun to take them
        async for chunk in chunks:
            start = 0
            while start < len(chunk):
                size = min(await flow.room(len(chunk) - start), max(largest, 1))
                payload = codec.encode_chunk(identity, flow.sent, chunk[start : start + size])
                await outbox.send_own(channel, payload)
                flow.sent += size + MESSAGE_OVERHEAD_BYTES
                start += size
            await flow.room(1)
    await outbox.send_own(channel, codec.encode_last(identity, flow.sent))


def check_content(content: object) -> None:
    """Raise `InvalidMessage` for what cannot be content."""
    kind: type[Any] = type(content)
    if issubclass(kind, _NO_CONTENT) or not issubclass(kind, Iterable | AsyncIterable):
        raise _not_content(content)


def _not_content(value: object) -> InvalidMessage:
    kind = type(value).__name__
    return InvalidMessage(f"content is bytes, or what yields bytes, not {kind}")


async def _chunks_of(content: Content) -> AsyncGenerator[bytes]:
    """What content is made of. Raises `InvalidMessage` where that is not bytes."""
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, AsyncIterable):
        iterator = aiter(content)
        try:
            async for chunk in iterator:
                yield _checked(chunk)
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
    else:
        for chunk in content:
            yield _checked(chunk)


def _checked(chunk: object) -> bytes:
    if not isinstance(chunk, bytes):
        raise _not_content(chunk)
    return chunk
