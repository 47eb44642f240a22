"""What a user of a bare transport writes to have coroutine handlers: frames, a queue, a worker.

Every asyncio peer uses the same, so that all rates count calls of a coroutine handler.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from struct import Struct

from benchmarks.work import Load, Tally, Work

LENGTH = Struct(">I")

Handler = Callable[[bytes], Awaitable[None]]
Send = Callable[[bytes], Awaitable[None]]
HandlerFactory = Callable[[Send], Handler]
"""Makes the handler of one connection from the way to send on it."""


class Mailbox:
    """Hands messages to a coroutine, one after the other, from one task."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._messages: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._worker = asyncio.create_task(self._run())

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._arrived.set()

    def close(self) -> None:
        self._worker.cancel()

    async def _run(self) -> None:
        while True:
            while self._messages:
                await self._handler(self._messages.popleft())
            self._arrived.clear()
            await self._arrived.wait()


class Frames:
    """Cuts a byte stream into length-prefixed messages."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[bytes]:
        data = self._rest + data
        messages: list[bytes] = []
        position = 0
        while len(data) - position >= LENGTH.size:
            [length] = LENGTH.unpack_from(data, position)
            end = position + LENGTH.size + length
            if end > len(data):
                break
            messages.append(data[position + LENGTH.size : end])
            position = end
        self._rest = data[position:]
        return messages


def framed(message: bytes) -> bytes:
    return LENGTH.pack(len(message)) + message


def receiver_handler(work: Work, tally: Tally) -> HandlerFactory:
    """The handler of a receiving side: it counts, and echoes if the work wants it."""

    def make(send: Send) -> Handler:
        async def count(message: bytes) -> None:
            tally.take()

        async def count_and_echo(message: bytes) -> None:
            tally.take()
            await send(message)

        return count_and_echo if work.echoes else count

    return make


def sender_handler(load: Load) -> HandlerFactory:
    """The handler of a sending side: it takes the echoes."""

    def make(send: Send) -> Handler:
        async def take_echo(message: bytes) -> None:
            load.echoed()

        return take_echo

    return make
