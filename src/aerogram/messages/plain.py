"""Plain values: msgpack of what every language has, within limits that hold before it is built.

A value is bytes, str, int, float, bool, None, or a list or dict of values; keys of a dict are not
containers. A tuple arrives as a list. Extension types are refused. Sender and receiver count
nesting and items alike, so that what could be sent can be taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]
import msgspec

from aerogram.errors import DecodeError, InvalidMessage

DEPTH_MAX: Final = 32
"""Nesting of a value. Like `ITEMS_MAX` it is fixed and not configured: both sides must agree."""
ITEMS_MAX: Final = 65536
"""Items in all lists and maps of a value; the keys of a map count too."""
CONTAINERS_MAX: Final = 65536
"""Lists, maps and messages inside a typed message, whatever its size. An empty one is a byte of the
payload and about a hundred of memory..."""
CONTAINER_BYTES: Final = 16
"""...so beyond that there may be one more for each so many bytes: a list of a million points
passes, and decoding takes some twenty times the payload at most."""

_SCALARS: Final = frozenset({bytes, str, int, float, bool, type(None)})
_SCALAR_BASES: Final = (bytes, bytearray, memoryview, str, int, float)

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Any = cast("Any", msgpack).unpackb


# -- sending


def encode(value: object) -> bytes:
    """The msgpack of a value.

    Raises `InvalidMessage` for another type, an int beyond 64 bits, or more nesting or items than
    a receiver takes.
    """
    if type(value) not in _SCALARS:
        _check_value(value, 0, ITEMS_MAX)
    try:
        return _pack(value)
    except Exception as error:  # a scalar out of range, or a scalar's subclass
        raise InvalidMessage(f"{type(value).__name__} cannot be sent: {error}") from error


def _check_value(value: Any, depth: int, room: int) -> int:
    """Check what is inside; `room` is for how many more items. Return what is left of it."""
    kind = value.__class__
    if issubclass(kind, dict):
        if not _SCALARS.issuperset(map(type, value)):
            _check_keys(value)
        return _check_items(value.values(), depth, room - 2 * len(value))
    if kind is tuple or issubclass(kind, list):
        return _check_items(value, depth, room - len(value))
    if value is None or issubclass(kind, _SCALAR_BASES):
        return room
    name = kind.__name__
    raise InvalidMessage(f"{name} is not a plain value: send a Message, or make it a dict or list")


def _check_items(items: Iterable[Any], depth: int, room: int) -> int:
    if depth >= DEPTH_MAX:
        raise InvalidMessage(f"a value nests {DEPTH_MAX} deep at most, and does not contain itself")
    if room < 0:
        raise InvalidMessage(f"a value has {ITEMS_MAX} items at most; keys count too")
    if not _SCALARS.issuperset(map(type, items)):
        for item in items:
            room = _check_value(item, depth + 1, room)
    return room


def _check_keys(keys: Iterable[Any]) -> None:
    for kind in map(type, keys):
        if kind not in _SCALARS and not issubclass(kind, _SCALAR_BASES):
            raise InvalidMessage(f"{kind.__name__} cannot be the key of a dict that is sent")


# -- receiving

_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
"""First bytes of arrays and maps."""
_NO_HEADS: Final = bytes(set(range(256)) - set(_HEADS))


def _scalar_sizes() -> bytes:
    """Bytes of a scalar by its first byte; 0 if there is more to look at."""
    sizes = bytearray(256)
    sizes[:0x80] = b"\x01" * 0x80
    sizes[0xA0:0xC0] = range(1, 33)
    sizes[0xE0:] = b"\x01" * 32
    sizes[0xC0], sizes[0xC2], sizes[0xC3] = 1, 1, 1
    sizes[0xCA:0xD4] = (5, 9, 2, 3, 5, 9, 2, 3, 5, 9)
    sizes[0xD4:0xD9] = (3, 4, 6, 10, 18)
    return bytes(sizes)


_SCALAR_SIZES: Final = _scalar_sizes()
_BINARY_AND_EXTENSIONS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
_STRINGS: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS_AND_MAPS: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_LENGTH_BYTES: Final = _BINARY_AND_EXTENSIONS | _STRINGS | _ARRAYS_AND_MAPS
"""Bytes of the length, or of the count of items, that follows the first byte."""


def decode(payload: bytes, position: int) -> Any:
    """The value whose msgpack begins at `position` and ends the payload. Raises `DecodeError`."""
    check(payload, position)
    try:
        return _unpack(
            payload[position:], strict_map_key=False, max_ext_len=0, ext_hook=_refuse_extension
        )
    except Exception as error:  # an unhashable key, invalid UTF-8, bytes left over
        raise DecodeError(f"not a plain value: {str(error) or type(error).__name__}") from error


def _refuse_extension(code: int, data: bytes) -> None:
    raise DecodeError(f"extension type {code} with {len(data)} bytes is not a plain value")


def check(payload: bytes, position: int) -> None:
    """Refuse nesting and counts beyond the limits. Raises `DecodeError`.

    What has no more than `DEPTH_MAX` bytes that could begin a container nests no deeper, and what
    has no more than `ITEMS_MAX` bytes has no more items: most payloads are done with that. The
    decoder allocates an array by the count that it announces, but refuses one above the payload's
    size: what passes here takes 16 MiB for a moment at most.
    """
    size = len(payload)
    if size > DEPTH_MAX and (
        size > ITEMS_MAX or len(payload.translate(None, _NO_HEADS)) > DEPTH_MAX
    ):
        _scan(payload, position)


def _scan(payload: bytes, position: int) -> None:
    """Walk over the items without building them. What is cut short is the decoder's to refuse."""
    room, end, sizes = ITEMS_MAX, len(payload), _SCALAR_SIZES
    around: list[int] = []
    left = 1
    while position < end:
        if left == 0:
            if not around:
                return
            left = around.pop()
            continue
        left -= 1
        size = sizes[payload[position]]
        if size:
            position += size
            continue
        count, position = _step(payload, position)
        if count < 0:
            continue
        room -= count
        if room < 0:
            raise DecodeError(f"more than {ITEMS_MAX} items")
        if len(around) >= DEPTH_MAX:
            raise DecodeError(f"nested more than {DEPTH_MAX} deep")
        around.append(left)
        left = count


