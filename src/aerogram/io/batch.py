"""A datagram transport that reads bursts and sends runs with few system calls.

A plain UDP write costs the kernel more than all that Python does around it. So a run of packets to
one peer goes out as one `sendmsg` that the kernel cuts up (UDP_SEGMENT), and what it has gathered
from one peer comes in as one `recvmsg` (UDP_GRO). Both are probed; without them the transport still
reads several datagrams per loop turn where asyncio reads one. It needs only `add_reader`, which the
selector loops of asyncio and uvloop have.

Rules: a loop turn reads a bounded amount, so that a flood cannot starve timers; an error of one
packet never ends the transport; packets that the kernel does not take wait in a bounded queue and
beyond it are counted and lost.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Final

from aerogram.config import Config
from aerogram.errors import InvalidAddress
from aerogram.io.ancillary import segment_control
from aerogram.io.protocol import NO_ROOM_ERRORS, PacketProtocol
from aerogram.io.readers import TRUNCATED_FLAGS
from aerogram.io.sockets import (
    ERRORS_OF_EARLIER,
    LARGEST_PAYLOAD_BYTES,
    SOL_UDP,
    UDP_GRO,
    Address,
    can_send_runs,
    check_target,
    enable_receive_runs,
)

READS_PER_TURN: Final = 32
"""As libuv. With `READ_BYTES_PER_TURN` it bounds how long timers wait for a flood."""

READ_BYTES_PER_TURN: Final = 256 * 1024
"""Four full runs."""

SEGMENTS_PER_RUN: Final = 64
"""UDP_MAX_SEGMENTS of <linux/udp.h> up to Linux 6.8; later kernels take 128."""

_READ_BYTES: Final = 65536
"""More than any UDP payload or gathered run, so only other sizes (in tests) truncate."""

_FULL_READ_BYTES: Final = 32 * 1024
"""After a run this large more is likely to be waiting."""

_LONE_TURNS_BEFORE_PROBE: Final = 8
_NOTHING: Final = -1

_BACK_OFF_SECONDS: Final = 0.001
"""Between two tries where the socket polls as writable and takes nothing: waiting would spin."""

_REFUSALS_LIMIT: Final = 1024
_REFUSAL_SECONDS: Final = 60.0
"""Routes and interfaces change, so a destination is tried again with runs after this."""

_TARGETS_LIMIT: Final = 16384
"""Addresses that are known to be good. Beyond it all are checked again."""

_NO_BUFFERS: Final = frozenset({errno.ENOBUFS, errno.ENOMEM})
RUN_REFUSED_ERRORS: Final = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP})
_SOCKET_BROKEN: Final = frozenset({errno.EBADF, errno.ENOTSOCK})

_CONTROL_BYTES: Final = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0


def probe_batch(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `BatchTransport` works on this loop and system: `add_reader` and `recvmsg`."""
    if not hasattr(socket.socket, "recvmsg"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            loop.add_reader(udp.fileno(), _nothing_to_do)
        except NotImplementedError:
            return False
        loop.remove_reader(udp.fileno())
    return True


def _nothing_to_do() -> None:
    """Be a callback for the probe, whose socket gets nothing."""


class BatchTransport(asyncio.DatagramTransport):
    """Reads and writes a bound, non-blocking UDP socket for a `PacketProtocol`.

    Construct it in the loop's thread, then `start` it. It owns the socket from then on. With
    `gather_runs=False` reads never give runs, which is quicker where all peers are different.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        udp: socket.socket,
        protocol: PacketProtocol,
        config: Config | None = None,
        *,
        gather_runs: bool = True,
        read_bytes: int = _READ_BYTES,
    ) -> None:
        self._peer = _peer_of(udp)
        super().__init__({"socket": udp, "sockname": udp.getsockname(), "peername": self._peer})
        self.stats = protocol.stats
        self.receives_runs = gather_runs and enable_receive_runs(udp)
        self.sends_runs = can_send_runs(udp)
        self._loop = loop
        self._socket = udp
        self._descriptor = udp.fileno()
        self._protocol = protocol
        self._buffer_bytes = (config or Config()).transport_buffer_bytes
        self._read_bytes = read_bytes
        self._closing = False
        self._family = udp.family
        self._checked_target: object = self
        self._checked_targets: set[Address] = set()
        self._crowded = False
        self._lone_turns = 0
        self._queue: deque[tuple[Sequence[bytes], Address | None]] = deque()
        self._queued_bytes = 0
        self._waits_for_writable = False
        self._waits_for_timer: asyncio.TimerHandle | None = None
        self._sent_before_wait = -1
        self._refusals: OrderedDict[Address | None, float] = OrderedDict()

    def start(self) -> None:
        """Connect the protocol and begin to read."""
        self._protocol.connection_made(self)
        self._loop.add_reader(self._descriptor, self._on_readable)

    # Reading

    def _on_readable(self) -> None:
        """Read what is there, within one turn's bounds, then let the receiver answer.

        To ask again after the last datagram costs a system call (EAGAIN) that delays its answer;
        not to ask costs a loop turn for each of many. So a socket that lately had one datagram per
        turn is asked once, and one that had more until it is empty; every few turns the first kind
        is asked twice, to find out whether it has become the second.
        """
        read_on = self._crowded or self._lone_turns >= _LONE_TURNS_BEFORE_PROBE
        room_bytes = READ_BYTES_PER_TURN
        reads = 0
        while reads < READS_PER_TURN and room_bytes > 0:
            size = self._read()
            if size == _NOTHING or self._closing:
                break
            reads += 1
            room_bytes -= size
            if not read_on and size < _FULL_READ_BYTES:
                break
        self._learn_pace(reads, read_on)
        if reads:
            self.stats.read_turns += 1
            self._protocol.read_complete()

    def _learn_pace(self, reads: int, read_on: bool) -> None:
        if reads > 1:
            self._crowded = True
        elif read_on:
            self._crowded = False
            self._lone_turns = 0
        else:
            self._lone_turns += 1

    def _read(self) -> int:
        """Read and hand on once. Returns the bytes read, or `_NOTHING` when the socket is empty."""
        try:
            if not self.receives_runs and self._read_bytes >= _READ_BYTES:
                # Cheaper than recvmsg; it cannot tell truncation, which cannot happen here.
                data, address = self._socket.recvfrom(self._read_bytes)
                self._protocol.datagram_received(data, address)
                return len(data)
            data, control, flags, address = self._socket.recvmsg(self._read_bytes, _CONTROL_BYTES)
        except (BlockingIOError, InterruptedError):
            return _NOTHING
        except OSError as error:
            return self._read_failed(error)
        if flags & TRUNCATED_FLAGS:
            # Without the whole control data a run could be taken for one datagram.
            self._drop_truncated(data, address)
        elif control and 0 < (segment_bytes := _segment_bytes(control)) < len(data):
            self._protocol.run_received(data, segment_bytes, address)
        else:
            self._protocol.datagram_received(data, address)
        return len(data)

    def _drop_truncated(self, data: bytes, address: Address) -> None:
        """Count what did not fit into the read buffer."""
        self.stats.truncated += 1

    def _read_failed(self, error: OSError) -> int:
        if error.errno in _SOCKET_BROKEN:
            self._end(error)
            return _NOTHING
        self.stats.icmp_errors += 1
        self._protocol.report_error(error, None)
        return 0

    # Sending

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send one datagram to a numeric address, or to the peer of a connected socket.

        Raises `InvalidAddress`, or `TypeError` for what are no bytes. Empty datagrams are not sent.
        """
        if not isinstance(data, bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a datagram is bytes-like, not {type(data).__name__}")
        self._send((bytes(data),), addr)

    def send_run(self, packets: Sequence[bytes], address: Address) -> None:
        """Send packets of equal size, of which the last may be shorter, to one numeric address.

        Others are sent as well, in as many runs as it takes. Raises `InvalidAddress`, or
        `TypeError` for what are no bytes; all else that goes wrong is counted.
        """
        self._send(packets, address)

    def _send(self, packets: Sequence[bytes], address: Address | None) -> None:
        if self._closing:
            self._drop(packets, address, "closed")
            return
        if address is not self._checked_target:
            self._check_target(address)
        if not self._queue:
            done = self._transmit(packets, address)
            if done == len(packets):
                return
            packets = packets[done:]
        self._hold(packets, address)

    def _check_target(self, address: Address | None) -> None:
        """Let only what needs no name server reach the socket; the check costs half a send."""
        if address is None:
            if self._peer is None:
                raise InvalidAddress("no address to send to, and the socket is not connected")
        elif not self._has_checked(address):
            check_target(address, self._family)
            if len(self._checked_targets) >= _TARGETS_LIMIT:
                self._checked_targets.clear()
            self._checked_targets.add(address)
        self._checked_target = address

    def _has_checked(self, address: Address) -> bool:
        try:
            return address in self._checked_targets
        except TypeError:  # no address at all
            return False

    def _transmit(self, packets: Sequence[bytes], address: Address | None) -> int:
        """Give packets to the kernel until it has no room. Returns how many are dealt with."""
        done = 0
        while done < len(packets):
            count = self._run_length(packets, done, address)
            data, segment_bytes = packets[done], 0
            if count > 1:
                segment_bytes = len(data)
                data = b"".join(packets[done : done + count])
            elif not data:
                self._drop((data,), address, "empty")
                done += 1
                continue
            error = self._attempt(data, segment_bytes, address)
            if error is None:
                self._count_sent(count, len(data))
            elif error.errno in NO_ROOM_ERRORS:
                self._wait_for_room(error)
                return done
            elif count > 1 and error.errno in RUN_REFUSED_ERRORS:
                self._refuse_runs(address)
                continue
            else:
                self.stats.send_errors += count
                self._protocol.report_error(error, address)
            done += count
        return done

    def _run_length(self, packets: Sequence[bytes], done: int, address: Address | None) -> int:
        """How many of the packets after the first `done` go in one system call.

        The kernel cuts a run by the size of its first packet, so another size ends it.
        """
        size = len(packets[done])
        most = min(len(packets) - done, SEGMENTS_PER_RUN)
        if most == 1 or not size or not self.sends_runs or self._refuses_runs(address):
            return 1
        most = min(most, LARGEST_PAYLOAD_BYTES // size)
        count = 1
        while count < most:
            following = len(packets[done + count])
            if following != size:
                return count + (0 < following < size)
            count += 1
        return count

    def _attempt(self, data: bytes, segment_bytes: int, address: Address | None) -> OSError | None:
        """Call the kernel, and once again if it answered with an error of an earlier packet."""
        error = self._call_kernel(data, segment_bytes, address)
        if error is None or error.errno not in ERRORS_OF_EARLIER:
            return error
        second_error = self._call_kernel(data, segment_bytes, address)
        if second_error is None or second_error.errno != error.errno:
            self.stats.icmp_errors += 1
            self._protocol.report_error(error, address)
        return second_error

    def _call_kernel(
        self, data: bytes, segment_bytes: int, address: Address | None
    ) -> OSError | None:
        try:
            if segment_bytes:
                control = [segment_control(segment_bytes)]
                self._socket.sendmsg([data], control, 0, address)
            elif address is None:
                self._socket.send(data)
            else:
                self._socket.sendto(data, address)
        except OSError as error:
            return error
        return None

    def _count_sent(self, count: int, size: int) -> None:
        self.stats.datagrams_sent += count
        self.stats.bytes_sent += size
        if count > 1:
            self.stats.runs_sent += 1

    # Destinations that take no runs: the device cannot compute checksums (EIO), or a tunnel or a
    # smaller MTU is in the way (EINVAL, EMSGSIZE).

    def _refuse_runs(self, address: Address | None) -> None:
        self.stats.gso_fallbacks += 1
        self._refusals[address] = self._loop.time() + _REFUSAL_SECONDS
        self._refusals.move_to_end(address)
        if len(self._refusals) > _REFUSALS_LIMIT:
            self._refusals.popitem(last=False)

    def _refuses_runs(self, address: Address | None) -> bool:
        until = self._refusals.get(address) if self._refusals else None
        if until is None:
            return False
        if self._loop.time() < until:
            return True
        del self._refusals[address]
        return False

    # The queue of what the kernel had no room for

    def _hold(self, packets: Sequence[bytes], address: Address | None) -> None:
        """Keep packets for `_flush`, as many as there is room for."""
        kept: list[bytes] = []
        for packet in packets:
            if not isinstance(packet, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a packet is bytes, not {type(packet).__name__}")
            if self._queued_bytes + len(packet) > self._buffer_bytes:
                break
            self._queued_bytes += len(packet)
            kept.append(packet)
        if len(kept) < len(packets):
            self._drop(packets[len(kept) :], address, "no room")
        if kept:
            self._queue.append((kept, address))
            self._protocol.pause_writing()

    def _drop(self, packets: Sequence[bytes], address: Address | None, why: str) -> None:
        """Count packets that are lost here; `why` is for who watches."""
        self.stats.send_dropped += len(packets)

    def _flush(self) -> None:
        """Send what waits, in its order, until the kernel has no room again."""
        self._stop_waiting()
        while self._queue:
            packets, address = self._queue.popleft()
            done = self._transmit(packets, address)
            self._queued_bytes -= sum(map(len, packets[:done]))
            if done < len(packets):
                self._queue.appendleft((packets[done:], address))
                return
        self._protocol.resume_writing()

    def _wait_for_room(self, error: OSError) -> None:
        """Flush when the socket is writable, or a little later if it is and still takes nothing."""
        self.stats.send_waits += 1
        if self._waits_for_writable or self._waits_for_timer is not None:
            return
        sent = self.stats.datagrams_sent
        if error.errno in _NO_BUFFERS or sent == self._sent_before_wait:
            self._waits_for_timer = self._loop.call_later(_BACK_OFF_SECONDS, self._flush)
        else:
            self._loop.add_writer(self._descriptor, self._flush)
            self._waits_for_writable = True
        self._sent_before_wait = sent

    def _stop_waiting(self) -> None:
        if self._waits_for_writable:
            self._loop.remove_writer(self._descriptor)
            self._waits_for_writable = False
        if self._waits_for_timer is not None:
            self._waits_for_timer.cancel()
            self._waits_for_timer = None

    # Ending, and what a transport tells

    def close(self) -> None:
        """Try once to send what waits, then close. More calls do nothing."""
        if not self._closing and self._queue and not self._loop.is_closed():
            self._flush()
        self._end(None)

    def abort(self) -> None:
        """Close without sending what waits."""
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        """Close at once, so that nothing is left open when the loop ends in this very turn."""
        if self._closing:
            return
        self._closing = True
        for packets, address in self._queue:
            self._drop(packets, address, "closed")
        self._queue.clear()
        self._queued_bytes = 0
        if not self._loop.is_closed():
            self._stop_waiting()
            self._loop.remove_reader(self._descriptor)
            self._loop.call_soon(self._protocol.connection_lost, error)
        self._socket.close()

    def is_closing(self) -> bool:
        """Whether it has been closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for room in the kernel."""
        return self._queued_bytes

    def get_protocol(self) -> PacketProtocol:
        """Return the protocol it was made with."""
        return self._protocol


def _segment_bytes(control: list[tuple[int, int, bytes]]) -> int:
    for level, kind, value in control:
        if level == SOL_UDP and kind == UDP_GRO:
            return int.from_bytes(value, sys.byteorder)
    return 0


def _peer_of(udp: socket.socket) -> Any:
    try:
        return udp.getpeername()
    except OSError:
        return None
