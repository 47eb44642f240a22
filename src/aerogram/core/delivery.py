"""What a channel promises: an ordering and a retry policy, each a small class without a clock.

`Delivery` pairs a factory of orderings (one instance per session and channel, at the receiver)
with a retry policy (shared, at the sender). The presets are built from the same two protocols
that a user's own classes meet; the connection knows no preset by name.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aerogram.config import COUNT_LIMIT, SECONDS_LIMIT, SHORTEST_SECONDS, Range
from aerogram.core.ranges import RangeSet
from aerogram.core.recovery import Rtt

_DEADLINE: Final = Range(SHORTEST_SECONDS, SECONDS_LIMIT)

KEYS_LIMIT: Final = 4096
"""Keys that a channel remembers at each side; beyond, the one not heard of longest is forgotten."""


class Ordering(Protocol):
    """Decides at the receiver when an arrived message is handed over.

    Each sequence number arrives at most once on channels that resend. One that holds messages back
    for later is a `HoldingOrdering`; of any other, what is not returned at once is dropped.

    Whatever it does, the session lives: a message for which it raises is refused and counted, and
    what it returns without having been given it, or twice, is not handed over and counted.
    """

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        """Take a message; return those to hand over now, in order."""
        ...


class HoldingOrdering(Ordering, Protocol):
    """An ordering that keeps messages for later.

    It returns each message in the end: what it holds takes up the sender's credit.
    """

    def skipped(self, sequence: int) -> Iterable[Any]:
        """This number will never come; return what that sets free."""
        ...


class Sent(Protocol):
    """What a retry policy sees of a message."""

    @property
    def first_sent_at(self) -> float:
        """When it first left, in seconds of the endpoint's clock."""
        ...

    @property
    def last_sent_at(self) -> float:
        """When it last left."""
        ...

    @property
    def attempts(self) -> int:
        """How often it has been sent."""
        ...


class Retry(Protocol):
    """Decides at the sender whether and when a message is sent again."""

    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        """Asked after each transmission: the time to send again if no acknowledgement came by then.

        `math.inf` leaves it to loss detection (RFC 9002 §6); None means never again. A time that
        has passed means soon. An answer that is no time, or an exception, is counted and taken as
        `math.inf`.
        """


class AsItArrives:
    """Hand over every message at once."""

    __slots__ = ()

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        """Hand it over."""
        return (message,)


class InOrder:
    """Hand over in the order of sending, and show no gap that was not given up."""

    __slots__ = ("_held", "_next", "_skipped")

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, Any] = {}
        self._skipped = RangeSet()

    @property
    def next_sequence(self) -> int:
        """The sequence number that is handed over next."""
        return self._next

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        """Hand over what now follows on; hold the rest."""
        if sequence < self._next:
            return ()
        self._held[sequence] = message
        return self._release()

    def advance(self, count: int) -> None:
        """The next `count` messages came and nothing is held: the fast path for whole runs."""
        self._next += count

    def skipped(self, sequence: int) -> Iterable[Any]:
        """Wait for this one no longer."""
        if sequence >= self._next:
            self._skipped.add(sequence, sequence)
        return self._release()

    def _release(self) -> list[Any]:
        released: list[Any] = []
        held, skipped = self._held, self._skipped
        while True:
            if self._next in held:
                released.append(held.pop(self._next))
                self._next += 1
                continue
            after = skipped.after(self._next)
            if after == self._next:
                return released
            self._next = after
            skipped.forget_below(after)


class NewestWins:
    """Hand over a message unless a newer one has been."""

    __slots__ = ("_newest",)

    def __init__(self) -> None:
        self._newest = -1

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        """Hand it over if it is the newest."""
        if sequence <= self._newest:
            return ()
        self._newest = sequence
        return (message,)


