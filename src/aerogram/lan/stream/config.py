"""Every limit and tunable of multicast sessions, each with a default, a unit and a reason.

Sender and receivers have one each and need not agree, but the senders' times are made for
receivers with the same ones. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from aerogram.config import SMALLEST_DATAGRAM_BYTES

DATAGRAM_BYTES_LIMIT: Final = 65507
"""What one IPv4 datagram carries."""


@dataclass(frozen=True, slots=True)
class MulticastConfig:
    """Limits and times of a multicast session. Raises `ValueError` for a value out of range."""

    datagram_bytes: int = 1200
    """Largest datagram that is sent; 1472 fills an Ethernet frame (IPv4)."""

    rate_bytes_per_second: float = 5_000_000.0
    """What the sender sends at most, repairs included: there is no congestion control."""

    max_message_bytes: int = 1024 * 1024
    """Largest message."""

    send_queue_bytes: int = 1024 * 1024
    """What may wait for the rate before `send` waits; one larger message is let in when empty."""

    send_queue_messages: int = 8192
    """The same in messages."""

    buffer_bytes: int = 8 * 1024 * 1024
    """What a sender holds for repairs and late joiners. What is older is lost to who lacks it."""

    buffer_messages: int = 65536
    """The same in messages."""

    hold_seconds: float = 5.0
    """What somebody still asks for is held for so long after it was sent, even if newer messages
    have to wait: a bad member slows a stream to `buffer_bytes` in this time, and then it loses. 0
    never waits: who is too slow loses."""

    heartbeat_seconds_min: float = 0.02
    """After the last data a heartbeat follows so soon, to show losses at the tail..."""

    heartbeat_seconds_max: float = 1.0
    """...and then ever more rarely, up to this."""

    rtt_seconds_min: float = 0.005
    """The round trip of the group counts as this at least: a loaded program is no quicker."""

    rtt_seconds_max: float = 2.0
    """And as this at most, so that no member can slow all repairs at will."""

    backoff_factor: float = 4.0
    """A receiver waits up to so many round trips before it asks (RFC 5740 §5.4.1 "K")."""

    nacks_per_second: float = 20.0
    """What a receiver sends at most, and twice of it what a sender takes from one member."""

    nacks_per_second_of_group: float = 500.0
    """What a sender takes from all members together."""

    members_limit: int = 4096
    """Receivers of one sender; further ones are refused."""

    members_per_session: int = 4
    """Receivers that one session may join with."""

    old_key_seconds: float = 2.0
    """For so long after a new key, packets on their way with the one before are taken."""

    rekey_seconds_min: float = 1.0
    """Members that leave by themselves bring a new key this often at most, for all others have to
    fetch it; so they may read on for so long. `expel` always brings one at once."""

    report_seconds: float = 1.0
    """How often a receiver tells the sender how it fares, in a group of up to 200."""

    linger_seconds: float = 2.0
    """A sender that closes repairs for so long unless all have everything."""

    silence_seconds: float = 10.0
    """A receiver that has heard nothing for this long takes the stream for lost."""

    receive_buffer_bytes: int = 16 * 1024 * 1024
    """What a receiver holds behind a gap, and of unfinished messages."""

    receive_queue_bytes: int = 4 * 1024 * 1024
    """What may wait for the program; beyond, the oldest is dropped and shown as a gap."""

    receive_queue_messages: int = 65536
    """The same in messages."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < 2**53:
                raise ValueError(f"{field.name} is out of range: {value!r}")
            if value == 0 and field.name != "hold_seconds":
                raise ValueError(f"{field.name} is above 0")
        if not SMALLEST_DATAGRAM_BYTES <= self.datagram_bytes <= DATAGRAM_BYTES_LIMIT:
            raise ValueError(f"datagram_bytes is 1200 to 65507, not {self.datagram_bytes}")
        if 2 * self.max_message_bytes > self.buffer_bytes:
            raise ValueError("buffer_bytes has room for two of the largest messages")
        if self.max_message_bytes > self.receive_buffer_bytes:
            raise ValueError("receive_buffer_bytes has room for the largest message")
        if self.heartbeat_seconds_min > self.heartbeat_seconds_max:
            raise ValueError("heartbeat_seconds_min is above heartbeat_seconds_max")
        if self.rtt_seconds_min > self.rtt_seconds_max:
            raise ValueError("rtt_seconds_min is above rtt_seconds_max")
