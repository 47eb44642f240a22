"""What a network path does to datagrams: one vocabulary for simulated and for real networks.

`Link` is a description, `LinkState` applies it to the datagrams of one direction. A planner and no
more: it has no clock and no I/O, and the caller's `random.Random` decides everything, so a seed
replays a run. Rules: each datagram gets at least one `Copy` that says what became of it; a chance
that is zero draws no random number; only `Random.random()`, arithmetic and square roots are used,
which give the same numbers on every Python version and platform.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, NamedTuple

Distribution = Literal["constant", "uniform", "skewed", "correlated"]
Fate = Literal["delivered", "dropped"]

HEADER_BYTES: Final = 28
"""IPv4 and UDP; IPv6 and UDP are 48."""

DEFAULT_QUEUE_BYTES: Final = 128 * 1024

CODEL_TARGET_SECONDS: Final = 0.005
CODEL_INTERVAL_SECONDS: Final = 0.100
_CODEL_MAX_PACKET_BYTES: Final = 1514
# RFC 8289 §4.3 and §5.3.

_CORRELATION: Final = 0.99
_INNOVATION: Final = math.sqrt(1.0 - _CORRELATION**2)
"""Keeps the spread of the correlated extra delay that of the uniform one."""

_ROUNDING_BYTES: Final = 0.5
"""How full a queue is follows from times, which are rounded."""

_MOST_FLIPPED_BITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Loss in bursts, after Gilbert and Elliott: a good state, and a bad one that loses datagrams.

    Before each datagram the state changes: from good to bad with probability `enter`, back with
    `leave`; in the bad state a datagram is lost with probability `loss`. A burst lasts 1/`leave`
    datagrams in the mean. Raises `ValueError` for what is no probability.
    """

    enter: float
    leave: float
    loss: float = 1.0

    def __post_init__(self) -> None:
        for name in ("enter", "leave", "loss"):
            _check_probability(f"burst {name}", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How one direction of a path behaves; without arguments it is perfect.

    Applied in this order: MTU, loss, rate and queue, reordering, delay, duplicates, corruption.
    Times are seconds, `loss`, `duplicate`, `reorder` and `corrupt` are probabilities for each
    datagram. Raises `ValueError` for what cannot be.
    """

    delay: float = 0.0
    """One way; no datagram is quicker."""

    jitter: float = 0.0
    """The scale of what is added to `delay`, half of it in the mean."""

    distribution: Distribution = "uniform"
    """Of what is added: `uniform` is 0 to `jitter`; `skewed` is mostly less and at times several
    times `jitter` (Lomax of shape 4); `correlated` is 0 to `jitter` with neighbours alike (AR(1));
    `constant` is always half of it."""

    keep_order: bool = False
    """Whether jitter only bunches datagrams, as a queue does, instead of reordering them."""

    loss: float = 0.0
    burst: Burst | None = None
    longest_loss: int | None = None
    """At most so many datagrams in a row are lost by chance (`loss` and `burst`)."""

    lose_every: int = 0
    """Every n-th datagram is lost; 0 is none."""

    lose_numbers: Collection[int] = frozenset()
    """These datagrams are lost, by their place in this direction from 0."""

    duplicate: float = 0.0
    """The chance of a second copy, which has a jitter of its own."""

    reorder: float = 0.0
    """The chance of being held back by `reorder_delay`, so that later datagrams overtake."""

    reorder_delay: float = 0.01
    corrupt: float = 0.0
    """The chance that one to three bits are flipped."""

    rate_bytes_per_second: float | None = None
    """Headers included. None is without limit and without queue."""

    queue_bytes: int = DEFAULT_QUEUE_BYTES
    """What may wait for the rate, headers included; more is dropped."""

    queue: Literal["drop-tail", "codel"] = "drop-tail"
    """`codel` also drops early while the wait stays above 5 ms (RFC 8289)."""

    mtu_bytes: int | None = None
    """The largest packet, IP and UDP headers included; larger ones vanish."""

    icmp: bool = False
    """Whether the sender is told of a packet above the MTU, where the network can do so."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            _check_probability(name, getattr(self, name))
        for name in ("delay", "jitter", "reorder_delay"):
            _check_seconds(name, getattr(self, name))
        _check_choice("distribution", self.distribution, _DISTRIBUTIONS)
        _check_choice("queue", self.queue, _QUEUES)
        if self.lose_every < 0:
            raise ValueError(f"lose_every is 0 or more, not {self.lose_every}")
        if self.rate_bytes_per_second is not None and not 0 < self.rate_bytes_per_second < math.inf:
            raise ValueError(f"rate_bytes_per_second is above 0, not {self.rate_bytes_per_second}")
        for name in ("longest_loss", "queue_bytes", "mtu_bytes"):
            _check_at_least_one(name, getattr(self, name))
        object.__setattr__(self, "lose_numbers", frozenset(self.lose_numbers))
        if any(number < 0 for number in self.lose_numbers):
            raise ValueError("lose_numbers counts datagrams from 0")


_DISTRIBUTIONS: Final = ("constant", "uniform", "skewed", "correlated")
_QUEUES: Final = ("drop-tail", "codel")


class Copy(NamedTuple):
    """What becomes of a datagram, or of one copy of it."""

    at: float
    """When it arrives, or when it was dropped, on the clock of `LinkState.plan`."""

    data: bytes
    fate: Fate
    reason: str
    """For a dropped one: mtu, listed, every, burst, loss, queue or codel. For a delivered one what
    happened on the way, comma-joined, mostly nothing: duplicate, reordered, corrupt."""


class LinkState:
    """One direction in use: plans what `link` does to one datagram after the other.

    `link` may be replaced at any time; datagrams planned before keep their plan. `header_bytes` is
    what each datagram has on the wire beside its data.
    """

    __slots__ = (
        "_bad",
        "_codel",
        "_deviation",
        "_free_at",
        "_last_at",
        "_link",
        "_lost_in_a_row",
        "_random",
        "_simple",
        "header_bytes",
        "number",
    )

    def __init__(self, link: Link, random: Random, *, header_bytes: int = HEADER_BYTES) -> None:
        self.header_bytes = header_bytes
        self.number = 0
        """Of the next datagram, from 0."""
        self._random = random
        self._bad = False
        self._lost_in_a_row = 0
        self._deviation = 0.0
        self._free_at = -math.inf
        self._last_at = -math.inf
        self._codel = _CoDel()
        self.link = link

    @property
    def link(self) -> Link:
        """How the direction behaves from the next datagram on."""
        return self._link

    @link.setter
    def link(self, link: Link) -> None:
        self._link = link
        self._simple = link == Link(
            delay=link.delay,
            jitter=link.jitter,
            distribution=link.distribution,
            keep_order=link.keep_order,
            loss=link.loss,
        )

    def plan(self, data: bytes, now: float) -> list[Copy]:
        """Return what becomes of `data` sent at `now`: one copy or more. `now` never goes back."""
        link = self._link
        if self._simple:
            self.number += 1
            if link.loss and self._random.random() < link.loss:
                self._lost_in_a_row += 1
                return [Copy(now, data, "dropped", "loss")]
            self._lost_in_a_row = 0
            at = now + link.delay
            if link.jitter:
                at += self._extra_delay()
            if link.keep_order:
                at = self._last_at = max(at, self._last_at)
            return [Copy(at, data, "delivered", "")]
        reason = self._lost(len(data) + self.header_bytes)
        self.number += 1
        if reason:
            return [Copy(now, data, "dropped", reason)]
        leaves_at = now
        if link.rate_bytes_per_second is not None:
            leaves_at, reason = self._queue(len(data) + self.header_bytes, now)
            if reason:
                return [Copy(now, data, "dropped", reason)]
        copies = [self._deliver(data, leaves_at, "")]
        if self._happens(link.duplicate):
            copies.append(self._deliver(data, leaves_at, "duplicate"))
        return copies

    # Loss

    def _lost(self, size: int) -> str:
        """Return why the next datagram is lost before it waits for anything, or nothing."""
        link = self._link
        if link.mtu_bytes is not None and size > link.mtu_bytes:
            return "mtu"
        if self.number in link.lose_numbers:
            return "listed"
        if link.lose_every and (self.number + 1) % link.lose_every == 0:
            return "every"
        reason = self._lost_by_chance()
        if not reason or self._lost_in_a_row == link.longest_loss:
            self._lost_in_a_row = 0
            return ""
        self._lost_in_a_row += 1
        return reason

    def _lost_by_chance(self) -> str:
        burst = self._link.burst
        if burst is not None:
            if self._happens(burst.leave if self._bad else burst.enter):
                self._bad = not self._bad
            if self._bad and self._happens(burst.loss):
                return "burst"
        return "loss" if self._happens(self._link.loss) else ""

    # Rate

    def _queue(self, size: int, now: float) -> tuple[float, str]:
        """Return when the datagram has left the queue, or why it does not.

        A queue that serves in order knows at once when each datagram leaves, so none has to be
        kept. That holds for CoDel too: it drops from the front, and what is behind moves up.
        """
        link = self._link
        rate = link.rate_bytes_per_second
        assert rate is not None
        begins_at = max(now, self._free_at)
        waiting_bytes = (begins_at - now) * rate
        if waiting_bytes > 0 and waiting_bytes + size > link.queue_bytes + _ROUNDING_BYTES:
            return now, "queue"
        if link.queue == "codel" and self._codel.drops(begins_at - now, waiting_bytes, begins_at):
            return now, "codel"
        self._free_at = begins_at + size / rate
        return self._free_at, ""

    # Delivery

    def _deliver(self, data: bytes, leaves_at: float, note: str) -> Copy:
        link = self._link
        notes = [note] if note else []
        at = leaves_at + link.delay
        if link.jitter:
            at += self._extra_delay()
        if self._happens(link.reorder):
            at += link.reorder_delay
            notes.append("reordered")
        elif link.keep_order:
            at = self._last_at = max(at, self._last_at)
        if data and self._happens(link.corrupt):
            data = self._flip_bits(data)
            notes.append("corrupt")
        return Copy(at, data, "delivered", ",".join(notes))

    def _extra_delay(self) -> float:
        link = self._link
        half = link.jitter / 2
        match link.distribution:
            case "constant":
                return half
            case "uniform":
                return link.jitter * self._random.random()
            case "skewed":
                # The mean of this Lomax distribution is a third of its scale.
                return 3 * half * (1 / math.sqrt(math.sqrt(1 - self._random.random())) - 1)
            case "correlated":
                step = 2 * self._random.random() - 1
                walked = _CORRELATION * self._deviation + _INNOVATION * step
                self._deviation = min(1.0, max(-1.0, walked))
                return half * (1 + self._deviation)

    def _flip_bits(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        count = 1 + int(_MOST_FLIPPED_BITS * self._random.random())
        for bit in {int(8 * len(data) * self._random.random()) for _ in range(count)}:
            flipped[bit >> 3] ^= 1 << (bit & 7)
        return bytes(flipped)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability


class _CoDel:
    """The state of RFC 8289 §5: when a standing queue is due for its next drop.

    Differs in one thing: that one packet may always wait is judged by what is ahead of the packet.
    """

    __slots__ = ("_above_until", "_count", "_drop_next", "_dropping", "_last_count")

    def __init__(self) -> None:
        self._above_until: float | None = None
        self._dropping = False
        self._drop_next = 0.0
        self._count = 0
        self._last_count = 0

    def drops(self, waited: float, ahead_bytes: float, now: float) -> bool:
        """Whether to drop the packet that gets to the front at `now` after waiting so long."""
        due = self._is_standing(waited, ahead_bytes, now)
        if not due:
            self._dropping = False
            return False
        if self._dropping:
            if now < self._drop_next:
                return False
            self._count += 1
            self._drop_next += CODEL_INTERVAL_SECONDS / math.sqrt(self._count)
            return True
        self._begin_to_drop(now)
        return True

    def _is_standing(self, waited: float, ahead_bytes: float, now: float) -> bool:
        """Whether packets have waited above the target for an interval."""
        if waited < CODEL_TARGET_SECONDS or ahead_bytes <= _CODEL_MAX_PACKET_BYTES:
            self._above_until = None
            return False
        if self._above_until is None:
            self._above_until = now + CODEL_INTERVAL_SECONDS
            return False
        return now >= self._above_until

    def _begin_to_drop(self, now: float) -> None:
        """Start at about the rate of drops that controlled the queue last time."""
        gained = self._count - self._last_count
        lately = now - self._drop_next < 16 * CODEL_INTERVAL_SECONDS
        self._count = gained if gained > 1 and lately else 1
        self._last_count = self._count
        self._drop_next = now + CODEL_INTERVAL_SECONDS / math.sqrt(self._count)
        self._dropping = True


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability from 0 to 1, not {value}")


def _check_seconds(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a time of 0 or more seconds, not {value}")


def _check_at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} is 1 or more, not {value}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")
