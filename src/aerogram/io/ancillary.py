"""Control messages: what a socket tells about a datagram besides its bytes, and what can be asked.

The kernel puts a datagram's destination, interface, arrival time, TTL and TOS beside it, and takes
source, interface, TTL, TOS and the size of segments along with one that is sent (RFC 3542, ip(7),
ipv6(7), udp(7)). Received control messages stay packed until somebody asks: most datagrams are
handled without. Rules: what is read here was written by the local kernel, yet a short or odd one is
"not known" and never an exception; options that a system lacks are left out.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from aerogram.errors import InvalidAddress
from aerogram.io.sockets import SOL_UDP, UDP_GRO, UDP_SEGMENT

Control = bytes | Sequence[tuple[int, int, bytes]]
"""Control messages: packed as the kernel writes them, or as `socket.recvmsg` gives them."""

ControlList = list[tuple[int, int, bytes]]
"""Control messages as `socket.sendmsg` takes them: level, type, value."""

# The values of <linux/in.h>, <linux/in6.h> and <asm-generic/socket.h>; the socket module of Python
# 3.11 lacks most of these names.
IP_TOS: Final = 1
IP_TTL: Final = 2
IP_PKTINFO: Final = 8
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IPV6_RECVERR: Final = 25
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVHOPLIMIT: Final = 51
IPV6_HOPLIMIT: Final = 52
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
SO_TIMESTAMPNS: Final = 35
SO_RXQ_OVFL: Final = 40
SO_MEMINFO: Final = 55

CONTROL_BYTES: Final = 256
"""Room for all of the above at once on a dual-stack socket, which needs about 200."""

_INTERFACES_LIMIT: Final = 1 << 31
"""The number of an interface is a positive C int."""

_HEADER: Final = struct.Struct("@Nii")
"""struct cmsghdr: its length with the header, level, type."""

_RUN_MARK: Final = struct.pack("@ii", SOL_UDP, UDP_GRO)
"""Level and type of the size of a run. What only looks like it is found out by taking all apart."""

_WORD: Final = struct.calcsize("@N")
_INTEGER: Final = struct.Struct("=i")
_SEGMENT_SIZE: Final = struct.Struct("=H")
_TIMESPEC: Final = struct.Struct("=qq")
_IN_PKTINFO: Final = struct.Struct("=i4s4s")
_IN6_PKTINFO: Final = struct.Struct("=16sI")
_MEMORY_WORDS: Final = 9
_MEMORY_DROPS: Final = 8
_MAPPED: Final = bytes(10) + b"\xff\xff"

TTL_LIMIT: Final = 255


# Asking for it


def enable_details(sock: socket.socket) -> int:
    """Ask the kernel for destination, interface, time, TTL and TOS of each datagram received.

    Returns how many bytes of control messages each datagram has from now on: all that were asked
    for come with each one. Whatever else there is, such as the mark of a run, makes it more.
    """
    if sys.platform != "linux":
        return 0
    size = _try_set(sock, socket.SOL_SOCKET, SO_TIMESTAMPNS) * _space(_TIMESPEC.size)
    # It comes with some datagrams only; `dropped_by_kernel` has the same number.
    _try_set(sock, socket.SOL_SOCKET, SO_RXQ_OVFL, 0)
    if sock.family == socket.AF_INET:
        size += _try_set(sock, socket.IPPROTO_IP, IP_PKTINFO) * _space(_IN_PKTINFO.size)
        size += _try_set(sock, socket.IPPROTO_IP, IP_RECVTTL) * _space(_INTEGER.size)
        size += _try_set(sock, socket.IPPROTO_IP, IP_RECVTOS) * _space(1)
    elif sock.family == socket.AF_INET6:
        # IPv4 datagrams that dual stack lets in have the last two in their IPv4 form instead.
        _try_set(sock, socket.IPPROTO_IP, IP_RECVTTL)
        _try_set(sock, socket.IPPROTO_IP, IP_RECVTOS)
        size += _try_set(sock, socket.IPPROTO_IPV6, IPV6_RECVPKTINFO) * _space(_IN6_PKTINFO.size)
        size += _try_set(sock, socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT) * _space(_INTEGER.size)
        size += _try_set(sock, socket.IPPROTO_IPV6, IPV6_RECVTCLASS) * _space(_INTEGER.size)
    return size


def enable_error_queue(sock: socket.socket) -> bool:
    """Let ICMP errors queue up with the peer's address (IP_RECVERR). The queue must be drained."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    enabled = _try_set(sock, socket.IPPROTO_IP, IP_RECVERR)
    if sock.family == socket.AF_INET6:
        enabled = _try_set(sock, socket.IPPROTO_IPV6, IPV6_RECVERR)
    return enabled


