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

from aerogram.config import MESSAGES_LIMIT, SMALLEST_DATAGRAM_BYTES
from aerogram.core.encoding import (
    LENGTH_PREFIX,
    TransportParameters,
    encode_ack,
    encode_channel,
    encode_close,
    encode_credit,
    encode_fragment_header,
    encode_init,
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
    FRAME_MESSAGES,
    FRAME_NEW_CONNECTION_ID,
    FRAME_PADDING,
    FRAME_PATH_CHALLENGE,
    FRAME_PATH_RESPONSE,
    FRAME_PING,
    FRAME_REFUSE,
    FRAME_RETIRE_CONNECTION_ID,
    FRAME_SKIP,
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
)
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
    "TransportParameters",
    "encode_ack",
    "encode_channel",
    "encode_close",
    "encode_credit",
    "encode_fragment_header",
    "encode_init",
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
]
"""What is sent and what is received are read together, as `wire.…`."""

PACKET_UNITS_LIMIT: Final = 256
"""Bounds the work that the frames of one packet make. A message is one unit, PADDING none."""
FRAME_UNITS: Final = 10
"""What any other frame is by itself. PINGs in a row are one frame."""
ACK_UNIT_BYTES: Final = 2
"""So many bytes of an ACK frame are one unit more."""
ACK_RANGES_LIMIT: Final = 64
PARAMETERS_LIMIT: Final = 64
"""Transport parameters in one list, known or not."""
TOKEN_BYTES_LIMIT: Final = 256
"""Longest token of a RETRY."""
TEXT_BYTES_LIMIT: Final = 1024
"""Longest channel name, delivery code or reason, in UTF-8."""
UNIFORM_LIMIT: Final = 64
"""Longest run of messages of one size that is taken apart in one call."""
CUTTERS_LIMIT: Final = 256
"""Formats kept for that, by size and count: some 2 KiB each."""


_CUT_OFF: Final = (IndexError, struct.error)
"""What reading beyond the end raises, here in one place for every field."""
_FOUR_BYTES: Final = struct.Struct(">I").unpack_from
_EIGHT_BYTES: Final = struct.Struct(">Q").unpack_from

# -- each function takes a position and returns the one after what it read


def _read_integer(data: bytes, position: int) -> tuple[int, int]:
    """RFC 9000 §16. Raises one of `_CUT_OFF` where the data ends too early."""
    first = data[position]
    if first < 0x40:
        return first, position + 1
    if first < 0x80:
        return (first - 0x40 << 8) | data[position + 1], position + 2
    if first < 0xC0:
        return _FOUR_BYTES(data, position)[0] & 0x3FFF_FFFF, position + 4
    return _EIGHT_BYTES(data, position)[0] & 0x3FFF_FFFF_FFFF_FFFF, position + 8


def _read_bytes(data: bytes, position: int, size: int) -> tuple[bytes, int]:
    end = position + size
    if end > len(data):
        raise DecodeError("a field is longer than what is left")
    return data[position:end], end


def _read_counted(data: bytes, position: int, limit: int) -> tuple[bytes, int]:
    size, position = _read_integer(data, position)
    if size > limit:
        raise DecodeError("a field is longer than its limit")
    return _read_bytes(data, position, size)


def _read_text(data: bytes, position: int) -> tuple[str, int]:
    raw, position = _read_counted(data, position, TEXT_BYTES_LIMIT)
    try:
        return raw.decode(), position
    except UnicodeDecodeError:
        raise DecodeError("a text is not UTF-8") from None


def decode_handshake_untrusted(data: bytes) -> Init | Resp | Retry | Reset:
    """Any packet but DATA, from anybody. The mac1 of an INIT is the caller's to check.

    Raises `DecodeError`.
    """
    try:
        return _decode_handshake(data)
    except _CUT_OFF:
        raise DecodeError("a packet is cut off") from None


def _decode_handshake(data: bytes) -> Init | Resp | Retry | Reset:
    kind = data[0]
    if kind == RESET:
        if len(data) != 1 + CID_BYTES + RESET_TOKEN_BYTES:
            raise DecodeError("a RESET of the wrong size")
        return Reset(data[1 : 1 + CID_BYTES], data[1 + CID_BYTES :])
    if kind not in {INIT, RESP, RETRY}:
        raise DecodeError("an unknown type of packet")
    if data[1] != VERSION:
        raise DecodeError("an unknown version")
    if kind == INIT:
        return _decode_init(data)
    cid, position = _read_bytes(data, 2, CID_BYTES)
    body, position = _read_counted(data, position, len(data) if kind == RESP else TOKEN_BYTES_LIMIT)
    if position != len(data):
        raise DecodeError("bytes after the end of a packet")
    return Resp(cid, body) if kind == RESP else Retry(cid, body)


def _decode_init(data: bytes) -> Init:
    if len(data) < SMALLEST_DATAGRAM_BYTES:
        raise DecodeError("an INIT without its padding")
    if data[2] > Mode.PINNED:
        raise DecodeError("an unknown mode of handshake")
    cid, position = _read_bytes(data, 3, CID_BYTES)
    token, position = _read_counted(data, position, TOKEN_BYTES_LIMIT)
    noise, position = _read_counted(data, position, len(data))
    end = len(data) - MAC1_BYTES
    if position > end or data.count(0, position, end) != end - position:
        raise DecodeError("an INIT with wrong padding")
    return Init(Mode(data[2]), cid, token, noise)


