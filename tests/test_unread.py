"""What a peer can make this side hold: bounded over all channels of a session and all sessions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aerogram import App, Channel, Config, Message, Session, connect, delivery, serve
from aerogram.lab import Link, Network, simulate
from aerogram.server import Server

CHANNELS = 100
KIB = 1024


class Quick(Message, tag=1):
    number: int


def limited(session_kib: int, endpoint_kib: int) -> Config:
    """Windows of 100 channels are 1.6 MiB in all; what may be unread is less."""
    return Config(
        max_record_bytes=8 * KIB,
        channel_window_bytes=16 * KIB,
        mailbox_bytes=16 * KIB,
        reassembly_bytes_per_session=8 * KIB,
        reassembly_bytes_per_endpoint=8 * KIB,
        unread_bytes_per_session=session_kib * KIB,
        unread_bytes_per_endpoint=endpoint_kib * KIB,
    )


def channels(kind: Any) -> list[Channel]:
    return [Channel(f"slow {number}", kind) for number in range(CHANNELS)]


class Slow:
    """A server whose handlers of bytes wait until they may go on."""

    def __init__(self, kind: Any) -> None:
        self.channels = channels(kind)
        self.app: App[None, None] = App(channels=self.channels)
        self.may_go_on = asyncio.Event()
        self.taken: list[bytes] = []
        self.quick: list[int] = []
        self.app.on(bytes)(self._slow)
        self.app.on(Quick)(self._quick)

    async def _slow(self, session: Session[None], data: bytes) -> None:
        await self.may_go_on.wait()
        self.taken.append(data)

    async def _quick(self, session: Session[None], quick: Quick) -> None:
        self.quick.append(quick.number)


def most_unread(server: Server) -> tuple[int, int]:
    """Of one session, and of all together."""
    unread = [session._inner.memory.unread_bytes for session in server.sessions]
    return max(unread), sum(unread)


async def flood(
    session: Session[None], to: list[Channel], rounds: int, size: int = 4 * KIB
) -> None:
    """A message on each channel, and again."""
    for number in range(rounds):
        for index, channel in enumerate(to):
            head = f"{number} {index} ".encode()
            await session.send(head.ljust(size - 8, b"x"), via=channel)


@pytest.mark.parametrize("kind", [delivery.reliable(), delivery.ordered()], ids=lambda k: k.name)
@pytest.mark.parametrize("size", [600, 4 * KIB])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_all_channels_of_a_session_hold_no_more_than_their_sum_may(
    kind: Any, size: int, loss: float
) -> None:
    """And everything arrives once, as soon as handlers go on."""
    rounds = 16 * KIB // size

    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01, loss=loss))
        slow, config = Slow(kind), limited(200, 100_000)
        async with (
            serve(slow.app, "server", 1, network=network, config=config) as server,
            connect(
                server.address, app=App(channels=slow.channels), network=network, config=config,
                timeout=20.0,
            ) as session,
        ):  # fmt: skip
            sending = asyncio.create_task(flood(session, slow.channels, rounds, size))
            seen = 0
            for _ in range(100):
                await asyncio.sleep(0.1)
                seen = max(seen, most_unread(server)[0])
            assert 200 * KIB < seen < 2 * 208 * KIB
            if not loss:
                assert seen < (208 + 8) * KIB
            assert server.sessions[0].stats.packets_dropped_memory > 0
            slow.may_go_on.set()
            await sending
            await asyncio.sleep(15.0)
            assert len(slow.taken) == len(set(slow.taken)) == rounds * CHANNELS
            assert most_unread(server) == (0, 0)
            assert session.stats.messages_lost == 0
            assert session.stats.balanced
            assert server.stats.balanced

    simulate(main(), limit=120.0)


def test_sessions_that_hold_much_are_turned_away_and_others_served() -> None:
    """Four sessions fill the endpoint; a fifth, which holds little, does not feel it."""

    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.01))
        slow, config = Slow(delivery.reliable()), limited(100_000, 800)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                serve(slow.app, "server", 1, network=network, config=config)
            )
            greedy = [
                await stack.enter_async_context(
                    connect(
                        server.address, app=App(channels=slow.channels), network=network,
                        config=config,
                    )
                )
                for _ in range(4)
            ]  # fmt: skip
            flooding = [asyncio.create_task(flood(each, slow.channels, 4)) for each in greedy]
            await asyncio.sleep(5.0)
            assert 800 * KIB < most_unread(server)[1] < 2 * 808 * KIB
            polite = await stack.enter_async_context(
                connect(server.address, network=network, config=config)
            )
            for number in range(100):
                await polite.deliver(Quick(number), timeout=0.1)
            assert slow.quick == [*range(100)]
            assert most_unread(server)[1] < 2 * 808 * KIB
            for each in greedy[:2]:
                await each.close(grace=0.0)
            await asyncio.sleep(5.0)
            # What a session held is free when it ends, and the others may have it.
            assert 800 * KIB < most_unread(server)[1] < 2 * 808 * KIB
            slow.may_go_on.set()
            await asyncio.gather(*flooding, return_exceptions=True)
            await asyncio.sleep(15.0)
            assert most_unread(server) == (0, 0)
            assert server.stats.balanced

    simulate(main(), limit=200.0)


@pytest.mark.parametrize("concurrency", [None, 2])
def test_unreliable_messages_give_way_once_there_are_too_many(concurrency: int | None) -> None:
    async def main() -> None:
        network = Network(seed=1, link=Link(delay=0.001))
        slow, config = Slow(delivery.unreliable()), limited(100, 100_000)
        app: App[None, None] = App(channels=slow.channels)

        @app.on(bytes, concurrency=concurrency)
        async def wait(session: Session[None], data: bytes) -> None:
            await slow.may_go_on.wait()

        async with (
            serve(app, "server", 1, network=network, config=config) as server,
            connect(
                server.address, app=App(channels=slow.channels), network=network, config=config
            ) as session,
        ):
            for number in range(30):
                for channel in slow.channels:
                    await session.send(bytes(600), via=channel)
                await asyncio.sleep(0.05)
                assert most_unread(server)[0] < (100 + 8) * KIB + CHANNELS * 700, number
            stats = server.sessions[0].stats
            assert stats.messages_dropped_mailbox > 500
            slow.may_go_on.set()
            await asyncio.sleep(1.0)
            assert most_unread(server) == (0, 0)
            assert server.stats.balanced

    simulate(main(), limit=120.0)
