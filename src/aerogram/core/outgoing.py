"""Messages on their way: what becomes of one, and where a record in fragments stands.

One object is made for every message that is sent, so it holds little, and the user's receipt is
that same object: `Receipt` derives from `Outgoing`, which is why this file is not compiled. What
only repeated or otherwise unusual messages need is in their `History`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import StrEnum
from typing import TYPE_CHECKING

from aerogram.core.ranges import RangeSet

if TYPE_CHECKING:
    from aerogram.core.channel import SendChannel
    from aerogram.core.recovery import SentPacket


class Outcome(StrEnum):
    """How a message ended. Every message ends in exactly one of these."""

    DELIVERED = "delivered"
    LOST = "lost"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


class Outgoing:
    """A message on its way to the peer."""

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

    def __init__(self, payload: bytes, deadline: float | None = None) -> None:
        self.payload = payload
        self.deadline = deadline
        """A time of the endpoint's clock."""
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
        if self.carrier is None:
            return 0
        return 1 if self.history is None else 1 + self.history.resends

    @property
    def first_sent_at(self) -> float:
        """When it first left; 0 before."""
        if self.record is not None:
            return self.record.first_sent_at
        if self.history is not None and self.history.resends:
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
        """Why it ended, where its outcome does not say it all."""
        return "" if self.history is None else self.history.reason

    @property
    def awaits_resend(self) -> bool:
        """True while it waits in its channel to be sent again."""
        return self.history is not None and self.history.awaits_resend

    @property
    def has_left(self) -> bool:
        """True once all of it has been sent."""
        if self.record is not None:
            return self.record.sent_bytes == len(self.payload)
        return self.number >= 0

    def make_history(self) -> History:
        """Its history, which begins now if it has none."""
        history = self.history
        if history is None:
            history = self.history = History()
        return history

    def leaves_again(self, packet: SentPacket) -> None:
        """It is carried by another packet."""
        history = self.make_history()
        if history.resends == 0:
            history.first_sent_at = self.last_sent_at
        history.resends += 1
        history.awaits_resend = False
        self.carrier = packet


class History:
    """What happened to a message beyond being sent and acknowledged."""

    __slots__ = (
        "awaits_resend",
        "by_policy",
        "ended_at",
        "first_sent_at",
        "is_last_try",
        "is_skipped",
        "is_superseded",
        "key",
        "progress",
        "reason",
        "resends",
    )

    def __init__(self) -> None:
        self.resends = 0
        self.first_sent_at = 0.0
        """When it left before it was sent again."""
        self.ended_at = 0.0
        self.awaits_resend = False
        self.is_last_try = False
        """True if the retry policy does not want it sent again."""
        self.by_policy = False
        """True if the retry policy has set a time at which it is sent again."""
        self.is_superseded = False
        """True if a newer message came while this one was on its way: it is not sent again."""
        self.is_skipped = False
        """True once the peer is told that it will not come."""
        self.key: Hashable = None
        """What it is about, on a channel where newer messages supersede older ones."""
        self.progress: Callable[[int], object] | None = None
        """Told how many bytes of a record in fragments the peer has; it must not raise."""
        self.reason = ""


class OutgoingRecord:
    """Where an outgoing message stands that does not fit one packet."""

    __slots__ = ("acknowledged", "acknowledged_bytes", "first_sent_at", "sent_bytes")

    def __init__(self, now: float) -> None:
        self.first_sent_at = now
        self.sent_bytes = 0
        self.acknowledged = RangeSet()
        self.acknowledged_bytes = 0


class Piece:
    """A fragment of an outgoing record: the unit of its loss and repair.

    A retry policy is asked about each piece by itself.
    """

    __slots__ = (
        "attempts",
        "by_policy",
        "channel",
        "end",
        "first_sent_at",
        "is_last_try",
        "last_sent_at",
        "message",
        "queued",
        "start",
    )

    def __init__(self, channel: SendChannel, message: Outgoing, start: int, end: int) -> None:
        self.channel = channel
        self.message = message
        self.start = start
        self.end = end
        self.queued = False
        self.attempts = 0
        self.first_sent_at = 0.0
        self.last_sent_at = 0.0
        self.is_last_try = False
        self.by_policy = False

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: as its message, or by itself if it is acknowledged."""
        message = self.message
        if message.outcome is not None or message.record is None:
            return message.outcome
        is_acknowledged = message.record.acknowledged.covers(self.start, self.end - 1)
        return Outcome.DELIVERED if is_acknowledged else None

    def leaves(self, now: float) -> None:
        """It is sent, or sent again."""
        if self.attempts == 0:
            self.first_sent_at = now
        self.attempts += 1
        self.last_sent_at = now
        self.queued = False
