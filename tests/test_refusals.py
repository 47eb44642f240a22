"""What a receipt says of a message that the peer's handler refuses, and when."""

from __future__ import annotations

import asyncio

import pytest

from aerogram import (
    App,
    DeliveryFailed,
    Message,
    Outcome,
    Receipt,
    Rejected,
    Session,
    connect,
    serve,
)
from aerogram.lab import Link, Network, simulate

ROUNDS = 100


class Vote(Message, tag=1):
    number: int


class Slow(Message, tag=2):
    pass


class Unknown(Message, tag=3):
    pass


def strict_app() -> App[None, None]:
    """Odd votes are refused at once, slow messages after a while."""
    app = App()

    @app.on(Vote)
    async def vote(session: Session[None], vote: Vote) -> None:
        if vote.number % 2:
            raise Rejected(f"{vote.number} is odd")
        await session.send(vote)

    @app.on(Slow)
    async def slow(session: Session[None], slow: Slow) -> None:
        await asyncio.sleep(1.0)
        raise Rejected("too late")

    return app


async def test_what_is_refused_at_once_is_never_called_delivered() -> None:
    async with serve(strict_app()) as server, connect(server.address) as session:
        for number in range(0, ROUNDS, 4):
            # One alone is acknowledged after a while, several packets are at once.
            with pytest.raises(DeliveryFailed, match=f"refused: {number + 1} is odd"):
                await session.deliver(Vote(number + 1), timeout=10)
            receipts: list[Receipt] = []
            for further in range(number, number + 4):
                receipts.append(await session.send(Vote(further)))
                await asyncio.sleep(0)  # a packet of its own
            for further, receipt in enumerate(receipts, number):
                wanted = Outcome.REFUSED if further % 2 else Outcome.DELIVERED
                assert await asyncio.wait_for(receipt, 10) is wanted, further
            with pytest.raises(DeliveryFailed, match="no handler takes tag 3"):
                await session.deliver(Unknown(), timeout=10)
        assert session.stats.messages_refused == 4 * ROUNDS // 4


def test_many_packets_at_once_are_judged_one_by_one() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.02))
        async with (
            serve(strict_app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            receipts = [await session.send(Vote(number)) for number in range(200)]
            for number, receipt in enumerate(receipts):
                wanted = Outcome.REFUSED if number % 2 else Outcome.DELIVERED
                assert await receipt is wanted, number
                assert receipt.reason == (f"{number} is odd" if number % 2 else "")

    simulate(main, limit=60)


async def test_messages_in_every_turn_do_not_keep_packets_from_leaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve(strict_app()) as server, connect(server.address) as session:
        await session.deliver(Vote(2), timeout=10)
        manager, sent = server._manager, []
        monkeypatch.setattr(manager, "_transmit", lambda: sent.append(True))

        def messages_came() -> None:
            manager._has_handlers = True

        monkeypatch.setattr(manager, "_poll_safely", messages_came)
        for _ in range(90):
            manager.schedule_flush()  # somebody sends, and then something comes
            manager.read_complete()
            await asyncio.sleep(0)
        assert len(sent) >= 30
        monkeypatch.undo()


def test_deliver_waits_for_no_handler() -> None:
    async def main() -> None:
        network = Network(link=Link(delay=0.02))
        async with (
            serve(strict_app(), "server", 1, network=network) as server,
            connect(server.address, network=network) as session,
        ):
            receipt = await session.deliver(Slow(), timeout=0.5)
            await asyncio.sleep(2.0)
            assert receipt.outcome is Outcome.DELIVERED
            assert session.stats.messages_refused == 0
            assert server.stats.totals.messages_received_refused == 1

    simulate(main, limit=60)
