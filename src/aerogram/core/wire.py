"""Bytes to packets and frames: the only parser of untrusted bytes. `WIRE.md` specifies the format.

Rules: a decoder raises `DecodeError` and nothing else, whatever it is given, and its work is
bounded by named limits that are checked before a loop begins. Whole numbers are variable-length
integers (RFC 9000 §16), read in any of their lengths. `_untrusted` reads what strangers send.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from aerogram.config import MESSAGES_LIMIT
from aerogram.core.encoding import (
    LENGTH_PREFIX,
    TransportParameters,
    encode_ack,
    encode_channel,
    encode_close,
    encode_credit,
    encode_fragment_header,
    encode_init,
    encode_lifetimes,
    encode_messages_header,
    encode_new_connection_id,
    encode_path_challenge,
    encode_path_response,
    encode_refuse,
    encode_reset,
    encode_resp,
    encode_retire_connection_id,
    encode_retry,
    encode_skip,
    encode_time,
    encode_time_answer,
)
from aerogram.core.frames import (
    CID_BYTES,
    DATA,
    DATA_HEADER_BYTES,
    FRAME_ACK,
    FRAME_CHANNEL,
    FRAME_CLOSE,
    FRAME_CREDIT,
    FRAME_FRAGMENT,
    FRAME_LIFETIMES,
    FRAME_MESSAGE,
    FRAME_MESSAGES,
    FRAME_NEW_CONNECTION_ID,
    FRAME_PADDING,
    FRAME_PATH_CHALLENGE,
    FRAME_PATH_RESPONSE,
    FRAME_PING,
    FRAME_REFUSE,
    FRAME_RETIRE_CONNECTION_ID,
    FRAME_SKIP,
    FRAME_TIME,
    FRAME_TIME_ANSWER,
    INIT,
    MAC1_BYTES,
    PATH_DATA_BYTES,
    PING,
    RESET,
    RESET_TOKEN_BYTES,
    RESP,
    RETRY,
    VERSION,
    Ack,
    ChannelAnnounce,
    Close,
    Credit,
    Fragment,
    Frame,
    Init,
    Lifetimes,
    Messages,
    Mode,
    NewConnectionId,
    PathChallenge,
    PathResponse,
    Ping,
    Refuse,
    Reset,
    Resp,
    RetireConnectionId,
    Retry,
    Skip,
    Time,
    TimeAnswer,
)
from aerogram.core.handshake_wire import decode_handshake_untrusted, decode_parameters_untrusted
from aerogram.core.reading import CUT_OFF, read_bytes, read_integer, read_text
from aerogram.errors import DecodeError

__all__ = [
    "CID_BYTES",
    "DATA",
    "DATA_HEADER_BYTES",
    "INIT",
    "LENGTH_PREFIX",
    "MAC1_BYTES",
    "PATH_DATA_BYTES",
    "PING",
    "RESET",
    "RESET_TOKEN_BYTES",
    "RESP",
    "RETRY",
    "VERSION",
    "Ack",
    "ChannelAnnounce",
    "Close",
    "Credit",
    "Fragment",
    "Frame",
    "Init",
    "Lifetimes",
    "Messages",
    "Mode",
    "NewConnectionId",
    "PathChallenge",
    "PathResponse",
    "Ping",
    "Refuse",
    "Reset",
    "Resp",
    "RetireConnectionId",
    "Retry",
    "Skip",
    "Time",
    "TimeAnswer",
    "TransportParameters",
    "decode_handshake_untrusted",
    "decode_parameters_untrusted",
    "encode_ack",
    "encode_channel",
    "encode_close",
    "encode_credit",
    "encode_fragment_header",
    "encode_init",
    "encode_lifetimes",
    "encode_messages_header",
    "encode_new_connection_id",
    "encode_path_challenge",
    "encode_path_response",
    "encode_refuse",
    "encode_reset",
    "encode_resp",
    "encode_retire_connection_id",
    "encode_retry",
    "encode_skip",
    "encode_time",
    "encode_time_answer",
]
"""What is sent and what is received are read together, as `wire.…`."""

PACKET_UNITS_LIMIT: Final = 256
"""Bounds the work that the frames of one packet make. A message is one unit, PADDING none."""
FRAME_UNITS: Final = 10
"""What any other frame is by itself. PINGs in a row are one frame."""
ACK_UNIT_BYTES: Final = 2
"""So many bytes of an ACK frame are one unit more."""
LIFETIME_UNITS: Final = 3
"""What each entry of a LIFETIMES frame is: two integers have to be read for it."""
ACK_RANGES_LIMIT: Final = 64
UNIFORM_LIMIT: Final = 64
"""Longest run of messages of one size that is taken apart in one call."""
CUTTERS_LIMIT: Final = 256
"""Formats kept for that, by size and count: some 2 KiB each."""


def decode_frames_untrusted(data: bytes) -> list[Frame]:
    """All frames of a packet, in order. PADDING leaves no trace, PINGs in a row are one.

    Raises `DecodeError`.
    """
    frames: list[Frame] = []
    position = 0
    length = len(data)
    units = PACKET_UNITS_LIMIT
    frame: Frame
    try:
        while position < length:
            kind = data[position]
            if kind == FRAME_PADDING:
                position = length - len(data[position:].lstrip(b"\x00"))
                continue
            units -= FRAME_UNITS
            if units < 0:
                raise DecodeError("too many frames in a packet")
            if kind == FRAME_MESSAGES:
                frame, position = _decode_messages(data, position + 1, units)
                units -= len(frame.payloads)
            elif kind == FRAME_MESSAGE:
                frame, position = _decode_message(data, position + 1)
                units -= 1
            elif kind == FRAME_ACK:
                start = position
                frame, position = _decode_ack(data, position + 1)
                units -= (position - start) // ACK_UNIT_BYTES
            elif kind == FRAME_LIFETIMES:
                frame, position = _decode_lifetimes(data, position + 1, units // LIFETIME_UNITS)
                units -= LIFETIME_UNITS * len(frame.runs)
            elif kind == FRAME_PING:
                frame = Ping()
                position = length - len(data[position:].lstrip(PING))
            else:
                decoder = _DECODERS.get(kind)
                if decoder is None:
                    raise DecodeError("an unknown frame")
                frame, position = decoder(data, position + 1)
            frames.append(frame)
    except CUT_OFF:
        raise DecodeError("a frame is cut off") from None
    if units < 0:
        raise DecodeError("too long frames in a packet")
    return frames


def _decode_messages(data: bytes, position: int, limit: int) -> tuple[Messages, int]:
    channel, position = read_integer(data, position)
    first, position = read_integer(data, position)
    count, position = read_integer(data, position)
    if not 0 < count <= limit or first + count > MESSAGES_LIMIT:
        raise DecodeError("a frame with too few or too many messages")
    payloads, position = _read_payloads(data, position, count)
    if position > len(data):
        raise DecodeError("a message is cut off")
    return Messages(channel, first, payloads), position


def _decode_message(data: bytes, position: int) -> tuple[Messages, int]:
    channel, position = read_integer(data, position)
    number, position = read_integer(data, position)
    if number >= MESSAGES_LIMIT:
        raise DecodeError("the number of a message is too large")
    payloads, position = _read_payloads(data, position, 1)
    if position > len(data):
        raise DecodeError("a message is cut off")
    return Messages(channel, number, payloads), position


@lru_cache(maxsize=CUTTERS_LIMIT)
def _cutter(wide: int, size: int, count: int) -> Callable[[bytes, int], tuple[Any, ...]]:
    """Takes `count` payloads of one size out of what follows a position."""
    return struct.Struct(f"{wide}x{size}s" * count).unpack_from


def _read_payloads(data: bytes, position: int, count: int) -> tuple[list[bytes], int]:
    """The hottest loop of the library. The caller checks that the position is still inside."""
    size = data[position]
    wide = 1
    if size >= 0x40:
        if size >= 0x80:
            raise DecodeError("a message that should have been sent in fragments")
        size = (size - 0x40 << 8) | data[position + 1]
        wide = 2
    stride = wide + size
    end = position + stride * count
    if (
        # Typed messages are often all of one size: then `struct` cuts them all in one call.
        4 <= count <= UNIFORM_LIMIT
        and end <= len(data)
        and data[position:end:stride].count(data[position]) == count
        and (wide == 1 or data[position + 1 : end : stride].count(data[position + 1]) == count)
    ):
        return list(_cutter(wide, size, count)(data, position)), end
    payloads: list[bytes] = []
    for _ in range(count):
        size = data[position]
        if size < 0x40:
            start = position + 1
        elif size == 0x40:
            size = data[position + 1]
            start = position + 2
        elif size < 0x80:
            size = (size - 0x40 << 8) | data[position + 1]
            start = position + 2
        else:
            raise DecodeError("a message that should have been sent in fragments")
        position = start + size
        payloads.append(data[start:position])
    return payloads, position


def _decode_ack(data: bytes, position: int) -> tuple[Ack, int]:
    largest, position = read_integer(data, position)
    delay, position = read_integer(data, position)
    more, position = read_integer(data, position)
    length, position = read_integer(data, position)
    if more >= ACK_RANGES_LIMIT:
        raise DecodeError("an ACK with too many ranges")
    low = largest - length
    ranges = [(low, largest)]
    for _ in range(more):
        gap = data[position]
        length = data[position + 1]
        if gap < 0x40 and length < 0x40:
            position += 2
        else:
            gap, position = read_integer(data, position)
            length, position = read_integer(data, position)
        high = low - gap - 2
        low = high - length
        ranges.append((low, high))
    if low < 0:
        raise DecodeError("an ACK of negative packet numbers")
    return Ack(delay, ranges), position


def _decode_fragment(data: bytes, position: int) -> tuple[Fragment, int]:
    channel, position = read_integer(data, position)
    number, position = read_integer(data, position)
    total, position = read_integer(data, position)
    offset, position = read_integer(data, position)
    size, position = read_integer(data, position)
    piece, position = read_bytes(data, position, size)
    if not piece or offset + size > total:
        raise DecodeError("a fragment that is empty or ends beyond its record")
    return Fragment(channel, number, total, offset, piece), position


def _decode_channel(data: bytes, position: int) -> tuple[ChannelAnnounce, int]:
    channel, position = read_integer(data, position)
    name, position = read_text(data, position)
    code, position = read_text(data, position)
    return ChannelAnnounce(channel, name, code), position


def _decode_credit(data: bytes, position: int) -> tuple[Credit, int]:
    channel, position = read_integer(data, position)
    limit, position = read_integer(data, position)
    return Credit(channel, limit), position


def _decode_skip(data: bytes, position: int) -> tuple[Skip, int]:
    channel, position = read_integer(data, position)
    number, position = read_integer(data, position)
    cost, position = read_integer(data, position)
    return Skip(channel, number, cost), position


def _decode_lifetimes(data: bytes, position: int, limit: int) -> tuple[Lifetimes, int]:
    channel, position = read_integer(data, position)
    first, position = read_integer(data, position)
    count, position = read_integer(data, position)
    if not 0 < count <= limit:
        raise DecodeError("a frame with too few or too many lifetimes")
    runs: list[tuple[int, int]] = []
    left = PACKET_UNITS_LIMIT
    for _ in range(count):
        messages, position = read_integer(data, position)
        milliseconds, position = read_integer(data, position)
        left -= messages
        if messages == 0 or left < 0:
            raise DecodeError("lifetimes of too few or too many messages")
        runs.append((messages, milliseconds))
    if first + PACKET_UNITS_LIMIT - left > MESSAGES_LIMIT:
        raise DecodeError("lifetimes beyond the last message")
    return Lifetimes(channel, first, runs), position


def _decode_time(data: bytes, position: int) -> tuple[Time, int]:
    sent_at, position = read_integer(data, position)
    return Time(sent_at), position


def _decode_time_answer(data: bytes, position: int) -> tuple[TimeAnswer, int]:
    asked_at, position = read_integer(data, position)
    received_at, position = read_integer(data, position)
    sent_at, position = read_integer(data, position)
    if sent_at < received_at:
        raise DecodeError("a time was answered before it was asked")
    return TimeAnswer(asked_at, received_at, sent_at), position


def _decode_refuse(data: bytes, position: int) -> tuple[Refuse, int]:
    channel, position = read_integer(data, position)
    number, position = read_integer(data, position)
    code, position = read_integer(data, position)
    reason, position = read_text(data, position)
    return Refuse(channel, number, code, reason), position


def _decode_path_challenge(data: bytes, position: int) -> tuple[PathChallenge, int]:
    value, position = read_bytes(data, position, PATH_DATA_BYTES)
    return PathChallenge(value), position


def _decode_path_response(data: bytes, position: int) -> tuple[PathResponse, int]:
    value, position = read_bytes(data, position, PATH_DATA_BYTES)
    return PathResponse(value), position


def _decode_new_connection_id(data: bytes, position: int) -> tuple[NewConnectionId, int]:
    sequence, position = read_integer(data, position)
    retire_before, position = read_integer(data, position)
    if retire_before > sequence:
        raise DecodeError("a connection id that retires itself")
    cid, position = read_bytes(data, position, CID_BYTES)
    token, position = read_bytes(data, position, RESET_TOKEN_BYTES)
    return NewConnectionId(sequence, retire_before, cid, token), position


def _decode_retire_connection_id(data: bytes, position: int) -> tuple[RetireConnectionId, int]:
    sequence, position = read_integer(data, position)
    return RetireConnectionId(sequence), position


def _decode_close(data: bytes, position: int) -> tuple[Close, int]:
    code, position = read_integer(data, position)
    reason, position = read_text(data, position)
    return Close(code, reason), position


_DECODERS: Final[dict[int, Callable[[bytes, int], tuple[Frame, int]]]] = {
    FRAME_FRAGMENT: _decode_fragment,
    FRAME_CHANNEL: _decode_channel,
    FRAME_CREDIT: _decode_credit,
    FRAME_SKIP: _decode_skip,
    FRAME_REFUSE: _decode_refuse,
    FRAME_PATH_CHALLENGE: _decode_path_challenge,
    FRAME_PATH_RESPONSE: _decode_path_response,
    FRAME_NEW_CONNECTION_ID: _decode_new_connection_id,
    FRAME_RETIRE_CONNECTION_ID: _decode_retire_connection_id,
    FRAME_CLOSE: _decode_close,
    FRAME_TIME: _decode_time,
    FRAME_TIME_ANSWER: _decode_time_answer,
}
