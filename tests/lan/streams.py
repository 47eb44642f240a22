"""What the tests of multicast sessions on simulated networks share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aerogram import App, Message, Server, connect, serve
from aerogram.lab import Host, Link, Network
from aerogram.lan import multicast
from aerogram.lan.multicast import Gap, MulticastConfig, MulticastReceiver, MulticastSender

GROUP, PORT = "239.1.2.3", 5000
DELAY = 0.005


class Tick(Message, tag=1):
    number: int
    pad: bytes = b""


def ticks(count: int, first: int = 0, size: int = 1000) -> list[Tick]:
    return [Tick(number, bytes(size)) for number in range(first, first + count)]


class Receiver:
    """A host with a session that follows a stream to its end, as its task."""

    def __init__(self, network: Network, name: str, server: Server, **how: Any) -> None:
        self.host: Host = network.host(name)
        self.items: list[object] = []
        self.stream: MulticastReceiver
        self.session: Any = None
        self.joined = asyncio.Event()
        self.stop = asyncio.Event()
        self._server = server
        self._how = {"kinds": [Tick], "network": self.host} | how

    async def run(self) -> None:
        async with connect(self._server.address, network=self.host) as session:
            self.session = session
            async with MulticastReceiver.join(session, **self._how) as self.stream:
                self.joined.set()
                following = asyncio.create_task(self._follow())
                stopping = asyncio.create_task(self.stop.wait())
                await asyncio.wait([following, stopping], return_when="FIRST_COMPLETED")
                for task in (following, stopping):
                    if not task.done():
                        task.cancel()
                        await asyncio.wait([task])
                if not following.cancelled():
                    following.result()

    async def _follow(self) -> None:
        async for item in self.stream:
            self.items.append(item)

    @property
    def numbers(self) -> list[int]:
        return [item.number for item in self.items if isinstance(item, Tick)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]


@asynccontextmanager
async def streaming(
    network: Network, *, config: MulticastConfig | None = None, **how: Any
) -> AsyncIterator[tuple[Server, MulticastSender]]:
    """A server and a sender of one stream, which everybody may join."""
    host = network.host("server")
    sender = MulticastSender(GROUP, PORT, config=config, network=host)
    app = App()
    multicast.invitations(app, sender, **({"admit": lambda session: True} | how))
    async with serve(app, "server", 9000, network=host) as server, sender:
        yield server, sender


@asynccontextmanager
async def receiving(*receivers: Receiver) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let receivers join, and when the block is left wait until their streams have ended."""
    tasks = [asyncio.create_task(receiver.run()) for receiver in receivers]
    try:
        for receiver, task in zip(receivers, tasks, strict=True):
            joining = asyncio.create_task(receiver.joined.wait())
            await asyncio.wait([joining, task], return_when="FIRST_COMPLETED")
            joining.cancel()
            if task.done():
                task.result()
        yield tasks
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        await asyncio.wait(tasks)


def lossy(network: Network, receiver: Receiver, loss: float) -> None:
    """Lose what comes to a receiver by multicast; sessions have no lossy way here."""
    network.link("server", receiver.host, Link(delay=DELAY, loss=loss), both_ways=False)
