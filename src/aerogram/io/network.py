"""The one place where the program meets the network, so that a simulated one can take its place.

`Network` is all that a session manager needs: names to addresses, an endpoint, random bytes.
`SocketNetwork` is the real one. Time is the event loop's own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Protocol

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io.batch import BatchTransport, probe_batch
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import (
    Address,
    as_address,
    checked_address,
    create_udp_socket,
    is_numeric,
    resolve_numeric,
)
from aerogram.io.traced import TracedBatchTransport
from aerogram.io.tracing import Observer, Tracer

TransportAndProtocol = tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]


class Network(Protocol):
    """Names, endpoints and randomness."""

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, at least one, best first.

        Raises `InvalidAddress` for what is no host or port, `OSError` where the name is unknown.
        """
        ...

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        *,
        local_address: Address,
    ) -> TransportAndProtocol:
        """Return a transport bound to `local_address` and its connected protocol.

        Port 0 takes a free one: `transport.get_extra_info("sockname")` tells. Raises
        `InvalidAddress`, or the `OSError` of the bind.
        """
        ...

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that nobody else can guess."""
        ...


class SocketNetwork:
    """The network of this machine.

    `reuse_port` and `ipv6_only` are those of `create_udp_socket`. `trace` is told of every datagram
    of a `PacketProtocol`.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        reuse_port: bool = False,
        ipv6_only: bool = True,
        trace: Observer | None = None,
    ) -> None:
        self._config = config or Config()
        self._reuse_port = reuse_port
        self._ipv6_only = ipv6_only
        self._trace = trace

    async def resolve(self, host: str, port: int) -> list[Address]:
        """As `Network.resolve`; a name is looked up in the loop's executor."""
        checked_address(host, port, to_bind=True)
        if is_numeric(host):
            return [resolve_numeric(host, port)]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        # Some resolvers name an address more than once; a dict keeps their order.
        return list(dict.fromkeys(as_address(entry[4]) for entry in found))

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        *,
        local_address: Address,
    ) -> TransportAndProtocol:
        """As `Network.create_datagram_endpoint`; the transport follows `config.transport`.

        Only a `PacketProtocol` can have the batched one; with `"batch"` another protocol, or a
        loop without `add_reader`, raises `OSError`.
        """
        if not isinstance(local_address, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidAddress(f"an address is a tuple (host, port), not {local_address!r}")
        if len(local_address) == 2:
            local_address = (await self.resolve(*local_address))[0]
        udp = create_udp_socket(
            local_address,
            buffer_bytes=self._config.socket_buffer_bytes,
            reuse_port=self._reuse_port,
            ipv6_only=self._ipv6_only,
        )
        try:
            protocol = protocol_factory()
            if self._trace is not None and isinstance(protocol, PacketProtocol):
                protocol.watch(Tracer(self._trace))
            return await self._open(udp, protocol)
        except BaseException:
            udp.close()
            raise

    async def _open(
        self, udp: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> TransportAndProtocol:
        loop = asyncio.get_running_loop()
        wanted = self._config.transport
        if wanted != "asyncio" and isinstance(protocol, PacketProtocol) and probe_batch(loop):
            kind = BatchTransport if protocol.tracer is None else TracedBatchTransport
            transport = kind(loop, udp, protocol, self._config)
            transport.start()
            return transport, protocol
        if wanted == "batch":
            raise OSError(errno.EOPNOTSUPP, "the batched transport does not work here")
        if isinstance(protocol, PacketProtocol) and type(loop).__module__.startswith("uvloop"):
            protocol.write_to(udp)
        opening = asyncio.ensure_future(loop.create_datagram_endpoint(lambda: protocol, sock=udp))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # uvloop would leave a transport open whose opening is cancelled.
            opened, _ = await opening
            opened.close()
            raise

    def random_bytes(self, count: int) -> bytes:
        """As `Network.random_bytes`, from the operating system."""
        return os.urandom(count)
