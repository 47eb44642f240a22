"""Round trips that a user asks for, over PING frames: the peer's protocol answers, no handler."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from aerogram.config import check_timeout

if TYPE_CHECKING:
    from aerogram.core.connection import Connection
    from aerogram.errors import SessionClosed
    from aerogram.shell import Shell


class Pings:
    """The pings of one session that wait for their acknowledgement."""

    __slots__ = ("_connection", "_shell", "_waiting")

    def __init__(self, connection: Connection, shell: Shell) -> None:
        self._connection = connection
        self._shell = shell
        self._waiting: set[asyncio.Future[None]] = set()

    async def ping(self, timeout: float | None) -> float:
        """Send one and wait; return the seconds it took. Raises `TimeoutError`."""
        check_timeout(timeout)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started = self._shell.time()
        self._waiting.add(answered)
        self._connection.ping(partial(_settle, answered))
        self._shell.schedule_flush()
        try:
            async with asyncio.timeout(timeout):
                await answered
        finally:
            self._waiting.discard(answered)
        return self._shell.time() - started

    def fail(self, error: SessionClosed) -> None:
        """The session has ended: so have its pings."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
