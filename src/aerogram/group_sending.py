"""How a message to a group gets into the queues of its members, and what is counted of that.

Rules: each member that a message is meant for ends in one count of its `GroupOutcome`. A member
without room holds up no other, and its sender for a bounded time: its patience begins when the
queue is first found full and not anew with each message. What waits for a member goes first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, get_args

from aerogram.core.channel import SendChannel
from aerogram.core.events import CloseCode
from aerogram.core.pacing import RateLimit
from aerogram.errors import MessageTooLarge, SessionClosed
from aerogram.session import Session
from aerogram.typevars import StateT

if TYPE_CHECKING:
    from aerogram.channels import Channel

PATIENCE_SECONDS: Final = 1.0
"""A sender waits no longer for a member without room, in all."""

BURST_SECONDS: Final = 1.0
"""A group that was silent may say at once what its limit allows in this time."""

WhenMemberFull = Literal["wait", "skip", "close"]
"""What becomes of a member whose queue has no room: it is waited for, misses the message, or its
session is closed."""

OverRate = Literal["wait", "drop"]
"""What becomes of a message beyond the limit of its group."""


@dataclass(slots=True)
class GroupOutcome:
    """What became of a message to a group, counted in members."""

    sent: int = 0
    """There was room at once."""
    waited: int = 0
    """There was room after a while."""
    dropped: int = 0
    """There was none, or the message is larger than this member takes: it misses the message."""
    closed: int = 0
    """The session ended before, or was closed for want of room."""
    over_rate: bool = False
    """True if the message went to nobody, because the group has a limit."""
    missed: list[Session[Any]] = field(default_factory=list[Session[Any]])
    """The members that were dropped or closed here."""

    @property
    def queued(self) -> int:
        """For how many members it is on its way."""
        return self.sent + self.waited


class Lag:
    """A channel of a member without room: since when, and how many messages wait for it."""

    __slots__ = ("since", "waiting")

    def __init__(self, since: float) -> None:
        self.since = since
        self.waiting = 0


Lags = dict[Session[StateT], dict[SendChannel, Lag]]
"""The members without room, until they have."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message as it goes to every member."""

    message: object
    kind: type
    payload: bytes
    via: Channel | None
    deadline: float | None
    """Seconds from now."""

    def channel_to(self, session: Session[Any]) -> SendChannel:
        """The channel that it takes to a member. Raises `InvalidMessage`."""
        return session.outbox.channel_for(self.kind, self.via)

    def offer_to(self, session: Session[Any]) -> bool:
        """Queue it for a member; False if there is no room. Raises as `Session.send`."""
        outbox = session.outbox
        channel = outbox.channel_for(self.kind, self.via)
        return outbox.offer(channel, self.message, self.payload, self.deadline) is not None

    async def send_to(self, session: Session[Any]) -> None:
        """Queue it for a member once there is room. Raises as `Session.send`."""
        outbox = session.outbox
        channel = outbox.channel_for(self.kind, self.via)
        await outbox.send(channel, self.message, self.payload, self.deadline)