class NewestPerKey:
    """Hand over a message unless a newer one with the same key has been.

    Of a key that is forgotten (the one not heard of longest, beyond `limit` keys) an older message
    may be handed over again. Superseded messages are not resent, so that takes one which was on
    its way while `limit` other keys changed.
    """

    __slots__ = ("_key", "_limit", "_newest")

    def __init__(self, key: Callable[[Any], Hashable], limit: int = KEYS_LIMIT) -> None:
        self._key = key
        self._limit = limit
        self._newest: OrderedDict[Hashable, int] = OrderedDict()

    def arrived(self, sequence: int, message: Any) -> Iterable[Any]:
        """Hand it over if it is the newest of its key."""
        key = self._key(message)
        newest = self._newest
        if sequence <= newest.get(key, -1):
            return ()
        newest[key] = sequence
        newest.move_to_end(key)
        if len(newest) > self._limit:
            newest.popitem(last=False)
        return (message,)


@dataclass(frozen=True, slots=True)
class PerKey:
    """Makes the `NewestPerKey` of each channel; two of the same key are equal."""

    key: Callable[[Any], Hashable]
    limit: int = KEYS_LIMIT

    def __post_init__(self) -> None:
        if not callable(self.key):
            raise TypeError(f"key= takes a function of the message, not {self.key!r}")
        Range(1, COUNT_LIMIT).check("keys=", self.limit)

    def __call__(self) -> NewestPerKey:
        """The ordering of one channel of one session."""
        return NewestPerKey(self.key, self.limit)


def one_key(_message: Any) -> Hashable:
    """All messages are about the same thing."""
    return None


@dataclass(frozen=True, slots=True)
class Never:
    """Send once."""

    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        """Never."""
        return None


@dataclass(frozen=True, slots=True)
class UntilAcknowledged:
    """Send again whenever loss detection says that a message is lost, `attempts` times at most."""

    attempts: int | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            Range(1, COUNT_LIMIT).check("attempts=", self.attempts)

    def next_try(self, sent: Sent, rtt: Rtt) -> float | None:
        """When loss detection says so, unless that was the last attempt."""
        if self.attempts is not None and sent.attempts >= self.attempts:
            return None
        return math.inf


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a channel promises. Equal `code`s at both ends are what makes two channels agree."""

    ordering: Callable[[], Ordering]
    """Makes the ordering of one channel of one session."""
    retry: Retry = field(default_factory=UntilAcknowledged)
    """Asked by the sender; shared by all sessions, so it keeps no state of its own."""
    deadline_seconds: float | None = None
    """A message older than this is given up, unless its own deadline was given."""
    name: str = ""
    """The name of the preset; the classes' names otherwise."""
    key: Callable[[Any], Hashable] | None = None
    """What a message is about. A newer message of the same key supersedes an older one that is not
    acknowledged: that is not sent, or not sent again if it turns out to be lost. The sender asks
    with what it was given to send, and only if there is a key. None: nothing is superseded."""
    keys_limit: int = KEYS_LIMIT
    """Keys that the sender remembers; the message of one that it forgets is not superseded."""

    def __post_init__(self) -> None:
        if not callable(self.ordering):
            raise TypeError(
                f"an ordering is a class, or a function that makes one of it, not {self.ordering!r}"
            )
        if isinstance(self.retry, type) or not hasattr(self.retry, "next_try"):
            raise TypeError(f"a retry policy is an object with next_try, not {self.retry!r}")
        if self.deadline_seconds is not None:
            _DEADLINE.check("deadline=", self.deadline_seconds)

    @property
    def resends(self) -> bool:
        """True if a message may be sent more than once."""
        return not isinstance(self.retry, Never)

    @property
    def code(self) -> str:
        """What peers compare: the same text means the same promise."""
        if self.name:
            return self.name
        return f"{type(self.ordering()).__name__}/{'resent' if self.resends else 'once'}"


def preset(name: str) -> Delivery | None:
    """The preset with this name and no limits, if there is one: what a receiver may assume.

    There is none for `latest`: its receiver has to know the key.
    """
    return _PRESETS.get(name)


_PRESETS: Final = {
    "unreliable": Delivery(AsItArrives, Never(), None, "unreliable"),
    "sequenced": Delivery(NewestWins, Never(), None, "sequenced"),
    "reliable": Delivery(AsItArrives, UntilAcknowledged(), None, "reliable"),
    "ordered": Delivery(InOrder, UntilAcknowledged(), None, "ordered"),
    "reliable_sequenced": Delivery(
        NewestWins, UntilAcknowledged(), None, "reliable_sequenced", one_key
    ),
}
