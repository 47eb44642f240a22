"""Questions and what comes back: a kind, the number of the question, what follows.

Numbers and counts take eight bytes. What is asked and what is answered are payloads of their own
inside, so that their tags are checked.

| kind | after the number |
|---|---|
| REQUEST | the request |
| REPEATABLE | one byte for the size of a key, the key, the request; it may come more than once |
| STREAM | how many items may be sent at first, the request |
| CANCEL | nothing: nobody waits for an answer any more |
| MORE | how many items may be sent by now, counted from the first |
| UPLOAD | the request, whose content follows |
| CHUNK | what the content before it costs, some content |
| LAST | what all content costs |
| ANSWER | the answer |
| FAILURE | a byte of `FailureCode`, a reason |
| ITEM | its place in the stream, counted from 0; the item |
| END | how many items there were; after an error also what is in FAILURE |
| ROOM | what content may cost by now, counted from the first |

A chunk of content costs its size and 32 bytes (`MESSAGE_OVERHEAD_BYTES`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, cast, get_origin

from aerogram.errors import DecodeError, InvalidMessage
from aerogram.messages.classes import (
    ASKING,
    AnswerT,
    Request,
    Stream,
    Upload,
    answer_types,
    asked_with,
    type_key,
)
from aerogram.messages.codec import decoder_for, encode, encode_typed
from aerogram.messages.routing import (
    ANSWER,
    CANCEL,
    CHUNK,
    END,
    FAILURE,
    FRAME_NAMES,
    ITEM,
    LAST,
    MORE,
    REPEATABLE,
    REQUEST,
    ROOM,
    STREAM,
    UPLOAD,
    Decoder,
    RoutingKey,
    describe,
    routing_key,
)

_INTEGER_BYTES: Final = 8
_HEAD_BYTES: Final = 1 + _INTEGER_BYTES
REASON_BYTES_MAX: Final = 1024
"""What a peer is told of a failure is cut to this."""
REPEAT_KEY_BYTES_MAX: Final = 255
"""The longest key of a request that may come more than once: its size is one byte."""


class FailureCode(IntEnum):
    """Why a request has no answer."""

    UNKNOWN = 0
    """Nobody answers requests of this type."""
    FAILED = 1
    """The handler raised, or could not read the request."""
    REJECTED = 2
    """The handler, or a middleware, refused."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered."""

    code: FailureCode
    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One of the answers of a stream, still encoded."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class End:
    """A stream is over, after `count` items."""

    count: int
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Room:
    """The peer takes content up to this cost."""

    limit: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some content of an upload, or with None the end of it."""

    place: int
    """What the content before it costs."""
    data: bytes | None


Reply = bytes | Failure | Item | End | Room
"""What comes back; the bytes are an answer, still encoded."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a peer asks, still encoded."""

    identity: int
    payload: bytes
    limit: int | None = None
    """How many items may be sent at first; None if one answer is wanted."""
    has_content: bool = False
    """True if content follows."""
    repeat_key: bytes | None = None
    """None if it comes once; empty if its number tells that it came again."""


# -- asking


def encode_request(identity: int, request: Request[Any], repeat_key: bytes | None = None) -> bytes:
    """The payload that asks for one answer. Raises `InvalidMessage`."""
    if not isinstance(cast("object", request), Request):
        raise InvalidMessage(_not_asked(request, "request", "Request[Answer]"))
    if repeat_key is None:
        return _frame(REQUEST, identity) + encode_typed(request)
    head = _frame(REPEATABLE, identity) + bytes([len(repeat_key)])
    return head + repeat_key + encode_typed(request)


def encode_stream(identity: int, request: Stream[Any], limit: int) -> bytes:
    """The payload that asks for many answers, `limit` of them at first. Raises `InvalidMessage`."""
    if not isinstance(cast("object", request), Stream):
        raise InvalidMessage(_not_asked(request, "stream", "Stream[Item]"))
    return _frame(STREAM, identity) + _integer(limit) + encode_typed(request)


