"""What senders and receivers of multicast tell each other over their sessions.

Ordinary requests and messages, whose tags begin with `aerogram.multicast.`. The keys are as safe as
the session that brings them: over plain text (`insecure=`) they are plain text.
"""

from __future__ import annotations

from aerogram import delivery
from aerogram.messages import Message, Request

KeyRecord = tuple[int, bytes, int]
"""Epoch, key, and the number of the sender's first packet with it."""


class Invitation(Message, tag="aerogram.multicast.invitation"):
    """All that a receiver needs."""

    stream: bytes
    member: int
    group: str
    port: int
    keys: list[KeyRecord]
    sequence: int
    """What it begins with."""
    message: int
    """The number of the first message there."""
    next_sequence: int
    """How far the sender is."""
    rtt: float
    """The round trip of the group in seconds."""
    members: int


class Join(Request[Invitation], tag="aerogram.multicast.join"):
    """Let me receive."""

    name: str
    version: int
    start: str


class Keys(Message, tag="aerogram.multicast.keys"):
    """Keys that a member may have, oldest first."""

    keys: list[KeyRecord]


class KeysAfter(Request[Keys], tag="aerogram.multicast.keys-after"):
    """A packet came that none of my keys opens; `epoch` is my newest."""

    stream: bytes
    member: int
    epoch: int


class Report(Message, tag="aerogram.multicast.report", delivery=delivery.sequenced()):
    """How a receiver fares."""

    stream: bytes
    member: int
    first_missing: int
    """It has every packet below this."""
    newest: int
    """The number of the newest packet that it has got of the sender..."""
    age: float
    """...and how many seconds ago."""
    messages_received: int
    messages_lost: int


class Leave(Message, tag="aerogram.multicast.leave"):
    """A receiver stops."""

    stream: bytes
    member: int
