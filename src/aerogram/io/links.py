"""`Link`: how an endpoint reaches the network, by a socket of its own or by an asyncio transport.

`SocketLink` needs a loop with `add_reader`. It holds no datagram back: what the kernel has no room
for stays with its sender, who waits. `TransportLink` works with what `create_datagram_endpoint` of
any loop, or of a simulated network, makes; it knows less about a datagram. Rules: nothing raises
into the loop; an error of one datagram never ends a link; what goes wrong with a send is raised to
its caller.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aerogram.errors import EndpointClosed, InvalidMessage, MessageTooLarge
from aerogram.io import ancillary
from aerogram.io.addresses import AddressBook
from aerogram.io.ancillary import ControlList
from aerogram.io.arrivals import Arrivals, Waiters
from aerogram.io.datagram import Clocks, Datagram, DatagramStats
from aerogram.io.icmp import ErrorReports, read_error_queue
from aerogram.io.readers import DATAGRAM_BYTES_LIMIT, make_reader
from aerogram.io.sockets import (
    LARGEST_PAYLOAD_BYTES,
    Address,
    can_send_runs,
    enable_receive_runs,
)

FULL_WAIT_SECONDS: Final = 0.001
"""Between two tries where nothing tells of room: a full interface queue still polls as writable."""

DATAGRAMS_PER_TURN: Final = 256
"""About half a millisecond of reading; the cost of the turn itself is shared by all of them."""

_IP_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_NO_BUFFERS: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})
_BROKEN: Final = frozenset({errno.EBADF, errno.ENOTSOCK})
_FROM_EARLIER: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EMSGSIZE,
        errno.ENOPROTOOPT,
        errno.EPROTO,
        errno.EACCES,
    }
)
"""ICMP errors of an earlier datagram take the place of the next send, which is then repeated."""


@dataclass(frozen=True, slots=True)
class Workings:
    """What an endpoint shares with its link."""

    loop: asyncio.AbstractEventLoop
    family: int
    book: AddressBook
    arrivals: Arrivals
    stats: DatagramStats
    errors: ErrorReports


Payload = bytes | bytearray | memoryview
"""What can be sent."""


class Link(Protocol):
    """What an endpoint sends by, and what fills its `Arrivals`."""

    sock: socket.socket | None
    """For options; a simulated network has none."""

    transport: object
    """Of asyncio or a simulated network; None where the socket is used directly."""

    sends_runs: bool
    """Whether one write may carry several datagrams (UDP_SEGMENT)."""

    knows_details: bool
    """Whether datagrams come, and can be sent, with control messages."""

    @property
    def local_address(self) -> Any:
        """The bound address, as the socket module gives it."""
        ...

    def start(self) -> None:
        """Begin to read."""
        ...

    def transmit(self, data: Payload, target: Any, control: ControlList | None, count: int) -> bool:
        """Send `count` datagrams in one write. False: there is no room, `wait_for_room`.

        `target` is an address from `AddressBook.for_socket`. Raises `InvalidMessage`,
        `MessageTooLarge`, `EndpointClosed`, or the `OSError` of the system.
        """
        ...

    async def wait_for_room(self) -> None:
        """Wait until it is worth to transmit again."""
        ...

    async def close(self) -> None:
        """End; no call is made into the endpoint after this."""
        ...


class SocketLink:
    """Reads and writes a bound datagram socket, which it owns."""

    knows_details = True
    transport: object = None

    def __init__(
        self,
        workings: Workings,
        endpoint: object,
        sock: socket.socket,
        *,
        details: bool = True,
        gather_runs: bool = True,
    ) -> None:
        self.sock: socket.socket | None = sock
        self.sends_runs = can_send_runs(sock)
        self._loop = workings.loop
        self._socket = sock
        self._descriptor = sock.fileno()
        self._local_address = sock.getsockname()
        self._arrivals = workings.arrivals
        self._book = workings.book
        self._stats = workings.stats
        self._errors = workings.errors
        control_bytes = ancillary.enable_details(sock) if details else 0
        self._reader = make_reader(
            sock, workings.book, workings.stats, endpoint, workings.loop.time, control_bytes
        )
        self._watch = _Watch(workings.loop, sock)
        self._reads = False
        self._closed = False
        self._waiters = Waiters(workings.loop)
        self._watches_room = False
        self._waits_by_time = False
        if gather_runs:
            enable_receive_runs(sock)
        self._reports_errors = ancillary.enable_error_queue(sock)

    @property
    def local_address(self) -> Any:
        """As `Link.local_address`."""
        return self._local_address

    def start(self) -> None:
        """As `Link.start`."""
        self._arrivals.on_empty = self._read_on
        self._read_on()

    # Reading

    def _read_on(self) -> None:
        if not self._reads and not self._closed:
            self._reads = True
            self._loop.add_reader(self._watch.descriptor, self._on_readable)

    def _on_readable(self) -> None:
        """Read what is there, within a turn's bounds.

        What is left makes the socket readable in the next turn as well. A read that comes back
        short has emptied it: to ask again would cost a system call.
        """
        left = DATAGRAMS_PER_TURN
        while left > 0:
            if self._arrivals.is_full:
                self._loop.remove_reader(self._watch.descriptor)
                self._reads = False
                return
            try:
                datagrams, size, has_more = self._reader.read(left)
            except BlockingIOError:
                self._fetch_reports()
                return
            except OSError as error:
                self._read_failed(error)
                return
            self._arrivals.put(datagrams, size)
            if not has_more:
                return
            left -= len(datagrams)

    def _read_failed(self, error: OSError) -> None:
        if error.errno in _BROKEN:
            self._end()
            self._arrivals.close(error)
            return
        self._stats.read_errors += 1
        self._fetch_reports()

    def _fetch_reports(self) -> None:
        """Empty the error queue, which else keeps the socket readable."""
        if self._reports_errors:
            for report in read_error_queue(self._socket, self._book):
                self._errors.put(report)

    # Sending

    def transmit(
        self, data: Payload, target: Any, control: ControlList | None = None, count: int = 1
    ) -> bool:
        """As `Link.transmit`."""
        try:
            if control is None:
                self._socket.sendto(data, target)
            else:
                self._socket.sendmsg((data,), control, 0, target)
        except OSError as error:
            if not self._try_again(error, data, target, control):
                return False
        except TypeError as error:
            raise _not_bytes(data) from error
        stats = self._stats
        stats.sent += count
        stats.sent_bytes += len(data)
        if count > 1:
            stats.sent_runs += 1
        return True

    def _try_again(
        self, error: OSError, data: Payload, target: Any, control: ControlList | None
    ) -> bool:
        """Repeat a send that an earlier datagram's error displaced; sort out other errors."""
        if error.errno in _FROM_EARLIER:
            self._fetch_reports()
            try:
                self._socket.sendmsg((data,), control or (), 0, target)
            except OSError as second:
                error = second
            else:
                return True
        number = error.errno
        if number in _NO_ROOM:
            # An AF_UNIX socket is always writable: it is the peer's queue that is full.
            self._waits_by_time = self._socket.family not in _IP_FAMILIES
            return False
        if number in _NO_BUFFERS:
            self._stats.no_buffers += 1
            self._waits_by_time = True
            return False
        if number in _BROKEN:
            raise EndpointClosed("the endpoint is closed") from error
        raise error

    async def wait_for_room(self) -> None:
        """As `Link.wait_for_room`."""
        if self._waits_by_time:
            await asyncio.sleep(FULL_WAIT_SECONDS)
            return
        if self._closed:
            raise EndpointClosed("the endpoint is closed")
        if not self._watches_room:
            self._watches_room = True
            self._loop.add_writer(self._descriptor, self._has_room)
        await self._waiters.wait()

    def _has_room(self) -> None:
        self._stop_watching()
        self._waiters.wake()

    def _stop_watching(self) -> None:
        if self._watches_room:
            self._watches_room = False
            self._loop.remove_writer(self._descriptor)

    async def close(self) -> None:
        """As `Link.close`."""
        self._end()

    def _end(self) -> None:
        """Close at once, so that nothing is left open when the loop ends in this very turn."""
        if self._closed:
            return
        self._closed = True
        self._arrivals.on_empty = None
        if not self._loop.is_closed():
            self._stop_watching()
            if self._reads:
                self._loop.remove_reader(self._watch.descriptor)
        self._watch.close()
        self._socket.close()
        self._waiters.wake()


