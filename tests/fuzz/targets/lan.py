"""Decoders of what comes to multicast groups, and of SNTP: a value or `DecodeError`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aerogram.clock import packet as ntp
from aerogram.errors import DecodeError
from aerogram.lan import questions
from aerogram.lan.stream import wire

INPUT_BYTES_MOST: Final = 1500


def _encode_segment(segment: wire.Segment) -> bytes:
    if not segment.pieces:
        return wire.encode_whole(segment.sequence, segment.message, segment.payloads)
    [piece] = segment.payloads
    return wire.encode_fragment(
        segment.sequence, segment.message, segment.piece, segment.pieces, piece
    )


def _encode_asked(asked: Any) -> bytes:
    if isinstance(asked, questions.Question):
        return questions.encode_question(asked)
    if isinstance(asked, questions.Reply):
        return questions.encode_reply(asked)
    return questions.encode_heard(asked)


CODECS: Final[tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...]] = (
    (wire.decode_segment, _encode_segment),
    (wire.decode_heartbeat, wire.encode_heartbeat),
    (wire.decode_nack, wire.encode_nack),
    (questions.decode_untrusted, _encode_asked),
    (ntp.decode_untrusted, ntp.NtpPacket.encode),
)
"""What is read and written; of a question that is larger than one may be, less is written."""


def target(data: bytes) -> None:
    """Decode as everything; what was taken is written and read as the same."""
    with suppress(DecodeError):
        header = wire.split_untrusted(data)
        assert header.encode() == data[: wire.HEADER_BYTES]
    for decode, encode in CODECS:
        try:
            value = decode(data)
        except DecodeError:
            continue
        again = decode(encode(value))
        if isinstance(value, questions.Question):
            value, again = value._replace(known=()), again._replace(known=())
        assert again == value
