"""Who may connect and how it ends: identities, addresses, limits, restarts, shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aerogram import (
    AerogramError,
    App,
    ClosedByPeer,
    Config,
    DeliveryFailed,
    HandshakeTimeout,
    InsecureRefused,
    InvalidAddress,
    PeerRestarted,
    Rejected,
    ServerIdentityRequired,
    Session,
    SessionClosed,
    connect,
    new_identity,
    read_identity,
    serve,
    write_identity,
)
from aerogram.address import encode_key, parse_server_address
from tests.echo import echo_app, echoed

HASTY = Config(handshake_timeout_seconds=0.4)


async def test_the_address_of_a_server_is_all_a_client_needs() -> None:
    async with serve(echo_app()) as server:
        assert server.address.startswith(f"aerogram://127.0.0.1:{server.port}/#k=")
        async with connect(server.address) as session:
            assert await echoed(session)


async def test_await_serve_leaves_closing_to_the_caller() -> None:
    server = await serve(echo_app())
    async with connect(server.address) as session:
        assert await echoed(session)
        await server.close("maintenance")
        await asyncio.wait_for(session.wait_closed(), 5)
        assert isinstance(session.error, ClosedByPeer)
        assert session.error.reason == "maintenance"
    await server.wait_closed()


@pytest.mark.parametrize("as_text", [False, True])
async def test_the_key_can_be_given_in_parts(as_text: bool) -> None:
    identity = new_identity()
    key = identity.public_bytes
    async with (
        serve(echo_app(), identity=identity) as server,
        connect("127.0.0.1", server.port, server_key=encode_key(key) if as_text else key) as s,
    ):
        assert await echoed(s)
        assert s.peer_key == key


async def test_a_shared_secret_is_enough_for_both() -> None:
    psk = os.urandom(32)
    async with serve(echo_app(), psk=psk) as server:
        async with connect("127.0.0.1", server.port, psk=psk) as session:
            assert await echoed(session)
        with pytest.raises(HandshakeTimeout):
            async with connect("127.0.0.1", server.port, psk=os.urandom(32), timeout=0.4):
                pass
        assert server.stats.endpoint.dropped_unauthentic > 0


async def test_a_server_with_an_identity_and_a_secret_takes_either() -> None:
    psk = os.urandom(32)
    async with serve(echo_app(), psk=psk, identity=new_identity()) as server:
        async with connect(server.address, psk=psk) as session:
            assert await echoed(session)
        async with connect(server.address) as session:
            assert await echoed(session)
        with pytest.raises(HandshakeTimeout):
            async with connect(server.address, psk=os.urandom(32), timeout=0.4):
                pass
        key = server.address.partition("#k=")[2]
        with pytest.raises(ValueError, match="not several"):
            connect("127.0.0.1", server.port, psk=psk, server_key=key)
        with pytest.raises(ValueError, match="not several"):
            connect(server.address, insecure=True)


@pytest.mark.parametrize("psk", [b"password", "x" * 32, os.urandom(31)])
def test_a_password_is_no_shared_secret(psk: Any) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        connect("127.0.0.1", 9000, psk=psk)
    with pytest.raises(ValueError, match="32 random bytes"):
        serve(echo_app(), psk=psk)


async def test_plain_text_must_be_written_out_and_stays_on_loopback() -> None:
    async with (
        serve(echo_app(), insecure=True) as server,
        connect("127.0.0.1", server.port, insecure=True) as session,
    ):
        assert await echoed(session)
    with pytest.raises(InsecureRefused, match="anywhere"):
        async with connect("192.0.2.1", 9000, insecure=True):
            pass
    with pytest.raises(InsecureRefused):
        async with serve(echo_app(), "0.0.0.0", insecure=True):
            pass


async def test_a_server_without_plain_text_is_silent_to_it() -> None:
    async with serve(echo_app()) as server:
        with pytest.raises(HandshakeTimeout):
            async with connect("127.0.0.1", server.port, insecure=True, timeout=0.3):
                pass
        assert server.sessions == []


def test_not_knowing_the_server_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ServerIdentityRequired) as raised:
        connect("127.0.0.1", 9000)
    for way in ("server.address", "server_key=", "psk=", "insecure=True"):
        assert way in str(raised.value)


async def test_another_server_at_the_address_is_not_accepted() -> None:
    async with serve(echo_app()) as server:
        other = encode_key(new_identity().public_bytes)
        with pytest.raises(HandshakeTimeout):
            async with connect(f"aerogram://127.0.0.1:{server.port}/#k={other}", timeout=0.3):
                pass
        assert server.stats.endpoint.dropped_unauthentic > 0
        assert server.stats.endpoint.handshakes_started == 0


async def test_nobody_there_is_a_timeout_with_the_time_in_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        with pytest.raises(HandshakeTimeout, match=r"0\.2"):
            async with connect(
                "127.0.0.1", mute.getsockname()[1], server_key=bytes(31) + b"\x01", timeout=0.2
            ):
                pass


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9000/",
        "aerogram://127.0.0.1/",
        "aerogram://:9000/",
        "aerogram://127.0.0.1:99999/",
        "aerogram://127.0.0.1:9000/path#k=a",
        "aerogram://127.0.0.1:9000/#k=short",
        "aerogram://127.0.0.1:9000/#key=aaaa",
        "aerogram://127.0.0.1:9000/#k=!!!!",
        "aerogram://user@127.0.0.1:9000/",
        "aerogram://[::1:9000/",
        "127.0.0.1",
        "",
    ],
)
def test_a_bad_address_raises_before_anything_is_opened(address: str) -> None:
    with pytest.raises(InvalidAddress):
        connect(address)


BAD_HOSTS: list[object] = [
    None,
    7,
    b"127.0.0.1",
    "",
    " ",
    "a b",
    "x" * 300,
    "ex ample.com",
    "127.0.0.1\x00",
    "http://x",
    "-..-",
    ("127.0.0.1",),
    ["127.0.0.1"],
    1.5,
    "256.1.1.1 ",
    "[::1]",
    "host:9",
    "\ud800",
    "a..b",
    {},
]
BAD_PORTS: list[object] = [-1, 0, 65536, 70000, 1 << 40, "9000", 9.5, True, b"1", (1,)]


async def test_two_hundred_bad_addresses_raise_at_the_caller_and_close_nothing() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        count = 0
        for host in [*BAD_HOSTS[:20]]:
            for port in BAD_PORTS:
                count += 1
                with pytest.raises((AerogramError, TypeError)):
                    connect(host, port, psk=bytes(32))  # type: ignore[arg-type]
        assert count == 200
        assert await echoed(session)
        assert server.stats.transport.send_errors == 0


async def test_an_ipv6_server_has_its_address_in_brackets() -> None:
    async with serve(echo_app(), "::1") as server:
        assert server.address.startswith(f"aerogram://[::1]:{server.port}/")
        async with connect(server.address) as session:
            assert await echoed(session)


async def test_a_name_with_several_addresses_finds_the_one_that_answers() -> None:
    async with serve(echo_app()) as server:
        key = parse_server_address(server.address).key
        async with connect("localhost", server.port, server_key=key) as session:
            assert await echoed(session)


async def test_a_wildcard_address_is_given_as_loopback() -> None:
    async with serve(echo_app(), "0.0.0.0") as server:
        assert f"//127.0.0.1:{server.port}/" in server.address
        assert f"//game.example:{server.port}/" in server.address_at("game.example")


async def test_the_port_cannot_be_taken_by_a_second_server() -> None:
    async with serve(echo_app()) as server:
        with pytest.raises(OSError, match="in use"):
            await serve(echo_app(), "127.0.0.1", server.port)


async def test_a_server_that_restarts_ends_old_sessions_with_a_typed_reason() -> None:
    identity = new_identity()
    server = await serve(echo_app(), identity=identity)
    port = server.port
    async with connect(server.address) as session:
        assert await echoed(session)
        server._manager.transport.abort()
        async with serve(echo_app(), "127.0.0.1", port, identity=identity) as again:
            with pytest.raises(DeliveryFailed) as failed:
                await session.deliver(b"are you there?", timeout=5)
            assert isinstance(failed.value.__cause__, PeerRestarted)
            with pytest.raises(PeerRestarted):
                await session.send(b"x")
            async with connect(again.address) as fresh:
                assert await echoed(fresh)
    await server.close()


async def test_a_client_that_restarts_gets_a_new_session_and_the_old_one_ends() -> None:
    config = Config(idle_timeout_seconds=0.5, keepalive_seconds=0.1)
    async with serve(echo_app(), config=config) as server, connect(server.address) as first:
        assert await echoed(first)
        [old] = server.sessions
        first._shell.transport.abort()
        async with connect(server.address) as second:
            assert await echoed(second)
            await asyncio.wait_for(old.wait_closed(), 5)
            assert isinstance(old.error, SessionClosed)
            assert await echoed(second)


async def test_on_open_can_turn_a_client_away() -> None:
    app = echo_app()

    @app.on_open
    async def turn_away(session: Session[None]) -> None:
        raise Rejected("members only")

    async with serve(app) as server, connect(server.address) as session:
        await asyncio.wait_for(session.wait_closed(), 5)
        assert isinstance(session.error, ClosedByPeer)
        assert session.error.reason == "members only"


async def test_a_full_server_is_silent_to_further_clients() -> None:
    config = Config(sessions_limit=1)
    async with serve(echo_app(), config=config) as server, connect(server.address) as first:
        assert await echoed(first)
        with pytest.raises(HandshakeTimeout):
            async with connect(server.address, timeout=0.3):
                pass
        assert server.stats.endpoint.dropped_at_limit > 0
        assert await echoed(first)


async def test_lifespan_surrounds_serving_and_yields_the_apps_state() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        events.append("up")
        yield "database"
        events.append("down")

    app = App(lifespan=lifespan)

    @app.on(bytes)
    async def answer(session: Session[None], data: bytes) -> None:
        await session.send(app.state)

    async with serve(app) as server, connect(server.address) as session:
        await session.send(b"?")
        assert await session.receive(str, timeout=5) == "database"
    assert events == ["up", "down"]
    with pytest.raises(RuntimeError):
        _ = app.state


async def test_strangers_get_silence_and_a_counter() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            for size in (1, 20, 100, 1200):
                for first in (0, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xFF):
                    stranger.sendto(bytes((first,)) + os.urandom(size), ("127.0.0.1", server.port))
            assert await echoed(session)
            with pytest.raises(BlockingIOError):
                stranger.recv(2000)
        stats = server.stats.endpoint
        silent = (
            stats.dropped_malformed + stats.dropped_unauthentic + stats.dropped_unknown_connection
        )
        assert silent + stats.dropped_unexpected == 32 - stats.resets_sent


async def test_closing_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with serve(echo_app()) as server, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(_one_echo(server.address))
    gc.collect()
    assert asyncio.all_tasks() == before


async def _one_echo(address: str) -> None:
    async with connect(address) as session:
        assert await echoed(session)


async def test_opening_and_closing_many_times_leaks_no_descriptor() -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no /proc on this system")
    async with serve(echo_app()) as server:
        await _one_echo(server.address)
        before = len([*folder.iterdir()])
        for _ in range(50):
            await _one_echo(server.address)
        assert len([*folder.iterdir()]) == before


def test_an_identity_survives_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    identity = new_identity()
    public: Any = identity.public_bytes
    with pytest.raises(TypeError, match="Identity"):
        write_identity(path, public)
    write_identity(path, identity)  # no file was left in its way
    assert read_identity(path).public_bytes == identity.public_bytes
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        write_identity(path, identity)
    path.write_text("something else")
    with pytest.raises(ValueError, match="not a key file"):
        read_identity(path)
