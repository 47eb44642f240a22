"""Every limit and tunable of Aerogram, each with a default, a unit in its name and a reason.

A `Config` is immutable; `dataclasses.replace` makes a variant. The same object serves servers and
clients. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, cast, get_args

SMALLEST_DATAGRAM_BYTES: Final = 1200
"""RFC 9000 §14: what every path carries; INIT is padded to it against amplification."""

SMALLEST_WINDOW_BYTES: Final = 4096
"""A peer with a smaller window could never be sent a whole packet's worth."""

MESSAGE_OVERHEAD_BYTES: Final = 32
"""Added to a message's size in flow control, so that a window also bounds the count of messages."""

RECORD_HEAD_BYTES: Final = 1
"""Every record has a byte before it that tells what it is, which limits do not count."""

MESSAGES_LIMIT: Final = 1 << 62
"""Numbers of messages, packets and channels are RFC 9000 variable-length integers."""

SECONDS_LIMIT: Final = 1e6
"""Eleven days: whatever is to last longer has a way to say that it never ends."""

SHORTEST_SECONDS: Final = 0.001
"""Nothing shorter can be told to a peer, or be kept by a timer."""

BYTES_LIMIT: Final = 1 << 40
"""A tebibyte: more than there is memory for, and far below what the wire can count."""

COUNT_LIMIT: Final = 1 << 24
"""Of sessions, messages and the like: more than one process can hold."""

Transport = Literal["auto", "batch", "asyncio"]
"""How packets get to the kernel."""

Cipher = Literal["aes-256-gcm", "chacha20-poly1305"]
"""What packets are sealed with (RFC 5116, RFC 8439)."""