class _Watch:
    """What a loop polls to learn that a socket can be read.

    libuv stops for good to poll a socket that has an error, which each ICMP message is, and asks
    nobody. So uvloop polls an epoll set with the socket in it, which never has errors.
    """

    __slots__ = ("_epoll", "descriptor")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.descriptor = sock.fileno()
        self._epoll: select.epoll | None = None
        if sys.platform == "linux" and not isinstance(loop, asyncio.BaseEventLoop):
            self._epoll = select.epoll()
            self._epoll.register(sock, select.EPOLLIN)
            self.descriptor = self._epoll.fileno()

    def close(self) -> None:
        """End; the socket is closed by its owner."""
        if self._epoll is not None:
            self._epoll.close()


class TransportLink(asyncio.DatagramProtocol):
    """Sends by, and is fed by, any asyncio datagram transport.

    `wall_clock` dates datagrams: a simulated network has no wall clock but the loop's time.
    """

    sends_runs = False
    knows_details = False

    def __init__(
        self,
        workings: Workings,
        endpoint: Any,
        sock: socket.socket | None = None,
        *,
        buffer_bytes: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.sock = sock
        self._loop = workings.loop
        self._arrivals = workings.arrivals
        self._book = workings.book
        self._stats = workings.stats
        self._endpoint = endpoint
        self._is_udp = workings.family in _IP_FAMILIES
        self._buffer_bytes = buffer_bytes
        self._wall_clock = wall_clock
        self.transport: Any = None
        self._lost: asyncio.Future[None] = workings.loop.create_future()
        self._send_error: OSError | None = None

    @property
    def stats(self) -> DatagramStats:
        """What has been counted, as `DatagramEndpoint.stats` shows it."""
        return self._stats

    @property
    def local_address(self) -> Any:
        """As `Link.local_address`."""
        return self.transport.get_extra_info("sockname")

    def start(self) -> None:
        """As `Link.start`; the transport has begun by itself."""

    def transmit(
        self, data: Payload, target: Any, control: ControlList | None = None, count: int = 1
    ) -> bool:
        """As `Link.transmit`. An empty datagram is refused: some loops do not send it."""
        if control is not None:
            raise OSError(errno.EOPNOTSUPP, "this transport cannot set source, TTL or TOS")
        _check_payload(data)
        if not data:
            raise InvalidMessage("this transport cannot send an empty datagram")
        if self.transport is None or self.transport.is_closing():
            raise EndpointClosed("the endpoint is closed")
        if len(data) > LARGEST_PAYLOAD_BYTES and self._is_udp:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        held_bytes = self._held_bytes()
        if held_bytes and held_bytes + len(data) > self._buffer_bytes:
            return False
        self._send_error = None
        self.transport.sendto(data, target)
        refusal = self._take_send_error()
        if refusal is not None:
            raise refusal
        self._stats.sent += count
        self._stats.sent_bytes += len(data)
        return True

    def _take_send_error(self) -> OSError | None:
        """What the transport reported inside `sendto`, as that of asyncio does."""
        error, self._send_error = self._send_error, None
        return error

    def _held_bytes(self) -> int:
        get_size = getattr(self.transport, "get_write_buffer_size", None)
        return 0 if get_size is None else int(get_size())

    async def wait_for_room(self) -> None:
        """As `Link.wait_for_room`. Not all transports tell (CPython issue 156698), so look."""
        await asyncio.sleep(FULL_WAIT_SECONDS)

    async def close(self) -> None:
        """As `Link.close`. What the transport still holds is lost."""
        transport = self.transport
        if transport is None:
            return
        if self._held_bytes():
            transport.abort()
        else:
            transport.close()
        await self._lost

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        if hasattr(transport, "max_size"):
            # asyncio's 256 KiB makes each read five times slower; one more than the limit tells
            # a record that was cut off.
            self.transport.max_size = DATAGRAM_BYTES_LIMIT + 1

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and let readers know."""
        self.transport = None
        self._arrivals.close(exc)
        if not self._lost.done():
            self._lost.set_result(None)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Queue one datagram."""
        if len(data) > DATAGRAM_BYTES_LIMIT:
            self._stats.truncated += 1
            return
        read_at = Clocks(self._wall_clock(), self._loop.time())
        address: Address = self._book.from_python(addr)
        self._arrivals.put([Datagram(data, address, b"", read_at, self._endpoint)], len(data))

    def error_received(self, exc: Exception) -> None:
        """Keep an error for the caller of `sendto`; a later one is only counted."""
        self._stats.read_errors += 1
        if isinstance(exc, OSError):
            self._send_error = exc


def send_refused(error: OSError, size: int, stats: DatagramStats) -> Exception:
    """Count a send that the system refused, and return what its caller gets."""
    if error.errno == errno.EPERM:
        stats.send_lost += 1
        return error
    stats.send_refused += 1
    if error.errno == errno.EMSGSIZE:
        too_large = MessageTooLarge(f"no datagram of {size} bytes can be sent: {error.strerror}")
        too_large.__cause__ = error
        return too_large
    return error


def _check_payload(data: object) -> None:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise _not_bytes(data)


def _not_bytes(data: object) -> InvalidMessage:
    return InvalidMessage(f"a datagram is bytes, not {type(data).__name__}")
