"""Clients without handlers: what they take although its delivery looks into messages."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import (
    App,
    Channel,
    InvalidMessage,
    Message,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram.lab import Link, Network, simulate


class Price(Message, tag=1, delivery=delivery.latest(key=lambda price: price.symbol)):
    symbol: str
    value: int


class Quote(Message, tag=2):
    symbol: str
    value: int


QUOTES = Channel("quotes", delivery.latest(key=lambda quote: quote.symbol), carries=[Quote])
LOSSY = Link(delay=0.02, jitter=0.03, loss=0.1, duplicate=0.1)
ROUNDS = 200


def feed(kind: type[Price | Quote], app: App[None, None]) -> None:
    """Whoever says something is sent prices of three things."""

    @app.on(str)
    async def begin(session: Session[None], _text: str) -> None:
        for value in range(ROUNDS):
            for symbol in ("a", "b", "c"):
                await session.send(kind(symbol, value))
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [Price, Quote])
def test_a_client_without_handlers_takes_the_latest_of_each_key(kind: type[Price | Quote]) -> None:
    async def main() -> list[Price | Quote]:
        app: App[None, None] = App(channels=[QUOTES])
        feed(kind, app)
        network = Network(seed=1, link=LOSSY)
        taken: list[Price | Quote] = []
        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network, receives=[Price, QUOTES]) as session,
        ):
            await session.send("begin")
            while len({each.symbol for each in taken if each.value == ROUNDS - 1}) < 3:
                taken.append(await session.receive(kind, timeout=10.0))
            assert session.stats.balanced
            assert session.stats.policy_faults == 0
        return taken

    taken = simulate(main(), limit=120.0)
    assert len(taken) > ROUNDS
    for symbol in ("a", "b", "c"):
        values = [each.value for each in taken if each.symbol == symbol]
        assert values == sorted(set(values))


def test_a_type_that_a_client_has_sent_is_known_to_it() -> None:
    async def main() -> object:
        app: App[None, None] = App()

        @app.on(Price)
        async def back(session: Session[None], price: Price) -> None:
            await session.send(Price(price.symbol, price.value + 1))

        network = Network(seed=1)
        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            await session.send(Price("a", 1))
            return await session.receive(Price, timeout=5.0)

    assert simulate(main(), limit=60.0) == Price("a", 2)


def test_what_was_not_named_is_refused_and_its_sender_told() -> None:
    async def main() -> tuple[int, int]:
        app: App[None, None] = App(channels=[QUOTES])
        feed(Price, app)
        network = Network(seed=1)
        async with (
            serve(app, "server", 1, network=network) as server,
            connect(server.address, network=network, receives=[QUOTES]) as session,
        ):
            await session.send("begin")
            with pytest.raises(TimeoutError):
                await session.receive(timeout=5.0)
            told = server.sessions[0].stats
            assert told.balanced
            return told.messages_refused, session.stats.messages_received_refused

    refused, seen = simulate(main(), limit=60.0)
    assert refused == seen > 0


def test_only_a_client_without_an_app_names_what_it_receives() -> None:
    with pytest.raises(ValueError, match="without an app"):
        connect("127.0.0.1", 1, insecure=True, app=App(), receives=[Price])
    with pytest.raises(InvalidMessage, match="cannot be sent"):
        connect("127.0.0.1", 1, insecure=True, receives=[tuple])
