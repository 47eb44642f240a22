"""The decoders of `wire`: they agree with a literal reading of the specification, on all bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aerogram.core import wire
from aerogram.errors import DecodeError
from tests.core.vectors import encode_frame, encode_packet
from tests.fuzz import reference

INPUT_BYTES_MOST: Final = 1500

Decoder = Callable[[bytes], Any]


def _encode_frames(frames: list[wire.Frame]) -> bytes:
    """With PADDING between them, so that two PINGs are not one."""
    return b"\0".join(map(encode_frame, frames))


def _reencodes_exactly(frames: list[wire.Frame]) -> bool:
    """An ACK that is sent may name fewer ranges than one that is read."""
    return not any(isinstance(frame, wire.Ack) and len(frame.ranges) > 20 for frame in frames)


def _decoded(decode: Decoder, data: bytes, error: type[Exception]) -> Any:
    try:
        return decode(data)
    except error:
        return None


def target(data: bytes) -> None:
    """Decode as packet, as frames and as transport parameters."""
    packet = _decoded(wire.decode_handshake_untrusted, data, DecodeError)
    if packet is not None or 0xA0 <= (data or b"\0")[0] < 0xA4:
        assert packet == _decoded(reference.packet, data, ValueError)
    if packet is not None:
        assert wire.decode_handshake_untrusted(encode_packet(packet)) == packet
    frames = _decoded(wire.decode_frames_untrusted, data, DecodeError)
    assert frames == _decoded(reference.frames, data, ValueError)
    if frames is not None and _reencodes_exactly(frames):
        assert wire.decode_frames_untrusted(_encode_frames(frames)) == frames
    parameters = _decoded(wire.decode_parameters_untrusted, data, DecodeError)
    assert parameters == _decoded(reference.parameters, data, ValueError)
    if parameters is not None:
        assert wire.decode_parameters_untrusted(parameters.encode()) == parameters