class Range(NamedTuple):
    """What a number may be. Of integers, only integers are taken."""

    least: float
    most: float
    or_zero: bool = False
    """0 means that it is off, or never."""

    def check(self, name: str, value: object) -> None:
        """Raise `TypeError` or `ValueError` for what is not in the range, and say what is."""
        whole = isinstance(self.least, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "an int" if whole else "a number"
            raise TypeError(f"{name} is {kind}, {self}, not {value!r}")
        if not self.least <= value <= self.most and not (self.or_zero and value == 0):
            raise ValueError(f"{name} is {self}, not {value!r}")

    def __str__(self) -> str:
        span = f"{_shown(self.least)} to {_shown(self.most)}"
        if self.least == -math.inf:
            span = f"at most {_shown(self.most)}"
        return f"0 or {span}" if self.or_zero else span


def _shown(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


TIMEOUT_SECONDS: Final = Range(0.0, SECONDS_LIMIT)
"""How long a call may be told to wait."""

DEADLINE_SECONDS: Final = Range(-math.inf, SECONDS_LIMIT)
"""From now, until a message is worthless; what has passed expires at once."""


def check_timeout(seconds: object, name: str = "timeout=") -> None:
    """Raise `TypeError` or `ValueError` for a timeout that is neither None nor seconds."""
    if seconds is not None:
        TIMEOUT_SECONDS.check(name, seconds)


@dataclass(frozen=True, slots=True)
class Config:
    """Limits and times of an endpoint and of each of its sessions.

    Raises `ValueError` for a value that is out of its range, or does not go with another one, and
    `TypeError` for one of another type; both name the field and what it may be.
    """

    transport: Transport = "auto"
    """`auto` takes the batched transport where the loop and the kernel offer it."""

    ciphers: tuple[Cipher, ...] = ("aes-256-gcm", "chacha20-poly1305")
    """What packets may be sealed with, the preferred first. A client proposes its first; a server
    takes that if it is among its own, and else its own first; a client gives up on one that is not
    among its own. AES is the quicker where the processor has instructions for it."""

    datagram_bytes: int = 1200
    """Largest UDP payload that is sent. 1200 passes everywhere (RFC 9000 §14)."""

    max_record_bytes: int = 16 * 1024 * 1024
    """Largest record this side takes; the peer is told, larger ones fail at its `send`. Of `bytes`
    it is their length, of anything else what it is encoded to: the fields of a message, text or a
    plain value take up to five bytes more for each part than is in it."""

    channel_window_bytes: int = 1024 * 1024
    """Receive window of a channel: what a peer may have sent that no handler has consumed."""

    reassembly_bytes_per_session: int = 64 * 1024 * 1024
    """Pieces of unfinished records held for one session, beside what its windows hold.

    At least `max_record_bytes`.
    """

    reassembly_bytes_per_endpoint: int = 256 * 1024 * 1024
    """The same over all sessions of an endpoint."""

    unread_bytes_per_session: int = 64 * 1024 * 1024
    """What a peer may have sent on all its channels that no handler has taken, beside unfinished
    records. Beyond, what comes is dropped, and is sent again later if it is reliable."""

    unread_bytes_per_endpoint: int = 1024 * 1024 * 1024
    """The same over all sessions of an endpoint; those that have their fair share are spared."""

    reassembly_timeout_seconds: float = 10.0
    """An unreliable record whose pieces stop coming is dropped after this."""

    send_queue_messages: int = 8192
    """Messages that may wait on a channel before `send` waits for room, unless it says otherwise.
    """

    send_queue_bytes: int = 1024 * 1024
    """The same in bytes; one larger record is let in when the queue is empty."""

    channels_per_session: int = 512
    """Channels that a peer may announce, those of its app and a few of the library's; each may hold
    a window of what waits, and all together `unread_bytes_per_session`. The same limit holds for
    what this side opens, for its peer is likely to have the same."""

    congestion_window_bytes: int = 256 * 1024
    """Bytes in flight of the fixed-window congestion controller."""

    initial_rtt_seconds: float = 0.1
    """Assumed before the first sample; RFC 9002 §6.2.2 has 0.333, datagram users are nearer."""

    max_ack_delay_seconds: float = 0.005
    """A lone packet is acknowledged after at most this; two, or a gap, at once."""

    handshake_timeout_seconds: float = 5.0
    """`connect` gives up, and a server forgets a half-open handshake, after this."""

    half_open_limit: int = 1024
    """Handshakes a server holds that no client has confirmed."""

    half_open_before_retry: int = 64
    """Above this many half-open handshakes a client must first prove its address."""

    sessions_limit: int = 65536
    """Sessions of an endpoint; further clients are answered as if nobody were there."""

    idle_timeout_seconds: float = 30.0
    """A session ends when nothing authentic came for this long; the lower of both sides rules
    (RFC 9000 §10.1). 0 is never."""

    keepalive_seconds: float = 15.0
    """A quiet session is pinged this often (RFC 8085 §3.5), and at least twice in the idle timeout
    of the side that has the lower one. 0 turns it off."""

    grace_seconds: float = 2.0
    """Closing waits this long for queued messages and running handlers; handlers of a session that
    ends otherwise have as long. Then they are cancelled, and `on_close` has as long again."""

    mailbox_bytes: int = 1024 * 1024
    """What an unreliable channel may hold for a slow handler; the oldest is dropped beyond."""

    upload_window_bytes: int = 512 * 1024
    """Content of an upload that may be ahead of its handler. It counts as an unfinished record, so
    there are no more uploads at once than the reassembly limits have room for."""

    requests_limit: int = 1024
    """Requests of one session that may be waiting for their answers, and handled at once."""

    socket_buffer_bytes: int = 4 * 1024 * 1024
    """Asked of the kernel for each direction; it may grant less."""

    receive_queue_datagrams: int = 4096
    """Datagrams that a connectionless endpoint holds for its program; see its `overflow`."""

    receive_queue_bytes: int = 4 * 1024 * 1024
    """The same in bytes; one datagram always fits."""

    transport_buffer_bytes: int = 256 * 1024
    """Packets that a transport may hold when the kernel takes no more; beyond, they are lost."""

    @property
    def largest_payload_bytes(self) -> int:
        """The largest record as it travels."""
        return self.max_record_bytes + RECORD_HEAD_BYTES

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            allowed.check(name, getattr(self, name))
        if self.transport not in get_args(Transport):
            raise ValueError(f"transport is 'auto', 'batch' or 'asyncio', not {self.transport!r}")
        _check_ciphers(self.ciphers)
        for name, least in _AT_LEAST:
            value, bound = getattr(self, name), getattr(self, least)
            if value < bound:
                raise ValueError(f"{name} is at least {least}, which is {bound}, not {value}")


def _check_ciphers(ciphers: object) -> None:
    known = get_args(Cipher)
    if not isinstance(ciphers, tuple):
        raise TypeError(f"ciphers is a tuple of {', '.join(known)}, not {ciphers!r}")
    names = cast("tuple[object, ...]", ciphers)
    if not names or len({*names}) < len(names) or any(name not in known for name in names):
        raise ValueError(f"ciphers are one or more of {', '.join(known)}, once, not {ciphers!r}")


_BYTES: Final = Range(1, BYTES_LIMIT)
_COUNT: Final = Range(1, COUNT_LIMIT)
_TIME: Final = Range(SHORTEST_SECONDS, SECONDS_LIMIT)

RANGES: Final[dict[str, Range]] = {
    "datagram_bytes": Range(SMALLEST_DATAGRAM_BYTES, 65507),
    "max_record_bytes": Range(1, 1 << 30),
    "channel_window_bytes": Range(SMALLEST_WINDOW_BYTES, BYTES_LIMIT),
    "reassembly_bytes_per_session": _BYTES,
    "reassembly_bytes_per_endpoint": _BYTES,
    "unread_bytes_per_session": _BYTES,
    "unread_bytes_per_endpoint": _BYTES,
    "reassembly_timeout_seconds": _TIME,
    "send_queue_messages": _COUNT,
    "send_queue_bytes": _BYTES,
    "channels_per_session": Range(1, 1 << 16),
    "congestion_window_bytes": Range(SMALLEST_DATAGRAM_BYTES, BYTES_LIMIT),
    "initial_rtt_seconds": Range(SHORTEST_SECONDS, 60.0),
    "max_ack_delay_seconds": Range(0.0, 16.383),  # RFC 9000 §18.2: below 2¹⁴ milliseconds
    "handshake_timeout_seconds": _TIME,
    "half_open_limit": _COUNT,
    "half_open_before_retry": Range(0, COUNT_LIMIT),
    "sessions_limit": _COUNT,
    "idle_timeout_seconds": Range(0.01, SECONDS_LIMIT, or_zero=True),
    "keepalive_seconds": Range(SHORTEST_SECONDS, SECONDS_LIMIT, or_zero=True),
    "grace_seconds": TIMEOUT_SECONDS,
    "mailbox_bytes": Range(0, BYTES_LIMIT),
    "upload_window_bytes": Range(SMALLEST_WINDOW_BYTES, BYTES_LIMIT),
    "requests_limit": _COUNT,
    "socket_buffer_bytes": Range(1, (1 << 31) - 1),  # the kernel takes a C int
    "receive_queue_datagrams": _COUNT,
    "receive_queue_bytes": _BYTES,
    "transport_buffer_bytes": Range(0, BYTES_LIMIT),
}
"""What each number may be."""

_AT_LEAST: Final = (
    ("reassembly_bytes_per_session", "max_record_bytes"),
    ("reassembly_bytes_per_endpoint", "max_record_bytes"),
    ("congestion_window_bytes", "datagram_bytes"),
)
"""Fields that would not work if they were lower than another."""
