"""Requests: answers, refusals, failures, time-outs, and who is told what."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import (
    App,
    Message,
    Rejected,
    Request,
    RequestFailed,
    RequestTimeout,
    Session,
    SessionClosed,
    connect,
    serve,
)


class Price(Message, tag=1):
    cents: int


class Quote(Request[Price], tag=2):
    symbol: str


class Length(Request[int]):
    text: str


class Nobody(Request[int], tag=9):
    text: str


def shop() -> App[None, None]:
    app = App()

    @app.answers(Quote)
    async def quote(session: Session[None], ask: Quote) -> Price:
        if ask.symbol == "SECRET":
            raise Rejected("not for sale")
        if ask.symbol == "BUG":
            raise RuntimeError("internal detail")
        if ask.symbol == "SLOW":
            await asyncio.Event().wait()
        return Price(len(ask.symbol))

    @app.answers(Length)
    async def length(session: Session[None], ask: Length) -> int:
        return len(ask.text)

    return app


async def test_a_request_is_answered_with_its_type() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        assert await session.request(Quote("ACME"), timeout=5) == Price(4)
        assert await session.request(Length("four"), timeout=5) == 4


async def test_many_requests_at_once_each_get_their_own_answer() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        answers = await asyncio.gather(
            *(session.request(Length("x" * n), timeout=10) for n in range(200))
        )
        assert answers == [*range(200)]


async def test_a_refusal_raises_with_its_reason() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        with pytest.raises(Rejected, match="not for sale"):
            await session.request(Quote("SECRET"), timeout=5)


async def test_a_failure_tells_the_client_that_and_not_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        with pytest.raises(RequestFailed) as raised:
            await session.request(Quote("BUG"), timeout=5)
        assert "Quote" in str(raised.value)
        assert "internal detail" not in str(raised.value)
        assert await session.request(Length("alive"), timeout=5) == 5


async def test_a_request_nobody_answers_fails_at_once() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        with pytest.raises(RequestFailed, match="nobody answers"):
            await session.request(Nobody("?"), timeout=5)


async def test_a_client_without_handlers_says_so() -> None:
    app = shop()
    result: asyncio.Queue[BaseException] = asyncio.Queue()

    @app.on_open
    async def ask_back(session: Session[None]) -> None:
        try:
            await session.request(Length("client?"), timeout=5)
        except RequestFailed as error:
            await result.put(error)

    async with serve(app) as server, connect(server.address):
        assert "nobody answers" in str(await asyncio.wait_for(result.get(), 5))


async def test_a_slow_answer_is_a_timeout() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        with pytest.raises(RequestTimeout, match="Quote"):
            await session.request(Quote("SLOW"), timeout=0.1)
        await session.close(grace=0.0)


async def test_the_end_of_the_session_is_the_end_of_its_requests() -> None:
    async with serve(shop()) as server, connect(server.address) as session:
        asking = asyncio.create_task(session.request(Quote("SLOW"), timeout=None))
        await session.ping()
        await session.close(grace=0.0)
        with pytest.raises(SessionClosed):
            await asking


async def test_a_handler_may_ask_its_own_client() -> None:
    server_app, client_app = App(), App()

    @client_app.answers(Length)
    async def length(session: Session[None], ask: Length) -> int:
        return len(ask.text)

    @server_app.on(str)
    async def ask_back(session: Session[None], text: str) -> None:
        await session.send(await session.request(Length(text), timeout=5))

    heard: asyncio.Queue[int] = asyncio.Queue()

    @client_app.on(int)
    async def hear(session: Session[None], number: int) -> None:
        await heard.put(number)

    async with (
        serve(server_app) as server,
        connect(server.address, app=client_app) as session,
    ):
        await session.send("hello")
        assert await asyncio.wait_for(heard.get(), 5) == 5


def test_a_request_type_needs_answers_and_not_on() -> None:
    app = App()
    with pytest.raises(TypeError, match="answers"):
        app.on(Length)(lambda session, message: None)  # type: ignore[arg-type, return-value]
