"""A channel as its user declares it, and its sending half: what waits, and what is to leave again.

A channel is numbered by its sender, who announces number, name and delivery in every packet that
carries messages of it until one such packet is acknowledged; so a receiver always knows a channel
before its first message. Flow control counts cost: a message's size plus a fixed overhead.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from aerogram.core import wire
from aerogram.core.delivery import Delivery, UntilAcknowledged
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.outgoing import Outcome, Outgoing, Piece
from aerogram.core.policies import Run

__all__ = ["ChannelSpec", "Outcome", "Outgoing", "ReceiveChannel", "Run", "SendChannel"]
"""Both halves of a channel and what is on it, for those who deal with channels."""

COMPACT_AFTER: Final = 64
"""So many ended messages may lie in a queue before it is looked through for them."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel as its user declares it."""

    name: str
    delivery: Delivery
    priority: int = 0
    """Channels of a higher priority are served first."""
    view: Callable[[bytes], Any] | None = None
    """Decodes payloads for an ordering that looks into messages; None hands it payloads."""


class SendChannel:
    """The sending half: messages that wait, and those to send again."""

    __slots__ = (
        "announced",
        "announcement",
        "busy",
        "by_loss_only",
        "credit_cost",
        "delivery",
        "ended",
        "identity",
        "is_plain",
        "is_timed",
        "lost_pieces",
        "name",
        "newest",
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
        self.announcement = wire.encode_channel(identity, spec.name, spec.delivery.code)
        self.priority = spec.priority
        self.resends = spec.delivery.resends
        # Asking a policy costs a call per message; the default answer is known beforehand.
        retry = spec.delivery.retry
        self.by_loss_only = not self.resends or (
            type(retry) is UntilAcknowledged and retry.attempts is None
        )
        self.queue: deque[Outgoing] = deque()
        self.queued_bytes = 0
        """Payloads in the queue, but for those of ended messages."""
        self.ended = 0
        """About how many messages in the queue have ended."""
        self.resend: deque[Outgoing] = deque()
        self.lost_pieces: deque[Piece] = deque()
        self.newest: OrderedDict[Hashable, Outgoing] | None = None
        """The newest message of each key, where newer messages supersede older ones."""
        if spec.delivery.key is not None:
            self.newest = OrderedDict()
        self.is_timed = False
        """True once a message has a deadline, which the peer is told."""
        self.is_plain = self.newest is None
        """True if messages leave as they are and in the order of the queue."""
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

    # -- messages that supersede others

    def replace(self, key: Hashable, message: Outgoing) -> Outgoing | None:
        """Note the newest message of a key; return the one before, which may have ended."""
        newest = self.newest
        assert newest is not None
        message.make_history().key = key
        older = newest.pop(key, None)
        newest[key] = message
        if len(newest) > self.delivery.keys_limit:
            newest.popitem(last=False)
        elif next(iter(newest.values())).outcome is not None:
            newest.popitem(last=False)  # so that what has arrived is not kept for long
        return older

    def successor(self, message: Outgoing) -> Outgoing | None:
        """What takes the place of an ended message in the queue: the newest of its key, if unsent.

        A key that changes quicker than the queue moves has its turn nevertheless.
        """
        if self.newest is None or message.history is None:
            return None
        newest = self.newest.get(message.history.key)
        if newest is None or newest.outcome is not None or newest.number >= 0:
            return None
        return newest

    def has_place(self, key: Hashable) -> bool:
        """True if a message of this key would take the place of one in the queue."""
        older = self.newest.get(key) if self.newest is not None else None
        return older is not None and older.outcome is None and older.number < 0

    # -- the queue

    def head(self) -> Outgoing | None:
        """The next message of the queue, which the caller takes off; what has ended goes."""
        queue = self.queue
        while queue:
            entry = queue[0]
            if entry.outcome is None:
                if not entry.has_left:
                    return entry
                queue.popleft()  # it has left already, in the place of an older one
                continue
            self.ended = max(0, self.ended - 1)
            successor = self.successor(entry)
            if successor is not None:
                queue[0] = successor
                return successor
            queue.popleft()
        return None

    def note_ended(self, message: Outgoing) -> None:
        """A message in the queue has ended. Now and then, the queue is looked through for such."""
        self.queued_bytes -= len(message.payload)
        self.ended += 1
        if self.ended > COMPACT_AFTER and 2 * self.ended > len(self.queue):
            self.compact()

    def compact(self) -> None:
        """Take out of the queue what is not to be sent any more."""
        fresh: dict[int, Outgoing] = {}
        for entry in self.queue:
            message = entry if entry.outcome is None else self.successor(entry)
            if message is not None and not message.has_left:
                fresh.setdefault(id(message), message)
        self.queue = deque(fresh.values())
        self.ended = 0
