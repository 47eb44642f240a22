"""Streams: many answers to one question, with credit, errors in their place, and a way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aerogram import (
    App,
    Config,
    InvalidMessage,
    Message,
    Rejected,
    Request,
    RequestFailed,
    RequestTimeout,
    Session,
    SessionClosed,
    Stream,
    connect,
    serve,
)
from aerogram import messages as codec
from aerogram.lab import Link, Network


class Price(Message, tag=1):
    cents: int


class Watch(Stream[Price], tag=2):
    symbol: str
    count: int = 1_000_000


class Names(Stream[str]):
    pass


class Quote(Request[Price], tag=3):
    symbol: str


class Market:
    """An app whose streams can be looked at from outside."""

    def __init__(self) -> None:
        self.app = App()
        self.yielded = 0
        self.closed: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.app.answers(Watch)(self.watch)

    async def watch(self, session: Session[Any], ask: Watch) -> AsyncIterator[Price]:
        try:
            for number in range(ask.count):
                if ask.symbol == "BUG" and number == 3:
                    raise RuntimeError("internal detail")
                if ask.symbol == "SECRET" and number == 3:
                    raise Rejected("not for sale")
                if ask.symbol == "STALLS" and number == 3:
                    await self.go_on.wait()
                self.yielded += 1
                yield Price(number)
        finally:
            await self.closed.put(ask.symbol)

    async def was_closed(self) -> str:
        return await asyncio.wait_for(self.closed.get(), 5)


async def hear(items: AsyncIterator[Any], heard: list[Any]) -> None:
    """Keep the items that come, even if an error follows."""
    async for item in items:
        heard.append(item)  # noqa: PERF401  what came before an error is kept


@pytest.mark.parametrize("window", [1, 2, 16, 1000])
async def test_items_come_in_order_and_the_loop_ends_with_them(window: int) -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("ACME", 300), timeout=5, window=window)
        assert [price.cents async for price in prices] == [*range(300)]
        assert await market.was_closed() == "ACME"
        await session.ping()
        assert server.stats.balanced, server.stats.totals.imbalances


async def test_a_stream_may_be_empty() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        assert [price async for price in session.stream(Watch("ACME", 0), timeout=5)] == []


async def test_many_streams_run_at_once_and_hold_up_nothing() -> None:
    market = Market()

    @market.app.answers(Quote)
    async def quote(session: Session[None], ask: Quote) -> Price:
        return Price(7)

    async with serve(market.app) as server, connect(server.address) as session:

        async def count(number: int) -> int:
            prices = session.stream(Watch("ACME", number), timeout=10, window=4)
            return len([price async for price in prices])

        endless = session.stream(Watch("STALLS"), timeout=5)
        assert await anext(endless) == Price(0)
        assert await asyncio.gather(*(count(n) for n in range(30))) == [*range(30)]
        assert await session.request(Quote("ACME"), timeout=5) == Price(7)
        await endless.aclose()


async def test_the_generator_rests_while_who_asked_lags() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("ACME"), timeout=5, window=8)
        assert await anext(prices) == Price(0)
        for _ in range(5):
            await session.ping()
        assert market.yielded == 8
        for number in range(1, 100):
            assert await anext(prices) == Price(number)
            assert market.yielded <= number + 1 + 8
        await prices.aclose()
        assert await market.was_closed() == "ACME"


async def test_breaking_out_of_the_loop_closes_the_generator() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        async for price in session.stream(Watch("ACME"), timeout=5):
            if price.cents == 20:
                break
        assert await market.was_closed() == "ACME"
        async with contextlib.aclosing(session.stream(Watch("ACME"), timeout=5)) as prices:
            async for price in prices:
                if price.cents == 20:
                    break
        assert await market.was_closed() == "ACME"
        assert server.stats.handler_errors == 0
        assert server.stats.totals.handlers_cancelled == 2


async def test_a_generator_that_waits_is_cancelled_where_it_waits() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("STALLS"), timeout=5)
        assert [await anext(prices) for _ in range(3)] == [Price(0), Price(1), Price(2)]
        waiting = asyncio.ensure_future(anext(prices))
        await session.ping()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await market.was_closed() == "STALLS"


@pytest.mark.parametrize(
    ("symbol", "error", "text"),
    [("SECRET", Rejected, "not for sale"), ("BUG", RequestFailed, "the handler of Watch failed")],
)
async def test_an_error_is_raised_where_it_happened(
    symbol: str, error: type[Exception], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    market = Market()
    heard: list[Price] = []
    async with serve(market.app) as server, connect(server.address) as session:
        with pytest.raises(error, match=text) as raised:
            await hear(session.stream(Watch(symbol), timeout=5), heard)
        assert heard == [Price(0), Price(1), Price(2)]
        assert "internal detail" not in str(raised.value)
        assert server.stats.handler_errors == (1 if symbol == "BUG" else 0)


@pytest.mark.aerogram
async def test_an_item_that_is_too_late_is_a_timeout_and_closes_the_generator(
    network: Network,
) -> None:
    market = Market()
    async with (
        serve(market.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        heard: list[Price] = []
        with pytest.raises(RequestTimeout, match="Watch"):
            await hear(session.stream(Watch("STALLS"), timeout=0.1), heard)
        assert heard == [Price(0), Price(1), Price(2)]
        assert await market.was_closed() == "STALLS"


@pytest.mark.aerogram
@pytest.mark.parametrize("window", [1, 5, 64])
async def test_items_keep_their_order_on_a_bad_link(window: int, network: Network) -> None:
    network.default = Link(delay=0.03, jitter=0.02, loss=0.2, duplicate=0.1, reorder=0.2)
    market = Market()
    async with (
        serve(market.app, "server", 1, network=network) as server,
        connect(server.address, network=network, timeout=30.0) as session,
    ):

        async def listen(count: int) -> list[int]:
            prices = session.stream(Watch("ACME", count), timeout=30, window=window)
            return [price.cents async for price in prices]

        heard = await asyncio.gather(*(listen(count) for count in (0, 1, 40, 100)))
        assert heard == [[*range(count)] for count in (0, 1, 40, 100)]
        await session.close()
        assert server.stats.balanced, server.stats.totals.imbalances


async def test_the_end_of_the_session_ends_both_sides() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("STALLS"), timeout=5)
        assert await anext(prices) == Price(0)
        await session.close(grace=0.0)
        with pytest.raises(SessionClosed):
            async for _ in prices:
                pass
        assert await market.was_closed() == "STALLS"
    assert server.sessions == []


async def test_a_server_that_closes_ends_the_loop_with_its_reason() -> None:
    market = Market()
    server = await serve(market.app, config=Config(grace_seconds=0.2))
    async with connect(server.address) as session:
        prices = session.stream(Watch("STALLS"), timeout=5)
        assert await anext(prices) == Price(0)
        await server.close("maintenance")
        with pytest.raises(SessionClosed, match="maintenance"):
            async for _ in prices:
                pass


async def test_nobody_answers_a_stream_that_has_no_handler() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        with pytest.raises(RequestFailed, match="nobody answers tag 'Names'"):
            async for _ in session.stream(Names(), timeout=5):
                pass


async def test_an_item_of_another_type_fails_at_who_asked() -> None:
    market = Market()

    @market.app.answers(Names)
    async def names(session: Session[None], ask: Names) -> AsyncIterator[str]:
        yield "ada"
        yield 7  # type: ignore[misc]

    async with serve(market.app) as server, connect(server.address) as session:
        heard: list[str] = []
        with pytest.raises(RequestFailed, match="cannot be decoded"):
            await hear(session.stream(Names(), timeout=5), heard)
        assert heard == ["ada"]


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (codec.encode_item(0, 16, Price(1)), "more items than it was asked for"),
        (codec.encode_end(0, 0, codec.Failure(codec.FailureCode.FAILED, "early")), "early"),
        (codec.encode_failure(0, codec.FailureCode.UNKNOWN, "no such thing"), "no such thing"),
    ],
)
async def test_a_peer_that_breaks_the_rules_ends_its_own_stream(frame: bytes, error: str) -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("STALLS"), timeout=5)
        for number in range(3):
            assert await anext(prices) == Price(number)
        [peer] = server.sessions
        peer._inner.outbox.put_own("answers", frame)
        with pytest.raises(RequestFailed, match=error):
            await anext(prices)
        assert [price async for price in session.stream(Watch("ACME", 1), timeout=5)] == [Price(0)]


async def test_frames_for_nothing_that_was_asked_are_harmless() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        prices = session.stream(Watch("STALLS"), timeout=5)
        assert await anext(prices) == Price(0)
        [peer] = server.sessions
        for frame in (
            codec.encode_item(77, 0, Price(1)),
            codec.encode_end(77, 2**63, None),
            codec.encode_answer(77, Price(1)),
            codec.encode_more(77, 2**63),
            codec.encode_cancel(77),
            codec.encode_item(0, 0, Price(99)),
        ):
            peer._inner.outbox.put_own("answers", frame)
            session._inner.outbox.put_own("answers", frame)
        assert await anext(prices) == Price(1)
        await session.ping()
        assert session.stats.balanced and peer.stats.balanced
        await prices.aclose()


async def test_a_bounded_kind_of_stream_waits_for_its_turn() -> None:
    app = App()
    running: list[str] = []
    most: list[int] = []

    @app.answers(Watch, concurrency=2)
    async def watch(session: Session[None], ask: Watch) -> AsyncIterator[Price]:
        running.append(ask.symbol)
        most.append(len(running))
        for number in range(ask.count):
            yield Price(number)
        running.remove(ask.symbol)

    async with serve(app) as server, connect(server.address) as session:

        async def count(name: str) -> int:
            return len([p async for p in session.stream(Watch(name, 50), timeout=10, window=4)])

        assert await asyncio.gather(*(count(name) for name in "abcdef")) == [50] * 6
    assert max(most) == 2


async def test_more_streams_than_the_limit_are_told_so() -> None:
    market = Market()
    config = Config(requests_limit=3)
    async with serve(market.app, config=config) as server, connect(server.address) as session:
        streams = [session.stream(Watch("STALLS"), timeout=5) for _ in range(4)]
        for prices in streams[:3]:
            assert await anext(prices) == Price(0)
        with pytest.raises(RequestFailed, match="too many"):
            await anext(streams[3])
        await streams[0].aclose()
        assert await market.was_closed() == "STALLS"
        again = session.stream(Watch("ACME", 1), timeout=5)
        assert [price async for price in again] == [Price(0)]
        for prices in streams:
            await prices.aclose()


async def test_middleware_surrounds_the_beginning_of_a_stream() -> None:
    async def doubled(session: Session[None], message: object, call_next: Any) -> object:
        if isinstance(message, Watch) and message.symbol == "SECRET":
            raise Rejected("members only")
        items = await call_next(session, message)

        async def twice() -> AsyncIterator[Price]:
            async for item in items:
                yield item
                yield item

        return twice() if isinstance(message, Watch) else items

    app = App(middleware=[doubled])

    @app.answers(Watch)
    async def watch(session: Session[None], ask: Watch) -> AsyncIterator[Price]:
        for number in range(ask.count):
            yield Price(number)

    async with serve(app) as server, connect(server.address) as session:
        prices = [price.cents async for price in session.stream(Watch("ACME", 3), timeout=5)]
        assert prices == [0, 0, 1, 1, 2, 2]
        with pytest.raises(Rejected, match="members only"):
            await anext(session.stream(Watch("SECRET"), timeout=5))


async def test_what_is_no_stream_raises_at_the_caller() -> None:
    market = Market()
    async with serve(market.app) as server, connect(server.address) as session:
        with pytest.raises(InvalidMessage, match=r"session\.request"):
            session.stream(Quote("ACME"))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="window"):
            session.stream(Watch("ACME"), window=0)
        with pytest.raises(InvalidMessage, match=r"session\.stream"):
            await session.request(Watch("ACME"))  # type: ignore[arg-type]


def test_the_handler_has_to_suit_the_question() -> None:
    app = App()

    async def one(session: Session[None], ask: Any) -> Price:
        return Price(1)

    async def many(session: Session[None], ask: Any) -> AsyncIterator[Price]:
        yield Price(1)

    with pytest.raises(TypeError, match="yields"):
        app.answers(Watch)(one)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Stream"):
        app.answers(Quote)(many)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"app\.answers"):
        app.on(Watch)(one)
    with pytest.raises(TypeError, match="no request"):
        app.answers(Price)(one)  # type: ignore[type-var, arg-type]


def test_a_stream_and_a_request_share_their_tags() -> None:
    class Other(Request[Price], tag=2):
        pass

    app = Market().app
    with pytest.raises(ValueError, match="Watch and Other have the same tag"):

        @app.answers(Other)
        async def other(session: Session[None], ask: Other) -> Price:
            return Price(1)
