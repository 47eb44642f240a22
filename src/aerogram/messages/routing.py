"""The first bytes of a payload: what kind it is and where it belongs.

A payload begins with one byte. Up to `TAG_MAX` it is a message's own tag, so that routing looks at
one byte; above are the kinds below. Tags and topics that are names follow their kind and length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

RoutingKey = int | bytes
"""What finds the handler of a payload: its first byte, or its head where a name follows."""
Decoder = Callable[[bytes], Any]
"""From a payload to what a handler gets. Raises `DecodeError`."""

TAG_MAX: Final = 223
"""The largest number that is a tag; it takes one byte."""
NAME_BYTES_MAX: Final = 255
"""The longest name of a tag or topic in UTF-8: its length is one byte."""

REQUEST: Final = 0xE0
ANSWER: Final = 0xE1
FAILURE: Final = 0xE2
CANCEL: Final = 0xE3
STREAM: Final = 0xE4
ITEM: Final = 0xE5
END: Final = 0xE6
MORE: Final = 0xE7
REPEATABLE: Final = 0xE8
UPLOAD: Final = 0xE9
CHUNK: Final = 0xEA
LAST: Final = 0xEB
ROOM: Final = 0xEC
NAMED: Final = 0xFE
TOPIC: Final = 0xFF
UNROUTABLE: Final = -1

PLAIN_KINDS: Final[dict[type, int]] = {
    bytes: 0xF0,
    str: 0xF1,
    int: 0xF2,
    float: 0xF3,
    bool: 0xF4,
    list: 0xF5,
    dict: 0xF6,
    type(None): 0xF7,
}
PLAIN_BY_KIND: Final = {kind: plain_type for plain_type, kind in PLAIN_KINDS.items()}
FRAME_NAMES: Final = {
    REQUEST: "a request",
    ANSWER: "an answer",
    FAILURE: "a failure",
    CANCEL: "a cancellation",
    STREAM: "a request for a stream",
    ITEM: "an item of a stream",
    END: "the end of a stream",
    MORE: "credit for a stream",
    REPEATABLE: "a request",
    UPLOAD: "a request with content",
    CHUNK: "a chunk of content",
    LAST: "the end of content",
    ROOM: "credit for content",
}
EMPTY: Final = "a message without a byte"
"""What is wrong with an empty payload."""
BYTES_HEAD: Final = bytes([PLAIN_KINDS[bytes]])


def name_head(kind: int, name: str, what: str) -> bytes:
    """The kind, the name's length and the name: also the routing key of what has a name."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid Unicode: {name!r}") from None
    if not 0 < len(encoded) <= NAME_BYTES_MAX:
        raise ValueError(f"{what} has 1 to {NAME_BYTES_MAX} bytes, not {len(encoded)}")
    return bytes([kind, len(encoded)]) + encoded


def topic_key(topic: str) -> RoutingKey:
    """The routing key of a topic. Raises `ValueError` for a name that is too long or empty."""
    return name_head(TOPIC, topic, "a topic")


def routing_key(payload: bytes) -> RoutingKey:
    """Where a payload belongs. Never raises: bytes that make no sense have a key nobody has."""
    try:
        first = payload[0]
        return first if first < NAMED else payload[: 2 + payload[1]]
    except IndexError:
        return UNROUTABLE


def describe(payload: bytes) -> str:
    """What a payload is, in the few words that a peer is told."""
    key = routing_key(payload)
    if isinstance(key, bytes):
        return f"{'topic' if key[0] == TOPIC else 'tag'} {key[2:].decode(errors='replace')!r}"
    if 0 <= key <= TAG_MAX:
        return f"tag {key}"
    if key in PLAIN_BY_KIND:
        return "None" if key == PLAIN_KINDS[type(None)] else PLAIN_BY_KIND[key].__name__
    return FRAME_NAMES.get(key, "a payload of an unknown kind")