class Fanout(Generic[StateT]):
    """One message on its way into the queues of the members.

    Raises `ValueError` for a choice or a patience that is none.
    """

    __slots__ = ("_error", "_lags", "_parcel", "_patience", "_waits", "_when_full", "outcome")

    def __init__(
        self,
        lags: Lags[StateT],
        parcel: Parcel,
        when_full: WhenMemberFull,
        patience: float | None,
    ) -> None:
        check_choice("when_full", when_full, WhenMemberFull)
        if patience is not None and not patience >= 0:
            raise ValueError(f"patience is 0 seconds or more, not {patience}")
        self.outcome = GroupOutcome()
        self._lags = lags
        self._parcel = parcel
        self._when_full = when_full
        self._patience = patience
        self._waits: list[asyncio.Task[None]] = []
        self._error: MessageTooLarge | None = None

    @property
    def size(self) -> int:
        """What a member gets, in bytes."""
        return len(self._parcel.payload)

    def offer(self, session: Session[StateT]) -> None:
        """Queue the message for a member, or see what becomes of it otherwise."""
        if session.closed:
            self._miss(session, closed=True)
        elif session in self._lags:
            self._offer_again(session)
        elif not self._queued(session):
            self._no_room(session)

    def _offer_again(self, session: Session[StateT]) -> None:
        """The same for a member that had no room: what waits for it goes first."""
        channel = self._parcel.channel_to(session)
        lag = self._lags[session].get(channel)
        if (lag is not None and lag.waiting) or not self._queued(session):
            self._no_room(session)
        else:
            self._caught_up(session, channel)

    def _queued(self, session: Session[StateT]) -> bool:
        """True unless there is no room: then it is queued, or cannot be."""
        try:
            if not self._parcel.offer_to(session):
                return False
            self.outcome.sent += 1
        except MessageTooLarge as error:
            self._too_large(session, error)
        return True

    def _no_room(self, session: Session[StateT]) -> None:
        if self._when_full == "skip":
            self._miss(session)
        elif self._when_full == "close":
            session.cut("too slow", code=CloseCode.LIMIT)
            self._miss(session, closed=True)
        else:
            self._wait(session)

    def _wait(self, session: Session[StateT]) -> None:
        loop = asyncio.get_running_loop()
        channel = self._parcel.channel_to(session)
        lag = self._lags.setdefault(session, {}).setdefault(channel, Lag(loop.time()))
        until = None if self._patience is None else lag.since + self._patience
        if until is not None and until <= loop.time():
            self._miss(session)
            return
        lag.waiting += 1
        self._waits.append(loop.create_task(self._when_room(session, channel, lag, until)))

    async def _when_room(
        self, session: Session[StateT], channel: SendChannel, lag: Lag, until: float | None
    ) -> None:
        had_room = False
        try:
            async with asyncio.timeout_at(until):
                await self._parcel.send_to(session)
            self.outcome.waited += 1
            had_room = True
        except TimeoutError:
            self._miss(session)
        except SessionClosed:
            self._miss(session, closed=True)
        except MessageTooLarge as error:
            self._too_large(session, error)
        finally:
            lag.waiting -= 1
            if had_room:
                self._caught_up(session, channel)

    def _caught_up(self, session: Session[StateT], channel: SendChannel) -> None:
        """There was room. Patience begins anew for messages that still wait."""
        lags = self._lags.get(session, {})
        lag = lags.get(channel)
        if lag is None:
            return
        if lag.waiting:
            lag.since = asyncio.get_running_loop().time()
            return
        del lags[channel]
        if not lags:
            del self._lags[session]

    def _miss(self, session: Session[StateT], *, closed: bool = False) -> None:
        if closed:
            self.outcome.closed += 1
        else:
            self.outcome.dropped += 1
        self.outcome.missed.append(session)

    def _too_large(self, session: Session[StateT], error: MessageTooLarge) -> None:
        self._error = error
        self._miss(session)

    async def settle(self) -> None:
        """Wait for the members that are waited for. Raises `MessageTooLarge` if none took it."""
        if self._waits:
            await asyncio.wait(self._waits)
        if self._error is not None and not self.outcome.queued:
            raise self._error

    def abandon(self) -> None:
        """Wait for nobody any more."""
        for task in self._waits:
            task.cancel()


class Cap:
    """What a group may say in a second, in messages and in bytes.

    Raises `ValueError` for a rate that is none, or an unknown `over_rate`.
    """

    __slots__ = ("_bytes", "_drops", "_messages")

    def __init__(
        self,
        messages_per_second: float | None,
        bytes_per_second: float | None,
        over_rate: OverRate,
    ) -> None:
        check_choice("over_rate", over_rate, OverRate)
        self._messages = _limit(messages_per_second)
        self._bytes = _limit(bytes_per_second)
        self._drops = over_rate == "drop"

    async def admits(self, size: int) -> bool:
        """Wait until a message of this size may go. False: it is dropped."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        pairs = [
            (limit, amount)
            for limit, amount in ((self._messages, 1), (self._bytes, size))
            if limit is not None
        ]
        wait = max(limit.reserve(amount, now) for limit, amount in pairs) - now
        if wait <= 0.0:
            return True
        try:
            if not self._drops:
                await asyncio.sleep(wait)
                return True
        except asyncio.CancelledError:
            _give_back(pairs, loop.time())
            raise
        _give_back(pairs, now)
        return False


def _limit(rate: float | None) -> RateLimit | None:
    return None if rate is None else RateLimit(rate, burst_seconds=BURST_SECONDS)


def _give_back(pairs: list[tuple[RateLimit, int]], now: float) -> None:
    for limit, amount in pairs:
        limit.take(-amount, now)


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise `ValueError` unless the value is one of a `Literal` type's."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(get_args(choices))}, not {value!r}")
