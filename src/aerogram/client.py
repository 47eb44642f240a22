"""`connect`: from the address of a server to a session, and back to nothing.

Rules: who is at the other end is always said in so many words, a key, a shared secret or
`insecure=True`; names are resolved before anything is opened; the addresses of a name are tried one
after the other and the first that answers wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, runtime_checkable

from aerogram import messages as codec
from aerogram.address import ServerAddress, decode_key, parse_server_address
from aerogram.app import App
from aerogram.channels import Channel, Channels
from aerogram.config import RANGES, Config
from aerogram.core.endpoint import Endpoint
from aerogram.core.handshake import ClientSecurity
from aerogram.core.keys import Identity
from aerogram.core.wire import Mode
from aerogram.errors import (
    ConnectFailed,
    InsecureRefused,
    InvalidAddress,
    ServerIdentityRequired,
)
from aerogram.io.network import Network, SocketNetwork
from aerogram.io.sockets import Address, checked_address, is_loopback
from aerogram.io.tracing import Observer, check_trace
from aerogram.manager import SessionManager
from aerogram.security import (
    Insecure,
    check_insecure,
    check_is,
    check_psk,
    check_server_key,
    not_loopback,
)
from aerogram.session import Session
from aerogram.typevars import StateT

Logger = logging.Logger | logging.LoggerAdapter[Any]

ATTEMPT_INTERVAL_SECONDS: Final = 0.25
"""A further address of a name is tried after this (RFC 8305 §5 "Connection Attempt Delay")."""
ATTEMPTS_LIMIT: Final = 4
"""Addresses of a name that are tried."""
NO_IDENTITY: Final = (
    "connect() must be told how to recognise the server. Either pass the server's address with its"
    " key (server.address, aerogram://host:port/#k=...), or server_key=..., or psk=... (32 bytes"
    " that both sides share), or insecure=True for plain text on this machine."
)


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


class connect(Generic[StateT]):  # noqa: N801  used as a function: `async with connect(...)`
    """Connect to a server: `async with connect(address) as session`.

    `address` is a `server.address`, a service that was discovered, or a host with `port`. The
    server is recognised by the key in the address or `server_key` (32 bytes, or its text), by `psk`
    whatever key is in the address, or not at all with `insecure=True`: plain text, refused off
    loopback unless it is "anywhere". `app` has the handlers of this side; without one, all messages
    wait for `session.receive()`, and with one those that are asked for there and have no handler.
    `receives` names types and `Channel`s that a side without an app knows beforehand; a delivery
    that looks into messages, as `latest` does, needs it. `timeout` bounds the handshake in seconds
    (default: `config.handshake_timeout_seconds`). `trace` is told of every datagram, as in `serve`.

    Raises `ServerIdentityRequired`, `InvalidAddress`, `InsecureRefused`, `TypeError` or
    `ValueError` for another argument that cannot be; on entering
    `HandshakeTimeout` (a `ConnectFailed` and `TimeoutError`), `NoCommonCipher` (a `ConnectFailed`),
    or `OSError` for an unknown name.
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
        receives: Sequence[type | Channel] = (),
        identity: Identity | None = None,
        timeout: float | None = None,
        config: Config | None = None,
        network: Network | None = None,
        logger: Logger | None = None,
        trace: Observer | None = None,
    ) -> None:
        check_is("app=", app, App)
        check_is("config=", config, Config)
        check_is("identity=", identity, Identity)
        self._targets = _targets(address, port)
        target = self._targets[0]
        if isinstance(server_key, str):
            server_key = decode_key(server_key)
        if server_key is not None and target.key not in (None, server_key):
            raise InvalidAddress("server_key= is not the key in the address")
        self._server_key = server_key
        self._key = server_key if server_key is not None else target.key
        self._psk = psk
        check_insecure(insecure)
        self._insecure: Insecure = insecure
        self._identity = identity
        self._app = app
        self._channels = _known(receives) if app is None else app.channels
        if app is not None and receives:
            raise ValueError("receives= is for a side without an app; give the app the channels")
        self._config = config or Config()
        self._timeout = self._config.handshake_timeout_seconds if timeout is None else timeout
        RANGES["handshake_timeout_seconds"].check("timeout=", self._timeout)
        self._network = network or SocketNetwork(self._config, trace=trace)
        check_trace(trace, network)
        self._logger = logger or logging.getLogger("aerogram.client")
        self._stack = contextlib.AsyncExitStack()
        self._check_identity()

    def _check_identity(self) -> None:
        if self._psk is not None and self._server_key is None:
            self._key = None  # a server with both has its key in its address
        ways = [self._key is not None, self._psk is not None, bool(self._insecure)]
        if not any(ways):
            raise ServerIdentityRequired(NO_IDENTITY)
        if sum(ways) > 1:
            raise ValueError("give one of a server key, psk= and insecure=, not several")
        if self._psk is not None:
            check_psk(self._psk)
        if self._key is not None:
            check_server_key(self._key)

    async def __aenter__(self) -> Session[StateT]:
        async with contextlib.AsyncExitStack() as opening:
            if self._app is not None:
                await opening.enter_async_context(self._app.running())
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
                raise InsecureRefused(not_loopback(address[0]))
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
        channels = self._channels
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


def _known(receives: Sequence[type | Channel]) -> Channels:
    """The channels of a side that has no app."""
    channels = Channels([each for each in receives if isinstance(each, Channel)])
    for each in receives:
        if isinstance(each, Channel):
            continue
        codec.type_key(each)
        channels.of(each)
    return channels


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
