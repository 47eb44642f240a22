"""What a session can take on now, for programs that would rather send less than wait."""

from __future__ import annotations

from dataclasses import dataclass

from aerogram.core.channel import SendChannel
from aerogram.core.sender import Sender


@dataclass(frozen=True, slots=True)
class Budget:
    """What a session can take on now: rates, how long things would wait, and for what is room."""

    rate_bytes_per_second: float
    """What may be sent: a congestion window in each round trip, or the rate limit if that is less.
    Before a round trip has been measured, a guess."""
    delivered_bytes_per_second: float
    """What the peer has acknowledged lately, packets as a whole; 0 before the first."""
    queue_delay_seconds: float
    """How long a new message of the usual priority waits before it leaves."""
    message_bytes: int
    """The largest message that goes in one packet, encoded; larger ones go in several."""
    room_messages: int
    """How many messages the queue of the channel takes now."""
    room_bytes: int
    """The same in bytes."""


def measure(sender: Sender, channel: SendChannel) -> Budget:
    """The budget of a connection, with the room on one of its channels."""
    recovery = sender.recovery
    window = sender.controller.window_bytes
    rate = window / max(recovery.rtt.smoothed, 1e-6)
    if sender.pacer is not None:
        rate = min(rate, sender.pacer.bytes_per_second)
    waiting = sum([each.queued_bytes for each in sender.channels if each.priority >= 0])
    behind = waiting + recovery.bytes_in_flight - window
    messages, size = channel.room
    return Budget(
        rate_bytes_per_second=rate,
        delivered_bytes_per_second=recovery.delivery_rate,
        queue_delay_seconds=max(0.0, behind / rate),
        message_bytes=sender.largest_whole,
        room_messages=messages,
        room_bytes=size,
    )