def dropped_by_kernel(sock: socket.socket) -> int:
    """Datagrams dropped since the socket was made, mostly for want of receive buffer.

    It is the counter that SO_RXQ_OVFL reports, read when it is wanted (SO_MEMINFO) and not with
    each datagram: so it is right also when nothing follows the loss. 0 where it is not known.
    """
    if sys.platform != "linux":
        return 0
    try:
        words = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * _MEMORY_WORDS)
    except OSError:
        return 0
    if len(words) < 4 * _MEMORY_WORDS:
        return 0
    return int(struct.unpack_from("=I", words, 4 * _MEMORY_DROPS)[0])


def _try_set(sock: socket.socket, level: int, option: int, value: int = 1) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _space(size: int) -> int:
    """CMSG_SPACE: what a control message with a value of `size` takes."""
    return _HEADER.size + -(-size // _WORD) * _WORD


# Reading it


def timestamp(control: Control) -> float | None:
    """When the kernel received it: seconds since 1970, by the wall clock."""
    value = _find(control, socket.SOL_SOCKET, SO_TIMESTAMPNS)
    if value is None or len(value) < _TIMESPEC.size:
        return None
    seconds, nanoseconds = _TIMESPEC.unpack_from(value)
    return float(seconds + nanoseconds * 1e-9)


def destination_host(control: Control) -> str | None:
    """The address in the IP header: this machine's, a group, or a broadcast address."""
    value = _find(control, socket.IPPROTO_IPV6, IPV6_PKTINFO)
    if value is not None and len(value) >= _IN6_PKTINFO.size:
        return socket.inet_ntop(socket.AF_INET6, _IN6_PKTINFO.unpack_from(value)[0])
    value = _find(control, socket.IPPROTO_IP, IP_PKTINFO)
    if value is not None and len(value) >= _IN_PKTINFO.size:
        return socket.inet_ntop(socket.AF_INET, _IN_PKTINFO.unpack_from(value)[2])
    return None


def local_host(control: Control) -> str | None:
    """The same, or None for a group or broadcast address, from which nobody can answer."""
    value = _find(control, socket.IPPROTO_IPV6, IPV6_PKTINFO)
    if value is not None and len(value) >= _IN6_PKTINFO.size:
        packed = bytes(_IN6_PKTINFO.unpack_from(value)[0])
        group = packed[0] == 0xFF or (packed.startswith(_MAPPED) and packed[12] >= 224)
        return None if group else socket.inet_ntop(socket.AF_INET6, packed)
    value = _find(control, socket.IPPROTO_IP, IP_PKTINFO)
    if value is not None and len(value) >= _IN_PKTINFO.size:
        _, answer_from, destination = _IN_PKTINFO.unpack_from(value)
        return socket.inet_ntop(socket.AF_INET, destination) if answer_from == destination else None
    return None


def interface_index(control: Control) -> int | None:
    """The number of the interface that it came in by."""
    value = _find(control, socket.IPPROTO_IPV6, IPV6_PKTINFO)
    if value is not None and len(value) >= _IN6_PKTINFO.size:
        return int(_IN6_PKTINFO.unpack_from(value)[1])
    value = _find(control, socket.IPPROTO_IP, IP_PKTINFO)
    if value is not None and len(value) >= _IN_PKTINFO.size:
        return int(_IN_PKTINFO.unpack_from(value)[0])
    return None


def hops_left(control: Control) -> int | None:
    """TTL or hop limit, as it arrived."""
    return _number(control, IP_TTL, IPV6_HOPLIMIT)


def traffic_class(control: Control) -> int | None:
    """TOS or traffic class: DSCP in the upper six bits, ECN in the lower two (RFC 3168)."""
    return _number(control, IP_TOS, IPV6_TCLASS)


def segment_bytes(control: Control) -> int:
    """The size of each datagram of a run (UDP_GRO), or 0 for a lone one."""
    if isinstance(control, bytes) and _RUN_MARK not in control:
        return 0  # the usual case: to take all of them apart would cost more than the read
    value = _find(control, SOL_UDP, UDP_GRO)
    return 0 if value is None else int.from_bytes(value, sys.byteorder)


def unpacked(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The control messages of a packed buffer; it ends at the first that makes no sense."""
    start = 0
    while start + _HEADER.size <= len(control):
        length, level, kind = _HEADER.unpack_from(control, start)
        if length < _HEADER.size:
            return
        yield level, kind, control[start + _HEADER.size : start + length]
        start += -(-length // _WORD) * _WORD


def _find(control: Control, wanted_level: int, wanted_kind: int) -> bytes | None:
    messages = unpacked(control) if isinstance(control, bytes) else control
    for level, kind, value in messages:
        if level == wanted_level and kind == wanted_kind:
            return value
    return None


def _number(control: Control, kind: int, kind6: int) -> int | None:
    value = _find(control, socket.IPPROTO_IP, kind)
    if value is None:
        value = _find(control, socket.IPPROTO_IPV6, kind6)
    return int.from_bytes(value, sys.byteorder) if value else None


# Writing it


@functools.lru_cache(maxsize=1024)
def sending_control(
    family: int,
    *,
    to_ipv4: bool,
    source: str | None = None,
    interface: int = 0,
    ttl: int | None = None,
    tos: int | None = None,
) -> ControlList:
    """Control messages that send one datagram with these properties, for a socket of `family`.

    The list is shared: do not change it. Raises `InvalidAddress` for a source that is no numeric
    address of that family or an interface whose number is out of range, `ValueError` for a TTL or
    TOS out of range.
    """
    if not 0 <= interface < _INTERFACES_LIMIT:
        raise InvalidAddress(f"no such interface: {interface!r}")
    control: ControlList = []
    if source is not None or interface:
        control.append(_source_control(family, source, interface))
    if ttl is not None:
        control.append(_ranged("ttl", ttl, 1, IP_TTL, IPV6_HOPLIMIT, to_ipv4=to_ipv4))
    if tos is not None:
        control.append(_ranged("tos", tos, 0, IP_TOS, IPV6_TCLASS, to_ipv4=to_ipv4))
    return control


def packed(control: ControlList | Sequence[tuple[int, int, bytes]]) -> bytes:
    """Control messages as the kernel reads them: the other way round than `unpacked`."""
    parts: list[bytes] = []
    for level, kind, value in control:
        parts += (_HEADER.pack(_HEADER.size + len(value), level, kind), value)
        parts.append(bytes(-len(value) % _WORD))
    return b"".join(parts)


def segment_control(size: int) -> tuple[int, int, bytes]:
    """The control message that has the kernel cut one write into datagrams of `size`."""
    return SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(size)


def sent_segment_bytes(control: ControlList) -> int:
    """The size that `segment_control` has put among these, or 0."""
    value = _find(control, SOL_UDP, UDP_SEGMENT)
    return 0 if value is None else int(_SEGMENT_SIZE.unpack(value)[0])


def _source_control(family: int, source: str | None, interface: int) -> tuple[int, int, bytes]:
    if family == socket.AF_INET:
        packed = bytes(4) if source is None else _packed_host(socket.AF_INET, source)
        return socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(interface, packed, bytes(4))
    if source is None:
        packed = bytes(16)
    elif ":" in source:
        packed = _packed_host(socket.AF_INET6, source.partition("%")[0])
    else:
        packed = _MAPPED + _packed_host(socket.AF_INET, source)
    return socket.IPPROTO_IPV6, IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, interface)


def _packed_host(family: int, host: str) -> bytes:
    try:
        return socket.inet_pton(family, host)
    except (OSError, UnicodeError) as error:
        raise InvalidAddress(f"cannot send from {host!r}") from error


def _ranged(
    name: str, value: int, lowest: int, kind: int, kind6: int, *, to_ipv4: bool
) -> tuple[int, int, bytes]:
    if type(value) is not int or not lowest <= value <= TTL_LIMIT:
        raise ValueError(f"{name} is {lowest} to {TTL_LIMIT}, not {value!r}")
    if to_ipv4:
        return socket.IPPROTO_IP, kind, _INTEGER.pack(value)
    return socket.IPPROTO_IPV6, kind6, _INTEGER.pack(value)
