"""TCP with length-prefixed messages.

Counted are messages at a coroutine handler that a protocol feeds through a queue. Each message is
one `transport.write`, as a user writes it: bundling several into a write would be another protocol.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from benchmarks.control import Control
from benchmarks.mailbox import (
    Frames,
    HandlerFactory,
    Mailbox,
    framed,
    receiver_handler,
    sender_handler,
)
from benchmarks.work import Load, Tally, Work


class MessageProtocol(asyncio.Protocol):
    """Messages out of a TCP stream, with back-pressure on what is written."""

    def __init__(self, handler: HandlerFactory) -> None:
        self._frames = Frames()
        self._mailbox = Mailbox(handler(self.send))
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        stream = transport.get_extra_info("socket")
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._mailbox.close()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.split(data):
            self._mailbox.put(message)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    async def send(self, message: bytes) -> None:
        self._transport.write(framed(message))
        if not self._may_write.is_set():
            await self._may_write.wait()

    def close(self) -> None:
        self._transport.close()


async def run_receiver(control: Control, work: Work) -> None:
    tally = Tally()
    handler = receiver_handler(work, tally)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MessageProtocol(handler), "127.0.0.1", 0)
    await control.receive(tally, server.sockets[0].getsockname())
    server.close()


async def run_sender(control: Control, work: Work) -> None:
    host, port = await control.hear()
    load = Load(work)
    handler = sender_handler(load)
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: MessageProtocol(handler), host, port)
    await control.send(load, protocol.send)
    protocol.close()
