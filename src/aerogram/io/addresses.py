"""`AddressBook`: between the addresses of Python programs and those of one socket.

Rules: an address is checked once and then remembered, because the check costs as much as the send;
what is remembered is bounded, since strangers choose the addresses that packets come from. No name
is looked up here. AF_UNIX addresses look like the others: the path and port 0; a path that begins
with NUL is in Linux's abstract namespace, and an unnamed sender is ("", 0).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

from aerogram.errors import InvalidAddress
from aerogram.io.sockets import (
    Address,
    as_address,
    checked_socket_address,
    is_numeric,
    resolve_numeric,
)

KNOWN_ADDRESSES_LIMIT: Final = 16384
"""About 5 MB. Beyond it everything is forgotten at once, which costs a check for each again."""

UNIX_PATH_BYTES_LIMIT: Final = 107
"""sun_path of unix(7) has 108 with its final NUL."""

NAME_BYTES: Final = {int(socket.AF_INET): 16, int(socket.AF_INET6): 28}
"""Size of the `struct sockaddr` of a family; those of other families vary."""

_FAMILY: Final = struct.Struct("=H")
_INET: Final = struct.Struct("=H2s4s8x")
_INET6: Final = struct.Struct("!HI16s")
_MAPPED_PREFIX: Final = "::ffff:"


class AddressBook:
    """What one socket, of one address family, knows of the addresses of its peers."""

    __slots__ = ("_family", "_from_kernel", "_maps_ipv4", "_packed", "_to_kernel")

    def __init__(self, family: int, *, dual_stack: bool = False) -> None:
        self._family = family
        self._maps_ipv4 = dual_stack
        self._from_kernel: dict[bytes, Address] = {}
        self._to_kernel: dict[object, Any] = {}
        self._packed: dict[Address, bytes] = {}

    @property
    def known(self) -> dict[bytes, Address]:
        """Addresses by the bytes that the kernel writes; `learn` those that are missing."""
        return self._from_kernel

    def learn(self, packed: bytes) -> Address:
        """Return the address in a `struct sockaddr` of this socket's family, and remember it."""
        address = _unpacked(packed)
        if len(self._from_kernel) >= KNOWN_ADDRESSES_LIMIT:
            self._from_kernel.clear()
        self._from_kernel[packed] = address
        return address

    def from_python(self, sockaddr: Any) -> Address:
        """Return what the socket module gives for a peer as an `Address`."""
        if self._family not in (socket.AF_INET, socket.AF_INET6):
            return unix_address(sockaddr)
        return as_address(sockaddr)

    def for_socket(self, address: object) -> Any:
        """Return what the socket module takes for `address`. Raises `InvalidAddress`."""
        try:
            known = self._to_kernel.get(address)
        except TypeError as error:
            raise InvalidAddress(f"an address is a tuple (host, port), not {address!r}") from error
        if known is not None:
            return known
        checked = self._checked(address)
        if len(self._to_kernel) >= KNOWN_ADDRESSES_LIMIT:
            self._to_kernel.clear()
        self._to_kernel[address] = checked
        return checked

    def known_targets(self, addresses: Sequence[object]) -> list[Any] | None:
        """Return what `for_socket` would for each, or None if one of them is not known yet."""
        try:
            found = [*map(self._to_kernel.get, addresses)]
        except TypeError:  # one is no address at all
            return None
        return None if None in found else found

    def packed(self, targets: Sequence[Address]) -> Sequence[bytes]:
        """Return each target that `for_socket` gave as a `struct sockaddr`, as sendmmsg reads it.

        Only for IPv4 and IPv6.
        """
        found = [*map(self._packed.get, targets)]
        if None not in found:
            return cast("list[bytes]", found)
        return [self._packed.get(target) or self._pack(target) for target in targets]

    def _pack(self, target: Address) -> bytes:
        if len(self._packed) >= KNOWN_ADDRESSES_LIMIT:
            self._packed.clear()
        name = self._packed[target] = _packed(self._family, target)
        return name

    def _checked(self, address: object) -> Any:
        if self._family == socket.AF_INET6:
            return self._checked_ipv6(checked_socket_address(address))
        if self._family == socket.AF_INET:
            checked = checked_socket_address(address)
            if ":" in checked[0]:
                raise InvalidAddress(f"an IPv4 socket cannot send to {address!r}")
            return checked
        return checked_unix_path(address)

    def _checked_ipv6(self, address: Address) -> Address:
        if ":" in address[0]:
            mapped = address[0].lower().startswith(_MAPPED_PREFIX)
            if mapped and not self._maps_ipv4:
                raise InvalidAddress(f"not a dual-stack socket: {address!r}")
            return address if len(address) == 4 else resolve_numeric(*address)
        if not self._maps_ipv4:
            raise InvalidAddress(f"not a dual-stack socket: {address!r}")
        return f"{_MAPPED_PREFIX}{address[0]}", address[1], 0, 0


