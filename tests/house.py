"""A simulated house of which all guests are in one group, for the tests of groups."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from aerogram import App, Config, Message, QueueFull, Session, connect, delivery, serve
from aerogram.lab import Link, Network

KEY = bytes(range(32))
SMALL_QUEUE = Config(send_queue_messages=4)
SMALL_WINDOW = Config(channel_window_bytes=4096)
"""A client that takes no messages with this stalls its channel after four of `LINE`."""
LINE = b"x" * 900


class Say(Message, tag=1):
    text: str


class Place(Message, tag=2, delivery=delivery.latest(key=lambda place: place.of)):
    of: str
    at: int


class House:
    """An app whose sessions are all in one group, on a simulated network."""

    def __init__(self, config: Config = SMALL_QUEUE) -> None:
        self.network = Network(seed=1, link=Link(delay=0.01))
        self.app = App()
        self.config = config
        self.group = self.app.group("all")
        self._stack = AsyncExitStack()
        self.address = ""

        @self.app.on_open
        async def join(session: Session[None]) -> None:
            self.group.add(session)

    async def __aenter__(self) -> Self:
        server = await self._stack.enter_async_context(
            serve(self.app, "server", 1, psk=KEY, network=self.network, config=self.config)
        )
        self.address = server.address
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def guest(
        self, config: Config | None = None, app: App[Any, Any] | None = None
    ) -> Session[Any]:
        """A client that is in the group."""
        session = await self._stack.enter_async_context(
            connect(self.address, app=app, psk=KEY, network=self.network, config=config)
        )
        await session.ping(timeout=10)
        return session

    @property
    def newest(self) -> Session[None]:
        """The server's side of the guest that came last."""
        return self.group.sessions[-1]


@asynccontextmanager
async def stalled(house: House) -> AsyncIterator[tuple[Session[Any], Session[Any]]]:
    """A guest who takes no messages and whose queue at the server is full, and its server side."""
    slow = await house.guest(SMALL_WINDOW)
    served = house.newest
    with contextlib.suppress(QueueFull):
        while True:
            served.send_nowait(LINE)
            await served.ping(timeout=10)
    yield slow, served


async def everything(session: Session[Any], seconds: float = 1.0) -> list[Any]:
    """What comes within some seconds."""
    found: list[Any] = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(await session.receive(timeout=seconds))
    return found
