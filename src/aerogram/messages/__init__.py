"""Messages: classes with a tag, plain values, topics and requests, and their bytes.

Everything here is a value or a function of values: no loop, no socket, no protocol.
"""

from __future__ import annotations

from aerogram.messages.classes import (
    Message,
    Request,
    Topic,
    Untyped,
    delivery_of,
    tag_of,
    type_key,
)
from aerogram.messages.codec import decode_any, decode_topic, decoder_for, encode, encode_topic
from aerogram.messages.replies import (
    Failure,
    FailureCode,
    decode_answer,
    decode_reply,
    decode_request,
    encode_answer,
    encode_cancel,
    encode_failure,
    encode_request,
)
from aerogram.messages.routing import (
    CANCEL,
    NAME_BYTES_MAX,
    REQUEST,
    TAG_MAX,
    Decoder,
    RoutingKey,
    describe,
    routing_key,
    topic_key,
)

__all__ = [
    "CANCEL",
    "NAME_BYTES_MAX",
    "REQUEST",
    "TAG_MAX",
    "Decoder",
    "Failure",
    "FailureCode",
    "Message",
    "Request",
    "RoutingKey",
    "Topic",
    "Untyped",
    "decode_answer",
    "decode_any",
    "decode_reply",
    "decode_request",
    "decode_topic",
    "decoder_for",
    "delivery_of",
    "describe",
    "encode",
    "encode_answer",
    "encode_cancel",
    "encode_failure",
    "encode_request",
    "encode_topic",
    "routing_key",
    "tag_of",
    "topic_key",
    "type_key",
]
