"""Requests, answers, failures and cancellations: a kind, the number of the request, what follows.

The number takes eight bytes. An answer is a payload of its own inside, so that its tag is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, cast, get_origin

from aerogram.errors import DecodeError, InvalidMessage
from aerogram.messages.classes import AnswerT, Request, answer_types, type_key
from aerogram.messages.codec import decoder_for, encode, encode_typed
from aerogram.messages.routing import (
    ANSWER,
    CANCEL,
    FAILURE,
    FRAME_NAMES,
    REQUEST,
    Decoder,
    RoutingKey,
    describe,
    routing_key,
)

_NUMBER_END: Final = 9
REASON_BYTES_MAX: Final = 1024
"""What a peer is told of a failure is cut to this."""


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


def encode_request(identity: int, request: Request[Any]) -> bytes:
    """The payload that asks. Raises `InvalidMessage`."""
    if not isinstance(cast("object", request), Request):
        name = type(request).__name__
        raise InvalidMessage(f"{name} is no request: derive its class from Request[Answer]")
    return _frame(REQUEST, identity) + encode_typed(request)


def decode_request(payload: bytes) -> tuple[int, bytes]:
    """The number of a request, and the payload of the request itself. Raises `DecodeError`."""
    return _split(payload, REQUEST)


def encode_cancel(identity: int) -> bytes:
    """The payload that says that nobody waits for the answer any more."""
    return _frame(CANCEL, identity)


def encode_answer(identity: int, answer: object) -> bytes:
    """The payload of an answer. Raises `InvalidMessage`."""
    return _frame(ANSWER, identity) + encode(answer)


def encode_failure(identity: int, code: FailureCode, reason: str) -> bytes:
    """The payload of a failure; the reason is cut to `REASON_BYTES_MAX`."""
    cut = reason.encode(errors="replace")[:REASON_BYTES_MAX]
    return _frame(FAILURE, identity) + bytes([code]) + cut.decode(errors="ignore").encode()


def decode_reply(payload: bytes) -> tuple[int, bytes | Failure]:
    """The number of a request with its answer, still encoded, or failure. Raises `DecodeError`."""
    if payload[:1] != bytes([FAILURE]):
        return _split(payload, ANSWER)
    identity, rest = _split(payload, FAILURE)
    known = rest[0] in FailureCode.__members__.values()
    code = FailureCode(rest[0]) if known else FailureCode.FAILED
    return identity, Failure(code, rest[1 : 1 + REASON_BYTES_MAX].decode(errors="replace"))


def decode_answer(kind: type[Request[AnswerT]], payload: bytes) -> AnswerT:
    """The answer to a request of this class. Raises `DecodeError`, also for another type."""
    decoders = _answer_decoders.get(kind)
    if decoders is None:
        decoders = _answer_decoders[kind] = _make_answer_decoders(kind)
    decode = decoders.get(routing_key(payload))
    if decode is None:
        raise DecodeError(f"{kind.__name__} was answered with {describe(payload)}")
    return cast("AnswerT", decode(payload))


def _frame(kind: int, identity: int) -> bytes:
    return bytes([kind]) + identity.to_bytes(_NUMBER_END - 1, "big")


def _split(payload: bytes, kind: int) -> tuple[int, bytes]:
    if len(payload) <= _NUMBER_END or payload[0] != kind:
        raise DecodeError(f"{describe(payload)} is not {FRAME_NAMES[kind]}")
    return int.from_bytes(payload[1:_NUMBER_END], "big"), payload[_NUMBER_END:]


_answer_decoders: Final[dict[type, dict[RoutingKey, Decoder]]] = {}


def _make_answer_decoders(kind: type[Request[Any]]) -> dict[RoutingKey, Decoder]:
    """A decoder for each type that the answer may have."""
    return {
        type_key(get_origin(choice) or choice): decoder_for(choice) for choice in answer_types(kind)
    }
