"""`serve`: from an app and an address to sessions, and back to nothing.

Rules: a server has an identity, a shared secret or `insecure=True`, and makes an identity if it is
given none; leaving the context closes sessions with a reason, waits a grace time, cancels the rest,
and leaves no task, descriptor or timer behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Generic

from aerogram.address import ServerAddress
from aerogram.app import App
from aerogram.config import Config
from aerogram.core.endpoint import Endpoint
from aerogram.core.handshake import ServerSecurity
from aerogram.core.keys import Identity
from aerogram.core.ledger import Ledger
from aerogram.core.stats import EndpointStats
from aerogram.datagrams import DatagramWorker, handling_datagrams
from aerogram.errors import (
    InsecureRefused,
)
from aerogram.io.endpoint import DatagramEndpoint
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.protocol import TransportStats
from aerogram.io.sockets import Address, checked_address, is_loopback
from aerogram.io.tracing import Observer, check_trace
from aerogram.manager import SessionManager
from aerogram.security import Insecure, check_insecure, check_is, check_psk, not_loopback
from aerogram.session import Session
from aerogram.typevars import DepsT, StateT

Logger = logging.Logger | logging.LoggerAdapter[Any]
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""What a client on the same machine connects to when a server is bound to every address."""


@dataclass(slots=True)
class ServerStats:
    """A snapshot of what a server has counted over all its sessions and its socket."""

    sessions: int
    handler_errors: int
    totals: Ledger
    """What all sessions have counted, those that are gone included."""
    ended: Ledger
    """What the sessions that are gone have counted."""
    endpoint: EndpointStats
    transport: TransportStats

    @property
    def balanced(self) -> bool:
        """True if every message that any session sent or received is accounted for once."""
        return self.totals.balanced


