"""`interfaces()`: the network interfaces of this machine and what they can do.

The list is getifaddrs(3), which Linux, macOS and the BSDs have and Python does not offer; elsewhere
interfaces have their names and numbers and nothing else.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from aerogram.errors import InvalidAddress
from aerogram.io.addresses import NAME_BYTES
from aerogram.io.sockets import is_numeric

_UP: Final = 0x1
_BROADCAST: Final = 0x2
_LOOPBACK: Final = 0x8
_MULTICAST: Final = 0x1000 if sys.platform == "linux" else 0x8000


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of an interface, and the network that it is in."""

    host: str
    """Numeric, without a scope."""

    prefix_length: int
    broadcast: str | None = None
    """Reaches every host of this network (directed broadcast); IPv4 only."""

    @property
    def is_ipv4(self) -> bool:
        """Whether it is an IPv4 address."""
        return ":" not in self.host


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface."""

    name: str
    index: int
    addresses: tuple[InterfaceAddress, ...] = ()
    is_up: bool = False
    is_loopback: bool = False
    can_broadcast: bool = False
    can_multicast: bool = False

    @property
    def broadcasts(self) -> tuple[str, ...]:
        """Its directed broadcast addresses."""
        return tuple(a.broadcast for a in self.addresses if a.broadcast is not None)


def interfaces() -> list[Interface]:
    """Return the interfaces, in the order of their numbers, whether they are up or not."""
    found = {name: Interface(name, index) for index, name in socket.if_nameindex()}
    for name, flags, address in _system_addresses():
        known = found.get(name)
        if known is None:
            continue  # it came between the two questions
        found[name] = replace(
            known,
            addresses=known.addresses if address is None else (*known.addresses, address),
            is_up=bool(flags & _UP),
            is_loopback=bool(flags & _LOOPBACK),
            can_broadcast=bool(flags & _BROADCAST),
            can_multicast=bool(flags & _MULTICAST),
        )
    return sorted(found.values(), key=lambda interface: interface.index)


def interface_index(interface: str | int) -> int:
    """Return the number of an interface that is given by name, number, or one of its addresses.

    Raises `InvalidAddress` when there is none.
    """
    try:
        if isinstance(interface, int):
            socket.if_indextoname(interface)
            return interface
        if is_numeric(interface):
            return _index_by_address(interface)
        return socket.if_nametoindex(interface)
    except (OSError, OverflowError, TypeError, ValueError) as error:
        raise InvalidAddress(f"no such interface: {interface!r}") from error


def _index_by_address(host: str) -> int:
    wanted = ipaddress.ip_address(host.partition("%")[0])
    for interface in interfaces():
        for address in interface.addresses:
            if ipaddress.ip_address(address.host) == wanted:
                return interface.index
    raise InvalidAddress(f"no interface has the address {host}")


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs; the same on Linux and the BSDs."""


_IfAddrs._fields_ = [  # declared here, since it points to itself
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("broadcast", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def _system_addresses() -> Iterator[tuple[str, int, InterfaceAddress | None]]:
    """Name and flags of each interface, once for each of its addresses, and also without."""
    functions = _load()
    if functions is None:
        return
    getifaddrs, freeifaddrs = functions
    first = ctypes.POINTER(_IfAddrs)()
    if getifaddrs(ctypes.byref(first)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        entry: Any = first  # false when it is NULL
        while entry:
            item = entry.contents
            yield os.fsdecode(item.name), item.flags, _address_of(item)
            entry = item.next
    finally:
        freeifaddrs(first)


def _load() -> tuple[Callable[..., int], Callable[..., None]] | None:
    if sys.platform == "win32":
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        functions = library.getifaddrs, library.freeifaddrs
    except (OSError, AttributeError):
        return None
    return functions


def _address_of(item: Any) -> InterfaceAddress | None:
    host = _host_at(item.address)
    if host is None:
        return None
    mask = _host_at(item.netmask)
    prefix_length = 0 if mask is None else int(ipaddress.ip_address(mask)).bit_count()
    broadcast = None
    if ":" not in host and item.flags & _BROADCAST:
        broadcast = _host_at(item.broadcast)
        if broadcast in (host, "0.0.0.0"):  # noqa: S104  what an interface without one shows
            broadcast = None
    return InterfaceAddress(host, prefix_length, broadcast)


def _host_at(pointer: int | None) -> str | None:
    """The host in a struct sockaddr; None for other families, such as hardware addresses."""
    if not pointer:
        return None
    start = ctypes.string_at(pointer, 2)
    # The BSDs put the length in the first byte and the family in the second.
    family = int.from_bytes(start, sys.byteorder) if sys.platform == "linux" else start[1]
    size = NAME_BYTES.get(family)
    if size is None:
        return None
    packed = ctypes.string_at(pointer, size)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packed[4:8])
    return socket.inet_ntop(socket.AF_INET6, packed[8:24])
