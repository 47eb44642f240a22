"""The life of a session above the protocol: `on_open`, the handlers, `on_close`, and the end.

Rules: no handler runs before `on_open` is done. What arrived before the session ended is still
handled, within the grace; then what still runs is cancelled. `on_close` runs whatever happened, and
is given a grace of its own; then nothing of the session is left. No user's code holds the end up:
who is cancelled in vain is left alone, and that is logged.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aerogram.core.events import CloseCode
from aerogram.errors import ClosedByPeer, ClosedLocally, Rejected, SessionClosed
from aerogram.idempotency import KEPT_SECONDS

if TYPE_CHECKING:
    from aerogram.dispatch import Mailboxes
    from aerogram.inner_session import InnerSession
    from aerogram.shell import Shell

CLEAN_UP_SECONDS: Final = 1.0
"""A handler that was cancelled has this long to clean up before it is cancelled again."""
CANCELS_LIMIT: Final = 2
"""A handler that catches this many cancellations is left alone."""

STOPS_LOOP: Final = (KeyboardInterrupt, SystemExit)
"""What asyncio lets out of the loop, whoever raises it."""

Tasks = list[asyncio.Task[Any]]


class Lifecycle:
    """The tasks of a session that are not handlers of messages, and the end of all of them."""

    __slots__ = (
        "_closer",
        "_drained",
        "_finished",
        "_finisher",
        "_grace",
        "_hurried",
        "_left_alone",
        "_mailboxes",
        "_opener",
        "_session",
        "_shell",
        "_until",
        "ready",
    )

    def __init__(self, session: InnerSession, shell: Shell, mailboxes: Mailboxes) -> None:
        self.ready = False
        """True once `on_open` has run: handlers may."""
        self._session = session
        self._shell = shell
        self._mailboxes = mailboxes
        self._drained: asyncio.Future[None] | None = None
        self._grace: float | None = None
        """When handlers are to have ended by the one who closed the session, in loop time."""
        self._until = 0.0
        """When what runs now is cancelled."""
        self._hurried: asyncio.Future[None] | None = None
        self._left_alone: set[asyncio.Task[Any]] = set()
        """Those that were cancelled in vain."""
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opener: asyncio.Task[None] | None = None
        self._finisher: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    # -- the beginning

    def start(self) -> None:
        """The session is open: run `on_open`, then let the handlers begin."""
        if self._session.app is None or not self._session.app.openers:
            self.ready = True
            return
        self._opener = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        session = self._session
        if session.app is not None:
            try:
                await session.app.opened(session.public)
            except Rejected as error:
                session.connection.close(CloseCode.NO_ERROR, error.reason, self._shell.time())
                self._shell.schedule_flush()
            except BaseException as error:  # a user's handler; the session lives without it
                if self.is_for_task(error):
                    raise
                session.handler_failed("on_open", error)
        self.ready = True
        self._mailboxes.start()

    # -- closing by this side

    async def close(self, reason: str, code: int, grace: float) -> None:
        """Close the session and wait for its handlers, `grace` seconds in all; see `Session.close`.

        A handler that calls this is not waited for, and has as long again.
        """
        is_handling = self.is_handling
        self.hurry(2 * grace if is_handling else grace)
        await self.shut(reason, code, grace)
        if not is_handling:
            await self.wait_finished()

    async def shut(self, reason: str, code: int, grace: float) -> None:
        """Let queued messages arrive, at most `grace` seconds, and end the session."""
        try:
            await self._drain(grace)
        finally:
            self._session.cut(reason, code=code)

    async def _drain(self, grace: float) -> None:
        session = self._session
        if session.closed or grace <= 0:
            return
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
        session.connection.notify_when_drained()
        self._shell.schedule_flush()
        await asyncio.wait([self._drained], timeout=grace)

    def has_drained(self) -> None:
        """Nothing is on its way any more."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def hurry(self, grace: float) -> None:
        """What runs when the session has ended is cancelled in so many seconds, if not earlier."""
        due = asyncio.get_running_loop().time() + grace
        if self._grace is None or due < self._grace:
            self._grace = due
        self._until = min(self._until, self._grace)
        if self._hurried is not None and not self._hurried.done():
            self._hurried.set_result(None)

    def hold(self) -> None:
        """Cancel no handler before `hurry` is called: one of them is closing all sessions."""
        self._grace = self._until = math.inf

    # -- the end

    def end(self, error: SessionClosed) -> None:
        """The session has ended: let its handlers finish."""
        self.has_drained()
        self._finisher = asyncio.get_running_loop().create_task(self._finish(error))

    async def _finish(self, error: SessionClosed) -> None:
        grace = self._shell.config.grace_seconds
        try:
            self._until = self._in(grace) if self._grace is None else self._grace
            await self._let_end(self._handlers)
            self._until = self._in(KEPT_SECONDS) if self._grace is None else self._grace
            await self._let_end(self._all_handlers)
        finally:
            self._mailboxes.drop_waiting()
            try:
                self._until = self._in(grace)
                self._closer = asyncio.get_running_loop().create_task(self._run_closers(error))
                await self._let_end(self._closers)
            finally:
                if not self._finished.done():
                    self._finished.set_result(None)
                self._shell.session_finished(self._session)

    def _in(self, seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds

    async def _run_closers(self, error: SessionClosed) -> None:
        session = self._session
        if session.app is None:
            return
        shown = None if isinstance(error, ClosedByPeer | ClosedLocally) else error
        for handler in session.app.closers:
            try:
                await handler(session.public, shown)
            except BaseException as raised:  # a user's handler
                if self.is_for_task(raised):
                    raise
                session.handler_failed("on_close", raised)

    # -- waiting for what runs, and cancelling it

    def _all_handlers(self) -> Tasks:
        tasks = self._mailboxes.tasks
        if self._opener is not None and not self._opener.done():
            tasks.append(self._opener)
        return [task for task in tasks if task not in self._left_alone]

    def _handlers(self) -> Tasks:
        """But for those whose answer may yet be asked for on another session."""
        lasting = self._session.answering.lasting
        return [task for task in self._all_handlers() if task not in lasting]

    def _closers(self) -> Tasks:
        return [] if self._closer is None or self._closer.done() else [self._closer]

    async def _let_end(self, running: Callable[[], Tasks]) -> None:
        """Wait until nothing runs; at the end of the grace cancel it, again if need be."""
        for cancels in range(CANCELS_LIMIT + 1):
            if cancels:
                self._cancel(running())
                self._until = self._in(CLEAN_UP_SECONDS)
            while tasks := running():
                left = self._until - self._in(0.0)
                if left <= 0.0:
                    break
                await self._wait(tasks, left)
            else:
                return
            if cancels == 0:
                self._shell.log_overdue(self._session, logging.WARNING, "are cancelled")
        self._left_alone.update(running())
        self._shell.log_overdue(self._session, logging.ERROR, "go on although cancelled")

    async def _wait(self, tasks: Tasks, seconds: float) -> None:
        """Wait for all these tasks, or so long, or until there is a hurry."""
        self._hurried = asyncio.get_running_loop().create_future()
        timeout = None if seconds == math.inf else seconds
        await asyncio.wait(
            [_all_done(tasks), self._hurried],
            timeout=timeout,
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._hurried = None

    def _cancel(self, tasks: Tasks) -> None:
        self._mailboxes.drop_waiting()
        for task in tasks:
            task.cancel()

    # -- who waits

    @property
    def is_handling(self) -> bool:
        """True in a task of the session itself, which cannot wait for its own end."""
        current = current_task()
        return current is not None and current in (
            self._opener,
            self._closer,
            *self._mailboxes.tasks,
        )

    def is_for_task(self, error: BaseException) -> bool:
        """True for what is meant for the task of a handler, and not raised by the handler.

        That is its cancellation, and that it is thrown away. A handler meets another cancellation
        by waiting for a task that was cancelled.
        """
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            return task is not None and task.cancelling() > 0
        return isinstance(error, GeneratorExit) and not self.is_handling

    async def wait_finished(self) -> None:
        """Wait until the session has ended and its handlers are done.

        Raises `RuntimeError` in one of them.
        """
        if self.is_handling:
            raise RuntimeError("a handler cannot wait for the end of its own session")
        await asyncio.shield(self._finished)


def current_task() -> asyncio.Task[Any] | None:
    """The task that runs, if one does."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs: a coroutine is collected
        return None


def _all_done(tasks: Tasks) -> asyncio.Future[None]:
    """What is done when all of these are."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(tasks)

    def one_less(_: asyncio.Task[Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0 and not done.done():
            done.set_result(None)

    for task in tasks:
        task.add_done_callback(one_less)
    return done
