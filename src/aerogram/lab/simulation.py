"""`simulate`: runs a program to its end in virtual time, and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol, TypeVar

from aerogram.lab.errors import LeftOver, SimulationError
from aerogram.lab.guard import guarded
from aerogram.lab.loop import LONGEST_SECONDS, VirtualLoop
from aerogram.lab.waiting import describe_tasks, unfinished_tasks

_ResultT = TypeVar("_ResultT")

LIMIT_SECONDS: Final = 3600.0

_COLLECT_AFTER_OBJECTS: Final = 20_000
"""So many objects more than before, and cycles are looked for."""

_CLEAN_UP_SECONDS: Final = 60.0
"""Virtual time that cancelled tasks have to end in."""


class Simulate(Protocol):
    """The type of the pytest fixture `simulate`.

    The seed is that of the test, and so is the limit unless it is given.
    """

    def __call__(
        self,
        main: Coroutine[Any, Any, _ResultT] | Callable[[], Coroutine[Any, Any, _ResultT]],
        *,
        limit: float | None = None,
    ) -> _ResultT:
        """As `aerogram.lab.simulate`."""
        ...


def simulate(
    main: Coroutine[Any, Any, _ResultT] | Callable[[], Coroutine[Any, Any, _ResultT]],
    *,
    limit: float = LIMIT_SECONDS,
    seed: int = 0,
    allow_left_over: bool = False,
) -> _ResultT:
    """Run a coroutine, or what a coroutine function returns, in a `VirtualLoop`; return its result.

    `limit` is in virtual seconds. `seed` seeds the functions of the `random` module for the time of
    the run, and each `Network` that is made in it without a seed of its own.

    Raises what `main` raises; `SimulationTimeout` when `limit` has passed; `Deadlock` at once when
    nothing can happen any more; `LeftOver` when `main` has returned and other tasks or timers are
    still there, unless `allow_left_over`; `Nondeterminism` when this package itself reads the wall
    clock or the system's randomness; the first exception that nobody handled. `RuntimeError` in a
    thread that runs an event loop already.
    """
    try:
        loop = _new_loop(limit)
    except BaseException:
        if not callable(main):
            main.close()  # or it would warn that it was never awaited
        raise
    loop.seed = seed
    state = random.getstate()
    random.seed(seed)
    try:
        with guarded(), _rare_collections():
            return _run(loop, main, allow_left_over=allow_left_over)
    except Exception as error:
        error.add_note(f"simulated with seed={seed}; failed at {loop.time():.6f} s")
        raise
    finally:
        loop.close()
        random.setstate(state)


@contextlib.contextmanager
def _rare_collections() -> Generator[None]:
    """Look for cycles less often: a simulation keeps many objects and makes few cycles."""
    thresholds = gc.get_threshold()
    if 0 < thresholds[0] < _COLLECT_AFTER_OBJECTS:
        gc.set_threshold(_COLLECT_AFTER_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _new_loop(limit: float) -> VirtualLoop:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return VirtualLoop(limit=limit)
    raise RuntimeError("simulate() has an event loop of its own: call it from a plain function")


def _run(
    loop: VirtualLoop,
    main: Coroutine[Any, Any, _ResultT] | Callable[[], Coroutine[Any, Any, _ResultT]],
    *,
    allow_left_over: bool,
) -> _ResultT:
    task = loop.create_task(main() if callable(main) else main, name="main")
    try:
        result = loop.run_until_complete(task)
        loop.settle()
        left = describe_tasks(unfinished_tasks(loop))
    finally:
        _cancel_tasks(loop)
    # Only now, because a task's own timers end with it.
    left += [f"  {timer!r}" for timer in loop.timers_left()]
    loop.raise_failure()
    if left and not allow_left_over:
        raise LeftOver("\n".join(["left over after the main coroutine:", *left]), result)
    return result


def _cancel_tasks(loop: VirtualLoop) -> None:
    """Give every task the chance to clean up, and asynchronous generators after them."""
    loop.limit = min(loop.time() + _CLEAN_UP_SECONDS, LONGEST_SECONDS)
    tasks = unfinished_tasks(loop)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(SimulationError):
        loop.run_until_complete(_wait_for(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.settle()


async def _wait_for(tasks: list[asyncio.Task[Any]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
