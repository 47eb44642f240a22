"""Packets and frames as values, one plain class each: what `wire` makes of bytes.

Rules: no logic and no checks; whoever holds one of these that came from the network got it from a
decoder in `wire`, which has checked it. `WIRE.md` says what the fields mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION: Final = 1
CID_BYTES: Final = 8
RESET_TOKEN_BYTES: Final = 16
MAC1_BYTES: Final = 16
PATH_DATA_BYTES: Final = 8

INIT: Final = 0xA0
RESP: Final = 0xA1
RETRY: Final = 0xA2
RESET: Final = 0xA3
DATA: Final = 0xA4
"""The lowest bit of a DATA packet's first byte is its key phase."""
DATA_HEADER_BYTES: Final = 1 + CID_BYTES + 8

FRAME_PADDING: Final = 0x00
FRAME_PING: Final = 0x01
FRAME_ACK: Final = 0x02
FRAME_MESSAGES: Final = 0x03
FRAME_FRAGMENT: Final = 0x04
FRAME_CHANNEL: Final = 0x05
FRAME_CREDIT: Final = 0x06
FRAME_SKIP: Final = 0x07
FRAME_REFUSE: Final = 0x08
FRAME_PATH_CHALLENGE: Final = 0x09
FRAME_PATH_RESPONSE: Final = 0x0A
FRAME_NEW_CONNECTION_ID: Final = 0x0B
FRAME_RETIRE_CONNECTION_ID: Final = 0x0C
FRAME_CLOSE: Final = 0x0D
FRAME_LIFETIMES: Final = 0x0E
FRAME_TIME: Final = 0x0F
FRAME_TIME_ANSWER: Final = 0x10
FRAME_MESSAGE: Final = 0x11

PING: Final = bytes((FRAME_PING,))
"""The whole PING frame."""


class Mode(IntEnum):
    """How the two sides of a handshake know each other."""

    INSECURE = 0
    PSK = 1
    PINNED = 2


@dataclass(slots=True)
class Init:
    """A client asks for a session."""

    mode: Mode
    client_cid: bytes
    token: bytes
    noise: bytes


@dataclass(slots=True)
class Resp:
    """A server's answer to an INIT."""

    client_cid: bytes
    noise: bytes


@dataclass(slots=True)
class Retry:
    """A server wants its token back in an INIT from the same address."""

    client_cid: bytes
    token: bytes


@dataclass(slots=True)
class Reset:
    """A server does not know this connection."""

    cid: bytes
    token: bytes


@dataclass(slots=True)
class Ping:
    """Asks for an acknowledgement; any number of them in a row."""


@dataclass(slots=True)
class Ack:
    """Packet numbers that arrived, as inclusive (low, high) ranges, the largest first."""

    delay_microseconds: int
    ranges: list[tuple[int, int]]


@dataclass(slots=True)
class Messages:
    """Whole messages of one channel, with numbers that follow on."""

    channel: int
    first_number: int
    payloads: list[bytes]


@dataclass(slots=True)
class Fragment:
    """A piece of a message that does not fit one packet."""

    channel: int
    number: int
    total_bytes: int
    offset: int
    data: bytes


@dataclass(slots=True)
class ChannelAnnounce:
    """What a channel number means from now on."""

    channel: int
    name: str
    code: str


@dataclass(slots=True)
class Credit:
    """The cumulative flow-control cost that may be sent on a channel."""

    channel: int
    limit: int


@dataclass(slots=True)
class Skip:
    """A message that will not be sent again, and the cost that was charged for it."""

    channel: int
    number: int
    cost: int


@dataclass(slots=True)
class Refuse:
    """A message that arrived and was not taken."""

    channel: int
    number: int
    code: int
    reason: str


@dataclass(slots=True)
class PathChallenge:
    """To be answered from the address that it went to."""

    data: bytes


@dataclass(slots=True)
class PathResponse:
    """The data of a challenge, sent back."""

    data: bytes


@dataclass(slots=True)
class NewConnectionId:
    """A further id for packets to the sender of this frame."""

    sequence: int
    retire_before: int
    cid: bytes
    reset_token: bytes


@dataclass(slots=True)
class RetireConnectionId:
    """An id that the sender of this frame no longer uses."""

    sequence: int


@dataclass(slots=True)
class Close:
    """The session has ended."""

    code: int
    reason: str


@dataclass(slots=True)
class Lifetimes:
    """How long messages still live that follow in the same packet; 0 is without end."""

    channel: int
    first_number: int
    runs: list[tuple[int, int]]
    """(count of messages, milliseconds), for messages whose numbers follow on."""


@dataclass(slots=True)
class Time:
    """Asks what time it is there; left at `sent_at` by the asker's clock."""

    sent_at: int
    """Microseconds."""


@dataclass(slots=True)
class TimeAnswer:
    """The answer to a TIME frame, in microseconds."""

    asked_at: int
    """Its `sent_at`."""
    received_at: int
    """When it arrived, by the clock of who answers."""
    sent_at: int
    """When the answer left, by the same clock."""


Frame = (
    Messages
    | Ack
    | Fragment
    | Ping
    | ChannelAnnounce
    | Credit
    | Skip
    | Refuse
    | PathChallenge
    | PathResponse
    | NewConnectionId
    | RetireConnectionId
    | Close
    | Lifetimes
    | Time
    | TimeAnswer
)
