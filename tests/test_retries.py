"""Requests that are given up, asked again, or asked again on another session."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    Rejected,
    Request,
    RequestFailed,
    RequestTimeout,
    Session,
    SessionClosed,
    connect,
    delivery,
    new_identity,
    serve,
)
from aerogram import messages as codec
from aerogram.idempotency import KEPT_ANSWERS, KEPT_BYTES, KEPT_SECONDS, AnswerCache
from aerogram.lab import Link, Network, simulate


class Order(Request[int], tag=1):
    number: int


class Ping(Request[str], tag=2):
    pass


ONCE = Channel("once", delivery.unreliable(), carries=[Order])


class Shop:
    """An app whose one handler can be held up and counts how often it runs."""

    def __init__(self, *channels: Channel, concurrency: Any = None) -> None:
        self.app = App(channels=channels)
        self.runs: list[int] = []
        self.cancelled: asyncio.Queue[int] = asyncio.Queue()
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.app.answers(Order, concurrency=concurrency)(self.order)
        self.app.answers(Ping)(self.ping)

    async def order(self, session: Session[Any], ask: Order) -> int:
        self.runs.append(ask.number)
        await self.begun.put(ask.number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.cancelled.put(ask.number)
            raise
        if self.error is not None:
            raise self.error
        return 100 + ask.number

    async def ping(self, session: Session[Any], ask: Ping) -> str:
        return "pong"

    async def has_begun(self) -> int:
        return await asyncio.wait_for(self.begun.get(), 5)

    async def was_cancelled(self) -> int:
        return await asyncio.wait_for(self.cancelled.get(), 5)


# -- giving up


async def test_cancelling_a_request_cancels_its_handler_and_nothing_else() -> None:
    shop = Shop()
    async with serve(shop.app) as server, connect(server.address) as session:
        asking = asyncio.ensure_future(session.request(Order(1), timeout=None))
        await shop.has_begun()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await shop.was_cancelled() == 1
        assert await session.request(Ping(), timeout=5) == "pong"
        totals = server.stats.totals
        assert (totals.handlers_cancelled, server.stats.handler_errors) == (1, 0)
        assert totals.balanced, totals.imbalances


@pytest.mark.aerogram
async def test_a_timeout_cancels_the_handler(network: Network) -> None:
    shop = Shop()
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        with pytest.raises(RequestTimeout):
            await session.request(Order(1), timeout=0.1)
        assert await shop.was_cancelled() == 1


async def test_the_end_of_the_session_cancels_the_handler() -> None:
    shop = Shop()
    async with serve(shop.app) as server:
        async with connect(server.address) as session:
            asking = asyncio.ensure_future(session.request(Order(1), timeout=None))
            await shop.has_begun()
            await session.close(grace=0.0)
            with pytest.raises(SessionClosed):
                await asking
        assert await shop.was_cancelled() == 1


@pytest.mark.aerogram
async def test_a_request_that_is_given_up_before_its_turn_is_not_handled(network: Network) -> None:
    shop = Shop()
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        first = asyncio.ensure_future(session.request(Order(1), timeout=5))
        await shop.has_begun()
        with pytest.raises(RequestTimeout):
            await session.request(Order(2), timeout=0.1)
        await session.ping()
        shop.gate.set()
        assert await first == 101
        assert await session.request(Ping(), timeout=5) == "pong"
        assert shop.runs == [1]
        totals = server.stats.totals
        assert totals.messages_dropped_cancelled == 1
        assert totals.balanced, totals.imbalances


@pytest.mark.aerogram
async def test_a_cancellation_may_overtake_its_request(network: Network) -> None:
    shop = Shop()
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        session._inner.outbox.put_own("answers", codec.encode_cancel(0))
        await session.ping()
        with pytest.raises(RequestTimeout):
            await session.request(Order(1), timeout=0.1)
        assert await session.request(Ping(), timeout=5) == "pong"
        assert shop.runs == []


async def test_a_handler_may_close_its_own_session_and_go_on() -> None:
    app = App()
    finished = asyncio.Event()

    @app.answers(Order)
    async def order(session: Session[None], ask: Order) -> int:
        await session.close("closing time")
        await asyncio.sleep(0)
        finished.set()
        return 1

    async with serve(app) as server, connect(server.address) as session:
        with pytest.raises(SessionClosed, match="closing time"):
            await session.request(Order(1), timeout=5)
        await asyncio.wait_for(finished.wait(), 5)


async def test_an_answer_that_is_too_large_for_the_peer_fails_the_request() -> None:
    app = App()

    class Blob(Request[bytes]):
        size: int

    @app.answers(Blob)
    async def blob(session: Session[None], ask: Blob) -> bytes:
        return bytes(ask.size)

    small = Config(max_record_bytes=10_000)
    async with serve(app) as server, connect(server.address, config=small) as session:
        assert await session.request(Blob(9_000), timeout=5) == bytes(9_000)
        with pytest.raises(RequestFailed, match="too large"):
            await session.request(Blob(20_000), timeout=5)


# -- trying again


def test_a_request_that_is_lost_is_asked_again_and_handled_once() -> None:
    async def main() -> None:
        network = Network(seed=11, link=Link(delay=0.02, loss=0.4))
        shop = Shop(ONCE)
        shop.gate.set()
        client = App(channels=[ONCE])
        async with (
            serve(shop.app, "server", 1, network=network) as server,
            connect(server.address, network=network, app=client, timeout=20.0) as session,
        ):
            for number in range(50):
                answer = await session.request(Order(number), timeout=0.3, retries=50)
                assert answer == 100 + number
            assert shop.runs == [*range(50)]
            assert session.stats.messages_lost > 0
            assert server.stats.balanced, server.stats.totals.imbalances
            assert session.stats.balanced, session.stats.imbalances

    simulate(main, limit=600)


@pytest.mark.aerogram
@pytest.mark.parametrize("concurrency", [None, 4])
async def test_a_slow_handler_runs_once_however_often_it_is_asked(
    concurrency: Any, network: Network
) -> None:
    shop = Shop(concurrency=concurrency)
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        asking = asyncio.ensure_future(session.request(Order(1), timeout=0.05, retries=100))
        await shop.has_begun()
        await asyncio.sleep(0.2)
        shop.gate.set()
        assert await asking == 101
        assert shop.runs == [1]
        assert await session.request(Order(2), timeout=5, retries=1) == 102


@pytest.mark.aerogram
async def test_the_last_timeout_cancels_the_handler(network: Network) -> None:
    shop = Shop()
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        with pytest.raises(RequestTimeout):
            await session.request(Order(1), timeout=0.05, retries=2)
        assert await shop.was_cancelled() == 1
        assert shop.runs == [1]


async def test_a_refusal_is_an_answer_and_not_asked_again() -> None:
    shop = Shop()
    shop.gate.set()
    shop.error = Rejected("sold out")
    async with serve(shop.app) as server, connect(server.address) as session:
        with pytest.raises(Rejected, match="sold out"):
            await session.request(Order(1), timeout=5, retries=5)
        assert shop.runs == [1]


# -- asking again on another session


async def test_the_same_request_on_another_session_gets_the_same_answer() -> None:
    shop, me = Shop(), new_identity()
    async with serve(shop.app) as server:
        async with connect(server.address, identity=me) as session:
            asking = asyncio.ensure_future(
                session.request(Order(1), timeout=None, idempotency_key=b"order 1")
            )
            await shop.has_begun()
            await session.close(grace=0.0)
            with pytest.raises(SessionClosed):
                await asking
        async with connect(server.address, identity=me) as session:
            asking = asyncio.ensure_future(
                session.request(Order(1), timeout=5, idempotency_key=b"order 1")
            )
            await session.ping()
            shop.gate.set()
            assert await asking == 101
        async with connect(server.address, identity=me) as session:
            answer = await session.request(Order(1), timeout=5, idempotency_key=b"order 1")
            assert answer == 101
        assert shop.runs == [1]


async def test_a_failure_is_kept_like_an_answer() -> None:
    shop = Shop()
    shop.gate.set()
    shop.error = Rejected("sold out")
    async with serve(shop.app) as server, connect(server.address) as session:
        for _ in range(2):
            with pytest.raises(Rejected, match="sold out"):
                await session.request(Order(1), timeout=5, idempotency_key=b"order 1")
        assert shop.runs == [1]


async def test_one_key_does_not_stand_for_two_requests() -> None:
    shop = Shop()
    shop.gate.set()
    async with serve(shop.app) as server, connect(server.address) as session:
        assert await session.request(Order(1), timeout=5, idempotency_key=b"key") == 101
        with pytest.raises(RequestFailed, match="another request"):
            await session.request(Order(2), timeout=5, idempotency_key=b"key")
        assert shop.runs == [1]


@pytest.mark.parametrize("way", ["identity", "psk"])
async def test_a_stranger_with_the_same_key_does_not_get_the_answer(way: str) -> None:
    shop = Shop()
    shop.gate.set()
    psk = os.urandom(32) if way == "psk" else None
    async with serve(shop.app, psk=psk) as server:
        for _ in range(2):
            async with (
                connect("127.0.0.1", server.port, psk=psk)
                if psk
                else connect(server.address) as session
            ):
                for _ in range(2):
                    await session.request(Order(7), timeout=5, idempotency_key=b"key")
        assert shop.runs == [7, 7]


@pytest.mark.aerogram
async def test_giving_up_leaves_a_handler_with_a_key_to_its_work(network: Network) -> None:
    shop = Shop()
    async with (
        serve(shop.app, "server", 1, network=network) as server,
        connect(server.address, network=network) as session,
    ):
        with pytest.raises(RequestTimeout):
            await session.request(Order(1), timeout=0.05, idempotency_key=b"key")
        shop.gate.set()
        assert await session.request(Order(1), timeout=5, idempotency_key=b"key") == 101
        assert shop.runs == [1]
        assert shop.cancelled.empty()


async def test_those_who_wait_for_a_handler_that_is_cut_short_learn_it() -> None:
    shop, me = Shop(), new_identity()
    server = await serve(shop.app, config=Config(grace_seconds=0.2))
    async with connect(server.address, identity=me) as session:
        asking = asyncio.ensure_future(session.request(Order(1), timeout=5, idempotency_key=b"key"))
        await shop.has_begun()
        await server.close()
        with pytest.raises(SessionClosed):
            await asking
    assert await shop.was_cancelled() == 1


@pytest.mark.parametrize(
    ("key", "error"), [("text", TypeError), (b"", ValueError), (bytes(256), ValueError)]
)
async def test_a_key_that_is_none_raises_at_the_caller(key: Any, error: type[Exception]) -> None:
    async with serve(Shop().app) as server, connect(server.address) as session:
        with pytest.raises(error, match="key"):
            await session.request(Order(1), idempotency_key=key)
        with pytest.raises(ValueError, match="retries"):
            await session.request(Order(1), retries=-1)


async def test_kept_answers_are_bounded_in_time_number_and_bytes() -> None:
    cache = AnswerCache()
    cache.begin((b"peer", b"key"), b"digest")
    assert cache.find((b"peer", b"key"), 0.0) is not None
    assert cache.find((b"stranger", b"key"), 0.0) is None
    cache.finish((b"peer", b"key"), b"answer", 10.0)
    entry = cache.find((b"peer", b"key"), 10.0 + KEPT_SECONDS - 1.0)
    assert entry is not None and entry.answer.result() == b"answer"
    assert cache.find((b"peer", b"key"), 10.0 + KEPT_SECONDS) is None
    for number in range(KEPT_ANSWERS + 10):
        cache.begin((b"peer", b"%d" % number), b"")
        cache.finish((b"peer", b"%d" % number), b"", 200.0)
    assert len(cache) == KEPT_ANSWERS
    assert cache.find((b"peer", b"9"), 200.0) is None
    assert cache.find((b"peer", b"10"), 200.0) is not None
    cache.begin((b"peer", b"large"), b"")
    cache.finish((b"peer", b"large"), bytes(KEPT_BYTES + 1), 200.0)
    assert len(cache) == 0
    cache.begin((b"peer", b"small"), b"")
    cache.finish((b"peer", b"small"), b"answer", 200.0)
    assert len(cache) == 1
