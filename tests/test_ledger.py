"""The ledger: every message, sent or received, is accounted for exactly once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from logging.handlers import QueueHandler
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    InvalidMessage,
    Message,
    Outcome,
    QueueFull,
    Receipt,
    Rejected,
    Request,
    RequestFailed,
    RequestTimeout,
    Session,
    SessionClosed,
    connect,
    delivery,
    serve,
)
from aerogram.core.ledger import Ledger
from aerogram.lab import Link, Network, simulate
from aerogram.manager import LEDGER_CHECK_SECONDS


class Say(Message, tag=1):
    text: str


class Move(Message, tag=2, delivery=delivery.unreliable()):
    number: int


class Ask(Request[int], tag=3):
    text: str


class Unknown(Message, tag=4):
    pass


def busy_app() -> App[None, None]:
    """Handlers that handle, fail, refuse, answer and wait."""
    app = App()

    @app.on(Say)
    async def say(session: Session[None], say: Say) -> None:
        if say.text == "refuse":
            raise Rejected("no")
        if say.text == "fail":
            raise RuntimeError("on purpose")
        if say.text == "wait":
            await asyncio.Event().wait()

    @app.on(Move, concurrency=2)
    async def move(session: Session[None], move: Move) -> None:
        await asyncio.sleep(0)

    @app.answers(Ask)
    async def answer(session: Session[None], ask: Ask) -> int:
        if ask.text == "wait":
            await asyncio.Event().wait()
        return len(ask.text)

    return app


@pytest.mark.aerogram(expect=["handler error"], limit=120)
async def test_it_balances_whatever_becomes_of_messages(network: Network) -> None:
    network.default = Link(delay=0.02, jitter=0.01, loss=0.1, duplicate=0.1, reorder=0.1)
    config = Config(grace_seconds=0.5)
    async with serve(busy_app(), "server", 1, network=network, config=config) as server:
        for _ in range(3):
            async with connect(server.address, network=network, timeout=20.0) as session:
                for number in range(50):
                    await session.send(Say(("", "refuse", "fail")[number % 3]))
                    await session.send(Move(number), deadline=0.05 if number % 2 else None)
                await session.send(Unknown())
                assert await session.request(Ask("four"), timeout=20) == 4
                with pytest.raises(RequestTimeout):
                    await session.request(Ask("wait"), timeout=0.5)
                await session.send(Say("wait"))
                for number in range(10):
                    await session.send(Say(str(number)))
                assert session.stats.balanced, session.stats.imbalances
                assert server.stats.balanced, server.stats.totals.imbalances
        await server.close()
        totals = server.stats.totals
        assert totals.balanced, totals.imbalances
        assert totals.messages_in_flight == totals.messages_waiting == 0
        assert totals.messages_handled > 150
        assert totals.messages_received_refused >= 3 * 17
        assert totals.messages_dropped_closed > 0
        assert totals.handlers_cancelled == 3


async def test_a_server_keeps_the_counters_of_sessions_that_are_gone() -> None:
    app, gone = busy_app(), asyncio.Queue[Session[None]]()

    @app.on_close
    async def note(session: Session[None], error: BaseException | None) -> None:
        await gone.put(session)

    async with serve(app) as server:
        for number in range(3):
            async with connect(server.address) as session:
                for _ in range(10):
                    await session.send(Say(""))
            assert session.stats.balanced
            await (await asyncio.wait_for(gone.get(), 5)).wait_closed()
            stats = server.stats
            assert stats.totals.messages_handled == 10 * (number + 1)
            assert stats.ended.messages_received == 10 * (number + 1)
            assert stats.balanced


async def test_what_waits_and_runs_is_counted_one_by_one() -> None:
    app, release = App(), asyncio.Event()

    @app.on(Say)
    async def say(session: Session[None], say: Say) -> None:
        await release.wait()

    async with serve(app) as server, connect(server.address) as session:
        for _ in range(7):
            await session.deliver(Say(""), timeout=5)
        [peer] = server.sessions
        stats = peer.stats
        assert (stats.messages_received, stats.messages_waiting, stats.messages_handled) == (
            7,
            7,
            0,
        )
        release.set()
        await session.ping()
        assert (peer.stats.messages_waiting, peer.stats.messages_handled) == (0, 7)
        assert peer.stats.balanced


async def test_within_a_run_what_is_done_is_counted() -> None:
    app, seen = App(), asyncio.Queue[int]()

    @app.on(int)
    async def note(session: Session[None], number: int) -> None:
        assert session.stats.balanced, session.stats.imbalances
        await seen.put(session.stats.messages_handled)

    async with serve(app) as server, connect(server.address) as session:
        for number in range(50):
            await session.send(number)
        counts = [await asyncio.wait_for(seen.get(), 5) for _ in range(50)]
        assert counts == [*range(50)]
        assert server.stats.handler_errors == 0


async def test_a_client_without_handlers_has_a_balance_too() -> None:
    app = App()

    @app.on_open
    async def talk(session: Session[None]) -> None:
        for number in range(5):
            await session.send(number)
        with pytest.raises(RequestFailed):
            await session.request(Ask("client?"), timeout=5)
        await session.deliver("end", timeout=5)

    async with serve(app) as server, connect(server.address) as session:
        assert await session.receive(str, timeout=5) == "end"
        stats = session.stats
        assert (stats.messages_received, stats.messages_handled) == (7, 1)
        assert (stats.messages_waiting, stats.messages_received_refused) == (5, 1)
        assert stats.balanced, stats.imbalances
        assert server.stats.handler_errors == 0


@pytest.mark.parametrize("counter", ["messages_sent", "messages_received"])
async def test_debug_mode_names_what_is_off(counter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: asyncio.Queue[logging.LogRecord] = asyncio.Queue()
    logger = logging.getLogger(f"tests.{counter}.{type(asyncio.get_running_loop()).__module__}")
    logger.addHandler(QueueHandler(errors))  # type: ignore[arg-type]  it has `put_nowait`
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    monkeypatch.setattr("aerogram.manager.LEDGER_CHECK_SECONDS", 0.05)
    config = Config(keepalive_seconds=0.1)
    async with (
        serve(busy_app(), config=config, logger=logger) as server,
        connect(server.address, config=config) as session,
    ):
        await session.deliver(Say(""), timeout=5)
        [peer] = server.sessions
        await asyncio.sleep(0.2)
        assert errors.empty()
        counts = peer._inner.connection.stats if counter == "messages_sent" else peer._inner.counts
        setattr(counts, counter, getattr(counts, counter) + 1)
        found = await asyncio.wait_for(errors.get(), 5)
        setattr(counts, counter, getattr(counts, counter) - 1)
        assert found.levelno == logging.ERROR
        told = {"messages_sent": "1 messages sent", "messages_received": "2 messages received"}
        assert "balance" in found.getMessage() and told[counter] in found.getMessage()
    assert LEDGER_CHECK_SECONDS == 5.0


def test_a_sum_that_is_off_is_told_in_words() -> None:
    ledger = Ledger(messages_sent=3, messages_delivered=1, messages_in_flight=1)
    assert ledger.imbalances == [
        "3 messages sent, but 1 delivered, 0 lost, 0 expired, 0 superseded, 0 refused, 1 in flight"
    ]
    total = Ledger()
    for _ in range(2):
        total.add(ledger)
    assert (total.messages_sent, total.messages_in_flight) == (6, 2)
    assert not total.balanced
    total.messages_lost = 2
    assert total.balanced


async def test_what_no_handler_could_begin_is_counted_when_the_session_is_gone() -> None:
    app = App()

    @app.on_open
    async def never(session: Session[None]) -> None:
        await asyncio.Event().wait()

    @app.on(Say)
    async def say(session: Session[None], say: Say) -> None:
        raise AssertionError("on_open has not run")

    server = await serve(app, config=Config(grace_seconds=0.1))
    async with connect(server.address) as session:
        for _ in range(5):
            await session.deliver(Say(""), timeout=5)
    await server.close()
    totals = server.stats.totals
    assert (totals.messages_received, totals.messages_dropped_closed) == (5, 5)
    assert totals.balanced, totals.imbalances


# -- sending without waiting


async def test_send_nowait_takes_what_there_is_room_for() -> None:
    async with serve(busy_app()) as server, connect(server.address) as session:
        receipts = [session.send_nowait(Say("")) for _ in range(10)]
        outcomes = [await asyncio.wait_for(receipt, 5) for receipt in receipts]
        assert outcomes == [Outcome.DELIVERED] * 10


async def test_send_nowait_raises_when_the_queue_is_full() -> None:
    config = Config(send_queue_messages=4, channel_window_bytes=4096)
    async with serve(busy_app()) as server, connect(server.address, config=config) as session:
        for _ in range(4):
            session.send_nowait(Say("x"))
        with pytest.raises(QueueFull, match=r"default.*4 messages"):
            session.send_nowait(Say("x"))
        assert session.stats.messages_sent == 4
        await session.send(Say("this waits"))
        session.send_nowait(Move(1))
        with pytest.raises(InvalidMessage):
            session.send_nowait(object())
        await session.close()
        with pytest.raises(SessionClosed):
            session.send_nowait(Say("x"))
        assert session.stats.balanced


def test_those_who_have_given_up_waiting_leave_nothing_behind() -> None:
    channel = Channel("narrow", delivery.ordered(), queue_messages=2, carries=[Say])

    async def main() -> None:
        network = Network()
        async with (
            serve(App(channels=[channel]), "server", 1, network=network) as server,
            connect(server.address, network=network, app=App(channels=[channel])) as session,
        ):
            network.partition("client-1", "server")
            receipts: list[Receipt] = []
            with suppress(QueueFull):
                while True:
                    receipts.append(session.send_nowait(Say("")))
                    await asyncio.sleep(0)
            for _ in range(100):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(receipts[-1], 0.001)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(session.send(Say("")), 0.001)
            assert session._inner.outbox._writers == {}
            assert len(receipts[-1].observer.waiting) == 0
            network.repair("client-1", "server")
            await session.close()

    simulate(main, limit=60.0)


# -- what used to slip through


async def test_an_empty_payload_is_refused_and_nothing_else_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = busy_app()
    async with serve(app) as server, connect(server.address, app=App()) as session:
        channel = session._inner.outbox.named("default")
        for name in ("default", "answers"):
            session._inner.outbox.put_own(name, b"")
        await session.deliver(Say(""), timeout=5)
        [peer] = server.sessions
        assert server.stats.handler_errors == 0
        assert peer.stats.messages_received_refused == 2
        assert peer.stats.balanced
        peer._inner.outbox.put_own("default", b"")
        await session.ping()
        await session.ping()
        assert session.stats.messages_received_refused == 1
        assert channel.name == "default"
    assert any("without a byte" in record.getMessage() for record in caplog.records)


async def test_an_empty_payload_does_not_reach_who_receives() -> None:
    app = App()

    @app.on_open
    async def talk(session: Session[None]) -> None:
        session._inner.outbox.put_own("default", b"")
        await session.send(1)

    async with serve(app) as server, connect(server.address) as session:
        assert await session.receive(timeout=5) == 1
        assert session.stats.messages_received_refused == 1


class Shout(Message, tag=9, delivery=delivery.reliable()):
    text: str


class Whisper(Request[int], tag=9, delivery=delivery.unreliable()):
    text: str


class Murmur(Request[int], tag=9, delivery=delivery.reliable()):
    text: str


async def test_two_types_of_one_tag_cannot_have_two_deliveries() -> None:
    app = App()

    @app.on(Shout)
    async def shout(session: Session[None], shout: Shout) -> None: ...

    with pytest.raises(ValueError, match="Shout and Whisper"):

        @app.answers(Whisper)
        async def whisper(session: Session[None], ask: Whisper) -> int:
            return 1

    @app.answers(Murmur)
    async def murmur(session: Session[None], ask: Murmur) -> int:
        return len(ask.text)

    async with serve(app) as server, connect(server.address) as session:
        await session.deliver(Shout("hello"), timeout=5)
        assert await session.request(Murmur("four"), timeout=5) == 4


class Backwards:
    """An ordering of a user's own: it looks into messages."""

    def arrived(self, sequence: int, message: Any) -> list[Any]:
        return [message]


async def test_topics_and_requests_travel_on_a_channel_that_is_looked_into() -> None:
    odd = Channel("odd", delivery.Delivery(Backwards), carries=[Ask, bytes])
    app, heard = App(channels=[odd]), asyncio.Queue[object]()

    @app.on(bytes)
    async def hear_bytes(session: Session[None], data: bytes) -> None:
        await heard.put(data)

    @app.on("news")
    async def hear_news(session: Session[None], value: object) -> None:
        await heard.put(value)

    @app.answers(Ask)
    async def answer(session: Session[None], ask: Ask) -> int:
        return len(ask.text)

    async with (
        serve(app) as server,
        connect(server.address, app=App(channels=[odd])) as session,
    ):
        await session.send(b"")
        await session.emit("news", {"a": 1}, via=odd)
        assert await asyncio.wait_for(heard.get(), 5) == b""
        assert await asyncio.wait_for(heard.get(), 5) == {"a": 1}
        assert await session.request(Ask("four"), timeout=5) == 4
        assert server.stats.balanced
