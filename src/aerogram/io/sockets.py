"""UDP sockets and their addresses: what is checked and which options are set before data flows.

Rules: a bad host or port raises `InvalidAddress` at the caller, because asyncio closes a shared
transport for one (`_fatal_error`) and uvloop sends to another port (70000 becomes 4464). Names are
never looked up here. Sockets never fragment (RFC 8899 needs that) unless it is asked for, and never
believe an ICMP "too big", which anyone can forge; they never set SO_REUSEADDR, which on UDP lets
others take the port.
What only Linux has is tried and, where it is missing, left out.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
from typing import Any, Final, TypeGuard

from aerogram.errors import InvalidAddress

Address = tuple[str, int] | tuple[str, int, int, int]
"""What the socket gives: (host, port), for IPv6 also flow label and scope. The host is numeric."""

LARGEST_PAYLOAD_BYTES: Final = 65507
"""65 535 less the IPv4 and UDP headers; IPv6 would take 20 more."""

ERRORS_OF_EARLIER: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EMSGSIZE,
        errno.ENOPROTOOPT,
        errno.EPROTO,
        errno.EACCES,  # what IPv6 makes of "administratively prohibited"
    }
)
"""ICMP answers to an earlier datagram. They take the place of the next send, which then has not
happened, so it is repeated once."""

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
# The values of <linux/udp.h> and <linux/in.h>: the socket module of Python 3.11 lacks these names.
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3

_LABEL_CHARACTERS_LIMIT: Final = 63
_NAME_CHARACTERS_LIMIT: Final = 253


def checked_address(host: object, port: object, *, to_bind: bool = False) -> tuple[str, int]:
    """Return host and port if they can be used, as given; the host may be a name or numeric.

    Port 0 is taken only `to_bind`. Raises `InvalidAddress`.
    """
    if not isinstance(host, str):
        raise InvalidAddress(f"a host is a str, not {type(host).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise InvalidAddress(f"a port is an int, not {type(port).__name__}")
    if not (0 if to_bind else 1) <= port <= 65535:
        raise InvalidAddress(f"port out of range: {port}")
    if not is_numeric(host):
        _check_name(host)
    return host, port


def checked_socket_address(address: object, *, to_bind: bool = False) -> Address:
    """Return `address` if a socket can use it without looking up a name.

    Port 0 is taken only `to_bind`. Raises `InvalidAddress` for all but (numeric host, port) and its
    IPv6 form with four items.
    """
    if not _is_tuple(address) or len(address) not in (2, 4):
        raise InvalidAddress(f"an address is a tuple (host, port), not {address!r}")
    host, port = checked_address(address[0], address[1], to_bind=to_bind)
    if not is_numeric(host):
        raise InvalidAddress(f"not a numeric host: {host!r}; resolve it first")
    if len(address) == 2:
        return host, port
    flow, scope = address[2], address[3]
    if not _is_flow_and_scope(flow, scope):
        raise InvalidAddress(f"flow label or scope out of range: {address!r}")
    if ":" not in host:
        raise InvalidAddress(f"only an IPv6 address has four items, not {address!r}")
    return host, port, flow, scope


def check_target(address: Any, family: int) -> None:
    """Raise `InvalidAddress` for what a socket of this family cannot send to at once.

    The quick check of each write: `sendto` itself would ask a name server for any other host, and
    transports react badly to other ports. A peer may come from port 0; to send there fails.
    """
    try:
        socket.inet_pton(family, address[0])
        port = address[1]
        if type(port) is int and 0 <= port <= 65535 and _is_tuple(address):
            if len(address) == 2:
                return
            if len(address) == 4 and family == socket.AF_INET6 and _is_flow_and_scope(*address[2:]):
                return
    except (IndexError, KeyError, OSError, TypeError, ValueError):
        pass
    raise InvalidAddress(f"cannot send to {address!r}")


def _is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _is_flow_and_scope(flow: object, scope: object) -> bool:
    return type(flow) is int and 0 <= flow < 2**20 and type(scope) is int and 0 <= scope < 2**32


def is_numeric(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address, for which no name server is asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a numeric host stays on this machine. A name is not loopback: resolve it first."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def resolve_numeric(host: str, port: int) -> Address:
    """Return what a socket gives for a numeric host, with the scope's number for `fe80::1%eth0`.

    Asks no name server. Raises `InvalidAddress`, as for a scope that this machine does not have.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidAddress(f"cannot use host {host!r}: {error}") from error
    return as_address(found[0][4])


