"""Two endpoints whose clocks differ, in virtual time, and what a session makes of it.

Each clock may be off, drift, be slewed and stepped, as a `FalseClock` says. Between the two is a
path with unequal ways. Everything is decided by a seed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from aerogram.core.endpoint import Endpoint, Transmit
from aerogram.core.events import Event
from aerogram.lab.link import Link
from aerogram.lab.pair import Pair
from aerogram.session_clock import SessionClock

THERE = Link(delay=0.010, jitter=0.010, loss=0.05)
BACK = Link(delay=0.040, jitter=0.010, loss=0.05)


class FalseClock:
    """A clock that goes wrong: a rate from each of some true times on, and steps at others."""

    def __init__(
        self,
        offset: float = 0.0,
        drift: float = 0.0,
        *,
        drifts: Mapping[float, float] | None = None,
        steps: Mapping[float, float] | None = None,
    ) -> None:
        rates = {0.0: drift, **(drifts or {})}
        jumps = dict(steps or {})
        self._times: list[float] = []
        self._rates: list[float] = []
        self._starts: list[float] = []
        """What the clock shows from each of the times on."""
        shown, at, rate = offset, 0.0, drift
        for time in sorted({*rates, *jumps}):
            shown += (time - at) * (1 + rate) + jumps.get(time, 0.0)
            rate, at = rates.get(time, rate), time
            self._times.append(at)
            self._rates.append(rate)
            self._starts.append(shown)

    def at(self, true: float) -> float:
        """What it shows at a true time."""
        index = max(bisect_right(self._times, true) - 1, 0)
        return self._starts[index] + (true - self._times[index]) * (1 + self._rates[index])

    def when(self, shown: float, after: float) -> float:
        """The first true time, from `after` on, at which it shows this or more."""
        first = max(bisect_right(self._times, after) - 1, 0)
        for index in range(first, len(self._times)):
            start = max(after, self._times[index])
            found = start + max(0.0, (shown - self.at(start)) / (1 + self._rates[index]))
            if index + 1 == len(self._times) or found < self._times[index + 1]:
                return found
        raise AssertionError("the last rate goes on for ever")


TRUE_CLOCK = FalseClock()


class WrongEndpoint:
    """An endpoint that is told the time by a clock that goes wrong."""

    def __init__(self, inner: Endpoint, clock: FalseClock) -> None:
        self._inner = inner
        self._clock = clock
        self._now = 0.0

    def _told(self, now: float) -> float:
        self._now = now
        return self._clock.at(now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect(self, address: Any, security: Any, now: float, timeout: float) -> Any:
        return self._inner.connect(address, security, self._told(now), timeout)

    def receive_datagram(self, data: bytes, address: Any, now: float) -> None:
        self._inner.receive_datagram(data, address, self._told(now))

    def handle_timeout(self, now: float) -> None:
        self._inner.handle_timeout(self._told(now))

    def poll_transmit(self, now: float) -> Iterator[Transmit]:
        return self._inner.poll_transmit(self._told(now))

    def poll_event(self) -> Event | None:
        return self._inner.poll_event()

    def poll_timeout(self) -> float | None:
        due = self._inner.poll_timeout()
        return None if due is None else self._clock.when(due, self._now)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a client believed at a true time, in seconds."""

    at: float
    offset_error: float
    shown_error: float
    """Of `now()`, which never runs backwards."""
    bound: float
    steps: int

    @property
    def error(self) -> float:
        return max(abs(self.offset_error), abs(self.shown_error))

    @property
    def held(self) -> bool:
        return self.error <= self.bound


class ClockWorld:
    """A session between a client and a server with a clock each."""

    def __init__(
        self,
        client: FalseClock = TRUE_CLOCK,
        server: FalseClock = TRUE_CLOCK,
        *,
        seed: int = 0,
        there: Link = THERE,
        back: Link = BACK,
    ) -> None:
        self._client = client
        self._server = server
        self._pair = pair = Pair(link=there, back=back, seed=seed)
        for side, clock in ((pair.client, client), (pair.server, server)):
            side.endpoint = cast("Endpoint", WrongEndpoint(side.endpoint, clock))
        pair.open()
        self.clock = SessionClock(pair.client.connection, self._local, asks=True)

    def _local(self) -> float:
        return self._client.at(self._pair.now)

    @property
    def now(self) -> float:
        """The true time."""
        return self._pair.now

    def run(self, until: float, every: float = 0.1) -> list[Sample]:
        """Let true time pass and look at the clock now and then, once there is an answer."""
        samples: list[Sample] = []
        while self.now < until:
            self._pair.run(_never, min(every, until - self.now))
            if self.clock.is_synchronised:
                samples.append(self._sample())
        return samples

    def _sample(self) -> Sample:
        shared, clock = self._server.at(self.now), self.clock
        offset_error = self._local() + clock.offset - shared
        return Sample(self.now, offset_error, clock.now() - shared, clock.error_bound, clock.steps)


def _never() -> bool:
    return False
