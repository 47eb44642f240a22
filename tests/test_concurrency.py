"""How many handlers run at once, in which order they begin, and what bounds them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    Message,
    Rejected,
    Request,
    Session,
    connect,
    delivery,
    serve,
)


class Work(Message, tag=1):
    number: int
    key: str = ""
    payload: bytes = b""


class Note(Message, tag=2):
    text: str


class Fence(Message, tag=3):
    """Comes back once all that was sent before it has been looked at."""


class Meet(Request[int], tag=4):
    number: int


class Bench:
    """Handlers that stay until they are let go, and what is known of them."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.most = 0
        self._gates: dict[int, asyncio.Event] = {}
        self._changed = asyncio.Condition()

    @property
    def running(self) -> list[int]:
        return [number for number in self.begun if number not in self.done]

    async def work(self, session: Session[Any], work: Work) -> None:
        self.begun.append(work.number)
        self.most = max(self.most, len(self.running))
        await self._tell()
        try:
            await self._gates.setdefault(work.number, asyncio.Event()).wait()
        finally:
            self.done.append(work.number)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def let_go(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._gates.setdefault(number, asyncio.Event()).set()

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= count)

    async def until_done(self, count: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.done) >= count)


def fenced_app(*channels: Channel) -> App[None, None]:
    app = App(channels=channels)

    @app.on(Fence)
    async def fence(session: Session[None], mark: Fence) -> None:
        await session.send(mark)

    return app


async def fence(session: Session[Any]) -> None:
    """Return when the peer has looked at all that was sent before."""
    await session.send(Fence())
    await session.receive(Fence, timeout=10)


async def send_work(session: Session[Any], count: int, keys: str = " ") -> None:
    for number in range(count):
        await session.send(Work(number, keys[number % len(keys)]))


async def test_messages_are_handled_one_at_a_time_and_in_order() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work)(bench.work)
    bench.let_go(range(100))
    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 100)
        await fence(session)
        assert bench.begun == bench.done == [*range(100)]
        assert bench.most == 1


async def test_as_many_run_at_once_as_the_keyword_says_and_begin_in_order() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work, concurrency=3)(bench.work)
    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 10)
        await fence(session)
        assert bench.begun == [0, 1, 2]
        bench.let_go([1])
        await bench.until_begun(4)
        await fence(session)
        assert bench.running == [0, 2, 3]
        bench.let_go(range(10))
        await bench.until_done(10)
        assert bench.begun == [*range(10)]
        assert bench.most == 3
        assert server.stats.balanced


async def test_unlimited_is_as_many_as_come() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work, concurrency="unlimited")(bench.work)
    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 200)
        await bench.until_begun(200)
        assert bench.begun == bench.running == [*range(200)]
        bench.let_go(range(200))
        await bench.until_done(200)


async def test_equal_keys_go_one_after_the_other_and_others_at_once() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work, key=lambda work: work.key)(bench.work)
    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 9, keys="abc")
        await fence(session)
        assert bench.begun == [0, 1, 2]
        bench.let_go([1])
        await bench.until_begun(4)
        await fence(session)
        assert bench.begun == [0, 1, 2, 4]
        bench.let_go(range(9))
        await bench.until_done(9)
        for first in range(3):
            assert [n for n in bench.begun if n % 3 == first] == [first, first + 3, first + 6]


async def test_a_key_and_a_number_bound_the_keys_that_run_at_once() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work, key=lambda work: work.key, concurrency=2)(bench.work)
    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 12, keys="abcd")
        await fence(session)
        assert bench.begun == [0, 1]
        bench.let_go(range(12))
        await bench.until_done(12)
        assert bench.most == 2
        for first in range(4):
            own = [n for n in bench.begun if n % 4 == first]
            assert own == sorted(own)


