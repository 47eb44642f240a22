"""The end of a session: handlers have their grace, `on_close` runs, and nothing hangs or stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aerogram import (
    App,
    ClosedByPeer,
    Config,
    Identity,
    Message,
    Request,
    Server,
    Session,
    connect,
    serve,
)
from aerogram.idempotency import KEPT_SECONDS
from aerogram.lab import Link, Network, simulate
from aerogram.lifecycle import CLEAN_UP_SECONDS

CONFIG = Config(grace_seconds=2.0, idle_timeout_seconds=10.0)
PATH_SECONDS = 0.01


class Ask(Request[int], tag=1):
    pass


class Job(Message, tag=2):
    pass


class Worker:
    """An app whose handler of `Job` never ends by itself, and what became of it."""

    def __init__(self, stubborn: int = 0) -> None:
        self.app = App()
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.log: list[tuple[str, float]] = []
        self._stubborn = stubborn
        self.app.on(Job)(self.work)
        self.app.on_close(self.closed)

    async def work(self, session: Session[Any], job: Job) -> None:
        self.begun.set()
        while True:
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self._note("cancelled")
                self._stubborn -= 1
                if self._stubborn < 0:
                    raise
            else:
                return

    async def closed(self, session: Session[Any], error: Exception | None) -> None:
        self._note("on_close")

    def _note(self, what: str) -> None:
        self.log.append((what, asyncio.get_running_loop().time()))

    def since(self, start: float) -> list[tuple[str, float]]:
        """What happened, and how many seconds after this."""
        return [(what, pytest.approx(when - start, abs=0.1)) for what, when in self.log]


@asynccontextmanager
async def linked(
    app: App[Any, Any], client: App[Any, Any] | None = None
) -> AsyncGenerator[tuple[Server, Session[Any], Network]]:
    network = Network(link=Link(delay=PATH_SECONDS))
    async with (
        serve(app, "server", 1, network=network, config=CONFIG) as server,
        connect(server.address, network=network, app=client, config=CONFIG) as session,
    ):
        await session.ping()
        yield server, session, network


@asynccontextmanager
async def at_work(
    worker: Worker,
) -> AsyncGenerator[tuple[Server, Session[Any], Session[Any], Network]]:
    """As `linked`, and the server's side of the session, where the handler has begun."""
    async with linked(worker.app) as (server, session, network):
        [peer] = server.sessions
        await session.send(Job())
        await worker.begun.wait()
        yield server, session, peer, network


def now() -> float:
    return asyncio.get_running_loop().time()


# -- handlers that never end


async def by_peer(server: Server, session: Session[Any], network: Network) -> None:
    await session.close("enough")


async def by_silence(server: Server, session: Session[Any], network: Network) -> None:
    network.partition("server")
    await asyncio.sleep(CONFIG.idle_timeout_seconds)


@pytest.mark.parametrize("end", [by_peer, by_silence])
@pytest.mark.parametrize("concurrency", [None, 4])
def test_whoever_ends_a_session_its_handlers_have_the_grace(
    end: Callable[..., Awaitable[None]], concurrency: int | None
) -> None:
    async def main() -> None:
        worker = Worker()
        async with linked(worker.app) as (server, session, network):
            [peer] = server.sessions
            await session.send(Job())
            await session.send(Job())
            await worker.begun.wait()
            await end(server, session, network)
            start = now()
            await peer.wait_closed()
            assert worker.since(start) == [("cancelled", 2.0), ("on_close", 2.0)]
            assert peer.stats.messages_dropped_closed == 2
            assert server.stats.balanced

    simulate(main, limit=120)


