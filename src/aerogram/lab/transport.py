"""A simulated UDP socket with the manners of asyncio's datagram transport.

Rules: what is wrong with an address raises at the caller, what is wrong with the network is told to
the protocol or nobody, as with real sockets; what has arrived waits in a bounded buffer until the
event loop gets to it; it works on any asyncio loop.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aerogram.errors import InvalidAddress
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import LARGEST_PAYLOAD_BYTES, Address
from aerogram.lab.routing import Path, find_paths

if TYPE_CHECKING:
    from aerogram.lab.host import Host

RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What a socket holds unless told otherwise, as `Config.socket_buffer_bytes` asks of a real one."""

READS_PER_TURN: Final = 32
"""As the batched transport: a flood cannot keep timers waiting."""

_DATAGRAM_OVERHEAD_BYTES: Final = 64
"""Counted for each datagram in the buffer, so that empty ones cannot fill memory."""

_PATHS_LIMIT: Final = 65_536
"""Addresses whose ways a socket remembers."""


class SimulatedTransport(asyncio.DatagramTransport):
    """A bound socket of a simulated host. Hosts make it; see `Host.create_datagram_endpoint`.

    `get_extra_info` knows "sockname", "peername" and "host". `join_group` and `leave_group` are
    what the socket options for multicast are to a real socket.
    """

    def __init__(
        self,
        host: Host,
        protocol: asyncio.DatagramProtocol,
        bound: Address,
        *,
        peer: Address | None,
        allow_broadcast: bool,
        reuse_port: bool,
        receive_buffer_bytes: int,
    ) -> None:
        super().__init__({"sockname": bound, "peername": peer, "host": host})
        self.host = host
        self.ip = bound[0]
        self.port: int = bound[1]
        self.peer = peer
        self.allow_broadcast = allow_broadcast
        """SO_BROADCAST; may be changed."""
        self.reuse_port = reuse_port
        self.refused = 0
        """Datagrams given to `sendto` that never left: the socket was closed, or they were too
        large."""
        self._loop = asyncio.get_running_loop()
        self._network = host.network
        self._transmit = host.network.transit.transmit
        self._multicast_loop = True
        self._memberships: dict[tuple[str, str | None], int] = {}
        """How often each group and source was joined."""
        self._closing = False
        self._payload_limit = LARGEST_PAYLOAD_BYTES + (20 if ":" in self.ip else 0)
        self._paths: dict[object, tuple[Path, ...]] = {}
        self._paths_generation = -1
        self._buffer: deque[tuple[bytes, Any]] = deque()
        self._buffered_bytes = 0
        self._buffer_limit = receive_buffer_bytes
        self._will_read = False
        self.set_protocol(protocol)

    def __repr__(self) -> str:
        return f"<SimulatedTransport {self.host.name} {self.ip} port {self.port}>"

    # Sending

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send one datagram to a numeric address, or to the peer of a connected socket.

        Raises `InvalidAddress`. Unlike asyncio before Python 3.13 it sends empty datagrams.
        """
        if not isinstance(data, bytes):
            data = _as_bytes(data)
        network = self._network
        if self._paths_generation != network.generation:
            self._paths.clear()
            self._paths_generation = network.generation
        try:
            paths = self._paths.get(addr) or self._find_paths(addr)
        except PermissionError as error:
            self._protocol.error_received(error)
            return
        except TypeError as error:  # not hashable, so no tuple of a host and a port
            raise InvalidAddress(f"an address is a tuple (host, port), not {addr!r}") from error
        if self._closing:
            self.refused += 1
        elif len(data) > self._payload_limit:
            self.refused += 1
            self._protocol.error_received(_os_error(errno.EMSGSIZE))
        else:
            for path in paths:
                self._transmit(path, data)

    def send_run(self, packets: Sequence[bytes], address: Address) -> None:
        """As `aerogram.io.protocol.SendsRuns`: only for what that module's protocol sends."""
        stats = cast("PacketProtocol", self._protocol).stats
        refused = self.refused
        for packet in packets:
            self.sendto(packet, address)
            stats.bytes_sent += len(packet)
        stats.datagrams_sent += len(packets) - (self.refused - refused)

    def _find_paths(self, address: Any) -> tuple[Path, ...]:
        wanted = address
        if self.peer is not None:
            if address not in (None, self.peer):
                raise InvalidAddress(f"connected to {self.peer}, cannot send to {address!r}")
            wanted = self.peer
        elif address is None:
            raise InvalidAddress("no address to send to, and the socket is not connected")
        paths = find_paths(self, wanted)
        if len(self._paths) >= _PATHS_LIMIT:
            self._paths.clear()
        self._paths[address] = paths
        return paths

    def report_error(self, code: int) -> None:
        """Tell the protocol of an ICMP message about an earlier datagram."""
        if not self._closing:
            self._protocol.error_received(_os_error(code))

    # Receiving

    def take(self, data: bytes, source: Address, ready: list[SimulatedTransport]) -> bool:
        """Put a datagram into the receive buffer. Returns whether there was room.

        Adds itself to `ready` if `read` is to be called.
        """
        size = len(data) + _DATAGRAM_OVERHEAD_BYTES
        if self._buffered_bytes + size > self._buffer_limit:
            return False
        self._buffered_bytes += size
        self._buffer.append((data, source))
        if not self._will_read and not self.host.is_paused:
            self._will_read = True
            ready.append(self)
        return True

    def read(self) -> None:
        """Hand on what is in the buffer, and the rest in the next turns of the loop."""
        self._will_read = False
        buffer = self._buffer
        for _ in range(min(len(buffer), READS_PER_TURN)):
            if self._closing or self.host.is_paused:
                return
            data, source = buffer.popleft()
            self._buffered_bytes -= len(data) + _DATAGRAM_OVERHEAD_BYTES
            try:
                self._protocol.datagram_received(data, source)
            except Exception as error:
                self._protocol_failed(error)
        if self._is_told_of_bursts:
            cast("PacketProtocol", self._protocol).read_complete()
        if buffer:
            self.schedule_reading()

    def schedule_reading(self) -> None:
        """Read in the next turn of the loop, if there is something and the host is not paused."""
        if self._buffer and not self._will_read and not self.host.is_paused:
            self._will_read = True
            self._loop.call_soon(self.read)

    def _protocol_failed(self, error: Exception) -> None:
        """Do as asyncio does: the socket goes on."""
        message = "exception in datagram_received"
        context = {"exception": error, "protocol": self._protocol, "transport": self}
        self._loop.call_exception_handler({"message": message} | context)

    # Multicast

    def join_group(
        self, group: str, interface: str | None = None, source: str | None = None
    ) -> None:
        """Receive what is sent to a multicast group and this socket's port.

        From `source` only if given. A simulated host has one interface, so `interface` says
        nothing. Raises `InvalidAddress` for what is no group or source of the socket's family.
        """
        membership = _checked_group(group, self.ip), _checked_source(source, self.ip)
        self._memberships[membership] = self._memberships.get(membership, 0) + 1
        self._network.changed()

    def leave_group(
        self, group: str, interface: str | None = None, source: str | None = None
    ) -> None:
        """Undo one `join_group` with the same arguments. Raises `OSError` for no member."""
        membership = _checked_group(group, self.ip), _checked_source(source, self.ip)
        if membership not in self._memberships:
            raise _os_error(errno.EADDRNOTAVAIL)
        self._memberships[membership] -= 1
        if not self._memberships[membership]:
            del self._memberships[membership]
        self._network.changed()

    @property
    def multicast_loop(self) -> bool:
        """Whether this host's own sockets get what this one sends to a group they joined."""
        return self._multicast_loop

    @multicast_loop.setter
    def multicast_loop(self, is_on: bool) -> None:
        self._multicast_loop = is_on
        self._network.changed()

    def hears(self, group: str, source: str | None = None) -> bool:
        """Whether it gets what is sent to a group, or with "" by broadcast.

        With `source` what that host sends; without, what anybody does.
        """
        if not group:
            return self.ip == "0.0.0.0"  # noqa: S104
        if self.ip not in (group, "0.0.0.0", "::"):  # noqa: S104
            return False
        return any(
            joined == group and (source is None or wanted in (None, source))
            for joined, wanted in self._memberships
        )

    # What every transport has

    def close(self) -> None:
        """Close; what was sent still arrives. More calls do nothing."""
        self.end(None)

    def abort(self) -> None:
        """As `close`, since nothing waits here to be sent."""
        self.end(None)

    def end(self, error: Exception | None) -> None:
        """Close because of `error`; what is in the receive buffer is lost."""
        if self._closing:
            return
        self._closing = True
        self._buffer.clear()
        self._buffered_bytes = 0
        self.host.unbind(self)
        if not self._loop.is_closed():
            self._loop.call_soon(self._protocol.connection_lost, error)

    def is_closing(self) -> bool:
        """Whether it has been closed."""
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the datagrams."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol get the datagrams."""
        assert isinstance(protocol, asyncio.DatagramProtocol)
        self._protocol = protocol
        self._is_told_of_bursts = isinstance(protocol, PacketProtocol)

    def get_write_buffer_size(self) -> int:
        """Return 0: the network takes everything at once."""
        return 0


def _as_bytes(data: Any) -> bytes:
    try:
        return bytes(memoryview(data))
    except TypeError as error:
        raise TypeError(f"a datagram is bytes-like, not {type(data).__name__}") from error


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _checked_group(group: str, ip: str) -> str:
    try:
        address = ipaddress.ip_address(group)
    except ValueError as error:
        raise InvalidAddress(f"not a multicast group: {group!r}") from error
    if not address.is_multicast or (address.version == 6) != (":" in ip):
        raise InvalidAddress(f"not a multicast group for a socket at {ip}: {group}")
    return str(address)


def _checked_source(source: str | None, ip: str) -> str | None:
    if source is None:
        return None
    try:
        address = ipaddress.ip_address(source)
    except ValueError as error:
        raise InvalidAddress(f"not a source: {source!r}") from error
    if (address.version == 6) != (":" in ip):
        raise InvalidAddress(f"not a source for a socket at {ip}: {source}")
    return str(address)
