"""Hands out the addresses of simulated hosts: in order, so that every run has the same ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Container
from typing import Final

from aerogram.errors import InvalidAddress

_HOSTS: Final = int(ipaddress.IPv4Address("10.0.0.0"))
_HOSTS6: Final = int(ipaddress.IPv6Address("fd00::"))
_NATS: Final = int(ipaddress.IPv4Address("198.18.0.0"))
"""RFC 2544: set aside for testing networks, so it cannot be mistaken for an inside address."""

_HOSTS_PREFIX: Final = 8
_OTHERS_PREFIX: Final = 24
_IPV6_PREFIX: Final = 64

_ADDRESSES_LIMIT: Final = 1 << 20
"""Hosts, or NATs, that a network can have."""


class AddressBook:
    """The next free addresses. `taken` are those that somebody has chosen."""

    def __init__(self) -> None:
        self._hosts = 0
        self._hosts6 = 0
        self._nats = 0

    def next_ipv4(self, taken: Container[str]) -> ipaddress.IPv4Interface:
        """Return 10.0.0.1 and so on."""
        while True:
            self._hosts = _next_number(self._hosts)
            interface = ipaddress.IPv4Interface((_HOSTS + self._hosts, _HOSTS_PREFIX))
            if str(interface.ip) not in taken:
                return interface

    def next_ipv6(self, taken: Container[str]) -> ipaddress.IPv6Interface:
        """Return fd00::1 and so on."""
        while True:
            self._hosts6 = _next_number(self._hosts6)
            interface = ipaddress.IPv6Interface((_HOSTS6 + self._hosts6, _IPV6_PREFIX))
            if str(interface.ip) not in taken:
                return interface

    def next_nat(self, taken: Container[str]) -> str:
        """Return 198.18.0.1 and so on."""
        while True:
            self._nats = _next_number(self._nats)
            address = str(ipaddress.IPv4Address(_NATS + self._nats))
            if address not in taken:
                return address


def _next_number(number: int) -> int:
    """Count, but for numbers that end in 0 or 255 and look like networks and broadcasts."""
    number += 1
    while number & 0xFF in (0, 0xFF):
        number += 1
    assert number < _ADDRESSES_LIMIT, "a network with a million hosts"
    return number


def parse_ipv4(text: str) -> ipaddress.IPv4Interface:
    """Return an address with its subnet: `10.1.2.3/16`, or by default /8 in 10.x and /24 else.

    Raises `InvalidAddress`.
    """
    interface = _parse(text)
    if not isinstance(interface, ipaddress.IPv4Interface):
        raise InvalidAddress(f"not an IPv4 address: {text!r}")
    if "/" in text:
        return interface
    prefix = _HOSTS_PREFIX if text.startswith(("10.", "127.")) else _OTHERS_PREFIX
    return ipaddress.IPv4Interface((interface.ip, prefix))


def parse_ipv6(text: str) -> ipaddress.IPv6Interface:
    """Return an address with its subnet, /64 by default. Raises `InvalidAddress`."""
    interface = _parse(text)
    if not isinstance(interface, ipaddress.IPv6Interface):
        raise InvalidAddress(f"not an IPv6 address: {text!r}")
    return interface if "/" in text else ipaddress.IPv6Interface((interface.ip, _IPV6_PREFIX))


def _parse(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidAddress(f"not an address: {text!r}") from error
    if interface.ip.is_unspecified or interface.ip.is_multicast:
        raise InvalidAddress(f"no host can have this address: {text}")
    return interface