def check_containers(payload: bytes, position: int) -> None:
    """Refuse a typed message with more lists, maps and messages in it than its size allows.

    Raises `DecodeError`. As in `check`, most payloads are done with a look at their size.
    """
    size = len(payload)
    limit = CONTAINERS_MAX + size // CONTAINER_BYTES
    if size > limit and len(payload.translate(None, _NO_HEADS)) > limit:
        _count_containers(payload, position, limit)


def _count_containers(payload: bytes, position: int, limit: int) -> None:
    end, sizes = len(payload), _SCALAR_SIZES
    left = 1
    while left and position < end:
        left -= 1
        size = sizes[payload[position]]
        if size:
            position += size
            continue
        count, position = _step(payload, position)
        if count < 0:
            continue
        left += count
        limit -= 1
        if limit < 0:
            raise DecodeError("more lists, maps and messages inside than its size allows")


def _step(payload: bytes, position: int) -> tuple[int, int]:
    """How many items are inside the one at `position`, -1 for a scalar, and where the next is."""
    head = payload[position]
    if head < 0x90:
        return 2 * (head & 15), position + 1
    if head < 0xA0:
        return head & 15, position + 1
    width = _LENGTH_BYTES.get(head)
    if width is None:
        raise DecodeError("0xc1 begins no value")
    position += 1 + width
    length = int.from_bytes(payload[position - width : position], "big")
    if head >= 0xDE:
        return 2 * length, position
    if head >= 0xDC:
        return length, position
    return -1, position + length + (0xC7 <= head <= 0xC9)
