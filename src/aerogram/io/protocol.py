"""What stands between a datagram transport and its receiver, on any asyncio loop.

`PacketProtocol` feeds one `DatagramReceiver` and sends for it. It works with what
`loop.create_datagram_endpoint` makes, and better with a transport that takes whole runs
(`aerogram.io.batch`). Rules: nothing raises into the loop, since asyncio logs every such exception
and uvloop bypasses the loop's handler; a receiver that fails is logged at most ten times a second;
what cannot be sent is counted and lost, as datagrams are, and never waits in unbounded memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast, runtime_checkable

from aerogram.config import Config
from aerogram.io.sockets import Address, check_target
from aerogram.io.tracing import TracedReceiver, Tracer
from aerogram.loglimit import LogLimit

_LOGGER: Final = logging.getLogger(__name__)

NO_ROOM_ERRORS: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})
"""The system has no room for a packet now."""

_READ_BYTES: Final = 65536
"""asyncio's 256 KiB makes every read five times slower; no UDP payload is larger than this."""


class DatagramReceiver(Protocol):
    """What datagrams are handed to. An exception of any method is logged and counted, no more."""

    def receive_datagram(self, data: bytes, address: Address) -> None:
        """Take one datagram; it is never empty."""

    def receive_run(self, data: bytes, segment_bytes: int, address: Address) -> None:
        """Take several datagrams of one peer: `segment_bytes` each, the last may be shorter."""

    def read_complete(self) -> None:
        """Know that no more is read in this loop turn: the time to answer what was received."""

    def transport_lost(self, error: Exception | None) -> None:
        """Know that the transport has ended: closed here, or broken by `error`. Called once."""

    def send_error(self, error: OSError, address: Address | None) -> None:
        """Know of an ICMP message or a refused send. Information only: anyone can forge ICMP.

        Called from the loop, never inside `send_run`. `address` is None where the system does not
        tell whom it is about.
        """


@runtime_checkable
class SendsRuns(Protocol):
    """A transport that sends runs itself, and calls `read_complete` after each burst it reads."""

    def send_run(self, packets: Sequence[bytes], address: Address) -> None:
        """As `PacketProtocol.send_run`."""


@runtime_checkable
class _ReadsUpTo(Protocol):
    """asyncio's own transport, which allocates `max_size` bytes for each read."""

    max_size: int


@dataclass(slots=True)
class TransportStats:
    """What a socket's two directions have counted, in datagrams unless the name says otherwise."""

    datagrams_received: int = 0
    bytes_received: int = 0
    runs_received: int = 0
    """Reads that gave more than one datagram (UDP_GRO)."""
    read_turns: int = 0
    """Loop turns in which something was read by the batched transport."""
    empty_received: int = 0
    truncated: int = 0
    """Longer than the read buffer; not handed on."""
    receiver_errors: int = 0
    """Exceptions of the receiver."""

    datagrams_sent: int = 0
    bytes_sent: int = 0
    runs_sent: int = 0
    """Writes that carried more than one datagram (UDP_SEGMENT)."""
    send_errors: int = 0
    """Refused by the system with an error; lost."""
    send_dropped: int = 0
    """Lost here: the buffer was full, the transport closed, or the packet was empty."""
    send_waits: int = 0
    """Writes that the system had no room for, so that packets wait for it."""
    icmp_errors: int = 0
    """Errors of earlier packets that the socket reported."""
    gso_fallbacks: int = 0
    """Runs that the system would not cut up and that went one by one."""


