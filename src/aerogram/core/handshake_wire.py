"""Bytes to the packets of a handshake, and to transport parameters: a part of `wire`.

Rules: as for `wire`. INIT comes from anybody at all, so it is checked from the first byte on, and
nothing is kept of one that fails.
"""

from __future__ import annotations

from typing import Final

from aerogram.config import SMALLEST_DATAGRAM_BYTES
from aerogram.core.encoding import TransportParameters
from aerogram.core.frames import (
    CID_BYTES,
    INIT,
    MAC1_BYTES,
    RESET,
    RESET_TOKEN_BYTES,
    RESP,
    RETRY,
    VERSION,
    Init,
    Mode,
    Reset,
    Resp,
    Retry,
)
from aerogram.core.reading import CUT_OFF, read_bytes, read_counted, read_integer
from aerogram.errors import DecodeError

PARAMETERS_LIMIT: Final = 32
"""Transport parameters in one list, known or not."""
TOKEN_BYTES_LIMIT: Final = 256
"""Longest token of a RETRY."""


def decode_handshake_untrusted(data: bytes) -> Init | Resp | Retry | Reset:
    """Any packet but DATA, from anybody. The mac1 of INIT and RETRY is the caller's to check.

    Raises `DecodeError`.
    """
    try:
        return _decode_handshake(data)
    except CUT_OFF:
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
    cid, position = read_bytes(data, 2, CID_BYTES)
    body, position = read_counted(data, position, len(data) if kind == RESP else TOKEN_BYTES_LIMIT)
    end = len(data) if kind == RESP else len(data) - MAC1_BYTES
    if position != end:
        raise DecodeError("a packet of the wrong size")
    return Resp(cid, body) if kind == RESP else Retry(cid, body)


def _decode_init(data: bytes) -> Init:
    if len(data) < SMALLEST_DATAGRAM_BYTES:
        raise DecodeError("an INIT without its padding")
    if data[2] > Mode.PINNED:
        raise DecodeError("an unknown mode of handshake")
    cid, position = read_bytes(data, 3, CID_BYTES)
    token, position = read_counted(data, position, TOKEN_BYTES_LIMIT)
    noise, position = read_counted(data, position, len(data))
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
            identity, position = read_integer(data, position)
            size, position = read_integer(data, position)
            value, position = read_bytes(data, position, size)
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
    except CUT_OFF:
        raise DecodeError("a transport parameter is cut off") from None


def _integer_parameter(values: dict[int, bytes], identity: int) -> int:
    value = values.get(identity, b"\x00")
    integer, end = read_integer(value, 0)
    if end != len(value):
        raise DecodeError("a transport parameter has the wrong size")
    return integer


def _sized_parameter(values: dict[int, bytes], identity: int, size: int) -> bytes:
    value = values.get(identity, b"")
    if value and len(value) != size:
        raise DecodeError("a transport parameter has the wrong size")
    return value
