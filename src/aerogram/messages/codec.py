"""Messages and plain values to payloads and back.

Rules: encoding raises only `InvalidMessage`, decoding only `DecodeError`, whatever the bytes are;
nesting is bounded before anything is built. The fields of a message are an array without names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, cast, get_origin

import msgspec
import msgspec.inspect

from aerogram.errors import DecodeError, InvalidMessage
from aerogram.messages import plain
from aerogram.messages.classes import ASKING, Message, Topic, Untyped, not_a_message, type_key
from aerogram.messages.routing import (
    BYTES_HEAD,
    PLAIN_BY_KIND,
    PLAIN_KINDS,
    TAG_MAX,
    TOPIC,
    Decoder,
    describe,
    name_head,
    routing_key,
)

_encode_fields: Final = msgspec.msgpack.Encoder().encode
_heads: Final[dict[type, bytes]] = {}
"""What precedes the fields of each class that nests to a known depth, filled on first use."""
_decoders: Final[dict[Any, Decoder]] = {}
_RECORDS: Final = (
    msgspec.inspect.DataclassType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.StructType,
    msgspec.inspect.TupleType,
    msgspec.inspect.TypedDictType,
)


def encode(message: object) -> bytes:
    """The payload of a message or plain value. Raises `InvalidMessage`."""
    kind = type(message)
    head = _heads.get(kind)
    if head is None:
        if kind is bytes:
            return BYTES_HEAD + cast("bytes", message)
        return _encode_rarer(message)
    try:
        return head + _encode_fields(message)
    except Exception as error:  # whatever a field's own code raises
        raise _unencodable(kind.__name__, error) from error


def _encode_rarer(message: object) -> bytes:
    kind = type(message)
    plain_kind = PLAIN_KINDS.get(kind)
    if plain_kind is not None:
        return bytes([plain_kind]) + plain.encode(message)
    if isinstance(message, Message) and not isinstance(message, ASKING):
        return encode_typed(message)
    raise not_a_message(kind)


def encode_typed(message: Message) -> bytes:
    """Any class; the ones that `encode` may handle alone from now on are noted in `_heads`."""
    kind = type(message)
    try:
        head = _head(kind)
        payload = head + _encode_fields(message)
        check = _check_of(kind)
        if check is not None:
            check(payload, len(head))
        elif not isinstance(message, ASKING):
            _heads[kind] = head
    except Exception as error:  # whatever a field's own code raises
        raise _unencodable(kind.__name__, error) from error
    return payload


@cache
def _head(kind: type[Any]) -> bytes:
    key = type_key(kind)
    return bytes([key]) if isinstance(key, int) else key


def _unencodable(name: str, error: Exception) -> InvalidMessage:
    reason = str(error) or type(error).__name__
    if isinstance(error, RecursionError):
        reason = "it is nested too deep, or contains itself"
    return InvalidMessage(f"{name} cannot be sent: {reason}")


def decoder_for(kind: type[Any]) -> Decoder:
    """The decoder of a message class or plain type. Raises `InvalidMessage` for another type.

    Raises `TypeError` or `NameError` for a field's annotation that cannot be decoded.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        if kind is bytes:
            decoder = _decode_bytes
        elif kind in PLAIN_KINDS:
            decoder = _plain_decoder(kind)
        else:
            decoder = _typed_decoder(kind)
        _decoders[kind] = decoder
    return decoder


def _typed_decoder(kind: type[Any]) -> Decoder:
    """For a message class, and for a plain type that says what is in it, as `list[int]`."""
    name = kind.__name__
    outer: Any = get_origin(kind) or kind
    skip, check = len(_head(outer)), _check_of(cast("Any", kind))
    decode_fields = msgspec.msgpack.Decoder(kind).decode

    def decode(payload: bytes) -> Any:
        try:
            if check is not None:
                check(payload, skip)
            return decode_fields(payload[skip:])
        except Exception as error:  # also RecursionError, and what a `__post_init__` raises
            raise _undecodable(name, error) from error

    return decode


def _decode_bytes(payload: bytes) -> bytes:
    return payload[1:]


