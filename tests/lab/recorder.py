"""A protocol that remembers, and endpoints of it, for the tests of the simulated network."""

from __future__ import annotations

import asyncio
from typing import Any

from aerogram.lab import Host, Network, SimulatedTransport


class Recorder(asyncio.DatagramProtocol):
    """Remembers what it got; `echo` sends it back."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.transport: Any = None
        self.received: list[tuple[float, bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost: list[Exception | None] = []
        self.close_after: int | None = None
        self._arrived = asyncio.Event()

    async def has(self, count: int) -> None:
        """Wait until so many datagrams have come."""
        while len(self.received) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((asyncio.get_running_loop().time(), data, addr))
        self._arrived.set()
        if len(self.received) == self.close_after:
            self.transport.close()
        if self.echo:
            self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def data(self) -> list[bytes]:
        return [data for _, data, _ in self.received]

    @property
    def times(self) -> list[float]:
        return [time for time, _, _ in self.received]

    @property
    def sources(self) -> list[Any]:
        return [source for _, _, source in self.received]


async def open_at(
    where: Host | Network,
    address: tuple[str, int] = ("0.0.0.0", 0),
    *,
    echo: bool = False,
    **options: Any,
) -> tuple[SimulatedTransport, Recorder]:
    transport, protocol = await where.create_datagram_endpoint(
        lambda: Recorder(echo=echo), local_address=address, **options
    )
    assert isinstance(transport, SimulatedTransport)
    assert isinstance(protocol, Recorder)
    return transport, protocol
