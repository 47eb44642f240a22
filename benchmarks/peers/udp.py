"""Bare UDP: one datagram a message, nothing is resent. The floor under every protocol over UDP.

Counted are messages at a coroutine handler that a protocol feeds through a queue. A datagram socket
has no back-pressure, so that a one-way sender that outruns its receiver shows as lost messages.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from benchmarks.control import Control
from benchmarks.mailbox import HandlerFactory, Mailbox, receiver_handler, sender_handler
from benchmarks.work import Load, Tally, Work

BURST = 64
"""Messages that a sender hands over before it lets its loop run."""


class DatagramPeer(asyncio.DatagramProtocol):
    """Messages out of datagrams; answers go to the address of the latest one."""

    def __init__(self, handler: HandlerFactory) -> None:
        self._address: Any = None
        self._mailbox = Mailbox(handler(self.send))
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        if isinstance(getattr(transport, "max_size", None), int):
            transport.max_size = 65536  # type: ignore[attr-defined]  # asyncio's 256 KiB is slow

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._address = addr
        self._mailbox.put(data)

    async def send(self, message: bytes) -> None:
        self._transport.sendto(message, self._address)

    async def send_in_bursts(self, message: bytes) -> None:
        self._transport.sendto(message)
        self._sent += 1
        if self._sent % BURST == 0:
            await asyncio.sleep(0)

    def close(self) -> None:
        self._mailbox.close()
        self._transport.close()


async def run_receiver(control: Control, work: Work) -> None:
    tally = Tally()
    handler = receiver_handler(work, tally)
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_datagram_endpoint(
        lambda: DatagramPeer(handler), local_addr=("127.0.0.1", 0)
    )
    await control.receive(tally, transport.get_extra_info("sockname"))
    peer.close()


async def run_sender(control: Control, work: Work) -> None:
    address = await control.hear()
    load = Load(work)
    handler = sender_handler(load)
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_datagram_endpoint(
        lambda: DatagramPeer(handler), remote_addr=address
    )
    await control.send(load, peer.send_in_bursts)
    peer.close()
