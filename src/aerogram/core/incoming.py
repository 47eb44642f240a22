"""The receiving half of a channel: duplicates go, the order is made, credit is counted.

Rules: what arrives is passed through the channel's ordering once; what that hands over is in
`Run`s, with the numbers and the cost that they came with. Orderings that users wrote are called by
a `Guard`. Whatever breaks the protocol raises `DecodeError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.delivery import AsItArrives, HoldingOrdering, InOrder, NewestWins
from aerogram.core.fragments import Reassembly
from aerogram.core.memory import SessionMemory
from aerogram.core.policies import Guard, Run
from aerogram.core.ranges import RangeSet
from aerogram.errors import DecodeError

if TYPE_CHECKING:
    from aerogram.core.channel import ChannelSpec

DEADLINES_LIMIT: Final = 32768
"""Deadlines kept for a channel, as many as messages fit a window of 1 MiB; the oldest go first."""


@dataclass(frozen=True, slots=True)
class IncomingRecord:
    """A record that arrives in pieces, and how much of it is here."""

    channel: str
    """The name of its channel."""
    number: int
    """Its number on the channel: the same for all pieces of a record."""
    received_bytes: int
    total_bytes: int

    @staticmethod
    def of(channel: ReceiveChannel, number: int, partial: Reassembly) -> IncomingRecord:
        """How it stands with a record now."""
        return IncomingRecord(channel.name, number, partial.received_bytes, partial.total_bytes)


class ReceiveChannel:
    """The receiving half: removes duplicates, restores the order, counts what credit was used."""

    __slots__ = (
        "_credits_due",
        "_done",
        "_in_order",
        "_ordering",
        "_passes_all",
        "arrived_cost",
        "consumed_cost",
        "credit_due",
        "deadlines",
        "delivery_code",
        "granted_cost",
        "guard",
        "holds",
        "identity",
        "known",
        "late",
        "lifetimes",
        "memory",
        "name",
        "partial",
        "received",
        "resends",
        "reserved",
        "view",
        "window",
    )

    def __init__(
        self,
        identity: int,
        spec: ChannelSpec,
        window: int,
        credits_due: list[ReceiveChannel],
        memory: SessionMemory,
        *,
        known: bool,
    ) -> None:
        self._credits_due = credits_due
        self.memory = memory
        self.identity = identity
        self.name = spec.name
        self.known = known
        self.delivery_code = spec.delivery.code
        self.resends = spec.delivery.resends
        self.view = spec.view
        ordering = spec.delivery.ordering()
        kind = type(ordering)
        self.holds = hasattr(ordering, "skipped")
        self._ordering = ordering
        # Where a gap is never filled nor skipped, what an ordering holds has no other bound.
        is_ours = kind in (AsItArrives, NewestWins, InOrder) and (self.resends or not self.holds)
        self.guard = None if is_ours and self.view is None else Guard(ordering, self.view)
        # The common cases have a fast path: whole runs, payloads not looked into.
        self._in_order: InOrder | None = None
        if self.guard is None and isinstance(ordering, InOrder):
            self._in_order = ordering
        self._passes_all = self.guard is None and kind is AsItArrives
        self.late = 0
        """Messages that were not handed over because their deadline had passed; the caller's."""
        self.lifetimes: dict[int, float] = {}
        """When messages of the packet that is being taken become worthless, by number."""
        self.deadlines: dict[int, float] = {}
        """The same for messages that are held or handed over, in seconds of the endpoint's clock;
        an estimate. Whoever handles a message takes its entry out."""
        self.received = RangeSet()
        self._done = 0
        """How many numbers are in it."""
        self.partial: dict[int, Reassembly] = {}
        self.window = window
        self.arrived_cost = 0
        self.consumed_cost = 0
        self.granted_cost = window
        self.reserved = 0
        self.credit_due = False

    # -- messages

    def run_arrived(self, first: int, payloads: list[bytes], now: float) -> tuple[list[Run], int]:
        """Take a run of whole messages; return what is handed over and the count of duplicates.

        Raises `DecodeError` if there was no credit for them.
        """
        received = self.received
        if self._in_order is not None:
            if self.lifetimes or not received.ends_at(first - 1):
                return self._one_by_one(first, payloads, now)
            self._in_order.advance(len(payloads))
        elif (
            not self._passes_all
            or self.lifetimes
            or (self.resends and first != received.largest + 1)
        ):
            return self._one_by_one(first, payloads, now)
        if self.resends:
            received.add(first, first + len(payloads) - 1)
            self._done += len(payloads)
        cost = sum(map(len, payloads)) + MESSAGE_OVERHEAD_BYTES * len(payloads)
        self.arrived_cost += cost
        if self.arrived_cost > self.granted_cost:
            self.check_credit()
        return [(first, payloads, cost)], 0

    def _one_by_one(self, first: int, payloads: list[bytes], now: float) -> tuple[list[Run], int]:
        released: list[Run] = []
        duplicates = 0
        for number, payload in enumerate(payloads, first):
            if self.resends and not self.is_new(number):
                duplicates += 1
                continue
            self.arrived_cost += len(payload) + MESSAGE_OVERHEAD_BYTES
            if self.lifetimes:
                due = self.lifetimes.get(number)
                released.extend(self.timed_arrived(number, payload, due, now))
            else:
                released.extend(self.order(number, payload))
        self.check_credit()
        return released, duplicates

    def is_new(self, number: int) -> bool:
        """True once for each number: it is done with from now on."""
        if not self.received.add(number, number):
            return False
        self._done += 1
        return True

    def timed_arrived(
        self, number: int, payload: bytes, due: float | None, now: float
    ) -> list[Run]:
        """Take a whole new message with its deadline, if it has one; return what is set free."""
        if due is None:
            return self.order(number, payload)
        if due <= now:
            self.late += 1
            self.consumed(len(payload) + MESSAGE_OVERHEAD_BYTES)
            return self._passed_over(number)
        deadlines = self.deadlines
        deadlines[number] = due
        if len(deadlines) > DEADLINES_LIMIT:
            del deadlines[next(iter(deadlines))]
        released = self.order(number, payload)
        if not released and not self.holds:
            deadlines.pop(number, None)
        return released

    def in_time(self, runs: list[Run], now: float) -> list[Run]:
        """What of this is not too late; a message may have been held for what came after it.

        A run of several messages is of such as have no deadlines.
        """
        kept: list[Run] = []
        for run in runs:
            due = self.deadlines.get(run[0])
            if due is None or due > now:
                kept.append(run)
                continue
            del self.deadlines[run[0]]
            self.late += 1
            self.consumed(run[2])
        return kept

    def order(self, number: int, payload: bytes) -> list[Run]:
        """Pass one whole new message through the ordering; return what that sets free."""
        cost = len(payload) + MESSAGE_OVERHEAD_BYTES
        if self.guard is not None:
            return self._order_guarded(self.guard, number, payload, cost)
        released = list(self._ordering.arrived(number, (number, [payload], cost)))
        if not released and not self.holds:
            self.consumed(cost)
        return released

    def _order_guarded(self, guard: Guard, number: int, payload: bytes, cost: int) -> list[Run]:
        if not self.resends and guard.held_cost + cost > self.window:
            guard.overflows()
            return []
        released, dropped = guard.arrived(number, payload, cost)
        if dropped:
            self.consumed(dropped)
        return released

    def skipped(self, number: int, cost: int) -> list[Run]:
        """The sender gave `number` up, charged `cost` for it; return what that sets free.

        Raises `DecodeError` if that cannot be: more than `cost` has arrived already, or nothing is
        ever given up on this channel.
        """
        if not self.resends or cost < MESSAGE_OVERHEAD_BYTES:
            raise DecodeError("a message was skipped that cannot be, or for less than it costs")
        if not self.is_new(number):
            return []
        partial = self.partial.pop(number, None)
        arrived = partial.received_bytes + MESSAGE_OVERHEAD_BYTES if partial is not None else 0
        if cost < arrived:
            raise DecodeError("a message was skipped for less than what arrived of it")
        self.arrived_cost += cost - arrived
        self.consumed(cost)
        return self._passed_over(number)

    def _passed_over(self, number: int) -> list[Run]:
        """This number will not be shown; return what that sets free."""
        if self.guard is not None:
            return self.guard.skipped(number)
        if not self.holds:
            return []
        return list(cast("HoldingOrdering", self._ordering).skipped(number))

    # -- credit

    def check_credit(self) -> None:
        """Raise `DecodeError` if the sender went beyond its credit.

        Each number below the largest that came has cost something, so this also bounds the gaps
        that have to be remembered.
        """
        if not self.resends:
            return
        missing = self.received.largest + 1 - self._done - len(self.partial)
        cost = self.arrived_cost
        if missing > 0:
            cost += missing * MESSAGE_OVERHEAD_BYTES
        if cost > self.granted_cost:
            raise DecodeError(f"channel {self.name!r}: more was sent than credit was given for")

    @property
    def next_grant(self) -> int:
        """The cumulative cost that the sender may reach, if it were told now."""
        return self.consumed_cost + self.window + self.reserved

    def consumed(self, cost: int) -> None:
        """Handlers are done with messages of this cost."""
        self.consumed_cost += cost
        if not self.resends:
            return
        self.memory.note(-cost)
        if 2 * (self.next_grant - self.granted_cost) >= self.window:
            self.owe_credit()

    def owe_credit(self) -> None:
        """The sender is to be told the limit."""
        if not self.credit_due:
            self.credit_due = True
            self._credits_due.append(self)
