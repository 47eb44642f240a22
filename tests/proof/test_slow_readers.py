"""A thousand sessions whose handlers never finish, or that never read, cost what windows allow."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from aerogram import App, Config, Message, QueueFull, Session, connect, serve
from aerogram.lab import Link, Network, simulate

SLOW_SESSIONS = 1000
WINDOW_BYTES = 16 * 1024
CONFIG = Config(channel_window_bytes=WINDOW_BYTES, send_queue_messages=8, keepalive_seconds=0.0)


class Work(Message, tag=1):
    number: int
    padding: bytes = bytes(1000)


class World:
    """A server whose handler rests for all sessions but one."""

    def __init__(self) -> None:
        self.app: App[Any, Any] = App(session_state=bool)
        self.released = asyncio.Event()
        self.handled = 0
        self.quick: list[int] = []
        self.app.on(Work)(self.work)
        self.app.on("quick")(self.be_quick)

    async def be_quick(self, session: Session[bool], value: object) -> None:
        session.state = True

    async def work(self, session: Session[bool], work: Work) -> None:
        if session.state:
            self.quick.append(work.number)
            return
        await self.released.wait()
        self.handled += 1


async def fill(session: Session[Any]) -> int:
    """Send until flow control stops it."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(5.0):
                await session.send(Work(sent))
            sent += 1
    return sent


@pytest.mark.long
def test_slow_handlers_are_bounded_and_nothing_is_lost() -> None:
    async def main() -> None:
        world = World()
        network = Network(seed=11, link=Link(delay=0.005))
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                serve(world.app, "server", 1, network=network, config=CONFIG)
            )
            address = server.address
            slow = [
                await stack.enter_async_context(connect(address, network=network, config=CONFIG))
                for _ in range(SLOW_SESSIONS)
            ]
            sent = await asyncio.gather(*(fill(session) for session in slow))
            held = [session.stats.messages_received for session in server.sessions]
            # What arrived fits the window; what was sent beyond it waits in the bounded queue.
            assert max(held) * (1000 + 32) <= WINDOW_BYTES + 1100
            assert max(sent) <= max(held) + CONFIG.send_queue_messages + 1
            async with connect(address, network=network, config=CONFIG) as quick:
                await quick.emit("quick", None)
                for number in range(500):
                    await quick.send(Work(number))
                await quick.deliver(Work(500), timeout=60)
                await quick.ping()
                assert world.quick == [*range(501)]
            world.released.set()
            await asyncio.gather(*(session.deliver(Work(-1), timeout=120) for session in slow))
            await asyncio.sleep(1.0)
            assert world.handled == sum(sent) + SLOW_SESSIONS

    simulate(main, limit=2000.0)


def send_all_there_is_room_for(session: Session[Any]) -> int:
    """Never wait; return how many messages were queued."""
    sent = 0
    with contextlib.suppress(QueueFull):
        while True:
            session.send_nowait(Work(sent))
            sent += 1
    return sent


async def seconds_to_read(session: Session[Any], reader: Session[Any], count: int) -> float:
    """How long a reader that reads takes for so many messages of the server's session."""
    begun = asyncio.get_running_loop().time()

    async def send() -> None:
        for number in range(count):
            await session.send(Work(number))

    sending = asyncio.create_task(send())
    for number in range(count):
        assert (await reader.receive(Work, timeout=60.0)).number == number
    await sending
    return asyncio.get_running_loop().time() - begun


async def read_all(reader: Session[Any]) -> int:
    """Read what there is; return how many messages that was."""
    taken = 0
    with contextlib.suppress(TimeoutError):
        while True:
            await reader.receive(Work, timeout=1.0)
            taken += 1
    return taken


@pytest.mark.long
def test_readers_that_never_read_are_bounded_and_slow_nobody_down() -> None:
    async def main() -> None:
        app: App[None, None] = App()
        network = Network(seed=12, link=Link(delay=0.005))
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                serve(app, "server", 1, network=network, config=CONFIG)
            )
            reader = await stack.enter_async_context(
                connect(server.address, network=network, config=CONFIG)
            )
            await reader.ping()
            [to_reader] = server.sessions
            alone = await seconds_to_read(to_reader, reader, 500)
            slow = [
                await stack.enter_async_context(
                    connect(server.address, network=network, config=CONFIG)
                )
                for _ in range(SLOW_SESSIONS)
            ]
            await asyncio.gather(*(session.ping() for session in slow))
            to_slow = [session for session in server.sessions if session is not to_reader]
            sent = [0] * SLOW_SESSIONS
            for _ in range(10):
                for index, session in enumerate(to_slow):
                    sent[index] += send_all_there_is_room_for(session)
                await asyncio.sleep(1.0)
            # What has left fits the reader's window; what has not waits in the bounded queue.
            most = WINDOW_BYTES // 1000 + 1 + CONFIG.send_queue_messages
            assert all(session.stats.messages_waiting <= WINDOW_BYTES // 1000 for session in slow)
            assert max(sent) <= most
            among_slow = await seconds_to_read(to_reader, reader, 500)
            assert among_slow <= alone / 0.9
            assert sum(await asyncio.gather(*map(read_all, slow))) == sum(sent)
            assert server.stats.balanced

    simulate(main, limit=2000.0)
