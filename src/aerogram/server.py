"""`serve` and `connect`: from an app and an address to sessions, and back to nothing.

Both are async context managers over one `SessionManager` each. Rules: who is at the other end is
always said in so many words, a key, a shared secret or `insecure=True`; names are resolved before
anything is opened; leaving the context closes sessions with a reason, waits a grace time, cancels
the rest, and leaves no task, descriptor or timer behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, runtime_checkable

from aerogram.address import ServerAddress, decode_key, parse_server_address
from aerogram.app import App, Channels
from aerogram.config import Config
from aerogram.core.endpoint import Endpoint
from aerogram.core.handshake import ClientSecurity, ServerSecurity
from aerogram.core.keys import Identity
from aerogram.core.stats import ConnectionStats, EndpointStats
from aerogram.core.wire import Mode
from aerogram.errors import (
    ConnectFailed,
    InsecureRefused,
    InvalidAddress,
    ServerIdentityRequired,
)
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.protocol import TransportStats
from aerogram.io.sockets import Address, checked_address, is_loopback
from aerogram.manager import SessionManager
from aerogram.session import Session
from aerogram.typevars import DepsT, StateT

Logger = logging.Logger | logging.LoggerAdapter[Any]
Insecure = bool | Literal["anywhere"]
"""False, True for plain text on loopback, or "anywhere" to force it."""

PSK_BYTES: Final = 32
ATTEMPT_INTERVAL_SECONDS: Final = 0.25
"""A further address of a name is tried after this (RFC 8305 §5 "Connection Attempt Delay")."""
ATTEMPTS_LIMIT: Final = 4
"""Addresses of a name that are tried."""
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""What a client on the same machine connects to when a server is bound to every address."""

NO_IDENTITY: Final = (
    "connect() must be told how to recognise the server. Either pass the server's address with its"
    " key (server.address, aerogram://host:port/#k=...), or server_key=..., or psk=... (32 bytes"
    " that both sides share), or insecure=True for plain text on this machine."
)


@dataclass(slots=True)
class ServerStats:
    """A snapshot of what a server has counted over all its sessions and its socket."""

    sessions: int
    handler_errors: int
    ended: ConnectionStats
    """What the sessions that are gone have counted."""
    endpoint: EndpointStats
    transport: TransportStats


@runtime_checkable
class Reachable(Protocol):
    """Something with addresses of a server, such as a service that was discovered."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def server_addresses(self) -> Sequence[ServerAddress]:
        """Where the server is, the likeliest first; all with the same key."""
        ...


class Server:
    """A running server. Users get it from `serve`."""

    def __init__(self, manager: SessionManager, address: ServerAddress) -> None:
        self._manager = manager
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
        return [session for session in self._manager.sessions if not session.closed]

    @property
    def stats(self) -> ServerStats:
        """A snapshot of all counters."""
        manager = self._manager
        return ServerStats(
            sessions=len(self.sessions),
            handler_errors=manager.handler_errors,
            ended=manager.ended,
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
    clients speak plain text, on loopback only unless it is "anywhere". Raises `InvalidAddress`,
    `InsecureRefused`, `ValueError` for a psk of another size, or the `OSError` of the bind.

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
    ) -> None:
        checked_address(host, port, to_bind=True)
        if psk is not None:
            _check_psk(psk)
        self._app = app
        self._host = host
        self._port = port
        self._identity = identity
        self._psk = psk
        self._insecure: Insecure = insecure
        self._config = config or Config()
        self._network = network or SocketNetwork(self._config)
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
            raise InsecureRefused(_not_loopback(local_address[0]))
        async with contextlib.AsyncExitStack() as opening:
            await opening.enter_async_context(_lifespan(self._app))
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
            server = Server(manager, ServerAddress(host, manager.local_address[1], key))
            opening.push_async_callback(server.close)
            stack.push_async_exit(opening.pop_all())
        self._logger.info("serving at %s port %d", *manager.local_address[:2])
        return server

    def _usable_identity(self) -> Identity | None:
        if self._identity is None and self._psk is None and not self._insecure:
            return Identity.from_private_bytes(self._network.random_bytes(32))
        return self._identity


@contextlib.asynccontextmanager
async def _lifespan(app: App[Any, Any]) -> AsyncGenerator[None]:
    """Enter the app's lifespan; `app.state` is what it yields."""
    if app.lifespan is None:
        yield
        return
    async with app.lifespan() as state:
        app.push_state(state)
        try:
            yield
        finally:
            app.pop_state(state)


def _reset_secret(identity: Identity | None, psk: bytes | None) -> bytes | None:
    """Stateless resets need a secret that survives a restart (RFC 9000 §10.3.2)."""
    secret = identity.private_bytes if identity is not None else psk
    if secret is None:
        return None
    return hashlib.blake2s(b"aerogram stateless reset", key=secret).digest()