async def test_types_that_keep_the_order_wait_for_nothing_that_leaves_it() -> None:
    app, bench = fenced_app(), Bench()
    app.on(Work, concurrency=2)(bench.work)
    order: list[str] = []
    enter = asyncio.Event()

    @app.on(Note)
    async def note(session: Session[None], note: Note) -> None:
        if note.text == "slow":
            await enter.wait()
        order.append(note.text)

    async with serve(app) as server, connect(server.address) as session:
        for number in range(4):
            await session.send(Work(number))
            await session.send(Note(str(number)))
        await fence(session)
        assert order == ["0", "1", "2", "3"]
        assert bench.running == [0, 1]
        bench.let_go(range(4))
        await bench.until_done(4)
        # The other way round: it begins only when what is before it in the order is done.
        await session.send(Note("slow"))
        await session.deliver(Work(4), timeout=5)
        await session.ping()
        assert 4 not in bench.begun
        enter.set()
        await bench.until_begun(5)
        assert order[-1] == "slow"
        bench.let_go([4])


async def test_what_handlers_hold_grants_no_credit() -> None:
    config = Config(channel_window_bytes=20_000, send_queue_messages=16)
    app, bench = fenced_app(), Bench()
    app.on(Work, concurrency="unlimited")(bench.work)
    async with serve(app, config=config) as server, connect(server.address, config=config) as peer:

        async def send_all() -> None:
            for number in range(100):
                await peer.send(Work(number, payload=bytes(1000)))

        sending = asyncio.create_task(send_all())
        await bench.until_begun(15)
        await peer.ping()
        assert len(bench.begun) < 20
        assert not sending.done()
        bench.let_go(range(100))
        await asyncio.wait_for(sending, 10)
        await bench.until_done(100)
        assert bench.begun == [*range(100)]


@pytest.mark.parametrize("keyed", [False, True])
async def test_on_an_unreliable_channel_the_oldest_waiting_gives_way(keyed: bool) -> None:
    works = Channel("works", delivery.unreliable(), carries=[Work])
    config = Config(mailbox_bytes=10_000)
    app, bench = fenced_app(works), Bench()
    key = (lambda work: work.key) if keyed else None
    app.on(Work, concurrency=1 if keyed else 2, key=key)(bench.work)
    limit = 1 if keyed else 2
    async with (
        serve(app, config=config) as server,
        connect(server.address, app=App(channels=[works])) as session,
    ):
        await session.ping()
        [peer] = server.sessions
        for number in range(40):
            await session.send(Work(number, payload=bytes(900)))
            await session.ping()
        stats = peer.stats
        assert stats.messages_dropped_mailbox > 0
        assert stats.messages_waiting <= 10
        assert stats.balanced
        bench.let_go(range(40))
        await bench.until_done(stats.messages_waiting)
        assert bench.begun[:limit] == [*range(limit)]
        assert bench.begun[-1] == 39
        assert bench.begun == sorted(bench.begun)
        await session.ping()
        assert peer.stats.balanced


async def test_an_error_in_one_handler_is_logged_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = fenced_app()
    handled: asyncio.Queue[int] = asyncio.Queue()

    @app.on(Work, concurrency=4)
    async def work(session: Session[None], work: Work) -> None:
        if work.number == 1:
            raise RuntimeError("on purpose")
        if work.number == 2:
            raise Rejected("not this one")
        await handled.put(work.number)

    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 6)
        assert [await asyncio.wait_for(handled.get(), 5) for _ in range(4)] == [0, 3, 4, 5]
        await fence(session)
        assert server.stats.handler_errors == 1
        assert server.stats.totals.messages_received_refused == 1
        assert server.stats.balanced
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and "Work" in errors[0]


