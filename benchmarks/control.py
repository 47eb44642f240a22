"""The conversation between the parent and one process of a measurement, the same for all peers.

The receiver says its address. The sender is told it, sends, and reports. The receiver is told how
many were sent, waits until it has them or none have come for a while, and reports. Both are told
to stop. Nothing of this runs while messages are being counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from benchmarks.work import Load, Tally

PATIENCE_SECONDS = 0.5
"""Without a further message for this long, the rest is lost."""


class Control:
    """One process's end of its pipe to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def tell(self, value: object) -> None:
        self._pipe.send(value)

    async def hear(self) -> Any:
        return await asyncio.to_thread(self._pipe.recv)

    def hear_now(self) -> Any:
        """What the parent said, or None; for peers that do not run on a loop."""
        return self._pipe.recv() if self._pipe.poll() else None

    async def receive(self, tally: Tally, address: object) -> None:
        """The receiver's part, while its handlers feed `tally`."""
        self.tell(address)
        expected = await self.hear()
        patience = Patience(tally)
        while tally.count < expected and not patience.is_over():  # noqa: ASYNC110  counting is free
            await asyncio.sleep(0.01)
        self.tell(tally.report())
        await self.hear()

    async def send(self, load: Load, send: Callable[[bytes], Awaitable[object]]) -> None:
        """The sender's part: `send` takes one message, and waits where the peer says to wait."""
        if load.window:
            await self._send_windowed(load, send)
        else:
            for message in load.messages():
                await send(message)
        self.tell(load.report())
        await self.hear()

    async def _send_windowed(self, load: Load, send: Callable[[bytes], Awaitable[object]]) -> None:
        watchdog = asyncio.create_task(give_up_when_still(load))
        for message in load.messages():
            await send(message)
            while load.full:
                await load.room()
        while load.outstanding > 0:
            await load.room()
        watchdog.cancel()


async def give_up_when_still(load: Load) -> None:
    """Let a sender go on when its echoes have stopped coming."""
    while True:
        before = load.outstanding, load.sent
        await asyncio.sleep(PATIENCE_SECONDS)
        if before == (load.outstanding, load.sent):
            load.give_up()


class Patience:
    """Runs out when a tally has stood still for a while."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._count = -1
        self._moved_at = 0.0

    def is_over(self) -> bool:
        now = perf_counter()
        if self._tally.count != self._count:
            self._count = self._tally.count
            self._moved_at = now
        return now - self._moved_at > PATIENCE_SECONDS
