"""`Arrivals`: datagrams between a socket and the program, within a bound that the user chose.

Rules: what does not fit is dropped by the chosen policy and counted, or the socket is left alone
until the program has caught up. Each datagram wakes one waiting reader, in the order of waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, get_args

from aerogram.errors import EndpointClosed
from aerogram.io.datagram import Datagram, DatagramStats
from aerogram.io.tracing import Tracer

Overflow = Literal["drop_oldest", "drop_newest", "block"]
"""What happens when datagrams come faster than the program takes them."""

OVERFLOWS: Final[tuple[Overflow, ...]] = get_args(Overflow)


class Waiters:
    """Tasks that wait for something, woken in the order of waiting."""

    __slots__ = ("_futures", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._futures: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self) -> None:
        """Wait for one `wake`. It is only a hint: look again, somebody may have been quicker."""
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        except BaseException:
            if future in self._futures:
                self._futures.remove(future)
            elif not future.cancelled():
                self.wake(1)  # it had its turn, and passes it on
            raise

    def wake(self, count: int | None = None) -> None:
        """Wake so many, or all."""
        futures = self._futures
        left = len(futures) if count is None else count
        while futures and left > 0:
            future = futures.popleft()
            if not future.done():
                future.set_result(None)
                left -= 1


class Arrivals:
    """A queue with at most `limit` datagrams of `limit_bytes` in all; one always fits.

    With `block` it drops nothing: whoever fills it has to look at `is_full` before each read, so
    that it grows by at most one read beyond its limits, and is told by `on_empty` to go on.
    """

    __slots__ = (
        "_broken_by",
        "_bytes_at_most",
        "_closed",
        "_limit",
        "_limit_bytes",
        "_overflow",
        "_stats",
        "_tracer",
        "_waiters",
        "items",
        "on_empty",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stats: DatagramStats,
        *,
        limit: int,
        limit_bytes: int,
        overflow: Overflow = "drop_oldest",
        tracer: Tracer | None = None,
    ) -> None:
        self.items: deque[Datagram] = deque()
        """Readers take from the left, and wait when it is empty."""
        self.on_empty: Callable[[], None] | None = None
        """Called each time that a reader begins to wait."""
        self._stats = stats
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._overflow = overflow
        self._tracer = tracer
        self._waiters = Waiters(loop)
        self._bytes_at_most = 0
        self._closed = False
        self._broken_by: BaseException | None = None

    @property
    def broken_by(self) -> BaseException | None:
        """What ended the endpoint, unless it was closed."""
        return self._broken_by

    @property
    def is_full(self) -> bool:
        """Whether a link that blocks must not read now."""
        if self._overflow != "block":
            return False
        return len(self.items) >= self._limit or self._holds_bytes(self._limit_bytes)

    def put(self, datagrams: list[Datagram], size: int) -> None:
        """Take datagrams of `size` bytes in all, and drop what the policy says."""
        items = self.items
        if not items:
            self._bytes_at_most = 0
        self._bytes_at_most += size
        self._stats.received += len(datagrams)
        self._stats.received_bytes += size
        items.extend(datagrams)
        if self._tracer is not None:
            self._tracer.took(datagrams)
        if len(items) > self._limit or self._bytes_at_most > self._limit_bytes:
            self._drop()
        if self._waiters:
            self._waiters.wake(len(items))

    def _drop(self) -> None:
        items, stats = self.items, self._stats
        if self._overflow == "block":
            return
        self._holds_bytes(self._limit_bytes)
        while len(items) > self._limit or (
            self._bytes_at_most > self._limit_bytes and len(items) > 1
        ):
            if self._overflow == "drop_oldest":
                dropped = items.popleft()
                stats.dropped_oldest += 1
            else:
                dropped = items.pop()
                stats.dropped_newest += 1
            self._bytes_at_most -= len(dropped.data)
            if self._tracer is not None:
                self._tracer.dropped(dropped, "the queue is full")

    def _holds_bytes(self, limit: int) -> bool:
        """Whether at least so many bytes wait.

        Taking a datagram leaves the count of bytes as it is, which spares the readers its upkeep:
        it is an upper bound, and made exact where it would matter.
        """
        if self._bytes_at_most >= limit:
            self._bytes_at_most = sum(len(datagram.data) for datagram in self.items)
        return self._bytes_at_most >= limit

    async def wait(self) -> None:
        """Wait until there is a datagram. Raises `EndpointClosed` when there will be none."""
        while not self.items:
            if self._closed:
                raise EndpointClosed("the endpoint is closed") from self._broken_by
            if self.on_empty is not None:
                self.on_empty()
            await self._waiters.wait()

    def close(self, error: BaseException | None = None) -> None:
        """Drop what nobody will take, and wake the readers to learn it, with the cause if any."""
        if self._closed:
            return
        self._closed = True
        self._broken_by = error
        self._stats.dropped_at_close += len(self.items)
        if self._tracer is not None:
            for datagram in self.items:
                self._tracer.dropped(datagram, "closed")
        self.items.clear()
        self._waiters.wake()
