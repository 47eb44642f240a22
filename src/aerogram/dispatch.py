"""From messages that arrived to the user's handlers: routes, middleware, mailboxes.

Rules: one mailbox per session and channel, one message at a time, in the order that the channel
handed them over. A mailbox's worker is a task that is made when something arrives and gone when
nothing is left; no task per message. A handler that raises is logged once and the session lives.
What a mailbox has not handled grants the peer no credit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aerogram import messages as codec
from aerogram.core.events import RefuseCode
from aerogram.errors import DecodeError, Rejected, SessionClosed

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run
    from aerogram.session import Session

Handler = Callable[[Any, Any], Awaitable[Any]]
"""What a route calls: (session, message), and for requests it returns the answer."""
Next = Callable[[Any, Any], Awaitable[Any]]
"""The rest of the middleware chain."""
Middleware = Callable[[Any, Any, Next], Awaitable[Any]]
"""(session, message, call_next); returns what `call_next` returned, or refuses."""

MESSAGES_PER_TURN: Final = 256
"""A worker lets others run after this many messages, even if its handlers never wait."""


@dataclass(slots=True)
class Route:
    """How one kind of message is decoded and who takes it."""

    decode: Callable[[bytes], Any]
    call: Handler
    name: str


Routes = Mapping[codec.RoutingKey, Route]


def chained(handler: Handler, middleware: Iterable[Middleware]) -> Handler:
    """The handler inside its middleware, the first of which is outermost."""
    call = handler
    for layer in reversed([*middleware]):
        call = _around(layer, call)
    return call


def _around(layer: Middleware, inner: Handler) -> Handler:
    async def call(session: Any, message: Any) -> Any:
        return await layer(session, message, inner)

    return call


class Mailbox:
    """Messages of one channel of one session that wait for their handlers."""

    __slots__ = ("_channel", "_cost", "_queue", "_session", "_worker")

    def __init__(self, session: Session[Any], channel: ReceiveChannel) -> None:
        self._session = session
        self._channel = channel
        self._queue: deque[Run] = deque()
        self._cost = 0
        self._worker: asyncio.Task[None] | None = None

    @property
    def worker(self) -> asyncio.Task[None] | None:
        """The task that works on this mailbox, while there is one."""
        return self._worker

    def put(self, runs: list[Run]) -> None:
        """Take messages; starts the worker if the session is ready and there is none."""
        self._queue.extend(runs)
        if not self._channel.resends:
            self._bound(runs)
        self.start()

    def start(self) -> None:
        """Start the worker unless there is one, nothing to do, or the session is not ready."""
        if self._worker is None and self._queue and self._session.ready:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def _bound(self, runs: list[Run]) -> None:
        """Unreliable channels have no credit: the oldest messages give way."""
        self._cost += sum(cost for _, _, cost in runs)
        limit = self._session.config.mailbox_bytes
        while self._cost > limit and len(self._queue) > 1:
            _, dropped, cost = self._queue.popleft()
            self._cost -= cost
            self._session.connection.stats.messages_dropped_mailbox += len(dropped)

    async def _work(self) -> None:
        queue, session, channel = self._queue, self._session, self._channel
        handled = 0
        try:
            while queue:
                number, run, cost = queue.popleft()
                self._cost -= cost
                await self._handle(number, run)
                session.consumed(channel, cost)
                handled += len(run)
                if handled >= MESSAGES_PER_TURN:
                    handled = 0
                    await asyncio.sleep(0)
        finally:
            self._worker = None

    async def _handle(self, first: int, run: list[Any]) -> None:
        """One message after the other: the hot loop of receiving."""
        session = self._session
        routes = session.routes
        for index, payload in enumerate(run):
            route: Route | None = None
            message: Any = payload
            try:
                if self._channel.view is not None:
                    route = session.app_route(payload)
                else:
                    route = routes.get(payload[0]) or routes.get(codec.routing_key(payload))
                    if route is not None:
                        message = route.decode(payload)
                if route is None:
                    number = first + index if first >= 0 else -1
                    session.refuse_unknown(self._channel, number, payload)
                    continue
                await route.call(session, message)
            except Exception as error:  # the one place where handlers' errors end
                number = first + index if first >= 0 else -1
                self._failed(number, error, route)

    def _failed(self, number: int, error: Exception, route: Route | None) -> None:
        session, channel = self._session, self._channel
        if isinstance(error, Rejected):
            session.refuse(channel, number, RefuseCode.REJECTED, error.reason)
        elif isinstance(error, DecodeError):
            session.refuse(channel, number, RefuseCode.UNDECODABLE, str(error))
        elif isinstance(error, SessionClosed) and session.closed:
            return
        else:
            session.handler_failed(route.name if route is not None else "?", error)
