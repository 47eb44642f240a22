"""The two halves of a channel: a queue of messages on their way, and the order of those that came.

A channel is numbered by its sender, who announces number, name and delivery in every packet that
carries messages of it until one such packet is acknowledged; so a receiver always knows a channel
before its first message. Flow control counts cost: a message's size plus a fixed overhead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from aerogram.config import MESSAGE_OVERHEAD_BYTES
from aerogram.core.delivery import Delivery, HoldingOrdering, InOrder
from aerogram.core.fragments import Reassembly
from aerogram.core.ranges import RangeSet
from aerogram.errors import DecodeError

if TYPE_CHECKING:
    from aerogram.core.recovery import SentPacket

Run = tuple[int, list[Any], int]
"""Messages handed over together: the number of the first, the messages with numbers that follow
on, and their cost in flow control. The number is -1 where an ordering does not tell."""


class Outcome(StrEnum):
    """How a message ended. Every message ends in exactly one of these."""

    DELIVERED = "delivered"
    LOST = "lost"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel as its user declares it."""

    name: str
    delivery: Delivery
    priority: int = 0
    """Channels of a higher priority are served first."""
    view: Callable[[bytes], Any] | None = None
    """Decodes payloads for an ordering that looks into messages; None hands it opaque bytes."""


class Outgoing:
    """A message on its way to the peer.

    One is made for every message, so it holds little: what only repeated or otherwise unusual
    messages need is in their `history`.
    """

    __slots__ = (
        "carrier",
        "deadline",
        "history",
        "number",
        "observer",
        "outcome",
        "payload",
        "record",
    )

    def __init__(self, payload: bytes, deadline: float | None) -> None:
        self.payload = payload
        self.deadline = deadline
        self.number = -1
        self.carrier: SentPacket | None = None
        """The packet that carried it last."""
        self.outcome: Outcome | None = None
        self.observer: Callable[[], None] | None = None
        self.record: OutgoingRecord | None = None
        self.history: History | None = None

    @property
    def attempts(self) -> int:
        """How often it has been sent."""
        if self.history is not None:
            return self.history.attempts
        return 0 if self.carrier is None else 1

    @property
    def first_sent_at(self) -> float:
        """When it first left; 0 before."""
        if self.history is not None and self.history.attempts > 1:
            return self.history.first_sent_at
        return 0.0 if self.carrier is None else self.carrier.sent_at

    @property
    def last_sent_at(self) -> float:
        """When it last left; 0 before."""
        return 0.0 if self.carrier is None else self.carrier.sent_at

    @property
    def ended_at(self) -> float:
        """When it got its outcome; 0 before."""
        if self.history is not None and self.history.ended_at > 0.0:
            return self.history.ended_at
        return 0.0 if self.carrier is None or self.outcome is None else self.carrier.ended_at

    @property
    def reason(self) -> str:
        """Why the peer refused it."""
        return "" if self.history is None else self.history.reason

    @property
    def awaits_resend(self) -> bool:
        """True while it waits in its channel to be sent again."""
        return self.history is not None and self.history.awaits_resend

    def make_history(self) -> History:
        """Its history, which begins now if it has none."""
        history = self.history
        if history is None:
            history = self.history = History()
            history.attempts = self.attempts
            history.first_sent_at = self.first_sent_at
        return history


class History:
    """What happened to a message beyond being sent and acknowledged."""

    __slots__ = (
        "attempts",
        "awaits_resend",
        "ended_at",
        "first_sent_at",
        "is_last_try",
        "reason",
    )

    def __init__(self) -> None:
        self.attempts = 0
        self.first_sent_at = 0.0
        self.ended_at = 0.0
        self.awaits_resend = False
        self.is_last_try = False
        self.reason = ""


