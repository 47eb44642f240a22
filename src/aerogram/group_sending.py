"""How a message to a group gets into the queues of its members, and what is counted of that.

Rules: each member that a message is meant for ends in one count of its `GroupOutcome`. A member
without room holds up no other, and its sender for a bounded time: its patience begins when the
queue is first found full and not anew with each message. What waits for a member goes first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from aerogram.config import DEADLINE_SECONDS
from aerogram.core.channel import SendChannel
from aerogram.core.events import CloseCode
from aerogram.core.pacing import RateLimit
from aerogram.errors import MessageTooLarge, SessionClosed
from aerogram.session import Session, inner_of

if TYPE_CHECKING:
    from aerogram.channels import Channel

PATIENCE_SECONDS: Final = 1.0
"""A sender waits no longer for a member without room, in all."""

PATIENCE_GRAIN_SECONDS: Final = 0.01
"""Patience is looked at no more often than this, however many are waited for."""

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


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message as it goes to every member."""

    message: object
    kind: type
    payload: bytes
    via: Channel | None
    deadline: float | None
    """Seconds from now."""

    def __post_init__(self) -> None:
        if self.deadline is not None:
            DEADLINE_SECONDS.check("deadline=", self.deadline)

    def channel_to(self, session: Session[Any]) -> SendChannel:
        """The channel that it takes to a member. Raises `InvalidMessage`."""
        return inner_of(session).outbox.channel_for(self.kind, self.via)


@dataclass(frozen=True, slots=True)
class Audience:
    """The members that a message is meant for."""

    excluded: frozenset[Session[Any]]
    where: Callable[[Session[Any]], object] | None

    def has(self, session: Session[Any]) -> bool:
        """True if it is meant for this one. Raises what the user's `where` raises."""
        if session in self.excluded:
            return False
        return self.where is None or bool(self.where(session))


class Lag:
    """A channel of a member without room, and the messages that wait for it in their order."""

    __slots__ = ("_channel", "_listens", "_session", "since", "waiting")

    def __init__(self, session: Session[Any], channel: SendChannel, since: float) -> None:
        self._session = session
        self._channel = channel
        self._listens = False
        self.since = since
        """Since when there is no room."""
        self.waiting: dict[Fanout, None] = {}

    def add(self, fanout: Fanout) -> None:
        """Let a message wait."""
        self.waiting[fanout] = None
        self._listen()

    def _listen(self) -> None:
        if not self._listens:
            self._listens = True
            inner_of(self._session).outbox.when_room(self._channel).add_done_callback(self._woken)

    def _woken(self, _: asyncio.Future[None]) -> None:
        self._listens = False
        while self.waiting:
            fanout = next(iter(self.waiting))
            if not fanout.offer_late(self._session):
                self._listen()
                return
            del self.waiting[fanout]
            self.since = asyncio.get_running_loop().time()


Lags = dict[Session[Any], dict[SendChannel, Lag]]
"""The members without room, until a message finds that they have."""


