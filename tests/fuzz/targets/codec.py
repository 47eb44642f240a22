"""Every decoder of messages: plain values, topics, classes, requests and what comes back.

A decoder of a payload is found by its shape, so one that is added to `aerogram.messages` is
fuzzed from then on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aerogram import messages
from aerogram.errors import DecodeError
from aerogram.messages import Message, Request, Stream, Topic, Untyped
from aerogram.messages.plain import DEPTH_MAX, ITEMS_MAX

INPUT_BYTES_MOST: Final = 4096


class Move(Message, tag=1):
    x: float
    y: float


class Path(Message, tag=2):
    steps: list[list[int]]
    name: str = ""
    marks: dict[str, bytes] | None = None


class Anything(Message, tag=3):
    value: Any


class Tree(Message, tag=4):
    children: list[Tree]


class Picky(Message, tag=5):
    x: int
    inner: Move | None = None

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("below zero")
        if self.x > 9:
            raise KeyError("a mistake of the handler's program")


class Named(Message):
    value: int | str | list[Move] | None


class Quote(Request[Move], tag=6):
    symbol: str


class Find(Request[Move | str | None], tag=7):
    name: str


class Names(Request[list[str]]):
    pass


class Watch(Stream[Move], tag=8):
    symbol: str


PLAIN: Final = (bytes, str, int, float, bool, list, dict, type(None))
CLASSES: Final = (Move, Path, Anything, Tree, Picky, Named, Quote, Find, Names, Watch)
ASKED: Final = (Quote, Find, Names, Watch)

Decoder = Callable[[bytes], Any]


def _payload_decoders() -> list[Decoder]:
    """All functions of `aerogram.messages` that decode a payload and take nothing else."""
    named = [getattr(messages, name) for name in messages.__all__ if name.startswith("decode_")]
    return [each for each in named if [*inspect.signature(each).parameters] == ["payload"]]


def _answer_decoder(kind: type[Request[Any] | Stream[Any]]) -> Decoder:
    return lambda payload: messages.decode_answer(kind, payload)


DECODERS: Final = [
    *(each for each in _payload_decoders() if each is not messages.decode_topic),
    *map(messages.decoder_for, (*PLAIN, *CLASSES)),
    *map(_answer_decoder, ASKED),
]


def measured(value: Any, depth: int = 0) -> tuple[int, int]:
    """How deep a value nests, and how many items it has."""
    if isinstance(value, dict):
        parts = [measured(each, depth + 1) for each in value.values()]
        count = 2 * len(value)
    elif isinstance(value, list):
        parts = [measured(each, depth + 1) for each in value]
        count = len(value)
    else:
        return depth, 0
    depths = [depth + 1, *(deepest for deepest, _ in parts)]
    return max(depths), count + sum(inside for _, inside in parts)


def _check_plain(value: Any) -> None:
    """What could be taken keeps the limits, can be sent, and then arrives as the same."""
    depth, items = measured(value)
    assert depth <= DEPTH_MAX
    assert items <= ITEMS_MAX
    assert repr(messages.decode_any(messages.encode(value))) == repr(value)


def target(data: bytes) -> None:
    """Decode as everything; only `DecodeError` may come out."""
    key = messages.routing_key(data)
    assert len(messages.describe(data)) < 1100
    decoders = list(DECODERS)
    if isinstance(key, bytes) and data[0] == messages.routing.TOPIC:
        decoders.append(messages.decode_topic)  # an app calls it for topics alone
    for decode in decoders:
        with suppress(DecodeError):
            decode(data)
    try:
        value = messages.decode_any(data)
    except DecodeError:
        return
    if isinstance(value, Topic):
        assert repr(messages.decode_any(messages.encode_topic(*value))) == repr(value)
    elif not isinstance(value, Untyped):
        _check_plain(value)
