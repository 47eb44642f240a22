"""Lanes: where messages of one type wait that need not wait for the rest of their channel.

Rules: a lane belongs to one session and one route. It runs at most as many handlers as the route
says, starts them in the order of arrival, and never two with equal keys at once. Its workers are
tasks that are made when there is something to do and gone when there is not. Flow control bounds
what reliable channels put here; of others the oldest waiting give way beyond
`Config.mailbox_bytes`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, cast

from aerogram.jobs import Job, perform
from aerogram.lifecycle import current_task

if TYPE_CHECKING:
    from aerogram.inner_session import InnerSession
    from aerogram.routes import Route

MESSAGES_PER_TURN: Final = 256
"""A worker lets others run after this many messages, even if its handlers never wait."""


class Lane:
    """Messages of one type of one session, handled several at a time."""

    __slots__ = (
        "_count",
        "_jobs",
        "_ready",
        "_route",
        "_running",
        "_session",
        "_unreliable_cost",
        "tasks",
    )

    def __init__(self, session: InnerSession, route: Route) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        """The workers."""
        self._session = session
        self._route = route
        self._jobs: dict[Hashable, deque[Job]] = {}
        """What waits, by key; an empty one while the only message with its key is handled."""
        self._ready: OrderedDict[Hashable, None] = OrderedDict()
        """Keys of what may begin: nothing else with the same key is being handled."""
        self._running = 0
        self._count = 0
        self._unreliable_cost = 0

    @property
    def waiting(self) -> int:
        """Messages that a handler has now or that wait for one, counted one by one."""
        return self._running + sum([len(jobs) for jobs in self._jobs.values()])

    def put(self, job: Job) -> None:
        """Take a message, which is handled when it is its turn.

        Raises what the route's `key` raises, and `TypeError` if its result cannot be a key.
        """
        key = self._key_of(job.message)
        if not job.channel.resends and not self._make_room(key, job.cost):
            self._session.connection.stats.messages_dropped_mailbox += 1
            return
        jobs = self._jobs.get(key)
        if jobs is None:
            jobs = self._jobs[key] = deque()
            self._ready[key] = None
        jobs.append(job)
        if self._ready and len(self.tasks) < self._route.limit:
            self.tasks.add(asyncio.get_running_loop().create_task(self._work()))

    def _key_of(self, message: Any) -> Hashable:
        if self._route.key is None:
            self._count += 1
            return self._count
        key = self._route.key(message)
        hash(key)
        return key

    def _make_room(self, key: Hashable, cost: int) -> bool:
        """Drop what gives way to an unreliable message; False if it is the one that has to.

        The oldest with the same key gives way, or else the one that would begin next.
        """
        limit, memory = self._session.config.mailbox_bytes, self._session.memory
        while self._unreliable_cost > 0 and (
            self._unreliable_cost + cost > limit or memory.is_full
        ):
            victim = key if self._jobs.get(key) else next(iter(self._ready), None)
            jobs = self._jobs.get(victim)
            if not jobs or jobs[0].channel.resends:
                return False
            self._weigh(-jobs.popleft().cost)
            self._session.connection.stats.messages_dropped_mailbox += 1
            if not jobs and victim in self._ready:
                del self._ready[victim], self._jobs[victim]
        self._weigh(cost)
        return True

    def _weigh(self, cost: int) -> None:
        """So much more is here of unreliable channels."""
        self._unreliable_cost += cost
        self._session.memory.note(cost)

    async def _work(self) -> None:
        begun = 0
        try:
            while self._ready:
                key, _ = self._ready.popitem(last=False)
                try:
                    await self._run(self._jobs[key].popleft())
                finally:
                    if self._jobs[key]:
                        self._ready[key] = None
                    else:
                        del self._jobs[key]
                begun += 1
                if begun % MESSAGES_PER_TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self.tasks.discard(cast("asyncio.Task[None]", current_task()))

    async def _run(self, job: Job) -> None:
        """What may go on for ever is done with its credit when it has begun."""
        session = self._session
        self._running += 1
        try:
            if job.route.goes_on:
                session.consumed(job.channel, job.cost)
            await perform(session, job)
        except BaseException:  # what is meant for the task
            session.counts.messages_dropped_closed += 1
            raise
        finally:
            self._running -= 1
            if not job.channel.resends:
                self._weigh(-job.cost)
            if not job.route.goes_on:
                session.consumed(job.channel, job.cost)

    def drop_waiting(self) -> None:
        """Drop what no handler has begun: the session has ended."""
        dropped = sum([len(jobs) for jobs in self._jobs.values()])
        self._session.counts.messages_dropped_closed += dropped
        for jobs in self._jobs.values():
            jobs.clear()
        self._ready.clear()
