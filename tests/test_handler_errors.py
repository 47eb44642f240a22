"""Whatever a handler raises, its mailbox goes on and its sender gets the credit back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aerogram import App, Config, Message, Request, RequestFailed, Session, connect, serve
from tests.conftest import pytest_asyncio_loop_factories

SMALL = Config(channel_window_bytes=4096, grace_seconds=0.2)
COUNT = 400
"""Messages: some times what the window holds."""


class Odd(BaseException):
    """An exception that is no `Exception`."""


class Work(Message, tag=1):
    number: int


class Ask(Request[int], tag=2):
    number: int


ODD = [Odd, GeneratorExit, asyncio.CancelledError]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("concurrency", [None, 2])
@pytest.mark.parametrize("deadline", [None, 60.0])
async def test_a_mailbox_goes_on_whatever_its_handler_raises(
    kind: type[BaseException], concurrency: int | None, deadline: float | None
) -> None:
    app = App()
    seen: list[int] = []
    last = asyncio.Event()

    @app.on(Work, concurrency=concurrency)
    async def work(session: Session[None], work: Work) -> None:
        seen.append(work.number)
        if work.number == COUNT:
            last.set()
        elif work.number % 2:
            await asyncio.sleep(0)
            raise kind
        else:
            raise kind

    async with serve(app, config=SMALL) as server, connect(server.address) as session:
        for number in range(1, COUNT + 1):
            await session.send(Work(number), deadline=deadline)
        await asyncio.wait_for(last.wait(), 20)
        assert sorted(seen) == [*range(1, COUNT + 1)]
        assert server.stats.handler_errors == COUNT - 1
    assert server.stats.balanced, server.stats.totals.imbalances


@pytest.mark.parametrize("kind", ODD)
async def test_who_asked_is_told_whatever_the_handler_raises(kind: type[BaseException]) -> None:
    app = App()

    @app.answers(Ask)
    async def ask(session: Session[None], question: Ask) -> int:
        if question.number % 2:
            raise kind
        return question.number

    async with serve(app, config=SMALL) as server, connect(server.address) as session:
        for number in range(1, 100, 2):
            with pytest.raises(RequestFailed, match="the handler of Ask failed"):
                await session.request(Ask(number), timeout=10)
            assert await session.request(Ask(number + 1), timeout=10) == number + 1


@pytest.mark.parametrize("kind", ODD)
async def test_handlers_run_and_a_session_ends_whatever_its_ends_raise(
    kind: type[BaseException],
) -> None:
    app = App()
    log: list[str] = []

    @app.on_open
    async def opened(session: Session[None]) -> None:
        raise kind

    @app.on_close
    async def closed(session: Session[None], error: object) -> None:
        raise kind

    @app.on_close
    async def closed_too(session: Session[None], error: object) -> None:
        log.append("on_close")

    @app.on(bytes)
    async def echo(session: Session[None], data: bytes) -> None:
        await session.send(data)

    async with serve(app, config=SMALL) as server:
        async with connect(server.address) as session:
            await session.send(b"x")
            assert await session.receive(bytes, timeout=10) == b"x"
        await server.close()
        assert log == ["on_close"]
        assert server.stats.handler_errors == 2


async def opened(awaitable: Any) -> Any:
    return await awaitable


@pytest.mark.parametrize("make_loop", pytest_asyncio_loop_factories().values())
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("concurrency", [None, 2])
def test_what_stops_the_loop_does_so_and_loses_no_other_message(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    kind: type[BaseException],
    concurrency: int | None,
) -> None:
    app = App()
    seen: list[int] = []

    @app.on(Work, concurrency=concurrency)
    async def work(session: Session[None], work: Work) -> None:
        seen.append(work.number)
        if work.number == 1:
            raise kind
        if len(seen) == COUNT:
            done.set()

    done = asyncio.Event()

    loop = make_loop()
    try:
        server: Any = loop.run_until_complete(opened(serve(app, config=SMALL)))
        connecting: Any = connect(server.address)
        session = loop.run_until_complete(connecting.__aenter__())

        async def send() -> None:
            for number in range(1, COUNT + 1):
                await session.send(Work(number))

        sending = loop.create_task(send())
        with pytest.raises(kind):
            loop.run_until_complete(done.wait())
        assert 1 <= len(seen) < COUNT
        loop.run_until_complete(asyncio.wait_for(done.wait(), 20))
        loop.run_until_complete(sending)
        assert sorted(seen) == [*range(1, COUNT + 1)]
        loop.run_until_complete(connecting.__aexit__())
        loop.run_until_complete(server.close())
        assert asyncio.all_tasks(loop) == set()
    finally:
        loop.close()
