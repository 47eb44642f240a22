"""Writes UDP datagrams as a pcapng file, which Wireshark and tshark open.

Datagrams have no headers in a simulation, so they are made here, with correct checksums. The format
is draft-ietf-opsawg-pcapng: one section, one interface of raw IP packets (LINKTYPE_RAW), and an
Enhanced Packet Block for each datagram, with its direction and a comment.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from aerogram.io.sockets import Address

LINKTYPE_RAW: Final = 101

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_ENHANCED_PACKET: Final = 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_WHOLE_SECTION: Final = -1

_END: Final = 0
_COMMENT: Final = 1
_INTERFACE_NAME: Final = 2
_PACKET_FLAGS: Final = 2
_TIME_RESOLUTION: Final = 9
_NANOSECONDS: Final = 9

_UDP: Final = 17
_TTL: Final = 64
_DO_NOT_FRAGMENT: Final = 0x4000


class Direction(enum.IntEnum):
    """Bits 0 and 1 of a packet's flags."""

    INBOUND = 1
    OUTBOUND = 2


class Packet(NamedTuple):
    """One datagram of a capture. `time` is in Unix seconds."""

    time: float
    source: Address
    destination: Address
    data: bytes
    direction: Direction
    comment: str


def write_packets(
    path: str | Path, packets: Iterable[Packet], interface: str = "simulated network"
) -> None:
    """Write a capture file. Raises the `OSError` of opening it."""
    with Path(path).open("wb") as file:
        file.write(_block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _WHOLE_SECTION)))
        options = [
            (_INTERFACE_NAME, interface.encode()),
            (_TIME_RESOLUTION, bytes([_NANOSECONDS])),
        ]
        file.write(_block(_INTERFACE, struct.pack("<HHI", LINKTYPE_RAW, 0, 0) + _options(options)))
        for number, packet in enumerate(packets):
            _write_packet(file, number, packet)


def _write_packet(file: BinaryIO, number: int, packet: Packet) -> None:
    content = ip_packet(packet.source, packet.destination, packet.data, identification=number)
    nanoseconds = round(packet.time * 1e6) * 1000  # a float holds Unix time to the microsecond
    options = [
        (_COMMENT, packet.comment.encode()),
        (_PACKET_FLAGS, struct.pack("<I", packet.direction)),
    ]
    head = struct.pack(
        "<IIIII", 0, nanoseconds >> 32, nanoseconds & 0xFFFFFFFF, len(content), len(content)
    )
    file.write(_block(_ENHANCED_PACKET, head + _padded(content) + _options(options)))


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _options(options: list[tuple[int, bytes]]) -> bytes:
    encoded = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    return b"".join(encoded) + struct.pack("<HH", _END, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def ip_packet(
    source: Address, destination: Address, data: bytes, *, identification: int = 0
) -> bytes:
    """Return a datagram with the headers that it has on the wire (RFC 768, 791, 8200)."""
    addresses = _packed(source) + _packed(destination)
    length = 8 + len(data)
    ports = struct.pack("!HH", source[1], destination[1])
    pseudo = addresses + struct.pack("!II", length, _UDP)
    # A checksum of 0 means none, so one that comes out as 0 is sent as its complement.
    checksum = _checksum(pseudo + ports + struct.pack("!HH", length, 0) + data) or 0xFFFF
    udp = ports + struct.pack("!HH", length, checksum) + data
    if len(addresses) == 32:
        return struct.pack("!IHBB", 6 << 28, length, _UDP, _TTL) + addresses + udp
    fields = (0x45, 0, 20 + length, identification & 0xFFFF, _DO_NOT_FRAGMENT, _TTL, _UDP)
    sum_of_header = _checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
    return struct.pack("!BBHHHBBH", *fields, sum_of_header) + addresses + udp


def _packed(address: Address) -> bytes:
    return ipaddress.ip_address(address[0].partition("%")[0]).packed


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    # All 16-bit words as one number: since 2^16 = 1 modulo 0xFFFF, its remainder is their sum.
    # A sum that is not zero never wraps to 0, so a remainder of 0 stands for 0xFFFF.
    number = int.from_bytes(data + bytes(len(data) % 2), "big")
    assert number, "no header is all zeros"
    return ~(number % 0xFFFF or 0xFFFF) & 0xFFFF