def test_a_grace_bounds_the_whole_of_close(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = Worker()
        async with at_work(worker) as (_, session, peer, _):
            start = now()
            await peer.close("enough", grace=0.5)
            assert now() - start == pytest.approx(0.5, abs=0.1)
            assert worker.since(start) == [("cancelled", 0.5), ("on_close", 0.5)]
            assert isinstance(session.error, ClosedByPeer)

    with caplog.at_level(logging.WARNING):
        simulate(main, limit=60)
    lines = [r.getMessage() for r in caplog.records if "have not ended" in r.getMessage()]
    assert len(lines) == 1, lines


def test_a_message_that_cannot_arrive_and_a_handler_share_the_grace() -> None:
    async def main() -> None:
        worker = Worker()
        async with at_work(worker) as (_, _, peer, network):
            network.partition("server")
            await peer.send(b"never arrives")
            start = now()
            await peer.close(grace=1.0)
            assert worker.since(start) == [("cancelled", 1.0), ("on_close", 1.0)]
            assert now() - start == pytest.approx(1.0, abs=0.1)

    simulate(main, limit=60)


def test_a_handler_that_ends_in_time_is_not_cancelled() -> None:
    async def main() -> None:
        worker = Worker()
        async with at_work(worker) as (_, session, peer, _):
            await session.close()
            start = now()
            asyncio.get_running_loop().call_later(1.5, worker.release.set)
            await peer.wait_closed()
            assert worker.since(start) == [("on_close", 1.5)]
            assert peer.stats.messages_handled == 1

    simulate(main, limit=60)


def test_a_handler_that_catches_one_cancellation_ends_with_the_next() -> None:
    async def main() -> None:
        worker = Worker(stubborn=1)
        async with at_work(worker) as (_, _, peer, _):
            start = now()
            await peer.close(grace=0.5)
            again = 0.5 + CLEAN_UP_SECONDS
            assert worker.since(start) == [
                ("cancelled", 0.5), ("cancelled", again), ("on_close", again)
            ]  # fmt: skip

    simulate(main, limit=60)


def test_a_handler_that_catches_all_is_left_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = Worker(stubborn=100)
        start = 0.0
        async with linked(worker.app) as (_, session, _):
            await session.send(Job())
            await session.send(Job())
            await worker.begun.wait()
            start = now()
        assert now() - start < 2 * CONFIG.grace_seconds + 2 * CLEAN_UP_SECONDS + 1.0
        assert [what for what, _ in worker.log] == ["cancelled", "cancelled", "on_close"]
        worker.release.set()
        await asyncio.sleep(0.1)

    simulate(main, limit=60)
    assert "although cancelled" in caplog.text


def test_an_on_close_that_never_ends_is_cancelled_in_its_own_grace() -> None:
    async def main() -> None:
        app, log = App(), []

        @app.on_close
        async def first(session: Session[None], error: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("first")

        async with linked(app) as (server, _, _):
            [peer] = server.sessions
            start = now()
            await peer.close(grace=0.0)
            assert now() - start == pytest.approx(CONFIG.grace_seconds, abs=0.1)
            assert log == ["first"]

    simulate(main, limit=60)


def test_an_on_open_that_never_ends_holds_up_no_end() -> None:
    async def main() -> None:
        app, log = App(), []

        @app.on_open
        async def stay(session: Session[None]) -> None:
            await asyncio.Event().wait()

        @app.on_close
        async def closed(session: Session[None], error: object) -> None:
            log.append("on_close")

        async with linked(app) as (server, session, _):
            [peer] = server.sessions
            await session.close()
            await peer.wait_closed()
            assert log == ["on_close"]

    simulate(main, limit=60)


def test_closing_that_is_cancelled_ends_the_session_at_once() -> None:
    async def main() -> None:
        async with linked(App()) as (_, session, network):
            network.partition("server")
            await session.send(b"never arrives")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.close(grace=60.0), 0.1)
            assert session.closed

    simulate(main, limit=60)


def test_a_server_closes_in_its_grace_although_a_close_takes_longer() -> None:
    async def main() -> None:
        worker = Worker()
        async with at_work(worker) as (server, _, peer, _):
            closing = asyncio.create_task(peer.close(grace=1000.0))
            await asyncio.sleep(1.0)
            start = now()
            await server.close()
            await closing
            assert worker.since(start) == [("cancelled", 2.0), ("on_close", 2.0)]

    simulate(main, limit=60)


def test_a_client_that_comes_while_the_server_closes_is_told_so() -> None:
    async def main() -> None:
        worker = Worker()
        network = Network(link=Link(delay=0.1))
        server = await serve(worker.app, "server", 1, network=network, config=CONFIG)
        async with connect(server.address, network=network, config=CONFIG) as session:
            await session.send(Job())
            await worker.begun.wait()
            connecting = connect(server.address, network=network, config=CONFIG)
            opening = asyncio.create_task(connecting.__aenter__())
            await asyncio.sleep(0.15)  # the server has answered, the client not yet
            closing = asyncio.create_task(server.close("back at nine"))
            late = await opening
            await late.wait_closed()
            assert isinstance(late.error, ClosedByPeer)
            assert late.error.reason == "back at nine"
            await closing
            await connecting.__aexit__()

    simulate(main, limit=60)


# -- answers that may be asked for again


@pytest.mark.parametrize("ends", [True, False])
def test_what_may_be_asked_for_again_goes_on_for_as_long_as_it_is_kept(ends: bool) -> None:
    async def main() -> None:
        app, answered = App(), []

        @app.answers(Ask)
        async def ask(session: Session[None], question: Ask) -> int:
            await asyncio.sleep(60.0 if ends else 1e6)
            answered.append(now())
            return 7

        network = Network(link=Link(delay=PATH_SECONDS))
        identity = Identity.from_private_bytes(bytes(range(32)))
        async with serve(app, "server", 1, network=network, config=CONFIG) as server:
            at = {"network": network, "config": CONFIG, "identity": identity}
            start = now()
            async with connect(server.address, **at) as session:
                await session.ping()
                [peer] = server.sessions
                asking = asyncio.create_task(session.request(Ask(), idempotency_key=b"k"))
                await asyncio.sleep(1.0)
                asking.cancel()
            if ends:
                async with connect(server.address, **at) as session:
                    answer = session.request(Ask(), idempotency_key=b"k", timeout=None)
                    assert await answer == 7
                    assert len(answered) == 1
            else:
                await peer.wait_closed()
                assert now() - start == pytest.approx(1.0 + KEPT_SECONDS, abs=1.0)

    simulate(main, limit=300)


# -- those who would wait for themselves


def test_no_handler_waits_for_its_own_end() -> None:
    async def main() -> None:
        app, raised = App(), []

        async def wait(session: Session[None], *_: object) -> None:
            try:
                await session.wait_closed()
            except RuntimeError as error:
                raised.append(str(error))

        app.on_open(wait)
        app.on(Job)(wait)
        app.on(bytes, concurrency=2)(wait)
        app.on_close(wait)
        async with linked(app) as (server, session, _):
            [peer] = server.sessions
            await session.send(Job())
            await session.send(b"beside others")
            await session.close()
            await peer.wait_closed()
            assert len(raised) == 4
            assert "its own session" in raised[0]

    simulate(main, limit=60)


@pytest.mark.parametrize("where", ["on_open", "handler", "on_close"])
def test_a_handler_closes_its_own_session_and_goes_on(where: str) -> None:
    async def main() -> None:
        app, log = App(), []

        async def close(session: Session[None], *_: object) -> None:
            start = now()
            await session.close("enough")
            assert session.closed
            assert now() - start < 1.0
            await asyncio.sleep(0.5)
            log.append("went on")

        {"on_open": app.on_open, "handler": app.on(Job), "on_close": app.on_close}[where](close)
        network = Network(link=Link(delay=PATH_SECONDS))
        async with serve(app, "server", 1, network=network, config=CONFIG) as server:
            async with connect(server.address, network=network, config=CONFIG) as session:
                await session.send(Job())
                if where == "on_close":
                    await session.ping()
                    await server.sessions[0].close("enough")
                await session.wait_closed()
                assert isinstance(session.error, ClosedByPeer)
            await asyncio.sleep(1.0)
            assert log == ["went on"]

    simulate(main, limit=60)


@pytest.mark.parametrize("where", ["on_open", "handler", "on_close"])
def test_a_handler_closes_the_server_and_goes_on(where: str) -> None:
    async def main() -> None:
        worker, log = Worker(), []
        app = worker.app
        servers: list[Server] = []

        async def close(session: Session[None], *_: object) -> None:
            if len(servers[0].sessions) + (where == "on_close") < 2:
                return
            await servers[0].close("enough")
            log.append(("closed", now()))
            await asyncio.sleep(0.5)
            log.append(("went on", now()))

        {"on_open": app.on_open, "handler": app.on(bytes), "on_close": app.on_close}[where](close)
        network = Network(link=Link(delay=PATH_SECONDS))
        server = await serve(app, "server", 1, network=network, config=CONFIG)
        servers.append(server)
        async with connect(server.address, network=network, config=CONFIG) as busy:
            await busy.send(Job())
            await worker.begun.wait()
            start = now()
            async with connect(server.address, network=network, config=CONFIG) as session:
                await session.send(b"close")
                if where == "on_close":
                    await session.close()
                await busy.wait_closed()
                await server.wait_closed()
                await asyncio.sleep(1.0)
        assert [what for what, _ in log] == ["closed", "went on"]
        assert log[0][1] - start == pytest.approx(CONFIG.grace_seconds, abs=0.5)
        assert ("cancelled", 2.0) in [(what, round(when - start, 0)) for what, when in worker.log]

    simulate(main, limit=60)
