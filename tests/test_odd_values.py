"""Values that are easily given by mistake raise at the caller, or do what was meant."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    Identity,
    InvalidAddress,
    InvalidMessage,
    Outcome,
    Rejected,
    Request,
    RequestFailed,
    Session,
    Stream,
    connect,
    delivery,
    serve,
)
from aerogram.address import encode_key


class Ask(Request[int]):
    number: int


class Watch(Stream[int]):
    number: int


def app() -> App[None, None]:
    app: App[None, None] = App()

    @app.on(int)
    async def take(session: Session[None], number: int) -> None:
        if number == 404:
            raise Rejected(404)

    @app.answers(Ask)
    async def answer(session: Session[None], ask: Ask) -> int:
        raise Rejected(None)

    return app


@pytest.mark.parametrize("deadline", [math.inf, math.nan, 1e12, "1", True, [1]])
async def test_a_deadline_that_cannot_be_raises_and_loses_nothing(deadline: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        before = await session.send(1)
        for call in (
            lambda: session.send(2, deadline=deadline),
            lambda: session.emit("news", 2, deadline=deadline),
        ):
            with pytest.raises((ValueError, TypeError), match=r"deadline= is .*at most 1e\+06"):
                await call()
        await session.deliver(3, timeout=5)
        assert await before is Outcome.DELIVERED
        assert session.stats.balanced


async def test_a_reason_that_is_no_text_refuses_all_the_same() -> None:
    async with serve(app()) as server, connect(server.address) as session:
        for number in (1, 404, 2):
            await session.send(number)
        await session.deliver(3, timeout=5)
        with pytest.raises(Rejected, match="None"):
            await session.request(Ask(1), timeout=5)
        assert server.stats.handler_errors == 0


async def test_thousands_may_wait_for_one_receipt() -> None:
    async with serve(app()) as server, connect(server.address) as session:
        receipt = await session.send(1)

        async def wait() -> Outcome:
            return await receipt

        waiting = [asyncio.create_task(wait()) for _ in range(3000)]
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting), 20)
        assert set(outcomes) == {Outcome.DELIVERED}


@pytest.mark.parametrize("insecure", [1, "yes", None, []])
def test_only_true_and_anywhere_are_plain_text(insecure: Any) -> None:
    with pytest.raises(ValueError, match="insecure"):
        serve(app(), insecure=insecure)
    with pytest.raises(ValueError, match="insecure"):
        connect("127.0.0.1", 9, insecure=insecure)


@pytest.mark.parametrize("code", ["x", None, 256.0, True, 1, 255, -1, 1 << 62])
async def test_a_code_that_is_none_of_an_application_closes_nothing(code: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        with pytest.raises((ValueError, TypeError), match=r"code= is .*0 or 256 to \d+"):
            await session.close(code=code)
        await session.deliver(1, timeout=5)


async def test_a_reason_for_closing_that_is_no_text_closes() -> None:
    closing: Any = 5
    async with serve(app()) as server, connect(server.address) as session:
        await session.deliver(1, timeout=5)
        [peer] = server.sessions
        await session.close(closing)
        await asyncio.wait_for(peer.wait_closed(), 5)
        assert not isinstance(peer.error, RequestFailed)
        assert "5" in str(peer.error)


@pytest.mark.parametrize("topic", [5, None, b"news", ["news"]])
async def test_a_topic_that_is_no_text_raises(topic: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        with pytest.raises(InvalidMessage, match="a topic is a str"):
            await session.emit(topic, 1)
        await session.deliver(1, timeout=5)


@pytest.mark.parametrize("kind", [5, "Ask", set, object])
async def test_what_is_no_type_of_messages_has_no_next_one_and_no_budget(kind: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        with pytest.raises(InvalidMessage):
            await session.receive(kind, timeout=5)
        with pytest.raises(InvalidMessage):
            session.budget(kind)


# -- timeouts

NO_TIMEOUT: list[Any] = [math.nan, math.inf, -math.inf, -1, -0.001, 1e12, "x", True, [1]]


@pytest.mark.parametrize("timeout", NO_TIMEOUT)
async def test_a_timeout_that_is_none_raises_at_once(timeout: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        for call in (
            lambda: session.deliver(1, timeout=timeout),
            lambda: session.request(Ask(1), timeout=timeout),
            lambda: session.receive(timeout=timeout),
            lambda: session.ping(timeout=timeout),
            lambda: session.clock.synchronised(timeout=timeout),
            lambda: anext(session.stream(Watch(1), timeout=timeout)),
        ):
            before = session.stats.messages_sent
            with pytest.raises((ValueError, TypeError), match=r"timeout= is .*0 to 1e\+06"):
                await asyncio.wait_for(call(), 5)
            assert session.stats.messages_sent == before
        await session.deliver(1, timeout=5)
        await session.deliver(1, timeout=None)


@pytest.mark.parametrize("timeout", [*NO_TIMEOUT, 0])
def test_a_handshake_needs_time(timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"timeout= is .*0.001 to 1e\+06"):
        connect("127.0.0.1", 9, insecure=True, timeout=timeout)


@pytest.mark.parametrize("error_bound", [math.nan, -1.0])
async def test_no_clock_is_as_right_as_that(error_bound: float) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        with pytest.raises(ValueError, match="error_bound"):
            await asyncio.wait_for(session.clock.synchronised(error_bound), 5)


@pytest.mark.parametrize("grace", NO_TIMEOUT)
async def test_a_grace_that_is_none_raises_at_once(grace: Any) -> None:
    async with serve(app()) as server, connect(server.address) as session:
        with pytest.raises((ValueError, TypeError), match=r"grace= is .*0 to 1e\+06"):
            await asyncio.wait_for(session.close(grace=grace), 5)
        await session.deliver(1, timeout=5)


# -- keys

LOW_ORDER = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
]


@pytest.mark.parametrize("key", [*LOW_ORDER, bytes(31), b"", bytearray(range(32)), 5])
def test_a_key_that_keeps_nothing_secret_is_no_servers_key(key: Any) -> None:
    with pytest.raises(InvalidAddress, match="server key"):
        connect("127.0.0.1", 9, server_key=key)


@pytest.mark.parametrize("key", LOW_ORDER)
def test_nor_is_it_in_an_address(key: bytes) -> None:
    with pytest.raises(InvalidAddress, match="server key"):
        connect(f"aerogram://127.0.0.1:9/#k={encode_key(key)}")
    with pytest.raises(InvalidAddress, match="server key"):
        connect("127.0.0.1", 9, server_key=encode_key(key))


# -- other arguments


def test_an_argument_of_another_type_is_told_by_name() -> None:
    wrong: Any
    for wrong in (App, None, "module:app", {}):
        with pytest.raises(TypeError, match=r"^serve\(\) takes an App, not"):
            serve(wrong)
    for wrong in ({}, 5, Config):
        with pytest.raises(TypeError, match=r"^config= takes a Config, not"):
            serve(app(), config=wrong)
        with pytest.raises(TypeError, match=r"^config= takes a Config, not"):
            connect("127.0.0.1", 9, insecure=True, config=wrong)
    for wrong in (bytes(32), "server.key", Identity):
        with pytest.raises(TypeError, match=r"^identity= takes an Identity, not"):
            serve(app(), identity=wrong)
        with pytest.raises(TypeError, match=r"^identity= takes an Identity, not"):
            connect("127.0.0.1", 9, server_key=bytes(range(32)), identity=wrong)
    wrong = App
    with pytest.raises(TypeError, match=r"^app= takes an App, not"):
        connect("127.0.0.1", 9, insecure=True, app=wrong)
    wrong = 5
    for what in ({"channels": wrong}, {"middleware": wrong}):
        with pytest.raises(TypeError, match="= takes a list, not 5"):
            App(**what)


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": "high"},
        {"priority": math.nan},
        {"priority": 1001},
        {"weight": "2"},
        {"weight": 1.5},
        {"weight": 0},
        {"weight": 257},
        {"queue_messages": 0},
        {"queue_messages": 1.5},
        {"queue_messages": True},
        {"queue_bytes": -1},
        {"queue_bytes": "1000"},
    ],
)
def test_a_number_of_a_channel_is_told_by_name(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises((ValueError, TypeError), match=f"^{name} is "):
        Channel("numbers", delivery.ordered(), **wrong)
