"""One deadline that moves, and the few timers that it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aerogram.lab import simulate
from aerogram.lab.loop import VirtualLoop
from aerogram.timers import TIMERS_LIMIT, DeadlineTimers


class Watched:
    """A deadline that moves like that of an endpoint, and the times at which it was called."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: list[float] = []
        self.timers = DeadlineTimers(self.loop, lambda: self.calls.append(self.loop.time()))

    def timers_armed(self) -> int:
        assert isinstance(self.loop, VirtualLoop)
        return len(self.loop.timers_left())


def test_each_deadline_is_kept_although_timers_are_left_alone() -> None:
    async def main() -> None:
        watched = Watched()
        watched.timers.arm(15.0)
        watched.timers.arm(0.1)
        watched.timers.arm(0.025)
        watched.timers.arm(0.5)
        assert watched.timers_armed() == 3
        await asyncio.sleep(1.0)
        assert watched.calls == [0.025, 0.1]
        watched.timers.arm(15.0)
        assert watched.timers_armed() == 1
        watched.timers.arm(2.0)
        await asyncio.sleep(20.0)
        assert watched.calls == [0.025, 0.1, 2.0, 15.0]

    simulate(main())


def test_timers_are_few_even_if_every_deadline_is_earlier_than_the_last() -> None:
    async def main() -> None:
        watched = Watched()
        for step in range(100):
            watched.timers.arm(10.0 - step / 50)
            assert watched.timers_armed() <= TIMERS_LIMIT
        await asyncio.sleep(20.0)
        assert watched.calls[0] == 10.0 - 99 / 50

    simulate(main())


def test_nobody_is_called_after_the_end() -> None:
    async def main() -> None:
        watched = Watched()
        watched.timers.arm(1.0)
        watched.timers.arm(0.5)
        watched.timers.stop()
        watched.timers.arm(0.2)
        await asyncio.sleep(5.0)
        assert watched.calls == []

    simulate(main())


class RoundingLoop:
    """Lets the test decide which timer fires, as one that counts whole milliseconds may."""

    def __init__(self) -> None:
        self.armed: dict[float, Callable[[], None]] = {}

    def call_at(self, when: float, callback: Callable[[float], None], due: float) -> Any:
        self.armed[when] = partial(callback, due)
        return None


def test_a_loop_may_let_a_later_timer_go_first() -> None:
    loop, calls = RoundingLoop(), []
    timers = DeadlineTimers(cast("Any", loop), lambda: calls.append("called"))
    timers.arm(1.0004)
    timers.arm(1.0001)
    loop.armed.pop(1.0004)()
    timers.arm(1.0003)
    assert [*loop.armed] == [1.0001]
    loop.armed.pop(1.0001)()
    timers.arm(1.0003)
    assert [*loop.armed] == [1.0003]
    assert len(calls) == 2