def encode_upload(identity: int, request: Upload[Any]) -> bytes:
    """The payload that asks with content to follow. Raises `InvalidMessage`."""
    if not isinstance(cast("object", request), Upload):
        raise InvalidMessage(_not_asked(request, "upload", "Upload[Answer]"))
    return _frame(UPLOAD, identity) + encode_typed(request)


def encode_chunk(identity: int, place: int, data: bytes) -> bytes:
    """The payload of some content, at least a byte; what came before costs `place`."""
    return _frame(CHUNK, identity) + _integer(place) + data


def encode_last(identity: int, cost: int) -> bytes:
    """The payload that ends content that costs so much in all."""
    return _frame(LAST, identity) + _integer(cost)


def _not_asked(value: object, what: str, base: str) -> str:
    name = type(value).__name__
    kind: type[Any] = type(value)
    if issubclass(kind, ASKING):
        return f"{name} is no {what}: send it with session.{asked_with(kind)}()"
    return f"{name} is no {what}: derive its class from {base}"


def encode_cancel(identity: int) -> bytes:
    """The payload that says that nobody waits for the answer any more."""
    return _frame(CANCEL, identity)


def encode_more(identity: int, limit: int) -> bytes:
    """The payload that lets a stream go on to `limit` items in all."""
    return _frame(MORE, identity) + _integer(limit)


def decode_question(payload: bytes) -> Question:
    """What is asked, still encoded. Raises `DecodeError`."""
    kind = payload[0] if payload else -1
    if kind == REPEATABLE:
        identity, rest = _split(payload, REPEATABLE)
        end = 1 + rest[0]
        return Question(identity, _some(rest[end:], payload), repeat_key=rest[1:end])
    if kind == STREAM:
        identity, rest = _split(payload, STREAM)
        limit, rest = _take_integer(rest, payload)
        return Question(identity, _some(rest, payload), limit=limit)
    has_content = kind == UPLOAD
    identity, rest = _split(payload, UPLOAD if has_content else REQUEST)
    return Question(identity, rest, has_content=has_content)


def decode_control(payload: bytes) -> tuple[int, int | None]:
    """The number of a question, with the limit of a MORE, or None for a CANCEL.

    Raises `DecodeError`.
    """
    if not payload or payload[0] != MORE:
        return _identity(payload, CANCEL), None
    identity, rest = _split(payload, MORE)
    return identity, _take_integer(rest, payload)[0]


def decode_chunk(payload: bytes) -> tuple[int, Chunk]:
    """The number of an upload, and what came of its content. Raises `DecodeError`."""
    is_last = payload[:1] == bytes([LAST])
    identity, rest = _split(payload, LAST if is_last else CHUNK)
    place, rest = _take_integer(rest, payload)
    return identity, Chunk(place, None if is_last else _some(rest, payload))


# -- answering


def encode_answer(identity: int, answer: object) -> bytes:
    """The payload of an answer. Raises `InvalidMessage`."""
    return _frame(ANSWER, identity) + encode(answer)


def encode_failure(identity: int, code: FailureCode, reason: str) -> bytes:
    """The payload of a failure; the reason is cut to `REASON_BYTES_MAX`."""
    return _frame(FAILURE, identity) + _failure(code, reason)


def encode_item(identity: int, sequence: int, item: object) -> bytes:
    """The payload of an item of a stream. Raises `InvalidMessage`."""
    return _frame(ITEM, identity) + _integer(sequence) + encode(item)


def encode_end(identity: int, count: int, failure: Failure | None) -> bytes:
    """The payload that ends a stream after `count` items."""
    told = b"" if failure is None else _failure(failure.code, failure.reason)
    return _frame(END, identity) + _integer(count) + told


def _failure(code: FailureCode, reason: str) -> bytes:
    cut = reason.encode(errors="replace")[:REASON_BYTES_MAX]
    return bytes([code]) + cut.decode(errors="ignore").encode()