class connect(Generic[StateT]):  # noqa: N801  used as a function: `async with connect(...)`
    """Connect to a server: `async with connect(address) as session`.

    `address` is a `server.address`, a service that was discovered, or a host with `port`. The
    server is recognised by the key in the address or `server_key` (32 bytes, or its text), by
    `psk`, or not at all with `insecure=True`: plain text, refused off loopback unless it is
    "anywhere". `app` has the handlers of this side; without one, messages wait for
    `session.receive()`. `timeout` bounds the handshake in seconds (default:
    `config.handshake_timeout_seconds`).

    Raises `ServerIdentityRequired`, `InvalidAddress`, `InsecureRefused`; on entering
    `HandshakeTimeout` (a `ConnectFailed` and `TimeoutError`), or `OSError` for an unknown name.
    """

    def __init__(
        self,
        address: str | Reachable,
        port: int | None = None,
        *,
        server_key: bytes | str | None = None,
        psk: bytes | None = None,
        insecure: Insecure = False,
        app: App[Any, StateT] | None = None,
        identity: Identity | None = None,
        timeout: float | None = None,
        config: Config | None = None,
        network: Network | None = None,
        logger: Logger | None = None,
    ) -> None:
        self._targets = _targets(address, port)
        target = self._targets[0]
        if isinstance(server_key, str):
            server_key = decode_key(server_key)
        if server_key is not None and target.key not in (None, server_key):
            raise InvalidAddress("server_key= is not the key in the address")
        self._key = server_key if server_key is not None else target.key
        self._psk = psk
        self._insecure: Insecure = insecure
        self._identity = identity
        self._app = app
        self._config = config or Config()
        self._timeout = self._config.handshake_timeout_seconds if timeout is None else timeout
        self._network = network or SocketNetwork(self._config)
        self._logger = logger or logging.getLogger("aerogram.client")
        self._stack = contextlib.AsyncExitStack()
        self._check_identity()

    def _check_identity(self) -> None:
        ways = [self._key is not None, self._psk is not None, bool(self._insecure)]
        if not any(ways):
            raise ServerIdentityRequired(NO_IDENTITY)
        if sum(ways) > 1:
            raise ValueError("give one of a server key, psk= and insecure=, not several")
        if self._psk is not None:
            _check_psk(self._psk)
        if self._key is not None and len(self._key) != 32:
            raise InvalidAddress(f"a server key has 32 bytes, not {len(self._key)}")

    async def __aenter__(self) -> Session[StateT]:
        async with contextlib.AsyncExitStack() as opening:
            if self._app is not None:
                await opening.enter_async_context(_lifespan(self._app))
            manager, session = await self._first_of(await self._addresses())
            opening.push_async_callback(manager.close, "", self._config.grace_seconds)
            self._stack = opening.pop_all()
        return session

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def _addresses(self) -> list[Address]:
        found: list[Address] = []
        for target in self._targets:
            found += await self._network.resolve(target.host, target.port)
        return list(dict.fromkeys(found))[:ATTEMPTS_LIMIT]

    def _security(self) -> ClientSecurity:
        if self._insecure:
            return ClientSecurity(Mode.INSECURE)
        if self._psk is not None:
            return ClientSecurity(Mode.PSK, psk=self._psk)
        identity = self._identity or Identity.from_private_bytes(self._network.random_bytes(32))
        return ClientSecurity(Mode.PINNED, identity, self._key)

    async def _first_of(self, addresses: list[Address]) -> tuple[SessionManager, Session[StateT]]:
        """Try the addresses of a name one after the other; the first that answers wins."""
        for address in addresses:
            if self._insecure is True and not is_loopback(address[0]):
                raise InsecureRefused(_not_loopback(address[0]))
        if len(addresses) == 1:
            return await self._attempt(addresses[0])
        attempts: set[asyncio.Task[tuple[SessionManager, Session[StateT]]]] = set()
        errors: list[Exception] = []
        waiting = [*addresses]
        try:
            while waiting or attempts:
                if waiting:
                    attempts.add(asyncio.create_task(self._attempt(waiting.pop(0))))
                pause = ATTEMPT_INTERVAL_SECONDS if waiting else None
                done, attempts = await asyncio.wait(
                    attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    error = attempt.exception()
                    if error is None:
                        return attempt.result()
                    if not isinstance(error, OSError | ConnectFailed):
                        raise error
                    errors.append(error)
        finally:
            await _cancel_all(attempts)
        raise errors[-1]

    async def _attempt(self, address: Address) -> tuple[SessionManager, Session[StateT]]:
        channels = self._app.channels if self._app is not None else Channels(())
        endpoint = Endpoint(
            self._config, random_bytes=self._network.random_bytes, specs=channels.specs
        )
        manager = SessionManager(endpoint, self._config, channels, self._app, self._logger)
        wildcard = "::" if ":" in address[0] else "0.0.0.0"  # noqa: S104
        try:
            await manager.open(self._network, (wildcard, 0))
            session = await manager.connect(address, self._security(), self._timeout)
        except BaseException:
            await manager.close("", 0.0)
            raise
        return manager, session


async def _cancel_all(tasks: set[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _targets(address: str | Reachable, port: int | None) -> Sequence[ServerAddress]:
    if isinstance(address, str):
        return [_target(address, port)]
    if not isinstance(address, Reachable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidAddress(f"an address is a str, not {type(address).__name__}")
    if not address.server_addresses:
        raise InvalidAddress(f"{address.name} has no address")
    return address.server_addresses


def _target(address: str, port: int | None) -> ServerAddress:
    if "://" in address:
        if port is not None:
            raise InvalidAddress("the port is in the address already")
        return parse_server_address(address)
    if port is None:
        raise InvalidAddress("give a port, or an address that has one: aerogram://host:port/#k=...")
    return ServerAddress(*checked_address(address, port))


def _check_psk(psk: bytes) -> None:
    if not _is_bytes(psk) or len(psk) != PSK_BYTES:
        raise ValueError(
            f"psk= takes {PSK_BYTES} random bytes, as os.urandom({PSK_BYTES}) gives; a password"
            " could be guessed from one recorded packet"
        )


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _not_loopback(host: str) -> str:
    return (
        f"plain text to {host}: insecure=True is for this machine only; use a key or psk=, or"
        ' insecure="anywhere" where the network itself is safe'
    )


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