class OutgoingRecord:
    """Where an outgoing message stands that does not fit one packet."""

    __slots__ = ("acknowledged", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.acknowledged = RangeSet()


class Piece:
    """A fragment of an outgoing record: the unit of its loss and repair."""

    __slots__ = ("channel", "end", "message", "queued", "start")

    def __init__(self, channel: SendChannel, message: Outgoing, start: int, end: int) -> None:
        self.channel = channel
        self.message = message
        self.start = start
        self.end = end
        self.queued = False


class SendChannel:
    """The sending half: messages that wait, and those to send again."""

    __slots__ = (
        "announced",
        "busy",
        "by_loss_only",
        "credit_cost",
        "delivery",
        "identity",
        "lost_pieces",
        "name",
        "next_number",
        "priority",
        "queue",
        "queued_bytes",
        "resend",
        "resends",
        "sent_cost",
        "wants_room",
    )

    def __init__(self, identity: int, spec: ChannelSpec, credit_cost: int) -> None:
        self.identity = identity
        self.name = spec.name
        self.delivery = spec.delivery
        self.priority = spec.priority
        self.resends = spec.delivery.resends
        # Asking a policy costs a call per message; the default answer is known beforehand.
        retry = spec.delivery.retry
        self.by_loss_only = not self.resends or getattr(retry, "attempts", 0) is None
        self.queue: deque[Outgoing] = deque()
        self.queued_bytes = 0
        self.resend: deque[Outgoing] = deque()
        self.lost_pieces: deque[Piece] = deque()
        self.next_number = 0
        self.sent_cost = 0
        self.credit_cost = credit_cost
        self.announced = False
        self.busy = False
        self.wants_room = False

    @property
    def has_work(self) -> bool:
        """True if something waits to be sent."""
        return bool(self.queue or self.resend or self.lost_pieces)


class ReceiveChannel:
    """The receiving half: removes duplicates, restores the order, counts what credit was used."""

    __slots__ = (
        "_credits_due",
        "arrived_cost",
        "consumed_cost",
        "costs",
        "credit_due",
        "deadlines",
        "delivery_code",
        "granted_cost",
        "holds",
        "identity",
        "in_order",
        "known",
        "name",
        "ordering",
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
        *,
        known: bool,
    ) -> None:
        self._credits_due = credits_due
        self.identity = identity
        self.name = spec.name
        self.known = known
        self.delivery_code = spec.delivery.code
        self.resends = spec.delivery.resends
        self.ordering = spec.delivery.ordering()
        self.view = spec.view
        # The common case has a fast path: whole runs in order, payloads not looked into.
        self.in_order = self.ordering if isinstance(self.ordering, InOrder) else None
        if self.view is not None or not self.resends:
            self.in_order = None
        self.holds = hasattr(self.ordering, "skipped")
        self.costs: dict[int, int] = {}
        # When messages that are handed over become worthless, by number, in seconds of the
        # endpoint's clock; whoever handles a message takes its entry out.
        self.deadlines: dict[int, float] = {}
        self.received = RangeSet()
        self.partial: dict[int, Reassembly] = {}
        self.window = window
        self.arrived_cost = 0
        self.consumed_cost = 0
        self.granted_cost = window
        self.reserved = 0
        self.credit_due = False

    def run_arrived(self, first: int, payloads: list[bytes]) -> tuple[list[Run], int]:
        """Take a run of whole messages; return what is handed over and the count of duplicates."""
        received = self.received
        if self.in_order is None or not received.ends_at(first - 1):
            return self._one_by_one(first, payloads)
        received.add(first, first + len(payloads) - 1)
        self.in_order.advance(len(payloads))
        cost = sum(map(len, payloads)) + MESSAGE_OVERHEAD_BYTES * len(payloads)
        self.arrived_cost += cost
        return [(first, payloads, cost)], 0

    def _one_by_one(self, first: int, payloads: list[bytes]) -> tuple[list[Run], int]:
        released: list[Run] = []
        duplicates = 0
        for number, payload in enumerate(payloads, first):
            if self.resends and not self.received.add(number, number):
                duplicates += 1
                continue
            self.arrived_cost += len(payload) + MESSAGE_OVERHEAD_BYTES
            released.extend(self.order(number, payload))
        return released, duplicates

    def order(self, number: int, payload: bytes) -> list[Run]:
        """Pass one whole new message through the ordering; return what that sets free."""
        cost = len(payload) + MESSAGE_OVERHEAD_BYTES
        if self.view is None:
            released = list(self.ordering.arrived(number, (number, [payload], cost)))
        else:
            released = self._order_viewed(number, self.view(payload), cost)
        if not released and not self.holds:
            self.consumed(cost)
        return released

    def _order_viewed(self, number: int, message: Any, cost: int) -> list[Run]:
        """An ordering of the user's own sees the message itself, so its cost is kept aside."""
        self.costs[id(message)] = cost
        released = self._priced(self.ordering.arrived(number, message))
        if not released and not self.holds:
            del self.costs[id(message)]
        return released

    def _priced(self, messages: Iterable[Any]) -> list[Run]:
        return [(-1, [message], self.costs.pop(id(message), 0)) for message in messages]

    def skipped(self, number: int, cost: int) -> list[Run]:
        """The sender gave `number` up, charged `cost` for it; return what that sets free.

        Raises `DecodeError` if more than `cost` has arrived already.
        """
        if not self.received.add(number, number):
            return []
        partial = self.partial.pop(number, None)
        arrived = partial.received_bytes + MESSAGE_OVERHEAD_BYTES if partial is not None else 0
        if cost < arrived:
            raise DecodeError("a message was skipped for less than what arrived of it")
        self.arrived_cost += cost - arrived
        self.consumed(cost)
        if not self.holds:
            return []
        released: Iterable[Any] = cast("HoldingOrdering", self.ordering).skipped(number)
        return list(released) if self.view is None else self._priced(released)

    @property
    def next_grant(self) -> int:
        """The cumulative cost that the sender may reach, if it were told now."""
        return self.consumed_cost + self.window + self.reserved

    def consumed(self, cost: int) -> None:
        """Handlers are done with messages of this cost."""
        self.consumed_cost += cost
        if self.resends and 2 * (self.next_grant - self.granted_cost) >= self.window:
            self.owe_credit()

    def owe_credit(self) -> None:
        """The sender is to be told the limit."""
        if not self.credit_due:
            self.credit_due = True
            self._credits_due.append(self)