class PacketProtocol(asyncio.DatagramProtocol):
    """Feeds `receiver` from a transport, and sends to it within `config.transport_buffer_bytes`."""

    def __init__(self, receiver: DatagramReceiver, config: Config | None = None) -> None:
        self.stats = TransportStats()
        self.writing_paused = False
        """The transport holds packets that the system does not take yet."""
        self._receiver = receiver
        self._buffer_bytes = (config or Config()).transport_buffer_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._run_transport: SendsRuns | None = None
        self._held_bytes: Callable[[], int] = _nothing_held
        self._socket: socket.socket | None = None
        self._family: int | None = None
        self._checked_target: object = self
        self._completion_scheduled = False
        self._log = LogLimit()
        self.tracer: Tracer | None = None
        """Who is told of every datagram, if anybody."""

    @property
    def receiver(self) -> DatagramReceiver:
        """What datagrams are handed to."""
        receiver = self._receiver
        return receiver.receiver if isinstance(receiver, TracedReceiver) else receiver

    def watch(self, tracer: Tracer) -> None:
        """Tell `tracer` of every datagram; once, before a transport is connected."""
        self.tracer = tracer
        self._receiver = TracedReceiver(self._receiver, tracer)

    # Sending

    def send_run(self, packets: Sequence[bytes], address: Address) -> None:
        """Send packets of equal size, of which the last may be shorter, to one numeric address.

        Never waits and never raises for what the network does: a packet that cannot be sent is
        counted in `stats` and lost. After the transport has closed that is every packet. Raises
        `InvalidAddress`, or `TypeError` for what are no bytes.
        """
        if self._run_transport is not None:
            self._run_transport.send_run(packets, address)
            return
        transport = self._transport
        if transport is None or transport.is_closing():
            self._drop(packets, address, "closed")
            return
        if address is not self._checked_target and self._family is not None:
            check_target(address, self._family)
            self._checked_target = address
        for packet in packets:
            if packet == b"":
                self._drop((packet,), address, "empty")
            elif self._socket is not None:
                self._write(self._socket, packet, address)
            else:
                self._send_one(transport, packet, address)

    def _send_one(
        self, transport: asyncio.DatagramTransport, packet: bytes, address: Address
    ) -> None:
        held_bytes = self._held_bytes()
        if held_bytes and held_bytes + len(packet) > self._buffer_bytes:
            self._drop((packet,), address, "no room")
            return
        errors_before = self.stats.send_errors
        at = 0.0 if self.tracer is None else time.time()
        try:
            transport.sendto(packet, address)
        except OSError as error:
            self.error_received(error)
        if self.stats.send_errors == errors_before:
            self._count_sent(packet, address, at)
        elif self.tracer is not None:
            self.tracer.not_sent((packet,), address, "refused by the system")

    def write_to(self, udp: socket.socket) -> None:
        """Send by this non-blocking socket, which the transport owns, and not by the transport.

        That of uvloop would hold packets for which there is no room, spin while a device's queue is
        full, and print a line to stdout for each packet that it held and could not send. Here such
        packets are dropped.
        """
        self._socket = udp

    def _write(self, udp: socket.socket, packet: bytes, address: Address) -> None:
        at = 0.0 if self.tracer is None else time.time()
        try:
            udp.sendto(packet, address)
        except OSError as error:
            if error.errno in NO_ROOM_ERRORS:
                self._drop((packet,), address, "no room")
                return
            self.error_received(error)
            if self.tracer is not None:
                self.tracer.not_sent((packet,), address, "refused by the system")
        else:
            self._count_sent(packet, address, at)

    def _count_sent(self, packet: bytes, address: Address, at: float) -> None:
        self.stats.datagrams_sent += 1
        self.stats.bytes_sent += len(packet)
        if self.tracer is not None:
            self.tracer.sent(at, packet, address)

    def _drop(self, packets: Sequence[bytes], address: Address, why: str) -> None:
        self.stats.send_dropped += len(packets)
        if self.tracer is not None:
            self.tracer.not_sent(packets, address, why)

    def close(self) -> None:
        """Close the transport; what it holds for want of room is tried once more at most."""
        transport = self._transport
        if transport is None:
            return
        if self._run_transport is None and self._held_bytes():
            # asyncio's own would stay open until the system takes it, which may be never.
            transport.abort()
        else:
            transport.close()

    # Called by transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to use `transport`."""
        self._loop = asyncio.get_running_loop()
        # Those of uvloop, and of asyncio before Python 3.12, are no instances of the class.
        self._transport = cast("asyncio.DatagramTransport", transport)
        if isinstance(transport, SendsRuns):
            self._run_transport = transport
        self._held_bytes = getattr(transport, "get_write_buffer_size", _nothing_held)
        udp = transport.get_extra_info("socket")
        if udp is not None:  # a simulated transport has none, and checks addresses itself
            self._family = udp.family
        if self.tracer is not None:
            self.tracer.bound_to(transport.get_extra_info("sockname"))
        if isinstance(transport, _ReadsUpTo):
            transport.max_size = _READ_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop: later packets are counted as dropped."""
        self._transport = None
        self._run_transport = None
        self._socket = None
        try:
            self._receiver.transport_lost(exc)
        except Exception as error:
            self._receiver_failed(error)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Hand one datagram on; a lone transport's burst ends with the loop turn."""
        stats = self.stats
        if not data:
            # Some systems cannot send one, so it can mean nothing (CPython 3.11, uvloop).
            stats.empty_received += 1
            if self.tracer is not None:
                self.tracer.not_received(data, addr, "empty")
            return
        stats.datagrams_received += 1
        stats.bytes_received += len(data)
        try:
            self._receiver.receive_datagram(data, addr)
        except Exception as error:
            self._receiver_failed(error)
        if self._run_transport is None and not self._completion_scheduled:
            self._schedule_completion()

    def run_received(self, data: bytes, segment_bytes: int, address: Address) -> None:
        """Hand a run on."""
        stats = self.stats
        stats.datagrams_received += -(-len(data) // segment_bytes)
        stats.bytes_received += len(data)
        stats.runs_received += 1
        try:
            self._receiver.receive_run(data, segment_bytes, address)
        except Exception as error:
            self._receiver_failed(error)

    def read_complete(self) -> None:
        """Tell the receiver that a burst has ended."""
        try:
            self._receiver.read_complete()
        except Exception as error:
            self._receiver_failed(error)

    def error_received(self, exc: Exception) -> None:
        """Count what a plain transport reports: mostly packets that it could not send."""
        self.stats.send_errors += 1
        if isinstance(exc, OSError):
            self.report_error(exc, None)

    def report_error(self, error: OSError, address: Address | None) -> None:
        """Tell the receiver in the next loop turn, so that it is never called while it sends."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon(self._deliver_error, error, address)

    def pause_writing(self) -> None:
        """Record that packets now wait in the transport."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """Record that none waits any more."""
        self.writing_paused = False

    def _deliver_error(self, error: OSError, address: Address | None) -> None:
        try:
            self._receiver.send_error(error, address)
        except Exception as failure:
            self._receiver_failed(failure)

    def _schedule_completion(self) -> None:
        assert self._loop is not None, "a datagram before connection_made"
        self._completion_scheduled = True
        self._loop.call_soon(self._complete_turn)

    def _complete_turn(self) -> None:
        self._completion_scheduled = False
        self.read_complete()

    def _receiver_failed(self, error: Exception) -> None:
        """Log an exception of the receiver, unless enough were in this second."""
        self.stats.receiver_errors += 1
        now = 0.0 if self._loop is None else self._loop.time()
        if self._log.allows(now):
            held_back = self._log.take_held_back()
            _LOGGER.error("receiver failed (%d more not logged)", held_back, exc_info=error)


def _nothing_held() -> int:
    """Answer for a transport without a buffer, such as a simulated one."""
    return 0