def as_address(sockaddr: tuple[object, ...]) -> Address:
    """Return the socket module's loosely typed tuple as an `Address`."""
    host, port, *rest = sockaddr
    assert isinstance(host, str) and isinstance(port, int), sockaddr
    if not rest:
        return host, port
    flow, scope = rest
    assert isinstance(flow, int) and isinstance(scope, int), sockaddr
    return host, port, flow, scope


def create_udp_socket(
    address: Address,
    *,
    buffer_bytes: int,
    reuse_port: bool = False,
    ipv6_only: bool = True,
    may_fragment: bool = False,
) -> socket.socket:
    """Return a non-blocking UDP socket bound to a numeric address.

    `buffer_bytes` is asked of the kernel for each direction; it may grant less. With `reuse_port`
    several sockets share the port (Linux spreads peers over them); without it a second bind fails.
    `ipv6_only=False` lets an IPv6 socket carry IPv4 too, with addresses like `::ffff:127.0.0.1`.
    `may_fragment` leaves it to the system to cut datagrams that are larger than a link takes.
    Raises `InvalidAddress`, or the `OSError` of bind, such as EADDRINUSE.
    """
    checked_socket_address(address, to_bind=True)
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise OSError(errno.EOPNOTSUPP, "this system cannot share a port")
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ipv6_only))
        if reuse_port:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ask_buffers(udp, buffer_bytes)
        if not may_fragment:
            _never_fragment(udp)
        udp.bind(address)
    except BaseException:
        udp.close()
        raise
    return udp


def ask_buffers(sock: socket.socket, buffer_bytes: int) -> None:
    """Ask the kernel for buffers of this size in each direction; it may grant less."""
    _ask(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    _ask(sock, socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)


def enable_receive_runs(udp: socket.socket) -> bool:
    """Let the kernel hand over several datagrams of one peer in one read (UDP_GRO), if it can."""
    return sys.platform == "linux" and _ask(udp, SOL_UDP, UDP_GRO, 1)


def can_send_runs(udp: socket.socket) -> bool:
    """Whether the kernel cuts one write into several datagrams (UDP_SEGMENT)."""
    return sys.platform == "linux" and _ask(udp, SOL_UDP, UDP_SEGMENT, 0)


def _never_fragment(udp: socket.socket) -> None:
    if sys.platform != "linux":
        return
    # PROBE and not DO: DO would believe a forged ICMP "fragmentation needed" (CVE-2024-53259).
    _ask(udp, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    if udp.family == socket.AF_INET6:
        _ask(udp, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)


def _ask(udp: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that is a wish: systems that lack it, or limit it lower, work without."""
    with contextlib.suppress(OSError):
        udp.setsockopt(level, option, value)
        return True
    return False


def _check_name(host: str) -> None:
    """Refuse what no resolver can answer, before it costs a look-up or raises UnicodeError."""
    try:
        encoded = host.encode("ascii" if host.isascii() else "idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidAddress(f"not a host name: {host!r}") from error
    labels = encoded.removesuffix(".").split(".")
    if len(encoded) > _NAME_CHARACTERS_LIMIT + 1 or not all(map(_is_label, labels)):
        raise InvalidAddress(f"not a host name: {host!r}")


def _is_label(label: str) -> bool:
    # A scope (`%eth0`), a URL, a space or a NUL is no part of a name (RFC 1123 §2.1, with "_").
    return 0 < len(label) <= _LABEL_CHARACTERS_LIMIT and all(
        c.isalnum() or c in "-_" for c in label
    )
