"""Deadlines at the receiver: what is late is not handed over, and what runs late is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    Message,
    Outcome,
    QueueFull,
    Request,
    RequestFailed,
    Server,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram.core.channel import Run
from aerogram.core.incoming import ReceiveChannel
from aerogram.inner_session import InnerSession
from aerogram.lab import Link, Network, simulate

WORKS = Channel("works", delivery.unreliable(), carries=[])


class Work(Message, tag=1):
    number: int


class Ask(Request[int], tag=2, delivery=delivery.reliable(deadline=0.5)):
    pass


class Bench:
    """A handler that stays, and what became of it."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[tuple[int, str]] = []
        self.gate = asyncio.Event()

    async def work(self, session: Session[Any], work: Work) -> None:
        self.begun.append(work.number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append((work.number, "cancelled"))
            raise
        self.ended.append((work.number, "done"))


@asynccontextmanager
async def linked(
    app: App[Any, Any], client: App[Any, Any] | None = None, config: Config | None = None
) -> AsyncGenerator[tuple[Server, Session[Any]]]:
    """A server and a session that has measured its path: 20 ms, there and back."""
    network = Network(link=Link(delay=0.01))
    async with (
        serve(app, "server", 1, network=network, config=config) as server,
        connect(server.address, network=network, app=client) as session,
    ):
        await session.ping()
        await asyncio.sleep(0.1)
        yield server, session


@pytest.mark.parametrize("concurrency", [None, 4])
def test_a_handler_is_cancelled_at_the_deadline_of_its_message(concurrency: int | None) -> None:
    async def main() -> None:
        app, bench = App(), Bench()
        app.on(Work, concurrency=concurrency)(bench.work)
        async with linked(app) as (server, session):
            await session.send(Work(1), deadline=0.5)
            await session.send(Work(2), deadline=5.0)
            await asyncio.sleep(0.4)
            assert bench.ended == []
            await asyncio.sleep(0.2)
            assert bench.ended == [(1, "cancelled")]
            bench.gate.set()
            await asyncio.sleep(0.1)
            assert bench.ended == [(1, "cancelled"), (2, "done")]
            stats = server.stats
            assert stats.totals.handlers_expired == 1
            assert stats.handler_errors == 0
            assert stats.balanced, stats.totals.imbalances

    simulate(main, limit=60)


@pytest.mark.parametrize("by_channel", [True, False])
def test_a_deadline_passes_also_while_a_message_waits_for_room(by_channel: bool) -> None:
    """Its seconds count from the call, not from when the queue had room for it."""
    promise = delivery.ordered(deadline=0.5 if by_channel else None)
    narrow = Channel("narrow", promise, queue_messages=4)

    async def main() -> None:
        app, bench = App(channels=[narrow]), Bench()
        app.on(Work)(bench.work)
        config = Config(channel_window_bytes=4096)
        async with linked(app, App(channels=[narrow]), config) as (server, session):
            loop = asyncio.get_running_loop()
            with suppress(QueueFull):
                while True:
                    session.send_nowait(Work(0), via=narrow, deadline=1.5)
                    await asyncio.sleep(0)
            begun = loop.time()
            receipt = await session.send(Work(-1), via=narrow, deadline=None if by_channel else 0.5)
            assert loop.time() - begun == pytest.approx(0.5)
            assert (await receipt, receipt.rtt) == (Outcome.EXPIRED, None)
            assert session.stats.messages_in_flight > 0
            bench.gate.set()
            waited = await session.send(Work(-2), via=narrow, deadline=0.5)
            assert await waited is Outcome.DELIVERED
            await asyncio.sleep(2.0)
            assert -1 not in bench.begun
            assert -2 in bench.begun
            for stats in (session.stats, server.stats):
                assert stats.balanced
            assert session.stats.messages_in_flight == 0

    simulate(main, limit=60)


def test_what_is_late_is_not_handed_over() -> None:
    async def main() -> None:
        app, bench = App(), Bench()
        app.on(Work)(bench.work)
        async with linked(app) as (server, session):
            await session.send(Work(1))
            for number in (2, 3):
                await session.send(Work(number), deadline=0.5)
            await session.send(Work(4))
            await asyncio.sleep(1.0)
            bench.gate.set()
            await asyncio.sleep(0.1)
            assert bench.ended == [(1, "done"), (4, "done")]
            assert bench.begun == [1, 4]
            totals = server.stats.totals
            assert (totals.messages_dropped_late, totals.messages_handled) == (2, 2)
            assert totals.balanced, totals.imbalances

    simulate(main, limit=60)


def test_a_handler_may_keep_on_after_the_deadline() -> None:
    async def main() -> None:
        app, bench = App(), Bench()
        app.on(Work, deadline=False)(bench.work)
        async with linked(app) as (server, session):
            for number in (1, 2):
                await session.send(Work(number), deadline=0.5)
            await asyncio.sleep(1.0)
            bench.gate.set()
            await asyncio.sleep(0.1)
            assert bench.ended == [(1, "done")]
            totals = server.stats.totals
            assert (totals.handlers_expired, totals.messages_dropped_late) == (0, 1)

    simulate(main, limit=60)


@pytest.mark.aerogram(expect=["handler error"])
async def test_a_handlers_own_timeout_is_its_own_error(network: Network) -> None:
    app = App()

    @app.on(Work)
    async def work(session: Session[None], work: Work) -> None:
        raise TimeoutError("of a database")

    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        await session.send(Work(1), deadline=60.0)
        await session.close()
        assert server.stats.handler_errors == 1
        assert server.stats.totals.handlers_expired == 0


def test_who_asked_learns_that_the_deadline_has_passed() -> None:
    async def main() -> None:
        app = App()
        cancelled = asyncio.Event()

        @app.answers(Ask, concurrency=2)
        async def answer(session: Session[None], ask: Ask) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return 1

        async with linked(app) as (server, session):
            with pytest.raises(RequestFailed, match="deadline"):
                await session.request(Ask(), timeout=5)
            assert cancelled.is_set()
            assert server.stats.totals.handlers_expired == 1

    simulate(main, limit=60)


def test_receive_does_not_return_what_is_late() -> None:
    async def main() -> None:
        app = App()

        @app.on_open
        async def talk(session: Session[None]) -> None:
            await session.ping()
            await session.send(1, deadline=0.5)
            await session.send(2)

        async with linked(app) as (_, session):
            await asyncio.sleep(1.0)
            assert await session.receive(int, timeout=5) == 2
            assert session.stats.messages_dropped_late == 1
            assert session.stats.balanced, session.stats.imbalances

    simulate(main, limit=60)


def test_no_deadline_is_kept_longer_than_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    channels: set[ReceiveChannel] = set()
    arrived = InnerSession.arrived

    def noted(self: InnerSession, channel: ReceiveChannel, runs: list[Run]) -> None:
        if channel.name == "works":
            channels.add(channel)
        arrived(self, channel, runs)

    monkeypatch.setattr(InnerSession, "arrived", noted)

    async def main() -> None:
        app, bench = App(channels=[WORKS]), Bench()
        app.on(Work)(bench.work)
        config = Config(mailbox_bytes=500)
        async with linked(app, App(channels=[WORKS]), config) as (server, session):
            for number in range(100):
                await session.send(Work(number), via=WORKS, deadline=60.0)
                await asyncio.sleep(0.01)
            await session.ping()
            [peer] = server.sessions
            assert peer.stats.messages_dropped_mailbox > 50
            [channel] = channels
            assert 0 < len(channel.deadlines) < 20
            bench.gate.set()
            await asyncio.sleep(0.1)
            assert bench.ended[-1] == (99, "done")
            assert channel.deadlines == {}
            assert peer.stats.balanced, peer.stats.imbalances

    simulate(main, limit=60)
