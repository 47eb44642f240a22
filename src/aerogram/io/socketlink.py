"""`SocketLink`: an endpoint's own socket, read in bursts and written without a buffer in between.

It holds no datagram back: what the kernel has no room for stays with its sender, who waits. It
needs a loop with `add_reader`, which the selector loops of asyncio and uvloop have.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from aerogram.errors import EndpointClosed
from aerogram.io import ancillary
from aerogram.io.ancillary import ControlList
from aerogram.io.arrivals import Waiters
from aerogram.io.icmp import read_error_queue
from aerogram.io.links import (
    FULL_WAIT_SECONDS,
    IP_FAMILIES,
    Payload,
    Workings,
    checked_payload,
    not_bytes,
)
from aerogram.io.readers import make_reader
from aerogram.io.sockets import ERRORS_OF_EARLIER, can_send_runs, enable_receive_runs
from aerogram.io.writers import ADDRESSES_PER_CALL, make_writer

DATAGRAMS_PER_TURN: Final = 256
"""About half a millisecond of reading; the cost of the turn itself is shared by all of them."""

_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_NO_BUFFERS: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})
_BROKEN: Final = frozenset({errno.EBADF, errno.ENOTSOCK})


class SocketLink:
    """Reads and writes a bound datagram socket, which it owns."""

    knows_details = sys.platform == "linux"
    transport: object = None

    def __init__(
        self,
        workings: Workings,
        endpoint: object,
        sock: socket.socket,
        *,
        details: bool = True,
        gather_runs: bool = True,
        keep_runs: bool = False,
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
            sock,
            workings.book,
            workings.stats,
            endpoint,
            workings.loop.time,
            control_bytes,
            keep_runs=keep_runs,
        )
        self._writer = make_writer(sock)
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
                size = self._socket.sendto(data, target)
            else:
                size = self._socket.sendmsg((data,), control, 0, target)
        except OSError as error:
            return self.try_again(error, data, target, control, count)
        except BufferError:
            return self.transmit(checked_payload(data), target, control, count)
        except TypeError as error:
            raise not_bytes(data) from error
        self._count_sent(count, size)
        return True

    def transmit_each(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        """As `Link.transmit_each`."""
        data = checked_payload(data)
        send = self._send_one_by_one if self._writer is None else self._send_together
        sent, failure = send(data, targets, control)
        self._stats.sent += sent
        self._stats.sent_bytes += sent * len(data)
        return sent, failure

    def _send_together(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        assert self._writer is not None
        names, record, sent = self._book.packed(targets), bytes(data), 0
        while sent < len(names):
            part = names[sent : sent + ADDRESSES_PER_CALL]
            done, failure = self._writer.send(record, part, control)
            sent += done
            if failure is not None:
                return sent, failure
        return sent, None

    def _send_one_by_one(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        sent = 0
        try:
            for target in targets:
                self._socket.sendmsg((data,), control or (), 0, target)
                sent += 1
        except OSError as error:
            return sent, error
        return sent, None

    def try_again(
        self,
        error: OSError,
        data: Payload,
        target: Any,
        control: ControlList | None,
        count: int = 1,
    ) -> bool:
        """As `Link.try_again`."""
        if error.errno in ERRORS_OF_EARLIER:
            self._fetch_reports()
            try:
                size = self._socket.sendmsg((data,), control or (), 0, target)
            except OSError as second:
                error = second
            else:
                self._count_sent(count, size)
                return True
        number = error.errno
        if number in _NO_ROOM:
            # An AF_UNIX socket is always writable: it is the peer's queue that is full.
            self._waits_by_time = self._socket.family not in IP_FAMILIES
            return False
        if number in _NO_BUFFERS:
            self._stats.no_buffers += 1
            self._waits_by_time = True
            return False
        if number in _BROKEN:
            raise EndpointClosed("the endpoint is closed") from error
        raise error

    def _count_sent(self, count: int, size: int) -> None:
        stats = self._stats
        stats.sent += count
        stats.sent_bytes += size
        if count > 1:
            stats.sent_runs += 1

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
