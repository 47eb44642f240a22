"""What is measured: the works, the load that a sender makes and the tally that a receiver keeps.

Nothing here does I/O, so that asyncio peers and blocking ones share it, and it costs each of them
the same few tens of nanoseconds a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter

MESSAGE_BYTES = 64
MESSAGE = bytes(range(MESSAGE_BYTES))

CLOCK_STRIDE = 64
"""Messages between two looks at the clock: a look at each would slow the faster peers."""

ECHO_WINDOW = 64


class Kind(StrEnum):
    """How messages flow."""

    ONEWAY = "oneway"
    """As fast as the sender can; the receiver's handler counts."""

    WINDOW = "window"
    """64 outstanding, each echoed; the sender's handler counts the echoes."""

    PINGPONG = "pingpong"
    """One outstanding, echoed; the time of each round trip is kept."""


@dataclass(frozen=True, slots=True)
class Work:
    """One measurement: it ends after `count` messages or `seconds`, whichever is first."""

    kind: Kind
    count: int
    seconds: float

    @property
    def echoes(self) -> bool:
        return self.kind is not Kind.ONEWAY

    @property
    def window(self) -> int:
        """Messages that may be outstanding; 0 leaves it to the peer's own back-pressure."""
        return {Kind.ONEWAY: 0, Kind.WINDOW: ECHO_WINDOW, Kind.PINGPONG: 1}[self.kind]


@dataclass(frozen=True, slots=True)
class Report:
    """What one side saw."""

    sent: int
    """Messages handed over by the sender."""

    handled: int
    """Messages, or echoes, that reached the handler."""

    rate: float
    """Messages a second at the handler, from the first one to the last one."""

    round_trips: list[float]
    """Seconds of each round trip, sorted; empty unless the work is a ping-pong."""


class Tally:
    """Counts the messages of a handler, and the time from the first of them to the last."""

    def __init__(self) -> None:
        self.count = 0
        self._first_at = 0.0
        self._marked_at = 0.0
        self._marked_count = 0

    def take(self) -> None:
        self.count += 1
        if self.count % CLOCK_STRIDE == 1:
            self._mark()

    def _mark(self) -> None:
        self._marked_at = perf_counter()
        self._marked_count = self.count
        if self.count == 1:
            self._first_at = self._marked_at

    @property
    def rate(self) -> float:
        elapsed = self._marked_at - self._first_at
        return (self._marked_count - 1) / elapsed if elapsed > 0 else 0.0

    def report(self) -> Report:
        return Report(0, self.count, self.rate, [])


class Load:
    """What a sender has to send. Iterate over `messages`, stop while `full`, report each echo."""

    def __init__(self, work: Work, *, window: int | None = None) -> None:
        self.window = work.window if window is None else window
        self.sent = 0
        self.outstanding = 0
        self.echoes = Tally()
        self._work = work
        self._round_trips: list[float] = []
        self._sent_at = 0.0
        self._room = asyncio.Event()

    def messages(self) -> Iterator[bytes]:
        """Messages until the work is over. Each counts as sent, and as outstanding."""
        ends_at = perf_counter() + self._work.seconds
        timed = self._work.kind is Kind.PINGPONG
        while (left := self._work.count - self.sent) > 0 and perf_counter() < ends_at:
            for _ in range(min(left, CLOCK_STRIDE)):
                if timed:
                    self._sent_at = perf_counter()
                self.sent += 1
                self.outstanding += 1
                yield MESSAGE

    @property
    def full(self) -> bool:
        return 0 < self.window <= self.outstanding

    def echoed(self) -> None:
        """An echo reached the handler."""
        if self._work.kind is Kind.PINGPONG:
            self._round_trips.append(perf_counter() - self._sent_at)
        self.echoes.take()
        self.acknowledged(1)

    def acknowledged(self, count: int) -> None:
        """The receiver has `count` more of the messages."""
        self.outstanding -= count
        self._room.set()

    async def room(self) -> None:
        """Wait for an echo."""
        self._room.clear()
        await self._room.wait()

    def give_up(self) -> None:
        """What is outstanding was lost: a bare socket does that."""
        self.acknowledged(self.outstanding)

    def report(self) -> Report:
        return Report(self.sent, self.echoes.count, self.echoes.rate, sorted(self._round_trips))