def _plain_decoder(kind: type[Any]) -> Decoder:
    def decode(payload: bytes) -> Any:
        value = plain.decode(payload, 1)
        if type(value) is not kind:
            raise DecodeError(f"{type(value).__name__} came where {kind.__name__} was announced")
        return value

    return decode


def _undecodable(name: str, error: Exception) -> DecodeError:
    """Tells a peer what is wrong with its bytes, but nothing of our own code's errors."""
    told = isinstance(error, DecodeError | msgspec.MsgspecError)
    return DecodeError(f"{name}: {error if told else type(error).__name__}")


@cache
def _check_of(kind: type[Any]) -> Callable[[bytes, int], None] | None:
    """What has to be checked of a payload before its fields are decoded; None if they are few.

    A field may nest deeper than its annotation says if it is `Any`, or recursive.
    """
    info = msgspec.inspect.type_info(kind)
    if _nests(info, ()):
        return plain.check
    return plain.check_containers if _holds_many(info, inside=False) else None


def _nests(info: Any, around: tuple[type, ...]) -> bool:
    if isinstance(info, msgspec.inspect.AnyType | msgspec.inspect.CustomType):
        return True
    own = getattr(info, "cls", None)
    if own is not None and own in around:
        return True
    inside = around if own is None else (*around, own)
    return any(_nests(part, inside) for part in _parts(info))


def _holds_many(info: msgspec.inspect.Type, *, inside: bool) -> bool:
    """True if there may be any number of lists, maps or messages in it: inside a collection."""
    is_collection = hasattr(info, "item_type") or hasattr(info, "value_type")
    if inside and (is_collection or isinstance(info, _RECORDS)):
        return True
    return any(_holds_many(part, inside=inside or is_collection) for part in _parts(info))


def _parts(info: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    """The types that a type is made of."""
    parts = [field.type for field in getattr(info, "fields", ())]
    parts += [*getattr(info, "types", ()), *getattr(info, "item_types", ())]
    parts += [getattr(info, name, None) for name in ("item_type", "key_type", "value_type", "type")]
    return [part for part in parts if isinstance(part, msgspec.inspect.Type)]


def decode_any(payload: bytes) -> Any:
    """Decode without knowing a class: a plain value, a `Topic`, or an `Untyped` message.

    Raises `DecodeError`.
    """
    key = routing_key(payload)
    if isinstance(key, bytes):
        value, name = plain.decode(payload, len(key)), _name_of(key)
        return Topic(name, value) if key[0] == TOPIC else _untyped(name, value)
    if 0 <= key <= TAG_MAX:
        return _untyped(key, plain.decode(payload, 1))
    if key not in PLAIN_BY_KIND:
        raise DecodeError(f"{describe(payload)} is not a message")
    return decoder_for(PLAIN_BY_KIND[key])(payload)


def _untyped(tag: int | str, fields: Any) -> Untyped:
    if not isinstance(fields, list):
        raise DecodeError(f"the fields of tag {tag!r} are no array")
    return Untyped(tag, fields)


def retyped(message: Untyped, kind: type[Any]) -> Any:
    """The same message as one of its class. Raises `DecodeError`."""
    try:
        return msgspec.convert(message.fields, kind)
    except Exception as error:  # what a `__post_init__` raises too
        raise _undecodable(kind.__name__, error) from error


def _name_of(head: bytes) -> str:
    if len(head) == 2:
        raise DecodeError("a name is empty")
    try:
        return head[2:].decode()
    except UnicodeDecodeError:
        raise DecodeError("a name is not valid UTF-8") from None


# -- topics


def encode_topic(topic: str, value: object) -> bytes:
    """The payload of a plain value under a topic. Raises `InvalidMessage`, also for the name."""
    if not isinstance(topic, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidMessage(f"a topic is a str, not {topic!r}")
    try:
        head = name_head(TOPIC, topic, "a topic")
    except ValueError as error:
        raise InvalidMessage(str(error)) from None
    return head + plain.encode(value)


def decode_topic(payload: bytes) -> Any:
    """The value of a topic's payload. Raises `DecodeError`."""
    key = routing_key(payload)
    assert isinstance(key, bytes)
    return plain.decode(payload, len(key))
