"""`TransportLink`: an endpoint on any asyncio datagram transport, real or simulated.

For loops without `add_reader`, and for networks that are not this machine's. It cannot tell or set
what control messages carry, nor send an empty datagram, which some loops drop without a word.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from aerogram.errors import EndpointClosed, InvalidMessage
from aerogram.io.ancillary import ControlList
from aerogram.io.datagram import Clocks, Datagram, DatagramStats
from aerogram.io.links import FULL_WAIT_SECONDS, IP_FAMILIES, Payload, Workings, checked_payload
from aerogram.io.readers import DATAGRAM_BYTES_LIMIT
from aerogram.io.sockets import LARGEST_PAYLOAD_BYTES, Address


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
        self._is_udp = workings.family in IP_FAMILIES
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
        assert control is None, "it knows no details"
        data = checked_payload(data)
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

    def transmit_each(
        self, data: Payload, targets: Sequence[Any], control: ControlList | None
    ) -> tuple[int, OSError | None]:
        """As `Link.transmit_each`."""
        sent = 0
        for target in targets:
            try:
                if not self.transmit(data, target, control):
                    return sent, BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            except OSError as error:
                return sent, error
            sent += 1
        return sent, None

    def try_again(
        self,
        error: OSError,
        data: Payload,
        target: Any,
        control: ControlList | None,
        count: int = 1,
    ) -> bool:
        """As `Link.try_again`; errors of earlier datagrams displace nothing here."""
        if isinstance(error, BlockingIOError):
            return False
        raise error

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
