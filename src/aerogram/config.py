"""Every limit and tunable of Aerogram, each with a default, a unit in its name and a reason.

A `Config` is immutable; `dataclasses.replace` makes a variant. The same object serves servers and
clients. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

SMALLEST_DATAGRAM_BYTES: Final = 1200
"""RFC 9000 §14: what every path carries; INIT is padded to it against amplification."""

SMALLEST_WINDOW_BYTES: Final = 4096
"""A peer with a smaller window could never be sent a whole packet's worth."""

MESSAGE_OVERHEAD_BYTES: Final = 32
"""Added to a message's size in flow control, so that a window also bounds the count of messages."""

MESSAGES_LIMIT: Final = 1 << 62
"""Numbers of messages, packets and channels are RFC 9000 variable-length integers."""


@dataclass(frozen=True, slots=True)
class Config:
    """Limits and times of an endpoint and of each of its sessions.

    Raises `ValueError` for a value out of its range.
    """

    transport: Literal["auto", "batch", "asyncio"] = "auto"
    """`auto` takes the batched transport where the loop and the kernel offer it."""

    datagram_bytes: int = 1200
    """Largest UDP payload that is sent. 1200 passes everywhere (RFC 9000 §14)."""

    max_record_bytes: int = 16 * 1024 * 1024
    """Largest message this side takes; the peer is told, larger ones fail at its `send`."""

    channel_window_bytes: int = 1024 * 1024
    """Receive window of a channel: what a peer may have sent that no handler has consumed."""

    reassembly_bytes_per_session: int = 64 * 1024 * 1024
    """Pieces of unfinished records held for one session, beside what its windows hold.

    At least `max_record_bytes`.
    """

    reassembly_bytes_per_endpoint: int = 256 * 1024 * 1024
    """The same over all sessions of an endpoint."""

    reassembly_timeout_seconds: float = 10.0
    """An unreliable record whose pieces stop coming is dropped after this."""

    send_queue_messages: int = 8192
    """Messages that may wait on a channel before `send` waits for room, unless it says otherwise.
    """

    send_queue_bytes: int = 1024 * 1024
    """The same in bytes; one larger record is let in when the queue is empty."""

    channels_per_session: int = 256
    """Channels that a peer may announce; each may hold a window of what waits. The same limit holds
    for what this side opens, for its peer is likely to have the same."""

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
    """A session ends when nothing authentic came for this long; the lower of both sides rules."""

    keepalive_seconds: float = 15.0
    """A quiet session is pinged this often (RFC 8085 §3.5). 0 turns it off."""

    grace_seconds: float = 2.0
    """Closing waits this long for queued messages and running handlers."""

    mailbox_bytes: int = 1024 * 1024
    """What an unreliable channel may hold for a slow handler; the oldest is dropped beyond."""

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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and not 0 <= value < 2**53:
                raise ValueError(f"{field.name} is out of range: {value!r}")
        if not SMALLEST_DATAGRAM_BYTES <= self.datagram_bytes <= 65507:
            raise ValueError(f"datagram_bytes must be 1200 to 65507, not {self.datagram_bytes}")
        if self.max_record_bytes > 1024 * 1024 * 1024:
            raise ValueError("max_record_bytes is at most 1 GiB")
        if self.reassembly_bytes_per_session < self.max_record_bytes:
            raise ValueError("reassembly_bytes_per_session is less than max_record_bytes")
        if self.reassembly_bytes_per_endpoint < self.max_record_bytes:
            raise ValueError("reassembly_bytes_per_endpoint is less than max_record_bytes")
        if self.channel_window_bytes < SMALLEST_WINDOW_BYTES:
            raise ValueError(f"channel_window_bytes is at least {SMALLEST_WINDOW_BYTES}")
        if self.congestion_window_bytes < self.datagram_bytes:
            raise ValueError("congestion_window_bytes is less than datagram_bytes")
        if self.transport not in ("auto", "batch", "asyncio"):
            raise ValueError(f"transport is 'auto', 'batch' or 'asyncio', not {self.transport!r}")
