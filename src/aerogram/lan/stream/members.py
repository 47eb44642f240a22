"""Who receives a stream, and what the sender knows of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aerogram.lan.stream.config import MulticastConfig
from aerogram.lan.stream.timing import TokenBucket

RTT_DECAY: Final = 0.9
"""The group's round trip falls by a tenth at most, each time that it is worked out."""


RTT_WEIGHT: Final = 0.25
"""Of a new measurement of the round trip to one member."""


@dataclass(slots=True, eq=False)
class Member:
    """A receiver, as its sender sees it. Numbers of messages count from 0."""

    identity: int
    joined_at: float
    """By the event loop's clock."""

    first_message: int
    """What it began with."""

    first_missing: int
    """It has every packet below this one, as far as it has told."""

    heard_at: float
    """When it told so last."""

    rtt: float
    """The round trip to it in seconds."""
    is_measured: bool = False
    """Whether that was measured, and is not that of its session."""

    nacks: int = 0
    """Requests for repairs that were taken from it."""
    nacks_capped: int = 0
    """Requests beyond its rate, which were not."""
    repairs: int = 0
    """Packets that were sent again because it asked, first or together with others."""
    messages_received: int = 0
    """As it has reported."""
    messages_lost: int = 0
    """Lost to it for good, as it has reported."""

    def measured(self, rtt: float) -> None:
        """A round trip to it took so many seconds. The first time tells most."""
        self.rtt += (rtt - self.rtt) * (RTT_WEIGHT if self.is_measured else 1.0)
        self.is_measured = True


class Members:
    """All receivers of a stream, and the round trip of the group."""

    def __init__(self, config: MulticastConfig) -> None:
        self.rtt = config.rtt_seconds_max
        self._config = config
        self._by_identity: dict[int, Member] = {}
        self._buckets: dict[int, TokenBucket] = {}
        self._joined = 0

    def __len__(self) -> int:
        return len(self._by_identity)

    def __iter__(self) -> Iterator[Member]:
        return iter([*self._by_identity.values()])

    def get(self, identity: int) -> Member | None:
        """The member with this number."""
        return self._by_identity.get(identity)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._by_identity) >= self._config.members_limit

    def add(self, *, message: int, sequence: int, rtt: float, now: float) -> Member:
        """Take in a receiver, under a number that no other has had."""
        self._joined += 1
        member = Member(self._joined, now, message, sequence, now, rtt)
        self._by_identity[member.identity] = member
        rate = 2 * self._config.nacks_per_second
        self._buckets[member.identity] = TokenBucket(rate, max(rate, 1.0), now)
        self.measure()
        return member

    def remove(self, identity: int) -> bool:
        """Let a receiver go. False if it was none."""
        self._buckets.pop(identity, None)
        return self._by_identity.pop(identity, None) is not None

    def may_ask(self, member: Member, now: float) -> bool:
        """Whether a NACK of a member is within its rate."""
        return self._buckets[member.identity].take(1.0, now)

    def has_all(self, sequence: int) -> bool:
        """Whether every member has told that it has all below this."""
        return all(m.first_missing >= sequence for m in self._by_identity.values())

    def measure(self) -> None:
        """Work out the round trip of the group: that of the slowest, falling slowly."""
        slowest = max((member.rtt for member in self._by_identity.values()), default=0.0)
        config = self._config
        falling = self.rtt * RTT_DECAY if len(self) > 1 else 0.0
        self.rtt = min(max(slowest, falling, config.rtt_seconds_min), config.rtt_seconds_max)