def decode_parameters_untrusted(data: bytes) -> TransportParameters:
    """Transport parameters; unknown ones are ignored. Raises `DecodeError`."""
    values: dict[int, bytes] = {}
    position = 0
    try:
        while position < len(data):
            if len(values) == PARAMETERS_LIMIT:
                raise DecodeError("too many transport parameters")
            identity, position = _read_integer(data, position)
            value, position = _read_counted(data, position, len(data))
            if identity in values:
                raise DecodeError("a transport parameter comes twice")
            values[identity] = value
        return TransportParameters(
            max_record_bytes=_integer_parameter(values, 1),
            channel_window_bytes=_integer_parameter(values, 2),
            idle_timeout_milliseconds=_integer_parameter(values, 3),
            max_datagram_bytes=_integer_parameter(values, 4),
            max_ack_delay_microseconds=_integer_parameter(values, 5),
            aead=_integer_parameter(values, 6),
            connection_id=_sized_parameter(values, 7, CID_BYTES),
            reset_token=_sized_parameter(values, 8, RESET_TOKEN_BYTES),
        )
    except _CUT_OFF:
        raise DecodeError("a transport parameter is cut off") from None


def _integer_parameter(values: dict[int, bytes], identity: int) -> int:
    value = values.get(identity, b"\x00")
    integer, end = _read_integer(value, 0)
    if end != len(value):
        raise DecodeError("a transport parameter has the wrong size")
    return integer


def _sized_parameter(values: dict[int, bytes], identity: int, size: int) -> bytes:
    value = values.get(identity, b"")
    if value and len(value) != size:
        raise DecodeError("a transport parameter has the wrong size")
    return value


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
            elif kind == FRAME_ACK:
                start = position
                frame, position = _decode_ack(data, position + 1)
                units -= (position - start) // ACK_UNIT_BYTES
            elif kind == FRAME_PING:
                frame = Ping()
                position = length - len(data[position:].lstrip(PING))
            else:
                decoder = _DECODERS.get(kind)
                if decoder is None:
                    raise DecodeError("an unknown frame")
                frame, position = decoder(data, position + 1)
            frames.append(frame)
    except _CUT_OFF:
        raise DecodeError("a frame is cut off") from None
    if units < 0:
        raise DecodeError("too long an ACK in a packet")
    return frames


def _decode_messages(data: bytes, position: int, limit: int) -> tuple[Messages, int]:
    channel, position = _read_integer(data, position)
    first, position = _read_integer(data, position)
    count, position = _read_integer(data, position)
    if not 0 < count <= limit or first + count > MESSAGES_LIMIT:
        raise DecodeError("a frame with too few or too many messages")
    payloads, position = _read_payloads(data, position, count)
    if position > len(data):
        raise DecodeError("a message is cut off")
    return Messages(channel, first, payloads), position


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
    largest, position = _read_integer(data, position)
    delay, position = _read_integer(data, position)
    more, position = _read_integer(data, position)
    length, position = _read_integer(data, position)
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
            gap, position = _read_integer(data, position)
            length, position = _read_integer(data, position)
        high = low - gap - 2
        low = high - length
        ranges.append((low, high))
    if low < 0:
        raise DecodeError("an ACK of negative packet numbers")
    return Ack(delay, ranges), position


def _decode_fragment(data: bytes, position: int) -> tuple[Fragment, int]:
    channel, position = _read_integer(data, position)
    number, position = _read_integer(data, position)
    total, position = _read_integer(data, position)
    offset, position = _read_integer(data, position)
    size, position = _read_integer(data, position)
    piece, position = _read_bytes(data, position, size)
    if not piece or offset + size > total:
        raise DecodeError("a fragment that is empty or ends beyond its record")
    return Fragment(channel, number, total, offset, piece), position


def _decode_channel(data: bytes, position: int) -> tuple[ChannelAnnounce, int]:
    channel, position = _read_integer(data, position)
    name, position = _read_text(data, position)
    code, position = _read_text(data, position)
    return ChannelAnnounce(channel, name, code), position


def _decode_credit(data: bytes, position: int) -> tuple[Credit, int]:
    channel, position = _read_integer(data, position)
    limit, position = _read_integer(data, position)
    return Credit(channel, limit), position


def _decode_skip(data: bytes, position: int) -> tuple[Skip, int]:
    channel, position = _read_integer(data, position)
    number, position = _read_integer(data, position)
    cost, position = _read_integer(data, position)
    return Skip(channel, number, cost), position


def _decode_refuse(data: bytes, position: int) -> tuple[Refuse, int]:
    channel, position = _read_integer(data, position)
    number, position = _read_integer(data, position)
    code, position = _read_integer(data, position)
    reason, position = _read_text(data, position)
    return Refuse(channel, number, code, reason), position


def _decode_path_challenge(data: bytes, position: int) -> tuple[PathChallenge, int]:
    value, position = _read_bytes(data, position, PATH_DATA_BYTES)
    return PathChallenge(value), position


def _decode_path_response(data: bytes, position: int) -> tuple[PathResponse, int]:
    value, position = _read_bytes(data, position, PATH_DATA_BYTES)
    return PathResponse(value), position


def _decode_new_connection_id(data: bytes, position: int) -> tuple[NewConnectionId, int]:
    sequence, position = _read_integer(data, position)
    retire_before, position = _read_integer(data, position)
    if retire_before > sequence:
        raise DecodeError("a connection id that retires itself")
    cid, position = _read_bytes(data, position, CID_BYTES)
    token, position = _read_bytes(data, position, RESET_TOKEN_BYTES)
    return NewConnectionId(sequence, retire_before, cid, token), position


def _decode_retire_connection_id(data: bytes, position: int) -> tuple[RetireConnectionId, int]:
    sequence, position = _read_integer(data, position)
    return RetireConnectionId(sequence), position


def _decode_close(data: bytes, position: int) -> tuple[Close, int]:
    code, position = _read_integer(data, position)
    reason, position = _read_text(data, position)
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
}
