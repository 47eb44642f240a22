"""The life of a session above the protocol: `on_open`, the handlers, `on_close`, and the end.

Rules: no handler runs before `on_open` is done. What arrived before the session ended is still
handled; then `on_close` runs, whatever happened, and then nothing of the session is left.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aerogram.core.events import CloseCode
from aerogram.errors import ClosedByPeer, ClosedLocally, Rejected, SessionClosed

if TYPE_CHECKING:
    from aerogram.dispatch import Mailboxes
    from aerogram.session import Session
    from aerogram.shell import Shell


class Lifecycle:
    """The tasks of a session that are not handlers of messages."""

    __slots__ = (
        "_finished",
        "_finisher",
        "_mailboxes",
        "_opener",
        "_runs_closers",
        "_session",
        "_shell",
        "ready",
    )

    def __init__(self, session: Session[Any], shell: Shell, mailboxes: Mailboxes) -> None:
        self.ready = False
        """True once `on_open` has run: handlers may."""
        self._session = session
        self._shell = shell
        self._mailboxes = mailboxes
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opener: asyncio.Task[None] | None = None
        self._finisher: asyncio.Task[None] | None = None
        self._runs_closers = False

    def start(self) -> None:
        """The session is open: run `on_open`, then let the handlers begin."""
        self._opener = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        session = self._session
        if session.app is not None:
            try:
                await session.app.opened(session)
            except Rejected as error:
                session.connection.close(CloseCode.NO_ERROR, error.reason, self._shell.time())
                self._shell.schedule_flush()
            except Exception as error:  # a user's handler; the session lives without it
                session.handler_failed("on_open", error)
        self.ready = True
        self._mailboxes.start()

    def end(self, error: SessionClosed) -> None:
        """The session has ended: let its handlers finish."""
        self._finisher = asyncio.get_running_loop().create_task(self._finish(error))

    async def _finish(self, error: SessionClosed) -> None:
        try:
            if self._opener is not None:
                await asyncio.wait([self._opener])
            while workers := self._mailboxes.tasks:
                await asyncio.wait(workers)
        finally:
            self._mailboxes.cancel()
            try:
                await self._run_closers(error)
            finally:
                if not self._finished.done():
                    self._finished.set_result(None)
                self._shell.session_finished(self._session)

    async def _run_closers(self, error: SessionClosed) -> None:
        session = self._session
        if session.app is None:
            return
        self._runs_closers = True
        shown = None if isinstance(error, ClosedByPeer | ClosedLocally) else error
        for handler in session.app.closers:
            try:
                await handler(session, shown)
            except Exception as raised:  # a user's handler
                session.handler_failed("on_close", raised)

    def cancel(self) -> None:
        """Grace is over: cancel the handlers that run now; that may be those of `on_close`."""
        self._mailboxes.cancel()
        if self._opener is not None:
            self._opener.cancel()
        if self._runs_closers and self._finisher is not None:
            self._finisher.cancel()

    @property
    def is_handling(self) -> bool:
        """True in a task of the session itself, which cannot wait for its own end."""
        current = asyncio.current_task()
        if current is self._opener or current is self._finisher:
            return True
        return current in self._mailboxes.tasks

    async def wait_finished(self) -> None:
        """Wait until the session has ended and its handlers are done."""
        await asyncio.shield(self._finished)
