"""ICMP errors of earlier datagrams, as the error queue of a socket reports them.

Linux keeps, beside each error, the destination of the datagram that caused it and who complained
(IP_RECVERR in ip(7)). Information only: anyone can forge ICMP, so a report never changes what an
endpoint does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from aerogram.io import ancillary
from aerogram.io.addresses import AddressBook
from aerogram.io.arrivals import Waiters
from aerogram.io.datagram import DatagramStats
from aerogram.io.sockets import Address
from aerogram.io.tracing import Tracer
from aerogram.loglimit import LogLimit

_LOGGER: Final = logging.getLogger(__name__)

REPORTS_LIMIT: Final = 256
"""Kept for `endpoint.errors`; beyond, the oldest are dropped and counted."""

READS_PER_TURN: Final = 64
"""Of the error queue; what is left makes the socket readable again."""

_QUOTE_BYTES: Final = 2048
_MSG_ERRQUEUE: Final = getattr(socket, "MSG_ERRQUEUE", 0x2000)
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
"""struct sock_extended_err of <linux/errqueue.h>: errno, origin, type, code, pad, info, data."""


class IcmpReason(Enum):
    """What an ICMP error says, in words; RFC 792 and RFC 4443 have the numbers."""

    PORT_UNREACHABLE = "port unreachable"
    HOST_UNREACHABLE = "host unreachable"
    NETWORK_UNREACHABLE = "network unreachable"
    PROHIBITED = "prohibited"
    TOO_BIG = "too big"
    TTL_EXCEEDED = "TTL exceeded"
    OTHER = "other"


_REASONS: Final = {
    (_ORIGIN_ICMP, 3, 0): IcmpReason.NETWORK_UNREACHABLE,
    (_ORIGIN_ICMP, 3, 1): IcmpReason.HOST_UNREACHABLE,
    (_ORIGIN_ICMP, 3, 3): IcmpReason.PORT_UNREACHABLE,
    (_ORIGIN_ICMP, 3, 4): IcmpReason.TOO_BIG,
    (_ORIGIN_ICMP, 3, 9): IcmpReason.PROHIBITED,
    (_ORIGIN_ICMP, 3, 10): IcmpReason.PROHIBITED,
    (_ORIGIN_ICMP, 3, 13): IcmpReason.PROHIBITED,
    (_ORIGIN_ICMP, 11, 0): IcmpReason.TTL_EXCEEDED,
    (_ORIGIN_ICMP6, 1, 0): IcmpReason.NETWORK_UNREACHABLE,
    (_ORIGIN_ICMP6, 1, 1): IcmpReason.PROHIBITED,
    (_ORIGIN_ICMP6, 1, 3): IcmpReason.HOST_UNREACHABLE,
    (_ORIGIN_ICMP6, 1, 4): IcmpReason.PORT_UNREACHABLE,
    (_ORIGIN_ICMP6, 2, 0): IcmpReason.TOO_BIG,
    (_ORIGIN_ICMP6, 3, 0): IcmpReason.TTL_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class IcmpReport:
    """An ICMP error: a datagram to `address` did not arrive."""

    address: Address
    """The peer that the datagram was for."""

    reason: IcmpReason
    error: OSError
    """The same as the system's error: `error.errno` is ECONNREFUSED for a closed port."""

    reporter: str | None
    """Who says so: the peer's host, or a router on the way to it."""

    icmp_type: int
    icmp_code: int
    mtu: int | None
    """The size that would pass, with `TOO_BIG`."""

    data: bytes
    """The beginning of the datagram, as far as the report quotes it."""


ErrorCallback = Callable[[IcmpReport], object]


class ErrorReports:
    """ICMP reports as an async iterator that ends with the endpoint, or for a callback.

    With a callback there is nothing to iterate over. What it raises is logged, ten times a second
    at most, and counted.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stats: DatagramStats,
        callback: ErrorCallback | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._loop = loop
        self._stats = stats
        self._callback = callback
        self._tracer = tracer
        self._items: deque[IcmpReport] = deque()
        self._waiters = Waiters(loop)
        self._closed = False
        self._log_limit = LogLimit()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> IcmpReport:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            await self._waiters.wait()
        return self._items.popleft()

    def put(self, report: IcmpReport) -> None:
        """Take note of a report."""
        self._stats.icmp_reports += 1
        if self._tracer is not None:
            self._tracer.reported(report)
        if self._callback is not None:
            self._call(self._callback, report)
            return
        if len(self._items) >= REPORTS_LIMIT:
            self._items.popleft()
            self._stats.icmp_reports_dropped += 1
        self._items.append(report)
        self._waiters.wake(1)

    def _call(self, callback: ErrorCallback, report: IcmpReport) -> None:
        try:
            callback(report)
        except Exception:
            self._stats.callback_errors += 1
            if self._log_limit.allows(self._loop.time()):
                _LOGGER.exception("on_error failed")  # anyone can provoke ICMP errors

    def close(self) -> None:
        """End the iteration; reports that are there can still be taken."""
        self._closed = True
        self._waiters.wake()


def read_error_queue(sock: socket.socket, book: AddressBook) -> list[IcmpReport]:
    """Take at most `READS_PER_TURN` errors from the queue and return those that came by ICMP."""
    reports: list[IcmpReport] = []
    for _ in range(READS_PER_TURN):
        try:
            data, control, _, address = sock.recvmsg(
                _QUOTE_BYTES, ancillary.CONTROL_BYTES * 2, _MSG_ERRQUEUE
            )
        except OSError:
            break
        report = _report(data, control, book.from_python(address) if address else ("", 0))
        if report is not None:
            reports.append(report)
    return reports


def _report(
    data: bytes, control: list[tuple[int, int, bytes]], address: Address
) -> IcmpReport | None:
    wanted = (
        (socket.IPPROTO_IP, ancillary.IP_RECVERR),
        (socket.IPPROTO_IPV6, ancillary.IPV6_RECVERR),
    )
    for level, kind, value in control:
        if (level, kind) in wanted and len(value) >= _EXTENDED_ERROR.size:
            number, origin, icmp_type, icmp_code, _, info, _ = _EXTENDED_ERROR.unpack_from(value)
            if origin not in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
                return None  # our own kernel's, which the send has raised already
            return IcmpReport(
                address,
                _REASONS.get((origin, icmp_type, icmp_code), IcmpReason.OTHER),
                OSError(number, os.strerror(number)),
                _offender(value[_EXTENDED_ERROR.size :]),
                icmp_type,
                icmp_code,
                info if number == errno.EMSGSIZE else None,
                data,
            )
    return None


def _offender(packed: bytes) -> str | None:
    """The host of the `struct sockaddr` behind the error, if it has one."""
    if len(packed) < 8:
        return None
    (family,) = struct.unpack_from("=H", packed)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packed[4:8])
    if family == socket.AF_INET6 and len(packed) >= 24:
        return socket.inet_ntop(socket.AF_INET6, packed[8:24])
    return None
