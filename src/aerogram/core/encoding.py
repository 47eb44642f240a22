"""Packets and frames to bytes: the sending half of `wire`, under whose name callers use it.

Rules: no checks but the range of whole numbers, which are RFC 9000 §16 variable-length integers in
the fewest bytes; what is given here is this side's own. `WIRE.md` specifies every layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Final

from aerogram.config import MESSAGES_LIMIT, SMALLEST_DATAGRAM_BYTES
from aerogram.core.frames import INIT, MAC1_BYTES, RESET, RESP, RETRY, VERSION, Mode

LENGTH_PREFIX: Final = [bytes((n,)) for n in range(64)] + [
    (0x4000 | n).to_bytes(2, "big") for n in range(64, 16384)
]
"""The integers of one and two bytes, encoded. It ends where MESSAGES ends: longer is fragments."""

ACK_BYTES_LIMIT: Final = 400
"""Longest ACK that is sent; in practice 64 ranges take half of it."""
ACK_HEADER_BYTES: Final = 26
"""The most that an ACK takes before its second range."""


def _integer(value: int) -> bytes:
    """RFC 9000 §16. Raises `ValueError` if the value is out of range."""
    if 0 <= value < 16384:
        return LENGTH_PREFIX[value]
    if 0 <= value < 1 << 30:
        return (0x8000_0000 | value).to_bytes(4, "big")
    if 0 <= value < MESSAGES_LIMIT:
        return (0xC000_0000_0000_0000 | value).to_bytes(8, "big")
    raise ValueError(f"not a variable-length integer: {value}")


def _counted(data: bytes) -> bytes:
    return _integer(len(data)) + data


@dataclass(slots=True)
class TransportParameters:
    """What each side tells the other in the handshake; absent values are 0 or empty."""

    max_record_bytes: int = 0
    channel_window_bytes: int = 0
    idle_timeout_milliseconds: int = 0
    max_datagram_bytes: int = 0
    max_ack_delay_microseconds: int = 0
    aead: int = 0
    connection_id: bytes = b""
    reset_token: bytes = b""

    def encode(self) -> bytes:
        """The parameters as bytes; those with the default value are left out."""
        values = [
            _integer(value) if value else b""
            for value in (
                self.max_record_bytes,
                self.channel_window_bytes,
                self.idle_timeout_milliseconds,
                self.max_datagram_bytes,
                self.max_ack_delay_microseconds,
                self.aead,
            )
        ]
        values += [self.connection_id, self.reset_token]
        return b"".join(
            _integer(identity) + _integer(len(value)) + value
            for identity, value in enumerate(values, 1)
            if value
        )


def encode_init(mode: Mode, client_cid: bytes, token: bytes, noise: bytes) -> bytes:
    """An INIT without its mac1, padded so that with it a whole smallest datagram is filled."""
    head = bytes((INIT, VERSION, mode)) + client_cid
    return (head + _counted(token) + _counted(noise)).ljust(
        SMALLEST_DATAGRAM_BYTES - MAC1_BYTES, b"\x00"
    )


def encode_resp(client_cid: bytes, noise: bytes) -> bytes:
    """A RESP packet."""
    return bytes((RESP, VERSION)) + client_cid + _counted(noise)


def encode_retry(client_cid: bytes, token: bytes) -> bytes:
    """A RETRY packet up to its mac1, which the caller appends."""
    return bytes((RETRY, VERSION)) + client_cid + _counted(token)


def encode_reset(cid: bytes, token: bytes) -> bytes:
    """A RESET packet."""
    return bytes((RESET,)) + cid + token


def encode_ack(largest: int, delay_microseconds: int, ranges: list[tuple[int, int]]) -> bytes:
    """An ACK frame (RFC 9000 §19.3) of at most 64 ranges, the largest first.

    What does not fit in `ACK_BYTES_LIMIT` is left out: the lowest ranges.
    """
    low = ranges[0][0]
    count = 0
    tail = b""
    for next_low, next_high in ranges[1:]:
        following = tail + _integer(low - next_high - 2) + _integer(next_high - next_low)
        if len(following) > ACK_BYTES_LIMIT - ACK_HEADER_BYTES:
            break
        tail = following
        low = next_low
        count += 1
    head = _integer(delay_microseconds) + _integer(count) + _integer(largest - ranges[0][0])
    return b"\x02" + _integer(largest) + head + tail


def encode_messages_header(channel: int, first_number: int, count: int) -> bytes:
    """The start of a MESSAGES frame; `count` times `LENGTH_PREFIX[size]` and payload follow.

    One alone needs no count: it is a MESSAGE frame.
    """
    if count == 1:
        return b"\x11" + _integer(channel) + _integer(first_number)
    return b"\x03" + _integer(channel) + _integer(first_number) + _integer(count)


def encode_fragment_header(
    channel: int, number: int, total_bytes: int, offset: int, length: int
) -> bytes:
    """The start of a FRAGMENT frame; `length` bytes of the message follow."""
    return b"\x04" + b"".join(map(_integer, (channel, number, total_bytes, offset, length)))


def encode_channel(channel: int, name: str, code: str) -> bytes:
    """A CHANNEL frame."""
    return b"\x05" + _integer(channel) + _counted(name.encode()) + _counted(code.encode())


def encode_credit(channel: int, limit: int) -> bytes:
    """A CREDIT frame."""
    return b"\x06" + _integer(channel) + _integer(limit)


def encode_skip(channel: int, number: int, cost: int) -> bytes:
    """A SKIP frame."""
    return b"\x07" + _integer(channel) + _integer(number) + _integer(cost)


def encode_lifetimes(channel: int, first_number: int, runs: list[tuple[int, int]]) -> bytes:
    """A LIFETIMES frame: from a number on, so many messages still live so many milliseconds."""
    return b"\x0e" + b"".join(
        map(_integer, (channel, first_number, len(runs), *chain.from_iterable(runs)))
    )


def encode_time(sent_at: int) -> bytes:
    """A TIME frame."""
    return b"\x0f" + _integer(sent_at)


def encode_time_answer(asked_at: int, received_at: int, sent_at: int) -> bytes:
    """A TIME_ANSWER frame."""
    return b"\x10" + _integer(asked_at) + _integer(received_at) + _integer(sent_at)


def encode_refuse(channel: int, number: int, code: int, reason: str) -> bytes:
    """A REFUSE frame."""
    numbers = _integer(channel) + _integer(number) + _integer(code)
    return b"\x08" + numbers + _counted(reason.encode())


def encode_path_challenge(data: bytes) -> bytes:
    """A PATH_CHALLENGE frame of `PATH_DATA_BYTES`."""
    return b"\x09" + data


def encode_path_response(data: bytes) -> bytes:
    """A PATH_RESPONSE frame of `PATH_DATA_BYTES`."""
    return b"\x0a" + data


def encode_new_connection_id(
    sequence: int, retire_before: int, cid: bytes, reset_token: bytes
) -> bytes:
    """A NEW_CONNECTION_ID frame."""
    return b"\x0b" + _integer(sequence) + _integer(retire_before) + cid + reset_token


def encode_retire_connection_id(sequence: int) -> bytes:
    """A RETIRE_CONNECTION_ID frame."""
    return b"\x0c" + _integer(sequence)


def encode_close(code: int, reason: str) -> bytes:
    """A CLOSE frame."""
    return b"\x0d" + _integer(code) + _counted(reason.encode())
