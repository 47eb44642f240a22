"""Deliveries as users meet them: a type says how it travels, and sessions keep to it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    IncomingRecord,
    InvalidMessage,
    Message,
    MessageTooLarge,
    Outcome,
    QueueFull,
    Request,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram.core.outgoing import Outgoing
from aerogram.lab import Link, Network, simulate


class Price(Message, tag=1, delivery=delivery.latest(key=lambda price: price.symbol)):
    symbol: str
    value: int


class Position(Message, tag=2, delivery=delivery.reliable_sequenced()):
    value: int


class Done(Message, tag=3):
    pass


class Ask(Request[int], tag=4):
    pass


LOSSY = Link(delay=0.02, loss=0.1)


class Listener:
    """A server that notes what its handlers got."""

    def __init__(self) -> None:
        self.app = App()
        self.prices: list[Price] = []
        self.positions: list[int] = []
        self.done = asyncio.Event()
        self.app.on(Price)(self._price)
        self.app.on(Position)(self._position)
        self.app.on(Done)(self._done)
        self.app.on(bytes)(self._bytes)

    async def _price(self, session: Session[None], price: Price) -> None:
        self.prices.append(price)

    async def _position(self, session: Session[None], position: Position) -> None:
        self.positions.append(position.value)

    async def _bytes(self, session: Session[None], data: bytes) -> None:
        pass

    async def _done(self, session: Session[None], done: Done) -> None:
        self.done.set()


def test_the_latest_price_of_each_symbol_arrives() -> None:
    async def main() -> None:
        network = Network(seed=3, link=LOSSY)
        listener = Listener()
        async with (
            serve(listener.app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            for value in range(200):
                await session.send(Price("abc"[value % 3], value))
                await asyncio.sleep(0.003)
            await session.deliver(Done())
            await asyncio.sleep(1.0)
            assert session.stats.messages_superseded > 5
            assert session.stats.balanced
        newest = {price.symbol: price.value for price in listener.prices}
        assert newest == {"a": 198, "b": 199, "c": 197}
        for symbol in "abc":
            values = [price.value for price in listener.prices if price.symbol == symbol]
            assert values == sorted(set(values))

    simulate(main(), limit=60.0)


def test_a_receipt_says_that_a_newer_message_came_first() -> None:
    async def main() -> None:
        network = Network(seed=1, link=LOSSY)
        listener = Listener()
        async with (
            serve(listener.app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            receipts = [await session.send(Position(value)) for value in range(5)]
            outcomes = [await receipt for receipt in receipts]
        assert outcomes == [Outcome.SUPERSEDED] * 4 + [Outcome.DELIVERED]
        assert listener.positions == [4]

    simulate(main(), limit=60.0)


def test_a_receipt_is_the_message_itself_and_costs_nothing_more() -> None:
    async def main() -> None:
        network = Network(seed=1)
        async with (
            serve(Listener().app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            receipt = await session.send(b"unobserved")
            assert session._inner.outbox.channel_of(bytes).queue[0] is receipt
            assert sys.getsizeof(receipt) == sys.getsizeof(Outgoing(b"unobserved", None))
            assert receipt.observer is None
            assert await receipt is Outcome.DELIVERED

    simulate(main())


def test_a_group_keeps_to_the_delivery_of_what_it_sends() -> None:
    async def main() -> None:
        network = Network(seed=2)
        app = App()

        @app.on_open
        async def join(session: Session[None]) -> None:
            app.group("all").add(session)

        listeners = [Listener(), Listener()]
        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, app=listeners[0].app, network=network),
            connect(server.address, app=listeners[1].app, network=network),
        ):
            await asyncio.sleep(0.1)
            for value in range(10):
                assert (await app.group("all").send(Price("x", value))).sent == 2
            await asyncio.sleep(1.0)
        for listener in listeners:
            assert listener.prices == [Price("x", 9)]

    simulate(main(), limit=60.0)


def test_a_message_without_a_key_raises_at_its_sender() -> None:
    async def main() -> None:
        by_symbol = Channel("by symbol", delivery.latest(key=lambda price: price.symbol))
        network = Network(seed=2)
        async with (
            serve(App(channels=[by_symbol]), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            with pytest.raises(InvalidMessage, match="key of Done"):
                await session.send(Done(), via=by_symbol)
            with pytest.raises(InvalidMessage, match="supersede"):
                await session.request(Ask(), via=by_symbol)
            assert session.stats.messages_sent == 0

    simulate(main(), limit=60.0)


def test_a_key_that_fails_at_the_receiver_refuses_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(price: Any) -> str:
        raise RuntimeError("on purpose")

    async def main() -> None:
        mine = Channel("prices", delivery.latest(key=lambda value: value))
        theirs = Channel("prices", delivery.latest(key=broken))
        network = Network(seed=2)
        listener = App(channels=[theirs])

        @listener.on(str)
        async def hear(session: Session[None], text: str) -> None:
            await session.send(text)

        async with (
            serve(listener, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            await session.send("price", via=mine)
            await session.send("still here")
            assert await session.receive(str, timeout=5) == "still here"
            [peer] = server.sessions
            assert peer.stats.policy_faults == 1
            assert peer.stats.messages_dropped_ordering == 1
            assert peer.stats.balanced

    simulate(main(), limit=60.0)
    assert any("prices" in record.getMessage() for record in caplog.records)


def test_an_app_has_256_channels_of_its_own_beside_those_of_the_library() -> None:
    own = [Channel(f"channel {number}", delivery.ordered()) for number in range(256)]

    async def main() -> None:
        network = Network(seed=1, link=LOSSY)
        app: App[None, None] = App(channels=own)
        seen: set[int] = set()

        @app.on(int)
        async def see(session: Session[None], number: int) -> None:
            seen.add(number)
            await session.send(number, via=own[number])

        @app.answers(Ask)
        async def answer(session: Session[None], ask: Ask) -> int:
            return len(seen)

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            for number, channel in enumerate(own):
                await session.deliver(number, via=channel)
            echoed = {await session.receive(int, timeout=5.0) for _ in own}
            assert echoed == {*range(256)}
            assert await session.request(Ask()) == 256

    simulate(main())


# -- full queues, rates, budgets


def slow_world(
    when_full: str, *, queue_messages: int | None = None, queue_bytes: int | None = None
) -> tuple[Channel, Network]:
    channel = Channel(
        "texts",
        delivery.ordered(),
        carries=[str],
        when_full=when_full,  # type: ignore[arg-type]
        queue_messages=queue_messages,
        queue_bytes=queue_bytes,
    )
    link = Link(delay=0.02, rate_bytes_per_second=100_000, queue_bytes=1 << 20)
    return channel, Network(seed=1, link=link)


async def flood(when_full: str, count: int = 100) -> tuple[list[str], list[Any]]:
    """What arrives, and the receipts or errors of what was sent, with room for ten."""
    channel, network = slow_world(when_full, queue_messages=10)
    app = App(channels=[channel])
    texts: list[str] = []

    @app.on(str)
    async def hear(session: Session[None], text: str) -> None:
        texts.append(text)

    results: list[Any] = []
    async with (
        serve(app, "server", 1, network=network) as server,
        connect(server.address, app=App(channels=[channel]), network=network) as session,
    ):
        for number in range(count):
            try:
                results.append(await session.send(str(number)))
            except QueueFull as error:
                results.append(error)
        outcomes = [r if isinstance(r, QueueFull) else await r for r in results]
        assert session.stats.balanced
    return texts, outcomes


def test_a_channel_says_what_a_full_queue_means() -> None:
    texts, outcomes = simulate(flood("block"), limit=60.0)
    assert texts == [str(number) for number in range(100)]
    texts, outcomes = simulate(flood("drop_newest"), limit=60.0)
    assert texts == [str(number) for number in range(10)]
    assert outcomes == [Outcome.DELIVERED] * 10 + [Outcome.LOST] * 90
    texts, outcomes = simulate(flood("drop_oldest"), limit=60.0)
    assert texts == [str(number) for number in range(90, 100)]
    texts, outcomes = simulate(flood("latest"), limit=60.0)
    assert texts == [str(number) for number in range(90, 100)]
    assert outcomes == [Outcome.SUPERSEDED] * 90 + [Outcome.DELIVERED] * 10
    texts, outcomes = simulate(flood("error"), limit=60.0)
    assert texts == [str(number) for number in range(10)]
    assert "10 messages" in str(outcomes[10])


def test_a_message_for_which_nobody_waits_raises_or_is_dropped_at_once() -> None:
    async def main() -> None:
        for when_full in ("block", "error", "drop_newest"):
            channel, network = slow_world(when_full, queue_bytes=1000)
            async with (
                serve(App(channels=[channel]), "server", 1, network=network) as server,
                connect(server.address, app=App(channels=[channel]), network=network) as session,
            ):
                session.send_nowait("a" * 900)
                if when_full == "drop_newest":
                    receipt = session.send_nowait("b" * 900)
                    assert receipt.outcome is Outcome.LOST
                    assert "full" in receipt.reason
                else:
                    with pytest.raises(QueueFull):
                        session.send_nowait("b" * 900)

    simulate(main(), limit=60.0)


def test_a_message_that_is_too_large_drops_no_other() -> None:
    async def main() -> None:
        channel, network = slow_world("drop_oldest", queue_messages=2)
        small = Config(max_record_bytes=5000)
        app = App(channels=[channel])
        async with (
            serve(app, "server", 1, network=network, config=small) as server,
            connect(server.address, app=App(channels=[channel]), network=network) as session,
        ):
            receipts = [session.send_nowait(text) for text in ("a", "b")]
            with pytest.raises(MessageTooLarge):
                session.send_nowait("c" * 6000)
            assert [receipt.outcome for receipt in receipts] == [None, None]

    simulate(main(), limit=60.0)


def test_a_session_can_be_limited_to_a_rate() -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        listener = Listener()
        async with (
            serve(listener.app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            assert session.rate_limit_bytes_per_second is None
            session.rate_limit_bytes_per_second = 20_000
            loop = asyncio.get_running_loop()
            before = loop.time()
            for _ in range(50):
                await session.send(bytes(1000))
            receipt = await session.send(Done())
            await receipt
            assert loop.time() - before == pytest.approx(2.6, abs=0.2)
            assert session.budget().rate_bytes_per_second == 20_000
            with pytest.raises(ValueError, match="above 0"):
                session.rate_limit_bytes_per_second = 0.0
            assert session.rate_limit_bytes_per_second == 20_000
            session.rate_limit_bytes_per_second = None
            before = loop.time()
            for _ in range(50):
                await session.send(bytes(1000))
            await session.deliver(Done())
            assert loop.time() - before < 0.1

    simulate(main(), limit=60.0)


def test_a_session_tells_what_it_can_take_on() -> None:
    async def main() -> None:
        link = Link(delay=0.05, rate_bytes_per_second=1_000_000, queue_bytes=1 << 22)
        network = Network(seed=1, link=link)
        config = Config(send_queue_messages=5000, send_queue_bytes=1 << 23)
        listener = Listener()
        async with (
            serve(listener.app, "server", 1, network=network) as server,
            connect(server.address, network=network, config=config) as session,
        ):
            await session.deliver(Done())
            budget = session.budget()
            assert budget.room_messages == 5000
            assert 1000 < budget.message_bytes < 1200
            assert budget.queue_delay_seconds == 0.0
            assert budget.rate_bytes_per_second == pytest.approx(256 * 1024 / 0.1, rel=0.1)
            packets = session.stats.packets_sent
            await session.deliver(bytes(budget.message_bytes - 1))
            assert session.stats.packets_sent <= packets + 2
            for _ in range(2000):
                await session.send(bytes(1000))
            await asyncio.sleep(1.0)
            budget = session.budget(bytes)
            assert budget.room_messages == 5000 - len(session._inner.outbox.channel_of(bytes).queue)
            assert budget.delivered_bytes_per_second == pytest.approx(1_000_000, rel=0.1)
            left = 2000 * 1228 - 1_000_000 - 256 * 1024
            assert budget.queue_delay_seconds == pytest.approx(left / 1e6, rel=0.2)
            before = session.budget().queue_delay_seconds
            low = Channel("low", delivery.reliable(), priority=-1)
            await session.send(bytes(500_000), via=low)
            assert session.budget().queue_delay_seconds == before  # they wait for nothing below

    simulate(main(), limit=60.0)


def test_what_is_urgent_is_not_behind_a_record() -> None:
    async def main() -> None:
        urgent = Channel("urgent", delivery.ordered(), carries=[str], priority=1)
        link = Link(delay=0.02, rate_bytes_per_second=2_000_000, queue_bytes=1 << 22)
        network = Network(seed=1, link=link)
        app = App(channels=[urgent])
        heard: list[object] = []

        @app.on(str)
        async def hear(session: Session[None], text: str) -> None:
            heard.append(text)

        @app.on(bytes)
        async def take(session: Session[None], data: bytes) -> None:
            heard.append(len(data))

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, app=App(channels=[urgent]), network=network) as session,
        ):
            record = await session.send(bytes(4 * 1024 * 1024))
            await asyncio.sleep(0.5)
            sent = session.stats.packets_sent
            receipt = await session.send("now")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert session.stats.packets_sent <= sent + 2
            await receipt
            assert heard == ["now"]
            assert record.outcome is None
            assert await record is Outcome.DELIVERED

    simulate(main(), limit=60.0)


# -- large messages


def test_both_ends_can_see_how_far_a_large_message_has_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01, loss=0.02))
        app = App()
        here: list[IncomingRecord] = []
        sizes: list[int] = []

        @app.on_open
        async def watch(session: Session[None]) -> None:
            session.watch_incoming(here.append)

        @app.on(bytes)
        async def take(session: Session[None], data: bytes) -> None:
            sizes.append(len(data))
            assert session.incoming_records == []

        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            counts: list[tuple[int, int]] = []
            await session.deliver(
                bytes(100_000), progress=lambda done, total: counts.append((done, total))
            )
            assert counts == sorted(set(counts))
            assert counts[-1] == (100_001, 100_001)  # encoded: a byte says that these are bytes
            assert len(counts) > 50
            assert here[-1].received_bytes == here[-1].total_bytes == 100_001
            small: list[int] = []
            await session.deliver(b"x", progress=lambda done, total: small.append(done))
            assert small == [2]

            def fail(done: int, total: int) -> None:
                raise RuntimeError("on purpose")

            await session.deliver(bytes(50_000), progress=fail)
            [peer] = server.sessions
            peer.watch_incoming(lambda record: 1 / 0)
            await session.deliver(bytes(50_000))
        assert sizes == [100_000, 1, 50_000, 50_000]

    simulate(main(), limit=60.0)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
