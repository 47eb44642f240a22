"""Datagrams that no ordinary socket sends."""

from __future__ import annotations

import os
import socket
import struct

LOOPBACK = "127.0.0.1"
CAN_FORGE = hasattr(os, "geteuid") and os.geteuid() == 0
"""Raw sockets are for root."""


def send_from_port_0(data: bytes, port: int, host: str = LOOPBACK) -> None:
    """A datagram by loopback that nobody can answer, where it can be made."""
    if not CAN_FORGE:
        return
    addresses = socket.inet_aton(LOOPBACK) + socket.inet_aton(host)
    udp = struct.pack("!4H", 0, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
        raw.sendto(head + addresses + udp, (host, port))
