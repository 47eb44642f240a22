"""Receivers of raw datagrams in Python: `open_endpoint` in its ways, and what asyncio itself has.

Each counts what reaches the user's code: a coroutine for `open_endpoint`, the callback of a
protocol for the others. A process imports only what it measures: which large blocks of memory were
ever freed decides how malloc serves asyncio's reads of 256 KiB, at a factor of five.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aerogram.io.endpoint import DatagramEndpoint

BUFFER_BYTES = 4 * 1024 * 1024
"""What `Config.socket_buffer_bytes` asks for; the others get the same."""


class Counter:
    """Datagrams that came, and whether they are as many as wanted."""

    def __init__(self) -> None:
        self.count = 0
        self.target = -1
        self.reached = asyncio.Event()

    async def until(self, target: int) -> None:
        self.target = target
        if self.count < target:
            self.reached.clear()
            await self.reached.wait()


class CountingProtocol(asyncio.DatagramProtocol):
    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def datagram_received(self, data: bytes, addr: Any) -> None:
        counter = self._counter
        counter.count += 1
        if counter.count == counter.target:
            counter.reached.set()


Opened = AbstractAsyncContextManager[None]
Opener = Callable[[socket.socket, Counter], Opened]


@dataclass(frozen=True, slots=True)
class Receiver:
    loop: str
    """`asyncio` or `uvloop`."""

    opened: Opener


def bound_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.asynccontextmanager
async def protocol(sock: socket.socket, counter: Counter) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: CountingProtocol(counter), sock=sock)
    try:
        yield
    finally:
        transport.close()


async def iterate(endpoint: DatagramEndpoint, counter: Counter) -> None:
    async for _ in endpoint:
        counter.count += 1
        if counter.count == counter.target:
            counter.reached.set()


async def take_many(endpoint: DatagramEndpoint, counter: Counter) -> None:
    while True:
        for _ in await endpoint.receive_many():
            counter.count += 1
            if counter.count == counter.target:
                counter.reached.set()


async def take_records(endpoint: DatagramEndpoint, counter: Counter) -> None:
    while True:
        for datagram in await endpoint.receive_many():
            for _ in datagram.records:
                counter.count += 1
                if counter.count == counter.target:
                    counter.reached.set()


def endpoint_with(read: Callable[[DatagramEndpoint, Counter], Any] = iterate, **how: Any) -> Opener:
    @contextlib.asynccontextmanager
    async def opened(sock: socket.socket, counter: Counter) -> AsyncGenerator[None]:
        from aerogram.io.opening import open_endpoint  # noqa: PLC0415  see above

        async with open_endpoint(socket=sock, **how) as endpoint:
            reading = asyncio.create_task(read(endpoint, counter))
            try:
                yield
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    return opened


RECEIVERS = {
    "aerogram": Receiver("uvloop", endpoint_with()),
    "aerogram-many": Receiver("uvloop", endpoint_with(take_many)),
    "aerogram-plain": Receiver("uvloop", endpoint_with(details=False)),
    "aerogram-records": Receiver("uvloop", endpoint_with(take_records, keep_runs=True)),
    "aerogram-asyncio": Receiver("asyncio", endpoint_with()),
    "uvloop": Receiver("uvloop", protocol),
    "asyncio": Receiver("asyncio", protocol),
}
"""By name. `many` takes lists, `plain` does without `details`, `records` keeps runs whole until it
takes them apart, `asyncio` runs on that loop."""
