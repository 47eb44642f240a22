"""`Datagram`: one record as it came, with what the system knows about its arrival.

Rules: it never changes; what is unknown (on the fall-back transport, on systems other than Linux)
is None. Only data, address and the time of the read are worked out for every datagram; the rest
waits in `control` until it is asked for, because most users never do.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Unpack

from aerogram.io import ancillary
from aerogram.io.sockets import Address

if TYPE_CHECKING:
    from aerogram.io.endpoint import DatagramEndpoint, SendOptions
    from aerogram.io.links import Payload

ECN_BITS: Final = 3
"""RFC 3168 §5: the lower two bits of the traffic class; the upper six are the DSCP."""


class Clocks(NamedTuple):
    """One moment by two clocks."""

    wall: float
    """Seconds since 1970, as `time.time()`; in a simulation the loop's virtual time."""

    loop: float
    """The clock of `loop.time()`: monotonic, for deadlines and intervals."""


class Datagram(NamedTuple):
    """One datagram. Its data is whole: a truncated one is counted and never handed on.

    `data` may be empty: unlike the protocol of sessions, others give that a meaning.
    """

    data: bytes
    address: Address
    """Who sent it: (host, port), for IPv6 with flow label and scope; (path, 0) for AF_UNIX."""

    control: ancillary.Control = b""
    """The control messages that came with it; the properties below read them."""

    read_at: Clocks = Clocks(0.0, 0.0)
    """When this program read it."""

    endpoint: DatagramEndpoint | None = None
    """Where it arrived."""

    def __repr__(self) -> str:
        return f"Datagram({self.data!r}, {self.address!r})"

    @property
    def received_at(self) -> float:
        """When the kernel got it, or else when it was read: seconds since 1970 (`time.time()`)."""
        stamped = ancillary.timestamp(self.control)
        return self.read_at.wall if stamped is None else stamped

    @property
    def received_at_loop(self) -> float:
        """The same in the clock of `loop.time()`, never later than the read."""
        stamped = ancillary.timestamp(self.control)
        if stamped is None:
            return self.read_at.loop
        # A wall clock that was set between arrival and read must not put it into the future.
        return self.read_at.loop - max(0.0, self.read_at.wall - stamped)

    @property
    def local_address(self) -> Address | None:
        """The address that was asked, to answer from; None for a group or broadcast address."""
        host = ancillary.local_host(self.control)
        if host is None:
            return None
        port = 0 if self.endpoint is None else self.endpoint.local_address[1]
        if ":" not in host:
            return host, port
        scope = self.interface_index if host.startswith("fe80:") else 0
        return host, port, 0, scope or 0

    @property
    def destination(self) -> str | None:
        """The host it was sent to: an address of this machine, a group, or a broadcast address."""
        return ancillary.destination_host(self.control)

    @property
    def interface_index(self) -> int | None:
        """The number of the interface that it came in by."""
        return ancillary.interface_index(self.control)

    @property
    def interface(self) -> str | None:
        """The name of that interface, asked of the system each time."""
        index = self.interface_index
        if index:
            with contextlib.suppress(OSError):
                return socket.if_indextoname(index)
        return None

    @property
    def ttl(self) -> int | None:
        """TTL (IPv6: hop limit) with which it arrived."""
        return ancillary.hops_left(self.control)

    @property
    def tos(self) -> int | None:
        """TOS (IPv6: traffic class): DSCP in the upper six bits, ECN in the lower two."""
        return ancillary.traffic_class(self.control)

    @property
    def dscp(self) -> int | None:
        """Differentiated services code point (RFC 2474), 0 to 63."""
        tos = self.tos
        return None if tos is None else tos >> 2

    @property
    def ecn(self) -> int | None:
        """Explicit congestion notification (RFC 3168): 0 not capable, 1 and 2 capable, 3 marked."""
        tos = self.tos
        return None if tos is None else tos & ECN_BITS

    @property
    def records(self) -> Sequence[bytes]:
        """The records of a run that was kept whole (`keep_runs`); of any other its data."""
        segment = ancillary.segment_bytes(self.control)
        return cut_run(self.data, segment) if 0 < segment < len(self.data) else (self.data,)

    async def reply(self, data: Payload, **options: Unpack[SendOptions]) -> None:
        """Answer the sender, from the address that it asked.

        An answer that cannot reach it is lost and counted (`send_refused`): a sender may have gone,
        or be forged to end a program that takes it for real, as one at port 0 is. Else raises as
        `DatagramEndpoint.send`.
        """
        if self.endpoint is None:
            raise ValueError("this datagram came from no endpoint")
        local = self.local_address
        if local is not None:
            options.setdefault("source", local[0])
        await self.endpoint.answer(data, self.address, **options)


def cut_run(data: bytes, segment: int) -> Sequence[bytes]:
    """Return the records of a run: `segment` bytes each, the last may be shorter."""
    return _cutter(segment, *divmod(len(data), segment)).unpack(data)


@functools.lru_cache(maxsize=256)
def _cutter(size: int, count: int, rest: int) -> struct.Struct:
    """`count` pieces of `size` bytes, and one of the rest: unpacking is the quickest way to cut."""
    return struct.Struct(f"{size}s" * count + (f"{rest}s" if rest else ""))


@dataclass(slots=True)
class DatagramStats:
    """What an endpoint has counted, in datagrams unless the name says otherwise.

    `received == handed_over + dropped_oldest + dropped_newest + dropped_at_close + queued`, and
    each datagram given to a send is in one of `sent`, `send_lost`, `send_full` and `send_refused`,
    unless its caller was cancelled while it waited.
    """

    received: int = 0
    """Taken whole from the socket."""
    received_bytes: int = 0
    received_runs: int = 0
    """Reads that gave more than one datagram of one peer (UDP_GRO); a kept run counts as one."""
    truncated: int = 0
    """Longer than the read buffer; not in `received`."""
    queued: int = 0
    """Now waiting for the program."""
    handed_over: int = 0
    dropped_oldest: int = 0
    dropped_newest: int = 0
    dropped_at_close: int = 0
    dropped_by_kernel: int = 0
    """Lost before this program could read them (SO_RXQ_OVFL); 0 where the system does not tell."""

    sent: int = 0
    sent_bytes: int = 0
    sent_runs: int = 0
    """Writes that carried more than one datagram (UDP_SEGMENT)."""
    send_lost: int = 0
    """Lost on this machine: a firewall's EPERM."""
    send_full: int = 0
    """Given up by `send_nowait` because there was no room."""
    send_refused: int = 0
    """Raised to the caller by the system: no route, too large, nobody at that path. Of a `reply`,
    what could not reach its sender is in here, too, and raises nothing."""
    no_buffers: int = 0
    """Times that an interface's queue was full (ENOBUFS), which loses that try; `send` repeats."""
    runs_refused: int = 0
    """Runs that the system would not cut up and that went one by one."""

    read_errors: int = 0
    """Errors that the socket reported where a datagram was expected; ICMP errors mostly."""
    icmp_reports: int = 0
    icmp_reports_dropped: int = 0
    """Reports that nobody fetched in time."""
    callback_errors: int = 0
    """Exceptions of `on_error`."""
