"""Multicast groups: who receives what is sent to them, and by which interface it goes out.

Membership belongs to a socket and an interface: a host with several interfaces joins on each. A
source-specific member (RFC 4607) hears one sender only. Rules: a group or source that is none
raises `InvalidAddress`; a join on several interfaces happens on all of them or on none.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

from aerogram.errors import InvalidAddress
from aerogram.io.ancillary import TTL_LIMIT
from aerogram.io.interfaces import interface_index

InterfaceName = str | int
"""An interface by name, number, or one of its addresses."""

# The values of <linux/in.h> and <linux/in6.h>.
_MCAST_JOIN_GROUP: Final = 42
_MCAST_LEAVE_GROUP: Final = 45
_MCAST_JOIN_SOURCE_GROUP: Final = 46
_MCAST_LEAVE_SOURCE_GROUP: Final = 47
_IP_MULTICAST_ALL: Final = 49
_IPV6_MULTICAST_ALL: Final = 29

_SOCKADDR_STORAGE_BYTES: Final = 128
_GROUP_REQUEST: Final = struct.Struct("@I0Q")


@runtime_checkable
class JoinsGroups(Protocol):
    """A transport without a socket, as of a simulated network, that has groups all the same."""

    def join_group(self, group: str, interface: str | None, source: str | None) -> None:
        """Receive what is sent to `group`, from `source` only if given."""

    def leave_group(self, group: str, interface: str | None, source: str | None) -> None:
        """Undo `join_group`."""


@runtime_checkable
class _Loops(Protocol):
    """The same for IP_MULTICAST_LOOP."""

    multicast_loop: bool


@runtime_checkable
class _Broadcasts(Protocol):
    """The same for SO_BROADCAST."""

    allow_broadcast: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """A group that an endpoint has joined; leaving the `with` block, or the endpoint, ends it."""

    group: str
    interfaces: tuple[int, ...]
    """The numbers of the interfaces; 0 is the system's choice."""

    source: str | None
    _leave: Callable[[], None]

    def leave(self) -> None:
        """Receive no more from the group. Raises `OSError` if it has been left before."""
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._leave()


def join(
    sock: socket.socket,
    group: str,
    wanted: InterfaceName | Iterable[InterfaceName] | None,
    source: str | None,
) -> Membership:
    """Join on one interface, on several, or on the system's choice. Raises as `endpoint.join`."""
    check_group(sock, group, source)
    indexes = interface_indexes(wanted)
    only_own_groups(sock)
    joined: list[int] = []
    try:
        for index in indexes:
            _change(sock, group, index, source, join=True)
            joined.append(index)
    except OSError:
        _leave_all(sock, group, joined, source)
        raise
    return Membership(group, indexes, source, lambda: leave(sock, group, indexes, source))


def join_by_transport(
    transport: object,
    group: str,
    wanted: InterfaceName | Iterable[InterfaceName] | None,
    source: str | None,
) -> Membership:
    """As `join`, where there is no socket. Raises `OSError` where there are no groups either."""
    check_group(None, group, source)
    groups, names = _groups_of(transport), _names(wanted)
    for name in names:
        groups.join_group(group, name, source)
    return Membership(
        group, (0,), source, lambda: leave_by_transport(transport, group, wanted, source)
    )


def leave_by_transport(
    transport: object,
    group: str,
    wanted: InterfaceName | Iterable[InterfaceName] | None,
    source: str | None,
) -> None:
    """Undo `join_by_transport`."""
    groups = _groups_of(transport)
    for name in _names(wanted):
        groups.leave_group(group, name, source)


def set_loop_of_transport(transport: object, loop: bool | None) -> None:
    """As `set_outgoing`, where there is no socket. Raises `OSError` where there is no multicast."""
    if not isinstance(transport, _Loops):
        raise OSError(errno.EOPNOTSUPP, "this network has no multicast")
    if loop is not None:
        transport.multicast_loop = loop


def allow_broadcast(transport: object) -> None:
    """Let a transport without a socket send to broadcast addresses, where it asks for that."""
    if isinstance(transport, _Broadcasts):
        transport.allow_broadcast = True


def _groups_of(transport: object) -> JoinsGroups:
    if not isinstance(transport, JoinsGroups):
        raise OSError(errno.EOPNOTSUPP, "this network has no multicast")
    return transport


def _names(wanted: InterfaceName | Iterable[InterfaceName] | None) -> list[str | None]:
    if wanted is None:
        return [None]
    return [str(name) for name in ([wanted] if isinstance(wanted, str | int) else wanted)]