class Fanout:
    """One message on its way into the queues of the members.

    Raises `ValueError` for a choice or a patience that is none.
    """

    __slots__ = (
        "_audience", "_began_at", "_done", "_failure", "_is_over", "_lags", "_parcel", "_patience",
        "_pending", "_too_large", "_when_full", "offered", "outcome",
    )  # fmt: skip

    def __init__(
        self,
        lags: Lags,
        parcel: Parcel,
        audience: Audience,
        *,
        when_full: WhenMemberFull,
        patience: float | None,
    ) -> None:
        check_choice("when_full", when_full, WhenMemberFull)
        if patience is not None and not patience >= 0:
            raise ValueError(f"patience is 0 seconds or more, not {patience}")
        self.outcome = GroupOutcome()
        self.offered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all members have been offered it."""
        self._lags = lags
        self._parcel = parcel
        self._audience = audience
        self._began_at = self.offered.get_loop().time()
        self._when_full = when_full
        self._patience = math.inf if patience is None else patience
        self._pending: dict[Session[Any], Lag] = {}
        self._done: asyncio.Future[None] | None = None
        self._is_over = False
        self._failure: Exception | None = None
        self._too_large: MessageTooLarge | None = None

    @property
    def size(self) -> int:
        """What a member gets, in bytes."""
        return len(self._parcel.payload)

    def offer(self, session: Session[Any]) -> None:
        """Queue the message for a member, if it is meant for it, or see what becomes of it.

        Never raises: `settle` does.
        """
        if self._is_over:
            return
        try:
            if not self._audience.has(session):
                return
            if session in self._lags:
                self._offer_again(session)
            elif not self._queued(session):
                self._no_room(session)
        except Exception as error:  # `InvalidMessage`, or what the user's functions raise
            self._failure = error
            self._is_over = True

    def _offer_again(self, session: Session[Any]) -> None:
        """The same for a member that had no room: what waits for it goes first."""
        channel = self._parcel.channel_to(session)
        lags = self._lags[session]
        lag = lags.get(channel)
        if (lag is not None and lag.waiting) or not self._queued(session):
            self._no_room(session)
        elif lag is not None:
            del lags[channel]
            if not lags:
                del self._lags[session]

    def _queued(self, session: Session[Any], *, late: bool = False) -> bool:
        """False if there is no room; else it is queued, or cannot be."""
        outbox, parcel = inner_of(session).outbox, self._parcel
        channel = outbox.channels.get(parcel.kind) if parcel.via is None else None
        try:
            if channel is None:
                channel = parcel.channel_to(session)
            left = self._seconds_left(channel) if late else parcel.deadline
            if late and left is not None and left <= 0.0:
                self._miss(session)
                return True
            receipt = outbox.offer(channel, parcel.message, parcel.payload, left)
        except SessionClosed:
            self._miss(session, closed=True)
            return True
        except MessageTooLarge as error:
            self._too_large = error
            self._miss(session)
            return True
        if receipt is None:
            return False
        if channel.when_full == "drop_newest" and receipt.outcome is not None:
            self._miss(session)
        elif late:
            self.outcome.waited += 1
        else:
            self.outcome.sent += 1
        return True

    def _seconds_left(self, channel: SendChannel) -> float | None:
        """What is left of the deadline, which counts from the call; None if there is none."""
        deadline = channel.deadline_seconds(self._parcel.deadline)
        if deadline is None:
            return None
        return self._began_at + deadline - self.offered.get_loop().time()

    def _no_room(self, session: Session[Any]) -> None:
        if self._when_full == "skip":
            self._miss(session)
        elif self._when_full == "close":
            inner_of(session).cut("too slow", code=CloseCode.LIMIT)
            self._miss(session, closed=True)
        else:
            self._wait(session)

    def _wait(self, session: Session[Any]) -> None:
        now = asyncio.get_running_loop().time()
        channel = self._parcel.channel_to(session)
        if channel.when_full == "error":
            self._miss(session)
            return
        lags = self._lags.setdefault(session, {})
        lag = lags.get(channel)
        if lag is None:
            lag = lags[channel] = Lag(session, channel, now)
        if lag.since + self._patience <= now:
            self._miss(session)
            return
        self._pending[session] = lag
        lag.add(self)

    def offer_late(self, session: Session[Any]) -> bool:
        """Queue the message for a member that is waited for; False if there is no room again."""
        if not self._queued(session, late=True):
            return False
        del self._pending[session]
        if not self._pending and self._done is not None:
            self._done.set_result(None)
        return True

    def _miss(self, session: Session[Any], *, closed: bool = False) -> None:
        if closed:
            self.outcome.closed += 1
        else:
            self.outcome.dropped += 1
        self.outcome.missed.append(session)

    async def settle(self) -> None:
        """Wait for the members that are waited for.

        Raises `MessageTooLarge` if no member took it, and what stopped it before it had been
        offered to all.
        """
        loop = asyncio.get_running_loop()
        if self._failure is not None:
            raise self._failure
        while self._pending:
            self._done = loop.create_future()
            left = self._patience - loop.time() + min(lag.since for lag in self._pending.values())
            timeout = None if left == math.inf else max(left, PATIENCE_GRAIN_SECONDS)
            await asyncio.wait([self._done], timeout=timeout)
            self._lose_patience(loop.time())
        if self._too_large is not None and not self.outcome.queued:
            raise self._too_large

    def _lose_patience(self, now: float) -> None:
        for session, lag in [*self._pending.items()]:
            if lag.since + self._patience <= now:
                del self._pending[session]
                lag.waiting.pop(self, None)
                self._miss(session)

    def abandon(self) -> None:
        """Offer it to nobody, and wait for nobody, any more."""
        self._is_over = True
        for lag in self._pending.values():
            lag.waiting.pop(self, None)


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
