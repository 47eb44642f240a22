"""Reading fields out of bytes: what all parsers of `wire` are made of.

Rules: each function takes a position and returns the one after what it read; it raises one of
`CUT_OFF` or `DecodeError`, and checks a size before it takes anything of it. Whole numbers are
variable-length integers (RFC 9000 §16), read in any of their lengths.
"""

from __future__ import annotations

import struct
from typing import Final

from aerogram.errors import DecodeError

CUT_OFF: Final = (IndexError, struct.error)
"""What reading beyond the end raises, here in one place for every field."""
TEXT_BYTES_LIMIT: Final = 1024
"""Longest channel name, delivery code or reason, in UTF-8."""

_FOUR_BYTES: Final = struct.Struct(">I").unpack_from
_EIGHT_BYTES: Final = struct.Struct(">Q").unpack_from


def read_integer(data: bytes, position: int) -> tuple[int, int]:
    """RFC 9000 §16. Raises one of `CUT_OFF` where the data ends too early."""
    first = data[position]
    if first < 0x40:
        return first, position + 1
    if first < 0x80:
        return (first - 0x40 << 8) | data[position + 1], position + 2
    if first < 0xC0:
        return _FOUR_BYTES(data, position)[0] & 0x3FFF_FFFF, position + 4
    return _EIGHT_BYTES(data, position)[0] & 0x3FFF_FFFF_FFFF_FFFF, position + 8


def read_bytes(data: bytes, position: int, size: int) -> tuple[bytes, int]:
    """So many bytes. Raises `DecodeError` if there are fewer."""
    end = position + size
    if end > len(data):
        raise DecodeError("a field is longer than what is left")
    return data[position:end], end


def read_counted(data: bytes, position: int, limit: int) -> tuple[bytes, int]:
    """Bytes after their size. Raises `DecodeError` beyond the limit or the end."""
    size, position = read_integer(data, position)
    if size > limit:
        raise DecodeError("a field is longer than its limit")
    return read_bytes(data, position, size)


def read_text(data: bytes, position: int) -> tuple[str, int]:
    """UTF-8 after its size. Raises `DecodeError`."""
    raw, position = read_counted(data, position, TEXT_BYTES_LIMIT)
    try:
        return raw.decode(), position
    except UnicodeDecodeError:
        raise DecodeError("a text is not UTF-8") from None