def leave(sock: socket.socket, group: str, indexes: Sequence[int], source: str | None) -> None:
    """Leave on each of these interfaces. Raises the first `OSError` after trying all."""
    failure: OSError | None = None
    for index in indexes:
        try:
            _change(sock, group, index, source, join=False)
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def interface_indexes(wanted: InterfaceName | Iterable[InterfaceName] | None) -> tuple[int, ...]:
    """Return the numbers of interfaces, each once; (0,) for the system's choice.

    Raises `InvalidAddress` for one that does not exist, or for none at all.
    """
    if wanted is None:
        return (0,)
    names = [wanted] if isinstance(wanted, str | int) else list(wanted)
    if not names:
        raise InvalidAddress("no interface to join on")
    return tuple(dict.fromkeys(interface_index(name) for name in names))


def check_group(sock: socket.socket | None, group: object, source: object) -> None:
    """Raise `InvalidAddress` unless both are numeric and of the socket's family."""
    try:
        address = ipaddress.ip_address(str(group))
    except ValueError as error:
        raise InvalidAddress(f"not a multicast group: {group!r}") from error
    if not address.is_multicast:
        raise InvalidAddress(f"not a multicast group: {group!r}")
    if sock is not None and not carries(sock, address.version):
        raise InvalidAddress(f"this socket does not carry IPv{address.version}: {group!r}")
    if source is None:
        return
    try:
        sender = ipaddress.ip_address(str(source))
    except ValueError as error:
        raise InvalidAddress(f"not a source: {source!r}") from error
    if sender.version != address.version or sender.is_multicast:
        raise InvalidAddress(f"{source!r} cannot send to {group!r}")


def set_outgoing(
    sock: socket.socket,
    *,
    interface: InterfaceName | None,
    ttl: int | None,
    loop: bool | None,
) -> None:
    """Set how this socket sends to groups; None leaves a setting as it is."""
    if ttl is not None and (type(ttl) is not int or not 0 <= ttl <= TTL_LIMIT):
        raise ValueError(f"ttl is 0 to {TTL_LIMIT}, not {ttl!r}")
    if loop is not None and not isinstance(loop, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"loop is True or False, not {loop!r}")
    index = None if interface is None else interface_index(interface)
    if carries(sock, 4):
        ip_index = None if index is None else struct.pack("@4s4si", b"", b"", index)
        _set(sock, socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        _set(sock, socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
        _set(sock, socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip_index)
    if carries(sock, 6):
        _set(sock, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        _set(sock, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
        _set(sock, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)


def _set(sock: socket.socket, level: int, option: int, value: int | bytes | None) -> None:
    if value is not None:
        sock.setsockopt(level, option, value)


def carries(sock: socket.socket, version: int) -> bool:
    """Whether a socket sends and receives this version of IP."""
    if sock.family == socket.AF_INET:
        return version == 4
    if sock.family != socket.AF_INET6:
        return False
    return version == 6 or not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _change(sock: socket.socket, group: str, index: int, source: str | None, *, join: bool) -> None:
    level = socket.IPPROTO_IPV6 if ":" in group else socket.IPPROTO_IP
    if sys.platform == "linux":
        _change_on_linux(sock, level, group, index, source, join=join)
    elif source is not None:
        raise OSError(errno.EOPNOTSUPP, "source-specific multicast needs Linux")
    elif level == socket.IPPROTO_IPV6:
        option = socket.IPV6_JOIN_GROUP if join else socket.IPV6_LEAVE_GROUP
        packed = socket.inet_pton(socket.AF_INET6, group)
        sock.setsockopt(level, option, packed + struct.pack("@I", index))
    else:
        option = socket.IP_ADD_MEMBERSHIP if join else socket.IP_DROP_MEMBERSHIP
        # The BSDs and Windows read an address below 1.0.0.0 as the number of an interface.
        sock.setsockopt(level, option, socket.inet_aton(group) + struct.pack("!I", index))


def _change_on_linux(
    sock: socket.socket, level: int, group: str, index: int, source: str | None, *, join: bool
) -> None:
    """The protocol-independent options of RFC 3678 §5."""
    request = _GROUP_REQUEST.pack(index) + _storage(group)
    if source is None:
        sock.setsockopt(level, _MCAST_JOIN_GROUP if join else _MCAST_LEAVE_GROUP, request)
        return
    option = _MCAST_JOIN_SOURCE_GROUP if join else _MCAST_LEAVE_SOURCE_GROUP
    sock.setsockopt(level, option, request + _storage(source))


def _storage(host: str) -> bytes:
    """A struct sockaddr_storage with the host."""
    if ":" in host:
        packed = struct.pack("=HHI", socket.AF_INET6, 0, 0)
        packed += socket.inet_pton(socket.AF_INET6, host)
    else:
        packed = struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton(host)
    return packed.ljust(_SOCKADDR_STORAGE_BYTES, b"\0")


def only_own_groups(sock: socket.socket) -> None:
    """Linux else delivers what any program of the machine has joined (IP_MULTICAST_ALL)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        if sock.family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def _leave_all(sock: socket.socket, group: str, indexes: Sequence[int], source: str | None) -> None:
    with contextlib.suppress(OSError):
        leave(sock, group, indexes, source)