def encode_room(identity: int, limit: int) -> bytes:
    """The payload that lets content go on up to a cost in all."""
    return _frame(ROOM, identity) + _integer(limit)


def readdressed(reply: bytes, identity: int) -> bytes:
    """The same answer or failure to another question."""
    return _frame(reply[0], identity) + reply[_HEAD_BYTES:]


def decode_reply(payload: bytes) -> tuple[int, Reply]:
    """The number of a question, and what came back. Raises `DecodeError`."""
    kind = payload[0] if payload else -1
    if kind == FAILURE:
        identity, rest = _split(payload, FAILURE)
        return identity, _decode_failure(rest)
    if kind == ITEM:
        identity, rest = _split(payload, ITEM)
        sequence, rest = _take_integer(rest, payload)
        return identity, Item(sequence, _some(rest, payload))
    if kind == END:
        identity, rest = _split(payload, END)
        count, rest = _take_integer(rest, payload)
        return identity, End(count, _decode_failure(rest) if rest else None)
    if kind == ROOM:
        identity, rest = _split(payload, ROOM)
        return identity, Room(_take_integer(rest, payload)[0])
    return _split(payload, ANSWER)


def _decode_failure(told: bytes) -> Failure:
    known = told[0] in FailureCode.__members__.values()
    code = FailureCode(told[0]) if known else FailureCode.FAILED
    return Failure(code, told[1 : 1 + REASON_BYTES_MAX].decode(errors="replace"))


def decode_answer(
    kind: type[Request[AnswerT] | Stream[AnswerT] | Upload[AnswerT]], payload: bytes
) -> AnswerT:
    """The answer to a request or upload, or an item of a stream, of this class.

    Raises `DecodeError`, also for another type.
    """
    decoders = _answer_decoders.get(kind)
    if decoders is None:
        decoders = _answer_decoders[kind] = _make_answer_decoders(kind)
    decode = decoders.get(routing_key(payload))
    if decode is None:
        name = cast("type[Any]", kind).__name__
        raise DecodeError(f"{name} was answered with {describe(payload)}")
    return cast("AnswerT", decode(payload))


_answer_decoders: Final[dict[type, dict[RoutingKey, Decoder]]] = {}


def _make_answer_decoders(kind: type[Any]) -> dict[RoutingKey, Decoder]:
    """A decoder for each type that the answer may have."""
    return {
        type_key(get_origin(choice) or choice): decoder_for(choice) for choice in answer_types(kind)
    }


# -- bytes


def _frame(kind: int, identity: int) -> bytes:
    return bytes([kind]) + _integer(identity)


def _integer(value: int) -> bytes:
    return value.to_bytes(_INTEGER_BYTES, "big")


def _identity(payload: bytes, kind: int) -> int:
    """The number of what has nothing after it."""
    if len(payload) != _HEAD_BYTES or payload[0] != kind:
        raise DecodeError(f"{describe(payload)} is not {FRAME_NAMES[kind]}")
    return int.from_bytes(payload[1:], "big")


def _split(payload: bytes, kind: int) -> tuple[int, bytes]:
    """The number, and what follows: at least a byte."""
    if len(payload) <= _HEAD_BYTES or payload[0] != kind:
        raise DecodeError(f"{describe(payload)} is not {FRAME_NAMES[kind]}")
    return int.from_bytes(payload[1:_HEAD_BYTES], "big"), payload[_HEAD_BYTES:]


def _take_integer(rest: bytes, payload: bytes) -> tuple[int, bytes]:
    if len(rest) < _INTEGER_BYTES:
        raise DecodeError(f"{describe(payload)} is cut short")
    return int.from_bytes(rest[:_INTEGER_BYTES], "big"), rest[_INTEGER_BYTES:]


def _some(rest: bytes, payload: bytes) -> bytes:
    if not rest:
        raise DecodeError(f"{describe(payload)} has nothing in it")
    return rest