def checked_unix_path(address: object) -> str:
    """Return the path of an AF_UNIX address, given as `path` or `(path, 0)`.

    Raises `InvalidAddress` for anything else, an empty path, or one that is too long.
    """
    path = address
    if isinstance(address, tuple):
        parts = cast("tuple[object, ...]", address)
        path = parts[0] if len(parts) == 2 and parts[1] == 0 else parts
    if isinstance(path, os.PathLike):
        path = os.fspath(cast("os.PathLike[str]", path))
    if not isinstance(path, str):
        raise InvalidAddress(f"an AF_UNIX address is a path or (path, 0), not {address!r}")
    if not 0 < len(os.fsencode(path)) <= UNIX_PATH_BYTES_LIMIT:
        raise InvalidAddress(f"a path has 1 to {UNIX_PATH_BYTES_LIMIT} bytes, not {path!r}")
    if "\0" in path[1:] and path[0] != "\0":
        raise InvalidAddress(f"a path has no NUL inside: {path!r}")
    return path


def unix_address(sockaddr: str | bytes | None) -> Address:
    """Return what the socket module gives for an AF_UNIX peer as an `Address`."""
    return (os.fsdecode(sockaddr or ""), 0)


def is_ipv4(host: str) -> bool:
    """Whether a numeric host is carried by IPv4, mapped into IPv6 or not."""
    return ":" not in host or host.lower().startswith(_MAPPED_PREFIX)


def checked_source(host: object) -> str:
    """Return a numeric host to send from. Raises `InvalidAddress`."""
    if not isinstance(host, str) or not is_numeric(host):
        raise InvalidAddress(f"a source is a numeric host, not {host!r}")
    return host


def _packed(family: int, target: Address) -> bytes:
    """Write a `struct sockaddr` as sendmmsg reads it."""
    if family == socket.AF_INET:
        return _INET.pack(family, target[1].to_bytes(2, "big"), socket.inet_aton(target[0]))
    host, port, flow, scope = cast("tuple[str, int, int, int]", target)
    inet6 = _INET6.pack(port, flow, socket.inet_pton(family, host.partition("%")[0]))
    return _FAMILY.pack(family) + inet6 + scope.to_bytes(4, sys.byteorder)


def _unpacked(packed: bytes) -> Address:
    """Read a `struct sockaddr` as recvmmsg writes it."""
    if len(packed) < _FAMILY.size:
        return ("", 0)
    (family,) = _FAMILY.unpack_from(packed)
    if family == socket.AF_INET:
        port = int.from_bytes(packed[2:4], "big")
        return socket.inet_ntop(socket.AF_INET, packed[4:8]), port
    if family == socket.AF_INET6:
        port, flow, host = _INET6.unpack_from(packed, 2)
        scope = int.from_bytes(packed[24:28], sys.byteorder)
        return socket.inet_ntop(socket.AF_INET6, host), port, flow, scope
    path = packed[2:]
    return unix_address(path if path.startswith(b"\0") else path.rstrip(b"\0"))
