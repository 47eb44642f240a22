"""Receivers that remember, sockets that refuse, and a loop whose time the test sets."""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aerogram.config import Config
from aerogram.io.batch import BatchTransport
from aerogram.io.protocol import PacketProtocol
from aerogram.io.sockets import SOL_UDP, UDP_SEGMENT, can_send_runs, enable_receive_runs

LOOPBACK = ("127.0.0.1", 0)
PATIENCE_SECONDS = 10.0


def _kernel_has(option: Callable[[socket.socket], bool]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return option(udp)


SENDS_RUNS = _kernel_has(can_send_runs)
RECEIVES_RUNS = _kernel_has(enable_receive_runs)


class Recorder:
    """A `DatagramReceiver` that remembers all it is told, and may fail at each of it."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure
        self.packets: list[bytes] = []
        self.runs: list[tuple[int, int]] = []
        """Bytes and segment size of each run."""
        self.turns: list[int] = []
        """How many packets had come at each `read_complete`."""
        self.lost: list[Exception | None] = []
        self.errors: list[tuple[int | None, Any]] = []
        self._changed = asyncio.Event()

    def receive_datagram(self, data: bytes, address: Any) -> None:
        self.packets.append(data)
        self._told()

    def receive_run(self, data: bytes, segment_bytes: int, address: Any) -> None:
        self.runs.append((len(data), segment_bytes))
        self.packets += cut(data, segment_bytes)
        self._told()

    def read_complete(self) -> None:
        self.turns.append(len(self.packets))
        self._told()

    def transport_lost(self, error: Exception | None) -> None:
        self.lost.append(error)
        self._told()

    def send_error(self, error: OSError, address: Any) -> None:
        self.errors.append((error.errno, address))
        self._told()

    def _told(self) -> None:
        self._changed.set()
        if self.failure:
            raise RuntimeError(self.failure)

    async def until(self, true: Callable[[Recorder], object]) -> None:
        """Wait until something holds of what it was told."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true(self):
                self._changed.clear()
                await self._changed.wait()

    async def has(self, count: int) -> list[bytes]:
        """Wait for so many packets."""
        await self.until(lambda it: len(it.packets) >= count)
        return self.packets


class RefusingSocket(socket.socket):
    """A bound UDP socket whose next writes end as the test says; the others reach the kernel.

    `outcomes` are the error numbers of the next writes, 0 for success; then `always` counts.
    """

    def __init__(self, outcomes: Iterable[int] = (), *, always: int = 0) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.setblocking(False)
        self.bind(LOOPBACK)
        self.outcomes = deque(outcomes)
        self.always = always
        self.writes: list[tuple[bytes, int]] = []
        """Data and segment size (0 without) of each write, refused or not."""

    def _write(self, data: bytes, segment_bytes: int = 0) -> None:
        self.writes.append((bytes(data), segment_bytes))
        number = self.outcomes.popleft() if self.outcomes else self.always
        if number:
            raise OSError(number, os.strerror(number))

    def send(self, data: Any, *rest: Any) -> int:
        self._write(data)
        return super().send(data, *rest)

    def sendto(self, data: Any, *rest: Any) -> int:
        self._write(data)
        return super().sendto(data, *rest)

    def sendmsg(self, buffers: Any, control: Any = (), *rest: Any) -> int:
        [(level, kind, value)] = control
        assert (level, kind) == (SOL_UDP, UDP_SEGMENT)
        self._write(b"".join(buffers), int.from_bytes(value, "little"))
        return super().sendmsg(buffers, control, *rest)

    @property
    def packets(self) -> list[bytes]:
        """What the kernel would have made of all writes."""
        return [packet for data, size in self.writes for packet in cut(data, size or len(data))]


class FakeLoop:
    """Just what `BatchTransport` needs of a loop; time passes by `advance` alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, int, FakeTimer]] = []
        self.closed = False

    def time(self) -> float:
        return self.now

    def is_closed(self) -> bool:
        return self.closed

    def _check_closed(self) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._check_closed()
        self.readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        self._check_closed()
        self.readers.pop(descriptor, None)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._check_closed()
        self.writers[descriptor] = callback

    def remove_writer(self, descriptor: int) -> None:
        self._check_closed()
        self.writers.pop(descriptor, None)

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._check_closed()
        self.soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        self._check_closed()
        timer = FakeTimer(callback)
        heapq.heappush(self.timers, (self.now + delay, id(timer), timer))
        return timer

    @property
    def armed(self) -> int:
        """Timers that were not cancelled."""
        return sum(not timer.cancelled for _, _, timer in self.timers)

    def turn(self) -> None:
        """Call what was to be called soon."""
        soon, self.soon = self.soon, []
        for callback, arguments in soon:
            callback(*arguments)

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what is due."""
        self.now += seconds
        while self.timers and self.timers[0][0] <= self.now:
            _, _, timer = heapq.heappop(self.timers)
            if not timer.cancelled:
                timer.callback()

    def writable(self) -> None:
        """Find every socket that is waited for writable."""
        for callback in [*self.writers.values()]:
            callback()


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def batch_on(
    loop: Any,
    udp: socket.socket,
    receiver: Recorder | None = None,
    *,
    buffer_bytes: int = 256 * 1024,
    **options: Any,
) -> BatchTransport:
    """A started batched transport on this loop and socket."""
    config = Config(transport_buffer_bytes=buffer_bytes)
    protocol = PacketProtocol(receiver or Recorder(), config)
    transport = BatchTransport(loop, udp, protocol, config, **options)
    if not isinstance(loop, FakeLoop):
        transport.start()
        return transport
    asyncio._set_running_loop(loop)  # type: ignore[arg-type]
    try:
        transport.start()
    finally:
        asyncio._set_running_loop(None)
    return transport


def cut(data: bytes, size: int) -> list[bytes]:
    """What the kernel makes of a write with UDP_SEGMENT, and a receiver of a run."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def descriptors() -> int:
    """How many files this process has open; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except FileNotFoundError:
        return 0
