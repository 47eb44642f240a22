"""A channel as its user declares it, and its sending half: what waits, and what is to leave again.

A channel is numbered by its sender, who announces number, name and delivery in every packet that
carries messages of it until one such packet is acknowledged; so a receiver always knows a channel
before its first message. Flow control counts cost: a message's size plus a fixed overhead.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from aerogram.config import RANGES, Config, Range
from aerogram.core import wire
from aerogram.core.delivery import Delivery, UntilAcknowledged
from aerogram.core.incoming import ReceiveChannel
from aerogram.core.outgoing import Outcome, Outgoing, Piece
from aerogram.core.policies import Run

__all__ = [
    "ChannelSpec",
    "Outcome",
    "Outgoing",
    "ReceiveChannel",
    "Run",
    "SendChannel",
    "WhenFull",
]
"""Both halves of a channel and what is on it, for those who deal with channels."""

WhenFull = Literal["block", "drop_oldest", "drop_newest", "latest", "error"]
"""What a full queue means: its senders wait, the oldest or the new message is lost, all that wait
are superseded by the new one, or its sender gets an error."""

COMPACT_AFTER: Final = 64
"""So many ended messages may lie in a queue before it is looked through for them."""

PRIORITY_LIMIT: Final = 1000
"""Either way from the usual priority, 0."""

WEIGHT_LIMIT: Final = 256
"""A channel may send so much more than another of its priority; the other waits meanwhile."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel as its user declares it."""

    name: str
    delivery: Delivery
    priority: int = 0
    """Channels of a higher priority are served first; 0 is the usual one."""
    view: Callable[[bytes], Any] | None = None
    """Decodes payloads for an ordering that looks into messages; None hands it payloads."""
    weight: int = 1
    """The share among channels of the same priority."""
    when_full: WhenFull = "block"
    queue_messages: int | None = None
    """Messages that may wait; None is `Config.send_queue_messages`."""
    queue_bytes: int | None = None
    """The same in bytes; one larger record is let in when the queue is empty."""

    def __post_init__(self) -> None:
        if self.when_full not in get_args(WhenFull):
            choices = ", ".join(get_args(WhenFull))
            raise ValueError(f"when_full is one of {choices}, not {self.when_full!r}")
        Range(-PRIORITY_LIMIT, PRIORITY_LIMIT).check("priority", self.priority)
        Range(1, WEIGHT_LIMIT).check("weight", self.weight)
        for name in ("queue_messages", "queue_bytes"):
            limit = getattr(self, name)
            if limit is not None:
                RANGES[f"send_{name}"].check(name, limit)


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
        "is_untimed",
        "lost_pieces",
        "name",
        "newest",
        "next_number",
        "priority",
        "queue",
        "queue_bytes",
        "queue_messages",
        "queued_bytes",
        "resend",
        "resends",
        "sent_cost",
        "share",
        "starved",
        "wants_room",
        "weight",
        "when_full",
    )

    def __init__(self, identity: int, spec: ChannelSpec, credit_cost: int, config: Config) -> None:
        self.identity = identity
        self.name = spec.name
        self.delivery = spec.delivery
        self.announcement = wire.encode_channel(identity, spec.name, spec.delivery.code)
        self.priority = spec.priority
        self.weight = spec.weight
        self.resends = spec.delivery.resends
        # Asking a policy costs a call per message; the default answer is known beforehand.
        retry = spec.delivery.retry
        self.by_loss_only = not self.resends or (
            type(retry) is UntilAcknowledged and retry.attempts is None
        )
        self.when_full = spec.when_full
        self.queue_messages = spec.queue_messages or config.send_queue_messages
        self.queue_bytes = spec.queue_bytes or config.send_queue_bytes
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
        self.is_untimed = self.newest is None and spec.delivery.deadline_seconds is None
        """True if its messages have no deadline of their own and none supersedes another."""
        self.is_timed = False
        """True once a message has a deadline, which the peer is told."""
        self.is_plain = self.newest is None
        """True if messages leave as they are and in the order of the queue."""
        self.next_number = 0
        self.sent_cost = 0
        self.credit_cost = credit_cost
        self.announced = False
        self.busy = False
        """True while it has something to send."""
        self.share = 0
        """Bytes that it may send before others of its priority have their turn."""
        self.starved = False
        """True while it is busy and has to wait for credit."""
        self.wants_room = False

    @property
    def has_work(self) -> bool:
        """True if something waits to be sent."""
        return bool(self.queue or self.resend or self.lost_pieces)

    def deadline_seconds(self, own: float | None) -> float | None:
        """The deadline of a message, from now: its own or that of the channel; None without any."""
        return self.delivery.deadline_seconds if own is None else own

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

    def is_full(self, size: int) -> bool:
        """True if there is no room for a message of this size. An empty queue takes any."""
        if not self.queue or self._fits(size):
            return False
        if self.ended:
            self.compact()
        return bool(self.queue) and not self._fits(size)

    def _fits(self, size: int) -> bool:
        return (
            len(self.queue) < self.queue_messages and self.queued_bytes + size <= self.queue_bytes
        )

    @property
    def room(self) -> tuple[int, int]:
        """How many messages, and bytes of them, have room now."""
        messages = self.queue_messages - (len(self.queue) - self.ended)
        return max(0, messages), max(0, self.queue_bytes - self.queued_bytes)

    @property
    def is_half_empty(self) -> bool:
        """True if those who wait for room may go on."""
        waiting = len(self.queue) - self.ended
        return 2 * waiting <= self.queue_messages and 2 * self.queued_bytes <= self.queue_bytes

    def take_oldest(self) -> Outgoing | None:
        """Take the oldest message off that has not been begun, if there is one."""
        queue = self.queue
        for index, message in enumerate(queue):
            if message.outcome is None and message.number < 0:
                del queue[index]
                self.queued_bytes -= len(message.payload)
                return message
        return None

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
