"""The format of a multicast session's datagrams, and the only code that reads or writes it.

Everything is big-endian. Every datagram is a header in the clear, which is authenticated, and a
sealed body (AES-256-GCM, 16 bytes of tag at the end; see `keys`):

    header     kind(1) stream(8) epoch(4) origin(4) number(8)
    DATA       sequence(8) message(8) 0(1), then for each whole message: size(2) bytes
               sequence(8) message(8) 1(1) index(4) count(4), then one piece of a larger message
    REPAIR     a DATA body that was sent before, the same to the byte
    HEARTBEAT  oldest sequence(8) oldest message(8) next sequence(8) next message(8)
               round trip in microseconds(4) members(4) flags(1)
    NACK       first missing sequence(8) newest number(8) its age in microseconds(4) base(8), then
               for each range of missing sequences: skip(2) count(2); `base` and `skip` say where
               it begins after the one before

`stream` is random for each run of a sender. `epoch` names the key. `origin` is 0 for the sender,
else the member. `number` counts the packets of an origin and never repeats, not even with another
key; `sequence` counts DATA bodies, whose repairs keep it; `message` counts messages from 0, in a
body the first of it.

Rules: decoders raise `DecodeError` and nothing else; sizes are checked before anything is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from aerogram.errors import DecodeError

VERSION: Final = 1
"""Of this format; the invitation names it."""

DATA: Final = 0xB0
REPAIR: Final = 0xB1
HEARTBEAT: Final = 0xB2
NACK: Final = 0xB3

STREAM_BYTES: Final = 8
TAG_BYTES: Final = 16
SENDER: Final = 0
"""The origin of what the sender sends."""

END: Final = 1
"""Flag: no new data will come."""
REPORT: Final = 2
"""Flag: who has everything shall say so."""
REPAIRED: Final = 4
"""Flag: all that was asked for has been sent again."""

NACK_RANGES_LIMIT: Final = 256
"""Ranges in one NACK, which has 1093 bytes with all of them: work is bounded for who gets it."""
NACK_SKIP_LIMIT: Final = 0xFFFF
"""Between two ranges, and in one; what lies further on, the next NACK asks for."""
FRAGMENTS_LIMIT: Final = 1 << 20
"""Pieces of one message."""
SEGMENT_OVERHEAD_BYTES: Final = 256
"""Counted for each segment that is held, so that tiny ones cannot fill memory."""
NUMBERS_LIMIT: Final = 1 << 62
"""Of sequences and messages; so sums of two of them stay within 64 bits."""

_HEADER: Final = struct.Struct(f">B{STREAM_BYTES}sIIQ")
_DATA: Final = struct.Struct(">QQB")
_SIZE: Final = struct.Struct(">H")
_FRAGMENT: Final = struct.Struct(">II")
_HEARTBEAT: Final = struct.Struct(">QQQQIIB")
_NACK: Final = struct.Struct(">QQIQ")
_RANGE: Final = struct.Struct(">HH")

HEADER_BYTES: Final = _HEADER.size
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
WHOLE_OVERHEAD_BYTES: Final = _DATA.size
"""Of a body with whole messages, beside each one's size."""
SIZE_BYTES: Final = _SIZE.size
FRAGMENT_OVERHEAD_BYTES: Final = _DATA.size + _FRAGMENT.size

_WHOLE_MESSAGES: Final = 0
_ONE_FRAGMENT: Final = 1


class Header(NamedTuple):
    """What tells who sealed a packet, and with which key."""

    kind: int
    stream: bytes
    epoch: int
    origin: int
    number: int

    def encode(self) -> bytes:
        """The header as bytes."""
        return _HEADER.pack(*self)


class Segment(NamedTuple):
    """A DATA body: whole messages, or one fragment of a larger one."""

    sequence: int
    message: int
    """The number of the first message, or of the one that this is a fragment of."""
    payloads: Sequence[bytes]
    piece: int = 0
    pieces: int = 0
    """Of the message, if it comes in pieces; 0 where the payloads are whole messages."""

    @property
    def next_message(self) -> int:
        """The number of the first message that begins after this."""
        return self.message + (1 if self.pieces else len(self.payloads))

    @property
    def cost(self) -> int:
        """What holding it takes: its bytes, and something for the objects around them."""
        return SEGMENT_OVERHEAD_BYTES + sum(len(payload) for payload in self.payloads)


class Heartbeat(NamedTuple):
    """What the sender holds, and what is known of the group."""

    oldest_sequence: int
    oldest_message: int
    next_sequence: int
    next_message: int
    rtt: float
    """The round trip of the group in seconds."""
    members: int
    flags: int


class Echo(NamedTuple):
    """How far a receiver is, and what tells the sender the round trip to it."""

    first_missing: int
    """It has everything below this sequence."""
    newest: int
    """The number of the newest packet of the sender that it has got."""
    age: float
    """Seconds since then."""


class Nack(NamedTuple):
    """What a receiver lacks."""

    echo: Echo
    ranges: Sequence[tuple[int, int]]
    """(low, high), both missing, ascending."""