@pytest.mark.parametrize("broken", [lambda work: work.nothing, lambda work: [work.key]])
async def test_a_key_that_fails_is_an_error_of_the_handler(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = fenced_app()

    @app.on(Work, key=broken)
    async def work(session: Session[None], work: Work) -> None:
        raise AssertionError("it has no key")

    async with serve(app) as server, connect(server.address) as session:
        await session.send(Work(1))
        await fence(session)
        assert server.stats.handler_errors == 1
        assert server.stats.balanced
    assert any("Work" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("concurrency", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("many", TypeError)],
)
def test_a_concurrency_that_is_none_raises_where_it_is_written(
    concurrency: Any, error: type[Exception]
) -> None:
    app = App()
    with pytest.raises(error, match="concurrency="):

        @app.on(Work, concurrency=concurrency)
        async def work(session: Session[None], work: Work) -> None: ...


async def test_closing_cancels_all_that_run_at_once_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    app, bench = fenced_app(), Bench()
    app.on(Work, concurrency=3)(bench.work)
    config = Config(grace_seconds=0.1)
    async with serve(app, config=config) as server, connect(server.address) as session:
        await send_work(session, 5)
        await bench.until_begun(3)
        await session.close()
        await server.close()
        assert bench.begun == sorted(bench.done) == [0, 1, 2]
        totals = server.stats.totals
        assert totals.messages_dropped_closed == 5
        assert totals.balanced, totals.imbalances
    assert asyncio.all_tasks() == before


async def test_a_handler_beside_others_may_close_its_session() -> None:
    app = App()

    @app.on(Work, concurrency=2)
    async def work(session: Session[None], work: Work) -> None:
        await session.close("enough")

    async with serve(app) as server, connect(server.address) as session:
        await session.send(Work(1))
        await asyncio.wait_for(session.wait_closed(), 5)
        assert session.error is not None and session.error.reason == "enough"


@pytest.mark.parametrize("concurrency", [None, 2])
async def test_a_handler_that_meets_a_cancelled_task_stops_nothing_else(
    concurrency: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = fenced_app()
    handled: asyncio.Queue[int] = asyncio.Queue()

    @app.on(Work, concurrency=concurrency)
    async def work(session: Session[None], work: Work) -> None:
        if work.number == 0:
            given_up = asyncio.ensure_future(asyncio.Event().wait())
            given_up.cancel()
            await given_up
        await handled.put(work.number)

    async with serve(app) as server, connect(server.address) as session:
        await send_work(session, 3)
        assert [await asyncio.wait_for(handled.get(), 5) for _ in range(2)] == [1, 2]
        await fence(session)
        assert server.stats.handler_errors == 1
        assert server.stats.balanced


async def test_requests_run_at_once_if_their_handler_says_so() -> None:
    app = App()
    both = asyncio.Barrier(2)

    @app.answers(Meet, concurrency=2)
    async def meet(session: Session[None], ask: Meet) -> int:
        async with asyncio.timeout(5):
            await both.wait()
        return ask.number

    async with serve(app) as server, connect(server.address) as session:
        meetings = [session.request(Meet(number)) for number in range(6)]
        assert await asyncio.gather(*meetings) == [*range(6)]
        assert server.stats.balanced


async def test_requests_with_one_key_keep_their_order() -> None:
    app = App()
    order: list[int] = []

    @app.answers(Meet, key=lambda ask: ask.number % 2)
    async def meet(session: Session[None], ask: Meet) -> int:
        order.append(ask.number)
        return ask.number

    async with serve(app) as server, connect(server.address) as session:
        await asyncio.gather(*(session.request(Meet(number)) for number in range(20)))
    assert [n for n in order if n % 2] == [*range(1, 20, 2)]
    assert [n for n in order if not n % 2] == [*range(0, 20, 2)]


async def test_topics_take_the_same_keywords() -> None:
    app = App()
    both = asyncio.Barrier(2)
    seen: asyncio.Queue[object] = asyncio.Queue()

    @app.on("pair", concurrency=2)
    async def pair(session: Session[None], value: object) -> None:
        await both.wait()
        await seen.put(value)

    async with serve(app) as server, connect(server.address) as session:
        await session.emit("pair", 1)
        await session.emit("pair", 2)
        assert {await asyncio.wait_for(seen.get(), 5) for _ in range(2)} == {1, 2}
