"""`VirtualLoop`: asyncio's own event loop with a clock that jumps to the next deadline.

Only what asks the operating system is replaced: a turn of the loop, which advances the clock
instead of waiting, and what would leave the thread or the process. So tasks, timeouts, queues and
task groups are the real ones. Rules: time passes only while nothing is ready to run; nothing
outside can wake a virtual loop, so when it has no timer left it raises `Deadlock` at once; sets of
tasks have the same order in every run. (Other sets have not: iterate over lists and dicts.)
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

from aerogram.lab.errors import (
    Deadlock,
    Nondeterminism,
    RealInputOutput,
    SimulationTimeout,
)
from aerogram.lab.handles import Handle, Task, TimerHandle
from aerogram.lab.waiting import describe_tasks, unfinished_tasks

_ResultT = TypeVar("_ResultT")
_ArgumentsT = TypeVarTuple("_ArgumentsT")

LONGEST_SECONDS: Final = 4_000_000.0
"""Virtual time ends here (46 days): beyond, floats are coarser than the loop's resolution."""

TURNS_AT_ONE_INSTANT_LIMIT: Final = 1_000_000
"""Turns of the loop without progress of time after which the program is taken to spin."""

_RESOLUTION_SECONDS: Final = 1e-9
"""Timers this near to each other fire together. The real one differs between systems."""

_CANCELLED_TIMERS: Final = 100
"""Timers that will not fire and are kept nevertheless (as in asyncio)."""

_OWN_MODULES: Final = "aerogram.lab."