def split_untrusted(datagram: bytes) -> Header:
    """The header of a packet. Raises `DecodeError` for what is none."""
    if len(datagram) < OVERHEAD_BYTES or not DATA <= datagram[0] <= NACK:
        raise DecodeError("no packet of a multicast session")
    return Header(*_HEADER.unpack_from(datagram))


# DATA


def encode_whole(sequence: int, message: int, payloads: Sequence[bytes]) -> bytes:
    """A body with whole messages; `message` is the number of the first."""
    parts = [_DATA.pack(sequence, message, _WHOLE_MESSAGES)]
    for payload in payloads:
        parts += (_SIZE.pack(len(payload)), payload)
    return b"".join(parts)


def encode_fragment(sequence: int, message: int, index: int, count: int, piece: bytes) -> bytes:
    """A body with one piece of a message."""
    head = _DATA.pack(sequence, message, _ONE_FRAGMENT)
    return head + _FRAGMENT.pack(index, count) + piece


def decode_segment(body: bytes) -> Segment:
    """A DATA or REPAIR body. Raises `DecodeError`."""
    if len(body) < _DATA.size:
        raise DecodeError("a segment is cut off")
    sequence, message, kind = _DATA.unpack_from(body)
    if sequence >= NUMBERS_LIMIT or message >= NUMBERS_LIMIT:
        raise DecodeError("a number is out of range")
    if kind == _WHOLE_MESSAGES:
        return Segment(sequence, message, _decode_whole(body))
    if kind != _ONE_FRAGMENT or len(body) <= FRAGMENT_OVERHEAD_BYTES:
        raise DecodeError("no kind of segment")
    index, count = _FRAGMENT.unpack_from(body, _DATA.size)
    if not index < count or not 2 <= count <= FRAGMENTS_LIMIT:
        raise DecodeError("a fragment is not in its message")
    return Segment(sequence, message, (body[FRAGMENT_OVERHEAD_BYTES:],), index, count)


def _decode_whole(body: bytes) -> list[bytes]:
    payloads: list[bytes] = []
    position, end = _DATA.size, len(body)
    while position < end:
        if position + SIZE_BYTES > end:
            raise DecodeError("a message is cut off")
        (size,) = _SIZE.unpack_from(body, position)
        position += SIZE_BYTES
        if position + size > end:
            raise DecodeError("a message is cut off")
        payloads.append(body[position : position + size])
        position += size
    if not payloads:
        raise DecodeError("a segment without messages")
    return payloads


# HEARTBEAT


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    """The body of a heartbeat."""
    microseconds = min(round(heartbeat.rtt * 1e6), 0xFFFF_FFFF)
    return _HEARTBEAT.pack(*heartbeat[:4], microseconds, heartbeat.members, heartbeat.flags)


def decode_heartbeat(body: bytes) -> Heartbeat:
    """The body of a heartbeat. Raises `DecodeError`."""
    if len(body) != _HEARTBEAT.size:
        raise DecodeError("no heartbeat")
    oldest, oldest_message, next_, next_message, microseconds, members, flags = _HEARTBEAT.unpack(
        body
    )
    if not (oldest <= next_ < NUMBERS_LIMIT and oldest_message <= next_message < NUMBERS_LIMIT):
        raise DecodeError("a heartbeat contradicts itself")
    return Heartbeat(
        oldest, oldest_message, next_, next_message, microseconds / 1e6, members, flags
    )


# NACK


def encode_nack(nack: Nack) -> bytes:
    """The body of a NACK; of its ranges as much as fits, the first ones."""
    base = position = nack.ranges[0][0] if nack.ranges else 0
    microseconds = min(round(nack.echo.age * 1e6), 0xFFFF_FFFF)
    parts = [_NACK.pack(nack.echo.first_missing, nack.echo.newest, microseconds, base)]
    for low, high in nack.ranges[:NACK_RANGES_LIMIT]:
        count = high - low + 1
        if low - position > NACK_SKIP_LIMIT:
            break
        parts.append(_RANGE.pack(low - position, min(count, NACK_SKIP_LIMIT)))
        if count > NACK_SKIP_LIMIT:
            break
        position = high + 1
    return b"".join(parts)


def decode_nack(body: bytes, kind: int = NACK) -> Nack:
    """The body of a NACK. Raises `DecodeError`, also for another kind of packet."""
    rest = len(body) - _NACK.size
    if kind != NACK or rest < 0 or rest % _RANGE.size or rest > NACK_RANGES_LIMIT * _RANGE.size:
        raise DecodeError("no NACK")
    first_missing, newest, microseconds, position = _NACK.unpack_from(body)
    if first_missing >= NUMBERS_LIMIT or position >= NUMBERS_LIMIT:
        raise DecodeError("a number is out of range")
    ranges: list[tuple[int, int]] = []
    for skip, count in _RANGE.iter_unpack(body[_NACK.size :]):
        if not count:
            raise DecodeError("an empty range")
        position += skip
        ranges.append((position, position + count - 1))
        position += count
    if position > NUMBERS_LIMIT:
        raise DecodeError("a number is out of range")
    return Nack(Echo(first_missing, newest, microseconds / 1e6), ranges)
