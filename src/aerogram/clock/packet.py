"""The NTP packet (RFC 5905 §7.3) as SNTP uses it: 48 bytes, four timestamps, one parser.

Times are seconds since 1970 as float; on the wire they are seconds since 1900 in 32.32 bits, which
wrap in 2036: a timestamp is taken for the moment nearest to one its reader knows (RFC 4330 §3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from aerogram.errors import DecodeError

PACKET_BYTES: Final = 48
EPOCH_SECONDS: Final = 2_208_988_800
"""From 1900 to 1970."""
ERA_SECONDS: Final = 1 << 32
UNSYNCHRONISED: Final = 3
"""The leap indicator of a server that does not know the time."""
VERSIONS: Final = range(1, 5)

_LAYOUT: Final = struct.Struct("!BBbbII4sQQQQ")
_FRACTION: Final = 1 << 32
_SHORT: Final = 1 << 16


class Mode(IntEnum):
    """Who speaks (RFC 5905 §7.3, figure 10)."""

    CLIENT = 3
    SERVER = 4
    BROADCAST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NtpPacket:
    """One NTP packet. Timestamps are the 64 bits of the wire, so that they can be compared."""

    leap: int = 0
    version: int = 4
    mode: int = Mode.CLIENT
    stratum: int = 0
    poll: int = 0
    precision: int = 0
    root_delay: float = 0.0
    """Seconds to the primary source and back."""
    root_dispersion: float = 0.0
    """Seconds by which the server may be off."""
    reference_id: bytes = b"\x00\x00\x00\x00"
    reference: int = 0
    origin: int = 0
    receive: int = 0
    transmit: int = 0

    def encode(self) -> bytes:
        """The 48 bytes."""
        return _LAYOUT.pack(
            self.leap << 6 | self.version << 3 | self.mode,
            self.stratum,
            self.poll,
            self.precision,
            _short(self.root_delay),
            _short(self.root_dispersion),
            self.reference_id,
            self.reference,
            self.origin,
            self.receive,
            self.transmit,
        )


def decode_untrusted(data: bytes) -> NtpPacket:
    """Read a packet; extension fields and a MAC behind it are ignored. Raises `DecodeError`."""
    if len(data) < PACKET_BYTES:
        raise DecodeError("an NTP packet is cut off")
    first, stratum, poll, precision, delay, dispersion, identity, *times = _LAYOUT.unpack_from(data)
    version = first >> 3 & 7
    if version not in VERSIONS:
        raise DecodeError("an unknown version of NTP")
    return NtpPacket(
        leap=first >> 6,
        version=version,
        mode=first & 7,
        stratum=stratum,
        poll=poll,
        precision=precision,
        root_delay=delay / _SHORT,
        root_dispersion=dispersion / _SHORT,
        reference_id=identity,
        reference=times[0],
        origin=times[1],
        receive=times[2],
        transmit=times[3],
    )


def to_timestamp(seconds: float) -> int:
    """Seconds since 1970 as the 64 bits of the wire."""
    fractions = round(seconds * _FRACTION)
    return (fractions + EPOCH_SECONDS * _FRACTION) % (ERA_SECONDS * _FRACTION)


def from_timestamp(timestamp: int, near: float) -> float:
    """Seconds since 1970 of the timestamp, in the era in which it is nearest to `near`."""
    seconds = (timestamp >> 32) - EPOCH_SECONDS + (timestamp & 0xFFFF_FFFF) / _FRACTION
    return seconds + round((near - seconds) / ERA_SECONDS) * ERA_SECONDS


def _short(seconds: float) -> int:
    return min(max(round(seconds * _SHORT), 0), 0xFFFF_FFFF)
