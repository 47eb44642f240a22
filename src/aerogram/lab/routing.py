"""From a socket and an address to the sockets that a datagram is for.

Rules: the answer depends on who exists, who is bound and who has joined what, and not on links: the
network remembers it until one of those changes. What leads nowhere is a way too, with a reason.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aerogram.errors import InvalidAddress
from aerogram.io.sockets import Address, checked_socket_address
from aerogram.lab.nat import Nat
from aerogram.lab.trace import Flow

if TYPE_CHECKING:
    from aerogram.lab.host import Host
    from aerogram.lab.paths import Direction
    from aerogram.lab.transit import Held
    from aerogram.lab.transport import SimulatedTransport

Key = tuple[str, int]
"""IP and port: what a socket is bound to, or a group and port that it listens to."""

IP = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_HEADER_BYTES: Final = {4: 28, 6: 48}
_LIMITED_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


@dataclass(slots=True, eq=False)
class Path:
    """A socket's way to one receiver at one address."""

    sender: SimulatedTransport
    flow: Flow
    key: Key
    direction: Direction[Held] | None = None
    """None where it depends on the state of a NAT, or where there is no receiver."""
    receiver: Host | Nat | None = None
    to_many: bool = False
    """A broadcast or a group: every socket of the receiver that wants it gets a copy."""
    through: Nat | None = None
    """The NAT that the sender is behind, if it leaves by that."""
    inside: Address = ("", 0)
    """The source address on the inner side of that NAT."""
    header_bytes: int = 28
    bound: dict[Key, list[SimulatedTransport]] = field(default_factory=dict[Key, list[Any]])
    """The receiver's sockets by address, for the usual case: a host reached directly."""
    dead: str = ""
    """Why it leads nowhere."""

    def flow_from(self, source: Address) -> Flow:
        """Return the flow with the source address that a NAT has given it."""
        if self.flow.source != source:
            self.flow = Flow(self.flow.sender, source, self.flow.destination)
        return self.flow


def find_paths(sender: SimulatedTransport, address: object) -> tuple[Path, ...]:
    """Return the ways for a datagram, at least one.

    Raises `InvalidAddress`, and `PermissionError` for a broadcast that was not allowed.
    """
    destination = checked_socket_address(address)
    ip = ipaddress.ip_address(destination[0].partition("%")[0])
    if (ip.version == 6) != (":" in sender.ip):
        raise InvalidAddress(f"a socket at {sender.ip} cannot send to {destination[0]}")
    if _is_broadcast(ip, sender.host):
        if not sender.allow_broadcast:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return _paths_to_many(sender, destination, ip)
    if ip.is_multicast:
        return _paths_to_many(sender, destination, ip)
    return (_path_to_one(sender, destination, ip),)


def _is_broadcast(ip: IP, host: Host) -> bool:
    if not isinstance(ip, ipaddress.IPv4Address):
        return False
    return ip in (_LIMITED_BROADCAST, host.broadcast_address)


def _path_to_one(sender: SimulatedTransport, destination: Address, ip: IP) -> Path:
    host = sender.host
    network = host.network
    if ip.is_unspecified:
        ip = ipaddress.ip_address(LOOPBACK[ip.version])  # as Linux does
    is_inside = ip.is_loopback and not host.is_guest
    path = Path(
        sender,
        Flow(host.name, _source(sender, ip if is_inside else None), destination),
        (str(ip), destination[1]),
        header_bytes=_HEADER_BYTES[ip.version],
    )
    receiver = host if is_inside else network.node_at(str(ip))
    if receiver is None:
        path.dead = "no such address"
        return path
    path.receiver = receiver
    if ip.version == 4 and host.nat is not None and receiver.nat is not host.nat:
        path.through = host.nat
        path.inside = path.flow.source
    if isinstance(receiver, Nat):
        return path
    if ip.version == 4 and receiver.nat is not None and receiver.nat is not host.nat:
        path.dead = "private address"
        return path
    path.direction = network.direction(host, receiver)
    path.bound = receiver.bound
    return path


def _paths_to_many(sender: SimulatedTransport, destination: Address, ip: IP) -> tuple[Path, ...]:
    host = sender.host
    network = host.network
    group = str(ip) if ip.is_multicast else ""
    flow = Flow(host.name, _source(sender, None), destination)
    paths = [
        Path(
            sender,
            flow,
            (group, destination[1]),
            direction=network.direction(host, neighbour),
            receiver=neighbour,
            to_many=True,
            header_bytes=_HEADER_BYTES[ip.version],
        )
        for neighbour in network.neighbours(host, ip.version)
        if neighbour.listeners(group, destination[1])
        if neighbour is not host or not group or sender.multicast_loop
    ]
    if not paths:
        return (Path(sender, flow, (group, destination[1]), dead="no listener"),)
    return tuple(paths)


def _source(sender: SimulatedTransport, loopback: IP | None) -> Address:
    """Return what the receiver sees as the sender's address."""
    ip = ipaddress.ip_address(sender.ip)
    host = sender.host
    if not ip.is_unspecified and not ip.is_multicast:
        text = sender.ip
    elif loopback is not None:
        text = str(loopback)
    else:
        text = host.ipv4 if ip.version == 4 else host.ipv6
    return socket_address(text, sender.port)


def socket_address(ip: str, port: int) -> Address:
    """Return an address as a socket gives it."""
    return (ip, port, 0, 0) if ":" in ip else (ip, port)
