"""Receiving without a handler: what `receive` gets, beside an app and without one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from aerogram import (
    App,
    Channel,
    Config,
    DecodeError,
    InvalidMessage,
    Message,
    Request,
    Session,
    connect,
    delivery,
    serve,
)
from aerogram import messages as codec
from aerogram.lab import Network, simulate
from aerogram.lanes import MESSAGES_PER_TURN

CALLS = Channel("calls", delivery.unreliable(), carries=[])
SMALL = Config(channel_window_bytes=4096)


class Say(Message, tag=1):
    text: str


class Confirm(Message, tag=2):
    number: int


class Blob(Message, tag=3):
    data: bytes


class Ask(Request[int], tag=4):
    pass


@asynccontextmanager
async def linked(
    app: App[Any, Any], client: App[Any, Any] | None = None, config: Config | None = None
) -> AsyncGenerator[tuple[Session[Any], Session[Any]]]:
    """A client's session and its server's, over a simulated network."""
    network = Network()
    server_host, client_host = network.host("server"), network.host("client")
    async with (
        serve(app, "server", 9000, network=server_host, config=config) as server,
        connect(server.address_at("server"), network=client_host, app=client, config=config) as own,
    ):
        while not server.sessions:
            await own.ping()
        yield own, server.sessions[0]
    totals = server.stats.totals
    assert totals.balanced, totals.imbalances


async def test_both_loops_hand_to_receive_what_has_no_handler() -> None:
    client = App()
    heard: asyncio.Queue[Say] = asyncio.Queue()

    @client.on(Say)
    async def say(session: Session[None], message: Say) -> None:
        await heard.put(message)

    app = App()

    @app.on(bytes)
    async def begin(session: Session[None], data: bytes) -> None:
        for number in range(3):
            await session.send(Say(str(number)))
            await session.send(Confirm(number))

    async with serve(app) as server, connect(server.address, app=client) as session:
        await session.send(b"go")
        for number in range(3):
            assert await session.receive(Confirm, timeout=10) == Confirm(number)
            assert await asyncio.wait_for(heard.get(), 10) == Say(str(number))


def test_a_session_with_an_app_iterates_over_what_has_no_handler() -> None:
    async def main() -> None:
        app, seen = App(), []

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            seen.append(message.text)

        async with linked(app) as (session, peer):

            async def read() -> list[object]:
                return [message async for message in peer]

            reading = asyncio.create_task(read())
            await session.ping()
            for number in range(5):
                await session.send(Say("handled"))
                await session.send(number)
            await session.emit("news", "all is well")
            await session.close()
            numbers = await reading
            assert numbers[:5] == [0, 1, 2, 3, 4]
            assert len(numbers) == 6
            assert seen == ["handled"] * 5

    simulate(main, limit=60)


def test_what_nobody_asked_for_is_refused_and_its_sender_told() -> None:
    async def main() -> None:
        async with linked(App()) as (session, peer):
            with pytest.raises(TimeoutError):
                await peer.receive(Confirm, timeout=0.1)
            await session.send(Say("nobody reads me"))
            await session.send(Confirm(1))
            await session.ping()
            assert peer.stats.messages_received_refused == 1
            assert peer.stats.messages_waiting == 1
            assert await peer.receive(Confirm, timeout=1) == Confirm(1)

    simulate(main, limit=60)


def test_a_handler_receives_what_comes_after_its_own_message() -> None:
    async def main() -> None:
        app, confirmed = App(), []

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            first, second = [await session.receive(Confirm, timeout=5) for _ in range(2)]
            confirmed.extend([(message.text, first), (message.text, second)])

        async with linked(app) as (session, peer):
            # One packet: the confirmations wait behind the handler that wants them.
            for number in range(4):
                await session.send(Say(str(number)))
                await session.send(Confirm(2 * number))
                await session.send(Confirm(2 * number + 1))
            await session.send(Confirm(8))
            await session.ping()
            await asyncio.sleep(1.0)
            assert confirmed == [(str(n // 2), Confirm(n)) for n in range(8)]
            assert peer.stats.messages_waiting == 1
            assert peer.stats.messages_handled == 12

    simulate(main, limit=60)


def test_receiving_in_a_handler_leaves_the_order_of_what_waits() -> None:
    async def main() -> None:
        app, order, go_on = App(), [], asyncio.Event()

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            order.append(int(message.text))
            if order == [0]:
                await go_on.wait()
                assert await session.receive(Confirm, timeout=5) == Confirm(1)

        async with linked(app) as (session, peer):
            for packet in (range(4), range(4, 8)):  # the rest of one, and all of another
                for number in packet:
                    await session.send(Say(str(number)))
                await session.ping()
            assert peer.stats.messages_waiting == 8
            go_on.set()
            await session.send(Confirm(1))
            await session.ping()
            await asyncio.sleep(1.0)
            assert order == [*range(8)]

    simulate(main, limit=60)


def test_handlers_that_never_wait_let_others_run() -> None:
    async def main() -> None:
        app, go_on, handled, most = App(), asyncio.Event(), 0, 0

        @app.on(int)
        async def take(session: Session[None], number: int) -> None:
            nonlocal handled
            if number == 0:
                await go_on.wait()
            handled += 1

        async with linked(app) as (session, peer):
            for number in range(5000):
                await session.send(number)
            while peer.stats.messages_waiting < 5000:
                await session.ping()
            go_on.set()
            while handled < 5000:
                before = handled
                await asyncio.sleep(0)
                most = max(most, handled - before)
            assert most < 2 * MESSAGES_PER_TURN

    simulate(main, limit=60)


def test_on_open_receives_before_any_handler_runs() -> None:
    async def main() -> None:
        app, order = App(), []

        @app.on_open
        async def greet(session: Session[None]) -> None:
            order.append(await session.receive(Confirm, timeout=5))

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            order.append(message)

        network = Network()
        at = network.host("server"), network.host("client")
        async with (
            serve(app, "server", 9000, network=at[0]) as server,
            connect(server.address_at("server"), network=at[1]) as session,
        ):
            await session.send(Say("first"))
            await session.send(Confirm(1))
            await session.ping()
            await asyncio.sleep(0.1)
            assert order == [Confirm(1), Say("first")]

    simulate(main, limit=60)


def test_a_reader_that_lags_stops_its_sender_and_loses_nothing() -> None:
    async def main() -> None:
        async with linked(App(), config=SMALL) as (session, peer):
            with pytest.raises(TimeoutError):
                await peer.receive(Blob, timeout=0.01)
            sent = [await session.send(Blob(bytes([n]) * 500)) for n in range(100)]
            await asyncio.sleep(5.0)
            assert 0 < peer.stats.messages_waiting < 10
            assert sent[-1].outcome is None
            for number in range(100):
                assert (await peer.receive(Blob, timeout=5)).data[0] == number
            await sent[-1]

    simulate(main, limit=60)


def test_what_is_sifted_out_from_before_a_handler_gives_its_credit_back() -> None:
    async def main() -> None:
        app = App()

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            for _ in range(20):
                await session.receive(Blob, timeout=5)

        async with linked(app, config=SMALL) as (session, peer):
            for _ in range(50):
                await session.send(Say("here come twenty"))
                for number in range(20):
                    await session.send(Blob(bytes([number]) * (number + 1) * 10))
            await session.close(grace=30)
            await peer.wait_closed()
            assert peer.stats.messages_handled == 50 * 21
            assert peer.stats.messages_dropped_closed == 0

    simulate(main, limit=60)


def test_an_unreliable_channel_holds_no_more_than_a_mailbox() -> None:
    async def main() -> None:
        config = Config(mailbox_bytes=4000)
        async with linked(App(), config=config) as (session, peer):
            with pytest.raises(TimeoutError):
                await peer.receive(bytes, timeout=0.01)
            for number in range(100):
                await session.send(bytes([number]) * 100, via=CALLS)
            await session.ping()
            stats = peer.stats
            assert stats.messages_waiting <= 4000 // 100
            assert stats.messages_dropped_mailbox + stats.messages_waiting == 100

    simulate(main, limit=60)


class ShowsAll:
    """An ordering of a user's own: messages are decoded to be shown to it."""

    def arrived(self, sequence: int, message: object) -> list[object]:
        return [message]


