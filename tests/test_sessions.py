"""Sending in three strengths, receiving, handlers and their errors, over real loopback sockets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    ClosedByPeer,
    ClosedLocally,
    Config,
    DeliveryTimeout,
    InvalidMessage,
    Message,
    MessageTooLarge,
    Outcome,
    Rejected,
    Session,
    SessionClosed,
    connect,
    delivery,
    serve,
)
from aerogram.lab import Link, Network


class Move(Message, tag=1, delivery=delivery.sequenced()):
    x: float
    y: float


class Say(Message, tag=2):
    text: str


class Big(Message, delivery=delivery.reliable()):
    blob: bytes


def echo_app() -> App[None, None]:
    app = App()

    @app.on(bytes)
    async def echo_bytes(session: Session[None], data: bytes) -> None:
        await session.send(data)

    @app.on(Say)
    async def echo_say(session: Session[None], say: Say) -> None:
        await session.send(say)

    @app.on(Move)
    async def echo_move(session: Session[None], move: Move) -> None:
        await session.send(move)

    @app.on("topic")
    async def echo_topic(session: Session[None], value: object) -> None:
        await session.emit("topic", value)

    return app


async def test_an_echo_comes_back() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        await session.send(b"hello")
        assert await session.receive(bytes, timeout=5) == b"hello"
        await session.send(Say("typed"))
        assert await session.receive(Say, timeout=5) == Say("typed")
        await session.send(Move(1.0, 2.0))
        assert await session.receive(Move, timeout=5) == Move(1.0, 2.0)
        assert session.stats.rtt > 0


@pytest.mark.parametrize(
    "value",
    [b"", "text", 7, -1.5, True, None, [1, [2, "three"]], {"a": {"b": [1]}}, b"\x00" * 3000],
)
async def test_plain_values_are_kept(value: object) -> None:
    app = App()
    heard: asyncio.Queue[object] = asyncio.Queue()

    @app.on(type(value))
    async def hear(session: Session[None], message: Any) -> None:
        await heard.put(message)

    async with serve(app) as server, connect(server.address) as session:
        await session.send(value)
        arrived = await asyncio.wait_for(heard.get(), 5)
        assert arrived == value and type(arrived) is type(value)


async def test_a_topic_carries_any_plain_value() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        await session.emit("topic", {"text": "hello", "n": [1, 2]})
        assert await session.receive(timeout=5) is not None


async def test_many_messages_arrive_once_and_in_order() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:

        async def talk() -> None:
            for number in range(5000):
                await session.send(Say(str(number)))

        talking = asyncio.create_task(talk())
        for number in range(5000):
            assert await session.receive(Say, timeout=10) == Say(str(number))
        await talking


async def test_iteration_ends_when_the_session_does() -> None:
    app = App()

    @app.on_open
    async def greet(session: Session[None]) -> None:
        for number in range(3):
            await session.send(number)
        await session.close("that was all")

    async with serve(app) as server, connect(server.address) as session:
        assert [message async for message in session] == [0, 1, 2]
        assert isinstance(session.error, ClosedByPeer)
        assert session.error.reason == "that was all"


async def test_a_record_larger_than_a_packet_arrives_whole() -> None:
    blob = bytes(range(256)) * 12_000
    app = App()
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    @app.on(Big)
    async def hear(session: Session[None], big: Big) -> None:
        await heard.put(big.blob)

    async with serve(app) as server, connect(server.address) as session:
        await session.deliver(Big(blob), timeout=20)
        assert await asyncio.wait_for(heard.get(), 5) == blob


async def test_a_record_larger_than_the_receivers_limit_is_refused_at_send() -> None:
    small = Config(max_record_bytes=10_000)
    async with serve(echo_app(), config=small) as server, connect(server.address) as session:
        with pytest.raises(MessageTooLarge, match="10000"):
            await session.send(bytes(10_001))
        await session.send(bytes(9_000))
        assert await session.receive(bytes, timeout=5) == bytes(9_000)


@pytest.mark.parametrize("tight", [True, False])
@pytest.mark.parametrize("limit", [1, 1200, 100_000])
async def test_a_record_of_exactly_the_limit_is_taken(limit: int, tight: bool) -> None:
    room = limit if tight else 1 << 26
    config = Config(
        max_record_bytes=limit,
        reassembly_bytes_per_session=room,
        reassembly_bytes_per_endpoint=room,
        channel_window_bytes=4096,
    )
    unreliable = Channel("loose", delivery.unreliable())
    network = Network(seed=1, link=Link(delay=0.001))
    async with (
        serve(echo_app(), "server", 1, network=network, config=config) as server,
        connect(server.address, network=network, config=config) as session,
    ):
        record = bytes(limit)
        await session.send(record)
        assert await session.receive(bytes, timeout=10) == record
        with pytest.raises(MessageTooLarge, match=f"^{limit + 1} bytes; the peer takes {limit} at"):
            await session.send(bytes(limit + 1))
        [peer] = server.sessions
        await peer.send(record, via=unreliable)
        assert await session.receive(bytes, timeout=10) == record


async def test_deliver_returns_when_the_peer_has_it() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        receipt = await session.deliver(Say("there"), timeout=5)
        assert receipt.outcome is Outcome.DELIVERED
        assert receipt.rtt is not None and receipt.rtt > 0


async def test_a_receipt_tells_how_a_message_ended() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        receipt = await session.send(Say("there"))
        assert receipt.outcome is None
        assert await asyncio.wait_for(receipt, 5) is Outcome.DELIVERED


async def test_deliver_to_nobody_times_out() -> None:
    server = await serve(echo_app())
    async with connect(server.address) as session:
        await session.deliver(b"first", timeout=5)
        server._manager.transport.abort()
        with pytest.raises(DeliveryTimeout):
            await session.deliver(b"second", timeout=0.05)
        await session.close(grace=0.0)
    await server.close()


async def test_a_handler_that_raises_is_logged_and_the_session_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = echo_app()

    @app.on(int)
    async def fail(session: Session[None], number: int) -> None:
        raise RuntimeError("on purpose")

    async with serve(app) as server, connect(server.address) as session:
        await session.send(1)
        await session.send(b"still here")
        assert await session.receive(bytes, timeout=5) == b"still here"
        assert server.stats.handler_errors == 1
    [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "int" in record.getMessage()


async def test_a_flood_of_failures_is_logged_at_a_bounded_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = echo_app()

    @app.on(int)
    async def fail(session: Session[None], number: int) -> None:
        raise RuntimeError("on purpose")

    async with serve(app) as server, connect(server.address) as session:
        for number in range(500):
            await session.send(number)
        await session.send(b"still here")
        assert await session.receive(bytes, timeout=10) == b"still here"
        assert server.stats.handler_errors == 500
        lines = len([r for r in caplog.records if r.levelno >= logging.ERROR])
    assert 1 <= lines <= 40


async def test_a_type_nobody_handles_is_refused_and_the_session_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unknown(Message, tag=77):
        text: str

    async with serve(echo_app()) as server, connect(server.address) as session:
        await session.send(Unknown("who?"))
        await session.send(b"hello")
        assert await session.receive(bytes, timeout=5) == b"hello"
        await asyncio.wait_for(_refused(session), 5)
        [peer] = server.sessions
        assert peer.stats.messages_received_refused == 1
    assert any("77" in record.getMessage() for record in caplog.records)


async def _refused(session: Session[Any]) -> None:
    while not session.stats.messages_refused and not session.stats.messages_delivered:
        await session.ping()


async def test_a_rejected_message_tells_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    app = echo_app()

    @app.on(str)
    async def refuse(session: Session[None], text: str) -> None:
        raise Rejected("no strings today")

    async with serve(app) as server, connect(server.address) as session:
        await session.send("text")
        await session.send(b"hello")
        await session.receive(bytes, timeout=5)
    assert any("no strings today" in record.getMessage() for record in caplog.records)


async def test_on_close_runs_with_the_error_or_none() -> None:
    app = echo_app()
    closed: asyncio.Queue[BaseException | None] = asyncio.Queue()

    @app.on_close
    async def note(session: Session[None], error: BaseException | None) -> None:
        await closed.put(error)

    async with serve(app) as server:
        async with connect(server.address) as session:
            await session.send(b"x")
        assert await asyncio.wait_for(closed.get(), 5) is None


async def test_state_is_made_for_each_session() -> None:
    app = App(session_state=list)
    seen: list[list[int]] = []

    @app.on(int)
    async def note(session: Session[list[int]], number: int) -> None:
        session.state.append(number)

    @app.on_close
    async def keep(session: Session[list[int]], error: BaseException | None) -> None:
        seen.append(session.state)

    async with serve(app) as server:
        for number in range(2):
            async with connect(server.address) as session:
                await session.deliver(number, timeout=5)
    assert sorted(seen) == [[0], [1]]


async def test_middleware_surrounds_handlers_the_first_outermost() -> None:
    order: list[str] = []

    async def outer(session: Session[None], message: object, call_next: Any) -> object:
        order.append("outer")
        return await call_next(session, message)

    async def inner(session: Session[None], message: object, call_next: Any) -> object:
        order.append("inner")
        if message == b"bad":
            raise Rejected("no")
        return await call_next(session, message)

    app = App(middleware=[outer, inner])

    @app.on(bytes)
    async def echo(session: Session[None], data: bytes) -> None:
        order.append("handler")
        await session.send(data)

    async with serve(app) as server, connect(server.address) as session:
        await session.send(b"bad")
        await session.send(b"good")
        assert await session.receive(bytes, timeout=5) == b"good"
    assert order == ["outer", "inner", "outer", "inner", "handler"]


async def test_a_slow_handler_stops_the_senders_credit_and_nothing_is_lost() -> None:
    config = Config(channel_window_bytes=20_000, send_queue_messages=16)
    app = App()
    release, all_handled = asyncio.Event(), asyncio.Event()
    numbers: list[int] = []

    @app.on(list)
    async def slow(session: Session[None], value: list[Any]) -> None:
        await release.wait()
        numbers.append(value[0])
        if len(numbers) == 100:
            all_handled.set()

    async with serve(app, config=config) as server, connect(server.address, config=config) as peer:
        sender = asyncio.create_task(_send_numbers(peer, 100))
        await peer.ping()
        assert not sender.done()
        release.set()
        await asyncio.wait_for(sender, 10)
        await asyncio.wait_for(all_handled.wait(), 10)
        assert numbers == [*range(100)]
        assert server.stats.handler_errors == 0


async def _send_numbers(session: Session[Any], count: int) -> None:
    for number in range(count):
        await session.send([number, bytes(1000)])


async def test_a_slow_handler_on_one_channel_does_not_delay_another() -> None:
    app = App()
    release = asyncio.Event()

    @app.on(Say)
    async def slow(session: Session[None], say: Say) -> None:
        await release.wait()

    @app.on(Move)
    async def quick(session: Session[None], move: Move) -> None:
        await session.send(move)

    async with serve(app) as server, connect(server.address) as session:
        await session.send(Say("wait"))
        await session.send(Move(1.0, 1.0))
        assert await session.receive(Move, timeout=5) == Move(1.0, 1.0)
        release.set()


async def test_sending_on_a_closed_session_raises_its_reason() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        await session.close("enough")
        for attempt in (session.send(b"x"), session.deliver(b"x"), session.ping()):
            with pytest.raises(SessionClosed):
                await attempt
        assert isinstance(session.error, ClosedLocally)


async def test_values_that_cannot_be_sent_raise_at_the_caller() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        for value in (object(), {1, 2}, 1 << 70, [object()], Say(text=3)):  # type: ignore[arg-type]
            if isinstance(value, Say):
                continue
            with pytest.raises(InvalidMessage):
                await session.send(value)
        with pytest.raises(InvalidMessage, match="Channel"):
            await session.send(b"x", via="moves")  # type: ignore[arg-type]
        await session.send(b"alive")
        assert await session.receive(bytes, timeout=5) == b"alive"


async def test_both_sides_have_to_agree_on_a_channel() -> None:
    here = Channel("moves", delivery.ordered(), carries=[Say])
    there = Channel("moves", delivery.sequenced(), carries=[Say])
    async with (
        serve(App(channels=[here])) as server,
        connect(server.address, app=App(channels=[there])) as session,
    ):
        await session.send(Say("hello"))
        await asyncio.wait_for(session.wait_closed(), 5)
        assert session.error is not None
        assert "moves" in str(session.error)
        assert "ordered" in str(session.error) and "sequenced" in str(session.error)


async def test_the_ledger_of_a_session_balances() -> None:
    async with serve(echo_app()) as server, connect(server.address) as session:
        for number in range(200):
            await session.send(Say(str(number)))
            await session.send(Move(number, number))
        assert session.stats.balanced
        await session.deliver(Say("last"), timeout=5)
        assert session.stats.balanced
        [peer] = server.sessions
        assert peer.stats.balanced
