"""A seam through which all datagrams of an endpoint can be watched: `trace=` of whatever opens one.

`aerogram.lab.Trace` is what mostly watches, and writes a timeline, JSON or a capture for Wireshark;
anything with the two methods of `Observer` does. Rules: an endpoint that is not watched pays
nothing for it but a look where something is lost; one that fails to observe is logged once and
asked no more, and harms no datagram; each datagram is told once for each counter that it is in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from aerogram.io.datagram import Datagram, DatagramStats, cut_run
from aerogram.io.sockets import Address

if TYPE_CHECKING:
    from aerogram.io.icmp import IcmpReport

_LOGGER: Final = logging.getLogger(__name__)


class Observer(Protocol):
    """What is told of every datagram. Times are seconds since 1970."""

    def observe(
        self,
        at: float,
        source: Address,
        destination: Address,
        data: bytes,
        *,
        outbound: bool,
        dropped: str = "",
    ) -> None:
        """Know that a datagram was sent (`outbound`) or received, or `dropped`, and why.

        It is called while the datagram is handled, so it has to be quick.
        """

    def remark(self, at: float, text: str) -> None:
        """Know of something else that happened, such as an ICMP error."""


def check_trace(trace: Observer | None, network: object | None) -> None:
    """Raise `ValueError` for a trace of what a network of its own carries, `TypeError` for none."""
    if trace is None:
        return
    if network is not None:
        raise ValueError("trace= is for sockets of this machine; a simulated network has .trace")
    if not all(callable(getattr(trace, name, None)) for name in ("observe", "remark")):
        raise TypeError(f"a trace has the methods observe and remark, not so {trace!r}")


class Tracer:
    """Tells an observer what happens at one socket, and never raises."""

    __slots__ = ("_local", "_observer")

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer | None = observer
        self._local: Address = ("", 0)

    def bound_to(self, local_address: Address) -> None:
        """Know the address of the socket."""
        self._local = local_address

    def sent(self, at: float, data: bytes, peer: Address, segment_bytes: int = 0) -> None:
        """The system has taken a datagram, or a run with `segment_bytes`, that was given it then.

        What is told when the call is over would be later than the kernel's date of its arrival.
        """
        for part in _parts(data, segment_bytes):
            self._tell(at, self._local, peer, part, outbound=True)

    def not_sent(self, datagrams: Iterable[bytes], peer: Address, why: str) -> None:
        """Datagrams were lost on this machine."""
        for data in datagrams:
            self._tell(time.time(), self._local, peer, data, outbound=True, dropped=why)

    def received(self, data: bytes, peer: Address) -> None:
        """A datagram has come."""
        self._tell(time.time(), peer, self._local, data, outbound=False)

    def not_received(self, data: bytes, peer: Address, why: str) -> None:
        """A datagram has come and was dropped."""
        self._tell(time.time(), peer, self._local, data, outbound=False, dropped=why)

    def took(self, datagrams: Iterable[Datagram]) -> None:
        """Datagrams have come, of which more is known."""
        for datagram in datagrams:
            local = self._asked(datagram)
            for record in datagram.records:
                self._tell(datagram.received_at, datagram.address, local, record, outbound=False)

    def dropped(self, datagram: Datagram, why: str) -> None:
        """One that has come is dropped after all."""
        local = self._asked(datagram)
        for record in datagram.records:
            self._tell(time.time(), datagram.address, local, record, outbound=False, dropped=why)

    def _asked(self, datagram: Datagram) -> Address:
        """The address or group that a datagram was sent to, as far as it is known."""
        host = datagram.destination
        return self._local if host is None else (host, self._local[1])

    def reported(self, report: IcmpReport) -> None:
        """An ICMP error has come."""
        host, port = report.address[:2]
        self.remark(f"{report.reason.value}, says {report.reporter}: {host} port {port}")

    def closed(self, stats: DatagramStats) -> None:
        """The endpoint ends; tell what no datagram is left to tell of."""
        if stats.truncated:
            self.remark(f"{stats.truncated} datagrams were truncated and dropped")
        if stats.dropped_by_kernel:
            self.remark(f"{stats.dropped_by_kernel} datagrams were dropped by the kernel")

    def remark(self, text: str) -> None:
        """Tell of something that happened."""
        if self._observer is None:
            return
        try:
            self._observer.remark(time.time(), text)
        except Exception as error:
            self._fail(error)

    def _tell(
        self,
        at: float,
        source: Address,
        destination: Address,
        data: bytes,
        *,
        outbound: bool,
        dropped: str = "",
    ) -> None:
        if self._observer is None:
            return
        try:
            self._observer.observe(
                at, source, destination, data, outbound=outbound, dropped=dropped
            )
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._observer = None
        _LOGGER.error("a trace failed, and is told no more", exc_info=error)


def _parts(data: bytes, segment_bytes: int) -> Sequence[bytes]:
    return cut_run(data, segment_bytes) if 0 < segment_bytes < len(data) else (data,)


class CountsDrops(Protocol):
    """A receiver that drops datagrams for reasons that it counts."""

    def drop_counts(self) -> dict[str, int]:
        """How many it has dropped so far, by reason."""
        ...


class TracedReceiver:
    """A `DatagramReceiver` that tells of each datagram what the one behind it made of it."""

    def __init__(self, receiver: Any, tracer: Tracer) -> None:
        self.receiver = receiver
        self._tracer = tracer
        self._counts: Callable[[], dict[str, int]] = getattr(receiver, "drop_counts", dict)
        self.read_complete = receiver.read_complete
        self.transport_lost = receiver.transport_lost

    def receive_datagram(self, data: bytes, address: Address) -> None:
        """As `DatagramReceiver.receive_datagram`."""
        before = self._counts()
        try:
            self.receiver.receive_datagram(data, address)
        finally:
            after = self._counts()
            why = next((reason for reason, count in after.items() if count > before[reason]), None)
            if why is None:
                self._tracer.received(data, address)
            else:
                self._tracer.not_received(data, address, why)

    def receive_run(self, data: bytes, segment_bytes: int, address: Address) -> None:
        """As `DatagramReceiver.receive_run`."""
        for part in _parts(data, segment_bytes):
            self.receive_datagram(part, address)

    def send_error(self, error: OSError, address: Address | None) -> None:
        """As `DatagramReceiver.send_error`."""
        self._tracer.remark(f"{error.strerror}: {address or 'an earlier datagram'}")
        self.receiver.send_error(error, address)