class _VirtualSelector(selectors.SelectSelector):
    """Knows the loop's own wake-up pipe and never waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.sealed = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.sealed:
            raise RealInputOutput("a simulation does no real I/O: use its Network")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time, from 0 to `limit` seconds.

    Use `simulate`; or give the class to `asyncio.Runner(loop_factory=VirtualLoop)`. Running it
    raises `Deadlock`, `SimulationTimeout`, or the first exception that a callback, or a task that
    nobody awaits, has raised: with another loop that is only logged. `set_exception_handler` takes
    such exceptions away.

    `run_in_executor` and `asyncio.to_thread` call the function in the loop's thread: it must not
    wait for anything that the loop has to do.
    """

    # Names of BaseEventLoop since Python 3.4 that its type stubs leave out.
    _check_closed: Callable[[], None]
    _closed: bool
    _debug: bool
    _ready: deque[Any]
    _stopping: bool
    _task_factory: Any

    def __init__(self, *, limit: float = LONGEST_SECONDS) -> None:
        selector = _VirtualSelector()
        super().__init__(selector)
        if not 0 < limit <= LONGEST_SECONDS:
            self.close()
            raise ValueError(f"limit is above 0 and at most {LONGEST_SECONDS:g} s, not {limit}")
        selector.sealed = True
        self.seed: int | None = None
        """Of the simulation that runs in this loop; a `Network` without a seed takes it."""
        self.limit = limit
        """When running raises `SimulationTimeout`, in seconds of this loop's clock."""
        self._now = 0.0
        self._turns = 0
        self._settling = False
        self._failure: BaseException | None = None
        self._thread: int | None = None
        self._tasks_made = 0
        self._timers: list[tuple[float, int, Any]] = []
        """A heap of when, a number that keeps the order of equals, and the handle."""
        self._timers_made = 0
        self._timers_cancelled = 0
        """How many of them will not fire."""

    # The clock

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def _let_time_pass(self) -> None:
        """Jump to the next timer: nothing else is left to be done."""
        if self._settling:
            self.stop()
            return
        if not self._timers:
            raise Deadlock(self._report("nothing can happen any more"))
        self._turns = 0
        due = self._timers[0][0]
        if due > self.limit:
            self._now = self.limit
            raise SimulationTimeout(self._report(f"the limit of {self.limit:g} s has passed"))
        self._now = due

    def _stand_still(self) -> None:
        """There were too many turns in which no time has passed."""
        self._turns = 0
        raise SimulationTimeout(self._report("the program spins and lets no time pass"))

    def _report(self, what: str) -> str:
        lines = describe_tasks(unfinished_tasks(self))
        return "\n".join([f"{what} at {self._now:.6f} s; unfinished tasks:", *lines])

    # Timers and turns. They are our own because they are most of what a simulation of many small
    # things costs: tuples are compared in C, nothing is asked of the system, and timers of one time
    # fire in the order in which they were made, on every Python.

    def call_soon(
        self,
        callback: Callable[[*_ArgumentsT], object],
        *args: *_ArgumentsT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As `asyncio.AbstractEventLoop.call_soon`."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def create_task(
        self,
        coro: Generator[Any, None, _ResultT] | Coroutine[Any, Any, _ResultT],
        **options: Any,
    ) -> asyncio.Task[_ResultT]:
        """As `asyncio.AbstractEventLoop.create_task`."""
        if self._task_factory is not None or self._closed:
            return super().create_task(coro, **options)
        self._tasks_made += 1
        # It is entered into a set while it is made, so it has its number before.
        task: Any = Task.__new__(Task)
        task.number = self._tasks_made
        task.__init__(coro, loop=self, **options)
        made: asyncio.Task[_ResultT] = task
        return made

    def call_at(
        self,
        when: float,
        callback: Callable[[*_ArgumentsT], object],
        *args: *_ArgumentsT,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As `asyncio.AbstractEventLoop.call_at`."""
        self._check_closed()
        timer: Any
        if self._debug:
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            timer._scheduled = True
        else:
            timer = TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        handle: asyncio.TimerHandle = timer
        return handle

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Called by a handle of asyncio's own."""
        if handle._scheduled:
            self.timer_cancelled()

    def timer_cancelled(self) -> None:
        """Know of a timer that will not fire. Now and then those are taken out."""
        self._timers_cancelled += 1
        if self._timers_cancelled > _CANCELLED_TIMERS and (
            2 * self._timers_cancelled > len(self._timers)
        ):
            self._timers[:] = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def _run_once(self) -> None:
        """Run turns until something stops the loop. Called by `run_forever`."""
        ready, timers = self._ready, self._timers
        while True:
            if self._failure is not None or self._timers_cancelled:
                self._prepare_turn()
            if ready or self._stopping or (timers and timers[0][0] <= self._now):
                self._turns += 1
                if self._turns > TURNS_AT_ONE_INSTANT_LIMIT:
                    self._stand_still()
            else:
                self._let_time_pass()
            until = self._now + _RESOLUTION_SECONDS
            while timers and timers[0][0] < until:
                timer = heapq.heappop(timers)[2]
                timer._scheduled = False
                if timer._cancelled:
                    self._timers_cancelled -= 1
                else:
                    ready.append(timer)
            # What becomes ready meanwhile is for the next turn.
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # as asyncio's handles do
                    self._callback_failed(handle, error)
            if self._stopping:
                return

    def _callback_failed(self, handle: asyncio.Handle, error: BaseException) -> None:
        context = {"message": f"Exception in callback {handle!r}", "exception": error}
        self.call_exception_handler(context | {"handle": handle})

    def _prepare_turn(self) -> None:
        """Raise what has failed, and let the first timer be one that fires."""
        self.raise_failure()
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._timers_cancelled -= 1

    # Running

    def run_forever(self) -> None:
        """As `asyncio.AbstractEventLoop.run_forever`."""
        self._thread = threading.get_ident()
        try:
            super().run_forever()
        finally:
            self._thread = None

    def settle(self) -> None:
        """Run what can run without time passing."""
        self._settling = True
        try:
            self.run_forever()
        finally:
            self._settling = False
        self.raise_failure()

    def fail(self, error: BaseException) -> None:
        """End the run with `error`, even if whoever sees it first swallows it."""
        if self._failure is None:
            self._failure = error

    def raise_failure(self) -> None:
        """Raise what `fail` was told, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log as asyncio does, and end the run."""
        super().default_exception_handler(context)
        message = context.get("message", "unhandled exception in the event loop")
        error = context.get("exception") or RuntimeError(message)
        error.add_note(f"{message}, at {self._now:.6f} s")
        self.fail(error)

    def timers_left(self) -> list[asyncio.TimerHandle]:
        """Return the timers that would still fire, but for those of the simulated network."""
        return [
            handle
            for _, _, handle in sorted(self._timers)
            if not handle.cancelled() and not _is_own(handle)
        ]

    # What would leave the thread

    def call_soon_threadsafe(
        self,
        callback: Callable[[*_ArgumentsT], object],
        *args: *_ArgumentsT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """As `call_soon`. From another thread, which no seed replays, raises `Nondeterminism`."""
        if self._thread not in (None, threading.get_ident()):
            error = Nondeterminism("another thread called into a simulation")
            self.fail(error)
            raise error
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[*_ArgumentsT], _ResultT],
        *args: *_ArgumentsT,
    ) -> asyncio.Future[_ResultT]:
        """Call `func` in a coming turn of the loop, in its thread; `executor` is not used."""
        future: asyncio.Future[_ResultT] = self.create_future()
        self.call_soon(_call, future, lambda: func(*args))
        return future


def _call(future: asyncio.Future[_ResultT], func: Callable[[], _ResultT]) -> None:
    if future.done():
        return
    try:
        result = func()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _is_own(handle: asyncio.TimerHandle) -> bool:
    callback = getattr(handle, "_callback", None)
    return str(getattr(callback, "__module__", "")).startswith(_OWN_MODULES)


# What would leave the process. Each name is refused at its caller; the selector refuses the rest.

_REFUSED: Final = (
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
)


def _refusal(name: str) -> Callable[..., Coroutine[Any, Any, NoReturn]]:
    async def refused(*_: object, **_options: object) -> NoReturn:
        raise RealInputOutput(f"{name}: a simulation does no real I/O: use its Network")

    refused.__name__ = name
    return refused


for _name in _REFUSED:
    setattr(VirtualLoop, _name, _refusal(_name))
