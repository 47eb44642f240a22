"""Lets counters of a session start just below where they wrap, and keys change all the time.

What takes years of traffic otherwise happens in the first second. Rules: both ends start alike, as
they would after those years; the numbers are set on the objects, since no program could ask for it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aerogram.core.channel import ReceiveChannel, SendChannel
from aerogram.core.connection import Connection
from aerogram.core.delivery import InOrder
from aerogram.core.keys import CLOSING_PACKETS, KEY_PACKETS, PACKETS_LIMIT, REKEY_PACKETS, Aead
from aerogram.core.sender import Sender

PACKET_STARTS = (0, (1 << 6) - 3, (1 << 14) - 20, (1 << 30) - 20, (1 << 32) - 20, (1 << 53) - 20)
"""Where a variable-length integer grows, and where 32 bits and a float's whole numbers end."""
MESSAGE_STARTS = (0, (1 << 6) - 2, (1 << 14) - 5, (1 << 30) - 5, (1 << 32) - 5, (1 << 53) - 5)
COST_STARTS = (0, (1 << 14) - 500, (1 << 30) - 5000, (1 << 32) - 5000, (1 << 62) - (1 << 40))
LAST_PACKETS = PACKETS_LIMIT - CLOSING_PACKETS - 300
"""So late that a session ends of it, in order and with a typed reason."""


@dataclass(frozen=True)
class Seams:
    """Where each session of a world starts."""

    packet_number: int = 0
    message_number: int = 0
    cost: int = 0
    """Of the flow control of each channel."""
    rekey_packets: int = REKEY_PACKETS


@contextmanager
def started_at(seams: Seams) -> Generator[None]:
    """Let every session that begins meanwhile start there."""

    def begin_connection(connection: Connection) -> None:
        _begin_packets(connection._sender, seams)

    def begin_sending(channel: SendChannel) -> None:
        channel.next_number = seams.message_number
        channel.sent_cost = seams.cost
        channel.credit_cost += seams.cost

    def begin_receiving(channel: ReceiveChannel) -> None:
        _begin_receiving(channel, seams)

    with (
        after_init(Connection, begin_connection),
        after_init(SendChannel, begin_sending),
        after_init(ReceiveChannel, begin_receiving),
    ):
        yield


def _begin_packets(sender: Sender, seams: Seams) -> None:
    first = seams.packet_number
    protection = sender.protection
    sender.next_number = first
    protection._unused = first
    protection._phase_first = first
    if protection._aead is not Aead.NONE:
        protection._rekey_packets = seams.rekey_packets
    protection._rekey_at = min(first + protection._rekey_packets, PACKETS_LIMIT)
    protection._stop_at = min(first + KEY_PACKETS[protection._aead], PACKETS_LIMIT)


def _begin_receiving(channel: ReceiveChannel, seams: Seams) -> None:
    first = seams.message_number
    if first and channel.resends:
        channel.received.add(0, first - 1)
        channel._done = first
    if isinstance(channel._ordering, InOrder):
        channel._ordering.advance(first)
    channel.arrived_cost = channel.consumed_cost = seams.cost
    channel.granted_cost += seams.cost


@contextmanager
def after_init(cls: type[Any], begin: Any) -> Generator[None]:
    """Call `begin` with each new object of a class."""
    original = cls.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        begin(self)

    cls.__init__ = init
    try:
        yield
    finally:
        cls.__init__ = original
