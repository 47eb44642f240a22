"""From messages that arrived to the user's handlers: mailboxes, and the workers that empty them.

Rules: one mailbox per session and channel, one message at a time, in the order that the channel
handed them over; a type whose route says so leaves that order for a `Lane` when its turn comes. A
mailbox's worker is a task that is made when something arrives and gone when nothing is left; no
task per message. A handler that raises is logged once and the session lives. What no handler has
finished grants the peer no credit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING, Any

from aerogram import messages as codec
from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.events import RefuseCode
from aerogram.errors import DecodeError
from aerogram.jobs import Job, failed, perform
from aerogram.lanes import MESSAGES_PER_TURN, Lane
from aerogram.lifecycle import STOPS_LOOP

if TYPE_CHECKING:
    from aerogram.core.channel import ReceiveChannel, Run
    from aerogram.inner_session import InnerSession
    from aerogram.routes import Route, RouteTable

    Sieve = Callable[[ReceiveChannel, list[Run]], list[Run]]
    """Takes some of the messages of a channel, and returns the rest."""


class Mailbox:
    """Messages of one channel of one session that wait for their handlers."""

    __slots__ = (
        "_boxes",
        "_channel",
        "_cost",
        "_ended",
        "_queue",
        "_rest",
        "_routes",
        "_run",
        "_run_cost",
        "_run_size",
        "_session",
        "_worker",
    )

    def __init__(self, boxes: Mailboxes, session: InnerSession, channel: ReceiveChannel) -> None:
        assert session.app is not None
        self._boxes = boxes
        self._session = session
        self._routes: RouteTable = session.app.routes
        self._channel = channel
        self._queue: deque[Run] = deque()
        self._cost = 0
        self._worker: asyncio.Task[None] | None = None
        self._run: Run = (0, [], 0)
        """The run that is being handled, as it came."""
        self._run_size = 0
        """Messages of it that are to be handled here."""
        self._run_cost = 0
        """What they count for in flow control, without those that went into a lane."""
        self._rest: Iterator[Any] = iter(())
        """Those of them that have not begun."""
        self._ended = 0
        """Those of them that have begun and are counted already."""

    @property
    def worker(self) -> asyncio.Task[None] | None:
        """The task that works on this mailbox, while there is one."""
        return self._worker

    @property
    def waiting(self) -> int:
        """Messages that wait, and the one that is being handled, counted one by one."""
        in_run = 1 + length_hint(self._rest) if self._run_size else 0
        return in_run + sum([len(run) for _, run, _ in self._queue])

    @property
    def handled_uncounted(self) -> int:
        """Messages of the run that are done; they are counted when all of it is."""
        if not self._run_size:
            return 0
        return self._run_size - 1 - length_hint(self._rest) - self._ended

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

    def sift(self, sieve: Sieve) -> None:
        """Let `sieve` take what it wants of what has not begun; the rest goes on to wait."""
        self._put_back_rest()
        waiting = [*self._queue]
        self._queue.clear()
        rest = sieve(self._channel, waiting)
        self._queue.extend(rest)
        self._weigh(_total(rest) - _total(waiting))

    def drop_waiting(self) -> None:
        """Drop what no handler has begun: the session has ended."""
        self._put_back_rest()
        dropped = sum([len(run) for _, run, _ in self._queue])
        self._session.counts.messages_dropped_closed += dropped
        self._queue.clear()
        self._weigh(-self._cost)

    def _bound(self, runs: list[Run]) -> None:
        """Unreliable channels have no credit: the oldest messages give way."""
        self._weigh(_total(runs))
        limit, memory = self._session.config.mailbox_bytes, self._session.memory
        while (self._cost > limit or memory.is_full) and len(self._queue) > 1:
            first, dropped, cost = self._queue.popleft()
            self._weigh(-cost)
            self._session.connection.stats.messages_dropped_mailbox += len(dropped)
            if self._channel.deadlines:
                for number in range(first, first + len(dropped)):
                    self._channel.deadlines.pop(number, None)

    def _weigh(self, cost: int) -> None:
        """So much more waits of an unreliable channel; credit counts what others have."""
        if not self._channel.resends:
            self._cost += cost
            self._session.memory.note(cost)

    async def _work(self) -> None:
        queue, session, channel = self._queue, self._session, self._channel
        handled = 0
        try:
            while queue:
                number, run, cost = self._run = queue.popleft()
                self._weigh(-cost)
                self._run_cost = cost
                self._run_size = len(run)
                self._rest = iter(run)
                if channel.deadlines or channel.view is not None:
                    await self._handle_each(number, run, cost)
                else:
                    await self._handle(number, run, cost)
                handled += self._run_size
                self._run_done()
                session.consumed(channel, self._run_cost)
                if handled >= MESSAGES_PER_TURN:
                    handled = 0
                    await asyncio.sleep(0)
        finally:
            self._worker = None
            if self._run_size:
                self._run_cut()
                session.consumed(channel, self._run_cost)

    def _run_done(self) -> None:
        self._session.counts.messages_handled += self._run_size - self._ended
        self._run_size = self._ended = 0

    def _run_cut(self) -> None:
        """The task was cancelled in a handler: its message is gone, the others wait again."""
        self._put_back_rest()
        counts = self._session.counts
        counts.messages_handled += self.handled_uncounted
        counts.messages_dropped_closed += 1
        self._run_size = self._ended = 0

    def _number(self, first: int) -> int:
        """The number of the message that is being handled, or -1."""
        return first + self._run_size - 1 - length_hint(self._rest) if first >= 0 else -1

    def _put_back_rest(self) -> None:
        """Let what has not begun of the run wait again; it ends with the message that has."""
        rest = [*self._rest]
        if not rest:
            return
        first, run, cost = self._run
        number = first + len(run) - len(rest) if first >= 0 else -1
        own = sum([cost_of(payload, run, cost) for payload in rest])
        self._queue.appendleft((number, rest, own))
        self._weigh(own)
        self._run_cost -= own
        self._run_size -= len(rest)

    async def _handle(self, first: int, run: list[Any], cost: int) -> None:
        """One message after the other: the hot loop of receiving."""
        public, routes, routing_key = self._session.public, self._routes.in_line, codec.routing_key
        for payload in self._rest:
            try:
                route = routes.get(payload[0]) or routes.get(routing_key(payload))
                if route is None:
                    await self._handle_one(first, payload, cost_of(payload, run, cost))
                    continue
                await route.call(public, route.decode(payload))
            except BaseException as error:  # where handlers' errors end
                self._failed(first, payload, error)
                if isinstance(error, STOPS_LOOP):
                    await asyncio.sleep(0)

    async def _handle_each(self, first: int, run: list[Any], cost: int) -> None:
        """As `_handle`, where messages have deadlines or an ordering has looked into them."""
        for payload in self._rest:
            try:
                await self._handle_one(first, payload, cost_of(payload, run, cost))
            except BaseException as error:
                self._failed(first, payload, error)
                if isinstance(error, STOPS_LOOP):
                    await asyncio.sleep(0)

    async def _handle_one(self, first: int, payload: Any, cost: int) -> None:
        """A message that needs a closer look. Raises what a decoder raises, and a `key=`."""
        session, channel, number = self._session, self._channel, self._number(first)
        deadline = channel.deadlines.pop(number, None) if number >= 0 else None
        route, message = self._routed(payload)
        if route is None:
            reason = f"no handler takes {self._described(payload)}"
            session.refuse(channel, number, RefuseCode.UNKNOWN_TAG, reason)
            self._ended += 1
            return
        question = message if isinstance(message, codec.Question) else None
        if question is not None:
            route, message = await session.answering.resolve(question)
        job = Job(channel, number, cost, route, message, deadline, question)
        if not route.leaves_order:
            await perform(session, job)
            self._ended += 1
            return
        self._boxes.lane(route).put(job)
        self._run_cost -= cost
        self._ended += 1

    def _routed(self, payload: Any) -> tuple[Route | None, Any]:
        """The route of a message, and what is decoded of it."""
        table = self._routes
        if self._channel.view is not None:
            return table.of_value(payload)
        if not payload:
            raise DecodeError(codec.EMPTY)
        route = table.by_key.get(codec.routing_key(payload))
        return route, payload if route is None else route.decode(payload)

    def _failed(self, first: int, payload: Any, error: BaseException) -> None:
        if isinstance(error, IndexError) and payload == b"":
            error = DecodeError(codec.EMPTY)
        if failed(self._session, self._channel, self._number(first), error, self._name(payload)):
            self._ended += 1

    def _name(self, payload: Any) -> str:
        """What the log calls the handler of a message."""
        is_decoded = self._channel.view is not None
        route = None if is_decoded else self._routes.by_key.get(codec.routing_key(payload))
        return route.name if route is not None else self._described(payload)

    def _described(self, payload: Any) -> str:
        is_decoded = self._channel.view is not None
        return type(payload).__name__ if is_decoded else codec.describe(payload)


def cost_of(payload: Any, run: list[Any], cost: int) -> int:
    """What one message of a run counts for in flow control."""
    if len(run) == 1 or not isinstance(payload, bytes):
        return cost // len(run)
    return len(payload) + MESSAGE_OVERHEAD_BYTES


def _total(runs: list[Run]) -> int:
    return sum([cost for _, _, cost in runs])


class Mailboxes:
    """All mailboxes and lanes of a session."""

    __slots__ = ("_by_channel", "_lanes", "_session")

    def __init__(self, session: InnerSession) -> None:
        self._session = session
        self._by_channel: dict[int, Mailbox] = {}
        self._lanes: dict[Route, Lane] = {}

    def put(self, channel: ReceiveChannel, runs: list[Run]) -> None:
        """Take messages of a channel."""
        mailbox = self._by_channel.get(channel.identity)
        if mailbox is None:
            mailbox = self._by_channel[channel.identity] = Mailbox(self, self._session, channel)
        mailbox.put(runs)

    def lane(self, route: Route) -> Lane:
        """The lane of a route that leaves the order of its channel, made on first use."""
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Lane(self._session, route)
        return lane

    def start(self) -> None:
        """The session is ready: handlers may run."""
        for mailbox in self._by_channel.values():
            mailbox.start()

    def sift(self, sieve: Sieve) -> None:
        """Let `sieve` take what it wants of what no handler has begun."""
        for mailbox in self._by_channel.values():
            mailbox.sift(sieve)

    def drop_waiting(self) -> None:
        """Drop what no handler has begun: the session has ended."""
        for mailbox in self._by_channel.values():
            mailbox.drop_waiting()
        for lane in self._lanes.values():
            lane.drop_waiting()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The workers that there are now."""
        workers = [mailbox.worker for mailbox in self._by_channel.values()]
        in_lanes = [task for lane in self._lanes.values() for task in lane.tasks]
        return [worker for worker in workers if worker is not None] + in_lanes

    @property
    def waiting(self) -> int:
        """Messages with a handler, or waiting for one."""
        in_lanes = sum([lane.waiting for lane in self._lanes.values()])
        return in_lanes + sum([mailbox.waiting for mailbox in self._by_channel.values()])

    @property
    def handled_uncounted(self) -> int:
        """Messages that are done, and counted when the run that they came in is."""
        return sum([mailbox.handled_uncounted for mailbox in self._by_channel.values()])