def test_messages_that_an_ordering_has_seen_are_received_as_such() -> None:
    async def main() -> None:
        seen = Channel("seen", delivery.Delivery(ShowsAll), carries=[Say, Confirm, Blob])
        app, received = App(channels=[seen]), []

        @app.on(Say)
        async def say(session: Session[None], message: Say) -> None:
            received.append(await session.receive(Confirm, timeout=5))
            with pytest.raises(DecodeError):
                await session.receive(Confirm, timeout=5)
            received.append(await session.receive(bytes, timeout=5))
            received.append(await session.receive(timeout=5))

        async with linked(app, App(channels=[seen])) as (session, peer):
            await session.send(Say("go"))
            await session.send(Confirm(1))
            await session.send(Confirm("no number"))  # type: ignore[arg-type]
            await session.send(b"plain", via=seen)
            await session.emit("news", 7, via=seen)
            await session.ping()
            await asyncio.sleep(1.0)
            assert received == [Confirm(1), b"plain", codec.Topic("news", 7)]
            assert peer.stats.messages_waiting == 0

    simulate(main, limit=60)


# -- asking for what can never come


def handled_app() -> App[None, None]:
    app = App()

    @app.on(Say)
    async def say(session: Session[None], message: Say) -> None: ...

    @app.answers(Ask)
    async def ask(session: Session[None], question: Ask) -> int:
        return 1

    return app


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (Say, RuntimeError, "Say has a handler"),
        (Ask, TypeError, "Ask.* is a request"),
        (object, InvalidMessage, "object"),
    ],
)
def test_a_type_that_never_comes_is_an_error_at_once(
    kind: type[Any], error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with linked(handled_app()) as (_, peer):
            with pytest.raises(error, match=text):
                await peer.receive(kind)

    simulate(main, limit=60)


def test_a_session_without_an_app_knows_that_requests_never_come() -> None:
    async def main() -> None:
        async with linked(App()) as (session, _):
            with pytest.raises(TypeError, match=r"Ask.* is a request"):
                await session.receive(Ask)

    simulate(main, limit=60)


# -- giving up


TIMES = 300


async def given_up(waiting: Callable[[float | None], Coroutine[Any, Any, object]]) -> None:
    """Wait many times for what does not come, until a timeout or until cancelled."""
    for number in range(TIMES):
        if number % 2:
            with pytest.raises(TimeoutError):
                await waiting(0.001)
        else:
            task = asyncio.create_task(waiting(None))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])