class Server:
    """A running server. Users get it from `serve`."""

    def __init__(
        self, manager: SessionManager, address: ServerAddress, workers: list[DatagramWorker]
    ) -> None:
        self._manager = manager
        self._workers = workers
        self._address = address
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self._address.host}:{self.port} {len(self.sessions)} sessions>"

    @property
    def address(self) -> str:
        """What a client connects to: `aerogram://host:port/#k=<server key>`."""
        return str(self._address)

    @property
    def port(self) -> int:
        """The UDP port; the one that the system chose if it was asked to."""
        return self._address.port

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to."""
        return self._manager.local_address

    def address_at(self, host: str) -> str:
        """The address for clients that reach this server under another name."""
        checked_address(host, self.port)
        return str(ServerAddress(host, self.port, self._address.key))

    @property
    def sessions(self) -> list[Session[Any]]:
        """The sessions that are open now."""
        return [session.public for session in self._manager.sessions if not session.closed]

    @property
    def datagram_endpoints(self) -> list[DatagramEndpoint]:
        """The endpoints of the app's `@app.datagram` handlers, in the order of registration."""
        return [worker.endpoint for worker in self._workers]

    @property
    def stats(self) -> ServerStats:
        """A snapshot of all counters."""
        manager = self._manager
        return ServerStats(
            sessions=len(self.sessions),
            handler_errors=manager.handler_errors
            + sum(worker.handler_errors for worker in self._workers),
            totals=manager.totals,
            ended=replace(manager.ended),
            endpoint=manager.endpoint.stats,
            transport=manager.protocol.stats,
        )

    async def close(self, reason: str = "the server is closing") -> None:
        """Close every session with a reason, wait the grace time, and close the socket."""
        if not self._closed.is_set():
            try:
                await self._manager.close(reason, self._manager.config.grace_seconds)
            finally:
                self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until `close` is done."""
        await self._closed.wait()


class serve(Generic[DepsT, StateT]):  # noqa: N801  used as a function: `async with serve(...)`
    """Serve an app: `async with serve(app, host, port) as server`, or `await serve(...)`.

    Port 0 takes a free one. Without `identity`, `psk` or `insecure` a new identity is made, which
    `server.address` carries. `psk` are 32 bytes that clients must share. `insecure=True` lets
    clients speak plain text, on loopback only unless it is "anywhere". `trace` is told of every
    datagram: an `aerogram.lab.Trace`, or what else is an `Observer` of `aerogram.io.tracing`.

    Raises `InvalidAddress`, `InsecureRefused`, `ValueError` for a psk of another size or a trace
    besides a network, which has its own, `TypeError` for an argument of another type, or the
    `OSError` of the bind.

    After `await serve(...)` it is the caller who closes the server.
    """

    def __init__(
        self,
        app: App[DepsT, StateT],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        identity: Identity | None = None,
        psk: bytes | None = None,
        insecure: Insecure = False,
        config: Config | None = None,
        network: Network | None = None,
        logger: Logger | None = None,
        trace: Observer | None = None,
    ) -> None:
        checked_address(host, port, to_bind=True)
        check_is("serve()", app, App, optional=False)
        check_is("config=", config, Config)
        check_is("identity=", identity, Identity)
        if psk is not None:
            check_psk(psk)
        self._app = app
        self._host = host
        self._port = port
        self._identity = identity
        self._psk = psk
        check_insecure(insecure)
        self._insecure: Insecure = insecure
        self._config = config or Config()
        self._given_network = network
        self._trace = trace
        self._network = network or SocketNetwork(self._config, trace=trace)
        check_trace(trace, network)
        self._logger = logger or logging.getLogger("aerogram.server")
        self._stack = contextlib.AsyncExitStack()

    def __await__(self) -> Generator[Any, None, Server]:
        return self._open(contextlib.AsyncExitStack()).__await__()

    async def __aenter__(self) -> Server:
        return await self._open(self._stack)

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def _open(self, stack: contextlib.AsyncExitStack) -> Server:
        network, config = self._network, self._config
        local_address = (await network.resolve(self._host, self._port))[0]
        if self._insecure is True and not is_loopback(local_address[0]):
            raise InsecureRefused(not_loopback(local_address[0]))
        async with contextlib.AsyncExitStack() as opening:
            await opening.enter_async_context(self._app.running())
            identity = self._usable_identity()
            security = ServerSecurity(identity, self._psk, insecure=bool(self._insecure))
            endpoint = Endpoint(
                config,
                random_bytes=network.random_bytes,
                specs=self._app.channels.specs,
                security=security,
                reset_secret=_reset_secret(identity, self._psk),
            )
            manager = SessionManager(endpoint, config, self._app.channels, self._app, self._logger)
            await manager.open(network, local_address)
            key = identity.public_bytes if identity is not None else None
            host = WILDCARDS.get(self._host, self._host)
            workers = await opening.enter_async_context(self._datagrams())
            server = Server(manager, ServerAddress(host, manager.local_address[1], key), workers)
            opening.push_async_callback(server.close)
            stack.push_async_exit(opening.pop_all())
        self._logger.info("serving at %s port %d", *manager.local_address[:2])
        return server

    def _datagrams(self) -> AbstractAsyncContextManager[list[DatagramWorker]]:
        return handling_datagrams(
            self._app.datagram_routes,
            network=self._given_network,
            config=self._config,
            logger=self._logger,
            trace=self._trace,
        )

    def _usable_identity(self) -> Identity | None:
        if self._identity is None and self._psk is None and not self._insecure:
            return Identity.from_private_bytes(self._network.random_bytes(32))
        return self._identity


@contextlib.asynccontextmanager
async def serve_datagrams(
    app: App[Any, Any],
    *,
    config: Config | None = None,
    network: Network | None = None,
    logger: Logger | None = None,
    trace: Observer | None = None,
) -> AsyncGenerator[list[DatagramEndpoint]]:
    """Serve only the `@app.datagram` handlers of an app, without sessions.

    Yields their endpoints, in the order of registration. `trace` is told of every datagram. Raises
    the `OSError` of a bind, `ValueError` for a trace besides a network, which has its own.
    """
    async with (
        app.running(),
        handling_datagrams(
            app.datagram_routes,
            network=network,
            config=config or Config(),
            logger=logger or logging.getLogger("aerogram.server"),
            trace=trace,
        ) as workers,
    ):
        yield [worker.endpoint for worker in workers]


def _reset_secret(identity: Identity | None, psk: bytes | None) -> bytes | None:
    """Stateless resets need a secret that survives a restart (RFC 9000 §10.3.2)."""
    secret = identity.private_bytes if identity is not None else psk
    if secret is None:
        return None
    return hashlib.blake2s(b"aerogram stateless reset", key=secret).digest()


async def run_until_signal(
    app: App[Any, Any],
    host: str,
    port: int,
    started: Callable[[Server], None] | None,
    *,
    identity: Identity | None,
    psk: bytes | None,
    insecure: Insecure,
    config: Config | None,
) -> None:
    """Serve until SIGINT or SIGTERM comes; `started` is called with the server once it runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            _handle_signal(loop, number, stop, handlers)
        async with serve(
            app, host, port, identity=identity, psk=psk, insecure=insecure, config=config
        ) as server:
            if started is not None:
                started(server)
            await stop.wait()


def _handle_signal(
    loop: asyncio.AbstractEventLoop,
    number: signal.Signals,
    stop: asyncio.Event,
    handlers: contextlib.ExitStack,
) -> None:
    try:
        loop.add_signal_handler(number, stop.set)
    except NotImplementedError:  # Windows

        def stop_soon(_number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(stop.set)

        before = signal.signal(number, stop_soon)
        handlers.callback(signal.signal, number, before)
    else:
        handlers.callback(loop.remove_signal_handler, number)
