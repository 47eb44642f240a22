"""Groups: a name for many sessions, and a message to all of them that is encoded once.

Rules: a group lives as long as it has members or somebody holds it. What is sent to a group on one
channel reaches all members in one order, whoever sends it. In a large group that is done in rounds:
what many senders send at a time goes to a member together, and the loop goes on after every
`MEMBERS_PER_TURN` members.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic
from weakref import WeakKeyDictionary

from aerogram import messages as codec
from aerogram.group_sending import (
    PATIENCE_SECONDS,
    Audience,
    Cap,
    Fanout,
    GroupOutcome,
    Lags,
    OverRate,
    Parcel,
    WhenMemberFull,
)
from aerogram.session import Session, inner_of
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.channels import Channel

MEMBERS_PER_TURN: Final = 64
"""A few milliseconds of work, with the packets that follow from it."""

MESSAGES_PER_ROUND: Final = 16
"""Messages that go to each member together, when so many are sent at a time."""

BACKLOG_LIMIT: Final = 1024
"""Senders that may wait for their turn in a group with a rate limit."""

PRESENCE_LIMIT: Final = 1024
"""Events that wait for whoever follows the presence of a group."""


@dataclass(frozen=True, slots=True)
class PresenceEvent(Generic[StateT]):
    """A session has joined or left a group."""

    session: Session[StateT]
    joined: bool


class Presence(Generic[StateT]):
    """Who joins and leaves a group, as it happens: `async for event in group.presence()`.

    It counts as long as somebody holds it. It never ends by itself; `close` ends it. Events that
    are not taken wait, up to a limit: beyond it the oldest are dropped, and `dropped` counts them.
    """

    def __init__(self, group: Group[StateT], limit: int) -> None:
        self.dropped = 0
        self._group: Group[StateT] | None = group
        self._events: deque[PresenceEvent[StateT]] = deque()
        self._limit = limit
        self._changed = asyncio.Event()

    def __aiter__(self) -> Presence[StateT]:
        return self

    async def __anext__(self) -> PresenceEvent[StateT]:
        while not self._events:
            if self._group is None:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def put(self, event: PresenceEvent[StateT]) -> None:
        """The group tells what has happened."""
        if self._group is None:
            return
        if len(self._events) == self._limit:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        """End the iteration after the events that are there."""
        self._group = None
        self._changed.set()


class Group(Generic[StateT]):
    """Sessions under one name. A session leaves by itself when it closes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lags: Lags = {}
        self._members: dict[Session[StateT], None] = {}
        self._presences: WeakKeyDictionary[Presence[StateT], None] = WeakKeyDictionary()
        self._queue: deque[Fanout] = deque()
        self._round: asyncio.Task[None] | None = None
        self._senders = 0
        self._cap: Cap | None = None

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of {len(self)}>"

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Session[StateT]]:
        return iter([*self._members])

    def __contains__(self, session: object) -> bool:
        return session in self._members

    @property
    def sessions(self) -> list[Session[StateT]]:
        """The members now, in the order in which they joined."""
        return [*self._members]

    # -- members

    def add(self, session: Session[StateT]) -> None:
        """Let a session join; harmless if it has. A closed session does not join."""
        if session.closed or session in self._members:
            return
        self._members[session] = None
        inner_of(session).groups[self] = None
        self._tell(PresenceEvent(session, joined=True))

    def discard(self, session: Session[StateT]) -> None:
        """Let a session leave; harmless if it is not in the group."""
        if self._members.pop(session, self) is self:
            return
        self._lags.pop(session, None)
        inner_of(session).groups.pop(self, None)
        self._tell(PresenceEvent(session, joined=False))

    def presence(self, *, limit: int = PRESENCE_LIMIT) -> Presence[StateT]:
        """Follow who joins and leaves from now on, for `async for`; `sessions` are there already.

        `limit` is how many events may wait. Raises `ValueError` for a limit below 1.
        """
        if limit < 1:
            raise ValueError(f"limit is at least 1, not {limit}")
        presence = Presence(self, limit)
        self._presences[presence] = None
        return presence

    def _tell(self, event: PresenceEvent[StateT]) -> None:
        for presence in [*self._presences]:
            presence.put(event)

    # -- rate

    def limit_rate(
        self,
        *,
        messages_per_second: float | None = None,
        bytes_per_second: float | None = None,
        over_rate: OverRate = "wait",
    ) -> None:
        """Limit what is sent to this group; without any rate, limit it no longer.

        A message counts once, however many members there are: no member gets more than this. What
        is over the limit waits for its turn, at most `BACKLOG_LIMIT` messages, or is dropped.
        Raises `ValueError` for a rate that is none.
        """
        self._cap = None
        if messages_per_second is not None or bytes_per_second is not None:
            self._cap = Cap(messages_per_second, bytes_per_second, over_rate)

    # -- sending

    async def send(
        self,
        message: object,
        *,
        exclude: Session[Any] | Collection[Session[Any]] | None = None,
        where: Callable[[Session[StateT]], object] | None = None,
        when_full: WhenMemberFull = "wait",
        patience: float | None = PATIENCE_SECONDS,
        via: Channel | None = None,
        deadline: float | None = None,
    ) -> GroupOutcome:
        """Queue a message for every member but `exclude` for whom `where(session)` is true.

        Members whose queue has room get it at once. The others are waited for until they have been
        without room for `patience` seconds, and miss messages from then on until they have room;
        `when_full` may say that they miss it at once, or that they are closed. On a channel that
        drops messages or wants an error when it is full, nobody waits. `via` and `deadline` are
        those of `Session.send`. Raises `InvalidMessage`, `MessageTooLarge` if no member takes as
        much, `ValueError` or `TypeError` for a deadline that is none, and what `where` raises.
        """
        parcel = Parcel(message, type(message), codec.encode(message), via, deadline)
        return await self._send(parcel, exclude, where, when_full, patience)

    async def emit(
        self,
        topic: str,
        value: object,
        *,
        exclude: Session[Any] | Collection[Session[Any]] | None = None,
        where: Callable[[Session[StateT]], object] | None = None,
        when_full: WhenMemberFull = "wait",
        patience: float | None = PATIENCE_SECONDS,
        via: Channel | None = None,
        deadline: float | None = None,
    ) -> GroupOutcome:
        """Queue a plain value under a topic for every member; like `send` in all else."""
        parcel = Parcel(value, object, codec.encode_topic(topic, value), via, deadline)
        return await self._send(parcel, exclude, where, when_full, patience)

    async def _send(
        self,
        parcel: Parcel,
        exclude: Session[Any] | Collection[Session[Any]] | None,
        where: Callable[[Session[StateT]], object] | None,
        when_full: WhenMemberFull,
        patience: float | None,
    ) -> GroupOutcome:
        excluded = frozenset((exclude,) if isinstance(exclude, Session) else exclude or ())
        audience = Audience(excluded, where)
        fanout = Fanout(self._lags, parcel, audience, when_full=when_full, patience=patience)
        cap = self._cap
        if cap is not None and self._senders >= BACKLOG_LIMIT:
            fanout.outcome.over_rate = True
            return fanout.outcome
        self._senders += 1
        try:
            if cap is None or await cap.admits(fanout.size):
                await self._offer_to_all(fanout)
                await fanout.settle()
            else:
                fanout.outcome.over_rate = True
        finally:
            self._senders -= 1
            fanout.abandon()
        return fanout.outcome

    async def _offer_to_all(self, fanout: Fanout) -> None:
        """Offer a message to all members: at once if they are few, else with others, in turns."""
        if self._round is None and len(self._members) <= MEMBERS_PER_TURN:
            for session in [*self._members]:
                fanout.offer(session)
            return
        self._queue.append(fanout)
        if self._round is None:
            self._round = asyncio.get_running_loop().create_task(self._go_round())
            self._round.add_done_callback(self._round_done)
        await fanout.offered

    async def _go_round(self) -> None:
        """Offer what is queued to one member after the other, until nothing is queued any more.

        What is sent while a round is under way goes with the next one: together in the packets to
        each member, which are what costs.
        """
        fanouts: list[Fanout] = []
        try:
            while self._queue:
                taken = min(len(self._queue), MESSAGES_PER_ROUND)
                fanouts = [self._queue.popleft() for _ in range(taken)]
                await self._offer_in_turns(fanouts)
                for fanout in fanouts:
                    if not fanout.offered.done():
                        fanout.offered.set_result(None)
        finally:
            self._end_round(fanouts)

    def _round_done(self, task: asyncio.Task[None]) -> None:
        if self._round is task:  # cancelled before it began
            self._end_round([])

    def _end_round(self, fanouts: list[Fanout]) -> None:
        """Let nobody wait for what was not offered to all."""
        self._round = None
        for fanout in [*fanouts, *self._queue]:
            fanout.offered.cancel()
        self._queue.clear()

    async def _offer_in_turns(self, fanouts: list[Fanout]) -> None:
        members = [*self._members]
        for start in range(0, len(members), MEMBERS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            for session in members[start : start + MEMBERS_PER_TURN]:
                if session in self._members or session.closed:  # else it has left meanwhile
                    for fanout in fanouts:
                        fanout.offer(session)