def futures() -> int:
    gc.collect()
    return sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())


def test_who_gives_up_receiving_leaves_nothing() -> None:
    async def main() -> None:
        async with linked(App()) as (session, _):
            before = futures()
            await given_up(lambda timeout: session.receive(bytes, timeout=timeout))
            assert futures() - before < 10

    simulate(main, limit=60)


def test_who_gives_up_sending_leaves_nothing_but_what_was_sent() -> None:
    async def main() -> None:
        app = App()

        @app.on(bytes)
        async def lag(session: Session[None], data: bytes) -> None:
            await asyncio.Event().wait()

        config = replace(SMALL, send_queue_messages=2, grace_seconds=0.1)
        async with linked(app, config=config) as (session, _):
            await session.send(bytes(4000))
            for _ in range(2):
                await session.send(b"waits for credit")

            async def send(timeout: float | None) -> None:
                async with asyncio.timeout(timeout):
                    await session.send(b"waits for room")

            before = futures()
            await given_up(send)
            assert futures() - before < 10

    simulate(main, limit=60)


def test_who_gives_up_waiting_for_a_receipt_leaves_nothing() -> None:
    async def main() -> None:
        async with linked(App()) as (session, _):
            session.rate_limit_bytes_per_second = 1.0
            receipt = await session.send(bytes(100_000))

            async def outcome(timeout: float | None) -> None:
                async with asyncio.timeout(timeout):
                    await receipt

            before = futures()
            await given_up(outcome)
            assert futures() - before < 10
            session.rate_limit_bytes_per_second = None

    simulate(main, limit=60)
