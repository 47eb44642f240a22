"""Handlers of bare datagrams: one loop, lifespan and middleware with sessions."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aerogram import (
    App,
    Datagram,
    DatagramEndpoint,
    InvalidAddress,
    Rejected,
    Session,
    connect,
    open_endpoint,
    serve,
    serve_datagrams,
)

LOOPBACK = "127.0.0.1"


def echo_app(**options: Any) -> App[Any, Any]:
    app: App[Any, Any] = App(**options)

    @app.datagram(LOOPBACK, 0)
    async def shout(endpoint: DatagramEndpoint, datagram: Datagram) -> None:
        if datagram.data == b"fail":
            raise RuntimeError("on purpose")
        await endpoint.send(datagram.data.upper(), datagram.address)

    @app.on(bytes)
    async def echo(session: Session[Any], data: bytes) -> None:
        await session.send(data)

    return app


async def asked(client: DatagramEndpoint, data: bytes, server: DatagramEndpoint) -> bytes:
    await client.send(data, server.local_address)
    return (await client.receive(timeout=5)).data


async def test_datagrams_and_sessions_are_served_together() -> None:
    async with serve(echo_app()) as server, open_endpoint(LOOPBACK) as client:
        [endpoint] = server.datagram_endpoints
        assert await asked(client, b"hello", endpoint) == b"HELLO"
        async with connect(server.address) as session:
            await session.send(b"hello")
            assert await session.receive(bytes, timeout=5) == b"hello"


async def test_datagrams_can_be_served_alone() -> None:
    async with (
        serve_datagrams(echo_app()) as [endpoint],
        open_endpoint(LOOPBACK) as client,
    ):
        assert await asked(client, b"hello", endpoint) == b"HELLO"


async def test_a_handler_that_raises_is_logged_at_a_bounded_rate_and_the_endpoint_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(echo_app()) as server, open_endpoint(LOOPBACK) as client:
        [endpoint] = server.datagram_endpoints
        for _ in range(300):
            await client.send(b"fail", endpoint.local_address)
        assert await asked(client, b"alive", endpoint) == b"ALIVE"
        assert server.stats.handler_errors == 300
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert 1 <= len(errors) <= 30
    assert "shout" in errors[0].getMessage()


async def test_middleware_and_lifespan_surround_datagrams_too() -> None:
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        seen.append("up")
        yield "state"
        seen.append("down")

    async def only_short(endpoint: Any, datagram: Any, call_next: Any) -> object:
        seen.append(type(datagram).__name__)
        if len(datagram.data) > 5:
            raise Rejected("too long")
        return await call_next(endpoint, datagram)

    app = echo_app(lifespan=lifespan, middleware=[only_short])
    async with serve_datagrams(app) as [endpoint], open_endpoint(LOOPBACK) as client:
        assert app.state == "state"
        await client.send(b"too long", endpoint.local_address)
        assert await asked(client, b"short", endpoint) == b"SHORT"
    assert seen == ["up", "Datagram", "Datagram", "down"]


async def test_nothing_is_left_when_serving_ends() -> None:
    before = asyncio.all_tasks()
    async with serve(echo_app()) as server:
        [endpoint] = server.datagram_endpoints
        address = endpoint.local_address
    assert asyncio.all_tasks() == before
    async with open_endpoint(LOOPBACK, address[1]) as again:
        assert again.local_address == address


async def test_a_handler_may_have_any_endpoint(tmp_path: Path) -> None:
    app, errors = App(), []
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    path = tmp_path / "socket"

    async def shout(endpoint: DatagramEndpoint, datagram: Datagram) -> None:
        await endpoint.send(b"/".join(datagram.records).upper(), datagram.address)

    app.datagram(path=path)(shout)
    app.datagram(socket=sock, keep_runs=True, on_error=errors.append)(shout)
    async with serve_datagrams(app) as [local, ready_made], open_endpoint(LOOPBACK) as client:
        assert ready_made.local_address == sock.getsockname()
        await client.send_run([b"ab", b"cd"], ready_made.local_address)
        answers = (await client.receive(timeout=5)).data
        while len(answers) < 4:
            answers += (await client.receive(timeout=5)).data
        assert answers in {b"AB/CD", b"ABCD"}
        async with open_endpoint(path=tmp_path / "client") as near:
            assert await asked(near, b"near", local) == b"NEAR"


def test_options_that_cannot_be_raise_where_they_are_written() -> None:
    app = App()
    for wrong in ({"overflow": "explode"}, {"path": "x"}, {"inherited": 0}):
        with pytest.raises(ValueError, match="one of"):
            app.datagram(LOOPBACK, 0, **wrong)
    with pytest.raises(TypeError, match="colour"):
        app.datagram(LOOPBACK, 0, colour="red")
    assert app.datagram_routes == []


@pytest.mark.parametrize(("host", "port"), [("", 1), (LOOPBACK, -1), (LOOPBACK, 70000), (7, 1)])
def test_a_bad_address_raises_where_it_is_written(host: Any, port: int) -> None:
    with pytest.raises(InvalidAddress):
        App().datagram(host, port)
