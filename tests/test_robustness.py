"""Sessions live on, whatever handlers, strangers, resolvers and the system do to them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import Any

import pytest

from aerogram import (
    AerogramError,
    App,
    Channel,
    ClosedByPeer,
    Config,
    InvalidAddress,
    Rejected,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram.core.handshake import ClientSecurity
from aerogram.core.wire import Mode
from aerogram.io import network as network_module
from aerogram.io.network import SocketNetwork
from aerogram.timers import TIMERS_LIMIT, DeadlineTimers
from tests.echo import TRANSPORTS, echo_app, echoed
from tests.io.fakes import RefusingSocket

# What the application does wrong


async def test_a_handler_that_always_raises_costs_others_nothing(
    config: Config, complaints: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = echo_app()

    @app.on(str)
    async def fail(session: Session[None], text: str) -> None:
        raise RuntimeError("the handler's mistake")

    async with (
        serve(app, config=config) as server,
        connect(server.address, config=config) as noisy,
        connect(server.address, config=config) as other,
    ):
        for number in range(10_000):
            await noisy.send("boom")
            if number % 1000 == 0:
                assert await echoed(other)
        assert await echoed(noisy), "the same channel: all failures are behind it"
        assert await echoed(other)
        assert server.stats.handler_errors == 10_000
        assert server.stats.transport.receiver_errors == 0
    lines = [record.created for record in caplog.records if record.levelno >= logging.ERROR]
    assert 1 <= len(lines) <= 10 * (2 + lines[-1] - lines[0])
    assert complaints == []


async def test_a_session_state_that_raises_turns_one_client_away(
    config: Config, complaints: list[Any]
) -> None:
    fails = True

    def state() -> None:
        if fails:
            raise RuntimeError("no state for you")

    async with serve(echo_app(session_state=state), config=config) as server:
        async with connect(server.address, config=config) as session:
            await session.send(b"on its way before the server has decided")
            with pytest.raises(ClosedByPeer, match="set up"):
                await session.receive(bytes, timeout=10)
        assert server.sessions == []
        assert server.stats.handler_errors == 1
        fails = False
        async with connect(server.address, config=config) as session:
            assert await echoed(session)
    assert complaints == []


async def test_a_clients_own_session_state_that_raises_raises_at_connect(
    complaints: list[Any],
) -> None:
    def state() -> None:
        raise RuntimeError("no state here")

    app: App[None, None] = App(session_state=state)
    before = asyncio.all_tasks()
    async with serve(echo_app()) as server:
        with pytest.raises(RuntimeError, match="no state here"):
            async with connect(server.address, app=app):
                pass
    assert asyncio.all_tasks() == before
    assert complaints == []


class BrokenRetry:
    attempts = 3

    def next_try(self, sent: Any, rtt: Any) -> float | None:
        raise RuntimeError("the policy's mistake")


async def test_a_delivery_that_raises_holds_up_no_other_session(complaints: list[Any]) -> None:
    broken = Channel("broken", delivery.Delivery(delivery.AsItArrives, BrokenRetry()))
    app = App(channels=[broken])

    @app.on(bytes)
    async def send_to_all(session: Session[None], data: bytes) -> None:
        first, *others = server.sessions
        await first.send(data, via=broken)
        for other in others:
            await other.send(data)

    async with (
        serve(app) as server,
        connect(server.address) as first,
        connect(server.address) as second,
        connect(server.address) as third,
    ):
        for session in (first, second, third):
            await session.ping(timeout=10)
        for number in range(3):
            await second.send(bytes([number]))
            for other in (second, third):
                assert await other.receive(bytes, timeout=10) == bytes([number])
    assert complaints == []


@pytest.mark.parametrize("host", [None, 7, b"::1", "", "a b", "a..b", "[::1]", "fe80::1%none"])
@pytest.mark.parametrize("port", [-1, 65536, 70000, "9", 9.5, True, None])
async def test_serving_at_a_bad_address_raises_at_the_caller(host: Any, port: Any) -> None:
    with pytest.raises((AerogramError, TypeError)):
        serve(echo_app(), host, port)
    with pytest.raises((AerogramError, TypeError)):
        serve(echo_app(), "127.0.0.1", port)
    with pytest.raises((AerogramError, OSError)):
        await serve(echo_app(), host)


async def test_no_packet_goes_to_another_port_than_was_named(config: Config) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sniffer:
        sniffer.bind(("127.0.0.1", 0))
        sniffer.setblocking(False)
        port = sniffer.getsockname()[1]
        for wrong in (port + 65536, port - 65536, port + (1 << 32), str(port), float(port)):
            with pytest.raises(InvalidAddress):
                connect("127.0.0.1", wrong, psk=bytes(32), config=config)  # type: ignore[arg-type]
        with pytest.raises(BlockingIOError):
            sniffer.recv(2000)


# Names


async def test_a_slow_resolver_holds_up_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def getaddrinfo(self: object, host: str, port: int, **options: object) -> Any:
        asked.set()
        await answer.wait()
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)

    async def connect_by_name(port: int) -> bool:
        async with connect("slow.example", port, psk=bytes(32)) as session:
            return await echoed(session)

    async with (
        serve(echo_app(), psk=bytes(32)) as server,
        connect("127.0.0.1", server.port, psk=bytes(32)) as session,
    ):
        connecting = asyncio.create_task(connect_by_name(server.port))
        await asked.wait()
        for _ in range(10):
            assert await echoed(session)
        assert not connecting.done()
        answer.set()
        assert await connecting


# What the system does


@pytest.mark.parametrize(
    "number",
    [errno.ENOBUFS, errno.EAGAIN, errno.EPERM, errno.ENETUNREACH, errno.EMSGSIZE, errno.EINVAL],
    ids=errno.errorcode.get,
)
async def test_what_the_system_refuses_is_a_loss_that_is_made_good(
    config: Config, number: int, monkeypatch: pytest.MonkeyPatch, complaints: list[Any]
) -> None:
    udp = RefusingSocket()
    async with serve(echo_app(), config=config) as server:
        with monkeypatch.context() as patch:
            patch.setattr(network_module, "create_udp_socket", lambda *_, **__: udp)
            connecting = connect(server.address, config=config)
            session = await connecting.__aenter__()
        assert await echoed(session)
        udp.outcomes.extend([number] * 4)
        await session.deliver(b"through all that", timeout=10)
        assert await session.receive(bytes, timeout=10) == b"through all that"
        assert session.error is None
        stats = session._shell.protocol.stats  # type: ignore[attr-defined]
        assert stats.send_errors + stats.send_dropped + stats.send_waits > 0 or not udp.outcomes
        await connecting.__aexit__()
    assert complaints == []


class ForgedIcmpSocket(RefusingSocket):
    """Its reads fail as after an ICMP error, as often as the test says."""

    forged = 0

    def _maybe_refuse(self) -> None:
        if self.forged:
            self.forged -= 1
            raise ConnectionRefusedError(errno.ECONNREFUSED, "forged")

    def recvmsg(self, *arguments: Any) -> Any:
        self._maybe_refuse()
        return super().recvmsg(*arguments)

    def recvfrom(self, *arguments: Any) -> Any:
        self._maybe_refuse()
        return super().recvfrom(*arguments)


async def test_icmp_errors_never_end_a_session(
    config: Config, monkeypatch: pytest.MonkeyPatch, complaints: list[Any]
) -> None:
    udp = ForgedIcmpSocket()
    async with serve(echo_app(), config=config) as server:
        with monkeypatch.context() as patch:
            patch.setattr(network_module, "create_udp_socket", lambda *_, **__: udp)
            connecting = connect(server.address, config=config)
            session = await connecting.__aenter__()
        for number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE):
            udp.forged = 20
            udp.outcomes.append(number)
            session._shell.protocol.error_received(OSError(number, "forged"))  # type: ignore[attr-defined]
            assert await echoed(session)
        assert session.error is None
        await connecting.__aexit__()
    assert complaints == []


async def test_a_flood_of_junk_starves_no_session(config: Config, complaints: list[Any]) -> None:
    async with (
        serve(echo_app(), config=config) as server,
        connect(server.address, config=config) as session,
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(("127.0.0.1", server.port))
            junk = [bytes((first,)) + os.urandom(60) for first in (0xA0, 0xA1, 0xA4, 0xA5, 0x7F)]
            for number in range(40):
                for _ in range(50):
                    for packet in junk:
                        stranger.send(packet)
                assert await echoed(session, bytes([number]))
        stats = server.stats.endpoint
        assert stats.datagrams_received > 1000
        assert session.stats.balanced
        assert session.error is None
    assert complaints == []


async def test_what_a_peer_says_makes_no_lines_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    app = echo_app()

    @app.on(str)
    async def refuse(session: Session[None], text: str) -> None:
        raise Rejected("no\nERROR forged")

    async with serve(app) as server, connect(server.address) as session:
        await session.send("text")
        await session.send(b"hello")
        await session.receive(bytes, timeout=5)
        [other] = server.sessions
        await other.close("bye\x1b[2J\nERROR forged")
        await session.wait_closed()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("forged" in line for line in lines) >= 2
    assert all(line.isprintable() for line in lines)


# Timers


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_thousand_idle_sessions_share_the_few_timers_of_their_sockets() -> None:
    loop = asyncio.get_running_loop()
    server = await serve(echo_app(), insecure=True)
    connections = [connect(server.address, insecure=True) for _ in range(50)]
    managers = [(await c.__aenter__())._shell for c in connections]
    address = server.local_address
    for manager in managers:  # further sessions by the same sockets
        for _ in range(19):
            session = await manager.connect(address, ClientSecurity(Mode.INSECURE), 10.0)  # type: ignore[attr-defined]
            await session.ping(timeout=10)
    assert len(server.sessions) == 1000
    timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    owners = [getattr(handle._callback, "__self__", None) for handle in timers]
    shared = [owner for owner in owners if isinstance(owner, DeadlineTimers)]
    assert len({*map(id, shared)}) == len(managers) + 1
    assert all(shared.count(owner) <= TIMERS_LIMIT for owner in shared)
    assert len(owners) <= len(shared) + 1
    assert len(loop._scheduled) < 500, "cancelled ones stay there for a while"  # type: ignore[attr-defined]
    await asyncio.gather(*(c.__aexit__() for c in connections))
    await server.close()


async def test_the_port_of_a_server_is_its_own_on_every_transport(config: Config) -> None:
    async with serve(echo_app(), config=config) as server:
        for kind in TRANSPORTS:
            with pytest.raises(OSError, match="in use"):
                await serve(echo_app(), "127.0.0.1", server.port, config=Config(transport=kind))
    shared = SocketNetwork(config, reuse_port=True)
    async with (
        serve(echo_app(), config=config, network=shared) as one,
        serve(echo_app(), "127.0.0.1", one.port, config=config, network=shared) as two,
    ):
        assert one.port == two.port
