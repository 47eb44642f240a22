"""`open_endpoint`: which socket, which transport, and all that is checked before data flows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as sockets
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypedDict

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io.addresses import AddressBook, checked_unix_path
from aerogram.io.arrivals import OVERFLOWS, Arrivals, Overflow
from aerogram.io.batch import probe_batch
from aerogram.io.datagram import DatagramStats
from aerogram.io.endpoint import ANY_IPV4, DatagramEndpoint
from aerogram.io.icmp import ErrorCallback, ErrorReports
from aerogram.io.inherited import inherited_socket
from aerogram.io.links import Link, Workings
from aerogram.io.multicast import only_own_groups
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.socketlink import SocketLink
from aerogram.io.sockets import (
    ask_buffers,
    checked_address,
    create_udp_socket,
)
from aerogram.io.traced import TracedLink
from aerogram.io.tracing import Observer, Tracer, check_trace
from aerogram.io.transportlink import TransportLink


class EndpointOptions(TypedDict, total=False):
    """What `open_endpoint` is told besides the address, the network and the configuration."""

    path: str | os.PathLike[str] | None
    socket: sockets.socket | None
    inherited: str | int | None
    dual_stack: bool
    reuse_port: bool
    overflow: Overflow
    details: bool
    gather_runs: bool
    keep_runs: bool
    may_fragment: bool
    on_error: ErrorCallback | None


class open_endpoint:  # noqa: N801  used as a function: `async with open_endpoint(...)`
    """Open a connectionless endpoint: `async with open_endpoint("0.0.0.0", 514) as endpoint`.

    It is bound to `host` and `port` (default: any IPv4 address and a free port), or an AF_UNIX
    socket at `path`, or it uses a bound `socket` made elsewhere, which it then owns, or the
    `inherited` one that systemd has handed over under this name or number. `dual_stack` lets an
    IPv6 endpoint carry IPv4 as well; `reuse_port` shares the port with others that ask for it.

    What comes faster than the program takes it waits in a queue (`config.receive_queue_datagrams`
    and `receive_queue_bytes`); beyond that the oldest or the newest is dropped and counted, or with
    "block" the socket is left alone and the kernel drops (the fall-back transport cannot stop to
    read: there it drops the newest). `details=False` does without interface, kernel timestamp, TTL
    and TOS, which is quicker; `gather_runs=False` without UDP_GRO. With `keep_runs` a datagram may
    be a run, of which `records` gives the parts: the quickest way to take in a flood of one sender.
    `may_fragment=False` never lets the system cut a datagram up. `on_error` is called with each
    ICMP report instead of `endpoint.errors`. `trace` is told what becomes of every datagram: an
    `aerogram.lab.Trace`, or what else is an `aerogram.io.tracing.Observer`.

    `config.transport` chooses: "batch" reads and writes the socket itself, "asyncio" is the
    fall-back for loops that cannot, "auto" what works. A given `network` makes its own.

    Raises `InvalidAddress`, `ValueError` for arguments that exclude each other, or on entering the
    `OSError` of the bind. After `await open_endpoint(...)` it is the caller who closes it.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int = 0,
        *,
        path: str | os.PathLike[str] | None = None,
        socket: sockets.socket | None = None,
        inherited: str | int | None = None,
        network: Network | None = None,
        config: Config | None = None,
        dual_stack: bool = False,
        reuse_port: bool = False,
        overflow: Overflow = "drop_oldest",
        details: bool = True,
        gather_runs: bool = True,
        keep_runs: bool = False,
        may_fragment: bool = True,
        on_error: ErrorCallback | None = None,
        trace: Observer | None = None,
    ) -> None:
        ways = (host is not None, path is not None, socket is not None, inherited is not None)
        if sum(ways) > 1:
            raise ValueError("an endpoint has one of host, path, socket and inherited")
        if network is not None and any(ways[1:]):
            raise ValueError("a network makes its own sockets")
        check_trace(trace, network)
        if overflow not in OVERFLOWS:
            raise ValueError(f"overflow is one of {', '.join(OVERFLOWS)}, not {overflow!r}")
        if socket is not None and getattr(socket, "type", None) != sockets.SOCK_DGRAM:
            raise InvalidAddress("not a datagram socket")
        checked_address(ANY_IPV4 if host is None else host, port, to_bind=True)
        self._host = ANY_IPV4 if host is None else host
        self._port = port
        self._path = None if path is None else checked_unix_path(path)
        self._socket = socket
        self._inherited = inherited
        self._network = network
        self._config = config or Config()
        self._dual_stack = dual_stack
        self._reuse_port = reuse_port
        self._overflow: Overflow = overflow
        self._details = details
        self._gather_runs = gather_runs
        self._keep_runs = keep_runs
        self._may_fragment = may_fragment
        self._on_error = on_error
        self._trace = trace
        self._endpoint: DatagramEndpoint | None = None

    def __await__(self) -> Generator[Any, None, DatagramEndpoint]:
        return self._open().__await__()

    async def __aenter__(self) -> DatagramEndpoint:
        if self._endpoint is not None:
            raise RuntimeError("this endpoint is open: call open_endpoint for another")
        self._endpoint = await self._open()
        return self._endpoint

    async def __aexit__(self, *exception: object) -> None:
        assert self._endpoint is not None
        try:
            await self._endpoint.close()
        finally:
            self._endpoint = None

    async def _open(self) -> DatagramEndpoint:
        if self._network is not None:
            return await self._open_in(self._network)
        sock = await self._bound_socket()
        remove = _remover(self._path)
        try:
            sock.setblocking(False)
            return await self._open_with(sock, remove)
        except BaseException:
            sock.close()
            remove()
            raise

    async def _bound_socket(self) -> sockets.socket:
        if self._socket is not None:
            return self._socket
        if self._inherited is not None:
            return inherited_socket(self._inherited)
        if self._path is not None:
            return _unix_socket(self._path, self._config.socket_buffer_bytes)
        sock = create_udp_socket(
            (await SocketNetwork().resolve(self._host, self._port))[0],
            buffer_bytes=self._config.socket_buffer_bytes,
            reuse_port=self._reuse_port,
            ipv6_only=not self._dual_stack,
            may_fragment=self._may_fragment,
        )
        only_own_groups(sock)
        return sock

    async def _open_with(
        self, sock: sockets.socket, remove: Callable[[], None]
    ) -> DatagramEndpoint:
        loop = asyncio.get_running_loop()
        batched = self._config.transport != "asyncio" and probe_batch(loop)
        if self._config.transport == "batch" and not batched:
            raise OSError(errno.EOPNOTSUPP, "the batched transport does not work here")
        workings = self._workings(loop, sock.family, _is_dual_stack(sock), can_block=batched)
        endpoint = DatagramEndpoint(workings)
        link: Link
        if batched:
            link = SocketLink(
                workings,
                endpoint,
                sock,
                details=self._details,
                gather_runs=self._gather_runs,
                keep_runs=self._keep_runs,
            )
        else:
            link = transport_link = TransportLink(
                workings,
                endpoint,
                sock,
                buffer_bytes=self._config.transport_buffer_bytes,
            )
            await loop.create_datagram_endpoint(lambda: transport_link, sock=sock)
        endpoint.attach(_watched(link, workings), remove)
        return endpoint

    async def _open_in(self, network: Network) -> DatagramEndpoint:
        """Open in a simulated network, or in that of this machine by an asyncio transport."""
        loop = asyncio.get_running_loop()
        local_address = (await network.resolve(self._host, self._port))[0]
        family = sockets.AF_INET6 if ":" in local_address[0] else sockets.AF_INET
        workings = self._workings(loop, family, self._dual_stack, can_block=False)
        endpoint = DatagramEndpoint(workings)
        clock = time.time if isinstance(network, SocketNetwork) else loop.time
        link = TransportLink(
            workings,
            endpoint,
            buffer_bytes=self._config.transport_buffer_bytes,
            wall_clock=clock,
        )
        await network.create_datagram_endpoint(lambda: link, local_address=local_address)
        endpoint.attach(_watched(link, workings))
        return endpoint

    def _workings(
        self, loop: asyncio.AbstractEventLoop, family: int, dual_stack: bool, *, can_block: bool
    ) -> Workings:
        stats = DatagramStats()
        tracer = None if self._trace is None else Tracer(self._trace)
        overflow = self._overflow
        if overflow == "block" and not can_block:
            overflow = "drop_newest"
        arrivals = Arrivals(
            loop,
            stats,
            limit=self._config.receive_queue_datagrams,
            limit_bytes=self._config.receive_queue_bytes,
            overflow=overflow,
            tracer=tracer,
        )
        errors = ErrorReports(loop, stats, self._on_error, tracer)
        book = AddressBook(family, dual_stack=dual_stack)
        network = self._network or SocketNetwork()
        return Workings(loop, family, book, arrivals, stats, errors, network, tracer)


def _watched(link: Link, workings: Workings) -> Link:
    return link if workings.tracer is None else TracedLink(link, workings.book, workings.tracer)


def _unix_socket(path: str, buffer_bytes: int) -> sockets.socket:
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "no AF_UNIX datagram sockets here")
    sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
    try:
        ask_buffers(sock, buffer_bytes)
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _remover(path: str | None) -> Callable[[], None]:
    """Return what removes the file of a bound AF_UNIX socket, if it is still the same."""
    if path is None or path.startswith("\0"):
        return _remove_nothing
    file = Path(path)
    inode = file.stat().st_ino

    def remove() -> None:
        with contextlib.suppress(OSError):
            if file.stat().st_ino == inode:
                file.unlink()

    return remove


def _remove_nothing() -> None:
    """Be what removes the file of a socket that has none."""


def _is_dual_stack(sock: sockets.socket) -> bool:
    if sock.family != sockets.AF_INET6:
        return False
    return not sock.getsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY)
